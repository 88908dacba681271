"""How a model is trained, as it is set in the web UI."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field

from nsd_pipeline.assets.presets import PresetName
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.rows import DataDtype


class FmriMlpConfig(TrainingConfig, dg.Config):
    """How a model is trained: the reference's settings, and what it is trained on."""

    preset: PresetName = Field(
        default="betas",
        description="the task: betas (a value a trial), or neuralbench, the reference's windows of"
        " time series. Everything else has the reference's settings in both",
    )
    zscore: bool = Field(
        default=True,
        description="z-score betas of each vertex within session; time series always are, by run",
    )
    roi: bool = Field(
        default=False,
        description="betas: use only the vertices of the region that fsaverage5_betas were written"
        " with (its `roi`)",
    )
    window_start: float = Field(
        default=2.0, description="neuralbench: seconds from an image's onset to its window"
    )
    window_duration: float = Field(
        default=7.0, gt=0, description="neuralbench: seconds that a window lasts"
    )
    validation_by: Literal["timeline", "image_id"] = Field(
        default="timeline",
        description="what validation holds out as a whole: runs (the reference; repeats of one"
        " image may fall on both sides) or images",
    )
    validation_ratio: float = Field(
        default=0.2, gt=0, lt=1, description="share of the runs or images held out"
    )

    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="memory for the fMRI of each process in GB. What is larger stays in the store,"
        " is read in every epoch and shuffled within this memory: another order, and therefore"
        " other weights. null: all is in memory, and a cohort that does not fit is an error",
    )
    data_dtype: DataDtype = Field(
        default="float32",
        description="what fMRI is kept in; what the model computes in is `precision`",
    )
    n_processes: int = Field(
        default=1,
        ge=1,
        description="processes that train together, each with a GPU of its own if there are any;"
        " batches and results are those of one process",
    )

    def decisive(self) -> dict[str, Any]:
        """Everything that the model depends on by more than rounding."""
        return self.model_dump(mode="json", exclude={"n_processes"})

    def training(self) -> TrainingConfig:
        """The part that the domain code knows."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)))
