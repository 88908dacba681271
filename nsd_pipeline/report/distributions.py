"""Figures of how retrieval places are distributed, and of cohorts compared."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report.figure import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    TEXT_SIZE,
    VERMILION,
    new_figure,
    style,
    to_png,
)
from nsd_pipeline.report.tables import metric_label

_DASHED: Final = (0, (4, 2))


def rank_distribution(ranks: ArrayLike, set_size: int) -> bytes:
    """Draw at which place trials have their image, and how many have it among the first k.

    Places count from 1. Chance is a place drawn evenly from the set: a flat histogram, k /
    ``set_size`` among the first k, and a median of (``set_size`` + 1) / 2.

    Parameters
    ----------
    ranks
        0-based rank of the image seen, one per trial; halves (ties) allowed.
    set_size
        Number of images retrieved from.

    Returns
    -------
    bytes
        PNG.

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
    histogram.axvline(
        median,
        color=VERMILION,
        lw=1.2,
        label=f"median {median:g} (chance {(set_size + 1) / 2:g})",
    )
    histogram.set_xlim(0.5, set_size + 0.5)
    style(
        histogram,
        title=f"Place of the image seen ({values.size:,} trials)",
        xlabel=f"place among {set_size:,} images",
        ylabel="trials (%)",
    )

    k = np.unique(np.geomspace(1, set_size, 400).round())
    within = np.searchsorted(np.sort(values), k, side="left")
    for first in (first for first in (1, 5, 10) if first < set_size):
        percent = 100 * float(np.mean(values < first))
        curve.plot(first, percent, "o", color=BLUE, ms=4)
        curve.annotate(
            f"{percent:.1f}",
            (first, percent),
            xytext=(5, -9) if first == 1 else (-1, 5),
            textcoords="offset points",
            ha="left" if first == 1 else "right",
            fontsize=TEXT_SIZE - 1,
            color=INK,
        )
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
    """Draw accuracies of cohorts side by side, each with its own chance level.

    Parameters
    ----------
    metrics
        By cohort, then by metric: fractions.
    chance
        Chance level, likewise; cohorts differ in it, for their test sets differ in size.
    names
        Metrics to draw, one panel each.

    Returns
    -------
    bytes
        PNG.
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
            axes.annotate(
                f"{value:.1f}",
                (value, row),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=TEXT_SIZE - 1,
                color=MUTED,
            )
        axes.set_yticks(rows, labels=cohorts)
        axes.set_ylim(len(cohorts) - 0.4, -0.6)
        axes.set_xlim(0, max(5.0, 1.18 * max(percent.max(), level.max())))
        axes.grid(axis="x", color=FAINT, lw=0.6)
        style(axes, title=metric_label(name), xlabel="%")
        axes.tick_params(axis="y", length=0)
    return to_png(figure)
