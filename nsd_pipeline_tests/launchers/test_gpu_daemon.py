"""A simulated two-GPU host under Dagster's real daemon: its queue, its monitoring, its restart."""

import os
import signal
import time
from typing import Any

import psutil
from dagster import DagsterRunStatus, RunsFilter

from nsd_pipeline.launchers.gpu import DEVICE_TAG
from nsd_pipeline_tests.launchers.conftest import NO_WORKSPACE, QUEUED, MakeHome, daemon, until
from nsd_pipeline_tests.launchers.test_gpu import is_free, settings


def overlaps(intervals: list[tuple[float, float]]) -> int:
    """Largest number of intervals that share a point in time."""
    return max(sum(start <= point < end for start, end in intervals) for point, _ in intervals)


def test_four_runs_two_devices_one_restart_one_kill(make_home: MakeHome) -> None:
    home = make_home(
        settings(
            "0",
            "1",
            run_coordinator=QUEUED,
            run_monitoring={"enabled": True, "poll_interval_seconds": 1},
        )
    )
    # The fourth is an asset picked by hand in the web UI.
    jobs: list[dict[str, Any]] = [{"job": "gpu_job"} for _ in range(4)]
    jobs[3] = {"job": "__ASSET_JOB", "assets": ["gpu_asset"]}
    runs = [home.submit(**job) for job in jobs]
    cpu = home.submit("cpu_job", {"gate": "cpu"})
    home.open("cpu")
    for run in (*runs, cpu):
        home.instance.submit_run(run, NO_WORKSPACE)

    def in_progress() -> set[str]:
        states = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
        return {run.run_id for run in home.instance.get_runs(RunsFilter(statuses=states))}

    with daemon(home):
        # Submitted last, behind four runs for two devices.
        home.wait(cpu, DagsterRunStatus.SUCCESS)
        until(lambda: len(home.trace("start")) == 3, "both devices are in use")
        assert len(in_progress()) == 2
    assert len(in_progress()) == 2

    with daemon(home) as process:
        victim, survivor = sorted(in_progress(), key=lambda run: home.run(run).tags[DEVICE_TAG])
        pids = {run: (home.started(run) or {})["pid"] for run in (victim, survivor)}
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.time()
        home.wait(victim, DagsterRunStatus.FAILURE)
        assert f"Process {pids[victim]} is gone" in home.messages(victim)
        assert home.status(survivor) == DagsterRunStatus.STARTED
        home.open()
        for run in runs:
            if run != victim:
                home.wait(run, DagsterRunStatus.SUCCESS)
        until(lambda: is_free("0") and is_free("1"), "both devices are free")
        until(
            lambda: all(
                child.status() != psutil.STATUS_ZOMBIE and "execute_run" not in child.cmdline()
                for child in process.children()
            ),
            "no run and no zombie is left below the daemon",
        )

    ends = {line["run"]: line["time"] for line in home.trace("end")} | {victim: killed}
    starts = [line for line in home.trace("start") if line["run"] != cpu]
    assert sorted(line["run"] for line in starts) == sorted(runs)  # each exactly once
    used: dict[str, list[tuple[float, float]]] = {}
    for line in starts:
        used.setdefault(line["mask"], []).append((line["time"], ends[line["run"]]))
    assert set(used) == {"0", "1"}
    assert all(overlaps(intervals) == 1 for intervals in used.values())
    assert overlaps([interval for intervals in used.values() for interval in intervals]) == 2
