"""Training steps as a CUDA graph: one launch for the gradients of a batch instead of nearly 100.

At batch 64 a kernel of a step runs for a few microseconds, about as long as Python takes to launch
the next one. A graph is recorded once and launched as a whole. What it works on stays where it was
when it was recorded, so shapes are fixed: it is for full batches.

AdamW's update is no part of it. OneCycleLR moves its first momentum at every step, and the fused
kernel takes that as a number, which a graph would keep as it was. The update is launched while the
GPU still works on the gradients, so that this costs little (docs/performance.md has the times).
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
    choose other kernels. Dropout takes its random numbers from the same `generator`, on the GPU, in
    the same order, so that the generator's state says where a training stands.

    `compute` leaves the gradients of a batch in the parameters, as new tensors. It must not wait
    for the GPU nor depend on its numbers. `batch` is what it is called with first: tensors on the
    GPU, of the same shapes as those of other batches.

    To be made and called while `stream`, on which the graph is recorded, is the current one. Memory
    that libraries use meanwhile belongs to a stream, so graphs that are replayed side by side must
    not be recorded on the same one.
    """

    def __init__(
        self,
        compute: Callable[..., None],
        batch: Sequence[Tensor],
        parameters: Sequence[nn.Parameter],
        generator: torch.Generator,
        stream: torch.cuda.Stream,
    ) -> None:
        self._parameters = parameters
        self._batch = [tensor.clone() for tensor in batch]
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        # Warming up and recording draw dropout, which would not be there without a graph.
        random_state = generator.get_state()
        for _ in range(_WARM_UP):
            compute(*self._batch)
        for parameter in parameters:
            parameter.grad = None  # those of the graph must be in its own memory
        with torch.cuda.graph(self._graph, stream=stream):
            compute(*self._batch)
        generator.set_state(random_state)
        self._gradients = [parameter.grad for parameter in parameters]

    def __call__(self, *batch: Tensor) -> None:
        """Compute the gradients of a batch, and leave them in the parameters."""
        for kept, tensor in zip(self._batch, batch, strict=True):
            kept.copy_(tensor)
        self._graph.replay()
        # A short batch in between has left others there.
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
