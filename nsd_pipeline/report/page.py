"""The decoding report: one HTML page across experiments that needs no file beside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from nsd_pipeline.report.drawing import Picture
from nsd_pipeline.report.tables import (
    as_read,
    differing_settings,
    interval_text,
    metric_label,
    metric_text,
    readable_metrics,
    shared_settings,
)

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

MAIN_METRICS: Final = ("top5_acc", "top1_acc", "top10_acc", "median_retrieval_rank")
"""Metrics that have a table of experiments x cohorts; the first is seen at once, and compared."""

_IN_A_SENTENCE: Final = ("decoder", "data", "space", "image encoder", "seeds")
"""Settings that are named above the table if all results share them."""
_OPEN_AT_FIRST: Final = 2
"""Up to so many results are seen without a click."""


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page.

    Its title is also what a screen reader says in place of the picture, and its caption what is to
    be seen. ``photographs`` says whether it shows images of NSD, which must not be passed on;
    ``wide``, whether it is wider than a column.
    """

    title: str
    picture: Picture
    caption: str = ""
    photographs: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Result:
    """What the page says about one cohort's models of an experiment.

    The cohort is "subj01" to "subj08", or "all". ``metrics`` has ``metric``, ``value`` (mean over
    seeds), ``chance``, and as far as they are known ``low``, ``high``, ``sd_of_seeds`` and
    ``ensemble``. ``provenance`` is how the numbers came about, by heading ("Sessions", "Encoder",
    ...): a sentence, or settings by name. ``settings`` must be the same if results are to be
    compared: decoder, image encoder, and so on. ``warnings`` are what a reader must know before the
    numbers: that a model is no better than guessing, ...
    """

    experiment: str
    cohort: str
    metrics: "pd.DataFrame"
    figures: Sequence[PageFigure] = ()
    provenance: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.experiment}, {self.cohort}"


@dataclass(frozen=True)
class Overview:
    """What the page says across results.

    ``differences`` has ``experiment``, ``cohort``, ``difference`` of the first main metric to the
    experiment `baseline`, ``low``, ``high``, ``p_value``, ``p_holm`` and ``n_images``; ``notes``
    say what could not be compared, and why. ``ceilings`` are subjects' noise ceilings and
    reliabilities.
    """

    figures: Sequence[PageFigure] = ()
    differences: "pd.DataFrame | None" = None
    notes: Sequence[str] = ()
    baseline: str = "default"
    ceilings: Sequence[PageFigure] = ()


def render_page(
    results: Sequence[Result],
    *,
    created: datetime,
    main_metrics: Sequence[str] = MAIN_METRICS,
    overview: Overview = Overview(),  # it is frozen
    descriptions: Mapping[str, str] = {},  # and this is not written to
    downloads: Mapping[str, str] = {},
    surface: str = "",
    generated: bool = False,
) -> str:
    """Write the decoding report: HTML with style and pictures inside.

    Whatever is passed in is shown as text. There is a result for each model, in the order of the
    page; ``main_metrics`` have a table of experiments x cohorts. ``descriptions`` say what
    experiments are for, by name. ``downloads`` are tables by the name of the file: they lie beside
    the page, and within it. ``surface`` is the name of a page beside this one with a surface that
    can be turned, if there is one. ``generated`` says that the data were generated in NSD's layout,
    and are not NSD's.
    """
    figures = [*overview.figures, *(figure for result in results for figure in result.figures)]
    experiments: dict[str, list[Result]] = {}
    for result in results:
        experiments.setdefault(result.experiment, []).append(result)
    shared = shared_settings([result.settings for result in results])
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            experiments=experiments,
            cohorts=sorted(
                {result.cohort for result in results}, key=lambda name: (name == "all", name)
            ),
            tables=_cells(results, main_metrics),
            created=created,
            overview=overview,
            descriptions=descriptions,
            downloads=downloads,
            surface=surface,
            open=len(results) <= _OPEN_AT_FIRST,
            photographs=any(figure.photographs for figure in figures),
            generated=generated,
            alike={name: value for name, value in shared.items() if name in _IN_A_SENTENCE},
            different=differing_settings(
                {name: members[0].settings for name, members in experiments.items()}
            ),
            unlike={
                name: found
                for name, members in experiments.items()
                if (found := differing_settings({each.cohort: each.settings for each in members}))
            },
        )
    )


def _cells(
    results: Sequence[Result], metrics: Sequence[str]
) -> dict[str, dict[tuple[str, str], dict[str, str]]]:
    """Value, interval and chance of each metric, in words, by experiment and cohort."""
    cells: dict[str, dict[tuple[str, str], dict[str, str]]] = {name: {} for name in metrics}
    columns = ["value", "low", "high", "chance"]
    for result in results:
        table = result.metrics.set_index("metric").reindex(list(metrics), columns=columns)
        for row in table.itertuples():
            name = str(row.Index)
            value, low, high, chance = (as_read(name, getattr(row, each)) for each in columns)
            cells[name][result.experiment, result.cohort] = {
                "value": metric_text(name, value),
                "interval": interval_text(name, low, high),
                "chance": metric_text(name, chance),
            }
    return cells


def _environment() -> "Environment":
    import pandas as pd
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nsd_pipeline.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        embedded=_embedded,
        data_uri=lambda text: f"data:text/plain;base64,{_base64(text.encode())}",
        metric_label=metric_label,
        metrics_table=lambda result: readable_metrics(result.metrics).to_dict("records"),
        metric_text=lambda value, name: metric_text(name, value),
        interval=lambda row: interval_text(row["name"], row["low"], row["high"]),
        points=lambda value: f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}"),
        ratio=lambda value: "" if pd.isna(value) else f"{value:.3g}×",  # noqa: RUF001
        p_value=lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
    )
    environment.tests["mapping"] = lambda value: isinstance(value, Mapping)
    return environment


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _embedded(picture: Picture) -> str:
    """Address of a picture within the page: photographs and brains as WebP, lines as SVG."""
    kinds = {"webp": picture.webp, "svg+xml": picture.svg, "png": picture.png}
    kind, content = next((kind, content) for kind, content in kinds.items() if content)
    return f"data:image/{kind};base64,{_base64(content)}"
