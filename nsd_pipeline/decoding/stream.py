"""Trials that stay in the store: a cohort larger than memory, read anew in every epoch.

Sessions are stored in chunks of consecutive trials. Every epoch reads what it needs of each chunk
at once, the chunks in a new random order, into a window of so many trials; the next trial is drawn
from the window at random and its place is taken by the next one read. An epoch begins when 16
chunks have been read, and the window then grows to its size. So a trial can meet any other one in a
batch, but trials of one chunk meet more often than they would in a full shuffle. With a window of
all trials the order is the very one of an array in memory.
"""

import itertools
import weakref
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsd_pipeline.decoding.data import (
    Floats,
    Gather,
    Integers,
    ReadSession,
    SeenTrials,
    by_session,
    target_rows,
)
from nsd_pipeline.decoding.dtypes import DataDtype
from nsd_pipeline.decoding.gather import gather_rows
from nsd_pipeline.decoding.prefetch import READ_AHEAD, Plan, Prefetch
from nsd_pipeline.nsd.errors import NotEnoughDataError

LEAST_CHUNKS: Final = 16
"""A smaller window would fill most of a batch with neighbours."""


@dataclass(frozen=True, kw_only=True)
class StreamedTrials(SeenTrials):
    """Trials with one beta, or a window of some samples, for each vertex, read when needed.

    Attributes
    ----------
    read_session
        Reads some trials of a session, each as T x V values that follow each other.
    n_vertices
        Vertices V of the fMRI.
    chunk_trials
        Trials of a session that are stored, and read, together: 0 to ``chunk_trials - 1``, and so
        on.
    window
        Trials among which the next one is drawn when they are shuffled.
    dtype
        What the trials in the window are kept in.
    n_times
        Time points T of a trial: a beta is one.
    """

    read_session: ReadSession
    n_vertices: int
    chunk_trials: int
    window: int
    dtype: DataDtype = "float32"
    n_times: int = 1

    def gather(self, device: torch.device, batch_size: int) -> Gather:
        """Prepare to put batches of at most ``batch_size`` trials on a device."""
        return gather_rows(self, _Window(self, batch_size), device, batch_size)


def stream_trials(
    trials: pd.DataFrame,
    n_vertices: int,
    read_session: ReadSession,
    image_ids: Integers,
    embeddings: Floats,
    *,
    chunk_trials: int,
    window: int,
    dtype: DataDtype = "float32",
    n_times: int = 1,
) -> StreamedTrials:
    """Put the trials of a cohort and the embeddings of what was seen together; fMRI stays put.

    Parameters
    ----------
    trials, n_vertices, read_session, image_ids, embeddings
        As for :func:`assemble_trials`, which gives the same trials in the same order.
        ``read_session`` is called for trials of one chunk at a time, from a thread.
    chunk_trials, window, dtype, n_times
        See :class:`StreamedTrials`, and :func:`window_of` for a window that fits into memory.

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    MappingError
        If a session lists a trial twice.
    ArtifactError
        If an image has no embedding.
    """
    ordered = pd.concat(by_session(trials).values(), ignore_index=True)
    return StreamedTrials(
        read_session=read_session,
        n_vertices=n_vertices,
        chunk_trials=chunk_trials,
        window=window,
        dtype=dtype,
        n_times=n_times,
        targets=np.require(embeddings, np.float32, ["C", "W"]),
        target_index=target_rows(ordered["image_id"].to_numpy(dtype=np.int64), image_ids),
        trials=ordered,
    )


def window_of(
    n_bytes: float, n_vertices: int, chunk_trials: int, batch_size: int, dtype: DataDtype
) -> int:
    """Find how many trials can be shuffled within so many bytes.

    Besides the window of the training trials there are the batches, the chunks that are read ahead
    or being read, and as much again for the trials of the validation, which come in order.

    Raises
    ------
    NotEnoughDataError
        If the window would hold fewer than 16 chunks.
    """
    row = n_vertices * (4 if dtype == "float32" else 2)
    reading = 3 * chunk_trials * n_vertices * 4
    around = 2 * ((3 * batch_size + (READ_AHEAD + 1) * chunk_trials) * row + reading)
    window = int((n_bytes - around) // row)
    if window < LEAST_CHUNKS * chunk_trials:
        least = around + LEAST_CHUNKS * chunk_trials * row
        raise NotEnoughDataError(
            f"{n_bytes / 1e9:.2f} GB of memory are too little to shuffle betas of {n_vertices}"
            " vertices in.",
            next_step=f"set memory_gb to {np.ceil(least / 1e8) / 10:.1f} or more.",
        )
    return window


def shuffled(block_of: Integers, window: int, generator: torch.Generator) -> Tensor:
    """Draw an order (N,) of trials that reads blocks one after the other.

    Parameters
    ----------
    block_of
        Block (N,) of each trial.
    window
        Trials among which the next one is drawn.
    generator
        Source of randomness.
    """
    n_trials = len(block_of)
    if window >= n_trials:
        return torch.randperm(n_trials, generator=generator)
    _, block_of = np.unique(block_of, return_inverse=True)
    place = torch.randperm(int(block_of.max()) + 1, generator=generator).numpy()
    sequence = np.argsort(place[block_of], kind="stable")
    first = min(window, LEAST_CHUNKS * int(np.bincount(block_of).max()))
    held, coming = sequence[:first].tolist(), iter(sequence[first:].tolist())
    order = []
    for number in torch.rand(n_trials, generator=generator).tolist():
        drawn = int(number * len(held))
        order.append(held[drawn])
        # The last one takes the place when nothing more comes.
        held[drawn] = next(coming, held[-1])
        if n_trials - len(order) < len(held):
            held.pop()
        elif len(held) < window:
            held.extend(itertools.islice(coming, 1))
    return torch.tensor(order, dtype=torch.int64)


class _Window:
    """Rows of trials, most of which come from a thread that reads ahead."""

    def __init__(self, data: StreamedTrials, batch_size: int) -> None:
        self._data, self._batch_size = data, batch_size
        self._dtype: torch.dtype = getattr(torch, data.dtype)
        keys = ["subject", "session"]
        sessions = data.trials.groupby(keys, sort=False).ngroup().to_numpy(dtype=np.int64)
        self._numbers = data.trials["trial"].to_numpy(dtype=np.int64)
        chunk = self._numbers // data.chunk_trials
        self._block_of: Integers = sessions * (int(chunk.max(initial=0)) + 1) + chunk
        self._names = list(data.trials[keys].itertuples(index=False, name=None))
        self._width = data.n_times * data.n_vertices
        self._places = torch.empty((0, self._width), dtype=self._dtype)
        self._expected, self._n_taken = np.empty(0, np.int64), 0
        self._prefetch: Prefetch | None = None
        self._stop = weakref.finalize(self, lambda: None)

    def buffer(self, batch_size: int, *, pin_memory: bool = False) -> Tensor:
        shape = (batch_size, self._data.n_times, self._data.n_vertices)
        return torch.empty(shape, dtype=self._dtype, pin_memory=pin_memory)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        return shuffled(self._block_of, self._data.window, generator)

    def expect(self, order: Tensor) -> None:
        """Start to read what comes first in an order of trials, each at most once."""
        self._stop()
        self._expected, self._n_taken = order.numpy(), 0
        plan = Plan.of(self._expected, self._block_of, self._batch_size)
        if plan.n_places > len(self._places):
            self._places = self._places[:0].clone()  # before the new memory is asked for
            # The thread writes to it, and is in no inference mode.
            with torch.inference_mode(False):
                self._places = torch.empty((plan.n_places, self._width), dtype=self._dtype)
        self._prefetch = Prefetch(
            _BlockReader(self._data.read_session, self._names, self._numbers),
            plan,
            self._places,
            self._data.n_trials,
        )
        self._stop = weakref.finalize(self, self._prefetch.stop)

    def copy(self, trials: Tensor, buffer: Tensor) -> Tensor:
        wanted: Integers = trials.numpy()
        batch = buffer[: len(wanted)]
        rows = batch.view(len(wanted), self._width)
        expected = self._expected[self._n_taken : self._n_taken + len(wanted)]
        if self._prefetch is not None and np.array_equal(expected, wanted):
            # There is room for so many at a time.
            for start in range(0, len(wanted), self._batch_size):
                part = slice(start, start + self._batch_size)
                self._prefetch.take(wanted[part], rows[part])
            self._n_taken += len(wanted)
        else:
            self._read_now(wanted, rows)
        return batch

    def _read_now(self, wanted: Integers, out: Tensor) -> None:
        """Read trials that nobody had expected."""
        read = _BlockReader(self._data.read_session, self._names, self._numbers)
        for block in np.unique(self._block_of[wanted]):
            places = np.flatnonzero(self._block_of[wanted] == block)
            distinct, inverse = np.unique(wanted[places], return_inverse=True)
            values = np.empty((len(distinct), self._width), np.float32)
            read(distinct, values)
            out[torch.from_numpy(places)] = torch.from_numpy(values[inverse]).to(self._dtype)


@dataclass(frozen=True)
class _BlockReader:
    """Trials of one block, by their places in the table; knows nothing of the window it fills."""

    read_session: ReadSession
    names: list[tuple[str, int]]
    numbers: NDArray[np.int64]

    def __call__(self, rows: Integers, out: Floats) -> None:
        subject, session = self.names[rows[0]]
        self.read_session(subject, int(session), self.numbers[rows], out)
