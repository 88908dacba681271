"""Windows of time series: a trial is some samples that follow its image.

A cohort's time series lie in memory once, as one array (sample, vertex). Windows of neighbouring
trials overlap, so cutting them out would hold most samples twice; a window is therefore only the
number of its first sample, and samples are copied when a batch is put together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.decoding.data import (
    Floats,
    Integers,
    LabelledTrials,
    ReadSession,
    by_session,
    target_rows,
)
from nsd_pipeline.decoding.dtypes import NUMPY_DTYPES, DataDtype, fill_rounded
from nsd_pipeline.events import window
from nsd_pipeline.nsd.errors import MappingError, NotEnoughDataError, NsdError
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.surface.series import SeriesLayout

ReadSeries = Callable[[str, int, Integers, Floats], object]
"""From a subject, a session, numbers of samples (n,) of the session's time series in ascending
order, and an array (n, V) to fill with these samples."""


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


@dataclass(frozen=True, kw_only=True)
class WindowData(LabelledTrials):
    """Trials with a window of a time series for each vertex.

    Attributes
    ----------
    series
        Time series (R, V) of all runs, float32 and contiguous; shared between splits.
    first
        Row (N,) of ``series`` at which each trial's window begins.
    window_length
        Samples of a window.
    """

    series: Floats
    first: Integers
    window_length: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.first) and not (
            self.first.min() >= 0 and self.first.max() + self.window_length <= len(self.series)
        ):
            raise ValueError("a window goes beyond the series")

    @property
    def values(self) -> Floats:
        """The time series (R, V)."""
        return self.series

    @property
    def first_rows(self) -> Integers:
        """First sample (N,) of each trial."""
        return self.first

    @property
    def n_times(self) -> int:
        """Samples of a window."""
        return self.window_length

    def _rows_of(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        return {"first": self.first[mask]}


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


def assemble_windows(
    trials: pd.DataFrame,
    n_times: int,
    n_vertices: int,
    read_series: ReadSeries,
    image_ids: Integers,
    embeddings: Floats,
    *,
    dtype: DataDtype = "float32",
) -> WindowData:
    """Put the time series of a cohort and the embeddings of what was seen together.

    Parameters
    ----------
    trials
        What :func:`place_windows` kept, or some of it. Sessions keep their order of appearance.
    n_times
        Samples of a window.
    n_vertices
        Vertices V.
    read_series
        Called once a session with the samples that some window needs and its own slice of the array
        of all series, which it fills.
    image_ids, embeddings
        Which images (n,) there are embeddings (n, D) of.
    dtype
        What samples are rounded to for keeping them.

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    MappingError
        If a session lists a trial twice.
    ArtifactError
        If an image has no embedding.
    """
    sessions = by_session(trials)
    ordered = pd.concat(sessions.values(), ignore_index=True)
    target_index = target_rows(ordered["image_id"].to_numpy(dtype=np.int64), image_ids)
    begins = [group["sample"].to_numpy(np.int64) for group in sessions.values()]
    # What lies between windows is left out; windows stay whole, as all their samples are taken.
    samples = [np.unique(_samples_of(each, n_times)) for each in begins]
    series = np.empty((sum(map(len, samples)), n_vertices), dtype=NUMPY_DTYPES[dtype])
    first, row = [], 0
    for key, begin, wanted in zip(sessions, begins, samples, strict=True):
        fill_rounded(series[row : row + len(wanted)], partial(read_series, *key, wanted))
        first.append(row + np.searchsorted(wanted, begin))
        row += len(wanted)
    return WindowData(
        series=series,
        first=np.concatenate(first),
        window_length=n_times,
        targets=np.require(embeddings, np.float32, ["C", "W"]),
        target_index=target_index,
        trials=ordered,
    )


def count_samples(trials: pd.DataFrame, n_times: int) -> int:
    """Count the samples that the windows of trials consist of, each once."""
    return sum(
        len(np.unique(_samples_of(group["sample"].to_numpy(np.int64), n_times)))
        for group in by_session(trials).values()
    )


def read_windows(
    trials: pd.DataFrame, n_times: int, n_vertices: int, read_series: ReadSeries
) -> ReadSession:
    """How to read windows trial by trial, for a cohort whose series are larger than memory.

    Parameters
    ----------
    trials
        What :func:`place_windows` kept.
    n_times, n_vertices
        Shape of a window.
    read_series
        As for :func:`assemble_windows`.

    Returns
    -------
    callable
        Fills an array (n, T x V) with the windows of trials of a session, time first.
    """
    first = {key: group.set_index("trial")["sample"] for key, group in by_session(trials).items()}

    def read(subject: str, session: int, numbers: Integers, out: Floats) -> None:
        begin = first[subject, session].loc[pd.Index(numbers)].to_numpy(np.int64)
        wanted, places = np.unique(_samples_of(begin, n_times), return_inverse=True)
        samples = np.empty((len(wanted), n_vertices), np.float32)
        read_series(subject, session, wanted, samples)
        np.take(
            samples,
            places.reshape(len(numbers), n_times),
            axis=0,
            out=out.reshape(len(numbers), n_times, n_vertices),
        )

    return read


def _samples_of(first: Integers, n_times: int) -> Integers:
    """Samples (n, T) of windows that begin at ``first`` (n,)."""
    return first[:, None] + np.arange(n_times)


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
