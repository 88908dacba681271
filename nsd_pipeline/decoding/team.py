"""The processes that train one model together; usually there is but one.

Every process holds the whole model and takes its share of each batch. The loss is one of the whole
batch: the estimates and candidates of all are gathered, and each process computes the same loss and
differentiates it by its own estimates only. Since estimates of different trials do not depend on
each other, the gradient of the parameters is the sum of what each process finds. The same goes for
any loss, whether its rows are independent or not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Team:
    """A process among those that train together.

    Attributes
    ----------
    rank
        Which one it is, from 0.
    size
        How many there are.
    device
        Where this one computes, and where its messages come from.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def here(cls, device: torch.device) -> "Team":
        """Join the default group of torch.distributed, or work alone if there is none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size(), device)
        return cls(0, 1, device)

    def share(self, batch: Tensor) -> Tensor:
        """The part of a batch (B, ...) that falls to this process; may be empty."""
        return torch.tensor_split(batch, self.size)[self.rank]

    def gather(self, own: Tensor, n_rows: int) -> Tensor:
        """Rows (B, ...) of a whole batch, of which each process has its share.

        Gradients reach this process's own rows.
        """
        if self.size == 1:
            return own
        counts = [len(part) for part in torch.tensor_split(torch.empty(n_rows), self.size)]
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        padded[: len(own)] = own.detach()
        received = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(received, padded)
        parts = [part[:count] for part, count in zip(received, counts, strict=True)]
        parts[self.rank] = own
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up what all processes found, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, values: Sequence[float]) -> list[float]:
        """Numbers as the first process has them."""
        if self.size == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(message, src=0)
        return message.tolist()


class SharedDropout(nn.Module):
    """Dropout that drops the same units of a trial however a batch is divided among processes.

    Masks are drawn for the whole batch, by the same generator in every process, and each takes its
    own rows. On the CPU they are those that one process draws.

    Parameters
    ----------
    p
        Share of units that are dropped.
    team
        The processes.
    """

    n_rows: int

    def __init__(self, p: float, team: Team) -> None:
        super().__init__()
        self.p, self.team = p, team

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of (b, ...): this process's share of ``n_rows``."""
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        mask = torch.empty((self.n_rows, *x.shape[1:]), dtype=torch.bool, device=x.device)
        return x * self.team.share(mask.bernoulli_(keep)) / keep


def share_dropout(model: nn.Module, team: Team) -> list[SharedDropout]:
    """Replace every dropout layer of a model; their ``n_rows`` is to be set before each batch."""
    shared = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                dropout = SharedDropout(child.p, team).train(child.training)
                setattr(module, name, dropout)
                shared.append(dropout)
    return shared
