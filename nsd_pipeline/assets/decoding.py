"""From brain to image: a model per cohort, and how well it retrieves what was seen."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import dagster as dg
import numpy as np
import pandas as pd

from nsd_pipeline import decoding, evaluation, partitions, report
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.artifacts import (
    Facts,
    Recipe,
    fails_plainly,
    materialize_artifacts,
    require,
    write_figure,
)
from nsd_pipeline.assets.backlog import SESSION_ASSETS
from nsd_pipeline.assets.embeddings import open_images
from nsd_pipeline.assets.raw import pictures_of
from nsd_pipeline.automation import CARRY_ON, CARRY_ON_AFTER_EMBEDDING
from nsd_pipeline.decoding.cohort import (
    N_VERTICES,
    Cohort,
    read_data,
    read_trials,
    read_vertices,
    sessions_with,
)
from nsd_pipeline.decoding.config import PresetName, TrainingConfig
from nsd_pipeline.decoding.processes import HISTORY_FILE, TRIALS_FILE, TrainingPlan, train_model
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.events import assign_validation, check_split
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store

METRICS_FILE = "metrics.parquet"
RANKS_FILE = "ranks.parquet"
TOP_FILE = "top10.parquet"

_HEADLINES = ("top1_acc", "top5_acc", "top10_acc", "top5_acc_instance-agg")
_MEDIAN = "median_retrieval_rank"


class FmriMlpConfig(TrainingConfig, dg.Config):
    """How a model is trained: the reference's settings, and what it is trained on."""


class Preset(NamedTuple):
    """The assets that a preset's data come from.

    Attributes
    ----------
    what
        What the fMRI is, in the plural.
    fmri, events
        The assets that have the fMRI and its trials.
    fmri_folder
        Folder of the store that has the fMRI.
    session_assets
        All assets that prepare a session, in order.
    """

    what: str
    fmri: str
    events: str
    fmri_folder: str
    session_assets: tuple[str, ...]

    def fmri_key(self, session: str) -> str:
        """Key of a session's fMRI."""
        return keys.session_artifact(self.fmri_folder, session)

    def events_key(self, session: str) -> str:
        """Key of a session's events."""
        return keys.session_artifact(self.events, session)


PRESETS: Final[dict[PresetName, Preset]] = {
    "betas": Preset(
        "betas", "fsaverage5_betas", "fsaverage_events", "fsaverage5_betas.zarr", SESSION_ASSETS
    ),
    "neuralbench": Preset(
        "time series",
        "fsaverage5_series",
        "bold_events",
        "fsaverage5_series.zarr",
        ("events", "fsaverage_events", "bold", "bold_events", "fsaverage5_series"),
    ),
}


def find_cohort(store: Store, name: str, preset: Preset) -> Cohort:
    """Find what there is of a cohort: see `Cohort.of`.

    Raises
    ------
    NotEnoughDataError
        If no session of it has been prepared.
    """
    subjects = partitions.subjects_of_cohort(name)
    sessions = sessions_with(store, preset.fmri_folder, subjects)
    if not sessions:
        raise NotEnoughDataError(
            f"No session of {' or '.join(subjects)} has {preset.what} on fsaverage5 in"
            f" {store.url}.",
            next_step="run `dagster asset materialize -m nsd_pipeline.definitions --select"
            f" {preset.fmri} --partition {session_key(subjects[0], 1)}` and what it needs,"
            " or choose another preset.",
        )
    return collect_cohort(store, name, preset, sessions)


def collect_cohort(store: Store, name: str, preset: Preset, sessions: list[str]) -> Cohort:
    """Cohort of these sessions."""
    stimulus_sets = [
        stimulus_set
        for stimulus_set in partitions.STIMULUS_SETS
        if stimulus_set == partitions.SHARED
        or any(session.startswith(stimulus_set) for session in sessions)
    ]

    def manifests(asset: str, key: Callable[[str], str], names: list[str]) -> dict[str, Manifest]:
        # On S3 each is two requests, and all subjects' sessions are 284.
        with ThreadPoolExecutor(max_workers=16) as threads:
            found = threads.map(
                lambda each: require(store, key(each), asset=asset, partition=each), names
            )
            return dict(zip(names, found, strict=True))

    return Cohort.of(
        name,
        fmri=manifests(preset.fmri, preset.fmri_key, sessions),
        events=manifests(preset.events, preset.events_key, sessions),
        embeddings=manifests("stimulus_embeddings", keys.stimulus_embeddings, stimulus_sets),
    )


@dg.asset(
    group_name="decoding",
    kinds={"pytorch"},
    code_version="2",
    partitions_def=partitions.cohorts,
    deps=[
        dg.AssetDep("fsaverage5_betas", partition_mapping=partitions.sessions_to_cohorts),
        dg.AssetDep("fsaverage_events", partition_mapping=partitions.sessions_to_cohorts),
        dg.AssetDep("fsaverage5_series", partition_mapping=partitions.sessions_to_cohorts),
        dg.AssetDep("bold_events", partition_mapping=partitions.sessions_to_cohorts),
        dg.AssetDep("stimulus_embeddings", partition_mapping=partitions.stimulus_sets_to_cohorts),
    ],
    pool=GPU_POOL,
    automation_condition=CARRY_ON_AFTER_EMBEDDING,
)
@fails_plainly
def fmri_mlp(
    context: dg.AssetExecutionContext, config: FmriMlpConfig, store: StoreResource, gpu: GpuResource
) -> None:
    """The model: from a trial's fMRI to the embedding of the image that was seen.

    Trained with a CLIP loss on every session that is at hand; the shared images are kept for the
    test. A training that is interrupted goes on where it was.
    """
    artifacts = store.open()
    cohorts: dict[str, Cohort] = {}

    def recipe(partition: str) -> Recipe:
        cohort = find_cohort(artifacts, partition, PRESETS[config.preset])
        cohorts[partition] = cohort
        return Recipe(keys.fmri_mlp(partition), inputs=cohort.inputs, config=config.decisive())

    def make(partition: str, plan: Recipe, draft: Draft) -> Facts:
        cohort = cohorts[partition]
        chosen, dropped = read_trials(artifacts, cohort, config)
        trials = assign_validation(
            chosen,
            by=config.validation_by,
            ratio=config.validation_ratio,
            seed=config.data_seed,
        )
        check_split(trials)
        trials.to_parquet(draft.folder / TRIALS_FILE, index=False)
        trained = train_model(
            TrainingPlan(
                store_url=artifacts.url,
                cohort=cohort,
                config=config,
                folder=draft.folder,
                checkpoint=artifacts.scratch(plan.key) / "checkpoint",
                recipe=plan.digest,
            ),
            artifacts,
            gpu.lease,
            lambda epoch: context.log.info(_in_words(epoch)),
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
            **dropped,
            **trained,
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


@dg.asset(
    group_name="decoding",
    kinds={"pytorch", "parquet"},
    code_version="2",
    partitions_def=partitions.cohorts,
    deps=[fmri_mlp],
    pool=GPU_POOL,
    automation_condition=CARRY_ON,
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("metric", "string", description="name, as the reference has it"),
                dg.TableColumn("value", "float64"),
                dg.TableColumn("chance", "float64", description="of estimates that know nothing"),
                dg.TableColumn("ratio", "float64", description="value / chance"),
            ]
        )
    },
)
@fails_plainly
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
    artifacts = store.open()

    def recipe(partition: str) -> Recipe:
        model = require(artifacts, keys.fmri_mlp(partition), asset="fmri_mlp", partition=partition)
        return Recipe(keys.retrieval_metrics(partition), inputs={"fmri_mlp": model.fingerprint})

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        trained = require(
            artifacts, keys.fmri_mlp(partition), asset="fmri_mlp", partition=partition
        )
        folder = artifacts.folder(trained.key)
        options = FmriMlpConfig(**trained.config)
        cohort = collect_cohort(
            artifacts, partition, PRESETS[options.preset], trained.metadata["sessions"]
        )
        cohort.require_encoder(trained.metadata["encoder"])
        trials = pd.read_parquet(folder / TRIALS_FILE)
        tested = trials[trials["split"] == "test"]
        data = read_data(artifacts, cohort, tested, options)
        with gpu.lease() as device:
            model = decoding.load_model(folder).to(device or "cpu")
            y_pred, y_true = decoding.predict(model, data), data.y_true()
            contributions = np.zeros(N_VERTICES, np.float32)
            vertices = read_vertices(artifacts, cohort, tested, options)
            contributions[vertices] = decoding.vertex_contributions(model, data)
        images = data.table["image_id"].tolist()
        subjects = data.table["subject"].tolist()
        metrics = evaluation.retrieval_metrics(y_pred, y_true, images, subjects)
        chance = evaluation.chance_levels(images, subjects)
        table = report.metrics_table(metrics, chance)
        table.to_parquet(draft.folder / METRICS_FILE, index=False)
        ranks = evaluation.name_trials(
            evaluation.trial_ranks(y_pred, y_true, images, subjects), data.table
        )
        ranks.to_parquet(draft.folder / RANKS_FILE, index=False)
        top = evaluation.name_trials(
            evaluation.top_images(y_pred, y_true, images, subjects), data.table
        )
        top.to_parquet(draft.folder / TOP_FILE, index=False)

        among_all = ranks[ranks["set"] == "all"]
        set_size = int(among_all["n_candidates"].iloc[0])
        read = open_images(artifacts, source, partitions.SHARED)
        figures = {
            "ranks": report.rank_distribution(among_all["rank"], set_size),
            "retrieval_gallery": report.retrieval_gallery(
                [
                    report.Retrieval(
                        seen=read(np.array([example.image_id]))[0],
                        rank=example.rank,
                        retrieved=list(read(example.retrieved)),
                        correct=example.correct,
                    )
                    for example in report.gallery_examples(among_all, top)
                ]
            ),
            "where_the_model_finds_it": report.surface_map(
                contributions,
                "Where the model finds it",
                "contribution",
                cmap="RdBu_r",
                symmetric=True,
            ),
        }
        for name, png in figures.items():
            write_figure(draft, name, png)
        return {
            **{name: metrics[name] for name in _HEADLINES},
            "median place": report.place_of(metrics[_MEDIAN]),
            **{f"chance {name}": chance[name] for name in _HEADLINES},
            "chance median place": report.place_of(chance[_MEDIAN]),
            "decoder": options.model,
            "image encoder": describe_encoder(trained.metadata["encoder"]),
            "test trials": len(images),
            "test images": set_size,
            "pictures": pictures_of(artifacts, partitions.SHARED),
            "metrics": json.loads(report.readable_metrics(table).to_json(orient="records")),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


def _in_words(epoch: Mapping[str, float]) -> str:
    return (
        f"epoch {epoch['epoch']:.0f}: train loss {epoch['train/loss']:.3f},"
        f" val loss {epoch['val/loss']:.3f},"
        f" val top-5 of a batch {epoch['val/batch_top5_acc']:.1%} ({epoch['seconds']:.1f} s)"
    )
