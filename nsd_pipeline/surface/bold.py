"""A run of BOLD on fsaverage5, cleaned: what a session's time series are put together from."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, NsdError
from nsd_pipeline.nsd.series_runs import BoldRun, BrainMask, TrSource, agree_on_tr
from nsd_pipeline.nsd.text_tables import check_content, read_table
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

    And what is believed of its files where they disagree or lack something.

    Attributes
    ----------
    confounds
        Names or patterns (``trans_*``) of columns of the run's confounds that are regressed out.
    high_pass
        Frequency in Hz below which fluctuations are removed.
    fwhm
        Width in mm of a Gaussian that volumes are smoothed with before they are projected.
    tr_from
        What says the repetition time.
    brain_mask
        Where the brain is in volumes in MNI space.
    """

    confounds: Sequence[str] = ()
    high_pass: float | None = None
    fwhm: float | None = None
    tr_from: TrSource = "both"
    brain_mask: BrainMask = "run"


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
    projected = _project(recording, folder, find_operator, treatment)
    tr = _repetition_time(recording, folder, projected.tr, treatment.tr_from)
    data = _without_rest(recording, folder, projected.data)
    confounds = None
    if treatment.confounds:
        confounds = _read_confounds(recording, folder, treatment.confounds, data.shape[1])
    cleaned = clean(data, tr, confounds=confounds, high_pass=treatment.high_pass)
    return CleanRun(cleaned.T, tr)


def _project(
    recording: BoldRun, folder: Path, find_operator: FindOperator, treatment: Treatment
) -> SurfaceRun:
    files = [folder / name for name in recording.files]
    for path in files:
        check_content(path, next_step="make it again.")
    fwhm = treatment.fwhm
    match recording.kind:
        # fsLR has a mesh with as many vertices as fsaverage's, at other places.
        case "surface" if recording.space.startswith("fsaverage"):
            if fwhm is not None:
                raise NsdError(
                    f"Smoothing (fwhm) is for volumes, but {files[0]} is on a surface.",
                    next_step="leave fwhm empty, or choose volumes by the query.",
                )
            return read_gifti_run(*files, space=recording.space.partition("_")[0])
        case "mni":
            mask = _mask(recording, folder, treatment.brain_mask)
            return project_mni_run(files[0], mask, fwhm=fwhm)
        case "native":
            return project_native_run(files[0], find_operator(), fwhm=fwhm)
        case _:
            raise NsdError(
                f"There is no way from the space {recording.space!r} of {files[0]} to fsaverage5.",
                next_step="choose fsaverage, fsaverage6, fsaverage5 or a space whose name begins"
                " with MNI by the query.",
            )


def _mask(recording: BoldRun, folder: Path, chosen: BrainMask) -> Path | None:
    """The run's mask, None for the template's."""
    name = folder / recording.files[0]
    if chosen == "template":
        if not recording.space.startswith("MNI152"):
            raise NsdError(
                f"{name} is in {recording.space}, but the template whose brain mask is at hand is"
                " MNI152.",
                next_step="set brain_mask to 'run', or choose another space by the query.",
            )
        return None
    if recording.mask is None:
        raise InvalidFileError(
            f"{name} has no brain mask (desc-brain_mask.nii.gz) beside it.",
            next_step="make it again, choose another space by the query, or set brain_mask to"
            " 'template' to take the brain of the MNI152 template for it.",
        )
    mask = folder / recording.mask
    check_content(mask, next_step="make it again.")
    return mask


def _repetition_time(
    recording: BoldRun, folder: Path, header: float | None, counts: TrSource
) -> float:
    name = str(folder / recording.files[0])
    sidecar, stated = ("the sidecar of " + name, recording.tr), ("the header of " + name, header)
    match counts:
        case "both":
            statements = [sidecar, stated]
        case "sidecar":
            statements = [sidecar]
        case "header":
            statements = [stated]
    if recording.kind == "native":
        # NSD resampled its time series; the design files, not headers, vouch for the result.
        statements = [(name, recording.tr)]
    tr = agree_on_tr(
        statements,
        next_step="find out which is right, and set tr_from to 'sidecar' or to 'header'; or correct"
        " the other.",
    )
    if tr is None:
        what = {"both": "Neither {} nor a sidecar states", "sidecar": "No sidecar of {} states"}
        raise InvalidFileError(
            what.get(counts, "The header of {} does not state").format(name)
            + " a repetition time.",
            next_step="add RepetitionTime, in seconds, to the recording's .json sidecar or to"
            " task-nsdcore_bold.json in the raw BIDS tree, and materialize bold again"
            + (", with tr_from left at 'both'." if counts == "header" else "."),
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
    table = read_table(path, next_step="make it again.")
    names = [
        name for name in table.columns if any(fnmatchcase(name, pattern) for pattern in wanted)
    ]
    unknown = [
        pattern for pattern in wanted if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if unknown or len(table.lines) != n_samples:
        problem = (
            f"has no column {unknown[0]}"
            if unknown
            else f"has {len(table.lines)} rows, but the run has {n_samples} samples"
        )
        raise InvalidFileError(
            f"{path} {problem}.",
            next_step=f"choose from its {len(table.columns)} columns, such as"
            f" {', '.join([*table.columns][:5])}, or make it again.",
        )
    chosen = np.column_stack([table.numbers(name) for name in names])
    empty = np.isnan(chosen)
    if empty.all(axis=0).any():
        raise InvalidFileError(
            f"{path} has nothing in the column {names[int(empty.all(axis=0).argmax())]}.",
            next_step="choose other confounds, or make it again.",
        )
    filled: NDArray[np.float64] = np.where(empty, np.nanmean(chosen, axis=0), chosen)
    return filled
