"""A check looks at what its run made; executed by itself, at all there is."""

from collections.abc import Callable

import dagster as dg
import pytest

from nsd_pipeline import checks
from nsd_pipeline.definitions import build_defs
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline

ABOUT_SESSIONS = {"trial_counts", "mapping_agreement", "nan_share"}


def looked_at(result: dg.ExecuteInProcessResult) -> dict[str, int]:
    return {
        check.check_name: check.metadata["artifacts looked at"].value
        for check in result.get_asset_check_evaluations()
        if check.check_name in ABOUT_SESSIONS
    }


def test_a_run_s_checks_cost_the_same_however_many_sessions_there_are(
    pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = pipeline()
    graph.run_sessions("subj01_ses01", "subj01_ses02")
    assert looked_at(graph.result) == dict.fromkeys(ABOUT_SESSIONS, 2)
    graph.run(*SESSION_ASSETS, first="subj01_ses02")
    assert looked_at(graph.result) == dict.fromkeys(ABOUT_SESSIONS, 1)

    defs = build_defs(graph.source, str(graph.artifacts))
    by_hand = dg.define_asset_job(
        "by_hand", dg.AssetSelection.checks_for_assets("events", "fsaverage5_betas")
    )
    repository = dg.Definitions.merge(defs, dg.Definitions(jobs=[by_hand])).get_repository_def()
    monkeypatch.setattr(checks, "MAX_NAN_SHARE", 0.0)
    result = repository.get_job("by_hand").execute_in_process(instance=graph.instance)
    assert looked_at(result) == dict.fromkeys(ABOUT_SESSIONS, 2)
    (few,) = [each for each in result.get_asset_check_evaluations() if not each.passed]
    first, second = str(few.description).split("; ")
    assert first.startswith("session subj01_ses01, share without any value 0.")
    assert "subj01_ses02" in second
