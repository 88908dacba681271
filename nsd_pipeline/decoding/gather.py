"""Getting a batch of trials to where the model is.

A trial is one or more rows that follow each other in one contiguous array, so a batch of B trials
of T time points is B x T rows. On the CPU they are copied into one buffer that is used again and
again; the model gets a view of it. On a GPU the rows lie there from the start if they fit;
otherwise each batch goes through page-locked memory, so that its copy runs while the GPU still
works on the last one.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.data import Floats, Gather, Integers, LabelledTrials

RESIDENT_SHARE: Final = 0.6
"""Rows stay on the GPU if they take no more than this share of its free memory."""

_ROWS_AT_ONCE = 1024


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
    free, _ = torch.cuda.mem_get_info(device)
    n_bytes = len(np.unique(_rows(data))) * data.n_vertices * data.values.itemsize
    if n_bytes <= RESIDENT_SHARE * free:
        return _OnDevice(data, device)
    return _Streamed(data, device, batch_size)


def _rows(data: LabelledTrials) -> Integers:
    """Rows (N, T) of every trial."""
    return data.first_rows[:, None] + np.arange(data.n_times)


class _Targets:
    """Embeddings, and which trial showed which image; a GPU gets those that were shown only."""

    def __init__(self, data: LabelledTrials, device: torch.device) -> None:
        values, index = data.targets, data.target_index
        if device.type == "cuda":
            shown, index = np.unique(index, return_inverse=True)
            values = values[shown]
        self._values = torch.from_numpy(values).to(device)
        self._index = torch.from_numpy(index).to(device)

    def __call__(self, trials: Tensor) -> Tensor:
        return self._values.index_select(0, self._index[trials])


class _Rows:
    """Trials on the host, and how to copy some into a buffer (batch, T, V)."""

    def __init__(self, data: LabelledTrials) -> None:
        self._values, self._rows = torch.from_numpy(data.values), torch.from_numpy(_rows(data))
        self._shape = (data.n_times, data.n_vertices)

    def buffer(self, batch_size: int, *, pin_memory: bool = False) -> Tensor:
        return torch.empty((batch_size, *self._shape), pin_memory=pin_memory)

    def copy(self, trials: Tensor, buffer: Tensor) -> Tensor:
        batch = buffer[: len(trials)]
        rows = self._rows[trials].flatten()
        torch.index_select(self._values, 0, rows, out=batch.view(len(rows), -1))
        return batch


class _OnHost:
    def __init__(self, data: LabelledTrials, batch_size: int) -> None:
        self._rows = _Rows(data)
        self._buffer = self._rows.buffer(batch_size)
        self._targets = _Targets(data, torch.device("cpu"))

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        return self._rows.copy(trials, self._buffer).transpose(1, 2), self._targets(trials)


class _OnDevice:
    """Every row that some trial needs, once: windows of neighbouring trials overlap."""

    def __init__(self, data: LabelledTrials, device: torch.device) -> None:
        self._device = device
        used, places = np.unique(_rows(data), return_inverse=True)
        self._values = torch.empty((len(used), data.n_vertices), device=device)
        for start in range(0, len(used), _ROWS_AT_ONCE):
            block: Floats = data.values[used[start : start + _ROWS_AT_ONCE]]
            self._values[start : start + len(block)] = torch.from_numpy(block)
        self._rows = torch.from_numpy(places.reshape(data.n_trials, data.n_times)).to(device)
        self._targets = _Targets(data, device)

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        trials = trials.to(self._device)
        return self._values[self._rows[trials]].transpose(1, 2), self._targets(trials)


class _Streamed:
    """Two page-locked buffers in turn: one is filled while the other one is still being sent."""

    def __init__(self, data: LabelledTrials, device: torch.device, batch_size: int) -> None:
        self._device = device
        self._rows = _Rows(data)
        self._targets = _Targets(data, device)
        self._buffers = [self._rows.buffer(batch_size, pin_memory=True) for _ in range(2)]
        self._sent = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._turn = 0

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        self._turn = 1 - self._turn
        self._sent[self._turn].synchronize()
        batch = self._rows.copy(trials, self._buffers[self._turn])
        on_device = batch.to(self._device, non_blocking=True)
        self._sent[self._turn].record()
        return on_device.transpose(1, 2), self._targets(trials.to(self._device))
