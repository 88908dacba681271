"""A run's time series on fsaverage5, detrended and z-scored."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nsd_pipeline.errors import InvalidFileError, NotEnoughDataError, NsdError
from nsd_pipeline.nsd.series_runs import BoldRun, BrainMask, TrSource, agree_on_tr
from nsd_pipeline.nsd.text_tables import check_content, read_table
from nsd_pipeline.surface.projected_runs import (
    SurfaceRun,
    project_mni_run,
    project_native_run,
    read_gifti_run,
)
from nsd_pipeline.surface.volume_operator import FindOperator

# Vertices that are cleaned at once: their time series, in double precision, stay in the cache.
_BLOCK_BYTES: Final = 2**18


class Treatment(BaseModel):
    """What is done to a run beyond detrending and z-scoring, and which of its files are believed.

    By default nothing more is done, as in the reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confounds: list[str] = Field(
        default=[],
        description="columns of the confounds to regress out, patterns like trans_* included;"
        " the reference uses none",
    )
    high_pass: float | None = Field(
        default=None, gt=0, description="remove fluctuations slower than this, in Hz"
    )
    fwhm: float | None = Field(
        default=None,
        gt=0,
        description="smooth volumes before they are projected, with a Gaussian of this width (full"
        " width at half maximum) in mm",
    )
    tr_from: TrSource = Field(
        default="both",
        description="what says a recording's repetition time: its sidecar, its header (some"
        " releases of fMRIPrep write a wrong one), or both, which then have to agree",
    )
    brain_mask: BrainMask = Field(
        default="run",
        description="where the brain is in volumes in MNI space: run, by the mask beside each, or"
        " template, by nilearn's MNI152, where there is none (deepprep)",
    )


def load_run(
    recording: BoldRun, folder: Path, find_operator: FindOperator, treatment: Treatment
) -> tuple[NDArray[np.float32], float]:
    """Bring a run to fsaverage5, then detrend and z-score it.

    The recording's files are relative to `folder`; `find_operator` gives the operator for volumes
    in the subject's own space, and is called for no others. Returns the series (T, 20484), float32,
    left hemisphere first, NaN where there are no data, and the seconds from one sample to the next.

    An InvalidFileError if a file is damaged or does not fit the others, or no file states the
    repetition time; an NsdError if the treatment cannot be given to this kind of recording.
    """
    projected = _project(recording, folder, find_operator, treatment)
    tr = _repetition_time(recording, folder, projected.tr, treatment.tr_from)
    data = _designed_samples(recording, folder, projected.data)
    confounds = None
    if treatment.confounds:
        confounds = _read_confounds(recording, folder, treatment.confounds, data.shape[1])
    return clean(data, tr, confounds=confounds, high_pass=treatment.high_pass).T, tr


def _project(
    recording: BoldRun, folder: Path, find_operator: FindOperator, treatment: Treatment
) -> SurfaceRun:
    files = [folder / name for name in recording.files]
    for path in files:
        check_content(path, next_step="make it again.")
    fwhm = treatment.fwhm
    match recording.kind:
        # Not every surface: fsLR's mesh has as many vertices as fsaverage's, at other places.
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
    """The run's brain mask; None if the template's is to be taken."""
    name = folder / recording.files[0]
    if chosen == "template":
        if not recording.space.startswith("MNI152"):
            raise NsdError(
                f"{name} is in {recording.space}, but the template's brain mask is in MNI152.",
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
    recording: BoldRun, folder: Path, header: float | None, chosen: TrSource
) -> float:
    name = folder / recording.files[0]
    if recording.kind == "native":
        # NSD resampled its time series: their design files say what came of it, not their headers.
        statements = [(str(name), recording.tr)]
    else:
        stated = {"sidecar": recording.tr, "header": header}
        statements = [
            (f"the {source} of {name}", tr)
            for source, tr in stated.items()
            if chosen in ("both", source)
        ]
    tr = agree_on_tr(
        statements,
        next_step="find out which is right, and set tr_from to 'sidecar' or to 'header'; or correct"
        " the other.",
    )
    if tr is None:
        nothing = {
            "both": f"Neither {name} nor a sidecar states",
            "sidecar": f"No sidecar of {name} states",
            "header": f"The header of {name} does not state",
        }
        raise InvalidFileError(
            f"{nothing[chosen]} a repetition time.",
            next_step="add RepetitionTime, in seconds, to the recording's .json sidecar or to"
            " task-nsdcore_bold.json in the raw BIDS tree, and make bold again"
            + (", with tr_from left at 'both'." if chosen == "header" else "."),
        )
    return tr


def _designed_samples(
    recording: BoldRun, folder: Path, data: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Samples (V, T) that the design file has: NSD's recordings have one more, of no use."""
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


def clean(
    data: NDArray[Any],
    tr: float,
    *,
    confounds: NDArray[np.floating[Any]] | None = None,
    high_pass: float | None = None,
) -> NDArray[np.float32]:
    """Remove each vertex's mean and linear trend and scale it to unit variance.

    Equal to ``nilearn.signal.clean(data.T, detrend=True, standardize="zscore_sample", t_r=tr).T``,
    the reference's treatment of a run: the standard deviation is that of a sample (``ddof=1``).
    Sums are made in double precision, so a large mean costs no digits.

    Parameters
    ----------
    data : array of shape (V, T)
        Time series of one run, in any unit.
    tr
        Seconds from one sample to the next. Only ``high_pass`` depends on it; it is checked in any
        case, as nilearn does.
    confounds : array of shape (T, C), optional
        Signals whose share in each vertex is removed after detrending. The reference removes none.
    high_pass
        Slower fluctuations than this frequency, in Hz, are removed by nilearn's Butterworth filter.
        The reference keeps them.

    Returns
    -------
    array of shape (V, T), float32
        Cleaned time series, without unit. Zero for a vertex that is exactly constant or a line;
        NaN throughout for a vertex with a sample that is not finite, and only there.

    Raises
    ------
    ValueError
        If ``data`` is not two-dimensional, ``tr`` is not positive, or ``confounds`` are of another
        number of samples or not finite.
    NotEnoughDataError
        If there are fewer than three samples: a line then fits whatever they are.
    """
    if data.ndim != 2:
        raise ValueError(f"Time series have shape (vertices, samples), these have {data.shape}.")
    if not tr > 0:
        raise ValueError(f"A repetition time is a positive number of seconds, not {tr}.")
    n_vertices, n_samples = data.shape
    if n_samples < 3:
        raise NotEnoughDataError(
            f"A run of {n_samples} samples is too short to be detrended.",
            next_step="pass at least three samples; time runs along the second axis.",
        )
    if confounds is not None or high_pass is not None:
        return _clean_by_nilearn(data, tr, confounds, high_pass)
    line = np.arange(n_samples) - (n_samples - 1) / 2
    trend = np.stack([np.full(n_samples, n_samples**-0.5), line / np.linalg.norm(line)])
    cleaned = np.empty(data.shape, np.float32)
    n_block = max(1, _BLOCK_BYTES // (8 * n_samples))
    for start in range(0, n_vertices, n_block):
        block = data[start : start + n_block].astype(np.float64)
        # What double precision leaves of a constant or a line is rounding, not signal.
        negligible = np.finfo(np.float64).eps * n_samples * np.abs(block).max(axis=1)
        with np.errstate(invalid="ignore"):  # infinite samples become NaN, as intended
            block -= (block @ trend.T) @ trend
            std = np.sqrt(np.einsum("vt,vt->v", block, block) / (n_samples - 1))
        flat = std <= negligible
        block[flat] = 0.0
        std[flat] = 1.0
        np.divide(block, std[:, None], out=cleaned[start : start + n_block], casting="same_kind")
    return cleaned


def _clean_by_nilearn(
    data: NDArray[Any],
    tr: float,
    confounds: NDArray[np.floating[Any]] | None,
    high_pass: float | None,
) -> NDArray[np.float32]:
    """Do the same with nilearn's own function, vertices with missing samples left out."""
    from nilearn.signal import clean as nilearn_clean

    if confounds is not None and not (
        len(confounds) == data.shape[1] and np.isfinite(confounds).all()
    ):
        raise ValueError(f"Confounds need a finite value for each of {data.shape[1]} samples.")
    finite = np.isfinite(data).all(axis=1)
    cleaned = np.full(data.shape, np.nan, np.float32)
    if finite.any():
        cleaned[finite] = nilearn_clean(
            data[finite].T.astype(np.float64),
            detrend=True,
            standardize="zscore_sample",
            confounds=confounds,
            high_pass=high_pass,
            t_r=tr,
            butterworth__copy=True,  # filters all vertices together, not one after the other
        ).T
    return cleaned
