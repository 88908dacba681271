"""The events of a session whose recordings are runs of BOLD: when images came on in each run."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.errors import MappingError
from nsd_pipeline.events.table import EVENT_COLUMNS, conform
from nsd_pipeline.nsd.series_runs import BoldRun, Onsets


def build_bold_events(
    events: pd.DataFrame,
    runs: Sequence[BoldRun],
    read_onsets: Callable[[BoldRun], Onsets],
    left_out: Collection[int] = (),
) -> pd.DataFrame:
    """Put the runs and their own onsets in the place of a session's recordings of betas.

    Parameters
    ----------
    events
        The session's events, checked against the experiment design: of them, the trials are kept
        with all they say, but for ``start``.
    runs
        The session's runs, one a run and space.
    read_onsets
        Reads when images were shown in a run. Spaces of one run share them.
    left_out
        Runs that somebody left out of the session: so are their trials.

    Returns
    -------
    DataFrame
        Columns and dtypes of ``EVENT_COLUMNS``: an ``Fmri`` row for each run and space, then the
        trials, with ``start`` as the run's own file has it.

    Raises
    ------
    MappingError
        If a run has no recording, or its file of onsets names other images than the design.
    """
    kept = (events["type"] == "Image") & ~events["run"].isin(list(left_out))
    images = events[kept].reset_index(drop=True)
    by_run = {recording.run: recording for recording in reversed(runs)}
    start = np.empty(len(images))
    for run, trials in images.groupby("run", sort=True):
        if run not in by_run:
            raise MappingError(
                f"{trials['timeline'].iloc[0]} has trials but no recording.",
                next_step="materialize bold of the session again.",
            )
        recording = by_run[int(str(run))]
        seconds = _seconds_of_images(trials, read_onsets(recording), recording)
        if recording.onsets_kind == "design":
            _check_grid(trials, seconds, recording)
        start[trials.index] = seconds
    first = images.iloc[0]
    timelines = images.drop_duplicates("run").set_index("run")["timeline"]
    recordings = pd.DataFrame(
        {
            "type": "Fmri",
            "subject": first["subject"],
            "session": first["session"],
            "run": [each.run for each in runs],
            "timeline": [timelines.get(each.run) for each in runs],
            "start": 0.0,
            "space": [each.space for each in runs],
            "filepath": [each.files[0] for each in runs],
        }
    )
    names = [column.name for column in EVENT_COLUMNS]
    parts = [
        conform(part.reindex(columns=names)) for part in (recordings, images.assign(start=start))
    ]
    return pd.concat(parts, ignore_index=True)


def _seconds_of_images(
    trials: pd.DataFrame, onsets: Onsets, recording: BoldRun
) -> NDArray[np.float64]:
    """Onset of each trial of a run, after its image is checked against the design.

    Files that count images from 1 may mark blank trials by 0; files that count from 0 may not.
    """
    shown = trials["image_id"].to_numpy(np.int64)
    named: NDArray[np.int64] = onsets.numbers
    images = named > 0
    if np.array_equal(named[images], shown + 1):
        return onsets.seconds[images]
    if np.array_equal(named, shown):
        return onsets.seconds
    timeline = trials["timeline"].iloc[0]
    if images.sum() != len(shown):
        problem = f"has {images.sum()} images, but {timeline} has {len(shown)} trials by design"
    else:
        place = int(np.flatnonzero(named[images] != shown + 1)[0])
        problem = (
            f"disagrees with the experiment design: trial {trials['trial'].iloc[place]} of"
            f" {timeline} showed image {shown[place]}, but the file names"
            f" {named[images][place]} (counted from 1)"
        )
    raise MappingError(
        f"{recording.onsets} {problem}.",
        next_step="check that the recordings and nsd_expdesign.mat are of the same release, and"
        " that runs are numbered as in NSD's raw data.",
    )


def _check_grid(trials: pd.DataFrame, seconds: NDArray[np.float64], recording: BoldRun) -> None:
    """Check that images came on with the volumes that the repetition time says."""
    designed = trials["start"].to_numpy(np.float64)
    wrong = np.flatnonzero(np.abs(seconds - designed) > 0.5 * (recording.tr or 0))
    if len(wrong):
        place = int(wrong[0])
        raise MappingError(
            f"{recording.onsets} disagrees with the experiment design: trial"
            f" {trials['trial'].iloc[place]} of {trials['timeline'].iloc[0]} came on at"
            f" {designed[place]:g} s, but at a repetition time of {recording.tr:.4g} s the file has"
            f" it at {seconds[place]:g} s.",
            next_step="check that the design file is of this run and space.",
        )
