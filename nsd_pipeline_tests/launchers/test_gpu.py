"""The GPU launcher without the daemon: real instance, real processes."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus, EventLogEntry

from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers.base import LAUNCHED_TAG, needs_gpu
from nsd_pipeline.launchers.devices import Device, try_lock
from nsd_pipeline.launchers.gpu import DEVICE_TAG, HOST_TAG, PID_TAG, STARTED_TAG, GpuRunLauncher
from nsd_pipeline_tests.launchers.conftest import NO_WORKSPACE, Home, until

MakeHome = Callable[[dict[str, Any]], Home]


def settings(*devices: str, **others: Any) -> dict[str, Any]:
    return {
        "run_launcher": {
            "module": "nsd_pipeline.launchers",
            "class": "GpuRunLauncher",
            "config": {"devices": list(devices), "kill_after_seconds": 1.0} if devices else {},
        },
        "concurrency": {"pools": {"granularity": "run"}},
        **others,
    }


def is_free(device: str) -> bool:
    descriptor = try_lock(Device(device))
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def started(home: Home, run_id: str) -> dict[str, Any]:
    return until(lambda: home.started(run_id), f"run {run_id} has started")


def test_which_runs_need_a_gpu(make_home: MakeHome) -> None:
    home = make_home(settings("0"))
    assert needs_gpu(home.run(home.submit("gpu_job")))
    assert not needs_gpu(home.run(home.submit("cpu_job")))
    assert needs_gpu(home.run(home.submit("cpu_job", {"nsd/gpu": "true"})))
    assert not needs_gpu(home.run(home.submit("gpu_job", {"nsd/gpu": "false"})))
    for asset, needs in (("gpu_asset", True), ("cpu_asset", False)):
        assert needs_gpu(home.run(home.submit("__ASSET_JOB", assets=[asset]))) is needs
    with pytest.raises(NsdError, match="maybe"):
        needs_gpu(home.run(home.submit("cpu_job", {"nsd/gpu": "maybe"})))


def test_two_launches_at_once_get_two_devices_and_a_third_run_goes_back_into_the_queue(
    make_home: MakeHome,
) -> None:
    home = make_home(settings("0", "1"))
    runs = [home.submit("gpu_job") for _ in range(2)]
    threads = [
        threading.Thread(target=home.instance.launch_run, args=(run, NO_WORKSPACE)) for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    third = home.launch("gpu_job")
    assert home.status(third) == DagsterRunStatus.QUEUED
    assert "Every GPU is busy" in home.messages(third)
    cpu = home.launch("cpu_job", {"gate": "cpu"})
    masks = {started(home, run)["mask"] for run in runs}
    assert masks == {"0", "1"} == {home.run(run).tags[DEVICE_TAG] for run in runs}
    assert started(home, cpu)["mask"] == ""
    assert home.run(cpu).tags[DEVICE_TAG] == "cpu"
    assert [limit.limit for limit in home.instance.event_log_storage.get_pool_limits()] == [2]
    home.open("cpu")
    home.open()
    for run in (*runs, cpu):
        home.wait(run, DagsterRunStatus.SUCCESS)
    until(lambda: is_free("0") and is_free("1"), "both devices are free")
    children = {int(home.run(run).tags[PID_TAG]) for run in (*runs, cpu)}
    until(lambda: not children & set(psutil.pids()), "no zombie is left")
    home.instance.launch_run(third, NO_WORKSPACE)
    home.wait(third, DagsterRunStatus.SUCCESS)


def test_a_terminated_run_is_canceled_and_frees_its_device(make_home: MakeHome) -> None:
    home = make_home(settings("0"))
    run = home.launch("gpu_job")
    started(home, run)
    assert not is_free("0")
    assert home.instance.run_launcher.terminate(run)
    home.wait(run, DagsterRunStatus.CANCELED)
    until(lambda: is_free("0"), "the device is free")
    assert not home.instance.run_launcher.terminate(run)


def test_a_run_that_does_not_react_is_killed(make_home: MakeHome) -> None:
    home = make_home(settings("0"))
    run = home.launch("gpu_job")
    pid = started(home, run)["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert home.instance.run_launcher.terminate(run)
    home.wait(run, DagsterRunStatus.CANCELED)
    assert "SIGKILL" in home.messages(run)
    until(lambda: is_free("0"), "the device is free")


def test_a_process_that_outlives_its_run_keeps_its_device_until_it_is_killed(
    make_home: MakeHome,
) -> None:
    home = make_home(settings("0"))
    run = home.launch("gpu_job")
    pid = started(home, run)["pid"]
    os.kill(pid, signal.SIGSTOP)
    home.instance.report_run_canceled(home.run(run))
    second = home.launch("gpu_job")
    assert home.status(second) == DagsterRunStatus.QUEUED

    def launched() -> bool:
        home.instance.launch_run(second, NO_WORKSPACE)
        return home.status(second) != DagsterRunStatus.QUEUED

    until(launched, "the leftover process was killed")
    home.open()
    home.wait(second, DagsterRunStatus.SUCCESS)


def test_a_run_that_dies_says_how_and_can_be_resumed(make_home: MakeHome) -> None:
    monitoring = {"enabled": True, "poll_interval_seconds": 1, "max_resume_run_attempts": 1}
    home = make_home(settings("0", run_monitoring=monitoring))
    run = home.launch("gpu_job")
    first = started(home, run)["pid"]
    assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.STARTED
    os.kill(first, signal.SIGKILL)
    until(lambda: is_free("0"), "the device is free")
    assert home.monitor() == []
    resumed = until(
        lambda: next((line for line in home.trace("start") if line["pid"] != first), None),
        "resumed",
    )
    assert home.run(run).tags[PID_TAG] == str(resumed["pid"])
    os.kill(resumed["pid"], signal.SIGKILL)
    until(lambda: is_free("0"), "the device is free")
    assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.FAILURE
    messages = home.messages(run)
    assert f"Process {resumed['pid']} was killed by SIGKILL" in messages
    assert "working on it" in messages  # the tail of its output


def test_a_run_that_dies_has_failed_when_its_failure_is_told(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's daemon looks at a run once, on that event, to see whether to launch it again."""
    home = make_home(settings("0", run_monitoring={"enabled": True}))
    run = home.launch("cpu_job")
    pid = started(home, run)["pid"]
    seen = []
    storage = home.instance.event_log_storage
    store = storage.store_event

    def look_and_store(event: EventLogEntry) -> None:
        if event.dagster_event and event.dagster_event.is_run_failure:
            seen.append(home.status(run))
        store(event)

    monkeypatch.setattr(storage, "store_event", look_and_store)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid), "the process is gone")
    assert home.monitor() == []
    assert seen == [DagsterRunStatus.FAILURE]


def test_a_run_that_dies_before_it_starts_fails_at_once(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    home = make_home(settings("0"))
    run = home.launch("gpu_job")
    home.wait(run, DagsterRunStatus.FAILURE)
    assert "exited with status 1" in home.messages(run)
    assert "No module named 'encodings'" in home.messages(run)


def test_tags_of_a_retried_run_do_not_pass_for_the_retry(make_home: MakeHome) -> None:
    home = make_home(settings("0"))
    bystander = subprocess.Popen(["sleep", "600"])
    parents = {
        LAUNCHED_TAG: "the-parent",
        DEVICE_TAG: "0",
        PID_TAG: str(bystander.pid),
        STARTED_TAG: str(psutil.Process(bystander.pid).create_time()),
        HOST_TAG: socket.gethostname(),
    }
    retry = home.submit("gpu_job", parents)
    home.instance.report_run_canceling(home.run(retry))
    run = home.launch("cpu_job")
    other = home.launch("gpu_job")
    assert home.run(other).tags[DEVICE_TAG] == "0"  # not taken for busy
    assert home.instance.run_launcher.terminate(retry)
    home.wait(retry, DagsterRunStatus.CANCELED)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    home.open()
    home.wait(run, DagsterRunStatus.SUCCESS)
    home.wait(other, DagsterRunStatus.SUCCESS)


def test_the_inherited_mask_counts(make_home: MakeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(settings("0", "1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    run = home.launch("gpu_job")
    assert started(home, run)["mask"] == "1"
    assert home.status(home.launch("gpu_job")) == DagsterRunStatus.QUEUED
    home.open()
    home.wait(run, DagsterRunStatus.SUCCESS)


def test_without_a_gpu_runs_use_the_cpu(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = make_home(settings())
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    home.open()
    runs = [home.launch("gpu_job") for _ in range(2)]
    for run in runs:
        home.wait(run, DagsterRunStatus.SUCCESS)
        assert home.run(run).tags[DEVICE_TAG] == "cpu"
        assert "no GPU" in home.messages(run)


def test_without_a_queue_a_busy_gpu_is_an_error(make_home: MakeHome) -> None:
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    home = make_home(settings("0", run_coordinator=coordinator))
    assert isinstance(home.instance.run_launcher, GpuRunLauncher)
    descriptor = try_lock(Device("0"))
    assert descriptor is not None
    run = home.submit("gpu_job")
    with pytest.raises(NsdError, match="no queue to wait in"):
        home.instance.launch_run(run, NO_WORKSPACE)
    os.close(descriptor)
    assert home.status(run) == DagsterRunStatus.FAILURE


def test_a_run_that_was_started_in_a_shell_is_left_alone(make_home: MakeHome) -> None:
    home = make_home(settings(run_monitoring={"enabled": True}))
    run = home.submit("cpu_job")
    # What `dagster asset materialize` does: no launcher, and a process that nobody else knows.
    home.instance.report_dagster_event(
        DagsterEvent(DagsterEventType.RUN_START.value, "cpu_job"), run_id=run
    )
    assert home.monitor() == []
    assert home.status(run) == DagsterRunStatus.STARTED
