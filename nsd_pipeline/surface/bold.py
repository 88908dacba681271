"""A run of BOLD on fsaverage5, cleaned: what a session's time series are put together from."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, NsdError
from nsd_pipeline.nsd.bold import BoldRun, agree_on_tr
from nsd_pipeline.surface.cleaning import clean
from nsd_pipeline.surface.runs import (
    SurfaceRun,
    project_mni_run,
    project_native_run,
    read_gifti_run,
)
from nsd_pipeline.surface.volume_operator import FsaverageOperator

FindOperator = Callable[[], FsaverageOperator]
"""Gives the operator that maps a subject's functional volumes."""


class Treatment(NamedTuple):
    """What is done to a run beyond detrending and z-scoring; by default nothing, as the reference.

    Attributes
    ----------
    confounds
        Names or patterns (``trans_*``) of columns of the run's confounds that are regressed out.
    high_pass
        Frequency in Hz below which fluctuations are removed.
    fwhm
        Width in mm of a Gaussian that volumes are smoothed with before they are projected.
    """

    confounds: Sequence[str] = ()
    high_pass: float | None = None
    fwhm: float | None = None


class CleanRun(NamedTuple):
    """A run on fsaverage5, detrended and z-scored.

    Attributes
    ----------
    series : array of shape (T, 20484), float32
        Time first; left hemisphere, then right. NaN where there are no data.
    tr
        Seconds from one sample to the next.
    """

    series: NDArray[np.float32]
    tr: float


def load_run(
    recording: BoldRun, folder: Path, find_operator: FindOperator, treatment: Treatment
) -> CleanRun:
    """Bring a run to fsaverage5 and clean it.

    Parameters
    ----------
    recording
        The run, in one space.
    folder
        Folder that its files are relative to.
    find_operator
        Gives the operator for volumes in the subject's own space; called for no others.
    treatment
        What is done to it.

    Raises
    ------
    InvalidFileError
        If a file is damaged or does not fit the others, or no file states the repetition time.
    NsdError
        If the treatment is of no use for this kind of recording.
    """
    projected = _project(recording, folder, find_operator, treatment.fwhm)
    tr = _repetition_time(recording, folder, projected.tr)
    data = _without_rest(recording, folder, projected.data)
    confounds = None
    if treatment.confounds:
        confounds = _read_confounds(recording, folder, treatment.confounds, data.shape[1])
    cleaned = clean(data, tr, confounds=confounds, high_pass=treatment.high_pass)
    return CleanRun(cleaned.T, tr)


def _project(
    recording: BoldRun, folder: Path, find_operator: FindOperator, fwhm: float | None
) -> SurfaceRun:
    files = [folder / name for name in recording.files]
    match recording.kind:
        case "surface":
            if fwhm is not None:
                raise NsdError(
                    f"Smoothing (fwhm) is for volumes, but {files[0]} is on a surface.",
                    next_step="leave fwhm empty, or choose volumes by the query.",
                )
            return read_gifti_run(*files)
        case "mni":
            if recording.mask is None:
                raise InvalidFileError(
                    f"{files[0]} has no brain mask (desc-brain_mask.nii.gz) beside it.",
                    next_step="make it again, or choose another space by the query.",
                )
            return project_mni_run(files[0], folder / recording.mask, fwhm=fwhm)
        case "native":
            return project_native_run(files[0], find_operator(), fwhm=fwhm)
        case _:
            raise NsdError(
                f"There is no way from the space {recording.space!r} of {files[0]} to fsaverage5.",
                next_step="choose fsaverage, fsaverage6, fsaverage5 or a space whose name begins"
                " with MNI by the query.",
            )


def _repetition_time(recording: BoldRun, folder: Path, header: float | None) -> float:
    # NSD resampled its time series; the design files, not headers, vouch for the result.
    stated = None if recording.kind == "native" else header
    name = str(folder / recording.files[0])
    tr = agree_on_tr([("the sidecar of " + name, recording.tr), (name, stated)])
    if tr is None:
        raise InvalidFileError(
            f"Neither {name} nor a sidecar states a repetition time.",
            next_step="add RepetitionTime, in seconds, to the recording's .json sidecar or to"
            " task-nsdcore_bold.json in the raw BIDS tree.",
        )
    return tr


def _without_rest(
    recording: BoldRun, folder: Path, data: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Samples that the design knows: NSD's runs have one volume more, which belongs to nothing."""
    if recording.n_samples is None:
        return data
    surplus = data.shape[1] - recording.n_samples
    if surplus not in (0, 1):
        raise InvalidFileError(
            f"{folder / recording.files[0]} has {data.shape[1]} volumes, but the design file of"
            f" the run is of {recording.n_samples} (one fewer is expected).",
            next_step="download both again.",
        )
    return data[:, : recording.n_samples]


def _read_confounds(
    recording: BoldRun, folder: Path, wanted: Sequence[str], n_samples: int
) -> NDArray[np.float64]:
    """Confounds (T, C); the first sample of a temporal derivative, which has none, is its mean."""
    if recording.confounds is None:
        raise NsdError(
            f"Run {recording.run} in {recording.space} has no table of confounds"
            " (desc-confounds_timeseries.tsv).",
            next_step="leave confounds empty, or use derivatives that have them.",
        )
    path = folder / recording.confounds
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    names = [
        str(name)
        for name in table.columns
        if any(fnmatchcase(str(name), pattern) for pattern in wanted)
    ]
    unknown = [
        pattern for pattern in wanted if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if unknown or len(table) != n_samples:
        problem = (
            f"has no column {unknown[0]}"
            if unknown
            else f"has {len(table)} rows, but the run has {n_samples} samples"
        )
        raise InvalidFileError(
            f"{path} {problem}.",
            next_step=f"choose from its {len(table.columns)} columns, such as"
            f" {', '.join(map(str, table.columns[:5]))}, or make it again.",
        )
    chosen = table[names].astype(np.float64)
    return chosen.fillna(chosen.mean()).to_numpy()
