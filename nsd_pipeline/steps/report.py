"""One page across experiments and cohorts."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import dagster as dg
import pandas as pd

from nsd_pipeline import evaluation, partitions, report
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline.experiments import DEFAULT
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.steps.images import GENERATED
from nsd_pipeline.steps.measurement import (
    DRAWN_FILE,
    METRICS_FILE,
    QUERIES_FILE,
    VERTICES_FILE,
    Metrics,
    read_verdict,
)
from nsd_pipeline.steps.running import materialize, read_figure, step_asset, write_figure
from nsd_pipeline.steps.step import Metadata, Plan, Step
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store

PAGE_FILE = "report.html"
SURFACE_FILE = "surface.html"

_METRIC: Final = report.MAIN_METRICS[0]
"""What experiments are compared by, and curves are drawn of."""


_COMPARED: Final = ("difference", "low", "high", "p_value", "n_images")


class _Figure(NamedTuple):
    title: str
    caption: str
    photographs: bool = False


_FIGURES: Final = {
    "retrieval_gallery": _Figure(
        "What was seen, and what was retrieved",
        "The best, the median and the worst of the images' first trials. The right one is framed.",
        photographs=True,
    ),
    "difficulty_of_images": _Figure(
        "Easy and hard images", "Mean over trials, subjects and seeds.", photographs=True
    ),
    "ranks": _Figure("Places of the images seen", "Chance is dashed."),
    "repeats": _Figure(
        "Repeats averaged",
        "Of images that were seen three times. Bars are 95 % intervals over test images.",
    ),
    "where_the_model_finds_it": _Figure(
        "Where the model finds it",
        "What each vertex adds to the score of the image that was seen, mean over test trials.",
    ),
    "training_curves": _Figure("Training", "The marked epochs' weights are the models'."),
}


class Measured(NamedTuple):
    """Models of an experiment and a cohort, and what was measured of them."""

    step: type[Metrics]
    metrics: Manifest
    model: Manifest

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.step.model.experiment.name

    @property
    def cohort(self) -> str:
        """Name of the cohort."""
        return str(self.metrics.partition)


class Report(Step):
    """One HTML page about every experiment and cohort that was measured."""

    name = "decoding_report"
    code_version = "4"

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
        results = [self._result(each) for each in self._measured]
        table = pd.concat(
            [
                each.metrics.assign(experiment=each.experiment, cohort=each.cohort)
                for each in results
            ]
        )
        differences, notes = self._differences()
        figures = self._figures_across(table, differences)
        for name, figure in figures.items():
            write_figure(draft, name, figure.picture)
        surface = self._surface(draft)
        downloads = _downloads(table, differences)
        for name, content in downloads.items():
            (draft.folder / name).write_text(content, encoding="utf-8")
        page = report.render_page(
            results,
            created=datetime.now(UTC),
            overview=report.Overview([*figures.values()], differences, notes, DEFAULT),
            descriptions={
                each.experiment: each.step.model.experiment.description for each in self._measured
            },
            downloads=downloads,
            surface=surface,
            generated=all(
                each.metrics.metadata.get("pictures") == GENERATED for each in self._measured
            ),
        )
        (draft.folder / PAGE_FILE).write_text(page, encoding="utf-8")
        return {
            "results": _results_in_words(table),
            "differences": differences.to_dict("records"),
            "cohorts": list(dict.fromkeys(each.cohort for each in results)),
            "experiments": list(dict.fromkeys(each.experiment for each in results)),
            "page": PAGE_FILE,
        }

    def _result(self, measured: Measured) -> report.Result:
        step, metrics, model = measured
        folders = [self.store.folder(manifest.key) for manifest in (metrics, model)]
        table = pd.read_parquet(folders[0] / METRICS_FILE)
        known = ["metric", "value", "low", "high", "chance", "sd_of_seeds", "ensemble"]
        generated = metrics.metadata.get("pictures") == GENERATED
        verdict = read_verdict(self.store, step, measured.cohort)
        warnings = [] if verdict.above_chance else [verdict.message]
        if metrics.inputs[step.model.name] != model.fingerprint:
            warnings.append(
                "These numbers are of an earlier model than the one whose settings and curves are"
                f" shown: make {step.name} again."
            )
        return report.Result(
            measured.experiment,
            measured.cohort,
            table.reindex(columns=known),  # artifacts of before have no intervals
            [
                report.PageFigure(
                    figure.title,
                    picture,
                    figure.caption,
                    photographs=figure.photographs and not generated,
                    wide=figure.photographs,
                )
                for name, figure in _FIGURES.items()
                for folder in folders
                if (picture := read_figure(folder, name))
            ],
            {
                "Top-1 among 300 drawn images, the literature's protocol": self._drawn(metrics),
                "Trials": model.metadata["trials"],
                "Sessions": {
                    "learned from": _learned_from(model),
                    "at hand": model.metadata["sessions"],
                },
                "Settings of the training": model.config,
                "Settings of the image encoder": model.metadata["encoder"],
                "Versions": {
                    f"{manifest.key}, {what}": value
                    for manifest in (model, metrics)
                    for what, value in (
                        ("fingerprint", manifest.fingerprint),
                        ("version of the code", manifest.code_version),
                        ("made", f"{manifest.created:%Y-%m-%d %H:%M} UTC"),
                    )
                },
            },
            settings=comparable_settings(model),
            warnings=warnings,
        )

    def _drawn(self, metrics: Manifest) -> dict[str, str]:
        """Both directions of the literature's protocol, mean over seeds and subjects."""
        if DRAWN_FILE not in metrics.files:
            return {}
        drawn = pd.read_parquet(self.store.folder(metrics.key) / DRAWN_FILE)
        seeds = (
            drawn[drawn["seed"] != evaluation.ENSEMBLE].groupby("direction").mean(numeric_only=True)
        )
        return {
            str(
                direction
            ): f"{row['value']:.1%}, chance {row['chance']:.1%}; standard deviation over"
            f" draws {row['draw_sd']:.1%}, which is no interval: all draws are of the same images."
            f" {row['n_images']:.0f} images, {row['n_draws']:.0f} draws, repeats averaged."
            for direction, row in seeds.iterrows()
        }

    def _differences(self) -> tuple[pd.DataFrame, list[str]]:
        """Compare experiments to the default; say what cannot be compared, and why."""
        found: list[pd.DataFrame] = []
        notes = []
        baselines = {each.cohort: each for each in self._measured if each.experiment == DEFAULT}
        for each in self._measured:
            baseline = baselines.get(each.cohort)
            if baseline is None or baseline is each:
                continue
            if not (QUERIES_FILE in each.metrics.files and QUERIES_FILE in baseline.metrics.files):
                continue  # measured by an earlier version
            try:
                compared = evaluation.paired_differences(
                    self._queries(each), self._queries(baseline)
                )
            except NsdError as error:
                notes.append(f"{each.experiment}, {each.cohort}: {error}")
                continue
            row = compared.loc[compared["metric"] == _METRIC, list(_COMPARED)]
            found.append(row.assign(experiment=each.experiment, cohort=each.cohort))
        if not found:
            return pd.DataFrame(), notes
        table = pd.concat(found, ignore_index=True)
        table["p_holm"] = evaluation.holm(table["p_value"])
        return table[["experiment", "cohort", *_COMPARED, "p_holm"]], notes

    def _queries(self, measured: Measured) -> pd.DataFrame:
        """Ranks of single trials among all images."""
        queries = pd.read_parquet(self.store.folder(measured.metrics.key) / QUERIES_FILE)
        return queries[(queries["set"] == "all") & (queries["aggregation"] == "")]

    def _figures_across(
        self, table: pd.DataFrame, differences: pd.DataFrame
    ) -> dict[str, report.PageFigure]:
        """Figures of several results, as far as there is something to compare."""
        of_sessions = {
            (each.experiment, each.cohort): len(_learned_from(each.model))
            for each in self._measured
        }
        settings = {each.experiment: comparable_settings(each.model) for each in self._measured}
        results = table[table["metric"] == _METRIC].reset_index(drop=True)
        results["sessions"] = [
            of_sessions[pair] for pair in zip(results["experiment"], results["cohort"], strict=True)
        ]
        results[["value", "low", "high", "chance"]] *= 100
        axis = f"{report.metric_label(_METRIC)} (%)"
        chance = "The dotted line is chance."
        found: dict[str, report.PageFigure] = {}

        def add(name: str, title: str, picture: report.Picture, caption: str) -> None:
            caption = f"{caption} Bars are 95 % intervals over test images."
            found[name] = report.PageFigure(title, picture, caption)

        rows = results.assign(group=results["experiment"], label=results["cohort"])
        add("overview", "All results", report.interval_rows(rows, axis), "The red line is chance.")
        if not differences.empty:
            rows = differences.assign(group=differences["experiment"], label=differences["cohort"])
            rows = rows.rename(columns={"difference": "value"})
            rows[["value", "low", "high"]] *= 100
            picture = report.interval_rows(rows, f"{axis}, difference in points", reference=0)
            caption = "On the same images. Grey where the interval holds 0."
            add("differences", f"Differences to {DEFAULT}", picture, caption)
        for name, title, xlabel, points in (
            (
                "learning_curve",
                "Learning curve",
                "sessions learned from",
                report.learning_curve(results, settings),
            ),
            (
                "new_subject",
                "A new subject",
                "own sessions learned from",
                report.new_subject_curve(results, settings),
            ),
        ):
            if len(points):
                add(name, title, report.interval_curves(points, xlabel, axis), chance)
        if len(rows := report.regions(results, settings)):
            add("regions", "Regions", report.interval_rows(rows, axis), "The red line is chance.")
        return found

    def _surface(self, draft: Draft) -> str:
        """Write the brain that can be turned, of the first result that has one; its file's name."""
        for each in self._measured:
            if VERTICES_FILE in each.metrics.files:
                path = self.store.folder(each.metrics.key) / VERTICES_FILE
                page = report.turnable_surface(
                    pd.read_parquet(path)["contribution"],
                    f"Where the model finds it: {each.experiment}, {each.cohort}",
                    cmap="RdBu_r",
                    symmetric=True,
                )
                (draft.folder / SURFACE_FILE).write_text(page, encoding="utf-8")
                return SURFACE_FILE
        return ""


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


def comparable_settings(model: Manifest) -> dict[str, Any]:
    """What two models must have in common if their numbers are to be compared."""
    # What an earlier version did not know, or another decoder does not use, has its default.
    training = TrainingConfig.of_model(model.config).model_dump(
        mode="json", exclude={"n_processes"}
    )
    return {
        "decoder": training.pop("model"),
        "data": training.pop("preset"),
        **training,
        # The one that the fMRI is from, whether or not it was asked for.
        "space": model.metadata.get("space", report.NOT_RECORDED),
        "image encoder": describe_encoder(model.metadata["encoder"]),
        "version of the code": model.code_version,
    }


def _learned_from(model: Manifest) -> Sequence[str]:
    """Sessions that a model learned from."""
    learned: Sequence[str] = model.metadata.get("sessions learned from", model.metadata["sessions"])
    return learned


def _results_in_words(table: pd.DataFrame) -> list[dict[str, str]]:
    """The main metric of every result, as the UI shows it."""
    return [
        {
            "experiment": row["experiment"],
            "cohort": row["cohort"],
            report.metric_label(_METRIC): report.metric_text(_METRIC, row["value"]),
            "95 % interval": report.interval_text(_METRIC, row["low"], row["high"]),
            "chance": report.metric_text(_METRIC, row["chance"]),
        }
        for row in table[table["metric"] == _METRIC].to_dict("records")
    ]


def _downloads(table: pd.DataFrame, differences: pd.DataFrame) -> dict[str, str]:
    """Tables by the name of the file that they are offered as."""
    first = ["experiment", "cohort", "metric"]
    results = table[[*first, *(name for name in table if name not in first)]]
    tables = {"results.csv": results.to_csv(index=False, float_format="%.6g")}
    tables["results.tex"] = "\n".join(
        report.to_latex(results, metric, f"tab:{metric}") for metric in report.MAIN_METRICS
    )
    if not differences.empty:
        tables["differences.csv"] = differences.to_csv(index=False, float_format="%.6g")
    return tables
