"""The contrastive loss that pulls an estimate towards the embedding of the image that was shown.

Radford et al. (2021), as Défossez et al. (2023) use it for brain signals: the candidates of a
trial are the targets of its batch, and the right one is its own. REFERENCE normalises the
candidates only, has no temperature, and asks in one direction (brain -> image).
"""

from math import log
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

NormKind = Literal["x", "y", "xy"]

TEMPERATURE_START: Final = log(1 / 0.07)
"""Where a learnable temperature starts: scores are multiplied by its exponential, 1 / 0.07."""

_EPSILON = 1e-15


def clip_scores(estimate: Tensor, candidate: Tensor, norm_kind: NormKind | None = "y") -> Tensor:
    """Similarity (B, C) of every estimate (B, D) with every candidate (C, D).

    Parameters
    ----------
    estimate, candidate
        Vectors, one a row.
    norm_kind
        What is scaled to unit length first: estimates (``"x"``), candidates (``"y"``), both
        (``"xy"``) or nothing (``None``).
    """
    if norm_kind is not None and norm_kind not in ("x", "y", "xy"):
        raise ValueError(f"norm_kind is 'x', 'y', 'xy' or None, not {norm_kind!r}")
    if norm_kind in ("x", "xy"):
        estimate = _unit_length(estimate)
    if norm_kind in ("y", "xy"):
        candidate = _unit_length(candidate)
    return estimate @ candidate.T


def clip_loss(
    estimate: Tensor,
    candidate: Tensor,
    norm_kind: NormKind | None = "y",
    symmetric: bool = False,
    temperature: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy of finding each estimate's own candidate among all of them.

    Parameters
    ----------
    estimate
        Estimates (B, D).
    candidate
        Candidates (C, D), C >= B: row i belongs to estimate i, rows from B on are only distractors.
    norm_kind
        What is scaled to unit length: see :func:`clip_scores`.
    symmetric
        Average with the loss of finding each candidate's own estimate; needs C = B.
    temperature
        Logarithm of the factor that scores are multiplied by, as in the reference's learnable
        parameter, which starts at :data:`TEMPERATURE_START`. ``None``: scores stay as they are.

    Returns
    -------
    Tensor
        Scalar, the mean over the batch.

    Raises
    ------
    ValueError
        If there are fewer candidates than estimates, or not as many and ``symmetric``.
    """
    n_estimates, n_candidates = len(estimate), len(candidate)
    if n_candidates < n_estimates or (symmetric and n_candidates != n_estimates):
        raise ValueError(
            f"{n_estimates} estimates do not go with {n_candidates} candidates"
            + (" in a symmetric loss" if symmetric else "")
        )
    scores = clip_scores(estimate, candidate, norm_kind)
    if temperature is not None:
        scores = scores * torch.as_tensor(temperature, dtype=scores.dtype).exp()
    own = torch.arange(n_estimates, device=scores.device)
    loss: Tensor = functional.cross_entropy(scores, own)
    if symmetric:
        loss = (loss + functional.cross_entropy(scores.T, own)) / 2
    return loss


def _unit_length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / (length + _EPSILON)
