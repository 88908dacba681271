"""Figure of a training: loss, retrieval and learning rate over the epochs."""

from typing import Final

import numpy as np
import pandas as pd

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report.figure import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    VERMILION,
    new_figure,
    style,
    to_png,
)

_TOP_K: Final = {10: GREEN, 5: BLUE, 1: ORANGE}
_COLUMNS: Final = (
    *("epoch", "train/loss", "val/loss", "learning_rate"),
    *(f"val/batch_top{k}_acc" for k in _TOP_K),
)
_DOTTED: Final = (0, (1, 2))


def training_curves(
    history: pd.DataFrame,
    *,
    batch_size: int | None = None,
    monitor: str = "val/batch_top5_acc",
) -> bytes:
    """Draw loss, retrieval within validation batches, and learning rate over the epochs.

    The epoch whose ``monitor`` is highest (the first, if several) is marked: its model is the one
    that is kept.

    Parameters
    ----------
    history
        One row per epoch with ``epoch``, ``train/loss``, ``val/loss``, ``val/batch_top1_acc``,
        ``val/batch_top5_acc``, ``val/batch_top10_acc`` (fractions) and ``learning_rate``.
    batch_size
        Trials per validation batch; with it, chance level is drawn too.
    monitor
        Column of the history that chose the epoch.

    Returns
    -------
    bytes
        PNG.

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
    epoch = history["epoch"].to_numpy()
    best = epoch[history[monitor].fillna(-np.inf).to_numpy().argmax()]

    figure = new_figure(8.4, 2.8)
    loss, top, rate = figure.subplots(1, 3, width_ratios=(1.1, 1.25, 0.85))
    for axes in (loss, top, rate):
        label = f"model kept: epoch {best}" if axes is rate else None
        axes.axvline(best, color=VERMILION, lw=1.0, ls=(0, (4, 2)), zorder=1, label=label)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        axes.xaxis.get_major_locator().set_params(integer=True)

    loss.plot(epoch, history["train/loss"], color=MUTED, lw=1.6, label="training")
    loss.plot(epoch, history["val/loss"], color=BLUE, lw=1.6, label="validation")
    style(loss, title="CLIP loss", xlabel="epoch")

    for k, color in _TOP_K.items():
        percent = 100 * history[f"val/batch_top{k}_acc"]
        top.plot(epoch, percent, color=color, lw=1.6, label=f"top-{k}")
        if batch_size is not None:
            top.axhline(100 * min(1.0, k / batch_size), color=color, lw=0.9, ls=_DOTTED)
    if batch_size is not None:
        top.plot([], [], color=MUTED, lw=0.9, ls=_DOTTED, label="chance")
    top.set_ylim(0, None)
    style(top, title="Retrieval in validation batches", xlabel="epoch", ylabel="trials correct (%)")

    peak = float(history["learning_rate"].max())
    exponent = int(np.floor(np.log10(peak))) if peak > 0 else 0
    rate.plot(epoch, history["learning_rate"] / 10.0**exponent, color=INK, lw=1.6)
    rate.set_ylim(0, None)
    style(rate, title="Learning rate", xlabel="epoch", ylabel=rf"$\times\,10^{{{exponent}}}$")
    return to_png(figure)
