"""The demo's sessions as a backfill of Dagster's own."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from nsd_pipeline.demo.backfill import Backfill, run_backfill
from nsd_pipeline.nsd import layout
from nsd_pipeline.steps.sessions import BETAS_STEPS
from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd

SESSIONS = ("subj01_ses01", "subj01_ses02")


def test_a_backfill_is_recorded_fails_plainly_and_redoes_nothing(
    small_nsd: SmallNsd, tmp_path: Path
) -> None:
    source, artifacts = small_nsd.copy(tmp_path / "nsd"), tmp_path / "artifacts"
    # A file of its own: Dagster loads each file once in a process.
    location = tmp_path / "location.py"
    location.write_text(
        "from nsd_pipeline.definitions import build_defs\n"
        f"defs = build_defs({str(source)!r}, {str(artifacts)!r})\n"
    )
    definitions = {"python_file": str(location)}
    backfill = Backfill(tuple(step.name for step in BETAS_STEPS), sessions=SESSIONS)
    assert backfill.title.endswith("[backfill: 2 sessions of subj01]")
    damaged = source / layout.betas_keys("subj01", 2, "fsaverage")[1]
    whole = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(whole[:1_000_000])
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        Pipeline(str(source), artifacts, small_nsd.encoder, instance).run("experiment_design")
        with pytest.raises(dg.Failure) as failure:
            run_backfill(instance, backfill, definitions=definitions)
        assert damaged.name in str(failure.value.description)
        damaged.write_bytes(whole)
        made = run_backfill(instance, backfill, definitions=definitions)
        again = run_backfill(instance, backfill, definitions=definitions)
        recorded = [each.status for each in instance.get_backfills()]
        runs = instance.get_runs()
    assert made == ["made", "up to date, nothing was redone"]
    assert again == made[1:]
    assert recorded == [
        BulkActionStatus.COMPLETED_SUCCESS,
        BulkActionStatus.COMPLETED_SUCCESS,
        BulkActionStatus.COMPLETED_FAILED,
    ]
    # A run per stretch of sessions, in the web UI's own code location.
    assert [run.tags.get("dagster/code_location") for run in runs] == ["nsd_pipeline"] * 3 + [None]
