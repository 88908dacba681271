"""What NSD says about each of its 73,000 images (``nsd_stim_info_merged.csv``).

The table gives every image's photo in COCO and, a second source for the experiment design, the
trials in which each subject was to see it. It also lists trials of sessions that subjects 3, 4, 6
and 8 never came to.
"""

import os
from typing import Final

import numpy as np
import pandas as pd

from nsd_pipeline.errors import MappingError
from nsd_pipeline.nsd import tables
from nsd_pipeline.nsd.design import STIMPATTERN_SHAPE
from nsd_pipeline.nsd.layout import N_IMAGES, STIM_INFO_KEY, SUBJECTS, subject_number

N_REPETITIONS: Final = 3
"""How often a subject sees an image, at most."""

_NEXT_STEP: Final = f"fetch it again from NSD's bucket ({STIM_INFO_KEY})."
_MAX_TRIAL_NUMBER: Final = int(np.prod(STIMPATTERN_SHAPE))


def repetition_column(subject: str, repetition: int) -> str:
    """Column with the 1-based trial (0: never) in which a subject saw an image again.

    Parameters
    ----------
    subject
        ``subj01`` to ``subj08``.
    repetition
        How often the subject saw the image before: 0, 1 or 2.
    """
    return f"subject{subject_number(subject)}_rep{repetition}"


def read_stimulus_info(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read and validate ``nsd_stim_info_merged.csv``.

    Returns
    -------
    DataFrame
        73,000 rows, row number = 0-based image id, with NSD's columns ``nsdId``, ``cocoId``,
        ``cocoSplit``, ``cropBox`` (if the file has it), ``shared1000`` as bool, and
        ``subject1_rep0`` to ``subject8_rep2`` as whole numbers.

    Raises
    ------
    InvalidFileError
        If it is not a comma-separated table.
    MappingError
        If a column is missing, a value is out of range, or there is not one row for each image.
    """
    name = os.fspath(path)
    repetitions = [repetition_column(s, r) for s in SUBJECTS for r in range(N_REPETITIONS)]
    table = tables.read_table(
        path,
        ",",
        ["nsdId", "cocoId", "cocoSplit", "shared1000", *repetitions],
        optional=["cropBox"],
        next_step=_NEXT_STEP,
    )
    if len(table) != N_IMAGES:
        raise MappingError(
            f"{name} has {len(table)} rows, not one for each of {N_IMAGES} images.",
            next_step=_NEXT_STEP,
        )
    limits = {
        "nsdId": N_IMAGES - 1,
        "cocoId": np.iinfo(np.int32).max,
        **dict.fromkeys(repetitions, _MAX_TRIAL_NUMBER),
    }
    table = table.assign(
        shared1000=tables.flags(table, "shared1000", name=name, next_step=_NEXT_STEP),
        **{
            column: tables.whole_numbers(table, column, 0, high, name=name, next_step=_NEXT_STEP)
            for column, high in limits.items()
        },
    ).sort_values("nsdId", ignore_index=True)
    repeated = table["nsdId"][table["nsdId"].duplicated()]
    if len(repeated):
        raise MappingError(
            f"{name}: {len(repeated)} rows repeat the nsdId of another row; the first is nsdId "
            f"{repeated.iloc[0]}.",
            next_step=_NEXT_STEP,
        )
    return table
