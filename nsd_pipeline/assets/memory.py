"""How much memory this process may still take."""

import resource
from pathlib import Path
from typing import Final

import psutil

_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_bytes(cgroups: Path = _CGROUPS) -> int:
    """Memory that is free on this machine, within the limits of this process and its container.

    Parameters
    ----------
    cgroups
        Where control groups (version 2) are mounted.
    """
    free = int(psutil.virtual_memory().available)
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        free = min(free, soft - int(psutil.Process().memory_info().data))
    for group in _groups(cgroups):
        try:
            limit = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text())
        except (OSError, ValueError):
            continue
        if limit != "max":
            free = min(free, int(limit) - used)
    return max(free, 0)


def _groups(cgroups: Path) -> list[Path]:
    """The control group of this process and those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    inner = cgroups / own.lstrip("/")
    return [group for group in (inner, *inner.parents) if group.is_relative_to(cgroups)]
