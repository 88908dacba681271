"""From brain to image: a model per cohort, and how well it retrieves what was seen."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline import decoding, evaluation, partitions, report
from nsd_pipeline.automation import CARRY_ON, CARRY_ON_AFTER_EMBEDDING
from nsd_pipeline.decoding.cohort import (
    N_VERTICES,
    Cohort,
    read_data,
    read_trials,
    read_vertices,
    sessions_with,
)
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.processes import HISTORY_FILE, TRIALS_FILE, TrainingPlan, train_model
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NotEnoughDataError, Remake
from nsd_pipeline.evaluation.chance import Verdict, against_chance
from nsd_pipeline.events import assign_validation, check_split
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.nsd.layout import SUBJECTS, session_key
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.steps.events import FsaverageEvents
from nsd_pipeline.steps.images import Embeddings, Stimuli
from nsd_pipeline.steps.running import materialize, step_asset, write_figure
from nsd_pipeline.steps.series_files import SeriesEvents
from nsd_pipeline.steps.series_surface import Series
from nsd_pipeline.steps.step import Metadata, Plan, Step
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Draft, Store, fingerprint

METRICS_FILE = "metrics.parquet"
RANKS_FILE = "ranks.parquet"
TOP_FILE = "top10.parquet"

_HEADLINES = ("top1_acc", "top5_acc", "top10_acc", "top5_acc_instance-agg")
_MEDIAN = "median_retrieval_rank"

FMRI_STEPS: Final[dict[str, tuple[type[Step], type[Step], str]]] = {
    "betas": (SurfaceBetas, FsaverageEvents, "betas"),
    "neuralbench": (Series, SeriesEvents, "time series"),
}
"""What each preset takes its fMRI and its trials from, and what messages call it."""


class FmriMlpConfig(TrainingConfig, dg.Config):
    """How a model is trained: the reference's settings, and what it is trained on."""


class FmriMlp(Step):
    """A cohort's trained model."""

    name = "fmri_mlp"
    code_version = "2"
    partitions = partitions.cohorts

    def __init__(
        self, store: Store, config: FmriMlpConfig, gpu: GpuResource, log: Callable[[str], None]
    ) -> None:
        super().__init__(store)
        self.config, self.gpu, self._log = config, gpu, log
        self._cohorts: dict[str, Cohort] = {}

    def plan(self, partition: str) -> Plan:
        fmri, _, what = FMRI_STEPS[self.config.preset]
        subjects = partitions.subjects_of_cohort(partition)
        sessions = sessions_with(self.store, fmri.folder(), subjects)
        if not sessions:
            raise NotEnoughDataError(
                f"No session of {' or '.join(subjects)} has {what} on fsaverage5 in"
                f" {self.store.url}.",
                next_step=f"make {fmri.name} of a session, and what it needs, or choose another"
                " preset.",
                remake=Remake(fmri.name, session_key(subjects[0], 1)),
            )
        cohort = collect_cohort(self.store, partition, self.config.preset, sessions)
        self._cohorts[partition] = cohort
        return Plan(inputs=cohort.inputs, settings=self.config.decisive())

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        config, cohort = self.config, self._cohorts[partition]

        def log_epoch(epoch: Mapping[str, float]) -> None:
            self._log(
                f"epoch {epoch['epoch']:.0f}: train loss {epoch['train/loss']:.3f},"
                f" val loss {epoch['val/loss']:.3f}, val top-5 of a batch"
                f" {epoch['val/batch_top5_acc']:.1%} ({epoch['seconds']:.1f} s)"
            )

        trials, left_out = read_trials(self.store, cohort, config)
        trials = assign_validation(
            trials, by=config.validation_by, ratio=config.validation_ratio, seed=config.data_seed
        )
        check_split(trials)
        trials.to_parquet(draft.folder / TRIALS_FILE, index=False)
        trained = train_model(
            TrainingPlan(
                store_url=self.store.url,
                cohort=cohort,
                config=config,
                folder=draft.folder,
                checkpoint=self.store.scratch(self.key(partition)) / "checkpoint",
                recipe=fingerprint(self.key(partition), "", plan.config, dict(plan.inputs)),
            ),
            self.store,
            self.gpu.lease,
            log_epoch,
        )
        history = pd.read_parquet(draft.folder / HISTORY_FILE)
        write_figure(
            draft,
            "training_curves",
            report.training_curves(history, batch_size=config.batch_size, monitor=config.monitor),
        )
        return {
            "decoder": config.model,
            "image encoder": describe_encoder(cohort.encoder),
            "preset": config.preset,
            "space": cohort.space,
            "sessions": cohort.sessions,
            "encoder": dict(cohort.encoder),
            "trials": {str(k): int(v) for k, v in trials["split"].value_counts().items()},
            **left_out,
            **trained,
        }


def collect_cohort(store: Store, name: str, preset: str, sessions: Sequence[str]) -> Cohort:
    """Collect what a model of some sessions is made from.

    Raises
    ------
    ArtifactError
        If embeddings of its images are missing, or were made by different encoders, or there is
        fMRI without its events.
    """
    fmri, events, _ = FMRI_STEPS[preset]
    seen = [name for name in SUBJECTS if any(each.startswith(name) for each in sessions)]

    # On S3 each is two requests, and all subjects' sessions are 284 of two kinds.
    with ThreadPoolExecutor(max_workers=16) as threads:

        def made(step: type[Step], keys: Sequence[str]) -> dict[str, Manifest]:
            found = threads.map(lambda partition: step.made(store, partition), keys)
            return dict(zip(keys, found, strict=True))

        return Cohort.of(
            name,
            fmri=made(fmri, sessions),
            events=made(events, sessions),
            embeddings=made(Embeddings, [partitions.SHARED, *seen]),
        )


@step_asset(
    FmriMlp,
    ranged=False,
    group_name="decoding",
    kinds={"pytorch"},
    deps=[
        *(
            dg.AssetDep(step.name, partition_mapping=partitions.sessions_to_cohorts)
            for step in (SurfaceBetas, FsaverageEvents, Series, SeriesEvents)
        ),
        dg.AssetDep(Embeddings.name, partition_mapping=partitions.stimulus_sets_to_cohorts),
    ],
    pool=GPU_POOL,
    automation_condition=CARRY_ON_AFTER_EMBEDDING,
)
def fmri_mlp(
    context: dg.AssetExecutionContext, config: FmriMlpConfig, store: StoreResource, gpu: GpuResource
) -> None:
    """The model: from a trial's fMRI to the embedding of the image that was seen.

    Trained with a CLIP loss on every session that is at hand; the shared images are kept for the
    test. A training that is interrupted goes on where it was.
    """
    materialize(context, FmriMlp(store.open(), config, gpu, context.log.info))


class RetrievalMetrics(Step):
    """How well a cohort's model retrieves the images that were seen."""

    name = "retrieval_metrics"
    code_version = "2"
    partitions = partitions.cohorts

    def __init__(self, store: Store, open_source: Callable[[], Source], gpu: GpuResource) -> None:
        super().__init__(store)
        self.open_source, self.gpu = open_source, gpu

    def plan(self, partition: str) -> Plan:
        return Plan(inputs={FmriMlp.name: FmriMlp.made(self.store, partition).fingerprint})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        trained = FmriMlp.made(self.store, partition)
        folder = self.store.folder(trained.key)
        options = FmriMlpConfig(**trained.config)
        cohort = collect_cohort(self.store, partition, options.preset, trained.metadata["sessions"])
        cohort.require_encoder(trained.metadata["encoder"])
        trials = pd.read_parquet(folder / TRIALS_FILE)
        tested = trials[trials["split"] == "test"]
        data = read_data(self.store, cohort, tested, options)
        with self.gpu.lease() as device:
            model = decoding.load_model(folder).to(device or "cpu")
            y_pred, y_true = decoding.predict(model, data), data.y_true()
            contributions = np.zeros(N_VERTICES, np.float32)
            vertices = read_vertices(self.store, cohort, tested, options)
            contributions[vertices] = decoding.vertex_contributions(model, data)
        images = data.table["image_id"].tolist()
        subjects = data.table["subject"].tolist()
        metrics = evaluation.retrieval_metrics(y_pred, y_true, images, subjects)
        chance = evaluation.chance_levels(images, subjects)
        table = report.metrics_table(metrics, chance)
        ranks, top = (
            evaluation.name_trials(look(y_pred, y_true, images, subjects), data.table)
            for look in (evaluation.trial_ranks, evaluation.top_images)
        )
        for content, file in ((table, METRICS_FILE), (ranks, RANKS_FILE), (top, TOP_FILE)):
            content.to_parquet(draft.folder / file, index=False)
        among_all = ranks[ranks["set"] == "all"]
        self._draw(draft, among_all, top, contributions)
        return {
            **{name: metrics[name] for name in _HEADLINES},
            "median place": report.place_of(metrics[_MEDIAN]),
            **{f"chance {name}": chance[name] for name in _HEADLINES},
            "chance median place": report.place_of(chance[_MEDIAN]),
            "decoder": options.model,
            "image encoder": describe_encoder(trained.metadata["encoder"]),
            "test trials": len(images),
            "test images": int(among_all["n_candidates"].iloc[0]),
            "pictures": Stimuli.pictures(self.store, partitions.SHARED),
            "metrics": json.loads(report.readable_metrics(table).to_json(orient="records")),
        }

    def _draw(
        self,
        draft: Draft,
        ranks: pd.DataFrame,
        top: pd.DataFrame,
        contributions: NDArray[np.float32],
    ) -> None:
        """Draw the figures; ``contributions`` (V,) is what each vertex adds to the score."""
        read = Stimuli.open_images(self.store, self.open_source(), partitions.SHARED)
        gallery = [
            report.Retrieval(
                seen=read(np.array([example.image_id]))[0],
                rank=example.rank,
                retrieved=list(read(example.retrieved)),
                correct=example.correct,
            )
            for example in report.gallery_examples(ranks, top)
        ]
        set_size = int(ranks["n_candidates"].iloc[0])
        write_figure(draft, "ranks", report.rank_distribution(ranks["rank"], set_size))
        write_figure(draft, "retrieval_gallery", report.retrieval_gallery(gallery))
        write_figure(
            draft,
            "where_the_model_finds_it",
            report.surface_map(
                contributions,
                "Where the model finds it",
                "contribution",
                cmap="RdBu_r",
                symmetric=True,
            ),
        )


@step_asset(
    RetrievalMetrics,
    ranged=False,
    group_name="decoding",
    kinds={"pytorch", "parquet"},
    deps=[fmri_mlp],
    pool=GPU_POOL,
    automation_condition=CARRY_ON,
    columns=[
        dg.TableColumn("metric", "string", "name, as the reference has it"),
        dg.TableColumn("value", "float64"),
        dg.TableColumn("chance", "float64", "of estimates that know nothing"),
        dg.TableColumn("ratio", "float64", "value / chance"),
    ],
)
def retrieval_metrics(
    context: dg.AssetExecutionContext,
    source: SourceResource,
    store: StoreResource,
    gpu: GpuResource,
) -> None:
    """How often the image that was seen is found among all test images, beside chance.

    Every metric of the reference, the rank of every trial, the ten images retrieved for it, and
    figures.
    """
    materialize(context, RetrievalMetrics(store.open(), source.open, gpu))


def read_verdict(store: Store, cohort: str) -> Verdict:
    """Say whether a cohort's model beats guessing; an ArtifactError if it was not measured."""
    metrics, model = RetrievalMetrics.made(store, cohort), FmriMlp.made(store, cohort)
    table = pd.read_parquet(store.folder(metrics.key) / METRICS_FILE).set_index("metric")
    accuracy = float(table["value"].to_dict()["top5_acc_instance-agg"])
    return Verdict(
        cohort,
        against_chance(accuracy, int(metrics.metadata["test images"])),
        seed=int(model.config["seed"]),
        n_sessions=len(model.metadata["sessions"]),
    )
