"""Where on the cortex a model looks."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsd_pipeline.decoding.data import Batches
from nsd_pipeline.decoding.model import Decoder

_BATCH: Final = 64


def input_sensitivity(model: Decoder, data: Batches) -> NDArray[np.float32]:
    """Measure how much each vertex moves the score of the image that was seen.

    The score is the one retrieval sorts by: the dot product of the estimate and the image's
    embedding scaled to unit length. Its derivative by each vertex is taken at every trial; the
    root mean square over trials and time points, times the vertex's own standard deviation,
    remains. A vertex that never varies (an invalid one is always 0) moves nothing, whatever its
    weights, which training left as they were drawn.

    Parameters
    ----------
    model
        A trained model.
    data
        N trials, for instance the test set.

    Returns
    -------
    NDArray[np.float32]
        (V,), at least 0: change of the score per standard deviation of the vertex.
    """
    device = next(model.parameters()).device
    gather = data.gather(device, _BATCH)
    sums = torch.zeros((3, data.n_vertices), dtype=torch.float64)
    for start in range(0, data.n_trials, _BATCH):
        fmri, targets = gather(torch.arange(start, min(start + _BATCH, data.n_trials)))
        fmri = fmri.detach().clone().requires_grad_()
        scores = (model(fmri) * torch.nn.functional.normalize(targets, dim=1)).sum()
        (gradient,) = torch.autograd.grad(scores, fmri)
        values = fmri.detach().double()
        terms = torch.stack([gradient.double().square(), values, values.square()])
        sums += terms.sum(dim=(1, 3)).cpu()
    slope, mean, square = sums / (data.n_trials * data.n_times)
    variance = (square - mean.square()).clamp(min=0)
    sensitivity: NDArray[np.float32] = (slope * variance).sqrt().float().numpy()
    return sensitivity
