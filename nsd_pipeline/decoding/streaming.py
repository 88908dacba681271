"""Trials that stay in the store: a cohort larger than memory, read anew in every epoch.

Sessions are stored in blocks of rows that follow each other. Every epoch reads what it needs of
each block at once, the blocks in a new random order, into a window of a number of trials; the next
trial is drawn from the window at random and its place is taken by the next one read. An epoch
begins when 16 blocks have been read, and the window then grows to its size. So a trial can meet any
other one in a batch, but trials of one block meet more often than they would in a full shuffle.
With a window of all trials the order is the very one of an array in memory.
"""

import itertools
import weakref

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.memory import LEAST_BLOCKS
from nsd_pipeline.decoding.prefetch import Plan, Prefetch
from nsd_pipeline.decoding.rows import Integers, StoredRows, samples_of


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
    first = min(window, LEAST_BLOCKS * int(np.bincount(block_of).max()))
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


class StoredBatches:
    """Batches of trials that a thread reads ahead from the store.

    Parameters
    ----------
    first_row
        Row (N,) at which each trial begins.
    n_times
        Rows of a trial.
    rows
        The rows.
    batch_size
        Trials of the largest batch.
    """

    def __init__(
        self, first_row: Integers, n_times: int, rows: StoredRows, batch_size: int
    ) -> None:
        self._rows, self._batch_size = rows, batch_size
        self._read = _TrialReader(first_row, n_times, rows)
        self._block_of: Integers = first_row // rows.block_rows
        self._dtype: torch.dtype = getattr(torch, rows.dtype)
        self._width = n_times * rows.n_vertices
        self._places = torch.empty((0, self._width), dtype=self._dtype)
        self._prefetch: Prefetch | None = None
        self._stop = weakref.finalize(self, lambda: None)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order (N,) in which each trial comes once."""
        return shuffled(self._block_of, self._rows.window, generator)

    def expect(self, order: Tensor) -> None:
        """Start to read what comes first in an order of trials (n,), each at most once."""
        self._stop()
        plan = Plan.of(order.numpy(), self._block_of, self._batch_size)
        if plan.n_places > len(self._places):
            self._places = self._places[:0].clone()  # before the new memory is asked for
            # The thread writes to it, and is in no inference mode.
            with torch.inference_mode(False):
                self._places = torch.empty((plan.n_places, self._width), dtype=self._dtype)
        self._prefetch = Prefetch(self._read, plan, self._places, len(self._block_of))
        self._stop = weakref.finalize(self, self._prefetch.stop)

    def copy(self, trials: Tensor, out: Tensor) -> None:
        """Copy the trials (B,) that come next in the order to ``out`` (B, T, V)."""
        assert self._prefetch is not None  # noqa: S101  # an order is expected first
        self._prefetch.take(trials.numpy(), out.view(len(trials), self._width))


class _TrialReader:
    """Reads trials of one block. Holds no `StoredBatches`, or the thread would keep it alive."""

    def __init__(self, first_row: Integers, n_times: int, rows: StoredRows) -> None:
        self._first_row, self._n_times, self._rows = first_row, n_times, rows

    def __call__(self, trials: Integers, out: Tensor) -> None:
        places = samples_of(self._first_row[trials], self._n_times).ravel()
        self._rows.copy(places, out.view(len(places), self._rows.n_vertices))
