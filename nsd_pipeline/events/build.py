"""Build the event table of one session from the design, the responses and the bucket's files."""

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from nsd_pipeline.errors import MappingError
from nsd_pipeline.events.table import EVENT_COLUMNS, conform
from nsd_pipeline.nsd.layout import STIMULI_KEY

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
    trials: pd.DataFrame, responses: pd.DataFrame, files: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
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
    try:
        images = trials.assign(TRIAL=trials.groupby("run").cumcount() + 1).merge(
            _behaviour(responses, session=int(trials["session"].iloc[0])),
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
    names = [column.name for column in EVENT_COLUMNS]
    # Typed before they are joined: pandas would otherwise turn integers beside nulls into floats.
    parts = [conform(part.reindex(columns=names)) for part in (recordings, images)]
    return pd.concat(parts, ignore_index=True)


def _behaviour(responses: pd.DataFrame, *, session: int) -> pd.DataFrame:
    rows = responses[responses["SESSION"] == session]
    return rows[["RUN", "TRIAL", "73KID", *_BEHAVIOUR]].rename(columns=_BEHAVIOUR)


def _check_images(images: pd.DataFrame) -> None:
    """Check that each trial found its response row (73KID counts from 1)."""
    wrong = images[images["73KID"].ne(images["image_id"] + 1)]
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
