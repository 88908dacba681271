"""Which GPUs there are, and which of them this process may use.

Devices are found by asking ``nvidia-smi -L``, never by importing torch: a launcher asks before
every run, and torch would also open a context on the device it is asked about.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nsd_pipeline.errors import NsdError

MASK_ENV: Final = "CUDA_VISIBLE_DEVICES"
DEVICES_ENV: Final = "NSD_GPU_DEVICES"
"""Comma-separated devices to use instead of those found; simulates devices where there are none."""

_GPU_LINE = re.compile(r"GPU (?P<index>\d+): .*\(UUID: (?P<uuid>GPU-[\w-]+)\)")
_MIG_LINE = re.compile(r"\s+MIG .*\(UUID: (?P<uuid>MIG-[\w/-]+)\)")


@dataclass(frozen=True)
class Device:
    """One GPU, or one MIG slice of a GPU.

    Parameters
    ----------
    name
        What selects it in ``CUDA_VISIBLE_DEVICES``: the index on this host, or the UUID of a slice.
    uuid
        The same device whatever it is called by; None if nvidia-smi does not know it.
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
    """Devices that this process may use.

    Parameters
    ----------
    listed
        Names of the devices to choose from. By default those in ``NSD_GPU_DEVICES``, or all that
        are found.
    environment
        Environment variables; this process's by default. An inherited ``CUDA_VISIBLE_DEVICES``
        masks the devices: its order counts, and as in CUDA nothing counts from the first unknown
        entry on.

    Raises
    ------
    NsdError
        If devices are listed and the mask hides every one of them.
    """
    environment = os.environ if environment is None else environment
    if listed is None and environment.get(DEVICES_ENV):
        listed = environment[DEVICES_ENV].split(",")
    found = find_devices()
    if listed is None:
        candidates = found
    else:
        names = [name.strip() for name in listed]
        candidates = tuple(
            next((device for device in found if device.is_selected_by(name)), Device(name))
            for name in names
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
