"""Where the fMRI of trials is kept: all of it in memory, or in the store, read when it is needed.

Sessions are read once into one array in memory, session by session in place: the whole dataset is
17 GB of betas or 59 GB of time series on fsaverage5, so a second copy is the difference between
fitting and not. Windows of neighbouring trials overlap, so a window is only the number of its first
row. What lies between windows is left out.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.decoding.dtypes import NUMPY_DTYPES, DataDtype, as_tensor, fill_rounded
from nsd_pipeline.decoding.memory import Memory

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class ReadsRows(Protocol):
    """One session's fMRI: `SessionRows`, or whatever else can be read row by row."""

    n_rows: int
    n_vertices: int
    chunk_rows: int

    def read(self, rows: Integers, *, out: Floats) -> object:
        """Fill ``out`` (n, V) with rows (n,) of the session, given in ascending order."""
        ...


class Rows(Protocol):
    """The fMRI (R, V) of a cohort, in the precision it is kept in."""

    @property
    def n_rows(self) -> int:
        """Number R of rows."""
        ...

    @property
    def n_vertices(self) -> int:
        """Vertices V."""
        ...

    @property
    def dtype(self) -> DataDtype:
        """What rows are kept in."""
        ...

    def copy(self, rows: Integers, out: "torch.Tensor") -> None:
        """Copy rows (n,) to ``out`` (n, V) on the CPU, which has their dtype."""
        ...


@dataclass(frozen=True)
class HeldRows:
    """Rows in memory.

    Parameters
    ----------
    values
        All rows (R, V), contiguous: float32, float16, or the bits of bfloat16 as uint16.
    """

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

    Parameters
    ----------
    sessions
        Readers of the sessions.
    block_rows
        Rows of a session that are stored, and read, together.
    window
        Trials among which the next one is drawn when they are shuffled.
    dtype
        What rows that were read are kept in.
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
    """Copy rows (n,) of one session, in any order and any number of times, to ``out`` (n, V)."""
    import torch

    ascending = bool((np.diff(rows) > 0).all())
    if ascending and out.dtype == torch.float32:
        session.read(rows, out=out.numpy())
        return
    wanted, places = np.unique(rows, return_inverse=True)
    exact = np.empty((len(wanted), out.shape[1]), np.float32)
    session.read(wanted, out=exact)
    kept = torch.from_numpy(exact).to(out.dtype)
    torch.index_select(kept, 0, torch.from_numpy(places), out=out)


def hold_rows(
    sessions: Sequence[tuple[ReadsRows, Integers]], n_times: int, memory: Memory
) -> tuple[HeldRows | StoredRows, Integers]:
    """Decide where rows are kept, and read them if that is in memory.

    Parameters
    ----------
    sessions
        Reader of each session, and the rows (n,) at which its trials begin.
    n_times
        Rows of a trial.
    memory
        How rows are kept, and in how much memory.

    Returns
    -------
    tuple
        The rows, and the row (N,) at which each trial begins, session by session.

    Raises
    ------
    NotEnoughDataError
        If the memory is too little.
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
        fill_rounded(part, partial(_read, reader, rows))
        first.append(start + np.searchsorted(rows, begin))
        start += len(rows)
    return HeldRows(values), np.concatenate(first)


def _read(reader: ReadsRows, rows: Integers, out: Floats) -> None:
    reader.read(rows, out=out)


def samples_of(first_row: Integers, n_times: int) -> Integers:
    """Rows (n, T) of trials that begin at ``first_row`` (n,)."""
    return first_row[:, None] + np.arange(n_times)
