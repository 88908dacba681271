"""One session's surface betas or time series as a Zarr group; `session_rows` reads it.

The group is Zarr v3. Of betas it holds::

    betas  (trial, vertex) float32   percent signal change as NSD published it, NaN kept
    mean   (vertex,)       float32   over the vertex's finite trials
    std    (vertex,)       float32   of a sample (ddof=1), over the vertex's finite trials
    valid  (vertex,)       bool      whether the vertex has a z-score

Of time series it holds::

    series  (sample, vertex) float32   the runs one after the other, each detrended and z-scored;
                                       NaN kept where a run has no data

with ``tr``, in seconds, and ``runs`` (number, first sample and number of samples of each) among its
attributes. Time runs along the first axis, so that a window is one contiguous piece.
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

CHUNK_ROWS: Final = 75
"""Trials or samples in one chunk: 6.1 MB on fsaverage5. Smaller chunks read slower, larger ones no
faster."""

# Trials that are turned into double precision at once: 2.6 MB on fsaverage5.
_BLOCK_TRIALS: Final = 16


@dataclass(frozen=True)
class SessionStatistics:
    """Mean and standard deviation of each vertex (V,) over a session's trials.

    Both are in percent signal change, over the vertex's finite trials (`n_finite` of `n_trials`);
    NaN where there are too few (none; for `std` fewer than two). `std` is that of a sample
    (``ddof=1``), as NSD's authors z-score for the noise ceiling and as nilearn's ``zscore_sample``
    does. A vertex that is `valid` has a z-score: at least two finite trials that are not all equal.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    valid: NDArray[np.bool_]
    n_finite: NDArray[np.int64]
    n_trials: int

    def counts(self) -> dict[str, int | float]:
        """How many trials, vertices and values there are, and how many of them can be used.

        ``n_nan`` vertices have no finite trial, ``n_partly_nan`` lack some trials but not all, the
        finite trials of ``n_constant`` are all equal, and ``n_missing`` single values (a vertex in
        a trial) are not finite. Shares are of all vertices, from 0 to 1.
        """
        n_vertices, n_valid = len(self.valid), np.count_nonzero(self.valid)
        is_nan, is_whole = self.n_finite == 0, self.n_finite == self.n_trials
        return {
            "n_trials": self.n_trials,
            "n_vertices": n_vertices,
            "n_valid": int(n_valid),
            "n_nan": int(np.count_nonzero(is_nan)),
            "n_partly_nan": int(np.count_nonzero(~is_nan & ~is_whole)),
            "n_constant": int(np.count_nonzero(~is_nan & ~self.valid)),
            "n_missing": int(self.n_trials * n_vertices - self.n_finite.sum()),
            "nan_share": float(np.count_nonzero(is_nan) / n_vertices),
            "valid_share": float(n_valid / n_vertices),
        }


def summarise(betas: NDArray[np.float32]) -> SessionStatistics:
    """Mean, standard deviation and finite trials of each vertex of one session's betas (T, V).

    Values, in percent signal change, that are not finite (NaN marks what NSD's authors could not
    sample) are left out; they never reach another trial or vertex. Sums are made in double
    precision, a few trials at a time. A ValueError if there is no vertex, or another shape; a
    NotEnoughDataError if there are fewer than two trials: one has no spread.
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
    return SessionStatistics(mean.astype(np.float32), std, std > 0, n_finite, n_trials)


def _blocks(
    betas: NDArray[np.float32],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Yield a few trials at a time, in double precision, and which values are finite."""
    for start in range(0, len(betas), _BLOCK_TRIALS):
        block = betas[start : start + _BLOCK_TRIALS].astype(np.float64)
        yield block, np.isfinite(block)


def write_session(
    folder: Path,
    betas: NDArray[np.float32],
    statistics: SessionStatistics,
    attributes: Mapping[str, Any],
) -> None:
    """Write one session's betas (T, V) and their ``summarise(betas)`` as a Zarr v3 group.

    Betas are percent signal change, one row per trial in chronological order; vertices of the left
    hemisphere, then of the right; NaN is kept. `folder` becomes the root of the group. Attributes
    are what only the caller knows: subject, session, source space, ETags of the source files, ...
    They are added to the group's own and must be JSON. A ValueError if the statistics are those of
    other betas, by their shape.
    """
    shape = (statistics.n_trials, len(statistics.valid))
    if betas.shape != shape:
        raise ValueError(
            f"The betas have shape {betas.shape}, but their statistics are of {shape}."
        )
    unit = {"units": "percent signal change"}
    arrays: dict[str, tuple[NDArray[Any], dict[str, str]]] = {
        "betas": (betas, unit),
        "mean": (statistics.mean, unit),
        "std": (statistics.std, unit),
        "valid": (statistics.valid, {"meaning": "the vertex has a z-score"}),
    }
    own = {
        **unit,
        "zscore": "(betas - mean) / std; 0 where a value is not finite or its vertex is not valid",
        "zscore_scope": "per vertex, over the finite trials of this session",
        "std_ddof": 1,
        **statistics.counts(),
    }
    _write_group(folder, "Single-trial betas", "trial", arrays, own, attributes)


@dataclass(frozen=True)
class SeriesLayout:
    """How a session's runs lie in its time series.

    `tr` is in seconds. `runs` gives each run's (1-based) first sample (0-based) and number of
    samples.
    """

    tr: float
    runs: Mapping[int, tuple[int, int]]

    @classmethod
    def of_runs(cls, tr: float, n_samples: Mapping[int, int]) -> "SeriesLayout":
        """Layout of runs that follow each other without gaps, by the samples of each."""
        ends = np.cumsum([0, *n_samples.values()]).tolist()
        return cls(tr, {run: (ends[i], n) for i, (run, n) in enumerate(n_samples.items())})


def write_series(
    folder: Path,
    series: NDArray[np.float32],
    layout: SeriesLayout,
    attributes: Mapping[str, Any],
) -> None:
    """Write one session's cleaned time series (R, V) of all runs as `write_session` writes betas.

    The layout says where the runs lie in it; a ValueError if it is that of another series.
    """
    n_samples = sum(n for _, n in layout.runs.values())
    if len(series) != n_samples:
        raise ValueError(f"The layout is of {n_samples} samples, the series has {len(series)}.")
    own = {
        "units": "standard deviations of the vertex within the run",
        "tr": layout.tr,
        "runs": [
            {"run": run, "first_sample": first, "n_samples": n}
            for run, (first, n) in layout.runs.items()
        ],
    }
    _write_group(folder, "Time series", "sample", {"series": (series, {})}, own, attributes)


def series_layout(group: "zarr.Group") -> SeriesLayout:
    """Repetition time and runs of a group that `write_series` made.

    An ArtifactError if the group does not say.
    """
    try:
        runs = {
            each["run"]: (each["first_sample"], each["n_samples"]) for each in group.attrs["runs"]
        }
        return SeriesLayout(float(group.attrs["tr"]), runs)
    except KeyError as error:
        raise ArtifactError(
            f"The surface time series at {group.store_path} lack the attribute {error}.",
            next_step="make fsaverage5_series of this session again.",
        ) from error


def _write_group(
    folder: Path,
    content: str,
    row: str,
    arrays: Mapping[str, tuple[NDArray[Any], Mapping[str, str]]],
    own: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> None:
    """Write arrays (row, vertex) or (vertex,) with attributes of each, as a group with its own."""
    import zarr

    n_vertices = next(iter(arrays.values()))[0].shape[1]
    group = zarr.create_group(
        folder,
        zarr_format=3,
        attributes={
            "description": f"{content} of one session of the Natural Scenes Dataset on the"
            " fsaverage5 surface. Subject to NSD's terms of use: research and education only, no"
            " redistribution.",
            "mesh": "fsaverage5",
            "hemispheres": ["lh", "rh"],
            "n_vertices_per_hemisphere": n_vertices // 2,
            **own,
            "software": {name: version(name) for name in ("nsd_pipeline", "numpy", "zarr")},
            **attributes,
        },
    )
    for name, (data, array_attributes) in arrays.items():
        array = group.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=(min(CHUNK_ROWS, len(data)), n_vertices) if data.ndim == 2 else data.shape,
            # fMRI is noise to a compressor. Zarr's own checksum in every chunk (crc32c) made
            # reading half as long again; the artifact's manifest has one of every file instead,
            # which the store compares while it reads.
            compressors=None,
            fill_value=False if data.dtype == np.bool_ else float("nan"),
            dimension_names=(row, "vertex")[-data.ndim :],
            attributes=dict(array_attributes),
            # Zarr leaves out chunks of nothing but NaN otherwise, and a chunk that is not there is
            # taken for damage.
            config={"write_empty_chunks": True},
        )
        array[...] = data
