"""Getting a batch of trials to where the model is.

A trial is one or more rows that follow each other in one contiguous array, so a batch of B trials
of T time points is B x T rows. On the CPU they are copied into one buffer that is used again and
again; the model gets a view of it. On a GPU the rows lie there from the start if they fit;
otherwise each batch goes through page-locked memory, so that its copy runs while the GPU still
works on the last one.

Rows come from an array, or through a window on the store (see ``stream``). They are kept, sent to a
GPU and handed out in whatever precision they have: a step that rounds to bfloat16 anyway need not
turn them into float32 first.
"""

from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.data import Gather, Integers, LabelledTrials, SeenTrials
from nsd_pipeline.decoding.dtypes import as_tensor

RESIDENT_SHARE: Final = 0.6
"""Rows stay on the GPU if they take no more than this share of its free memory."""

_ROWS_AT_ONCE = 1024


class Rows(Protocol):
    """Trials on the host, and how to copy some into a buffer (batch, T, V)."""

    def buffer(self, batch_size: int, *, pin_memory: bool = False) -> Tensor:
        """Buffer for ``batch_size`` trials, in the precision they are kept in."""
        ...

    def copy(self, trials: Tensor, buffer: Tensor) -> Tensor:
        """Fill a buffer's beginning with trials, and return that part."""
        ...

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """See :class:`Gather`."""
        ...

    def expect(self, order: Tensor) -> None:
        """See :class:`Gather`."""
        ...


def gather_trials(data: LabelledTrials, device: torch.device, batch_size: int) -> Gather:
    """Prepare to put batches of at most ``batch_size`` trials on a device.

    Parameters
    ----------
    data
        Trials.
    device
        Where batches are wanted.
    batch_size
        Trials of the largest batch.
    """
    if device.type != "cuda":
        return _OnHost(data, batch_size)
    n_bytes = len(np.unique(_rows(data))) * data.n_vertices * data.values.itemsize
    if fits_device(n_bytes, device):
        return _OnDevice(data, device)
    return _Streamed(data, device, batch_size)


def gather_rows(data: SeenTrials, rows: Rows, device: torch.device, batch_size: int) -> Gather:
    """Put batches on a device, of trials whose rows come from elsewhere than an array.

    Parameters
    ----------
    data
        Trials.
    rows
        Where their fMRI comes from.
    device, batch_size
        As for :func:`gather_trials`.
    """
    if device.type != "cuda":
        return _OnHost(data, batch_size, rows)
    n_bytes = rows.buffer(1).nbytes * data.n_trials
    if fits_device(n_bytes, device):
        return _ReadOntoDevice(data, device, rows)
    return _Streamed(data, device, batch_size, rows)


def fits_device(n_bytes: int, device: torch.device) -> bool:
    """Say whether a GPU has room for so much and a model besides."""
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= RESIDENT_SHARE * free


def _rows(data: LabelledTrials) -> Integers:
    """Rows (N, T) of every trial."""
    return data.first_rows[:, None] + np.arange(data.n_times)


class _Targets:
    """Embeddings, and which trial showed which image; a GPU gets those that were shown only."""

    def __init__(self, data: SeenTrials, device: torch.device) -> None:
        values, index = data.targets, data.target_index
        if device.type == "cuda":
            shown, index = np.unique(index, return_inverse=True)
            values = values[shown]
        self._values = torch.from_numpy(values).to(device)
        self._index = torch.from_numpy(index).to(device)

    def __call__(self, trials: Tensor) -> Tensor:
        return self._values.index_select(0, self._index[trials])


class _InMemory:
    """Rows of an array. They come in any order at the same cost."""

    def __init__(self, data: LabelledTrials) -> None:
        self._values, self._rows = as_tensor(data.values), torch.from_numpy(_rows(data))
        self._shape = (data.n_times, data.n_vertices)

    def buffer(self, batch_size: int, *, pin_memory: bool = False) -> Tensor:
        shape = (batch_size, *self._shape)
        return torch.empty(shape, dtype=self._values.dtype, pin_memory=pin_memory)

    def copy(self, trials: Tensor, buffer: Tensor) -> Tensor:
        batch = buffer[: len(trials)]
        rows = self._rows[trials].flatten()
        torch.index_select(self._values, 0, rows, out=batch.view(len(rows), self._shape[1]))
        return batch

    def shuffle(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self._rows), generator=generator)

    def expect(self, order: Tensor) -> None:
        pass


def _rows_of(data: SeenTrials) -> Rows:
    assert isinstance(data, LabelledTrials)  # noqa: S101  # others bring their rows with them
    return _InMemory(data)


class _OnHost:
    def __init__(self, data: SeenTrials, batch_size: int, rows: Rows | None = None) -> None:
        self._rows = rows or _rows_of(data)
        self._buffer = self._rows.buffer(batch_size)
        self._targets = _Targets(data, torch.device("cpu"))
        self.shuffle, self.expect = self._rows.shuffle, self._rows.expect

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._rows.copy(trials, self._buffer)
        return batch.transpose(1, 2), self._targets(trials)


class _Resident:
    """What lies on the GPU comes in any order."""

    _n_trials: int

    def shuffle(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self._n_trials, generator=generator)

    def expect(self, order: Tensor) -> None:
        pass


class _OnDevice(_Resident):
    """Every row that some trial needs, once: windows of neighbouring trials overlap."""

    def __init__(self, data: LabelledTrials, device: torch.device) -> None:
        self._device, self._n_trials = device, data.n_trials
        used, places = np.unique(_rows(data), return_inverse=True)
        host = as_tensor(data.values)
        self._values = torch.empty((len(used), data.n_vertices), dtype=host.dtype, device=device)
        for start in range(0, len(used), _ROWS_AT_ONCE):
            block = host[torch.from_numpy(used[start : start + _ROWS_AT_ONCE])]
            self._values[start : start + len(block)] = block
        self._rows = torch.from_numpy(places.reshape(data.n_trials, data.n_times)).to(device)
        self._targets = _Targets(data, device)

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        trials = trials.to(self._device)
        fmri = self._values[self._rows[trials]]
        return fmri.transpose(1, 2), self._targets(trials)


class _ReadOntoDevice(_Resident):
    """Trials that go from the store to the GPU, and never are in host memory all at once."""

    def __init__(self, data: SeenTrials, device: torch.device, rows: Rows) -> None:
        self._device, self._n_trials = device, data.n_trials
        buffer = rows.buffer(_ROWS_AT_ONCE)
        shape = (data.n_trials, *buffer.shape[1:])
        self._values = torch.empty(shape, dtype=buffer.dtype, device=device)
        order = torch.arange(data.n_trials)
        rows.expect(order)
        for trials in torch.split(order, _ROWS_AT_ONCE):
            self._values[trials[0] : trials[-1] + 1] = rows.copy(trials, buffer)
        self._targets = _Targets(data, device)

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        trials = trials.to(self._device)
        return self._values[trials].transpose(1, 2), self._targets(trials)


class _Streamed:
    """Two page-locked buffers in turn: one is filled while the other one is still being sent."""

    def __init__(
        self,
        data: SeenTrials,
        device: torch.device,
        batch_size: int,
        rows: Rows | None = None,
    ) -> None:
        self._device = device
        self._rows = rows or _rows_of(data)
        self._targets = _Targets(data, device)
        cuda = device.type == "cuda"
        self._buffers = [self._rows.buffer(batch_size, pin_memory=cuda) for _ in range(2)]
        # The CPU copies at once.
        self._sent = [torch.Event(device) if cuda else None for _ in self._buffers]
        self._turn = 0
        self.shuffle, self.expect = self._rows.shuffle, self._rows.expect

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        self._turn = 1 - self._turn
        sent = self._sent[self._turn]
        if sent is not None:
            sent.synchronize()
        batch = self._rows.copy(trials, self._buffers[self._turn])
        on_device = batch.to(self._device, non_blocking=True)
        if sent is not None:
            sent.record()
        return on_device.transpose(1, 2), self._targets(trials.to(self._device))
