"""One GPU for one process at a time, by a lock on a file.

The kernel holds the lock for as long as the process lives and drops it however the process ends, so
a killed run leaves no device behind. Runs from the web UI hold it through their launcher; a
``dagster asset materialize`` in a shell, which no launcher sees, takes it where it needs the
device.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from filelock import lock_descriptor

from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers.devices import Device, visible_devices

LEASE_ENV: Final = "NSD_GPU_LEASE"
"""Set by the launcher in a run's process: the device whose lock that process has inherited."""
LOCKS_ENV: Final = "NSD_GPU_LOCKS"
"""Folder of the lock files; share one between users who share the GPUs of a host."""

_log = logging.getLogger(__name__)


def locks_folder() -> Path:
    """Folder with a lock file per device, the same for every process of this user on this host."""
    default = Path(tempfile.gettempdir()) / f"nsd-gpu-locks-{os.getuid()}"
    folder = Path(os.environ.get(LOCKS_ENV) or default)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Holder:
    """Who holds a device, as written in its lock file."""

    pid: int
    what: str
    run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.what} (pid {self.pid})"


def try_lock(device: Device) -> int | None:
    """Lock a device without waiting.

    Returns
    -------
    int or None
        Descriptor that holds the lock until it and every inherited copy of it are closed; None if
        the device is taken. A path lock would not do: a descriptor can be handed on to a run's
        process.
    """
    descriptor = os.open(locks_folder() / device.lock_name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        locked = lock_descriptor(descriptor, blocking=False)
    except BaseException:
        os.close(descriptor)
        raise
    if locked:
        return descriptor
    os.close(descriptor)
    return None


def write_holder(descriptor: int, holder: Holder) -> None:
    """Write who holds the lock into the locked file, for the messages of those who wait."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(vars(holder)).encode(), 0)


def read_holder(device: Device) -> Holder | None:
    """Who took a device last; None if that is not written. Means something while it is locked."""
    try:
        return Holder(**json.loads((locks_folder() / device.lock_name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def describe_holders(devices: Sequence[Device]) -> str:
    """Sentence part such as ``0: run 1f3a (pid 41), 1: unknown``."""
    return ", ".join(f"{device.name}: {read_holder(device) or 'unknown'}" for device in devices)


class GpuLease:
    """A free GPU for the length of a ``with`` block, or the CPU if this host shows none.

    Inside a run that a launcher started with a device, that device is it, at once. Elsewhere the
    first free visible device is locked; if all are busy the block waits and logs who has them.

    Parameters
    ----------
    timeout
        Seconds to wait for a device; forever by default.
    poll
        Seconds between looks.

    Attributes
    ----------
    device
        Name of the device as in ``CUDA_VISIBLE_DEVICES``; None means the CPU.
    index
        Position among this process's visible devices: ``torch.device("cuda", index)``. None means
        the CPU.

    Raises
    ------
    NsdError
        On entry, if no device becomes free in time.
    """

    def __init__(self, *, timeout: float | None = None, poll: float = 1.0) -> None:
        self.device: str | None = None
        self.index: int | None = None
        self._timeout = timeout
        self._poll = poll
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        inherited = os.environ.get(LEASE_ENV)
        if inherited:
            self.device, self.index = inherited, 0
            return self
        devices = visible_devices()
        if devices:
            # Indices are nvidia-smi's, so CUDA has to count in its order too.
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
            self._wait(devices)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self.device = self.index = None

    def _wait(self, devices: Sequence[Device]) -> None:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        told = ""
        while True:
            for index, device in enumerate(devices):
                descriptor = try_lock(device)
                if descriptor is not None:
                    self._descriptor, self.device, self.index = descriptor, device.name, index
                    what = " ".join([Path(sys.argv[0]).name, *sys.argv[1:4]])
                    write_holder(descriptor, Holder(os.getpid(), what))
                    _log.info("Took GPU %s.", device.name)
                    return
            holders = describe_holders(devices)
            if deadline is not None and time.monotonic() >= deadline:
                raise NsdError(
                    f"No GPU became free within {self._timeout:g} s. {holders}.",
                    next_step="wait for one of these processes, or stop one.",
                )
            if holders != told:
                _log.warning("Every GPU is busy, waiting for one. %s.", holders)
                told = holders
            time.sleep(self._poll)
