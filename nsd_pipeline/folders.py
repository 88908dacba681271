"""Where artifacts lie in a store: said once, for the steps that make them and for who reads them.

A step whose artifacts nobody but other steps reads is named in its own file.
"""

from functools import lru_cache
from typing import Final

from nsd_pipeline.experiments.entry import DEFAULT
from nsd_pipeline.nsd.layout import DEFAULT_SPACE

EVENTS: Final = "events"
FSAVERAGE_EVENTS: Final = "fsaverage_events"
BETAS: Final = "fsaverage5_betas.zarr"
STIMULI: Final = "stimuli"
EMBEDDINGS: Final = "stimulus_embeddings"
CEILING: Final = "noise_ceiling"

RANKS_FILE: Final = "ranks.parquet"
TOP_FILE: Final = "top10.parquet"
"""Of metrics: the rank of each test trial's image, and the ten images that come first."""

EXPERIMENTS: Final = "experiments"
"""Folder of the models and metrics of every experiment but the default, by its name."""

SHARED: Final = "shared"
"""The stimulus set that every subject saw, and every model is tested on."""


@lru_cache(maxsize=8192)  # twenty models of 284 sessions ask for the same ones 25,000 times
def artifact_key(folder: str, partition: str = "") -> str:
    """Key in the store of a partition's artifact: ``events/subj01/ses07``."""
    return "/".join(part for part in (folder, *partition.split("_")) if part)


def betas_folder(space: str) -> str:
    """Folder of the betas on fsaverage5 that come from a space."""
    return BETAS if space == DEFAULT_SPACE else BETAS.replace(".", f"_{space}.")


def model_folder(experiment: str) -> str:
    """Folder of an experiment's models."""
    return "fmri_mlp" if experiment == DEFAULT else f"{EXPERIMENTS}/{experiment}/model"


def metrics_folder(experiment: str) -> str:
    """Folder of an experiment's metrics."""
    return "retrieval_metrics" if experiment == DEFAULT else f"{EXPERIMENTS}/{experiment}/metrics"
