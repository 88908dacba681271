"""The Slurm launcher against a real Slurm."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dagster import DagsterRunStatus
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG

from nsd_pipeline.launchers import slurm_jobs
from nsd_pipeline.launchers.slurm import JOB_TAG
from nsd_pipeline.launchers.slurm_jobs import SlurmError, SlurmUnavailableError
from nsd_pipeline_tests.launchers import slurm_cluster
from nsd_pipeline_tests.launchers.conftest import (
    NO_WORKSPACE,
    QUEUED,
    Home,
    MakeHome,
    daemon,
    until,
)

DEPLOYED = Path(__file__).parents[2] / "deploy/slurm/dagster.yaml"

REASON = slurm_cluster.why_not()
needs_slurm = pytest.mark.skipif(REASON is not None, reason=REASON or "")


@pytest.fixture(scope="module")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as configuration:
        yield configuration


@pytest.fixture
def home(make_home: MakeHome, slurm_conf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    home = make_home(
        {
            "run_launcher": {
                "module": "nsd_pipeline.launchers",
                "class": "SlurmRunLauncher",
                "config": {"resources": {"cpus": 1, "memory": "50M"}, "poll_seconds": 0.5},
            },
            "run_coordinator": QUEUED,
            "run_monitoring": {
                "enabled": True,
                "start_timeout_seconds": 3600,
                "poll_interval_seconds": 1,
            },
            "run_retries": yaml.safe_load(DEPLOYED.read_text())["run_retries"],
        }
    )
    yield home
    home.open()
    subprocess.run(["scancel", "--user=root"], check=True)
    until(lambda: not slurm_cluster.jobs(dict(os.environ)), "no job is left")


def job(home: Home, run_id: str) -> str:
    return home.run(run_id).tags[JOB_TAG]


def show(home: Home, run_id: str) -> str:
    command = ["scontrol", "show", "job", "--oneliner", job(home, run_id)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def started(home: Home, run_id: str) -> dict[str, Any]:
    return until(lambda: home.started(run_id), f"run {run_id} has started")


@contextmanager
def failing_node() -> Iterator[None]:
    """Lose the only node, with all that runs on it, until the end of the block."""
    node = subprocess.run(
        ["sinfo", "--noheader", "--partition=main", "--format=%n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    update = ["scontrol", "update", f"NodeName={node}"]
    subprocess.run([*update, "State=DOWN", "Reason=test"], check=True)
    yield
    # slurmd may have brought the node back already.
    subprocess.run([*update, "State=RESUME"], check=False, capture_output=True)
    until(lambda: slurm_cluster.is_up(dict(os.environ)), "the node is back")


def lost(home: Home, run_id: str) -> str:
    """Messages of a run after run monitoring has found that its job is over."""

    def failed() -> bool:
        assert home.monitor() == []
        return home.status(run_id) == DagsterRunStatus.FAILURE

    until(failed, f"run {run_id} has failed")
    assert home.run(run_id).tags["dagster/will_retry"] == "true"
    return home.messages(run_id)


@needs_slurm
def test_two_gpus_run_two_jobs_and_the_third_waits(home: Home) -> None:
    runs = [home.launch("gpu_job") for _ in range(3)]
    cpu = home.launch("cpu_job", {"gate": "cpu"})
    masks = [started(home, run)["mask"] for run in runs[:2]]
    assert sorted(masks) == ["0", "1"]  # as Slurm set it
    assert started(home, cpu)["mask"] == ""
    assert slurm_jobs.job_state(job(home, runs[2])) == slurm_jobs.JobState("PENDING", "Resources")
    assert home.monitor() == []
    assert [home.status(run).value for run in runs] == ["STARTED", "STARTED", "STARTING"]
    assert home.instance.run_launcher.terminate(runs[2])
    home.wait(runs[2], DagsterRunStatus.CANCELED)
    home.open("cpu")
    home.open()
    for run in (*runs[:2], cpu):
        home.wait(run, DagsterRunStatus.SUCCESS)
    until(lambda: "JobState=COMPLETED" in show(home, cpu), "the job has completed")


@needs_slurm
def test_options_reach_slurm_and_no_shell(home: Home, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    options = {"partition": "urgent", "gpus": 1, "cpus": 2, "memory": "70M", "time_limit": "5"}
    run = home.submit(
        "cpu_job", {"nsd/slurm": json.dumps(options), "note": f"'; touch {trap}; echo $(id) `id`"}
    )
    home.instance.launch_run(run, NO_WORKSPACE)
    assert started(home, run)["mask"] in ("0", "1")
    shown = show(home, run)
    for expected in ("Partition=urgent", "NumCPUs=2", "70M", "TimeLimit=00:05:00", "gpu:1"):
        assert expected in shown
    home.open()
    home.wait(run, DagsterRunStatus.SUCCESS)
    assert not trap.exists()
    refused = home.submit("cpu_job", {"nsd/slurm": '{"partition": "nowhere"}'})
    with pytest.raises(SlurmError, match="invalid partition"):
        home.instance.launch_run(refused, NO_WORKSPACE)
    assert home.status(refused) == DagsterRunStatus.FAILURE


@needs_slurm
def test_a_terminated_run_is_canceled_and_so_is_its_job(home: Home) -> None:
    run = home.launch("cpu_job")
    started(home, run)
    assert home.instance.run_launcher.terminate(run)
    home.wait(run, DagsterRunStatus.CANCELED)
    assert "was cancelled in Slurm" not in home.messages(run)  # it ended by itself, not by SIGKILL
    until(lambda: "JobState=CANCELLED" in show(home, run), "the job is cancelled")


@needs_slurm
def test_a_job_that_dies_says_what_it_last_wrote(home: Home) -> None:
    run = home.launch("broken_job")
    until(lambda: "JobState=FAILED" in show(home, run), "the job has failed")
    messages = lost(home, run)
    assert f"Slurm job {job(home, run)}" in messages
    assert "failed (FAILED, NonZeroExitCode)" in messages
    assert "the last words" in messages


@needs_slurm
def test_what_slurm_takes_away_is_named(home: Home) -> None:
    timed_out = home.launch("cpu_job", {"nsd/slurm": '{"time_limit": "1"}'})
    preempted = home.launch("gpu_job", {"nsd/slurm": '{"gpus": 2}'})
    started(home, timed_out)
    started(home, preempted)
    # Time limits are whole minutes, looked at every half; this is the same limit, sooner.
    end = f"JobId={job(home, timed_out)}"
    subprocess.run(["scontrol", "update", end, "EndTime=now+1seconds"], check=True)
    urgent = home.launch("cpu_job", {"nsd/slurm": '{"partition": "urgent", "gpus": 2}'})
    assert "preempted by a job of higher priority (PREEMPTED" in lost(home, preempted)
    started(home, urgent)
    messages = lost(home, timed_out)
    assert "was ended at its time limit (TIMEOUT, TimeLimit). Ask for a longer" in messages
    with failing_node():
        assert "lost because its node failed (NODE_FAIL" in lost(home, urgent)


@needs_slurm
def test_what_slurm_takes_away_is_launched_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real daemon: preempted, then lost with its node, then done, each time a new job."""
    monkeypatch.setenv("DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS", "1")

    def next_attempt(run_id: str) -> str:
        home.wait(run_id, DagsterRunStatus.FAILURE)
        return until(lambda: home.run(run_id).tags.get(AUTO_RETRY_RUN_ID_TAG), "another attempt")

    first = home.submit("gpu_job", {"nsd/slurm": '{"gpus": 2}'})
    home.instance.submit_run(first, NO_WORKSPACE)
    with daemon(home):
        started(home, first)
        options = {"nsd/slurm": '{"partition": "urgent", "gpus": 2}', "gate": "urgent"}
        urgent = home.launch("cpu_job", options)
        second = next_attempt(first)
        assert "preempted by a job of higher priority (PREEMPTED" in home.messages(first)
        home.open("urgent")
        home.wait(urgent, DagsterRunStatus.SUCCESS)
        pid = started(home, second)["pid"]
        with failing_node():
            third = next_attempt(second)
        until(lambda: not psutil.pid_exists(pid), "the node, back again, has ended the lost job")
        assert "lost because its node failed (NODE_FAIL" in home.messages(second)
        home.open()
        home.wait(third, DagsterRunStatus.SUCCESS)
    attempts = [first, second, third]
    assert len({job(home, run) for run in attempts}) == 3
    assert [home.run(run).parent_run_id for run in attempts] == [None, first, second]
    assert [line["run"] for line in home.trace("end") if line["run"] != urgent] == [third]


@needs_slurm
def test_a_controller_that_does_not_answer_costs_no_run(
    home: Home, monkeypatch: pytest.MonkeyPatch, slurm_conf: Path, tmp_path: Path
) -> None:
    run = home.launch("cpu_job")
    started(home, run)
    elsewhere = tmp_path / "slurm.conf"
    port = slurm_cluster.free_ports(1)[0]
    lines = slurm_conf.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("SlurmctldPort")]
    elsewhere.write_text("\n".join([*lines, f"SlurmctldPort={port}", "MessageTimeout=1", ""]))
    (tmp_path / "gres.conf").write_text((slurm_conf.parent / "gres.conf").read_text())
    with monkeypatch.context() as context:
        context.setenv("SLURM_CONF", str(elsewhere))
        with pytest.raises(SlurmUnavailableError):
            slurm_jobs.job_state(job(home, run))
        (error,) = home.monitor()
        assert "SlurmUnavailableError" in str(error)
    assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.STARTED
    home.open()
    home.wait(run, DagsterRunStatus.SUCCESS)
