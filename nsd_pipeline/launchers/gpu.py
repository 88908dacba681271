"""Dagster run launcher for one host: a process per run, a GPU per run that needs one."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from dagster import Any as AnyConfig
from dagster import (
    Array,
    DagsterEvent,
    DagsterRun,
    DagsterRunStatus,
    Field,
    QueuedRunCoordinator,
    RunsFilter,
)
from filelock import FileLock

from nsd_pipeline.dagster_private import (
    ConfigurableClassData,
    LaunchRunContext,
    ResumeRunContext,
    counts_pools_by_run,
)
from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers import run_processes
from nsd_pipeline.launchers.base import (
    GPU_POOL,
    LAUNCHED_TAG,
    MonitoredRunLauncher,
    needs_gpu,
    run_command,
)
from nsd_pipeline.launchers.devices import (
    DEVICES_ENV,
    LEASE_ENV,
    MASK_ENV,
    Device,
    Holder,
    describe_holders,
    locks_folder,
    read_holder,
    try_lock,
    visible_devices,
    write_holder,
)
from nsd_pipeline.launchers.run_processes import HOST_TAG, PID_TAG, STARTED_TAG, process_tags

DEVICE_TAG: Final = "nsd/device"
"""GPU of a run, or ``cpu``."""

_POOL_CURSOR = "nsd/gpu_pool"
_IN_PROGRESS = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


class GpuRunLauncher(MonitoredRunLauncher):
    """Starts each run as a process on this host and gives one free GPU to each run that needs one.

    A device is busy if its lock is held, which the run's process does for as long as it lives, or
    if a run in progress with a living process names it in its tags. Neither is kept in the daemon's
    memory, so a restart of the daemon changes nothing. Runs without need of a GPU see none and
    never wait.

    The queue holds back runs that would find no free device: the launcher sets the limit of the
    pool ``gpu`` to the number of devices if dagster.yaml says ``concurrency: pools: granularity:
    run``. Where somebody outside Dagster's queue has a device, the run goes back into the queue.
    """

    def __init__(
        self,
        *,
        devices: Sequence[str] | None = None,
        kill_after_seconds: float = 30.0,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(inst_data, poll_seconds=2.0)
        self._devices = devices
        self._kill_after = kill_after_seconds
        self._exit_codes: dict[str, int] = {}
        self._put_back: set[str] = set()

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        """Return the schema of the configuration in dagster.yaml."""
        return {
            "devices": Field(
                Array(AnyConfig),
                is_required=False,
                description="GPUs to use, by index or UUID. By default all that nvidia-smi lists "
                f"and {MASK_ENV} leaves visible.",
            ),
            "kill_after_seconds": Field(
                float,
                default_value=30.0,
                description="How long a terminated run may take to end before it is killed.",
            ),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Make the launcher that dagster.yaml describes."""
        devices = config_value.get("devices")
        return cls(
            devices=None if devices is None else [str(device) for device in devices],
            kill_after_seconds=config_value["kill_after_seconds"],
            inst_data=inst_data,
        )

    @property
    def supports_resume_run(self) -> bool:
        """True. In one process the steps are repeated; those with complete artifacts are no-ops."""
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run's process, or put the run back into the queue if every GPU is busy.

        An NsdError if every GPU is busy and there is no queue.
        """
        self._launch(context.dagster_run)

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start a new process for a run whose process ended before the run had."""
        self._launch(context.dagster_run, resume=True)

    def stop_worker(self, run: DagsterRun) -> str | None:
        """Ask a run's process to end, to be killed if it does not."""
        worker = self._worker(run)
        if worker is None or not worker.is_alive():
            return "There was no process left to stop."
        worker.stop(self._kill_after)
        return None

    def how_ended(self, run: DagsterRun) -> str | None:
        """Say how the process of a run ended; None while it lives."""
        worker = self._worker(run)
        if worker is None:
            return f"No process of the run was found on {socket.gethostname()}."
        if worker.is_alive():
            return None
        code = self._exit_codes.get(run.run_id)
        if code is None:
            return f"Process {worker.pid} is gone."
        if code >= 0:
            return f"Process {worker.pid} exited with status {code} before the run had ended."
        name = signal.Signals(-code).name
        hint = " Linux does that too when memory runs out." if -code == signal.SIGKILL else ""
        return f"Process {worker.pid} was killed by {name}.{hint}"

    def _launch(self, run: DagsterRun, *, resume: bool = False) -> None:
        command = run_command(self._instance, run, resume=resume)
        if not needs_gpu(run):
            self._start(run, command, {MASK_ENV: ""}, "cpu")
            return
        devices = visible_devices(self._devices)
        if not devices:
            self.tell(run, "This host shows no GPU, so the run uses the CPU.")
            self._start(run, command, {}, "cpu")
            return
        # Between the look at the tags and the new tags no other launcher may look.
        with FileLock(locks_folder() / "launch.lock"):
            self._limit_pool(len(devices))
            claim = self._claim(run, devices)
            if claim is None:
                self._queue_again(run, devices)
                return
            device, descriptor = claim
            mask = {
                MASK_ENV: device.name,
                DEVICES_ENV: device.name,
                LEASE_ENV: device.name,
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            }
            try:
                self._start(run, command, mask, device.name, descriptor)
            finally:
                os.close(descriptor)

    def _claim(self, run: DagsterRun, devices: Sequence[Device]) -> tuple[Device, int] | None:
        self._kill_leftovers(devices)
        busy = {
            self.own_tag(other, DEVICE_TAG)
            for other in self._instance.get_runs(RunsFilter(statuses=_IN_PROGRESS))
            if other.run_id != run.run_id
            and (worker := self._tagged_worker(other)) is not None
            and worker.is_alive()
        }
        for device in devices:
            descriptor = None if device.name in busy else try_lock(device)
            if descriptor is not None:
                return device, descriptor
        return None

    def _kill_leftovers(self, devices: Sequence[Device]) -> None:
        """Kill processes that still hold a device long after Dagster closed their run."""
        for device in devices:
            holder = read_holder(device)
            if holder is None or holder.run_id is None:
                continue
            record = self._instance.get_run_record_by_id(holder.run_id)
            if record is None or not record.dagster_run.is_finished:
                continue
            worker = self._worker(record.dagster_run)
            if worker is not None and time.time() - (record.end_time or 0) > self._kill_after:
                worker.kill()

    def _queue_again(self, run: DagsterRun, devices: Sequence[Device]) -> None:
        holders = describe_holders(devices)
        if not isinstance(self._instance.run_coordinator, QueuedRunCoordinator):
            raise NsdError(
                f"Every GPU is busy ({holders}), and there is no queue to wait in.",
                next_step="use Dagster's QueuedRunCoordinator (the default) in dagster.yaml.",
            )
        if run.run_id not in self._put_back:
            self._put_back.add(run.run_id)
            self.tell(run, f"Every GPU is busy ({holders}). The run waits in the queue.")
        self._instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)

    def _limit_pool(self, n_devices: int) -> None:
        """Let the queue launch a GPU run per device, unless somebody set another limit."""
        instance = self._instance
        # Counted by step, slots of killed runs stay taken (free_slots_after_run_end_seconds).
        if not counts_pools_by_run(instance):
            return
        storage = instance.event_log_storage
        limit = {pool.name: pool for pool in storage.get_pool_limits()}.get(GPU_POOL)
        ours = instance.run_storage.get_cursor_values({_POOL_CURSOR}).get(_POOL_CURSOR)
        if (
            limit is None
            or limit.from_default
            or (str(limit.limit) == ours and limit.limit != n_devices)
        ):
            storage.set_concurrency_slots(GPU_POOL, n_devices)
            instance.run_storage.set_cursor_values({_POOL_CURSOR: str(n_devices)})

    def _start(
        self,
        run: DagsterRun,
        command: Sequence[str],
        mask: Mapping[str, str],
        device: str,
        descriptor: int | None = None,
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if name != LEASE_ENV}
        child = run_processes.start(
            command,
            run_id=run.run_id,
            environment={**inherited, **mask},
            log=self.log_path(run),
            keep=[] if descriptor is None else [descriptor],
        )
        try:
            if descriptor is not None:
                write_holder(descriptor, Holder(child.pid, f"run {run.run_id}", run.run_id))
            tags = process_tags(run_processes.identify(child.pid))
            tags |= {LAUNCHED_TAG: run.run_id, DEVICE_TAG: device}
            self._instance.add_run_tags(run.run_id, tags)
        except BaseException:
            child.kill()
            child.wait()
            raise
        self._exit_codes.pop(run.run_id, None)
        self._put_back.discard(run.run_id)
        threading.Thread(target=self._reap, args=(child, run.run_id), daemon=True).start()
        on = "the CPU" if device == "cpu" else f"GPU {device}"
        self.tell(run, f"Started process {child.pid} on {on}. Its output: {self.log_path(run)}")
        self.watch()

    def _reap(self, child: subprocess.Popen[bytes], run_id: str) -> None:
        self._exit_codes[run_id] = child.wait()
        self._wake.set()

    def _worker(self, run: DagsterRun) -> run_processes.RunProcess | None:
        return self._tagged_worker(run) or run_processes.find(run.run_id)

    def _tagged_worker(self, run: DagsterRun) -> run_processes.RunProcess | None:
        pid, started = self.own_tag(run, PID_TAG), self.own_tag(run, STARTED_TAG)
        if pid is None or started is None or run.tags.get(HOST_TAG) != socket.gethostname():
            return None
        return run_processes.RunProcess(int(pid), float(started))
