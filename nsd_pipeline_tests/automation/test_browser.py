"""What people see: the graph, a partition made by clicking, the figures of the metrics."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from nsd_pipeline_tests.automation.conftest import SUBJECT
from nsd_pipeline_tests.automation.webserver import Webserver, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = os.environ.get("NSD_SCREENSHOTS")
"""Folder for pictures of what was seen."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


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
