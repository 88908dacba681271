"""One page across experiments and cohorts."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import dagster as dg

from nsd_pipeline import evaluation, partitions, report
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.decoding.choice import learned_from
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.experiments import DEFAULT
from nsd_pipeline.nsd.layout import GENERATED, SUBJECTS
from nsd_pipeline.steps.ceiling import CEILING_FILE, Ceiling
from nsd_pipeline.steps.comparison import (
    MAIN_METRIC,
    Measured,
    comparable_settings,
    compare,
    figures_across,
)
from nsd_pipeline.steps.measurement import (
    DRAWN_FILE,
    METRICS_FILE,
    VERTICES_FILE,
    Metrics,
    read_verdict,
)
from nsd_pipeline.steps.running import read_figure, step_asset, write_figure
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft

if TYPE_CHECKING:
    import pandas as pd

PAGE_FILE = "report.html"
SURFACE_FILE = "surface.html"


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
    "sessions": _Figure(
        "Betas by session",
        "Betas in percent signal change: mean of all vertices, median of their standard deviations,"
        " and the share of vertices that have data.",
    ),
}

_BRAINS: Final = {
    "noise_ceiling": ("Noise ceiling", "ncsnr"),
    "reliability": ("Reliability", "reliability"),
}
"""Figures of a noise ceiling's artifact: their titles, and columns of its table."""


class Report(Step):
    """One HTML page: every experiment's metrics beside chance, figures, how they came about."""

    name = "decoding_report"
    code_version = "9"
    metrics: ClassVar[Sequence[type[Metrics]]]

    def __init__(self, tools: Tools, config: None = None) -> None:
        super().__init__(tools, config)
        store = self.store
        wanted = [(step, cohort) for step in self.metrics for cohort in partitions.COHORTS]
        found = store.at_once(store.find, [step.key(cohort) for step, cohort in wanted])
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

        ceilings = (store.find(Ceiling.key(subject)) for subject in SUBJECTS)
        self._ceilings = [ceiling for ceiling in ceilings if ceiling]

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        needed = [each.name for step in cls.metrics for each in (step, step.model)]
        every = dg.AllPartitionMapping()
        return step_asset(
            cls,
            group_name="report",
            kinds={"html"},
            deps=[dg.AssetDep(name, partition_mapping=every) for name in (*needed, Ceiling.name)],
            automation_condition=CARRY_ON,
        )

    def plan(self, partition: str) -> Plan:
        made_from = [each for found in self._measured for each in (found.metrics, found.model)]
        made_from += self._ceilings
        return Plan(inputs={manifest.key: manifest.fingerprint for manifest in made_from})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        import pandas as pd

        results = [self._result(each) for each in self._measured]
        table = pd.concat(
            [
                each.metrics.assign(experiment=each.experiment, cohort=each.cohort)
                for each in results
            ]
        )
        differences, notes = compare(self.store, self._measured)
        figures = figures_across(self._measured, table, differences)
        for name, figure in figures.items():
            write_figure(draft, name, figure.picture)
        surface = self._surface(draft)
        downloads = _downloads(table, differences)
        for name, content in downloads.items():
            (draft.folder / name).write_text(content, encoding="utf-8")
        page = report.render_page(
            results,
            created=datetime.now(UTC),
            overview=report.Overview(
                [*figures.values()], differences, notes, DEFAULT, self._brains()
            ),
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
        import pandas as pd

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
                "What each visual stream adds to the score of the image that was seen": {
                    each["stream"]: f"{each['adds to the score']:+.3g}, {each['vertices']} vertices"
                    for each in metrics.metadata.get("contribution by stream", ())
                },
                "Trials": model.metadata["trials"],
                "Sessions": {
                    "learned from": learned_from(model),
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
        import pandas as pd

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

    def _brains(self) -> list[report.PageFigure]:
        """Noise ceilings and reliabilities of the subjects that have them."""
        return [
            report.PageFigure(
                f"{title} of {made.partition}",
                picture,
                f"Median {median} {made.metadata[f'median {median}']:.2f}, from"
                f" {made.metadata['images shown three times']} images that were shown three times.",
            )
            for made in self._ceilings
            for name, (title, median) in _BRAINS.items()
            if (picture := read_figure(self.store.folder(made.key), name))
        ]

    def _surface(self, draft: Draft) -> str:
        """Write the brain that can be turned; its file's name, if there is something to show."""
        import pandas as pd

        layers = []
        for each in self._measured:
            if VERTICES_FILE in each.metrics.files:
                path = self.store.folder(each.metrics.key) / VERTICES_FILE
                title = f"Where the model finds it: {each.experiment}, {each.cohort}"
                values = pd.read_parquet(path)["contribution"]
                layers.append(report.SurfaceLayer(title, values, "RdBu_r", symmetric=True))
                break
        for made in self._ceilings:
            table = pd.read_parquet(self.store.folder(made.key) / CEILING_FILE)
            layers += [
                report.SurfaceLayer(f"{title}: {made.partition}", table[column], "viridis")
                for title, column in _BRAINS.values()
                if column in table
            ]
        if not layers:
            return ""
        (draft.folder / SURFACE_FILE).write_text(report.turnable_surface(layers), encoding="utf-8")
        return SURFACE_FILE


def report_step(metrics: Sequence[type[Metrics]]) -> type[Report]:
    """Step of the page about some experiments, by the steps of their metrics."""
    attributes = {"metrics": metrics, "__doc__": Report.__doc__}
    return type("ReportOfExperiments", (Report,), attributes)


def _results_in_words(table: "pd.DataFrame") -> list[dict[str, str]]:
    """The main metric of every result, as the UI shows it."""
    return [
        {
            "experiment": row["experiment"],
            "cohort": row["cohort"],
            report.metric_label(MAIN_METRIC): report.metric_text(MAIN_METRIC, row["value"]),
            "95 % interval": report.interval_text(MAIN_METRIC, row["low"], row["high"]),
            "chance": report.metric_text(MAIN_METRIC, row["chance"]),
        }
        for row in table[table["metric"] == MAIN_METRIC].to_dict("records")
    ]


def _downloads(table: "pd.DataFrame", differences: "pd.DataFrame") -> dict[str, str]:
    """Tables by the name of the file that they are offered as."""
    first = ["experiment", "cohort", "metric"]
    results = table[[*first, *(name for name in table if name not in first)]]
    tables = {"results.csv": results.to_csv(index=False, float_format="%.6g")}
    in_latex = (report.to_latex(results, each, f"tab:{each}") for each in report.MAIN_METRICS)
    tables["results.tex"] = "\n".join(("% Needs \\usepackage{booktabs}.", *in_latex))
    if not differences.empty:
        tables["differences.csv"] = differences.to_csv(index=False, float_format="%.6g")
    return tables
