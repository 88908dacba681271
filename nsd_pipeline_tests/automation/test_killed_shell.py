"""A schedule and the run of a shell that was killed, on the same machine or on another."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline import planned_runs
from nsd_pipeline.definitions import build_defs
from nsd_pipeline.launchers.run_processes import HOST_TAG
from nsd_pipeline_tests.pipeline import SmallNsd

SESSION_1, SESSION_2 = "subj01_ses01", "subj01_ses02"


def test_a_schedule_takes_a_session_back_from_a_shell_that_was_killed(
    small_nsd: SmallNsd, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home, artifacts = tmp_path / "home", str(tmp_path / "artifacts")
    home.mkdir()
    (home / "dagster.yaml").write_text(json.dumps({"telemetry": {"enabled": False}}))
    defs = build_defs(str(small_nsd.folder), artifacts)

    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        socket.create_server(("127.0.0.1", 0)) as bucket,
    ):
        planned_runs.execute(defs.get_repository_def(), instance, planned_runs.DESIGN)
        tick = ticks(defs, instance)
        assert tick() == [SESSION_1, SESSION_2]
        child = materialize_from(bucket, home, artifacts, tmp_path / "shell.log")
        try:
            bucket.settimeout(60)
            connection, _ = bucket.accept()  # and no answer: the step goes on until it is killed
            (run,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": SESSION_1}))
            assert run.status == dg.DagsterRunStatus.STARTED
            assert tick() == [SESSION_2]

            here = run.tags[HOST_TAG]
            child.send_signal(signal.SIGKILL)
            child.wait()
            connection.close()
            instance.add_run_tags(run.run_id, {HOST_TAG: "elsewhere"})
            assert tick() == [SESSION_2]
            assert f"{SESSION_1} is left to run {run.run_id}" in capfd.readouterr().err

            instance.add_run_tags(run.run_id, {HOST_TAG: here})
            assert tick() == [SESSION_1, SESSION_2]
        finally:
            child.kill()
            child.wait()
        assert instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])) == []
        (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        assert f"Process {child.pid} on {here}" in event.message


def ticks(defs: dg.Definitions, instance: dg.DagsterInstance) -> Callable[[], list[str]]:
    """Evaluate the subject's schedule: sessions that it would launch."""
    repository = defs.get_repository_def()
    schedule = repository.get_schedule_def("backfill_subj01")

    def tick() -> list[str]:
        with dg.build_schedule_context(
            instance=instance,
            repository_def=repository,
            scheduled_execution_time=datetime.now(UTC),
            resources={name: defs.resources[name] for name in ("source", "store")},
        ) as context:
            requests = schedule.evaluate_tick(context).run_requests or []
        return sorted(str(request.partition_key) for request in requests)

    return tick


def materialize_from(
    bucket: socket.socket, home: Path, artifacts: str, log: Path
) -> subprocess.Popen[bytes]:
    """``dagster asset materialize`` in another process, as a shell starts it."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize"]
    command += ["-m", "nsd_pipeline.definitions", "--select", "betas", "--partition", SESSION_1]
    endpoint = f"http://127.0.0.1:{bucket.getsockname()[1]}"
    environment = {
        "DAGSTER_HOME": str(home),
        "NSD_SOURCE": "s3://bucket",
        "NSD_SOURCE_ENDPOINT": endpoint,
        "NSD_STORAGE": artifacts,
        "NSD_ACCEPT_TERMS": "1",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output
        )
