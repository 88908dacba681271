"""Decoding: from surface betas to the embedding of the image that was seen.

The model, its loss, training it, predicting with it, and how well its predictions retrieve images.
Nothing here reads NSD's files or knows where artifacts lie: arrays and tables come in and go out.

Names are imported when they are first used, because most of them need torch, which takes seconds to
import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsd_pipeline.decoding.config import TrainingConfig
    from nsd_pipeline.decoding.loss import TEMPERATURE_START, clip_loss, clip_scores
    from nsd_pipeline.decoding.metrics import BatchMetrics, retrieval_metrics
    from nsd_pipeline.decoding.model import Decoder, FmriLinear, FmriMlp, n_parameters

_HOMES = {
    "config": ["TrainingConfig"],
    "loss": ["TEMPERATURE_START", "clip_loss", "clip_scores"],
    "metrics": ["BatchMetrics", "retrieval_metrics"],
    "model": ["Decoder", "FmriLinear", "FmriMlp", "n_parameters"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022
    "TrainingConfig",
    "TEMPERATURE_START",
    "clip_loss",
    "clip_scores",
    "BatchMetrics",
    "retrieval_metrics",
    "Decoder",
    "FmriLinear",
    "FmriMlp",
    "n_parameters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
