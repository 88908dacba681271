"""Dagster run launcher for a Slurm cluster: a job per run."""

import os
from collections.abc import Mapping
from typing import Any, Final, Self

from dagster import DagsterRun, Field

from nsd_pipeline.dagster_private import ConfigurableClassData, LaunchRunContext
from nsd_pipeline.launchers import slurm_jobs
from nsd_pipeline.launchers.base import LAUNCHED_TAG, MonitoredRunLauncher, needs_gpu, run_command
from nsd_pipeline.launchers.devices import DEVICES_ENV, LEASE_ENV, MASK_ENV
from nsd_pipeline.launchers.run_processes import RUN_ID_ENV

RESOURCES_TAG: Final = "nsd/slurm"
"""Run tag with a JSON object of Slurm options, on top of those in dagster.yaml."""
JOB_TAG: Final = "nsd/slurm_job"
"""Id of a run's Slurm job."""


class SlurmRunLauncher(MonitoredRunLauncher):
    """Submits each run as a Slurm job.

    The nodes have to see the same Python environment, ``DAGSTER_HOME`` and storage as the daemon. A
    run whose job waits is "Starting" for Dagster, so ``run_monitoring: start_timeout_seconds`` has
    to be longer than the cluster's queue. A job that Slurm ends fails its run with Slurm's reason,
    and ``run_retries`` decides whether it is tried again.

    Options are those of `nsd_pipeline.launchers.slurm_jobs.SlurmResources`: `resources` of every
    run, and `gpu_resources` on top of these for runs that need a GPU.
    """

    def __init__(
        self,
        *,
        resources: Mapping[str, Any] | None = None,
        gpu_resources: Mapping[str, Any] | None = None,
        poll_seconds: float = 15.0,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(inst_data, poll_seconds=poll_seconds)
        self._resources = dict(resources or {})
        self._gpu_resources = {"gpus": 1, **(gpu_resources or {})}
        slurm_jobs.parse_resources(
            self._resources, self._gpu_resources, where="run_launcher in dagster.yaml"
        )

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        """Return the schema of the configuration in dagster.yaml."""
        return {
            "resources": Field(
                dict,
                default_value={},
                description="Options of every run: partition, account, qos, constraint, gpus, "
                "cpus, memory, time_limit.",
            ),
            "gpu_resources": Field(
                dict,
                default_value={},
                description="Options on top of these for runs that need a GPU; gpus is 1 if not "
                "given.",
            ),
            "poll_seconds": Field(
                float,
                default_value=15.0,
                description="Seconds between two looks at the jobs of runs that start or are being "
                "canceled.",
            ),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Make the launcher that dagster.yaml describes."""
        return cls(**config_value, inst_data=inst_data)

    def resources(self, run: DagsterRun) -> slurm_jobs.SlurmResources:
        """Merge what a run asks for from dagster.yaml and its tag ``nsd/slurm``.

        A SlurmError if the tag is not a JSON object of Slurm options.
        """
        layers = [self._resources, self._gpu_resources if needs_gpu(run) else {}]
        where = f"run {run.run_id} (tag {RESOURCES_TAG})"
        return slurm_jobs.parse_resources(*layers, run.tags.get(RESOURCES_TAG, "{}"), where=where)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a run's job.

        A SlurmError if the run's options are wrong, or Slurm refuses the job or does not answer.
        """
        run = context.dagster_run
        command = run_command(self._instance, run, module="nsd_pipeline.launchers.slurm_worker")
        resources = self.resources(run)
        # The GPUs are the node's to name, not the daemon's.
        daemons = (MASK_ENV, DEVICES_ENV, LEASE_ENV)
        self.log_path(run).parent.mkdir(parents=True, exist_ok=True)
        job_id = slurm_jobs.submit(
            slurm_jobs.job_script(command, {} if resources.has_gpus else {MASK_ENV: ""}),
            resources,
            name=_job_name(run),
            log=self.log_path(run),
            environment={
                **{name: value for name, value in os.environ.items() if name not in daemons},
                RUN_ID_ENV: run.run_id,
            },
        )
        self._instance.add_run_tags(run.run_id, {LAUNCHED_TAG: run.run_id, JOB_TAG: job_id})
        asked = " ".join(resources.options()) or "the cluster's defaults"
        output = self.log_path(run)
        self.tell(run, f"Submitted Slurm job {job_id} with {asked}. Its output: {output}")
        self.watch()

    def stop_worker(self, run: DagsterRun) -> str | None:
        """Interrupt a run's job and have Slurm end what is left of it."""
        job_id = self._job_id(run)
        if job_id is None:
            return "There was no Slurm job left to cancel."
        slurm_jobs.interrupt(job_id)
        return None

    def how_ended(self, run: DagsterRun) -> str | None:
        """Say how the Slurm job of a run ended; None while it waits or runs.

        It is a `SlurmUnavailableError` if Slurm does not answer.
        """
        job_id = self._job_id(run)
        if job_id is None:
            return "Slurm knows no job of the run."
        state = slurm_jobs.job_state(job_id)
        if state is None:
            return f"Slurm no longer knows job {job_id}; it ended some time ago."
        return state.describe(job_id) if state.is_over else None

    def _job_id(self, run: DagsterRun) -> str | None:
        return self.own_tag(run, JOB_TAG) or slurm_jobs.find(_job_name(run))


def _job_name(run: DagsterRun) -> str:
    return f"dagster-{run.run_id}"
