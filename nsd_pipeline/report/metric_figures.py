"""Figures of numbers: a training's curves, how places are distributed, results with intervals."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report.drawing import (
    BLUE,
    COLUMN,
    DASHED,
    DOTTED,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    TEXT_SIZE,
    VERMILION,
    Picture,
    draw,
    new_figure,
    style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


_TOP_K: Final = {10: GREEN, 5: BLUE, 1: ORANGE}
_COLUMNS: Final = (
    *("epoch", "train/loss", "val/loss", "learning_rate"),
    *(f"val/batch_top{k}_acc" for k in _TOP_K),
)


def training_curves(
    history: "pd.DataFrame",
    *,
    batch_size: int | None = None,
    monitor: str = "val/batch_top5_acc",
) -> Picture:
    """Draw loss, retrieval within validation batches and learning rate over the epochs.

    The epoch whose ``monitor`` is highest (the first, if several) is marked: its model is the one
    that is kept. The history has a row per epoch with ``epoch``, ``train/loss``, ``val/loss``,
    ``val/batch_top1_acc``, ``val/batch_top5_acc``, ``val/batch_top10_acc`` (fractions) and
    ``learning_rate``; of several seeds one after the other, told apart by ``seed``. With
    ``batch_size``, the trials per validation batch, chance level is drawn too. An NsdError if there
    is no epoch or a column is missing.
    """
    missing = [name for name in (*_COLUMNS, monitor) if name not in history]
    if missing or history.empty:
        raise NsdError(
            f"The training history has {len(history)} epochs and lacks the columns {missing}.",
            next_step="pass the history that training returns.",
        )
    seeds = [each for _, each in history.groupby("seed")] if "seed" in history else [history]
    figure = new_figure(COLUMN, 5.4)
    loss, top, rate = figure.subplots(3, 1, height_ratios=(1.1, 1.25, 0.85))
    # Without validation trials the monitor is NaN in every epoch; argmax needs a number.
    best = [each["epoch"].iloc[each[monitor].fillna(-np.inf).to_numpy().argmax()] for each in seeds]
    kept = f"kept: epoch{'s' * (len(best) > 1)} {', '.join(map(str, best[:6]))}"
    for axes in (loss, top, rate):
        for number, epoch in enumerate(best):
            label = kept if axes is rate and number == 0 else None
            axes.axvline(epoch, color=VERMILION, lw=1.0, ls=DASHED, zorder=1, label=label)
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
            top.axhline(100 * min(1.0, k / batch_size), color=color, lw=0.9, ls=DOTTED)
    if batch_size is not None:
        # One entry of the legend for the lines of all three k.
        top.plot([], [], color=MUTED, lw=0.9, ls=DOTTED, label="chance")
    top.set_ylim(0, None)
    style(top, title="Retrieval in validation batches", xlabel="epoch", ylabel="trials correct (%)")

    peak = float(history["learning_rate"].max())
    exponent = int(np.floor(np.log10(peak))) if peak > 0 else 0
    plot(rate, "learning_rate", 10.0**-exponent, INK, None)
    rate.set_ylim(0, None)
    style(
        rate, title="Learning rate", xlabel="epoch", ylabel=f"\N{MULTIPLICATION SIGN} 1e{exponent}"
    )
    return draw(figure)


def rank_distribution(ranks: ArrayLike, set_size: int) -> Picture:
    """Draw at which place trials have their image and how many have it in the first k.

    ``ranks`` are those of the image seen, 0-based, one per trial; halves (ties) are allowed. Places
    count from 1. By chance every place is as likely: a flat histogram, k / ``set_size`` among the
    first k, and a median of (``set_size`` + 1) / 2. An NsdError if there is no rank, or one lies
    outside the set.
    """
    values = np.asarray(ranks, dtype=np.float64)
    if values.size == 0 or not (values.min() >= 0 and values.max() <= set_size - 1):
        raise NsdError(
            f"The {values.size} ranks do not lie in 0 to {set_size - 1}.",
            next_step="pass 0-based ranks and the size of the set they were computed in.",
        )
    places = values + 1
    figure = new_figure(COLUMN, 4.6)
    histogram, curve = figure.subplots(2, 1)

    n_bins = min(set_size, 50)
    edges = np.linspace(0.5, set_size + 0.5, n_bins + 1)
    counts, _ = np.histogram(places, edges)
    histogram.stairs(100 * counts / values.size, edges, fill=True, color=BLUE)
    histogram.axhline(100 / n_bins, color=INK, lw=1.0, ls=DASHED, label="chance")
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
    k = np.unique(np.geomspace(1, set_size, 150).round())
    within = np.searchsorted(np.sort(values), k, side="left")
    for first in (first for first in (1, 5, 10) if first < set_size):
        percent = 100 * float(np.mean(values < first))
        curve.plot(first, percent, "o", color=BLUE, ms=4)
        # Left of the first point is the frame: its number goes to the right of it.
        offset, side = ((5, -9), "left") if first == 1 else ((-1, 5), "right")
        curve.annotate(
            f"{percent:.1f}",
            (first, percent),
            xytext=offset,
            textcoords="offset points",
            fontsize=TEXT_SIZE - 1,
            ha=side,
            color=INK,
        )
    curve.plot(k, 100 * within / values.size, color=BLUE, lw=1.8, label="model")
    curve.plot(k, 100 * k / set_size, color=INK, lw=1.0, ls=DASHED, label="chance")
    curve.set_xscale("log")
    ticks = [tick for tick in (1, 5, 10, 50, 100, 1000) if tick <= set_size]
    curve.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    curve.minorticks_off()
    curve.set(xlim=(1, max(set_size, 2)), ylim=(0, 104))
    curve.grid(color=FAINT, lw=0.6)
    style(curve, title="Found among the first k", xlabel="k", ylabel="trials (%)")
    return draw(figure)


_ROWS: Final = 45
"""Rows of a figure that still fits on a sheet of paper."""


def interval_rows(
    rows: "pd.DataFrame", xlabel: str, *, reference: float | None = None
) -> list[Picture]:
    """Draw values with their intervals one below the other (a forest plot).

    Each row has a ``group`` and a ``label``, ``value``, ``low``, ``high`` (NaN: not known) and
    ``chance``, if there is one; rows of a group stand together. ``reference`` is drawn as a line,
    and rows whose interval holds it are grey, as are those whose ``p_value``, if there is one, is
    not below 0.05. As many figures as it takes, with the same axis.
    """
    import pandas as pd

    headed = rows["group"].nunique() < len(rows)  # else a group's name is its only row's
    sheets: list[list[pd.DataFrame]] = [[]]
    for _, part in rows.groupby("group", sort=False):
        if sum(len(each) + headed for each in (*sheets[-1], part)) > _ROWS and sheets[-1]:
            sheets.append([])
        sheets[-1].append(part)
    ends = rows.reindex(columns=["value", "low", "high", "chance"]).assign(reference=reference)
    low, high = np.nanmin(ends.to_numpy(float)), np.nanmax(ends.to_numpy(float))
    margin = 0.06 * (high - low) or 1
    limits = low - margin, high + margin
    return [_sheet(parts, headed, xlabel, reference, limits) for parts in sheets]


def _sheet(
    parts: "list[pd.DataFrame]",
    headed: bool,
    xlabel: str,
    reference: float | None,
    limits: tuple[float, float],
) -> Picture:
    """Draw some groups of `interval_rows`."""
    import pandas as pd

    places: list[float] = []
    heads, place = [], 0.0
    for part in parts:
        heads.append((place, str(part["group"].iloc[0])))
        places += [place + headed + number for number in range(len(part))]
        place += len(part) + 1.4 * headed
    rows, y = pd.concat(parts), np.array(places)
    figure = new_figure(COLUMN, 0.75 + 0.17 * place)
    axes = figure.subplots()
    unclear = np.zeros(len(rows), bool)
    if reference is not None:
        axes.axvline(reference, color=INK, lw=0.8, ls=DASHED)
        unclear = ~((rows["low"] > reference) | (rows["high"] < reference)).to_numpy()
        if "p_value" in rows:
            unclear |= (rows["p_value"] >= 0.05).to_numpy()
    for some, color, fill in ((~unclear, BLUE, BLUE), (unclear, MUTED, "white")):
        part = rows[some]
        axes.hlines(y[some], part["low"], part["high"], color=color, lw=1.3)
        axes.plot(part["value"], y[some], "o", ms=3.6, color=color, mfc=fill)
    if "chance" in rows:
        axes.vlines(rows["chance"], y - 0.4, y + 0.4, color=VERMILION, lw=1.2, label="chance")
    axes.set_yticks(y, labels=rows["label" if headed else "group"].astype(str))
    for at, name in heads if headed else ():
        axes.annotate(
            name,
            (0, at),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=TEXT_SIZE,
            color=INK,
        )
    axes.set(xlim=limits, ylim=(place - 0.4, -0.8))
    axes.grid(axis="x", color=FAINT, lw=0.6)
    style(axes, xlabel=xlabel)
    axes.tick_params(axis="y", length=0)
    return draw(figure)


_LINES: Final = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", INK, "#B8A300", MUTED)


def interval_curves(points: "pd.DataFrame", xlabel: str, ylabel: str) -> Picture:
    """Draw values with their intervals against a number, a line for each series.

    Each point has the ``panel`` and ``line`` that it belongs to, ``x``, ``value``, ``low``,
    ``high`` and ``chance``.
    """
    colors = dict(zip(points["line"].unique(), _LINES * len(points), strict=False))
    panels = list(points.groupby("panel", sort=False))
    figure = new_figure(COLUMN, 0.3 + 2.3 * len(panels))
    for axes, (name, panel) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
    ):
        # Side by side, or intervals at the same place would hide each other.
        step = 0.015 * (panel["x"].max() - panel["x"].min())
        for number, (line, part) in enumerate(panel.sort_values("x").groupby("line", sort=False)):
            x = part["x"] + step * number
            axes.plot(x, part["value"], "o-", ms=3.5, lw=1.4, c=colors[line], label=line)
            axes.vlines(x, part["low"], part["high"], color=colors[line], lw=1.2)
            # Each line its own: the first image by chance is right less often than the first five.
            axes.plot(x, part["chance"], color=colors[line], lw=0.9, ls=DOTTED)
        axes.plot([], [], color=INK, lw=0.9, ls=DOTTED, label="chance")
        axes.set_ylim(0, None)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        style(axes, title=str(name), xlabel=xlabel, ylabel=ylabel)
    return draw(figure)


def session_numbers(sessions: "pd.DataFrame") -> Picture:
    """Draw numbers of single sessions in the order of the scans, a panel each and a line a subject.

    Each row has its ``subject``, ``session`` (1-based), and a column for each panel, named as its
    axis.
    """
    names = [str(name) for name in sessions if name not in ("subject", "session")]
    figure = new_figure(COLUMN, 0.5 + 1.4 * len(names))
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        for (subject, part), color in zip(sessions.groupby("subject"), _LINES, strict=False):
            label = subject if axes is panels[0] else None
            axes.plot(part["session"], part[name], "o-", ms=2.5, lw=1.0, c=color, label=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        style(axes, xlabel="session" if axes is panels[-1] else "", ylabel=name)
    return draw(figure)
