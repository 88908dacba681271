"""Detrending and z-scoring of time series."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import NotEnoughDataError

# Vertices that are worked on at once: their time series, in double precision, stay in the cache.
_BLOCK_BYTES: Final = 2**18


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
