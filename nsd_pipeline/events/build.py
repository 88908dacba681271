"""The event table of one session, for betas and for time series."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import MappingError
from nsd_pipeline.events.table import EVENT_COLUMNS, conform
from nsd_pipeline.nsd.layout import STIMULI_KEY
from nsd_pipeline.nsd.series_runs import BoldRun, Onsets

if TYPE_CHECKING:
    import pandas as pd

SLOT_SECONDS: Final = 4.0
"""A trial starts every 4 s (Allen et al. 2022), blank trials included."""
IMAGE_SECONDS: Final = 3.0
"""An image is shown for 3 s (Allen et al. 2022)."""

# NSD's names in responses.tsv -> ours.
_BEHAVIOUR: Final = {
    "ISOLD": "is_old",
    "ISCORRECT": "is_correct",
    "RT": "response_time",
    "CHANGEMIND": "change_mind",
    "MEMORYRECENT": "memory_recent",
    "MEMORYFIRST": "memory_first",
    "ISOLDCURRENT": "is_old_current",
    "ISCORRECTCURRENT": "is_correct_current",
    "TOTAL1": "total_1",
    "TOTAL2": "total_2",
    "BUTTON": "button",
    "MISSINGDATA": "missing_data",
}


def build_events(
    trials: "pd.DataFrame", responses: "pd.DataFrame", files: Mapping[str, Sequence[str]]
) -> "pd.DataFrame":
    """Build the event table of one session: a row per recording, then a row per trial.

    Parameters
    ----------
    trials
        The session's trials in order: ``subject``, ``session``, ``run``, ``trial``, ``slot`` (0 to
        74, place among the run's trials and blanks), ``image_id``, ``image_id_10k``,
        ``repetition``, ``shared``.
    responses
        The subject's ``responses.tsv`` under NSD's column names; other sessions are ignored. Empty
        fields stay null: betas and image are valid where the button presses are not.
    files
        Keys of the session's beta files on the bucket by space; left hemisphere first.

    Returns
    -------
    DataFrame
        Columns and dtypes of ``EVENT_COLUMNS``. ``split`` is "test" for shared images, else
        "train".

    Raises
    ------
    MappingError
        If a trial has no response row, several, or one about another image.
    """
    import pandas as pd

    rows = responses[responses["SESSION"] == trials["session"].iloc[0]]
    behaviour = rows[["RUN", "TRIAL", "73KID", *_BEHAVIOUR]].rename(columns=_BEHAVIOUR)
    try:
        images = trials.assign(TRIAL=trials.groupby("run").cumcount() + 1).merge(
            behaviour,
            how="left",
            left_on=["run", "TRIAL"],
            right_on=["RUN", "TRIAL"],
            validate="one_to_one",
        )
    except pd.errors.MergeError as error:
        raise MappingError(
            f"responses.tsv lists a trial twice: {error}", next_step="download it again."
        ) from error
    _check_images(images)
    subject, session, run = (images[name].astype(str) for name in ("subject", "session", "run"))
    images = images.assign(
        type="Image",
        timeline=subject + "_ses" + session.str.zfill(2) + "_run" + run.str.zfill(2),
        start=images["slot"] * SLOT_SECONDS,
        duration=IMAGE_SECONDS,
        filepath=STIMULI_KEY.rpartition("/")[2] + "#" + images["image_id"].astype(str),
        split=images["shared"].map({True: "test", False: "train"}),
    )
    recordings = pd.DataFrame(
        {
            "type": "Fmri",
            "subject": trials["subject"].iloc[0],
            "session": trials["session"].iloc[0],
            "space": list(files),
            "filepath": [keys[0] for keys in files.values()],
        }
    )
    return _join(recordings, images)


def _check_images(images: "pd.DataFrame") -> None:
    """Check that each trial found its response row."""
    wrong = images[images["73KID"].ne(images["image_id"] + 1)]  # 73KID counts from 1
    if len(wrong):
        first = wrong.iloc[0]
        raise MappingError(
            f"responses.tsv disagrees with the experiment design on {len(wrong)} trials of "
            f"{first['subject']} session {first['session']}; the first is run {first['run']} trial "
            f"{first['trial']}: image {first['image_id']} by design, "
            f"73KID {first['73KID']} (1-based) in responses.tsv.",
            next_step="download nsd_expdesign.mat and responses.tsv again; if they still disagree, "
            "they are not of one release of NSD.",
        )


def build_bold_events(
    events: "pd.DataFrame",
    runs: Sequence[BoldRun],
    read_onsets: Callable[[BoldRun], Onsets],
    left_out: Collection[int] = (),
) -> "pd.DataFrame":
    """Build the event table of a session's time series: the trials of its betas, the runs' onsets.

    Takes the event table of the session's betas, the session's runs, one for each run and space,
    and what reads when images were shown in a run; spaces of one run share that. Of runs that
    somebody left out of the session, trials are left out too. Returns the columns and dtypes of
    ``EVENT_COLUMNS``: an ``Fmri`` row for each run and space, then the trials as they are, but for
    ``start``, which is as the run's own file has it. A MappingError if a run has no recording, or
    its file of onsets names other images than the design.
    """
    import pandas as pd

    kept = (events["type"] == "Image") & ~events["run"].isin(list(left_out))
    images = events[kept].reset_index(drop=True)
    by_run = {recording.run: recording for recording in reversed(runs)}
    start = np.empty(len(images))
    for run, trials in images.groupby("run", sort=True):
        if run not in by_run:
            raise MappingError(
                f"{trials['timeline'].iloc[0]} has trials but no recording.",
                next_step="make bold of this session again.",
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
    return _join(recordings, images.assign(start=start))


def _join(*parts: "pd.DataFrame") -> "pd.DataFrame":
    """One event table of several parts: a column that a part lacks is null there, others go."""
    import pandas as pd

    names = [column.name for column in EVENT_COLUMNS]
    # Typed before they are joined: pandas would otherwise turn integers beside nulls into floats.
    return pd.concat([conform(part.reindex(columns=names)) for part in parts], ignore_index=True)


def _seconds_of_images(
    trials: "pd.DataFrame", onsets: Onsets, recording: BoldRun
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


def _check_grid(trials: "pd.DataFrame", seconds: NDArray[np.float64], recording: BoldRun) -> None:
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
