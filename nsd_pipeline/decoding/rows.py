"""Where the fMRI of trials is kept: all of it in memory, or in the store, read when it is needed.

Sessions are read once into one array in memory, session by session in place: the whole dataset is
17 GB of betas or 59 GB of time series on fsaverage5, so a second copy is the difference between
fitting and not. Windows of neighbouring trials overlap, so a window is only the number of its first
row. What lies between windows is left out.

Rows are kept in float32, or in half of it. bfloat16 has float32's range and 8 bits of precision,
float16 has 11 bits up to 65,504; z-scored betas need no range.

What decides how trials are shuffled decides the weights. So whether rows are in memory or in the
store follows from the configuration and the data alone, never from what else the machine is doing.
"""

import itertools
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from nsd_pipeline.decoding.config import DataDtype
from nsd_pipeline.errors import NotEnoughDataError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

NUMPY_DTYPES: Final[dict[DataDtype, type[np.generic]]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.float16,
}
"""What rows are kept in, and the numpy type of that size that holds it: numpy has no bfloat16."""

LEAST_BLOCKS: Final = 16
"""Blocks of trials that are shuffled at least: fewer fill most of a batch with neighbours."""
READ_AHEAD: Final = 4
"""Blocks that are read before anything of them is needed."""
_CGROUPS: Final = Path("/sys/fs/cgroup")


def as_tensor(values: NDArray[Any]) -> "torch.Tensor":
    """Tensor over the same memory: float32, float16 or, for uint16, bfloat16."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == np.uint16 else tensor


@dataclass(frozen=True)
class Memory:
    """Memory for the fMRI of one process.

    Rows have `gb` GB. More than that stays in the store, is read in every epoch and shuffled within
    this memory. With None all of it is in memory, or it is an error. Rows are kept in `dtype`, and
    `batch_size` trials are asked for together.
    """

    gb: float | None = None
    dtype: DataDtype = "float32"
    batch_size: int = 64

    def holds(self, n_bytes: int) -> bool:
        """Decide whether rows of this size are kept in memory.

        A NotEnoughDataError if all rows are to be in memory, and less than that is free.
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
        """Find how many trials of that many values (T x V) can be shuffled within this memory.

        Besides the window of the training trials there are the batches, the blocks (of at most
        `block_trials`) that are read ahead or being read, and as much again for the trials of the
        validation, which come in order. A NotEnoughDataError if the window would hold fewer than 16
        blocks.
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

    Control groups (version 2) are mounted at `cgroups`.
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


class ReadsRows(Protocol):
    """One session's fMRI: `SessionRows`, or whatever else can be read row by row."""

    n_rows: int
    n_vertices: int
    chunk_rows: int

    def read(self, rows: Integers, *, out: Floats) -> object:
        """Fill ``out`` (n, V) with rows (n,) of the session, given in ascending order."""
        ...


@dataclass(frozen=True)
class HeldRows:
    """All rows (R, V) in memory, contiguous: float32, float16, or bfloat16's bits as uint16."""

    values: NDArray[Any]

    def __post_init__(self) -> None:
        values = self.values
        known = values.dtype in NUMPY_DTYPES.values()
        if values.ndim != 2 or not known or not values.flags.c_contiguous:
            raise ValueError("fMRI is not a contiguous two-dimensional array of a known dtype")

    @property
    def n_rows(self) -> int:
        """Number R of rows."""
        return len(self.values)

    @property
    def n_vertices(self) -> int:
        """Vertices V."""
        return int(self.values.shape[1])

    @property
    def dtype(self) -> DataDtype:
        """What rows are kept in."""
        return next(name for name, kept in NUMPY_DTYPES.items() if kept == self.values.dtype)

    def copy(self, rows: Integers, out: "torch.Tensor") -> None:
        """Copy rows (n,) to ``out`` (n, V)."""
        import torch

        torch.index_select(as_tensor(self.values), 0, torch.from_numpy(rows), out=out)


@dataclass(frozen=True)
class StoredRows:
    """Rows that stay in the store. Sessions follow each other, each from a whole block on.

    `block_rows` of a session are stored, and read, together, and kept in `dtype`. When trials are
    shuffled, the next one is drawn among `window` of them.
    """

    sessions: Sequence[ReadsRows]
    block_rows: int
    window: int
    dtype: DataDtype = "float32"

    @property
    def starts(self) -> Integers:
        """First row (S + 1,) of each session, and the end of the last one."""
        blocks = [-(-session.n_rows // self.block_rows) for session in self.sessions]
        return self.block_rows * np.cumsum([0, *blocks])

    @property
    def n_rows(self) -> int:
        """Number R of rows, with those that only fill up a session's last block."""
        return int(self.starts[-1])

    @property
    def n_vertices(self) -> int:
        """Vertices V."""
        return self.sessions[0].n_vertices

    def copy(self, rows: Integers, out: "torch.Tensor") -> None:
        """Copy rows (n,), session after session, to ``out`` (n, V)."""
        starts = self.starts
        session_of = np.searchsorted(starts, rows, side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(session_of)) + 1).tolist(), len(rows)]
        for first, last in itertools.pairwise(edges):
            session = session_of[first]
            _copy_rows(self.sessions[session], rows[first:last] - starts[session], out[first:last])


def _copy_rows(session: ReadsRows, rows: Integers, out: "torch.Tensor") -> None:
    """Copy rows (n,) of one session, in any order and any number of times, to ``out`` (n, V).

    They are rounded to the nearest value that ``out`` can hold.
    """
    import torch

    ascending = bool((np.diff(rows) > 0).all())
    if ascending and out.dtype == torch.float32:
        session.read(rows, out=out.numpy())
        return
    wanted, places = np.unique(rows, return_inverse=True)
    exact = np.empty((len(wanted), out.shape[1]), np.float32)
    session.read(wanted, out=exact)
    if ascending:
        out.copy_(torch.from_numpy(exact))
        return
    kept = torch.from_numpy(exact).to(out.dtype)
    torch.index_select(kept, 0, torch.from_numpy(places), out=out)


def hold_rows(
    sessions: Sequence[tuple[ReadsRows, Integers]], n_times: int, memory: Memory
) -> tuple[HeldRows | StoredRows, Integers]:
    """Decide where rows are kept, and read them if that is in memory.

    Takes the reader of each session, and the rows (n,) at which its trials, of `n_times` rows each,
    begin. Returns the rows, and the row (N,) at which each trial begins, session by session. A
    NotEnoughDataError if the memory is too little.
    """
    wanted = [np.unique(samples_of(begin, n_times)) for _, begin in sessions]
    n_vertices = sessions[0][0].n_vertices
    row_bytes = n_vertices * np.dtype(NUMPY_DTYPES[memory.dtype]).itemsize
    if memory.holds(sum(map(len, wanted)) * row_bytes):
        return _in_memory(sessions, wanted, memory.dtype)
    readers = [reader for reader, _ in sessions]
    block_rows = readers[0].chunk_rows
    most = max(np.unique(begin // block_rows, return_counts=True)[1].max() for _, begin in sessions)
    stored = StoredRows(
        readers,
        block_rows,
        memory.window(values=n_times * n_vertices, block_trials=int(most)),
        memory.dtype,
    )
    begins = [begin for _, begin in sessions]
    first = [start + begin for start, begin in zip(stored.starts, begins, strict=False)]
    return stored, np.concatenate(first)


def _in_memory(
    sessions: Sequence[tuple[ReadsRows, Integers]], wanted: Sequence[Integers], dtype: DataDtype
) -> tuple[HeldRows, Integers]:
    values = np.empty((sum(map(len, wanted)), sessions[0][0].n_vertices), dtype=NUMPY_DTYPES[dtype])
    first, start = [], 0
    for (reader, begin), rows in zip(sessions, wanted, strict=True):
        part = values[start : start + len(rows)]
        _copy_rows(reader, rows, as_tensor(part))
        first.append(start + np.searchsorted(rows, begin))
        start += len(rows)
    return HeldRows(values), np.concatenate(first)


def samples_of(first_row: Integers, n_times: int) -> Integers:
    """Rows (n, T) of trials that begin at ``first_row`` (n,)."""
    return first_row[:, None] + np.arange(n_times)
