"""Whether NSD's three sources agree on which image a trial showed, and the readers of two of them.

The experiment design, the table of images and the subject's responses each say it, independently.
Betas are paired with images by it, so a session is only used when all three say the same.

The table of images (``nsd_stim_info_merged.csv``) has a row for each of the 73,000 images: its
photo in COCO, and the trials in which each subject was to see it. It also lists trials of sessions
that subjects 3, 4, 6 and 8 never came to.

The responses (``responses.tsv``) have a row for each trial of a subject, in chronological order,
with ids that count from 1. Answers may be missing: a button was not pressed, or a run's record was
lost (MISSINGDATA; subj06 session 19 run 10, subj04 session 23 run 3). Betas and image ids hold
there too, so no row is ever dropped.
"""

import math
import os
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import MappingError
from nsd_pipeline.nsd.design import N_SUBJECT_IMAGES, STIMPATTERN_SHAPE, ExperimentDesign
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    N_IMAGES,
    STIM_INFO_KEY,
    SUBJECTS,
    responses_key,
    session_key,
    subject_number,
)
from nsd_pipeline.nsd.text_tables import NsdTable

if TYPE_CHECKING:
    import pandas as pd

N_REPETITIONS: Final = 3
"""How often a subject sees an image, at most."""

_MAX_SESSION, _MAX_RUN, _MAX_TRIAL = STIMPATTERN_SHAPE

IDENTIFYING_COLUMNS: Final = {
    "SUBJECT": len(SUBJECTS),
    "SESSION": _MAX_SESSION,
    "RUN": _MAX_RUN,
    "TRIAL": _MAX_TRIAL,
    "73KID": N_IMAGES,
    "10KID": N_SUBJECT_IMAGES,
}
"""Columns of responses that say which trial a row is; they count from 1 to the number here."""
BEHAVIOUR_COLUMNS: Final = (
    "TIME",
    "ISOLD",
    "ISCORRECT",
    "RT",
    "CHANGEMIND",
    "MEMORYRECENT",
    "MEMORYFIRST",
    "ISOLDCURRENT",
    "ISCORRECTCURRENT",
    "TOTAL1",
    "TOTAL2",
    "BUTTON",
    "MISSINGDATA",
)
"""Columns that may be empty: when the trial was (in days), and what the subject did."""

_N_EXAMPLES: Final = 3


def repetition_column(subject: str, repetition: int) -> str:
    """Column with the 1-based trial (0: never) in which a subject saw an image again.

    `repetition` is how often the subject saw the image before: 0, 1 or 2.
    """
    return f"subject{subject_number(subject)}_rep{repetition}"


def read_stimulus_info(path: str | os.PathLike[str], name: str = "") -> "pd.DataFrame":
    """Read and validate ``nsd_stim_info_merged.csv``; errors call it by `name`, or by its path.

    Returns 73,000 rows, row number = 0-based image id, with NSD's columns ``nsdId``, ``cocoId``,
    ``cocoSplit``, ``cropBox`` (if the file has it), ``shared1000`` as bool, and ``subject1_rep0``
    to ``subject8_rep2`` as whole numbers. An InvalidFileError if it is not a comma-separated table;
    a MappingError if a column is missing, a value is out of range, or there is not one row for each
    image.
    """
    repetitions = [repetition_column(s, r) for s in SUBJECTS for r in range(N_REPETITIONS)]
    table = NsdTable.read(
        path,
        ",",
        ["nsdId", "cocoId", "cocoSplit", "shared1000", *repetitions],
        optional=["cropBox"],
        name=name,
        next_step=f"fetch it again from NSD's bucket ({STIM_INFO_KEY}).",
    )
    if (n_rows := len(table.frame)) != N_IMAGES:
        raise table.wrong(f" has {n_rows} rows, not one for each of {N_IMAGES} images")
    limits = {
        "nsdId": N_IMAGES - 1,
        "cocoId": np.iinfo(np.int32).max,
        **dict.fromkeys(repetitions, math.prod(STIMPATTERN_SHAPE)),
    }
    info = table.frame.assign(
        shared1000=table.flags("shared1000"),
        **{column: table.whole_numbers(column, 0, high) for column, high in limits.items()},
    ).sort_values("nsdId", ignore_index=True)
    repeated = info["nsdId"][info["nsdId"].duplicated()]
    if len(repeated):
        raise table.wrong(
            f": {len(repeated)} rows repeat the nsdId of another row; the first is nsdId"
            f" {repeated.iloc[0]}"
        )
    return info


def read_responses(path: str | os.PathLike[str], name: str = "") -> "pd.DataFrame":
    """Read and validate a subject's ``responses.tsv``; errors call it by `name`, or by its path.

    Returns all rows, in the file's order, under NSD's column names: `IDENTIFYING_COLUMNS` as int64,
    `BEHAVIOUR_COLUMNS` as float64 with NaN where there is no answer. An InvalidFileError if it is
    not a tab-separated table; a MappingError if a column is missing, a value is out of range or no
    number, or the rows are of more than one subject.
    """
    table = NsdTable.read(
        path,
        "\t",
        [*IDENTIFYING_COLUMNS, *BEHAVIOUR_COLUMNS],
        name=name,
        next_step=f"fetch it again from NSD's bucket ({responses_key('<subject>')}).",
    )
    responses = table.frame.assign(
        **{name: table.whole_numbers(name, 1, high) for name, high in IDENTIFYING_COLUMNS.items()},
        **{name: table.numbers(name) for name in BEHAVIOUR_COLUMNS},
    )
    if (n_subjects := responses["SUBJECT"].nunique()) != 1:
        raise table.wrong(f" must have the rows of one subject, but has those of {n_subjects}")
    return responses


def check_mapping(
    trials: "pd.DataFrame",
    design: ExperimentDesign,
    stimulus_info: "pd.DataFrame",
    responses: "pd.DataFrame",
    subject: str,
    session: int,
) -> None:
    """Check that design, table of images and responses name the same image for every trial.

    `trials` are the session's, from `ExperimentDesign.trials`; `responses` the subject's in all
    sessions. A MappingError if they disagree: it names the first trials (or images) that do.
    """
    _check_responses(trials, responses, subject, session)
    _check_repetitions(trials, design, stimulus_info, subject, session)
    _check_shared(design, stimulus_info)


def _check_responses(
    trials: "pd.DataFrame", responses: "pd.DataFrame", subject: str, session: int
) -> None:
    """Check that responses have the session's trials, all and in order, with the same images."""
    of_subject = responses["SUBJECT"] == subject_number(subject)
    rows = responses[of_subject & (responses["SESSION"] == session)]
    if len(rows) != len(trials):
        raise _disagreement(
            f"{responses_key(subject)} has {len(rows)} trials of {session_key(subject, session)}, "
            f"but {EXPDESIGN_KEY} has {len(trials)}."
        )
    expected = {
        "RUN": trials["run"],
        "TRIAL": trials.groupby("run").cumcount() + 1,
        "73KID": trials["image_id"] + 1,
        "10KID": trials["image_id_10k"] + 1,
    }
    for column, values in expected.items():
        _compare_trials(
            f"{column} of {responses_key(subject)}", rows[column].to_numpy(), values, trials
        )


def _check_repetitions(
    trials: "pd.DataFrame",
    design: ExperimentDesign,
    stimulus_info: "pd.DataFrame",
    subject: str,
    session: int,
) -> None:
    """Check that the table of images lists each trial as the image's n-th showing."""
    columns = [repetition_column(subject, r) for r in range(N_REPETITIONS)]
    listed = stimulus_info[columns].to_numpy()
    too_often = trials["repetition"] >= N_REPETITIONS
    if too_often.any():
        row = trials[too_often].iloc[0]
        raise _disagreement(
            f"{EXPDESIGN_KEY} shows image {row['image_id']} more than {N_REPETITIONS} times, last "
            f"in trial {row['trial']} of {session_key(subject, session)}."
        )
    _compare_trials(
        f"{columns[0]} to {columns[-1]} of {STIM_INFO_KEY}",
        listed[trials["image_id"], trials["repetition"]],
        design.first_trial(session) + trials["trial"] + 1,
        trials,
    )


def _check_shared(design: ExperimentDesign, stimulus_info: "pd.DataFrame") -> None:
    """Check that the sources agree on which images all subjects see."""
    in_design = np.isin(stimulus_info["nsdId"].to_numpy(), design.sharedix - 1)
    differ = np.flatnonzero(in_design != stimulus_info["shared1000"].to_numpy())
    if differ.size:
        examples = ", ".join(str(image_id) for image_id in differ[:_N_EXAMPLES])
        raise _disagreement(
            f"shared1000 of {STIM_INFO_KEY} and sharedix of {EXPDESIGN_KEY} disagree on "
            f"{differ.size} images (0-based): {examples}{_and_more(differ)}."
        )


def _compare_trials(
    name: str, found: NDArray[np.int64], designed: "pd.Series", trials: "pd.DataFrame"
) -> None:
    """Check that one of the other sources says of each trial what the design says."""
    expected = designed.to_numpy()
    differ = np.flatnonzero(found != expected)
    if differ.size:
        examples = "; ".join(
            f"trial {trials['trial'].iloc[i]} (run {trials['run'].iloc[i]}) has {found[i]}, not"
            f" {expected[i]}"
            for i in differ[:_N_EXAMPLES]
        )
        raise _disagreement(
            f"{name} disagrees with {EXPDESIGN_KEY} in {differ.size} of {len(trials)} trials"
            f" of {session_key(trials['subject'].iloc[0], trials['session'].iloc[0])}:"
            f" {examples}{_and_more(differ)}."
        )


def _and_more(differ: NDArray[np.intp]) -> str:
    return f" and {differ.size - _N_EXAMPLES} more" if differ.size > _N_EXAMPLES else ""


def _disagreement(problem: str) -> MappingError:
    return MappingError(
        problem,
        next_step="fetch these files again from NSD's bucket; if they still disagree, do not use "
        "the session.",
    )
