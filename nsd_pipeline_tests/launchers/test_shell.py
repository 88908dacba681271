"""Runs of a shell whose process is killed: real processes, Dagster's monitoring and its daemon."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from nsd_pipeline.definitions import defs
from nsd_pipeline.launchers import run_processes
from nsd_pipeline.launchers.run_processes import RunProcess
from nsd_pipeline_tests.launchers.conftest import (
    CODE,
    NO_WORKSPACE,
    QUEUED,
    Home,
    MakeHome,
    daemon,
    until,
)
from nsd_pipeline_tests.launchers.test_gpu import settings

DAGSTER_YAML = Path(__file__).parents[2] / "dagster.yaml"
MONITORED = {"run_monitoring": {"enabled": True, "poll_interval_seconds": 1}}


@contextmanager
def materializing(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``dagster asset materialize`` of the small code location, as a shell starts it."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", str(CODE)]
    child = subprocess.Popen([*command, *arguments])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def only_run(home: Home) -> str | None:
    """The run of the shell, once it is at its first step."""
    runs = [line["run"] for line in home.trace("start")]
    return runs[0] if runs else None


def test_a_killed_shell_fails_its_run_and_leaves_its_partition_to_the_next(
    make_home: MakeHome,
) -> None:
    home = make_home(
        settings(
            run_coordinator=QUEUED,
            concurrency=yaml.safe_load(DAGSTER_YAML.read_text())["concurrency"],
            # What a launcher can resume is not what it did not launch.
            run_monitoring={**MONITORED["run_monitoring"], "max_resume_run_attempts": 1},
        )
    )
    with materializing("--select", "stored_asset", "--partition", "a") as child, daemon(home):
        run = until(lambda: only_run(home), "the shell's run has begun")
        second, other = (home.submit("stored_job", {"dagster/partition": key}) for key in "ab")
        for waiting in (second, other):
            home.instance.submit_run(waiting, NO_WORKSPACE)
        until(lambda: home.started(other), "the queue has gone past the second run")
        assert home.status(second) == DagsterRunStatus.QUEUED
        assert home.status(run) == DagsterRunStatus.STARTED

        child.send_signal(signal.SIGKILL)
        child.wait()
        home.wait(run, DagsterRunStatus.FAILURE)
        assert f"Process {child.pid} on {socket.gethostname()}" in home.messages(run)
        assert "is gone and did not end it" in home.messages(run)
        home.open()
        home.wait(second, DagsterRunStatus.SUCCESS)
        home.wait(other, DagsterRunStatus.SUCCESS)
        # Those that the launcher started are not signed a second time.
        assert run_processes.SIGNED_TAG not in home.run(second).tags
    assert len(home.instance.get_runs(RunsFilter())) == 3


def signed_run(home: Home, process: RunProcess, **changed: str) -> str:
    """A run that started without a launcher, and was signed by a process."""
    run = home.submit("cpu_job")
    home.report(run, DagsterEventType.RUN_START)
    run_processes.sign(home.instance, home.run(run))
    home.instance.add_run_tags(run, {**run_processes.process_tags(process), **changed})
    return run


def myself() -> RunProcess:
    return RunProcess(os.getpid(), psutil.Process().create_time())


def test_a_process_id_that_was_given_to_another_process_does_not_keep_a_run_alive(
    make_home: MakeHome,
) -> None:
    home = make_home(settings(**MONITORED))
    alive = signed_run(home, myself())
    reused = signed_run(home, RunProcess(os.getpid(), myself().started - 60))
    assert home.monitor() == []
    assert home.status(alive) == DagsterRunStatus.STARTED
    assert home.status(reused) == DagsterRunStatus.FAILURE


@pytest.mark.parametrize("tag", [run_processes.HOST_TAG, run_processes.NAMESPACE_TAG])
def test_a_run_of_another_host_is_left_alone_and_says_so_once(
    make_home: MakeHome, tag: str
) -> None:
    home = make_home(settings(**MONITORED))
    gone = subprocess.Popen(["true"])
    gone.wait()
    run = signed_run(home, RunProcess(gone.pid, 0.0), **{tag: "elsewhere"})
    for _ in range(2):
        assert home.monitor() == []
        assert home.status(run) == DagsterRunStatus.STARTED
    assert home.messages(run).count("out of sight") == 1


def test_runs_that_another_process_launches_in_itself_are_judged_by_that_process(
    make_home: MakeHome,
) -> None:
    """Launched, but by no launcher that the daemon knows of: Dagster has one for its own tests."""
    home = make_home(settings(**MONITORED))
    run = signed_run(home, myself())
    home.report(run, DagsterEventType.RUN_STARTING)
    home.report(run, DagsterEventType.RUN_START)
    assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.STARTED


def test_a_retry_does_not_pass_for_its_signed_parent(make_home: MakeHome) -> None:
    home = make_home(settings(**MONITORED))
    parent = home.run(signed_run(home, RunProcess(os.getpid(), 0.0)))
    retry = home.submit("cpu_job", dict(parent.tags))
    assert run_processes.signed_host(parent) == socket.gethostname()
    assert run_processes.signed_host(home.run(retry)) is None


def test_a_process_that_must_not_be_looked_at_is_not_taken_for_gone(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(settings(**MONITORED))
    gone = subprocess.Popen(["true"])
    gone.wait()  # as if /proc hid another user's process
    run = signed_run(home, RunProcess(gone.pid, 0.0))

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(pid)

    with monkeypatch.context() as hidden:
        hidden.setattr(os, "kill", refuse)
        assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.STARTED
    assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.FAILURE


def test_every_run_has_the_store_which_signs_it() -> None:
    repository = defs.get_repository_def()
    for assets in repository.assets_defs_by_key.values():
        assert "store" in assets.required_resource_keys, assets.keys
    for job in repository.get_all_jobs():
        assert any("store" in node.definition.required_resource_keys for node in job.nodes), (
            job.name
        )
