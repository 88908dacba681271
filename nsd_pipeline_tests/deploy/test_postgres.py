"""Dagster's history in a real PostgreSQL server, configured as in deploy/postgres."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter

from nsd_pipeline_tests.launchers.conftest import NO_WORKSPACE, Home, daemon
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline, SmallNsd

pytestmark = pytest.mark.usefixtures("empty_postgres")


def test_another_host_sees_the_session_that_one_prepared(
    settings: Callable[[str], dict[str, Any]], small_nsd: SmallNsd, tmp_path: Path
) -> None:
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "a"), settings("postgres")) as one:
        graph = Pipeline(str(small_nsd.folder), tmp_path / "artifacts", small_nsd.encoder, one)
        graph.run("experiment_design")
        graph.run(*SESSION_ASSETS, first="subj01_ses02")
    with DagsterInstance.local_temp(str(tmp_path / "b"), settings("postgres")) as other:
        runs = other.get_runs(RunsFilter(statuses=[DagsterRunStatus.SUCCESS]))
        assert len(runs) == 2
        key = AssetKey("fsaverage5_betas")
        assert other.get_materialized_partitions(key) == {"subj01_ses02"}
        (event,) = other.fetch_materializations(key, limit=1).records
        assert event.asset_materialization is not None
        shown = event.asset_materialization.metadata["artifact"].value
        assert shown == f"{tmp_path}/artifacts/fsaverage5_betas.zarr/subj01/ses02"
        assert "written to" in "\n".join(entry.message for entry in other.all_logs(runs[0].run_id))


def test_the_queue_and_the_daemon_work_on_it(
    settings: Callable[[str], dict[str, Any]],
    postgres: dict[str, str],
    make_home: Callable[[dict[str, Any]], Home],
) -> None:
    home = make_home(
        settings("postgres")
        | {
            "run_launcher": {"module": "nsd_pipeline.launchers", "class": "GpuRunLauncher"},
            "run_coordinator": {
                "module": "dagster._core.run_coordinator",
                "class": "QueuedRunCoordinator",
                "config": {"dequeue_interval_seconds": 1},
            },
        }
    )
    home.open()
    run = home.submit("cpu_job")
    home.instance.submit_run(run, NO_WORKSPACE)
    assert home.status(run) == DagsterRunStatus.QUEUED
    with daemon(home):
        home.wait(run, DagsterRunStatus.SUCCESS)
    assert not list(home.folder.rglob("*.db")), "nothing is kept in SQLite"
    host, port, user, password, name = postgres.values()
    database = psycopg2.connect(host=host, port=port, user=user, password=password, dbname=name)
    with database, database.cursor() as cursor:
        cursor.execute("select status from runs where run_id = %s", (run,))
        assert cursor.fetchall() == [("SUCCESS",)]
    database.close()
