"""Training steps as a CUDA graph: one launch for the gradients of a batch instead of some eighty.

At batch 64 a kernel of a step runs for a few microseconds, about as long as Python takes to launch
the next one. A graph is recorded once and launched as a whole. What it works on stays where it was
when it was recorded, so shapes are fixed: it is for full batches, of trials that lie on the GPU.

AdamW's update is no part of it. OneCycleLR moves its first momentum at every step, and the fused
kernel takes that as a number, which a graph would keep as it was. The update is launched while the
GPU still works on the gradients, so that this costs little (measured: docs/gpu.md).
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

_WARM_UP: Final = 3
"""Runs before the recording, as PyTorch's manual asks for: libraries set themselves up in them."""


class GraphedGradients:
    """Computes the gradients of one full batch after the other by replaying a CUDA graph.

    The numbers are those of the same computation without a graph, to rounding: its libraries may
    choose other kernels. Dropout takes its random numbers from the GPU's generator in both, in
    the same order, so that the generator's state says where a training stands in both.

    Parameters
    ----------
    compute
        Leaves the gradients of trials (B,), a tensor on the GPU, in the parameters, as new tensors.
        It must not wait for the GPU nor depend on its numbers.
    parameters
        The parameters.
    batch_size
        Trials B of each batch.
    device
        The GPU.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], None],
        parameters: Sequence[nn.Parameter],
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._parameters = parameters
        self._trials = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._graph = torch.cuda.CUDAGraph()
        # Warming up and recording draw dropout, which would not be there without a graph.
        random_state = torch.cuda.get_rng_state(device)
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    compute(self._trials)
            torch.cuda.current_stream().wait_stream(aside)
            for parameter in parameters:
                parameter.grad = None  # those of the graph must be in its own memory
            with torch.cuda.graph(self._graph):
                compute(self._trials)
        torch.cuda.set_rng_state(random_state, device)
        self._gradients = [parameter.grad for parameter in parameters]

    def __call__(self, trials: Tensor) -> None:
        """Compute the gradients of trials (B,), and leave them in the parameters."""
        self._trials.copy_(trials)
        self._graph.replay()
        # A short batch in between has left others there.
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
