"""One page across cohorts."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pandas as pd

from nsd_pipeline import partitions, report
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.steps.images import GENERATED
from nsd_pipeline.steps.measurement import METRICS_FILE, Metrics, read_verdict
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


class Measured(NamedTuple):
    """Models of an experiment and a cohort, and what was measured of them."""

    step: type[Metrics]
    metrics: Manifest
    model: Manifest

    @property
    def title(self) -> str:
        """Cohort and experiment; the cohort alone for the default."""
        experiment, cohort = self.step.model.experiment, str(self.metrics.partition)
        return cohort if experiment.is_default else f"{cohort}, {experiment.name}"


class Report(Step):
    """One HTML page about every cohort that was measured."""

    name = "decoding_report"
    code_version = "3"

    def __init__(self, store: Store, steps: Mapping[str, type[Metrics]]) -> None:
        super().__init__(store)
        wanted = [(step, cohort) for step in steps.values() for cohort in partitions.COHORTS]
        with ThreadPoolExecutor(max_workers=16) as threads:
            found = threads.map(lambda each: store.find(each[0].key(each[1])), wanted)
            self._measured = [
                Measured(step, metrics, step.model.made(store, cohort))
                for (step, cohort), metrics in zip(wanted, found, strict=True)
                if metrics
            ]
        if not self._measured:
            raise NotEnoughDataError(
                f"No cohort has retrieval metrics in {store.url}.",
                next_step="make retrieval_metrics of a cohort first.",
            )

    def plan(self, partition: str) -> Plan:
        made_from = [each for found in self._measured for each in (found.metrics, found.model)]
        return Plan(inputs={manifest.key: manifest.fingerprint for manifest in made_from})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        cohorts = [self._cohort_report(each) for each in self._measured]
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
            generated=all(
                each.metrics.metadata.get("pictures") == GENERATED for each in self._measured
            ),
        )
        (draft.folder / PAGE_FILE).write_text(page, encoding="utf-8")
        return {"cohorts": [each.cohort for each in cohorts], "page": PAGE_FILE}

    def _cohort_report(self, measured: Measured) -> report.CohortReport:
        step, metrics, model = measured
        cohort = str(metrics.partition)
        folders = [self.store.folder(manifest.key) for manifest in (metrics, model)]
        table = pd.read_parquet(folders[0] / METRICS_FILE).set_index("metric")
        generated = metrics.metadata.get("pictures") == GENERATED
        verdict = read_verdict(self.store, step, cohort)
        warnings = [] if verdict.above_chance else [verdict.message]
        if metrics.inputs[step.model.name] != model.fingerprint:
            warnings.append(
                "These numbers are of an earlier model than the one whose settings and curves are"
                f" shown: make {step.name} again."
            )
        return report.CohortReport(
            measured.title,
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


def report_asset(steps: Mapping[str, type[Metrics]]) -> dg.AssetsDefinition:
    """Asset of the page, given the steps of every experiment's metrics by its name."""
    needed = [each.name for step in steps.values() for each in (step, step.model)]

    @step_asset(
        Report,
        group_name="report",
        kinds={"html"},
        deps=[dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in needed],
        automation_condition=CARRY_ON,
    )
    def decoding_report(context: dg.AssetExecutionContext, store: StoreResource) -> None:
        """One HTML page: every experiment's metrics beside chance, figures, how they came about."""
        materialize(context, Report(store.open(), steps))

    return decoding_report


def comparable_settings(model: Manifest) -> dict[str, str]:
    """What two models must have in common if their numbers are to be compared, in words."""
    # What an earlier version did not know had the value that is the default now.
    training = TrainingConfig.of_model(model.config).decisive()
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
