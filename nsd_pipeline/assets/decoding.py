"""From brain to image: a model per cohort, and how well it retrieves what was seen."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

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
from nsd_pipeline.assets.cohort import (
    Cohort,
    find_cohort,
    read_targets,
    read_trials,
    trained_cohort,
)
from nsd_pipeline.assets.embeddings import open_images
from nsd_pipeline.assets.presets import N_VERTICES, PRESETS
from nsd_pipeline.assets.raw import pictures_of
from nsd_pipeline.assets.settings import FmriMlpConfig
from nsd_pipeline.assets.training import (
    HISTORY_FILE,
    TRIALS_FILE,
    OnEpoch,
    TrainingPlan,
    alone,
    require_devices,
    train_here,
    train_in_processes,
)
from nsd_pipeline.automation import CARRY_ON, CARRY_ON_AFTER_EMBEDDING
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.events import assign_validation, check_split
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.storage.store import Draft, Store

METRICS_FILE = "metrics.parquet"
RANKS_FILE = "ranks.parquet"
TOP_FILE = "top10.parquet"

_HEADLINES = ("top1_acc", "top5_acc", "top10_acc", "top5_acc_instance-agg")
_MEDIAN = "median_retrieval_rank"


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
        chosen = cohort.preset.choose(artifacts, read_trials(artifacts, cohort), config)
        trials = assign_validation(
            chosen.trials,
            by=config.validation_by,
            ratio=config.validation_ratio,
            seed=config.data_seed,
        )
        check_split(trials)
        trials.to_parquet(draft.folder / TRIALS_FILE, index=False)
        trained = _train(
            TrainingPlan(
                store_url=artifacts.url,
                cohort=cohort,
                config=config,
                folder=draft.folder,
                checkpoint=artifacts.scratch(plan.key) / "checkpoint",
                recipe=plan.digest,
            ),
            artifacts,
            gpu,
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
            **chosen.facts,
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
        cohort = trained_cohort(artifacts, trained)
        trials = pd.read_parquet(folder / TRIALS_FILE)
        tested, options = trials[trials["split"] == "test"], FmriMlpConfig(**trained.config)
        data = cohort.preset.read(artifacts, tested, options, *read_targets(artifacts, cohort))
        with gpu.lease() as device:
            model = decoding.load_model(folder).to(device or "cpu")
            y_pred, y_true = decoding.predict(model, data), data.y_true()
            contributions = np.zeros(N_VERTICES, np.float32)
            vertices = cohort.preset.vertices(artifacts, tested, options)
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


def _train(plan: TrainingPlan, store: Store, gpu: GpuResource, on_epoch: OnEpoch) -> dict[str, Any]:
    """Train with as many devices as processes; facts about the model."""
    n_processes = plan.config.n_processes
    if n_processes > 1:
        require_devices(n_processes)
    with ExitStack() as held:
        held.enter_context(alone(plan))
        devices = [held.enter_context(gpu.lease()) for _ in range(n_processes)]
        if n_processes > 1:
            return train_in_processes(plan, devices, on_epoch=on_epoch)
        facts = train_here(plan, store, device=devices[0], on_epoch=on_epoch)
    assert facts is not None  # noqa: S101  # this is the only process
    return facts


def _in_words(epoch: Mapping[str, float]) -> str:
    return (
        f"epoch {epoch['epoch']:.0f}: train loss {epoch['train/loss']:.3f},"
        f" val loss {epoch['val/loss']:.3f},"
        f" val top-5 of a batch {epoch['val/batch_top5_acc']:.1%} ({epoch['seconds']:.1f} s)"
    )
