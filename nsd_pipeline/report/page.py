"""The decoding report: one HTML page across cohorts that needs no file beside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from nsd_pipeline.report.tables import (
    as_read,
    differing_settings,
    metric_label,
    metrics_table,
    readable_metrics,
    shared_settings,
)

if TYPE_CHECKING:
    from jinja2 import Environment

_IN_A_SENTENCE: Final = ("decoder", "data", "space", "image encoder", "seed")
"""Settings that are named above the table if all cohorts share them."""


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
        How the numbers came about, by heading ("Sessions", "Encoder", ...): a sentence, or settings
        by name.
    settings
        What must be the same if cohorts are to be compared: decoder, image encoder, and so on.
    warnings
        What a reader must know before the numbers: that a model is no better than guessing, ...
    """

    cohort: str
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    figures: Sequence[PageFigure] = ()
    provenance: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def render_page(
    cohorts: Sequence[CohortReport],
    *,
    created: datetime,
    main_metrics: Sequence[str] = ("top1_acc", "top5_acc", "top10_acc", "median_retrieval_rank"),
    figures: Sequence[PageFigure] = (),
    generated: bool = False,
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
    generated
        Whether the data were generated in NSD's layout, and are not NSD's.

    Returns
    -------
    str
        HTML with style and pictures inside; whatever was passed in is shown as text.
    """
    all_figures = [*figures, *(figure for cohort in cohorts for figure in cohort.figures)]
    shared = shared_settings([cohort.settings for cohort in cohorts])
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            cohorts=cohorts,
            created=created,
            main_metrics=main_metrics,
            figures=figures,
            photographs=any(figure.photographs for figure in all_figures),
            generated=generated,
            alike={name: value for name, value in shared.items() if name in _IN_A_SENTENCE},
            different=differing_settings({cohort.cohort: cohort.settings for cohort in cohorts}),
        )
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
        data_uri=_data_uri,
        metric_label=metric_label,
        metric_value=_metric_value,
        ratio=_ratio,
        metrics_table=lambda cohort: readable_metrics(
            metrics_table(cohort.metrics, cohort.chance)
        ).to_dict("records"),
        metric_in_table=_metric_in_table,
    )
    environment.tests["mapping"] = lambda value: isinstance(value, Mapping)
    return environment


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _metric_value(value: float | None, name: str) -> str:
    """Write a metric as it is read: places from 1, accuracies as percentages."""
    return _metric_in_table(None if value is None else as_read(name, value), name)


def _metric_in_table(value: float | None, name: str) -> str:
    """Write a value of a readable table: an accuracy as a percentage, others with four digits."""
    if value is None or pd.isna(value):
        return "–"  # noqa: RUF001
    return f"{100 * value:.1f} %" if name.endswith("_acc") or "_acc_" in name else f"{value:.4g}"


def _ratio(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}×"  # noqa: RUF001
