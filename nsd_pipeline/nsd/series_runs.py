"""Runs of BOLD: the files of each, how they are listed, and on which repetition time they agree.

NSD's prepared time series (`nsd_series`) and a BIDS derivatives folder (`bids`) are described in
the same words, so that what uses them need not know which of them a session comes from.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nsd_pipeline.errors import ArtifactError, InvalidFileError
from nsd_pipeline.storage.names import listed_path

RUNS_FILE: Final = "runs.json"
TrSource = Literal["both", "sidecar", "header"]
"""What says a run's repetition time: its sidecar and its header, which must agree, or one alone."""
BrainMask = Literal["run", "template"]
"""Where the brain is in volumes in MNI space: by the run's mask, or by nilearn's template."""
TR_TOLERANCE: Final = 1e-3
"""Seconds by which two statements of one repetition time may differ: headers round."""
TR_RANGE: Final = (0.05, 60.0)
"""Seconds that a repetition time can have: any other is in another unit, or wrong."""


class BoldRun(BaseModel):
    """One (1-based) task run of a session, in one space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: int
    space: str
    """Such as ``"fsaverage"`` or ``"func1pt8mm"``."""
    kind: Literal["surface", "mni", "native", "other"]
    """``surface`` (two GIFTI files), ``mni`` (volumes in a standard space), ``native`` (volumes of
    the subject, for which NSD has transforms), or ``other``: listed, but of no use here."""
    files: tuple[str, ...]
    """Left and right hemisphere, or one file of volumes. Relative to the folder of the artifact
    that lists the run, unless absolute."""
    onsets: str
    """The file that says when images were shown."""
    onsets_kind: Literal["events", "design"]
    """BIDS ``events.tsv``, or NSD's design: one image number or 0 a volume."""
    mask: str | None = None
    """Brain mask of volumes in a standard space."""
    confounds: str | None = None
    tr: float | None = None
    """Seconds from one sample to the next as far as it is known without the recording itself."""
    n_samples: int | None = None
    """Samples that are used, if not all."""


class Onsets(NamedTuple):
    """When images were shown in a run.

    `seconds` (n,), ascending, count from the run's first sample. `numbers` (n,) are NSD's numbers
    of the images among the 73,000, from 0 or from 1 as the file counts.
    """

    seconds: NDArray[np.float64]
    numbers: NDArray[np.int64]


_RUNS = TypeAdapter(list[BoldRun])


def write_runs(folder: Path, runs: Sequence[BoldRun]) -> None:
    """Write the list of a session's runs into a folder."""
    (folder / RUNS_FILE).write_bytes(_RUNS.dump_json(list(runs), indent=2))


def read_runs(folder: Path) -> list[BoldRun]:
    """Read what :func:`write_runs` wrote; an ArtifactError if it is not there or is damaged."""
    path = folder / RUNS_FILE
    try:
        runs = _RUNS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{path} is not a readable list of runs: {error}.",
            next_step="make bold of this session again.",
        ) from error
    for run in runs:
        for name in (*run.files, run.onsets, run.mask, run.confounds):
            if name is not None:
                listed_path(folder, name, path)
    return runs


def agree_on_tr(
    statements: Iterable[tuple[str, float | None]],
    *,
    next_step: str = "correct the one that is wrong: the windows of a model need one repetition"
    " time.",
) -> float | None:
    """The one repetition time that several sources state, None if none of them does.

    `statements` are what each source is called, and the repetition time in seconds that it states,
    if any; `next_step` is what to do if they disagree. An InvalidFileError if two of them do, or
    one states something that is no repetition time.
    """
    stated = [(name, tr) for name, tr in statements if tr is not None]
    if not stated:
        return None
    first_name, first = stated[0]
    for name, tr in stated:
        if abs(tr - first) > TR_TOLERANCE:
            raise InvalidFileError(
                f"The repetition times disagree: {first_name} has {first:.6g} s, {name} has"
                f" {tr:.6g} s.",
                next_step=next_step,
            )
    low, high = TR_RANGE
    for name, tr in stated:
        if not low <= tr <= high:
            raise InvalidFileError(
                f"{name} states a repetition time of {tr:.6g} s, not one of {low:g} to {high:g} s.",
                next_step="state it as RepetitionTime, in seconds, in the sidecar.",
            )
    return first
