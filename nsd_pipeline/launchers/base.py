"""What the run launchers share: which runs need a GPU, how an ended worker becomes an ended run."""

import logging
import socket
import threading
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from nsd_pipeline.dagster_private import (
    CheckRunHealthResult,
    ConfigurableClassData,
    ConfigurableRunLauncher,
    WorkerStatus,
    worker_command,
)
from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers import run_processes
from nsd_pipeline.launchers.run_processes import tail

CONFIG_TAG: Final = "dagster-k8s/config"
GPU_RESOURCE: Final = "nvidia.com/gpu"

KUBERNETES_GPU: Final[Mapping[str, Any]] = {
    CONFIG_TAG: {
        "container_config": {"resources": {"limits": {GPU_RESOURCE: "1"}}},
        "pod_spec_config": {
            # Nodes with GPUs are usually kept free of everything else by this taint.
            "tolerations": [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
        },
    }
}
"""Run tags of a job that needs one GPU on Kubernetes, where Dagster's own launcher reads them.

On the job, because tags of assets and ops do not reach the pod of a run. Other launchers ignore it.
"""

GPU_POOL: Final = "gpu"
"""Pool of the ops and assets that need a GPU."""
GPU_TAG: Final = "nsd/gpu"
"""Run tag that says whether a run needs a GPU, whatever its pools are."""
LAUNCHED_TAG: Final = f"{run_processes.HIDDEN}launched"
"""Id of the run that the launcher's other tags are about: a retry starts with its parent's tags."""

_log = logging.getLogger(__name__)


def needs_gpu(run: DagsterRun) -> bool:
    """Whether a run needs a GPU: its tag ``nsd/gpu`` says so, or a step of it is in pool ``gpu``.

    The pools are those of the steps that the run executes, so a materialization picked by hand in
    the web UI needs a GPU exactly if one of the picked assets does. An NsdError if the tag is
    neither ``true`` nor ``false``.
    """
    tag = run.tags.get(GPU_TAG)
    if tag is None:
        pools = run.run_op_concurrency.all_pools if run.run_op_concurrency else None
        return GPU_POOL in (pools or ())
    if tag not in ("true", "false"):
        raise NsdError(
            f"Run {run.run_id} has the tag {GPU_TAG}={tag!r}.", next_step="set it to true or false."
        )
    return tag == "true"


def run_command(
    instance: DagsterInstance,
    run: DagsterRun,
    *,
    resume: bool = False,
    module: str = "nsd_pipeline.run_worker",
) -> list[str]:
    """Program and arguments that execute a run, in the Python that loaded its code.

    An NsdError if the run does not come from a code location.
    """
    origin = run.job_code_origin
    if origin is None:
        raise NsdError(
            f"Run {run.run_id} does not say where its code is.",
            next_step="launch it from a code location of the workspace.",
        )
    program, *rest = worker_command(instance, run, resume=resume)
    if program == "dagster":  # not on the PATH unless the environment was activated
        return [origin.repository_origin.executable_path, "-m", module, *rest]
    return [program, *rest]


class MonitoredRunLauncher(ConfigurableRunLauncher):
    """A launcher that knows how each of its workers ended.

    Dagster's run monitoring asks only about runs in progress, and lets those that start or are
    being canceled run into a timeout. So while there are such runs, a thread looks every
    `poll_seconds` whether their workers are still there.
    """

    def __init__(self, inst_data: ConfigurableClassData | None, *, poll_seconds: float) -> None:
        super().__init__(inst_data)
        self._poll_seconds = poll_seconds
        self._disposed = False
        self._wake = threading.Event()
        self._told_elsewhere: set[str] = set()
        self._watcher: threading.Thread | None = None

    @abstractmethod
    def how_ended(self, run: DagsterRun) -> str | None:
        """How the worker of a run ended, as a sentence; None while it lives or waits to begin.

        Any error if that cannot be found out now. Callers then leave the run alone.
        """

    @abstractmethod
    def stop_worker(self, run: DagsterRun) -> str | None:
        """Let the worker of a run begin to end, and return None; or say that there is none."""

    def terminate(self, run_id: str) -> bool:
        """Ask a run's worker to end, and end what is left of it if it does not."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        missing = self.stop_worker(run)
        if missing is None:
            self.watch()
        else:
            self._instance.report_run_canceled(run, missing)
        return True

    def log_path(self, run: DagsterRun) -> Path:
        """File below the instance's storage with the output of the run's worker."""
        return Path(self._instance.storage_directory()) / "run_logs" / f"{run.run_id}.log"

    def tell(self, run: DagsterRun, message: str) -> None:
        """Put a message into the run's log."""
        self._instance.report_engine_event(message, run, cls=type(self))

    def own_tag(self, run: DagsterRun, tag: str) -> str | None:
        """Read a tag that this launcher set on this very run, not on the run that it retries."""
        return run.tags.get(tag) if run.tags.get(LAUNCHED_TAG) == run.run_id else None

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's worker is still at it, and if not, how it ended.

        A run that was started in a shell is none of a launcher's: the process that signed it
        counts, and where none did, it may well be alive. One whose worker has ended is reported as
        failed, unless run monitoring would resume it; it cannot resume what it did not launch.
        """
        host = run_processes.signed_host(run)
        if host is not None:
            self._tell_if_elsewhere(run, host)
            ended = run_processes.how_ended(run)
        elif self._was_launched(run):
            ended = self.how_ended(run)
        else:
            ended = None
        if ended is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        # Read after the worker ended: it cannot change the state any more.
        current = self._instance.get_run_by_id(run.run_id)
        if current is None or current.status != run.status:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        resumes = self._instance.run_monitoring_max_resume_run_attempts > 0
        if host is not None or not (self.supports_resume_run and resumes):
            self._report_failed(current, ended)
        return CheckRunHealthResult(WorkerStatus.FAILED, ended)

    def get_run_worker_debug_info(
        self,
        run: DagsterRun,
        include_container_logs: bool | None = True,  # noqa: ARG002 - the tail is short
    ) -> str | None:
        """Quote the last lines that the run's worker wrote."""
        lines = tail(self.log_path(run))
        return f"Last lines of {self.log_path(run)}:\n{lines}" if lines else None

    def dispose(self) -> None:
        """Stop looking after runs; the runs go on."""
        self._disposed = True
        self._wake.set()

    def _was_launched(self, run: DagsterRun) -> bool:
        # The launcher may have died before it could set its tags.
        return run.tags.get(LAUNCHED_TAG) == run.run_id or bool(
            self._instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_STARTING)
        )

    def watch(self) -> None:
        """See to it that runs which are starting or being canceled are looked after."""
        if self._watcher is None:
            self._watcher = threading.Thread(
                target=_watch, args=(weakref.ref(self), self._wake, self._poll_seconds), daemon=True
            )
            self._watcher.start()
        self._wake.set()

    def settle(self) -> bool:
        """End every run that is starting or being canceled and whose worker has ended.

        Whether such runs with a living worker are left.
        """
        states = [DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]
        left = False
        for run in self._instance.get_runs(RunsFilter(statuses=states)):
            if run.tags.get(LAUNCHED_TAG) != run.run_id:
                continue
            ended = self.how_ended(run)
            if ended is None:
                left = True
                continue
            # Read after the worker ended, so it cannot change the state any more.
            current = self._instance.get_run_by_id(run.run_id)
            if current is None or current.status not in states:
                continue
            if current.status == DagsterRunStatus.CANCELING:
                self._instance.report_run_canceled(current, ended)
            else:
                self._report_failed(current, ended)
        return left

    def _report_failed(self, run: DagsterRun, ended: str) -> None:
        info = self.get_run_worker_debug_info(run)
        run_processes.report_failed(self._instance, run, f"{ended}\n{info}" if info else ended)

    def _tell_if_elsewhere(self, run: DagsterRun, host: str) -> None:
        if run_processes.is_elsewhere(run.tags) and run.run_id not in self._told_elsewhere:
            self._told_elsewhere.add(run.run_id)
            self.tell(
                run,
                f"The run's process is on {host}, out of sight of run monitoring on"
                f" {socket.gethostname()}. If it is gone, terminate the run to free its partition.",
            )

    def _settle_unless_disposed(self) -> bool:
        try:
            return not self._disposed and self.settle()
        except Exception:
            # Slurm or the storage may not answer now; the next look may do better.
            _log.exception("Could not look after the runs that are starting or being canceled.")
            return True


def _watch(
    launcher: weakref.ref[MonitoredRunLauncher], wake: threading.Event, poll_seconds: float
) -> None:
    left = False
    while True:
        wake.wait(poll_seconds if left else None)
        wake.clear()
        target = launcher()
        if target is None or target._disposed:
            return
        left = target._settle_unless_disposed()
        del target
