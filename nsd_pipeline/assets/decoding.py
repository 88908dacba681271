"""From brain to image: a model per cohort, and how well it retrieves what was seen."""

import json
from collections.abc import Mapping
from typing import Literal

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from nsd_pipeline import decoding, partitions, report
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
    check_unchanged,
    encoder_of,
    find_cohort,
    read_targets,
    read_trials,
    trained_cohort,
)
from nsd_pipeline.assets.embeddings import open_images
from nsd_pipeline.assets.presets import PRESETS, PresetName
from nsd_pipeline.automation import CARRY_ON, CARRY_ON_AFTER_EMBEDDING
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.events import assign_validation, check_split
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.storage.store import Draft

TRIALS_FILE = "trials.parquet"
HISTORY_FILE = "history.parquet"
METRICS_FILE = "metrics.parquet"
RANKS_FILE = "ranks.parquet"
TOP_FILE = "top10.parquet"

_HEADLINES = ("top1_acc", "top5_acc", "top10_acc", "median_retrieval_rank")


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

    def training(self) -> TrainingConfig:
        """The part that the domain code knows."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)))


@dg.asset(
    group_name="decoding",
    kinds={"pytorch"},
    code_version="1",
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
        return Recipe(
            keys.fmri_mlp(partition), inputs=cohort.inputs, config=config.model_dump(mode="json")
        )

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
        data = cohort.preset.read(
            artifacts, trials[trials["split"] != "test"], config, *read_targets(artifacts, cohort)
        )
        check_unchanged(artifacts, cohort)
        with gpu.lease() as device:
            result = decoding.train(
                config.training(),
                data.split("train"),
                data.split("val"),
                device=device,
                checkpoint=artifacts.scratch(plan.key) / "checkpoint",
                on_epoch=lambda epoch: context.log.info(_in_words(epoch)),
            )
        decoding.save_model(draft.folder, result.model, config.training())
        result.history.to_parquet(draft.folder / HISTORY_FILE, index=False)
        write_figure(
            draft,
            "training_curves",
            report.training_curves(result.history, batch_size=config.batch_size),
        )
        best = result.history.loc[result.history["epoch"] == result.best_epoch].iloc[0]
        return {
            "preset": config.preset,
            "sessions": cohort.sessions,
            "encoder": encoder_of(artifacts, cohort),
            "trials": {str(k): int(v) for k, v in trials["split"].value_counts().items()},
            **chosen.facts,
            "vertices": data.n_vertices,
            "parameters": decoding.n_parameters(result.model),
            "epochs": len(result.history),
            "best epoch": int(result.best_epoch),
            "val/batch_top5_acc": float(best["val/batch_top5_acc"]),
            "device": str(next(result.model.parameters()).device),
            "seconds": float(result.history["seconds"].sum()),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


@dg.asset(
    group_name="decoding",
    kinds={"pytorch", "parquet"},
    code_version="1",
    partitions_def=partitions.cohorts,
    deps=[fmri_mlp],
    pool=GPU_POOL,
    automation_condition=CARRY_ON,
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
        data = cohort.preset.read(
            artifacts,
            trials[trials["split"] == "test"],
            FmriMlpConfig(**trained.config),
            *read_targets(artifacts, cohort),
        )
        with gpu.lease() as device:
            model = decoding.load_model(folder).to(device or "cpu")
            y_pred, y_true = decoding.predict(model, data), data.y_true()
            contributions = decoding.vertex_contributions(model, data)
        images = data.trials["image_id"].tolist()
        subjects = data.trials["subject"].tolist()
        metrics = decoding.retrieval_metrics(y_pred, y_true, images, subjects)
        chance = decoding.chance_levels(images, subjects)
        table = report.metrics_table(metrics, chance)
        table.to_parquet(draft.folder / METRICS_FILE, index=False)
        ranks = decoding.trial_ranks(y_pred, y_true, images, subjects)
        ranks.to_parquet(draft.folder / RANKS_FILE, index=False)
        top = decoding.top_images(y_pred, y_true, images, subjects)
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
            **{f"chance {name}": chance[name] for name in _HEADLINES},
            "test trials": len(images),
            "test images": set_size,
            "metrics": json.loads(table.to_json(orient="records")),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


def _in_words(epoch: Mapping[str, float]) -> str:
    return (
        f"epoch {epoch['epoch']:.0f}: train loss {epoch['train/loss']:.3f},"
        f" val loss {epoch['val/loss']:.3f},"
        f" val top-5 of a batch {epoch['val/batch_top5_acc']:.1%} ({epoch['seconds']:.1f} s)"
    )
