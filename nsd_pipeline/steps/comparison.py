"""What experiments are beside each other: differences, and figures of several results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nsd_pipeline import evaluation, partitions, report
from nsd_pipeline.decoding.choice import learned_from
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NsdError
from nsd_pipeline.experiments import DEFAULT
from nsd_pipeline.steps.measurement import QUERIES_FILE, Metrics
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd

MAIN_METRIC: Final = report.MAIN_METRICS[0]
"""What experiments are compared by, and curves are drawn of."""

_COMPARED: Final = ("difference", "low", "high", "p_value", "n_images")


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

    def own_sessions(self) -> list[str]:
        """Sessions of the cohort's subjects that were at hand."""
        own = partitions.subjects_of_cohort(self.cohort)
        return [each for each in self.model.metadata["sessions"] if each.startswith(own)]


def compare(store: Store, measured: Sequence[Measured]) -> "tuple[pd.DataFrame, list[str]]":
    """Compare experiments to the default; say what cannot or may not be compared, and why."""
    import pandas as pd

    found: list[pd.DataFrame] = []
    notes = []
    # Those of an earlier version have no ranks of queries.
    known = [each for each in measured if QUERIES_FILE in each.metrics.files]
    defaults = {each.cohort: each for each in known if each.experiment == DEFAULT}
    baselines = {
        cohort: evaluation.differences_to(_queries(store, each), accuracies_only=True)
        for cohort, each in defaults.items()
    }
    for each in known:
        if each.experiment == DEFAULT or each.cohort not in baselines:
            continue
        if (own := each.own_sessions()) != (others := defaults[each.cohort].own_sessions()):
            notes.append(
                f"{each.experiment}, {each.cohort}: made when {len(own)} sessions were at hand, and"
                f" {DEFAULT} when {len(others)} were"
                f"{', other ones' if len(own) == len(others) else ''}: their difference may come"
                " from that. Make both again."
            )
        try:
            compared = baselines[each.cohort](_queries(store, each))
        except NsdError as error:
            notes.append(f"{each.experiment}, {each.cohort}: {error}")
            continue
        row = compared.loc[compared["metric"] == MAIN_METRIC, list(_COMPARED)]
        found.append(row.assign(experiment=each.experiment, cohort=each.cohort))
    if not found:
        return pd.DataFrame(), notes
    table = pd.concat(found, ignore_index=True)
    table["p_holm"] = evaluation.holm(table["p_value"])
    return table[["experiment", "cohort", *_COMPARED, "p_holm"]], notes


def _queries(store: Store, measured: Measured) -> "pd.DataFrame":
    """Ranks of single trials among all images."""
    import pandas as pd

    path = store.folder(measured.metrics.key) / QUERIES_FILE
    of_seeds = ("seed", "!=", evaluation.ENSEMBLE)
    return pd.read_parquet(
        path, filters=[("set", "==", "all"), ("aggregation", "==", ""), of_seeds]
    )


def figures_across(
    measured: Sequence[Measured], table: "pd.DataFrame", differences: "pd.DataFrame"
) -> dict[str, report.PageFigure]:
    """Figures of several results, as far as there is something to compare."""
    of_sessions = {
        (each.experiment, each.cohort): len(learned_from(each.model)) for each in measured
    }
    settings = {each.experiment: comparable_settings(each.model) for each in measured}
    results = table[table["metric"] == MAIN_METRIC].reset_index(drop=True)
    results["sessions"] = [
        of_sessions[pair] for pair in zip(results["experiment"], results["cohort"], strict=True)
    ]
    results[["value", "low", "high", "chance"]] *= 100
    axis = f"{report.metric_label(MAIN_METRIC)} (%)"
    chance = "The dotted line is chance."
    found: dict[str, report.PageFigure] = {}

    def add(name: str, title: str, pictures: Sequence[report.Picture], caption: str) -> None:
        caption = f"{caption} Bars are 95 % intervals over test images."
        for number, picture in enumerate(pictures, 1):
            which = f" ({number} of {len(pictures)})" if len(pictures) > 1 else ""
            key = name if number == 1 else f"{name}_{number}"
            found[key] = report.PageFigure(title + which, picture, caption)

    rows = results.assign(group=results["experiment"], label=results["cohort"])
    add("overview", "All results", report.interval_rows(rows, axis), "The short line is chance.")
    if not differences.empty:
        rows = differences.assign(group=differences["experiment"], label=differences["cohort"])
        rows = rows.rename(columns={"difference": "value"})
        rows[["value", "low", "high"]] *= 100
        pictures = report.interval_rows(rows, f"{axis}, difference in points", reference=0)
        caption = "On the same images. Grey where the interval holds 0, or too few images differ."
        add("differences", f"Differences to {DEFAULT}", pictures, caption)
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
            add(name, title, [report.interval_curves(points, xlabel, axis)], chance)
    if len(rows := report.regions(results, settings)):
        add("regions", "Regions", report.interval_rows(rows, axis), "The short line is chance.")
    return found


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
