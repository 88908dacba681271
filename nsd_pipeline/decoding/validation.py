"""Validation whose numbers stay on the GPU until all batches are through.

Batch by batch, on the CPU, a validation takes longer than the epoch before it takes on a GPU. Here
many batches go through the model at once, and ranks and sums are all that the CPU gets. They are
those of `BatchMetrics`, to rounding.
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from nsd_pipeline.decoding.loader import ResidentLoader
from nsd_pipeline.decoding.loss import clip_scores
from nsd_pipeline.evaluation.metrics import batch_metrics, mean_correlation

_BATCHES_AT_ONCE: Final = 16

Estimate = Callable[[Tensor], Tensor]
"""Estimates (n, D) of fMRI (n, V, T)."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of the estimates (k, B, D) and candidates (k, B, D) of some batches."""


def validate_together(
    loader: ResidentLoader, n_trials: int, batch_size: int, estimate: Estimate, loss: Loss
) -> dict[str, float] | None:
    """Validate on trials that lie on the device, in their order, by batches of `batch_size`.

    The last batch may be shorter. Returns ``loss``, the mean over trials, and the ``batch_...``
    metrics. None if an estimate or a target is not finite; `BatchMetrics` says which.
    """
    losses, ranks, sizes, moments = [], [], [], []
    shift: tuple[Tensor, Tensor] | None = None
    for numbers, size in _pieces(n_trials, batch_size):
        ((x, candidate),) = loader.batches([numbers])
        estimates = estimate(x)
        shape = (-1, size, estimates.shape[1])
        batches = estimates.view(shape), candidate.view(shape)
        losses.append(loss(*batches).double() * len(numbers))
        images = loader.images(numbers.to(x.device)).view(-1, size)
        ranks.append(_ranks(*batches, images).flatten())
        sizes.append(torch.full((len(numbers),), size))
        # Sums of differences to some mean, for the reason that `BatchMetrics` gives.
        shift = shift or (estimates.double().mean(0), candidate.double().mean(0))
        x, y = estimates - shift[0], candidate - shift[1]
        moments.append(torch.stack([v.sum(0) for v in (x, y, x * x, y * y, x * y)]))
    found = torch.stack(moments).sum(0) / n_trials
    if not torch.isfinite(found).all():
        return None
    metrics = batch_metrics(
        torch.cat(ranks).cpu().numpy(),
        torch.cat(sizes).numpy(),
        mean_correlation(found.cpu().numpy()),
    )
    return {"loss": torch.stack(losses).sum().item() / n_trials, **metrics}


def _pieces(n_trials: int, batch_size: int) -> Iterator[tuple[Tensor, int]]:
    """Trials (n,) of some batches of one size, and that size."""
    order = torch.arange(n_trials)
    n_whole = n_trials - n_trials % batch_size
    if n_whole:
        for piece in torch.split(order[:n_whole], _BATCHES_AT_ONCE * batch_size):
            yield piece, batch_size
    if n_whole < n_trials:
        yield order[n_whole:], n_trials - n_whole


def _ranks(estimates: Tensor, candidates: Tensor, images: Tensor) -> Tensor:
    """Rank (k, B) of each trial's own candidate in its batch, of k batches (k, B, D)."""
    scores = clip_scores(estimates, candidates)
    # Trials of one image get the score of the first, as `cosine_to_candidates` has it.
    first = (images[:, :, None] == images[:, None, :]).byte().argmax(dim=2)
    scores = scores.gather(2, first[:, None, :].expand_as(scores))
    own = scores.diagonal(dim1=1, dim2=2)[:, :, None]
    return ((scores > own).sum(2) + (scores >= own).sum(2) - 1).double() / 2
