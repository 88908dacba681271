"""Estimates of a trained model."""

import numpy as np
import torch
from numpy.typing import NDArray

from nsd_pipeline.decoding.loader import load_trials
from nsd_pipeline.decoding.model import Decoder
from nsd_pipeline.decoding.trials import Trials


def predict(model: Decoder, data: Trials, *, batch_size: int = 256) -> NDArray[np.float32]:
    """Estimate the embedding of the image of every trial, on the device the model is on.

    Parameters
    ----------
    model
        A trained model.
    data
        N trials.
    batch_size
        Trials at once.

    Returns
    -------
    NDArray[np.float32]
        Estimates (N, D).
    """
    device = next(model.parameters()).device
    loader = load_trials(data, device, batch_size)
    estimates = np.empty((data.n_trials, data.n_outputs), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            batches = torch.split(torch.arange(data.n_trials), batch_size)
            for trials, (x, _) in zip(batches, loader.batches(batches), strict=True):
                estimates[trials[0] : trials[-1] + 1] = model(x.float()).cpu().numpy()
    finally:
        model.train(was_training)
    return estimates
