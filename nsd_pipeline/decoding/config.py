"""Settings of a model, with the reference's values as defaults."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.nsd.layout import SPACES
from nsd_pipeline.nsd.session_lists import check_choice

PresetName = Literal["betas", "neuralbench"]
"""Which data a model is trained on: see ``cohort``."""

DataDtype = Literal["float32", "bfloat16", "float16"]
"""What fMRI is kept in."""

Monitor = Literal["val/batch_top5_acc", "val/batch_inv_norm_rank_mean"]
"""A column of the training's history of which more is better."""

KNOWN_MODELS: Final = ("FmriMlp", "FmriLinear", "ridge")
"""Decoders that are part of this package."""

OnEpoch = Callable[[Mapping[str, float]], object]
"""Called after every epoch with its row of the history."""


class TrainingConfig(BaseModel):
    """Architecture, loss, optimisation and data of one model.

    The defaults are the reference's task (REFERENCE, "The task's configuration"). Types are simple
    ones only, because a user interface derives its fields from this class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="FmriMlp",
        pattern=rf"^({'|'.join(KNOWN_MODELS)}|\w+(\.\w+)*:\w+)$",
        description="Decoder: FmriMlp, the reference's residual MLP; FmriLinear, one linear map"
        " trained the same way; ridge, one fitted in closed form; or a class of your own as"
        " package.module:Class (docs/decoders.md).",
    )
    arguments: dict[str, Any] = Field(
        default={}, description="What a class of your own takes besides the three widths."
    )
    alphas: list[float] = Field(
        default=[1e2, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 1e7],
        min_length=1,
        description="Penalties that ridge chooses from on the validation trials.",
    )
    alpha_per_target: bool = Field(
        default=False,
        description="Let ridge choose a penalty for each value of the embedding by itself.",
    )
    hidden: int = Field(default=128, ge=1, description="Width of FmriMlp's residual blocks.")
    n_blocks: int = Field(default=2, ge=0, description="Residual blocks of FmriMlp.")
    head_sizes: list[int] | None = Field(
        default=None,
        description=(
            "Widths of the linear layers of FmriMlp's head. The last one must be the width of the "
            "image embedding. Empty for no head, null for one layer of the embedding's width, "
            "which is the reference's [1536]."
        ),
    )
    time_weights: Literal["auto", "reference", "mean"] = Field(
        default="auto",
        description=(
            "How the map over time starts: as the reference draws it, or as a plain mean. auto is "
            "the mean for betas and the reference's draw for windows: of one time point the map is "
            "a single number, and a draw near zero silences the model for good."
        ),
    )
    norm_kind: Literal["x", "y", "xy", "none"] = Field(
        default="y",
        description=(
            "What the CLIP loss scales to unit length: estimates (x), candidates (y), both or none."
        ),
    )
    symmetric: bool = Field(
        default=False,
        description="Train image -> brain retrieval as well, not only brain -> image.",
    )
    learning_rate: float = Field(
        default=1e-4,
        gt=0,
        description="Highest learning rate of AdamW, reached at the end of the warm-up.",
    )
    weight_decay: float = Field(default=0.05, ge=0, description="Weight decay of AdamW.")
    warmup_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description=(
            "Share of all steps in which OneCycleLR raises the learning rate (its pct_start); in "
            "the rest it falls along a cosine."
        ),
    )
    gradient_clip_norm: float = Field(
        default=1.0, gt=0, description="Gradients with a larger norm are scaled down to it."
    )
    batch_size: int = Field(
        default=64,
        ge=2,
        description=(
            "Trials per step. Also the number of candidates in the loss and in the validation "
            "metrics, so values of val/batch_* compare only at the same batch size."
        ),
    )
    n_epochs: int = Field(
        default=40,
        ge=1,
        description="Epochs at most. The learning rate's course is laid out over all of them.",
    )
    patience: int = Field(
        default=5,
        ge=1,
        description="Stop after this number of epochs without a better value of the monitor.",
    )
    monitor: Monitor = Field(
        default="val/batch_top5_acc",
        description=(
            "What the epoch that is kept is best at. val/batch_top5_acc is the published task's, "
            "val/batch_inv_norm_rank_mean that of the reference's release 0.4.0."
        ),
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "What the matrix products of training steps are rounded to. Weights, loss, optimiser, "
            "validation and prediction are float32 either way."
        ),
    )
    seeds: list[int] = Field(
        default=[0, 1, 2],
        min_length=1,
        description="Seeds of initial weights and dropout: a model for each, trained one after the"
        " other on data that is read once.",
    )
    data_seed: int = Field(default=33, ge=0, description="Seed of the order of the trials.")

    preset: PresetName = Field(
        default="betas",
        description="The task: betas (a value a trial), or neuralbench, the reference's windows of"
        " time series. Everything else has the reference's settings in both.",
    )
    zscore: bool = Field(
        default=True,
        description="Z-score betas of each vertex within session. Time series always are, by run.",
    )
    space: str | None = Field(
        default=None,
        description="Space that the fMRI has to come from. An experiment on betas has stages of its"
        " own for another space than fsaverage, such as func1pt8mm; everything else refuses fMRI of"
        " another one. null: the one that it was prepared from.",
    )
    region: str | None = Field(
        default=None,
        description="Use only the vertices of a region: one of NSD's on fsaverage, such as"
        " nsdgeneral or streams, or a path on this machine with {hemisphere} for lh and rh (.mgz,"
        " .mgh, .label). null: all vertices.",
    )
    region_above: float = Field(
        default=0.0, description="A vertex's label has to be above this to be in the region."
    )
    region_up_to: float | None = Field(
        default=None, description="And not above this: 4 and 5 select stream 5, the ventral one."
    )
    sessions: str = Field(
        default="all",
        description="Sessions of each subject to learn from: 1-10,15, first 5, or all at hand."
        " Tested is on all of them.",
    )
    hold_out: str = Field(
        default="",
        description="Sessions that are neither learned from nor part of the test, such as 38-40:"
        " a second test, of their images that were not learned.",
    )
    train_on: Literal["own", "others", "all"] = Field(
        default="own",
        description="Whose trials a subject's model learns from: the subject's own, those of all"
        " other subjects (a new subject, of whom nothing is known), or everybody's. Tested is on"
        " the subject alone.",
    )
    start_from: str | None = Field(
        default=None,
        description="Experiment whose weights, of the same cohort and seed, the training begins"
        " with, instead of random ones.",
    )
    window_start: float = Field(
        default=2.0, description="Windows: seconds from an image's onset to its window."
    )
    window_duration: float = Field(
        default=7.0, gt=0, description="Windows: seconds that a window lasts."
    )
    validation_by: Literal["timeline", "image_id"] = Field(
        default="timeline",
        description="What validation holds out as a whole: runs (the reference; repeats of one"
        " image may fall on both sides) or images.",
    )
    validation_ratio: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the runs or images that are held out."
    )

    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Memory for the fMRI of each process in GB. What is larger stays in the store,"
        " is read in every epoch and shuffled within this memory: another order, and therefore"
        " other weights. null: all is in memory, and a cohort that does not fit is an error.",
    )
    data_dtype: DataDtype = Field(
        default="float32",
        description="What fMRI is kept in. What the model computes in is `precision`.",
    )
    n_processes: int = Field(
        default=1,
        ge=1,
        description="Processes that train together, each with a GPU of its own if there are any."
        " Batches and results are those of one process.",
    )

    @model_validator(mode="before")
    @classmethod
    def _ridge_has_one_seed(cls, settings: Any) -> Any:
        """Of ridge there is one model: nothing of it is drawn."""
        if isinstance(settings, dict) and settings.get("model") == "ridge":
            seeds = settings.get("seeds", cls.model_fields["seeds"].default)
            return {**settings, "seeds": seeds[:1]}
        return settings

    @field_validator("sessions", "hold_out")
    @classmethod
    def _check_sessions(cls, text: str) -> str:
        return check_choice(text) if text else text

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: list[int]) -> list[int]:
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError("seeds are different numbers from 0")
        return seeds

    @classmethod
    def of_model(cls, recorded: Mapping[str, Any]) -> Self:
        """Settings of a model as its manifest has them, whichever version of the code made it.

        An ArtifactError if an earlier version restricted it to a region: it does not say to which
        vertices.
        """
        if recorded.get("roi"):
            raise ArtifactError(
                "An earlier version restricted this model to a region that it does not name.",
                next_step="train it again, by an experiment with `region`.",
            )
        known = {name: value for name, value in recorded.items() if name in cls.model_fields}
        if "seed" in recorded:  # there was one, and only one model
            known["seeds"] = [recorded["seed"]]
        return cls(**known)

    @model_validator(mode="after")
    def _fits_the_model(self) -> Self:
        if self.arguments and self.model in KNOWN_MODELS:
            raise ValueError(f"`arguments` are for a class of your own; {self.model} takes none")
        if min(self.alphas) <= 0:
            raise ValueError("`alphas` must be above zero")
        if self.start_from and self.model == "ridge":
            raise ValueError("`start_from` is for what is trained; ridge is fitted at once")
        if not self.windowed and self.space not in (None, *SPACES):
            raise ValueError(f"NSD has no betas in `space` {self.space}: {', '.join(SPACES)}")
        return self

    @property
    def windowed(self) -> bool:
        """Whether a trial is a window of a time series, and not one beta."""
        return self.preset == "neuralbench"

    def decisive(self) -> dict[str, Any]:
        """Every setting that the model depends on by more than rounding."""
        other = {"n_processes"}
        if self.model in KNOWN_MODELS:
            other |= {"arguments"}
        if self.model != "ridge":
            other |= {"alphas", "alpha_per_target"}
        return self.model_dump(mode="json", exclude=other)

    @property
    def drawn_by(self) -> tuple[int, ...]:
        """Seeds that models depend on; none for ridge, of which nothing is drawn."""
        return () if self.model == "ridge" else tuple(self.seeds)

    def starts_as_mean(self, n_times: int) -> bool:
        """Whether the map over ``n_times`` time points starts as their plain mean."""
        return self.time_weights == "mean" or (self.time_weights == "auto" and n_times == 1)
