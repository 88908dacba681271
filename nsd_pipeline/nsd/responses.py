"""What a subject answered in each trial (``responses.tsv``).

One row a trial in which an image was shown, in chronological order, with ids that count from 1.
Answers may be missing: a button was not pressed, or a run's record was lost (MISSINGDATA; subj06
session 19 run 10, subj04 session 23 run 3). Betas and image ids hold there too, so no row is ever
dropped.
"""

import os
from typing import Final

import pandas as pd

from nsd_pipeline.errors import MappingError
from nsd_pipeline.nsd import tables
from nsd_pipeline.nsd.design import N_SUBJECT_IMAGES, STIMPATTERN_SHAPE
from nsd_pipeline.nsd.layout import N_IMAGES, SUBJECTS

_MAX_SESSION, _MAX_RUN, _MAX_TRIAL = STIMPATTERN_SHAPE

IDENTIFYING_COLUMNS: Final = {
    "SUBJECT": len(SUBJECTS),
    "SESSION": _MAX_SESSION,
    "RUN": _MAX_RUN,
    "TRIAL": _MAX_TRIAL,
    "73KID": N_IMAGES,
    "10KID": N_SUBJECT_IMAGES,
}
"""Columns that say which trial a row is; they count from 1 to the number given here."""

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

_NEXT_STEP: Final = (
    "fetch it again from NSD's bucket (nsddata/ppdata/<subject>/behav/responses.tsv)."
)


def read_responses(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read and validate a subject's ``responses.tsv``.

    Returns
    -------
    DataFrame
        All rows, in the file's order, with NSD's column names: `IDENTIFYING_COLUMNS` as int64,
        `BEHAVIOUR_COLUMNS` as float64 with NaN where there is no answer.

    Raises
    ------
    InvalidFileError
        If it is not a tab-separated table.
    MappingError
        If a column is missing, a value is out of range or no number, or the rows are of more than
        one subject.
    """
    name = os.fspath(path)
    table = tables.read_table(
        path, "\t", [*IDENTIFYING_COLUMNS, *BEHAVIOUR_COLUMNS], next_step=_NEXT_STEP
    )
    table = table.assign(
        **{
            column: tables.whole_numbers(table, column, 1, high, name=name, next_step=_NEXT_STEP)
            for column, high in IDENTIFYING_COLUMNS.items()
        },
        **{
            column: tables.numbers(table, column, name=name, next_step=_NEXT_STEP)
            for column in BEHAVIOUR_COLUMNS
        },
    )
    subjects = table["SUBJECT"].unique()
    if len(subjects) != 1:
        raise MappingError(
            f"{name} must have the rows of one subject, but has those of {len(subjects)}.",
            next_step=_NEXT_STEP,
        )
    return table
