"""NSD's prepared time series: ``nsddata_timeseries`` on the bucket.

The authors resampled every run in time (to 4/3 s in ``func1pt8mm``, to 1 s in ``func1mm``) and
space, and wrote beside it which image came on with which volume. Their design has a row fewer than
the run has volumes: the last volume belongs to no trial and is left out.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.bold import Onsets
from nsd_pipeline.nsd.layout import N_IMAGES
from nsd_pipeline.nsd.local_files import parse_number, read_text
from nsd_pipeline.nsd.spaces import FunctionalSpace

TR: Final[dict[FunctionalSpace, float]] = {"func1pt8mm": 4 / 3, "func1mm": 1.0}
"""Seconds from one volume to the next. Trials start every 4 s, so the design files must have an
onset on every third or fourth volume, which is checked; headers are not relied upon."""

_RESTING_SESSIONS: Final = {"subj01": range(21, 39), "subj05": range(21, 39)}
_OTHERS_RESTING_SESSIONS: Final = range(21, 31)


def file_run(subject: str, session: int, run: int) -> int:
    """Number that a task run (1 to 12) has in file names.

    Sessions 21 to 38 of subjects 1 and 5, and 21 to 30 of the others, have 14 runs, of which the
    first and the last are rest.
    """
    resting = _RESTING_SESSIONS.get(subject, _OTHERS_RESTING_SESSIONS)
    return run + 1 if session in resting else run


def timeseries_key(subject: str, session: int, run: int, space: FunctionalSpace) -> str:
    """Key of the volumes of a task run."""
    volumes, _ = session_prefixes(subject, session, space)
    return f"{volumes}{file_run(subject, session, run):02d}.nii.gz"


def design_key(subject: str, session: int, run: int, space: FunctionalSpace) -> str:
    """Key of the file that says with which volume of a task run an image came on."""
    _, design = session_prefixes(subject, session, space)
    return f"{design}{file_run(subject, session, run):02d}.tsv"


def session_prefixes(subject: str, session: int, space: FunctionalSpace) -> tuple[str, str]:
    """How the keys of a session's volumes, and those of its design files, begin."""
    folder = f"nsddata_timeseries/ppdata/{subject}/{space}"
    return (
        f"{folder}/timeseries/timeseries_session{session:02d}_run",
        f"{folder}/design/design_session{session:02d}_run",
    )


def read_design(path: Path) -> NDArray[np.int64]:
    """Image number (counted from 1) that came on with each volume, 0 for none.

    Raises
    ------
    InvalidFileError
        If a line is no such number.
    """
    next_step = "download it again."
    # A blank line before the last would be a volume that is not counted, so it is no number.
    lines = read_text(path, next_step=next_step).rstrip().split("\n")
    design = np.zeros(len(lines), np.int64)
    for row, line in enumerate(lines):
        number = parse_number(line.strip())
        if number is None or not (number.is_integer() and 0 <= number <= N_IMAGES):
            raise InvalidFileError(
                f"{path}, line {row + 1} must be a whole number from 0 to {N_IMAGES}, but is"
                f" '{line[:40]}'.",
                next_step=next_step,
            )
        design[row] = int(number)
    return design


def design_onsets(path: Path, tr: float) -> Onsets:
    """When images were shown in a run, from its design file."""
    design = read_design(path)
    volumes = np.flatnonzero(design)
    return Onsets(volumes.astype(np.float64) * tr, design[volumes])
