"""Runs as a code location in an image makes them, for launchers that start images."""

from typing import Any
from unittest.mock import Mock

from dagster import DagsterInstance, DagsterRun
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.origin import (
    DEFAULT_DAGSTER_ENTRY_POINT,
    JobPythonOrigin,
    RepositoryPythonOrigin,
)

from nsd_pipeline.definitions import defs

IMAGE = "registry.example.org/nsd_pipeline:0.1.0"


def create_run(
    instance: DagsterInstance, job: str, *, context: dict[str, Any] | None = None
) -> DagsterRun:
    """Create a run of one of our jobs, with the tags that the web UI gives it."""
    definition = defs.resolve_job_def(job)
    repository = RepositoryPythonOrigin(
        executable_path="/usr/local/bin/python",
        code_pointer=ModuleCodePointer("nsd_pipeline.definitions", "defs", "/opt/dagster"),
        container_image=IMAGE,
        entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
        container_context=context,
    )
    return instance.create_run_for_job(
        definition,
        tags=dict(definition.run_tags),
        job_code_origin=JobPythonOrigin(job, repository),
    )


def launch(instance: DagsterInstance, run: DagsterRun) -> None:
    """Hand a run to the instance's launcher."""
    instance.run_launcher.launch_run(LaunchRunContext(run, Mock()))
