"""One page across cohorts."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pandas as pd

from nsd_pipeline import partitions, report
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.steps.decoding import (
    METRICS_FILE,
    FmriMlp,
    FmriMlpConfig,
    RetrievalMetrics,
    read_verdict,
)
from nsd_pipeline.steps.images import GENERATED
from nsd_pipeline.steps.running import FIGURES, materialize, step_asset, write_figure
from nsd_pipeline.steps.step import Metadata, Plan, Step
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store

PAGE_FILE = "report.html"

_FIGURES = {
    "training_curves": ("Training", "The marked epoch's weights are the model's.", False),
    "ranks": ("Places of the images seen", "Chance is dashed.", False),
    "retrieval_gallery": (
        "What was seen, and what was retrieved",
        "Test trials from the best to the worst, evenly spaced.",
        True,
    ),
    "where_the_model_finds_it": (
        "Where the model finds it",
        "What each vertex adds to the score of the image that was seen, mean over test trials.",
        False,
    ),
}


class Report(Step):
    """One HTML page about every cohort that was measured."""

    name = "decoding_report"
    code_version = "2"

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        found = (store.find(RetrievalMetrics.key(cohort)) for cohort in partitions.COHORTS)
        self._measured = [manifest for manifest in found if manifest]
        if not self._measured:
            raise NotEnoughDataError(
                f"No cohort has retrieval metrics in {store.url}.",
                next_step="make retrieval_metrics of a cohort first.",
            )
        self._models = {
            str(each.partition): FmriMlp.made(store, str(each.partition)) for each in self._measured
        }

    def plan(self, partition: str) -> Plan:
        made_from = (*self._measured, *self._models.values())
        return Plan(inputs={manifest.key: manifest.fingerprint for manifest in made_from})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        cohorts = [self._cohort_report(manifest) for manifest in self._measured]
        overview = report.metric_bars(
            {each.cohort: each.metrics for each in cohorts},
            {each.cohort: each.chance for each in cohorts},
        )
        write_figure(draft, "overview", overview)
        different = report.differing_settings({each.cohort: each.settings for each in cohorts})
        caption = "Made with different settings, listed above." if different else ""
        page = report.render_page(
            cohorts,
            created=datetime.now(UTC),
            figures=[report.PageFigure("Retrieval of the test images", overview, caption)],
            generated=all(each.metadata.get("pictures") == GENERATED for each in self._measured),
        )
        (draft.folder / PAGE_FILE).write_text(page, encoding="utf-8")
        return {"cohorts": [each.cohort for each in cohorts], "page": PAGE_FILE}

    def _cohort_report(self, metrics: Manifest) -> report.CohortReport:
        cohort = str(metrics.partition)
        model = self._models[cohort]
        folders = [self.store.folder(manifest.key) for manifest in (metrics, model)]
        table = pd.read_parquet(folders[0] / METRICS_FILE).set_index("metric")
        generated = metrics.metadata.get("pictures") == GENERATED
        verdict = read_verdict(self.store, cohort)
        warnings = [] if verdict.above_chance else [verdict.message]
        if metrics.inputs[FmriMlp.name] != model.fingerprint:
            warnings.append(
                "These numbers are of an earlier model than the one whose settings and curves are"
                " shown: make retrieval_metrics again."
            )
        return report.CohortReport(
            cohort,
            {str(name): float(value) for name, value in table["value"].items()},
            {str(name): float(value) for name, value in table["chance"].items()},
            [
                report.PageFigure(title, png, caption, photographs and not generated)
                for name, (title, caption, photographs) in _FIGURES.items()
                for png in _figure(folders, name)
            ],
            {
                "Decoder": model.config["model"],
                "Image encoder": describe_encoder(model.metadata["encoder"]),
                "Sessions": ", ".join(model.metadata["sessions"]),
                "Trials": model.metadata["trials"],
                "Settings of the image encoder": model.metadata["encoder"],
                "Training": model.config,
                "Fingerprints": {
                    manifest.key: manifest.fingerprint for manifest in (model, metrics)
                },
            },
            settings=comparable_settings(model),
            warnings=warnings,
        )


@step_asset(
    Report,
    group_name="report",
    kinds={"html"},
    deps=[
        dg.AssetDep(RetrievalMetrics.name, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(FmriMlp.name, partition_mapping=dg.AllPartitionMapping()),
    ],
    automation_condition=CARRY_ON,
)
def decoding_report(context: dg.AssetExecutionContext, store: StoreResource) -> None:
    """One HTML page: every cohort's metrics beside chance, figures, how the numbers came about."""
    materialize(context, Report(store.open()))


def comparable_settings(model: Manifest) -> dict[str, str]:
    """What two models must have in common if their numbers are to be compared, in words."""
    # What an earlier version did not know had the value that is the default now.
    training = FmriMlpConfig(**model.config).decisive()
    return {
        "decoder": str(training.pop("model")),
        "data": str(training.pop("preset")),
        "space": model.metadata.get("space", report.NOT_RECORDED),
        "image encoder": describe_encoder(model.metadata["encoder"]),
        **{name: str(value) for name, value in training.items()},
        "version of the code": model.code_version,
    }


def _figure(folders: list[Path], name: str) -> list[bytes]:
    """The PNG of that name, in whichever folder has it."""
    paths = [folder / FIGURES / f"{name}.png" for folder in folders]
    return [path.read_bytes() for path in paths if path.exists()]
