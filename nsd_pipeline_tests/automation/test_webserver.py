"""What people see and do in the web UI: in a browser, and by the GraphQL that it speaks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from nsd_pipeline_tests.automation.conftest import SUBJECT
from nsd_pipeline_tests.automation.webserver import REPOSITORY, Webserver, until

SESSION_1, SESSION_2 = f"{SUBJECT}_ses01", f"{SUBJECT}_ses02"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = os.environ.get("NSD_SCREENSHOTS")
"""Folder for pictures of what was seen."""


@pytest.fixture
def page(webserver: Webserver) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=webserver.url, viewport={"width": 1400, "height": 800})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def keep(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_graph_a_partition_and_the_figures(page: Page, webserver: Webserver) -> None:
    page.goto("/asset-groups")
    page.get_by_text("embeddings", exact=True).first.wait_for()
    # The graph lays itself out again for a while; an early click hits nothing.
    expand = page.locator("text=Expand all groups >> visible=true")
    until(lambda: _open_menu(page) or expand.count(), "the menu of the graph")
    expand.first.click()
    for asset in ("experiment_design", "fsaverage5_betas", "fmri_mlp", "retrieval_metrics"):
        page.locator(f"text={asset} >> visible=true").first.wait_for()
    keep(page, "asset_graph")

    session = f"{SUBJECT}_ses02"
    before = {run["runId"] for run in webserver.runs()}
    page.goto(f"/assets/events?view=partitions&partition={session}")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Launch 1 run").click()
    new = until(lambda: {run["runId"] for run in webserver.runs()} - before, "the run")
    for run in new:
        webserver.wait(run, "SUCCESS")
    page.goto(f"/assets/events?view=partitions&partition={session}")
    page.get_by_text("Materialized", exact=True).wait_for()

    page.goto(f"/assets/retrieval_metrics?view=partitions&partition={SUBJECT}")
    page.get_by_text("top5_acc", exact=True).wait_for()
    keep(page, "retrieval_metrics")
    shown = page.locator("tr", has_text="retrieval gallery").get_by_text("Show Markdown")
    shown.click()
    figure = page.get_by_role("img", name="retrieval gallery")
    figure.wait_for()
    assert figure.evaluate("image => image.naturalWidth") > 500
    keep(page, "retrieval_gallery")


def _open_menu(page: Page) -> None:
    page.mouse.click(1000, 700, button="right")


def materialized(server: Webserver, asset: str) -> list[str]:
    """Partitions of an asset that the web UI shows in green."""
    answer = server.ask(
        """query ($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) {
            ... on AssetNode { assetPartitionStatuses {
                ... on DefaultPartitionStatuses { materializedPartitions } } } } }""",
        path=[asset],
    )
    return answer["assetPartitionStatuses"]["materializedPartitions"]


def launch(server: Webserver, job: str, partition: str, config: dict[str, Any]) -> str:
    answer = server.ask(
        """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message }
            ... on RunConfigValidationInvalid { errors { message } } } }""",
        params={
            "selector": {**REPOSITORY, "jobName": job},
            "runConfigData": config,
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        },
    )
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return answer["run"]["runId"]


def test_a_backfill_makes_the_partitions_that_were_asked_for(webserver: Webserver) -> None:
    assets = ("betas", "events")
    assert materialized(webserver, "betas") == [SESSION_1]
    backfill = webserver.ask(
        """mutation ($params: LaunchBackfillParams!) {
            launchPartitionBackfill(backfillParams: $params) {
                __typename ... on LaunchBackfillSuccess { backfillId } } }""",
        params={
            "assetSelection": [{"path": [asset]} for asset in assets],
            "partitionNames": [SESSION_1, SESSION_2],
        },
    )["backfillId"]
    until(
        lambda: (
            webserver.ask(
                """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
                    ... on PartitionBackfill { status } } }""",
                id=backfill,
            )["status"]
            == "COMPLETED_SUCCESS"
        ),
        "the backfill has ended",
    )
    for asset in assets:
        assert materialized(webserver, asset) == [SESSION_1, SESSION_2]


def test_a_run_is_terminated_and_executed_again(webserver: Webserver) -> None:
    # As many epochs without progress as there are at all: it does not end by itself.
    settings = {"n_epochs": 10_000, "patience": 10_000, "hidden": 8}
    run = launch(webserver, "train", SUBJECT, {"ops": {"fmri_mlp": {"config": settings}}})
    webserver.wait(run, "STARTED")
    until(lambda: "epoch 1:" in messages(webserver, run), "the training is under way")
    assert webserver.status(run) == "STARTED"
    answer = webserver.ask(
        """mutation ($id: String!) { terminateRun(runId: $id) {
            __typename ... on TerminateRunFailure { message } } }""",
        id=run,
    )
    assert answer["__typename"] == "TerminateRunSuccess", answer
    webserver.wait(run, "CANCELED")

    session = launch(webserver, "session", SESSION_1, {})
    webserver.wait(session, "SUCCESS")
    again = webserver.ask(
        """mutation ($params: ReexecutionParams!) {
            launchRunReexecution(reexecutionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } } } }""",
        params={"parentRunId": session, "strategy": "ALL_STEPS"},
    )["run"]["runId"]
    webserver.wait(again, "SUCCESS")
    assert f"betas {SESSION_1}: up to date, nothing was redone." in messages(webserver, again)


def messages(server: Webserver, run_id: str) -> str:
    events = server.ask(
        """query ($id: ID!) { logsForRun(runId: $id) {
            ... on EventConnection { events { ... on MessageEvent { message } } } } }""",
        id=run_id,
    )["events"]
    return "\n".join(event["message"] for event in events)


def test_a_schedule_that_was_turned_on_prepares_what_is_left(webserver: Webserver) -> None:
    selector = {**REPOSITORY, "scheduleName": f"backfill_{SUBJECT}"}
    state = webserver.ask(
        """query ($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) {
            ... on Schedule { scheduleState { status } } } }""",
        selector=selector,
    )["scheduleState"]["status"]
    assert state == "STOPPED"
    webserver.ask(
        """mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
            __typename } }""",
        selector=selector,
    )

    def ticks() -> list[dict[str, Any]]:
        return webserver.ask(
            """query ($selector: ScheduleSelector!) {
                scheduleOrError(scheduleSelector: $selector) { ... on Schedule {
                    scheduleState { ticks { status skipReason runIds error { message } } } } } }""",
            selector=selector,
        )["scheduleState"]["ticks"]

    tick = until(
        lambda: next((each for each in ticks() if each["status"] != "STARTED"), None), "a tick"
    )
    assert tick["error"] is None
    assert tick["status"] == "SUCCESS"
    (run,) = tick["runIds"]
    webserver.wait(run, "SUCCESS")
    assert materialized(webserver, "fsaverage5_betas") == [SESSION_1, SESSION_2]
