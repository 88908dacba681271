"""In which order trials are learned from: the reference's own, drawn as its data loader draws it.

The reference shuffles with torch's DataLoader and RandomSampler (no worker processes), whose
generator also gives numbers that are not used for the order. They are drawn here too, or every
later epoch would have another order than the reference's (REFERENCE, data seed 33).

Trials that stay in the store lie in blocks of rows that follow each other. Every epoch reads what
it needs of each block at once, the blocks in a new random order, into a window of a number of
trials; the next trial is drawn from the window at random and its place is taken by the next one
read. An epoch begins when 16 blocks have been read, and the window then grows to its size. So a
trial can meet any other one in a batch, but trials of one block meet more often than they would in
a full shuffle. With a window of all trials the order is that of trials in memory.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.rows import LEAST_BLOCKS, READ_AHEAD, Integers

Shuffle = Callable[[torch.Generator], Tensor]
"""Draws an order (N,) in which each of N trials comes once."""


class TrialOrder:
    """Orders of the epochs of one training on `n_trials`; `data_seed` is 33 in the reference.

    The state of its `generator` says where the draws stand.
    """

    def __init__(self, data_seed: int, n_trials: int) -> None:
        self._n_trials = n_trials
        # The first of the four streams that the reference splits its data seed into.
        stream = int(np.random.SeedSequence(data_seed).generate_state(4)[0])
        self.generator = torch.Generator().manual_seed(stream)
        # Two iterators are opened before training, and one of them gives a batch.
        self._draw_worker_seed()
        self._draw_worker_seed()
        self._draw_permutation()

    def epoch(self, shuffle: Shuffle) -> Tensor:
        """Draw the order (N,) of the next epoch."""
        order = shuffle(self.generator)
        # RandomSampler draws a second permutation to fill up what is left of an epoch: nothing.
        self._draw_permutation()
        self._draw_worker_seed()
        return order

    def _draw_permutation(self) -> None:
        torch.randperm(self._n_trials, generator=self.generator)

    def _draw_worker_seed(self) -> None:
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)


def shuffled(block_of: Integers, window: int, generator: torch.Generator) -> Tensor:
    """Draw an order (N,) of trials that reads blocks one after the other.

    `block_of` (N,) is the block of each trial, and `window` the number of trials among which the
    next one is drawn.
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
        # What is read next takes its place; when nothing more comes, the last one does, and one
        # place less is left.
        held[drawn] = next(coming, held[-1])
        if n_trials - len(order) < len(held):
            held.pop()
        elif len(held) < window:
            held.extend(itertools.islice(coming, 1))
    return torch.tensor(order, dtype=torch.int64)


@dataclass(frozen=True)
class ReadingPlan:
    """What to read for an order of trials, and how many of them memory must hold at a time.

    `reads` are the trials of each block, in the order in which the blocks are read, and `n_places`
    the trials that memory must hold.
    """

    reads: list[Integers]
    n_places: int

    @classmethod
    def of(cls, order: Integers, block_of: Integers, batch_size: int) -> "ReadingPlan":
        """Plan reading for trials (n,) in the order in which they are asked for, each once.

        `block_of` (N,) is the block of every trial; at most `batch_size` are asked for together.
        """
        blocks = block_of[order]
        distinct, first = np.unique(blocks, return_index=True)
        by_block = order[np.lexsort((order, blocks))]
        groups = np.split(by_block, np.cumsum(np.unique(blocks, return_counts=True)[1])[:-1])
        sequence = np.argsort(first)  # of the blocks: as they are first needed
        reads = [groups[i] for i in sequence] if len(distinct) else []
        sizes = np.array([len(rows) for rows in reads], dtype=np.int64)
        n_read = np.concatenate([[0], np.cumsum(sizes)])  # trials, once b blocks are read
        n_given = np.arange(len(order))
        # The next batch needs every block that a trial before its end is of. All trials of these
        # blocks are in memory then, but for those that have been given.
        needed = n_read[np.searchsorted(first[sequence], n_given + batch_size)] - n_given
        most = int(needed.max(initial=0)) + READ_AHEAD * int(sizes.max(initial=0))
        return cls(reads, min(most, len(order)))
