"""Getting a batch of trials to where the model is.

A batch is some rows of one contiguous array. On the CPU they are copied into one buffer that is
used again and again. On a GPU the trials lie there from the start if they fit; otherwise each batch
goes through page-locked memory, so that its copy runs while the GPU still works on the last one.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from nsd_pipeline.decoding.data import Gather, Integers, TrialData

RESIDENT_SHARE: Final = 0.6
"""Trials stay on the GPU if they take no more than this share of its free memory."""

_ROWS_AT_ONCE = 1024


def gather_trials(data: TrialData, device: torch.device, batch_size: int) -> Gather:
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
    n_bytes = data.n_trials * data.n_vertices * data.betas.itemsize
    if n_bytes <= RESIDENT_SHARE * free:
        return _OnDevice(data, device)
    return _Streamed(data, device, batch_size)


class _Targets:
    """Embeddings, and which trial showed which image; a GPU gets those that were shown only."""

    def __init__(self, data: TrialData, device: torch.device) -> None:
        values, index = data.targets, data.target_index
        if device.type == "cuda":
            shown, index = np.unique(index, return_inverse=True)
            values = values[shown]
        self._values = torch.from_numpy(values).to(device)
        self._index = torch.from_numpy(index).to(device)

    def __call__(self, trials: Tensor) -> Tensor:
        return self._values.index_select(0, self._index[trials])


class _OnHost:
    def __init__(self, data: TrialData, batch_size: int) -> None:
        self._betas, self._rows = torch.from_numpy(data.betas), torch.from_numpy(data.rows)
        self._targets = _Targets(data, torch.device("cpu"))
        self._buffer = torch.empty((batch_size, data.n_vertices))

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._buffer[: len(trials)]
        torch.index_select(self._betas, 0, self._rows[trials], out=batch)
        return batch[:, :, None], self._targets(trials)


class _OnDevice:
    def __init__(self, data: TrialData, device: torch.device) -> None:
        self._device = device
        self._betas = torch.empty((data.n_trials, data.n_vertices), device=device)
        for start in range(0, data.n_trials, _ROWS_AT_ONCE):
            rows: Integers = data.rows[start : start + _ROWS_AT_ONCE]
            self._betas[start : start + len(rows)] = torch.from_numpy(data.betas[rows])
        self._targets = _Targets(data, device)

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        trials = trials.to(self._device)
        return self._betas[trials][:, :, None], self._targets(trials)


class _Streamed:
    """Two page-locked buffers in turn: one is filled while the other one is still being sent."""

    def __init__(self, data: TrialData, device: torch.device, batch_size: int) -> None:
        self._device = device
        self._betas, self._rows = torch.from_numpy(data.betas), torch.from_numpy(data.rows)
        self._targets = _Targets(data, device)
        self._buffers = [
            torch.empty((batch_size, data.n_vertices), pin_memory=True) for _ in range(2)
        ]
        self._sent = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._turn = 0

    def __call__(self, trials: Tensor) -> tuple[Tensor, Tensor]:
        self._turn = 1 - self._turn
        self._sent[self._turn].synchronize()
        batch = self._buffers[self._turn][: len(trials)]
        torch.index_select(self._betas, 0, self._rows[trials], out=batch)
        on_device = batch.to(self._device, non_blocking=True)
        self._sent[self._turn].record()
        return on_device[:, :, None], self._targets(trials.to(self._device))
