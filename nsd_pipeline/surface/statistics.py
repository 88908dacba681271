"""What one session's betas look like: mean and spread per vertex, and how many are unusable."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import NotEnoughDataError

# Trials that are turned into double precision at once: 2.6 MB on fsaverage5.
_BLOCK_TRIALS: Final = 16


@dataclass(frozen=True)
class SessionStatistics:
    """Mean and standard deviation of each vertex over a session's trials.

    Attributes
    ----------
    mean, std : array of shape (V,), float32
        Percent signal change, over the vertex's finite trials; NaN where there are too few (none;
        for ``std`` fewer than two). ``std`` is that of a sample (``ddof=1``), as NSD's authors
        z-score for the noise ceiling and as nilearn's ``zscore_sample`` does.
    valid : array of shape (V,), bool
        Whether the vertex has a z-score: at least two finite trials that are not all equal.
    n_trials
        Trials of the session.
    n_nan
        Vertices without a single finite trial.
    n_partly_nan
        Vertices that lack some trials, but not all.
    n_constant
        Vertices whose finite trials are all equal.
    n_missing
        Single values (a vertex in a trial) that are not finite, over the whole session.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    valid: NDArray[np.bool_]
    n_trials: int
    n_nan: int
    n_partly_nan: int
    n_constant: int
    n_missing: int

    @property
    def n_vertices(self) -> int:
        """Vertices of both hemispheres."""
        return len(self.valid)

    @property
    def nan_share(self) -> float:
        """Share of vertices without a single finite trial, 0 to 1."""
        return self.n_nan / self.n_vertices

    @property
    def valid_share(self) -> float:
        """Share of vertices that have a z-score, 0 to 1."""
        return float(np.count_nonzero(self.valid)) / self.n_vertices

    def counts(self) -> dict[str, int | float]:
        """Everything but the arrays, for metadata and checks."""
        return {
            "n_trials": self.n_trials,
            "n_vertices": self.n_vertices,
            "n_valid": int(np.count_nonzero(self.valid)),
            "n_nan": self.n_nan,
            "n_partly_nan": self.n_partly_nan,
            "n_constant": self.n_constant,
            "n_missing": self.n_missing,
            "nan_share": self.nan_share,
            "valid_share": self.valid_share,
        }


def summarise(betas: NDArray[np.float32]) -> SessionStatistics:
    """Mean, standard deviation and usability of each vertex of one session.

    Values that are not finite (NaN marks what NSD's authors could not sample) are left out; they
    never reach another trial or vertex. Sums are made in double precision, a few trials at a time.

    Parameters
    ----------
    betas : array of shape (T, V), float32
        Percent signal change, one row per trial.

    Raises
    ------
    ValueError
        If ``betas`` is not two-dimensional or has no vertex.
    NotEnoughDataError
        If there are fewer than two trials: one has no spread.
    """
    if betas.ndim != 2 or betas.shape[1] == 0:
        raise ValueError(f"A session's betas have shape (trials, vertices), not {betas.shape}.")
    n_trials, n_vertices = betas.shape
    if n_trials < 2:
        raise NotEnoughDataError(
            f"A session of {n_trials} trial has no standard deviation.",
            next_step="z-score over at least two trials.",
        )
    n_finite = np.zeros(n_vertices, np.int64)
    total = np.zeros(n_vertices)
    for block, finite in _blocks(betas):
        n_finite += np.add.reduce(finite, axis=0, dtype=np.int64)
        np.copyto(block, 0.0, where=~finite)
        total += np.add.reduce(block, axis=0)
    # 0 / 0 where nothing, or for the spread only one trial, is finite: NaN is the honest answer.
    with np.errstate(invalid="ignore"):
        mean = total / n_finite
    squares = np.zeros(n_vertices)
    for block, finite in _blocks(betas):
        np.subtract(block, mean, out=block, where=finite)
        np.copyto(block, 0.0, where=~finite)
        squares += np.einsum("tv,tv->v", block, block)
    with np.errstate(invalid="ignore"):
        std = np.sqrt(squares / np.where(n_finite > 1, n_finite - 1, 0)).astype(np.float32)
    # Equal values give exactly zero: double precision holds the sum of millions of float32s.
    valid = std > 0
    return SessionStatistics(
        mean=mean.astype(np.float32),
        std=std,
        valid=valid,
        n_trials=n_trials,
        n_nan=int(np.count_nonzero(n_finite == 0)),
        n_partly_nan=int(np.count_nonzero((n_finite > 0) & (n_finite < n_trials))),
        n_constant=int(np.count_nonzero((n_finite > 0) & ~valid)),
        n_missing=int(n_trials * n_vertices - n_finite.sum()),
    )


def _blocks(
    betas: NDArray[np.float32],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Yield a few trials at a time, in double precision, and which values are finite."""
    for start in range(0, len(betas), _BLOCK_TRIALS):
        block = betas[start : start + _BLOCK_TRIALS].astype(np.float64)
        yield block, np.isfinite(block)
