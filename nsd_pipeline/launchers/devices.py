"""Which GPUs there are, and one GPU for one process at a time.

Devices are found by asking ``nvidia-smi -L``, never by importing torch: a launcher asks before
every run, and torch would also open a context on the device it is asked about.

The kernel holds the lock for as long as the process lives and drops it however the process ends, so
a killed run leaves no device behind. Runs from the web UI hold it through their launcher; a
``dagster asset materialize`` in a shell, which no launcher sees, takes it where it needs the
device.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from filelock import lock_descriptor

from nsd_pipeline.errors import NsdError

MASK_ENV: Final = "CUDA_VISIBLE_DEVICES"
DEVICES_ENV: Final = "NSD_GPU_DEVICES"
"""Comma-separated devices to use instead of those found; simulates devices where there are none."""

LEASE_ENV: Final = "NSD_GPU_LEASE"
"""Set by the launcher in a run's process: the device whose lock that process has inherited."""
LOCKS_ENV: Final = "NSD_GPU_LOCKS"
"""Folder of the lock files; share one between users who share the GPUs of a host."""

_log = logging.getLogger(__name__)
_GPU_LINE = re.compile(r"GPU (?P<index>\d+): .*\(UUID: (?P<uuid>GPU-[\w-]+)\)")
_MIG_LINE = re.compile(r"\s+MIG .*\(UUID: (?P<uuid>MIG-[\w/-]+)\)")


@dataclass(frozen=True)
class Device:
    """One GPU, or one MIG slice of a GPU.

    `name` selects it in ``CUDA_VISIBLE_DEVICES``: the index on this host, or the UUID of a slice.
    `uuid` is the same device whatever it is called by; None if nvidia-smi does not know it.
    """

    name: str
    uuid: str | None = None

    @property
    def lock_name(self) -> str:
        """File name that is the same however the device was selected."""
        return re.sub(r"[^\w-]", "_", self.uuid or f"device-{self.name}") + ".lock"

    def is_selected_by(self, entry: str) -> bool:
        """Whether an entry of ``CUDA_VISIBLE_DEVICES`` means this device.

        CUDA takes an index, or a UUID of which the end may be left out (CUDA C++ Programming Guide,
        environment variables).
        """
        if entry.startswith(("GPU-", "MIG-")):
            return self.uuid is not None and self.uuid.startswith(entry)
        return entry == self.name


def parse_nvidia_smi(listing: str) -> tuple[Device, ...]:
    """Devices in the output of ``nvidia-smi -L``; a sliced GPU is replaced by its MIG slices."""
    devices: list[Device] = []
    whole: Device | None = None
    for line in listing.splitlines():
        if match := _GPU_LINE.match(line):
            whole = Device(match["index"], match["uuid"])
            devices.append(whole)
        elif match := _MIG_LINE.match(line):
            if devices[-1:] == [whole]:
                devices.pop()
            devices.append(Device(match["uuid"], match["uuid"]))
    return tuple(devices)


def find_devices() -> tuple[Device, ...]:
    """Devices of this host, in the order of the PCI bus; none if there is no working driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        listing = subprocess.run(  # noqa: S603 - the driver's own tool, no arguments from outside
            [command, "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_nvidia_smi(listing.stdout) if listing.returncode == 0 else ()


def visible_devices(
    listed: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Device, ...]:
    """Devices that this process may use, of those `listed` by name.

    By default those in ``NSD_GPU_DEVICES`` are listed, or all that are found. An inherited
    ``CUDA_VISIBLE_DEVICES`` masks the devices: its order counts, and as in CUDA nothing counts from
    the first unknown entry on. An NsdError if devices are listed and the mask hides every one of
    them.
    """
    environment = os.environ if environment is None else environment
    if listed is None and environment.get(DEVICES_ENV):
        listed = environment[DEVICES_ENV].split(",")
    candidates = found = find_devices()
    if listed is not None:
        candidates = tuple(
            next((device for device in found if device.is_selected_by(name)), Device(name))
            for name in map(str.strip, listed)
        )
    mask = environment.get(MASK_ENV)
    if mask is None:
        return candidates
    visible: list[Device] = []
    for entry in mask.split(","):
        everywhere = (*candidates, *found)
        device = next((each for each in everywhere if each.is_selected_by(entry.strip())), None)
        if device is None:
            break
        if device in candidates and device not in visible:
            visible.append(device)
    if listed and not visible and mask.strip() not in ("", "-1", "NoDevFiles"):
        raise NsdError(
            f"None of the listed GPUs ({', '.join(listed)}) is visible: {MASK_ENV}={mask}.",
            next_step=f"list devices that {MASK_ENV} names, or unset it.",
        )
    return tuple(visible)


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
    """Lock a device without waiting; None if it is taken.

    The descriptor holds the lock until it and every inherited copy of it are closed. A path lock
    would not do: a descriptor can be handed on to a run's process.
    """
    descriptor = os.open(locks_folder() / device.lock_name, os.O_RDWR | os.O_CREAT, 0o600)
    locked = False
    try:
        locked = lock_descriptor(descriptor, blocking=False)
    finally:
        if not locked:
            os.close(descriptor)
    return descriptor if locked else None


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

    `device` is its name as in ``CUDA_VISIBLE_DEVICES``, and `index` its position among this
    process's visible devices: ``torch.device("cuda", index)``. Both are None for the CPU.

    Inside a run that a launcher started with a device, that device is it, at once. Elsewhere the
    first free visible device is locked; if all are busy the block waits, at most `timeout` seconds
    if that is given, looks every `poll` seconds, and logs who has them. An NsdError on entry if no
    device becomes free in time.
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

    def __exit__(self, *_: object) -> None:
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


@contextmanager
def leased_device(timeout: float | None = None) -> Iterator[str | None]:
    """Hold a GPU for the length of a ``with`` block; an NsdError if none became free in time.

    Yields its name for torch; None where there is none to choose: torch's own choice stands.
    """
    with GpuLease(timeout=timeout) as lease:
        if lease.index is None:
            yield None
            return
        import torch

        # A driver can show GPUs that this build of torch has no use for.
        yield f"cuda:{lease.index}" if torch.cuda.is_available() else "cpu"
