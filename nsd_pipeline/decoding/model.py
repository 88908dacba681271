"""The brain decoders: fMRI of trials in, estimates of the images' embeddings out.

:class:`FmriMlp` is the reference's residual MLP (REFERENCE: hidden 128, two residual blocks, a
linear map over time, one linear head), with the reference's parameter names, so that weights
trained elsewhere fit. :class:`FmriLinear` and :class:`FmriRidge` are the baselines beside it, and
``own_decoder`` has classes of a user's own. Nothing here knows how models are trained or stored.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.loader import load_trials
from nsd_pipeline.decoding.own_decoder import OwnDecoder
from nsd_pipeline.decoding.trials import Trials
from nsd_pipeline.errors import NsdError

INPUT_DROPOUT: Final = 0.5
"""After the projection of the vertices: half of the hidden units are dropped."""
BLOCK_DROPOUT: Final = 0.15
HEAD_DROPOUT: Final = 0.0
"""The reference's head has a dropout layer between its linear ones, and leaves it at zero."""
_BATCH: Final = 64


class _FmriDecoder(nn.Module):
    """Takes fMRI of a shape. The shapes of its weights alone say which architecture it is."""

    def __init__(self, n_vertices: int, n_times: int) -> None:
        super().__init__()
        self.n_vertices, self.n_times = n_vertices, n_times

    @staticmethod
    def _settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments that build the architecture whose weights a state has."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that build this architecture again."""
        return self._settings_of(self.state_dict())

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Architecture that the shapes of a state describe, with its values loaded."""
        model = cls(**cls._settings_of(state))
        model.load_state_dict(state)
        return model

    def _by_time(self, x: Tensor) -> Tensor:
        """Turn fMRI (B, V, T) into (B, T, V); a ValueError if it has not the model's shape."""
        if x.ndim != 3 or x.shape[1:] != (self.n_vertices, self.n_times):
            raise ValueError(
                f"the model takes (B, {self.n_vertices} vertices, {self.n_times} time points), "
                f"not {tuple(x.shape)}"
            )
        return x.transpose(1, 2)


class FmriMlp(_FmriDecoder):
    """Residual MLP applied to each time point, followed by a linear map over time.

    Parameters
    ----------
    n_vertices
        Vertices (or voxels) of the input.
    n_outputs
        Width of the map that follows the aggregation over time.
    hidden
        Width of the residual blocks.
    n_blocks
        Residual blocks.
    n_repetition_times
        Time points of the input; 1 for betas.
    head_sizes
        Widths of the linear layers of the head; the last one is the width of the estimate. Empty
        for no head.
    """

    def __init__(
        self,
        n_vertices: int,
        n_outputs: int,
        hidden: int = 128,
        n_blocks: int = 2,
        n_repetition_times: int = 4,
        head_sizes: Sequence[int] = (1536,),
    ) -> None:
        super().__init__(n_vertices, n_repetition_times)
        # The reference names this layer first and draws its weights last. Both are kept: the order
        # of names is that of its checkpoints, the order of draws makes its seed 0 ours.
        self.out_time_agg: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, n_repetition_times, 1
        )
        self.lin0 = nn.Linear(n_vertices, hidden)
        self.post_lin0 = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(INPUT_DROPOUT))
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.GELU(),
                nn.Dropout(BLOCK_DROPOUT),
            )
            for _ in range(n_blocks)
        )
        self.lin1 = nn.Linear(hidden, n_outputs)
        self.output_head = _head(n_outputs, head_sizes)
        self.out_time_agg.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Estimates (B, width of the last layer) from fMRI (B, V, T)."""
        x = self.post_lin0(self.lin0(self._by_time(x)))
        for block in self.mlp:
            x = block(x) + x
        x = self.out_time_agg(x.transpose(1, 2)).flatten(1)
        estimate: Tensor = self.output_head(self.lin1(x))
        return estimate

    @staticmethod
    def _settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        heads = sorted(
            int(name.split(".")[1])
            for name in state
            if name.startswith("output_head.") and name.endswith(".weight")
        )
        return {
            "n_vertices": state["lin0.weight"].shape[1],
            "n_outputs": state["lin1.weight"].shape[0],
            "hidden": state["lin0.weight"].shape[0],
            "n_blocks": len({name.split(".")[1] for name in state if name.startswith("mlp.")}),
            "n_repetition_times": state["out_time_agg.weight"].shape[1],
            "head_sizes": [state[f"output_head.{i}.weight"].shape[0] for i in heads],
        }


class FmriLinear(_FmriDecoder):
    """One linear map from vertices to estimates, and one over time: the baseline.

    Parameters
    ----------
    n_vertices
        Vertices (or voxels) of the input.
    n_outputs
        Width of the estimate.
    n_repetition_times
        Time points of the input; 1 for betas.
    """

    def __init__(self, n_vertices: int, n_outputs: int, n_repetition_times: int = 4) -> None:
        super().__init__(n_vertices, n_repetition_times)
        self.out_time_agg = nn.Linear(n_repetition_times, 1)
        self.linear = nn.Linear(n_vertices, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Estimates (B, n_outputs) from fMRI (B, V, T)."""
        estimate: Tensor = self.out_time_agg(self.linear(self._by_time(x)).transpose(1, 2))
        return estimate.flatten(1)

    @staticmethod
    def _settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        n_outputs, n_vertices = state["linear.weight"].shape
        n_times = state["out_time_agg.weight"].shape[1]
        return {"n_vertices": n_vertices, "n_outputs": n_outputs, "n_repetition_times": n_times}


class FmriRidge(_FmriDecoder):
    """One linear map from every vertex and time point to estimates, as ridge regression fits it.

    Parameters are those of `FmriLinear`.
    """

    def __init__(self, n_vertices: int, n_outputs: int, n_repetition_times: int = 4) -> None:
        super().__init__(n_vertices, n_repetition_times)
        self.weight = nn.Parameter(torch.zeros(n_outputs, n_repetition_times, n_vertices))
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Estimates (B, n_outputs) from fMRI (B, V, T)."""
        return nn.functional.linear(self._by_time(x).flatten(1), self.weight.flatten(1), self.bias)

    @staticmethod
    def _settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        n_outputs, n_times, n_vertices = state["weight"].shape
        return {"n_vertices": n_vertices, "n_outputs": n_outputs, "n_repetition_times": n_times}


Decoder = FmriMlp | FmriLinear | FmriRidge | OwnDecoder


def n_parameters(model: nn.Module) -> int:
    """Count the trainable values of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def _head(n_inputs: int, sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them and nothing after the last one.

    Positions in the sequence are part of the parameter names, so the dropout layer stays although
    it drops nothing.
    """
    layers: list[nn.Module] = []
    for width, size in zip((n_inputs, *sizes), sizes, strict=False):
        if layers:
            layers += [nn.ReLU(), nn.Dropout(HEAD_DROPOUT)]
        layers.append(nn.Linear(width, size))
    return nn.Sequential(*layers)


def build_model(
    config: TrainingConfig, *, n_vertices: int, n_times: int, n_outputs: int
) -> Decoder:
    """Build an untrained model from torch's current random state.

    It takes fMRI of a trial (n_vertices, n_times), and gives image embeddings of width `n_outputs`.
    An NsdError if the model's estimates would not have that width, or a class of the user's own is
    no decoder; a ValueError if it is ``ridge``, which is not trained (see ``ridge.fit_ridge``).
    """
    if config.model == "ridge":
        raise ValueError("ridge is fitted by fit_ridge, not trained")
    if ":" in config.model:
        return OwnDecoder(config.model, n_vertices, n_times, n_outputs, config.arguments)
    model: FmriMlp | FmriLinear
    if config.model == "FmriLinear":
        model = FmriLinear(n_vertices, n_outputs, n_times)
    else:
        sizes = [n_outputs] if config.head_sizes is None else config.head_sizes
        if sizes and sizes[-1] != n_outputs:
            raise NsdError(
                f"head_sizes ends with {sizes[-1]}, but image embeddings have {n_outputs} values.",
                next_step=f"let head_sizes end with {n_outputs}, or set it to null.",
            )
        model = FmriMlp(n_vertices, n_outputs, config.hidden, config.n_blocks, n_times, sizes)
    if config.starts_as_mean(n_times):
        nn.init.constant_(model.out_time_agg.weight, 1 / n_times)
        nn.init.zeros_(model.out_time_agg.bias)
    return model


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


def vertex_contributions(model: Decoder, data: Trials) -> NDArray[np.float32]:
    """What each vertex adds to the score of the image that was seen, to first order: (V,) float32.

    The score is the one retrieval sorts by: the dot product of the estimate and the image's
    embedding scaled to unit length. Its derivative by a vertex, times the vertex's response, is
    averaged over trials: noise that the model has fitted adds as often as it takes away, so what
    remains is where responses to new images are of use.

    In units of the score; NaN for a vertex that never responds, such as an invalid one.
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
