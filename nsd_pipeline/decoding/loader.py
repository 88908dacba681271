"""Getting batches of trials to where the model is, from memory or from the store.

A trial is one or more rows that follow each other, so a batch of B trials of T time points is B x T
rows. On the CPU they are copied into one buffer that is used again and again; the model gets a view
of it. On a GPU the rows lie there from the start if they fit; otherwise each batch goes through
page-locked memory, so that its copy runs while the GPU still works on the last one.

Trials that stay in the store are read by a thread, ahead of the batch that is asked for: of each
block all that is wanted at once, in the order in which blocks are first needed. A trial stays in
memory until it has been asked for, and its place is then free for another one.

Rows are sent to a GPU and given to the model in whatever precision they are kept in: a step that
rounds to bfloat16 anyway need not turn them into float32 first.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.order import ReadingPlan, shuffled
from nsd_pipeline.decoding.rows import HeldRows, Integers, StoredRows
from nsd_pipeline.decoding.trials import Trials

RESIDENT_SHARE: Final = 0.6
"""Rows stay on the GPU if they take no more than this share of its free memory."""

_ROWS_AT_ONCE: Final = 1024
"""Rows that are copied to a GPU together, so that few of them are in host memory."""


def _dtype(trials: Trials) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, trials.rows.dtype)
    return dtype


class _Targets:
    """Embeddings, and which trial showed which image; a GPU gets those that were shown only."""

    def __init__(self, trials: Trials, device: torch.device) -> None:
        values, index = trials.targets, trials.target_index
        if device.type == "cuda":
            shown, index = np.unique(index, return_inverse=True)
            values = values[shown]
        self._values = torch.from_numpy(values).to(device)
        self._index = torch.from_numpy(index).to(device)

    def __call__(self, numbers: Tensor) -> Tensor:
        return self._values.index_select(0, self.images(numbers))

    def images(self, numbers: Tensor) -> Tensor:
        return self._index[numbers]


class _HeldBatches:
    """Batches of rows in memory, which come in any order at the same cost."""

    def __init__(self, trials: Trials, rows: HeldRows) -> None:
        self._rows, self._places = rows, trials.places()

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order (N,) in which each trial comes once."""
        return torch.randperm(len(self._places), generator=generator)

    def begin(self, order: Tensor) -> None:
        """Do nothing: all is there."""

    def copy(self, trials: Tensor, out: Tensor) -> None:
        """Copy trials (B,) to ``out`` (B, T, V)."""
        places = self._places[trials.numpy()].ravel()
        self._rows.copy(places, out.view(len(places), out.shape[2]))


class _StoredBatches:
    """Batches, of at most `batch_size` trials, that a thread reads ahead from the store."""

    def __init__(self, trials: Trials, rows: StoredRows, batch_size: int) -> None:
        self._window, self._batch_size = rows.window, batch_size
        # Not a method of these batches: the thread would keep them alive, and they end the thread.
        self._read = partial(_read_trials, rows, trials.places())
        self._block_of: Integers = trials.first_row // rows.block_rows
        self._places = torch.empty((0, trials.n_times * rows.n_vertices), dtype=_dtype(trials))
        self._reading: _ReadAhead | None = None
        self._stop = weakref.finalize(self, lambda: None)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order (N,) in which each trial comes once."""
        return shuffled(self._block_of, self._window, generator)

    def begin(self, order: Tensor) -> None:
        """Start to read what comes first in an order of trials (n,), each at most once."""
        self._stop()
        plan = ReadingPlan.of(order.numpy(), self._block_of, self._batch_size)
        if plan.n_places > len(self._places):
            shape, dtype = (plan.n_places, self._places.shape[1]), self._places.dtype
            self._places = self._places[:0].clone()  # before the new memory is asked for
            # The thread writes to it, and is in no inference mode.
            with torch.inference_mode(False):
                self._places = torch.empty(shape, dtype=dtype)
        self._reading = _ReadAhead(self._read, plan, self._places, len(self._block_of))
        self._stop = weakref.finalize(self, self._reading.stop)

    def copy(self, trials: Tensor, out: Tensor) -> None:
        """Copy the trials (B,) that come next in the order to ``out`` (B, T, V)."""
        assert self._reading is not None  # noqa: S101  # an order is begun first
        self._reading.take(trials.numpy(), out.view(len(trials), -1))


def _read_trials(rows: StoredRows, places: Integers, trials: Integers, out: Tensor) -> None:
    """Fill ``out`` (n, T x V) with trials (n,) of one block; ``places`` (N, T) has all rows."""
    wanted = places[trials].ravel()
    rows.copy(wanted, out.view(len(wanted), rows.n_vertices))


class _ReadAhead:
    """Trials of a plan, read by a thread into ``places`` (at least ``plan.n_places``, T x V).

    ``read`` is called in the thread with trials (n,) of one block, ascending, and a tensor
    (n, T x V) to fill.
    """

    def __init__(
        self,
        read: Callable[[Integers, Tensor], None],
        plan: ReadingPlan,
        places: Tensor,
        n_trials: int,
    ) -> None:
        self._read, self._plan, self._places = read, plan, places
        self._place_of = np.full(n_trials, -1, dtype=np.int64)
        self._free = list(range(len(places)))
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read fMRI", daemon=True)
        self._thread.start()

    def take(self, trials: Integers, out: Tensor) -> None:
        """Copy trials (n,) to ``out`` (n, T x V), as soon as they are there, and forget them.

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


class HostLoader:
    """Batches that are copied together on the CPU, and sent to a GPU if the model is there.

    Two page-locked buffers are used in turn for a GPU: one is filled while the other one is still
    being sent. Parameters are those of :func:`load_trials`.
    """

    def __init__(self, trials: Trials, device: torch.device, batch_size: int) -> None:
        self._device = device
        rows = trials.rows
        self._batches = (
            _HeldBatches(trials, rows)
            if isinstance(rows, HeldRows)
            else _StoredBatches(trials, rows, batch_size)
        )
        self._targets = _Targets(trials, device)
        cuda = device.type == "cuda"
        shape = (batch_size, trials.n_times, trials.n_vertices)
        self._buffers = [
            torch.empty(shape, dtype=_dtype(trials), pin_memory=cuda)
            for _ in range(2 if cuda else 1)
        ]
        # When the copy of each buffer to the GPU is done; on the CPU there is none to wait for.
        self._sent = [torch.Event(device) if cuda else None for _ in self._buffers]

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order (N,) in which every trial comes once.

        Any order is as likely as any other one, unless trials come from the store.
        """
        return self._batches.shuffle(generator)

    def batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give one batch after the other, by the numbers (B,) of its trials, each at most once.

        The numbers are on the CPU. Yields fMRI (B, V, T) in the precision it is kept in, and
        targets (B, D). They hold until the next batch is asked for, which may use their memory.
        """
        if batches:
            self._batches.begin(torch.cat(list(batches)))
        for number, trials in enumerate(batches):
            turn = number % len(self._buffers)
            sent = self._sent[turn]
            if sent is not None:
                sent.synchronize()
            batch = self._buffers[turn][: len(trials)]
            self._batches.copy(trials, batch)
            fmri = batch.to(self._device, non_blocking=True)
            if sent is not None:
                sent.record()
            yield fmri.transpose(1, 2), self._targets(trials.to(self._device))


class ResidentLoader:
    """Every row that some trial needs lies on the device, once: windows of neighbours overlap.

    Rows that come from the store never are in host memory all at once. Parameters are those of
    :func:`load_trials`.
    """

    def __init__(self, trials: Trials, device: torch.device) -> None:
        self._device, self._n_trials = device, trials.n_trials
        used, places = np.unique(trials.places(), return_inverse=True)
        shape, dtype = (len(used), trials.n_vertices), _dtype(trials)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        # Page-locked, because the driver would copy what is not once more, at a fraction of the
        # speed.
        buffer = torch.empty(
            (min(_ROWS_AT_ONCE, len(used)), shape[1]),
            dtype=dtype,
            pin_memory=device.type == "cuda",
        )
        for start in range(0, len(used), _ROWS_AT_ONCE):
            rows = used[start : start + _ROWS_AT_ONCE]
            trials.rows.copy(rows, buffer[: len(rows)])
            self._values[start : start + len(rows)] = buffer[: len(rows)]
        self._places = torch.from_numpy(places.reshape(trials.n_trials, trials.n_times)).to(device)
        self._targets = _Targets(trials, device)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order (N,) in which every trial comes once."""
        return torch.randperm(self._n_trials, generator=generator)

    def batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`HostLoader.batches`."""
        for trials in batches:
            yield self.batch(trials.to(self._device))

    def batch(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        """Give fMRI (B, V, T) and targets (B, D) of trials (B,), a tensor on the device.

        The host waits for nothing, so that it can be part of a CUDA graph.
        """
        return self._values[self._places[trials]].transpose(1, 2), self._targets(trials)

    def images(self, trials: Tensor) -> Tensor:
        """Give each of the trials (B,), a tensor on the device, the number (B,) of its image."""
        return self._targets.images(trials)


Loader = HostLoader | ResidentLoader


def load_trials(trials: Trials, device: torch.device, batch_size: int) -> Loader:
    """Prepare to put batches of trials, of which the largest has `batch_size`, on a device."""
    if device.type == "cuda" and _fits(trials, device):
        return ResidentLoader(trials, device)
    return HostLoader(trials, device, batch_size)


def _fits(trials: Trials, device: torch.device) -> bool:
    """Whether a GPU has room for all rows that some trial needs, and a model besides."""
    free, _ = torch.cuda.mem_get_info(device)
    n_bytes = len(np.unique(trials.places())) * trials.n_vertices * _dtype(trials).itemsize
    return n_bytes <= RESIDENT_SHARE * free
