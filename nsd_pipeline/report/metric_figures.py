"""Figures of numbers: a training's curves, how places are distributed, cohorts compared.

Figures are drawn on matplotlib's Agg canvas through objects. pyplot has windows and global state
and is not used, so that any thread of any process can draw.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report.tables import metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image


# Of Okabe and Ito's palette, whose colours people with any colour vision tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
INK: Final = "#222222"
MUTED: Final = "#6E6E6E"
FAINT: Final = "#E6E6E6"

TITLE_SIZE: Final = 9.5
TEXT_SIZE: Final = 8.0
DPI: Final = 144


def new_figure(width: float, height: float) -> "Figure":
    """Start a figure of a width and height in inches; it places its axes itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: "Axes", *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give axes the report's look: two thin spines, a title, and below it the legend."""
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK, pad=22)
    axes.set_xlabel(xlabel, fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT_SIZE, color=INK)
    axes.tick_params(labelsize=TEXT_SIZE, colors=INK, width=0.6, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(linewidth=0.6, color=INK)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        # On a line of its own above the axes, where it covers no data.
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            frameon=False,
            fontsize=TEXT_SIZE,
            labelcolor=INK,
            handlelength=1.3,
            columnspacing=1.1,
            borderpad=0,
            borderaxespad=0.5,
        )


def to_png(
    figure: "Figure",
    *,
    dpi: int = DPI,
    oversample: int = 1,
    simplify: "Callable[[Image], Image]" = lambda image: image,
) -> bytes:
    """Draw a figure and write it as PNG.

    Parameters
    ----------
    figure
        Figure to draw.
    dpi
        Pixels per inch.
    oversample
        How many times finer it is drawn at first: Agg leaves the edges of shaded triangles jagged.
    simplify
        What is done to the picture (RGB) so that the PNG is small.
    """
    from PIL import Image

    canvas, png = io.BytesIO(), io.BytesIO()
    figure.savefig(canvas, format="png", dpi=dpi * oversample)
    image = Image.open(canvas).convert("RGB").reduce(oversample)
    simplify(image).save(png, format="png", optimize=True)
    return png.getvalue()


def _number(
    axes: "Axes", value: float, at: tuple[Any, Any], offset: tuple[int, int], **look: Any
) -> None:
    """Write a number beside a point of the axes, ``offset`` points (1/72 inch) from it."""
    axes.annotate(
        f"{value:.1f}",
        at,
        xytext=offset,
        textcoords="offset points",
        fontsize=TEXT_SIZE - 1,
        **look,
    )


_TOP_K: Final = {10: GREEN, 5: BLUE, 1: ORANGE}
_COLUMNS: Final = (
    *("epoch", "train/loss", "val/loss", "learning_rate"),
    *(f"val/batch_top{k}_acc" for k in _TOP_K),
)
_DOTTED: Final = (0, (1, 2))
_DASHED: Final = (0, (4, 2))


def training_curves(
    history: pd.DataFrame,
    *,
    batch_size: int | None = None,
    monitor: str = "val/batch_top5_acc",
) -> bytes:
    """Draw loss, retrieval within validation batches and learning rate over the epochs, as PNG.

    The epoch whose ``monitor`` is highest (the first, if several) is marked: its model is the one
    that is kept.

    Parameters
    ----------
    history
        One row per epoch with ``epoch``, ``train/loss``, ``val/loss``, ``val/batch_top1_acc``,
        ``val/batch_top5_acc``, ``val/batch_top10_acc`` (fractions) and ``learning_rate``; of
        several seeds one after the other, told apart by ``seed``.
    batch_size
        Trials per validation batch; with it, chance level is drawn too.
    monitor
        Column of the history that chose the epoch.

    Raises
    ------
    NsdError
        If there is no epoch or a column is missing.
    """
    missing = [name for name in (*_COLUMNS, monitor) if name not in history]
    if missing or history.empty:
        raise NsdError(
            f"The training history has {len(history)} epochs and lacks the columns {missing}.",
            next_step="pass the history that training returns.",
        )
    seeds = [each for _, each in history.groupby("seed")] if "seed" in history else [history]
    figure = new_figure(8.4, 2.8)
    loss, top, rate = figure.subplots(1, 3, width_ratios=(1.1, 1.25, 0.85))
    for axes in (loss, top, rate):
        for each in seeds:
            # Without validation trials the monitor is NaN in every epoch; argmax needs a number.
            best = each["epoch"].iloc[each[monitor].fillna(-np.inf).to_numpy().argmax()]
            label = f"kept: epoch {best}" if axes is rate else None
            axes.axvline(best, color=VERMILION, lw=1.0, ls=_DASHED, zorder=1, label=label)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        axes.xaxis.get_major_locator().set_params(integer=True)

    def plot(axes: "Axes", column: str, scale: float, color: str, label: str | None) -> None:
        """Draw a line for each seed, the first one named in the legend."""
        for number, each in enumerate(seeds):
            values, name = scale * each[column], label if number == 0 else None
            axes.plot(each["epoch"], values, color=color, lw=1.6 - 0.6 * bool(number), label=name)

    plot(loss, "train/loss", 1, MUTED, "training")
    plot(loss, "val/loss", 1, BLUE, "validation")
    style(loss, title="CLIP loss", xlabel="epoch")

    for k, color in _TOP_K.items():
        plot(top, f"val/batch_top{k}_acc", 100, color, f"top-{k}")
        if batch_size is not None:
            top.axhline(100 * min(1.0, k / batch_size), color=color, lw=0.9, ls=_DOTTED)
    if batch_size is not None:
        # One entry of the legend for the lines of all three k.
        top.plot([], [], color=MUTED, lw=0.9, ls=_DOTTED, label="chance")
    top.set_ylim(0, None)
    style(top, title="Retrieval in validation batches", xlabel="epoch", ylabel="trials correct (%)")

    peak = float(history["learning_rate"].max())
    exponent = int(np.floor(np.log10(peak))) if peak > 0 else 0
    plot(rate, "learning_rate", 10.0**-exponent, INK, None)
    rate.set_ylim(0, None)
    style(rate, title="Learning rate", xlabel="epoch", ylabel=rf"$\times\,10^{{{exponent}}}$")
    return to_png(figure)


def rank_distribution(ranks: ArrayLike, set_size: int) -> bytes:
    """Draw at which place trials have their image and how many have it in the first k, as PNG.

    Places count from 1. By chance every place is as likely: a flat histogram, k / ``set_size``
    among the first k, and a median of (``set_size`` + 1) / 2.

    Parameters
    ----------
    ranks
        0-based rank of the image seen, one per trial; halves (ties) allowed.
    set_size
        Number of images retrieved from.

    Raises
    ------
    NsdError
        If there is no rank, or one lies outside the set.
    """
    values = np.asarray(ranks, dtype=np.float64)
    if values.size == 0 or not (values.min() >= 0 and values.max() <= set_size - 1):
        raise NsdError(
            f"The {values.size} ranks do not lie in 0 to {set_size - 1}.",
            next_step="pass 0-based ranks and the size of the set they were computed in.",
        )
    places = values + 1
    figure = new_figure(7.2, 2.9)
    histogram, curve = figure.subplots(1, 2, width_ratios=(1.15, 1))

    n_bins = min(set_size, 50)
    histogram.hist(
        places,
        bins=np.linspace(0.5, set_size + 0.5, n_bins + 1).tolist(),
        weights=np.full(values.size, 100 / values.size),
        color=BLUE,
        edgecolor="white",
        lw=0.3,
    )
    histogram.axhline(100 / n_bins, color=INK, lw=1.0, ls=_DASHED, label="chance")
    median = float(np.median(places))
    label = f"median {median:g} (chance {(set_size + 1) / 2:g})"
    histogram.axvline(median, color=VERMILION, lw=1.2, label=label)
    histogram.set_xlim(0.5, set_size + 0.5)
    style(
        histogram,
        title=f"Place of the image seen ({values.size:,} trials)",
        xlabel=f"place among {set_size:,} images",
        ylabel="trials (%)",
    )

    # Points evenly spaced on the logarithmic axis; the curve is a step function in between.
    k = np.unique(np.geomspace(1, set_size, 400).round())
    within = np.searchsorted(np.sort(values), k, side="left")
    for first in (first for first in (1, 5, 10) if first < set_size):
        percent = 100 * float(np.mean(values < first))
        curve.plot(first, percent, "o", color=BLUE, ms=4)
        # Left of the first point is the frame: its number goes to the right of it.
        offset, side = ((5, -9), "left") if first == 1 else ((-1, 5), "right")
        _number(curve, percent, (first, percent), offset, ha=side, color=INK)
    curve.plot(k, 100 * within / values.size, color=BLUE, lw=1.8, label="model")
    curve.plot(k, 100 * k / set_size, color=INK, lw=1.0, ls=_DASHED, label="chance")
    curve.set_xscale("log")
    ticks = [tick for tick in (1, 5, 10, 50, 100, 1000) if tick <= set_size]
    curve.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    curve.minorticks_off()
    curve.set(xlim=(1, max(set_size, 2)), ylim=(0, 104))
    curve.grid(color=FAINT, lw=0.6)
    style(curve, title="Found among the first k", xlabel="k", ylabel="trials (%)")
    return to_png(figure)


def metric_bars(
    metrics: Mapping[str, Mapping[str, float]],
    chance: Mapping[str, Mapping[str, float]],
    names: Sequence[str] = ("top1_acc", "top5_acc", "top10_acc"),
) -> bytes:
    """Draw accuracies of cohorts side by side, each with its own chance level, as PNG.

    Parameters
    ----------
    metrics
        By cohort, then by metric: fractions.
    chance
        Chance level, likewise. Cohorts differ in it because their test sets differ in size.
    names
        Metrics to draw, one panel each.
    """
    cohorts = list(metrics)
    figure = new_figure(2.9 * len(names), 0.95 + 0.27 * len(cohorts))
    panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    rows = np.arange(len(cohorts))
    for axes, name in zip(panels, names, strict=True):
        percent = 100 * np.array([metrics[cohort][name] for cohort in cohorts])
        level = 100 * np.array([chance[cohort][name] for cohort in cohorts])
        axes.barh(rows, percent, height=0.62, color=BLUE)
        axes.vlines(level, rows - 0.42, rows + 0.42, color=INK, lw=1.4, label="chance")
        for row, value in zip(rows, percent, strict=True):
            _number(axes, value, (value, row), (3, 0), va="center", color=MUTED)
        axes.set_yticks(rows, labels=cohorts)
        # The first cohort on top.
        axes.set_ylim(len(cohorts) - 0.4, -0.6)
        axes.set_xlim(0, max(5.0, 1.18 * max(percent.max(), level.max())))
        axes.grid(axis="x", color=FAINT, lw=0.6)
        style(axes, title=metric_label(name), xlabel="%")
        axes.tick_params(axis="y", length=0)
    return to_png(figure)
