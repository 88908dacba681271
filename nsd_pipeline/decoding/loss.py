"""The contrastive loss of a batch, and the process group that computes it; usually one process.

Radford et al. (2021), as Défossez et al. (2023) use it for brain signals: the candidates of a
trial are the targets of its batch, and the right one is its own. REFERENCE normalises the
candidates only, has no temperature, and asks in one direction (brain -> image).

Every process of a group holds the whole model and takes its share of each batch. The loss is one of
the whole batch: the estimates and candidates of all are gathered, and each process computes the
same loss and differentiates it by its own estimates only. Since estimates of different trials do
not depend on each other, the gradient of the parameters is the sum of what each process finds. The
same goes for any loss, whether its rows are independent or not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import Final, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

NormKind = Literal["x", "y", "xy"]

TEMPERATURE_START: Final = log(1 / 0.07)
"""Where a learnable temperature starts: scores are multiplied by its exponential, 1 / 0.07."""

_EPSILON = 1e-15


def clip_scores(estimate: Tensor, candidate: Tensor, norm_kind: NormKind | None = "y") -> Tensor:
    """Similarity (..., B, C) of every estimate (..., B, D) with every candidate (..., C, D).

    `norm_kind` says what is scaled to unit length first: estimates (``"x"``), candidates (``"y"``),
    both (``"xy"``) or nothing (None).
    """
    if norm_kind is not None and norm_kind not in ("x", "y", "xy"):
        raise ValueError(f"norm_kind is 'x', 'y', 'xy' or None, not {norm_kind!r}")
    if norm_kind in ("x", "xy"):
        estimate = _unit_length(estimate)
    if norm_kind in ("y", "xy"):
        candidate = _unit_length(candidate)
    return estimate @ candidate.mT


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
        Estimates (B, D), or (k, B, D) of several batches.
    candidate
        Candidates (C, D), C >= B: row i belongs to estimate i, rows from B on are only distractors.
        Or (k, C, D).
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
        Scalar, the mean over the batch, or over all batches.

    Raises
    ------
    ValueError
        If there are fewer candidates than estimates, or not as many and ``symmetric``.
    """
    n_estimates, n_candidates = estimate.shape[-2], candidate.shape[-2]
    if n_candidates < n_estimates or (symmetric and n_candidates != n_estimates):
        raise ValueError(
            f"{n_estimates} estimates do not go with {n_candidates} candidates"
            + (" in a symmetric loss" if symmetric else "")
        )
    scores = clip_scores(estimate, candidate, norm_kind)
    if temperature is not None:
        scores = scores * torch.as_tensor(temperature, dtype=scores.dtype).exp()
    own = torch.arange(n_estimates, device=scores.device).expand(scores.shape[:-1]).flatten()
    loss: Tensor = functional.cross_entropy(scores.flatten(0, -2), own)
    if symmetric:
        loss = (loss + functional.cross_entropy(scores.mT.flatten(0, -2), own)) / 2
    return loss


def _unit_length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (length + _EPSILON)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one model together, as one of them sees it.

    `rank` is the number of this process, from 0, of `size`; it computes on `device`, and its
    messages come from there.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> "ProcessGroup":
        """The default group of torch.distributed, or this process alone if there is none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size(), device)
        return cls(0, 1, device)

    def share(self, batch: Tensor) -> Tensor:
        """Part of a batch (B, ...) that is this process's; may be empty."""
        return torch.tensor_split(batch, self.size)[self.rank]

    def gather(self, own: Tensor, n_rows: int) -> Tensor:
        """Rows (B, ...) of a whole batch, of which each process has its share.

        Gradients reach this process's own rows.
        """
        if self.size == 1:
            return own
        counts = [len(part) for part in torch.tensor_split(torch.empty(n_rows), self.size)]
        # Parts differ by a row at most, but all_gather takes tensors of one shape.
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        padded[: len(own)] = own.detach()
        received = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(received, padded)
        parts = [part[:count] for part, count in zip(received, counts, strict=True)]
        parts[self.rank] = own
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients that all processes found, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, values: Sequence[float]) -> list[float]:
        """Give every process the numbers that the first one has."""
        if self.size == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(message, src=0)
        return message.tolist()


class SharedDropout(nn.Module):
    """Dropout that drops the same units of a trial however a batch is divided among processes.

    A share `p` of units is dropped. Masks are drawn for the whole batch, by the same generator in
    every process (torch's own if None), and each takes its own rows. On the CPU they are those that
    one process draws.
    """

    n_rows: int | None = None
    """Trials of the batch, of which this process has a share; None: it has all of them."""

    def __init__(self, p: float, group: ProcessGroup, generator: torch.Generator | None) -> None:
        super().__init__()
        self.p, self.group, self.generator = p, group, generator

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of (b, ...): this process's share of the batch."""
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        mask = torch.empty((self.n_rows or len(x), *x.shape[1:]), dtype=x.dtype, device=x.device)
        return x * self.group.share(mask.bernoulli_(keep, generator=self.generator).div_(keep))


def share_dropout(
    model: nn.Module, group: ProcessGroup, generator: torch.Generator | None = None
) -> list[SharedDropout]:
    """Replace every dropout layer of a model; several processes set ``n_rows`` before a batch."""
    shared = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                dropout = SharedDropout(child.p, group, generator).train(child.training)
                setattr(module, name, dropout)
                shared.append(dropout)
    return shared
