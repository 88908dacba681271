"""A window on more trials than memory holds, filled by a thread that reads ahead.

Trials are stored in blocks, of which all that is wanted is read at once. Given the order in which
trials will be asked for, blocks are read in the order in which each is first needed; a trial stays
in memory until it has been asked for, and its place is then free for another one. How much memory
an order needs can therefore be told beforehand.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.memory import READ_AHEAD
from nsd_pipeline.decoding.rows import Integers

ReadTrials = Callable[[Integers, Tensor], object]
"""From numbers of trials (n,) of one block, ascending, and a tensor (n, T x V) to fill."""


@dataclass(frozen=True)
class Plan:
    """What to read for an order of trials, and how many of them are in memory at a time.

    Attributes
    ----------
    reads
        Trials of each block, in the order in which the blocks are read.
    n_places
        Trials that memory must hold.
    """

    reads: list[Integers]
    n_places: int

    @classmethod
    def of(cls, order: Integers, block_of: Integers, batch_size: int) -> "Plan":
        """Plan reading.

        Parameters
        ----------
        order
            Trials (n,) as they will be asked for, each once.
        block_of
            Block (N,) of every trial.
        batch_size
            How many are asked for together, at most.
        """
        blocks = block_of[order]
        distinct, first = np.unique(blocks, return_index=True)
        by_block = order[np.lexsort((order, blocks))]
        groups = np.split(by_block, np.cumsum(np.unique(blocks, return_counts=True)[1])[:-1])
        sequence = np.argsort(first)
        reads = [groups[i] for i in sequence] if len(distinct) else []
        sizes = np.array([len(rows) for rows in reads], dtype=np.int64)
        read = np.concatenate([[0], np.cumsum(sizes)])
        given = np.arange(len(order))
        needed = read[np.searchsorted(first[sequence], given + batch_size)] - given
        most = int(needed.max(initial=0)) + READ_AHEAD * int(sizes.max(initial=0))
        return cls(reads, min(most, len(order)))


class Prefetch:
    """Trials of a plan, read by a thread.

    Parameters
    ----------
    read
        Reads some trials of one block. Called in the thread.
    plan
        What to read.
    places
        Memory (at least ``plan.n_places``, V), in any precision.
    n_trials
        How many trials there are in all.
    """

    def __init__(self, read: ReadTrials, plan: Plan, places: Tensor, n_trials: int) -> None:
        self._read, self._plan, self._places = read, plan, places
        self._place_of = np.full(n_trials, -1, dtype=np.int64)
        self._free = list(range(len(places)))
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read fMRI", daemon=True)
        self._thread.start()

    def take(self, trials: Integers, out: Tensor) -> None:
        """Copy trials (n,) to ``out`` (n, V), as soon as they are there, and forget them.

        What the thread failed with is raised here.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or (self._place_of[trials] >= 0).all())
            if self._error is not None:
                raise self._error
            places = self._place_of[trials]
        torch.index_select(self._places, 0, torch.from_numpy(places), out=out)
        with self._changed:
            self._place_of[trials] = -1
            self._free.extend(places.tolist())
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread; the memory can be used for something else then."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            largest = max((len(rows) for rows in self._plan.reads), default=0)
            staging = torch.empty((largest, self._places.shape[1]), dtype=self._places.dtype)
            for rows in self._plan.reads:
                block = staging[: len(rows)]
                self._read(rows, block)
                places = self._reserve(len(rows))
                if self._stopped:
                    return
                self._places[places] = block
                with self._changed:
                    self._place_of[rows] = places
                    self._changed.notify_all()
        except BaseException as error:  # raised where trials are asked for
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _reserve(self, n: int) -> list[int]:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._free) >= n)
            places, self._free = self._free[:n], self._free[n:]
            return places
