"""The Slurm launcher when the controller has forgotten a job and only the accounts know it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from nsd_pipeline_tests.launchers import slurm_cluster
from nsd_pipeline_tests.launchers.conftest import Home, until
from nsd_pipeline_tests.launchers.test_slurm import home, job, lost, started

__all__ = ["home"]

REASON = slurm_cluster.why_not(*slurm_cluster.ACCOUNTING_PROGRAMS)


@pytest.fixture(scope="module")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.cluster(folder, accounting=True) as configuration:
        yield configuration


def is_forgotten(job_id: str) -> bool:
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}"]
    return not subprocess.run(command, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_how_a_forgotten_job_ended_is_read_from_the_accounts(home: Home) -> None:
    broken, cancelled = home.launch("broken_job"), home.launch("cpu_job")
    jobs = {run: job(home, run) for run in (broken, cancelled)}
    started(home, cancelled)
    subprocess.run(["scancel", jobs[cancelled]], check=True)
    for number in jobs.values():
        until(lambda number=number: is_forgotten(number), f"Slurm has forgotten job {number}")
    assert home.status(cancelled) == DagsterRunStatus.STARTED
    messages = lost(home, broken)
    assert f"Slurm job {jobs[broken]} on " in messages
    assert "failed (FAILED)." in messages
    assert "the last words" in messages
    # The accounts say by whom, too: "CANCELLED by 0".
    until(lambda: home.monitor() or home.run(cancelled).is_finished, "the other one is reported")
    assert "was cancelled in Slurm (CANCELLED)." in home.messages(cancelled)
