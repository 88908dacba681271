"""Windows of time series: which samples follow an image.

A window is the number of its first sample in the session's time series; samples are copied when a
batch is put together.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nsd_pipeline.decoding.trials import by_session
from nsd_pipeline.errors import MappingError, NotEnoughDataError, NsdError
from nsd_pipeline.events import window
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.surface.session_files import SeriesLayout


class Windows(NamedTuple):
    """Where the windows of trials lie.

    Attributes
    ----------
    trials
        The trials whose window is complete, with the column ``sample``: its first sample, counted
        from the start of the session's time series.
    n_times
        Samples of a window.
    n_dropped
        Trials whose window goes beyond their run.
    """

    trials: pd.DataFrame
    n_times: int
    n_dropped: int


def place_windows(
    trials: pd.DataFrame,
    layouts: Mapping[tuple[str, int], SeriesLayout],
    *,
    start: float,
    duration: float,
) -> Windows:
    """Find the samples that follow every image, and drop trials that their run is too short for.

    Parameters
    ----------
    trials
        The ``Image`` events: ``subject``, ``session``, ``run``, ``trial`` and ``start``, the onset
        in seconds after the run's first sample.
    layouts
        Layout of the time series of every subject and session.
    start, duration
        Seconds from the onset to the window, and its length: see :func:`nsd_pipeline.events.window`
        for how they are rounded to samples.

    Raises
    ------
    NsdError
        If sessions differ in repetition time, so that their windows would differ in length.
    MappingError
        If a trial is of a run that the session's time series lack.
    NotEnoughDataError
        If no window is complete.
    """
    _check_same_tr(layouts)
    kept, n_times = [], 0
    for key, group in by_session(trials).items():
        layout = layouts[key]
        runs = group["run"].to_numpy(np.int64)
        if missing := sorted(set(runs.tolist()) - set(layout.runs)):
            raise MappingError(
                f"The time series of {session_key(*key)} lack run {missing[0]}, in which the events"
                " list trials.",
                next_step="materialize fsaverage5_series of the session again.",
            )
        run_first, run_samples = np.array([layout.runs[run] for run in runs.tolist()]).T
        first, n_times = window(
            group["start"].to_numpy(np.float64), layout.tr, start=start, duration=duration
        )
        complete = (first >= 0) & (first + n_times <= run_samples)
        kept.append(group.assign(sample=run_first + first)[complete])
    complete_trials = pd.concat(kept, ignore_index=True)
    if complete_trials.empty:
        raise NotEnoughDataError(
            f"None of {len(trials)} trials has a window of {duration} s from {start} s after its"
            " onset within its run.",
            next_step="choose a shorter window, or check the onsets of the events.",
        )
    return Windows(complete_trials, n_times, len(trials) - len(complete_trials))


def _check_same_tr(layouts: Mapping[tuple[str, int], SeriesLayout]) -> None:
    by_tr: dict[float, tuple[str, int]] = {}
    for key, layout in layouts.items():
        by_tr.setdefault(round(layout.tr, 4), key)
    if len(by_tr) > 1:
        examples = ", ".join(f"{session_key(*key)} has {tr} s" for tr, key in by_tr.items())
        raise NsdError(
            f"The sessions differ in repetition time, so their windows would differ in length: "
            f"{examples}.",
            next_step="materialize bold, bold_events and fsaverage5_series of all sessions from one"
            " source and space.",
        )
