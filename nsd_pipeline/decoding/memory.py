"""How much memory fMRI may take, and how much there is.

What decides how trials are shuffled decides the weights. So whether rows are in memory or in the
store follows from the configuration and the data alone, never from what else the machine is doing.
"""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from nsd_pipeline.decoding.dtypes import NUMPY_DTYPES, DataDtype
from nsd_pipeline.errors import NotEnoughDataError

LEAST_BLOCKS: Final = 16
"""Blocks of trials that are shuffled at least: fewer fill most of a batch with neighbours."""
READ_AHEAD: Final = 4
"""Blocks that are read before anything of them is needed."""
_CGROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Memory for the fMRI of one process.

    Parameters
    ----------
    gb
        GB for rows. More than that stays in the store, is read in every epoch and shuffled within
        this memory. None: all of it is in memory, or it is an error.
    dtype
        What rows are kept in.
    batch_size
        Trials that are asked for together.
    """

    gb: float | None = None
    dtype: DataDtype = "float32"
    batch_size: int = 64

    def holds(self, n_bytes: int) -> bool:
        """Whether so many bytes are to be kept in memory.

        Raises
        ------
        NotEnoughDataError
            If they are, and there is not as much.
        """
        if self.gb is not None:
            return n_bytes <= self.gb * 1e9
        free = available_bytes()
        if n_bytes > free:
            raise NotEnoughDataError(
                f"The fMRI takes {n_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB of memory are"
                " free.",
                next_step="set memory_gb (4 will do): what does not fit into it stays in the store"
                " and is read in every epoch, in an order of its own. data_dtype bfloat16 halves"
                " what it takes.",
            )
        return True

    def window(self, *, values: int, block_trials: int) -> int:
        """Find how many trials can be shuffled within this memory.

        Besides the window of the training trials there are the batches, the blocks that are read
        ahead or being read, and as much again for the trials of the validation, which come in
        order.

        Parameters
        ----------
        values
            Values T x V of a trial.
        block_trials
            Trials of the largest block that is read at once.

        Raises
        ------
        NotEnoughDataError
            If the window would hold fewer than 16 blocks.
        """
        assert self.gb is not None  # noqa: S101  # else all rows are in memory
        trial = values * np.dtype(NUMPY_DTYPES[self.dtype]).itemsize
        reading = 3 * block_trials * values * 4
        around = 2 * ((3 * self.batch_size + (READ_AHEAD + 1) * block_trials) * trial + reading)
        window = int((self.gb * 1e9 - around) // trial)
        if window < LEAST_BLOCKS * block_trials:
            least = around + LEAST_BLOCKS * block_trials * trial
            raise NotEnoughDataError(
                f"{self.gb:.2f} GB of memory are too little to shuffle trials of {values} values"
                " in.",
                next_step=f"set memory_gb to {np.ceil(least / 1e8) / 10:.1f} or more.",
            )
        return window


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
