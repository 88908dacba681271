"""deploy/slurm/dagster.yaml, as Dagster and Slurm's launcher read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from nsd_pipeline.launchers import SlurmRunLauncher
from nsd_pipeline_tests.deploy.runs import create_run


@pytest.mark.parametrize(
    ("job", "asked"),
    [
        ("session", "--partition=cpu --cpus-per-task=4 --mem=16G --time=04:00:00"),
        ("train", "--partition=gpu --gres=gpu:1 --cpus-per-task=4 --mem=40G --time=12:00:00"),
        ("subject", "--partition=gpu --gres=gpu:1 --cpus-per-task=4 --mem=40G --time=12:00:00"),
    ],
)
def test_what_a_run_asks_for(
    settings: Callable[[str], dict[str, Any]], tmp_path: Path, job: str, asked: str
) -> None:
    with DagsterInstance.local_temp(str(tmp_path), overrides=settings("slurm")) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, SlurmRunLauncher)
        run = create_run(instance, job)
        assert " ".join(launcher.resources(run).options()) == asked
        assert instance.run_monitoring_start_timeout_seconds == 7 * 24 * 3600
        instance.wipe()
