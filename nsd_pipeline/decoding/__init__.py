"""Decoding: from surface fMRI to the embedding of the image that was seen.

The model, its loss, the trials it learns from, training it and predicting with it. Nothing here
reads NSD's files or knows where artifacts lie: arrays and tables come in and go out.

Names are imported when they are first used, because most of them need torch, which takes seconds to
import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsd_pipeline.decoding.config import TrainingConfig
    from nsd_pipeline.decoding.loss import TEMPERATURE_START, clip_loss, clip_scores
    from nsd_pipeline.decoding.model import (
        Decoder,
        FmriLinear,
        FmriMlp,
        build_model,
        n_parameters,
        predict,
        vertex_contributions,
    )
    from nsd_pipeline.decoding.rows import HeldRows, Memory, StoredRows
    from nsd_pipeline.decoding.saved_models import Checkpoint, load_model, save_model
    from nsd_pipeline.decoding.training import TrainingResult, train
    from nsd_pipeline.decoding.trials import Trials, assemble_trials, place_windows
    from nsd_pipeline.evaluation import retrieval_metrics

_HOMES = {
    "config": ["TrainingConfig"],
    "loss": ["TEMPERATURE_START", "clip_loss", "clip_scores"],
    "model": [
        "Decoder",
        "FmriLinear",
        "FmriMlp",
        "build_model",
        "n_parameters",
        "predict",
        "vertex_contributions",
    ],
    "rows": ["HeldRows", "Memory", "StoredRows"],
    "saved_models": ["Checkpoint", "load_model", "save_model"],
    "training": ["TrainingResult", "train"],
    "trials": ["Trials", "assemble_trials", "place_windows"],
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}
_HOME["retrieval_metrics"] = "nsd_pipeline.evaluation"  # other code looks for it here

__all__ = [
    "TEMPERATURE_START",
    "Checkpoint",
    "Decoder",
    "FmriLinear",
    "FmriMlp",
    "HeldRows",
    "Memory",
    "StoredRows",
    "TrainingConfig",
    "TrainingResult",
    "Trials",
    "assemble_trials",
    "build_model",
    "clip_loss",
    "clip_scores",
    "load_model",
    "n_parameters",
    "place_windows",
    "predict",
    "retrieval_metrics",
    "save_model",
    "train",
    "vertex_contributions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
