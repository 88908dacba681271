"""Getting batches of trials to where the model is, from memory or from the store.

A trial is one or more rows that follow each other, so a batch of B trials of T time points is B x T
rows. On the CPU they are copied into one buffer that is used again and again; the model gets a view
of it. On a GPU the rows lie there from the start if they fit; otherwise each batch goes through
page-locked memory, so that its copy runs while the GPU still works on the last one.

Rows are sent to a GPU and given to the model in whatever precision they are kept in: a step that
rounds to bfloat16 anyway need not turn them into float32 first.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.rows import HeldRows, StoredRows
from nsd_pipeline.decoding.streaming import StoredBatches
from nsd_pipeline.decoding.trials import Trials, trial_rows

RESIDENT_SHARE: Final = 0.6
"""Rows stay on the GPU if they take no more than this share of its free memory."""

_ROWS_AT_ONCE: Final = 1024


class Loader(Protocol):
    """Batches of trials on a device, and the order in which they are best asked for."""

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order (N,) in which every trial comes once.

        Any order is as likely as any other one, unless trials come from a disk.
        """
        ...

    def batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give one batch after the other.

        Parameters
        ----------
        batches
            Numbers (B,) of the trials of each batch, on the CPU; each trial at most once.

        Yields
        ------
        tuple
            fMRI (B, V, T) in the precision it is kept in, and targets (B, D). They hold until the
            next batch is asked for, which may use their memory.
        """
        ...


class HostBatches(Protocol):
    """Batches of fMRI on the CPU, in buffers that the caller provides."""

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """See :meth:`Loader.shuffle`."""
        ...

    def expect(self, order: Tensor) -> None:
        """Say which trials (n,) will be asked for, in which order."""
        ...

    def copy(self, trials: Tensor, out: Tensor) -> None:
        """Copy the trials (B,) that come next to ``out`` (B, T, V)."""
        ...


def load_trials(trials: Trials, device: torch.device, batch_size: int) -> Loader:
    """Prepare to put batches of trials on a device.

    Parameters
    ----------
    trials
        Trials, in memory or in the store.
    device
        Where batches are wanted.
    batch_size
        Trials of the largest batch.
    """
    if device.type == "cuda" and _fits(trials, device):
        return ResidentLoader(trials, device)
    return HostLoader(trials, device, batch_size)


def _fits(trials: Trials, device: torch.device) -> bool:
    """Whether a GPU has room for all rows that some trial needs, and a model besides."""
    free, _ = torch.cuda.mem_get_info(device)
    n_bytes = len(np.unique(trial_rows(trials))) * trials.n_vertices * _dtype(trials).itemsize
    return n_bytes <= RESIDENT_SHARE * free


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
        return self._values.index_select(0, self._index[numbers])


class _HeldBatches:
    """Batches of rows in memory, which come in any order at the same cost."""

    def __init__(self, trials: Trials, rows: HeldRows) -> None:
        self._rows, self._places = rows, trial_rows(trials)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self._places), generator=generator)

    def expect(self, order: Tensor) -> None:
        pass

    def copy(self, trials: Tensor, out: Tensor) -> None:
        places = self._places[trials.numpy()].ravel()
        self._rows.copy(places, out.view(len(places), out.shape[2]))


def _host_batches(trials: Trials, batch_size: int) -> HostBatches:
    rows = trials.rows
    if isinstance(rows, HeldRows):
        return _HeldBatches(trials, rows)
    assert isinstance(rows, StoredRows)  # noqa: S101  # there are no other rows
    return StoredBatches(trials.first_row, trials.n_times, rows, batch_size)


class HostLoader:
    """Batches that are copied together on the CPU, and sent to a GPU if the model is there.

    Two page-locked buffers are used in turn for a GPU: one is filled while the other one is still
    being sent.

    Parameters
    ----------
    trials, device, batch_size
        As for :func:`load_trials`.
    """

    def __init__(self, trials: Trials, device: torch.device, batch_size: int) -> None:
        self._device = device
        self._batches = _host_batches(trials, batch_size)
        self._targets = _Targets(trials, device)
        cuda = device.type == "cuda"
        shape = (batch_size, trials.n_times, trials.n_vertices)
        self._buffers = [
            torch.empty(shape, dtype=_dtype(trials), pin_memory=cuda)
            for _ in range(2 if cuda else 1)
        ]
        # The CPU copies at once.
        self._sent = [torch.Event(device) if cuda else None for _ in self._buffers]
        self.shuffle = self._batches.shuffle

    def batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`Loader.batches`."""
        if batches:
            self._batches.expect(torch.cat(list(batches)))
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

    Rows that come from the store never are in host memory all at once.

    Parameters
    ----------
    trials, device
        As for :func:`load_trials`.
    """

    def __init__(self, trials: Trials, device: torch.device) -> None:
        self._device, self._n_trials = device, trials.n_trials
        used, places = np.unique(trial_rows(trials), return_inverse=True)
        shape, dtype = (len(used), trials.n_vertices), _dtype(trials)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        buffer = torch.empty((min(_ROWS_AT_ONCE, len(used)), shape[1]), dtype=dtype)
        for start in range(0, len(used), _ROWS_AT_ONCE):
            rows = used[start : start + _ROWS_AT_ONCE]
            trials.rows.copy(rows, buffer[: len(rows)])
            self._values[start : start + len(rows)] = buffer[: len(rows)]
        self._places = torch.from_numpy(places.reshape(trials.n_trials, trials.n_times)).to(device)
        self._targets = _Targets(trials, device)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """See :meth:`Loader.shuffle`."""
        return torch.randperm(self._n_trials, generator=generator)

    def batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`Loader.batches`."""
        for trials in batches:
            numbers = trials.to(self._device)
            fmri = self._values[self._places[numbers]]
            yield fmri.transpose(1, 2), self._targets(numbers)
