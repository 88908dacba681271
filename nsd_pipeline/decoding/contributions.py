"""Where on the cortex a model finds what it retrieves by."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsd_pipeline.decoding.loader import load_trials
from nsd_pipeline.decoding.model import Decoder
from nsd_pipeline.decoding.trials import Trials

_BATCH: Final = 64


def vertex_contributions(model: Decoder, data: Trials) -> NDArray[np.float32]:
    """What each vertex adds to the score of the image that was seen, to first order.

    The score is the one retrieval sorts by: the dot product of the estimate and the image's
    embedding scaled to unit length. Its derivative by a vertex, times the vertex's response, is
    averaged over trials: noise that the model has fitted adds as often as it takes away, so what
    remains is where responses to new images are of use.

    Parameters
    ----------
    model
        A trained model.
    data
        N trials, for instance the test set.

    Returns
    -------
    NDArray[np.float32]
        (V,) in units of the score; NaN for a vertex that never responds, such as an invalid one.
    """
    device = next(model.parameters()).device
    loader = load_trials(data, device, _BATCH)
    added = torch.zeros(data.n_vertices, dtype=torch.float64)
    responds = torch.zeros(data.n_vertices, dtype=torch.bool)
    for fmri, targets in loader.batches(torch.split(torch.arange(data.n_trials), _BATCH)):
        values = fmri.to(torch.float32, copy=True).requires_grad_()
        scores = (model(values) * torch.nn.functional.normalize(targets, dim=1)).sum()
        (gradient,) = torch.autograd.grad(scores, values)
        values = values.detach()
        added += (gradient * values).sum(dim=(0, 2)).double().cpu()
        responds |= (values != 0).any(dim=2).any(dim=0).cpu()
    contributions: NDArray[np.float32] = (added / data.n_trials).float().numpy()
    contributions[~responds.numpy()] = np.nan
    return contributions
