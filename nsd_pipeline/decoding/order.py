"""In which order trials are learned from: the reference's own, drawn as its data loader draws it.

The reference shuffles with torch's DataLoader and RandomSampler (no worker processes), whose
generator also gives numbers that are not used for the order. They are drawn here too, or every
later epoch would have another order than the reference's (REFERENCE, data seed 33).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Shuffle = Callable[[torch.Generator], Tensor]
"""Draws an order (N,) in which each of N trials comes once."""


class TrialOrder:
    """Orders of the epochs of one training.

    Parameters
    ----------
    data_seed
        Seed of the data; 33 in the reference.
    n_trials
        Number N of trials to learn from.
    """

    def __init__(self, data_seed: int, n_trials: int) -> None:
        self._n_trials = n_trials
        # The first of the four streams that the reference splits its data seed into.
        stream = int(np.random.SeedSequence(data_seed).generate_state(4)[0])
        self._generator = torch.Generator().manual_seed(stream)
        # Two iterators are opened before training, and one of them gives a batch.
        self._draw_worker_seed()
        self._draw_worker_seed()
        self._draw_permutation()

    def epoch(self, shuffle: Shuffle) -> Tensor:
        """Draw the order (N,) of the next epoch."""
        order = shuffle(self._generator)
        # RandomSampler draws a second permutation to fill up what is left of an epoch: nothing.
        self._draw_permutation()
        self._draw_worker_seed()
        return order

    def state(self) -> Tensor:
        """Where the draws stand, for :meth:`restore`."""
        return self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Go on from where the draws stood."""
        self._generator.set_state(state)

    def _draw_permutation(self) -> None:
        torch.randperm(self._n_trials, generator=self._generator)

    def _draw_worker_seed(self) -> None:
        torch.empty((), dtype=torch.int64).random_(generator=self._generator)
