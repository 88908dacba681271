"""The decoding report: one HTML page across cohorts that needs no file beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from nsd_pipeline.report.figure import data_uri
from nsd_pipeline.report.tables import metric_label, metrics_table

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page.

    Attributes
    ----------
    title
        Heading; also what a screen reader says in place of the picture.
    png
        The picture.
    caption
        What is to be seen.
    photographs
        Whether it shows images of NSD, which must not be passed on.
    """

    title: str
    png: bytes
    caption: str = ""
    photographs: bool = False


@dataclass(frozen=True)
class CohortReport:
    """What the page says about one cohort.

    Attributes
    ----------
    cohort
        "subj01" to "subj08", or "all".
    metrics
        Value by name.
    chance
        Chance level by name.
    figures
        Figures, in order.
    provenance
        How the numbers came about: a heading ("Sessions", "Encoder", "Training", "Fingerprints")
        over settings by name, or over a sentence.
    """

    cohort: str
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    figures: Sequence[PageFigure] = ()
    provenance: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)


def render_page(
    cohorts: Sequence[CohortReport],
    *,
    created: datetime,
    main_metrics: Sequence[str] = ("top1_acc", "top5_acc", "top10_acc", "median_retrieval_rank"),
    figures: Sequence[PageFigure] = (),
) -> str:
    """Write the decoding report.

    Parameters
    ----------
    cohorts
        One per model, in the order of the page.
    created
        When the report was made.
    main_metrics
        Metrics of the table at the top, which has a row per cohort.
    figures
        Figures across cohorts.

    Returns
    -------
    str
        HTML with style and pictures inside; whatever was passed in is shown as text.
    """
    all_figures = [*figures, *(figure for cohort in cohorts for figure in cohort.figures)]
    template = _environment().get_template("page.html.j2")
    return template.render(
        cohorts=cohorts,
        created=created,
        main_metrics=main_metrics,
        figures=figures,
        photographs=any(figure.photographs for figure in all_figures),
    )


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nsd_pipeline.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        data_uri=data_uri,
        metric_label=metric_label,
        metric_value=_metric_value,
        ratio=_ratio,
        metrics_table=lambda cohort: metrics_table(cohort.metrics, cohort.chance).to_dict(
            "records"
        ),
    )
    environment.tests["mapping"] = lambda value: isinstance(value, Mapping)
    return environment


def _metric_value(value: float | None, name: str) -> str:
    """Write a metric: accuracies as percentages, the rest with four significant digits."""
    if value is None or pd.isna(value):
        return "–"  # noqa: RUF001
    return f"{100 * value:.1f} %" if name.endswith("_acc") or "_acc_" in name else f"{value:.4g}"


def _ratio(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}×"  # noqa: RUF001
