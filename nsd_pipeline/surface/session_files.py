"""One session's surface betas or time series as a Zarr group; `session_rows` reads it.

The group is Zarr v3. Of betas it holds::

    betas  (trial, vertex) float32   percent signal change as NSD published it, NaN kept
    mean   (vertex,)       float32   over the vertex's finite trials
    std    (vertex,)       float32   of a sample (ddof=1), over the vertex's finite trials
    valid  (vertex,)       bool      whether the vertex has a z-score
    roi    (vertex,)       bool      whether the vertex is in the region asked for, if one was

Of time series it holds::

    series  (sample, vertex) float32   the runs one after the other, each detrended and z-scored;
                                       NaN kept where a run has no data

with ``tr``, in seconds, and ``runs`` (number, first sample and number of samples of each) among its
attributes. Time runs along the first axis, so that a window is one contiguous piece.

Chunks are plain: betas are noise to a compressor, and Zarr's checksum in every chunk (``crc32c``)
made reading half as long again; the artifact's manifest holds one of every file instead, which the
store compares while it reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import ArtifactError, NotEnoughDataError

if TYPE_CHECKING:
    import zarr

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


CHUNK_TRIALS: Final = 75
"""Trials in one chunk: 6.1 MB on fsaverage5, a tenth of a session. Smaller chunks read slower,
larger ones no faster."""

ZSCORE: Final = "(betas - mean) / std; 0 where a value is not finite or its vertex is not valid"

_DESCRIPTION: Final = (
    "Single-trial betas of one session of the Natural Scenes Dataset on the fsaverage5 surface. "
    "Subject to NSD's terms of use: research and education only, no redistribution."
)


def write_session(
    folder: Path,
    betas: NDArray[np.float32],
    statistics: SessionStatistics,
    attributes: Mapping[str, Any],
    *,
    roi: NDArray[np.bool_] | None = None,
) -> None:
    """Write one session's betas as a Zarr v3 group.

    Parameters
    ----------
    folder
        Becomes the root of the group. The caller publishes it as a whole.
    betas : array of shape (T, V), float32
        Percent signal change, one row per trial in chronological order; vertices of the left
        hemisphere, then of the right. NaN is kept.
    statistics
        ``summarise(betas)``.
    attributes
        What only the caller knows: subject, session, source space, ETags of the source files, ...
        They are added to the group's own and must be JSON.
    roi : array of shape (V,), bool, optional
        A region of interest. All betas are written nevertheless.

    Raises
    ------
    ValueError
        If ``statistics`` are those of other betas, by their shape.
    """
    import zarr

    shape = (statistics.n_trials, statistics.n_vertices)
    if betas.shape != shape:
        raise ValueError(
            f"The betas have shape {betas.shape}, but their statistics are of {shape}."
        )
    group = zarr.create_group(
        folder,
        zarr_format=3,
        attributes={
            "description": _DESCRIPTION,
            "mesh": "fsaverage5",
            "hemispheres": ["lh", "rh"],
            "n_vertices_per_hemisphere": statistics.n_vertices // 2,
            "units": "percent signal change",
            "zscore": ZSCORE,
            "zscore_scope": "per vertex, over the finite trials of this session",
            "std_ddof": 1,
            **statistics.counts(),
            "software": {name: version(name) for name in ("nsd_pipeline", "numpy", "zarr")},
            **attributes,
        },
    )
    units = {"units": "percent signal change"}
    arrays: dict[str, tuple[NDArray[Any], tuple[str, ...], dict[str, str]]] = {
        "betas": (betas, ("trial", "vertex"), units),
        "mean": (statistics.mean, ("vertex",), units),
        "std": (statistics.std, ("vertex",), units),
        "valid": (statistics.valid, ("vertex",), {"meaning": "the vertex has a z-score"}),
    }
    if roi is not None:
        arrays["roi"] = (roi, ("vertex",), {"meaning": "the vertex is in the region of interest"})
    for name, (data, dimensions, array_attributes) in arrays.items():
        chunks = (min(CHUNK_TRIALS, len(data)), *data.shape[1:]) if data.ndim > 1 else data.shape
        array = group.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=chunks,
            compressors=None,
            fill_value=False if data.dtype == np.bool_ else float("nan"),
            dimension_names=dimensions,
            attributes=array_attributes,
            config={"write_empty_chunks": True},
        )
        array[...] = data


CHUNK_SAMPLES: Final = 75
"""Samples in one chunk: 6.1 MB on fsaverage5, as for betas."""

_SERIES_DESCRIPTION: Final = (
    "Time series of one session of the Natural Scenes Dataset on the fsaverage5 surface. Subject "
    "to NSD's terms of use: research and education only, no redistribution."
)


@dataclass(frozen=True)
class SeriesLayout:
    """How a session's runs lie in its time series.

    Attributes
    ----------
    tr
        Seconds from one sample to the next.
    runs
        For each run (1-based), its first sample (0-based) and its number of samples.
    """

    tr: float
    runs: Mapping[int, tuple[int, int]]

    @classmethod
    def of_runs(cls, tr: float, n_samples: Mapping[int, int]) -> "SeriesLayout":
        """Layout of runs that follow each other without gaps, by the samples of each."""
        ends = np.cumsum([0, *n_samples.values()]).tolist()
        return cls(tr, {run: (ends[i], n) for i, (run, n) in enumerate(n_samples.items())})

    @property
    def n_samples(self) -> int:
        """Samples of all runs."""
        return sum(n for _, n in self.runs.values())


def write_series(
    folder: Path,
    series: NDArray[np.float32],
    layout: SeriesLayout,
    attributes: Mapping[str, Any],
) -> None:
    """Write one session's time series as a Zarr v3 group.

    Parameters
    ----------
    folder
        Becomes the root of the group. The caller publishes it as a whole.
    series : array of shape (R, V), float32
        Cleaned time series of all runs; vertices of the left hemisphere, then of the right.
    layout
        Where the runs lie in it.
    attributes
        What only the caller knows: subject, session, source space, ... They are added to the
        group's own and must be JSON.

    Raises
    ------
    ValueError
        If the layout is not that of this series.
    """
    import zarr

    if len(series) != layout.n_samples:
        raise ValueError(
            f"The layout is of {layout.n_samples} samples, the series has {len(series)}."
        )
    group = zarr.create_group(
        folder,
        zarr_format=3,
        attributes={
            "description": _SERIES_DESCRIPTION,
            "mesh": "fsaverage5",
            "hemispheres": ["lh", "rh"],
            "n_vertices_per_hemisphere": series.shape[1] // 2,
            "units": "standard deviations of the vertex within the run",
            "tr": layout.tr,
            "runs": [
                {"run": run, "first_sample": first, "n_samples": n}
                for run, (first, n) in layout.runs.items()
            ],
            "software": {name: version(name) for name in ("nsd_pipeline", "numpy", "zarr")},
            **attributes,
        },
    )
    array = group.create_array(
        "series",
        shape=series.shape,
        dtype=series.dtype,
        chunks=(min(CHUNK_SAMPLES, len(series)), series.shape[1]),
        compressors=None,
        fill_value=float("nan"),
        dimension_names=("sample", "vertex"),
        config={"write_empty_chunks": True},
    )
    array[...] = series


def series_layout(group: "zarr.Group") -> SeriesLayout:
    """Repetition time and runs of a group that `write_series` made.

    Raises
    ------
    ArtifactError
        If the group does not say.
    """
    try:
        runs = {
            each["run"]: (each["first_sample"], each["n_samples"]) for each in group.attrs["runs"]
        }
        return SeriesLayout(float(group.attrs["tr"]), runs)
    except KeyError as error:
        raise ArtifactError(
            f"The surface time series at {group.store_path} lack the attribute {error}.",
            next_step="materialize fsaverage5_series for this session again.",
        ) from error
