"""One session's surface betas as a Zarr group, and back.

The group is Zarr v3 and holds::

    betas  (trial, vertex) float32   percent signal change as NSD published it, NaN kept
    mean   (vertex,)       float32   over the vertex's finite trials
    std    (vertex,)       float32   of a sample (ddof=1), over the vertex's finite trials
    valid  (vertex,)       bool      whether the vertex has a z-score
    roi    (vertex,)       bool      whether the vertex is in the region asked for, if one was

Chunks are plain: betas are noise to a compressor, and Zarr's checksum in every chunk (``crc32c``)
made reading half as long again; the artifact's manifest holds one of every file instead, which the
store compares while it reads.
Z-scores are computed while reading, a few trials at a time: a training set of many sessions is
filled session by session, without a second copy.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.errors import ArtifactError
from nsd_pipeline.surface.chunks import destination, read_rows
from nsd_pipeline.surface.statistics import SessionStatistics, summarise

if TYPE_CHECKING:
    import zarr

__all__ = ["SessionBetas", "SessionStatistics", "read_betas", "summarise", "write_session"]

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


def read_betas(
    group: "zarr.Group",
    *,
    trials: NDArray[np.int64] | None = None,
    zscore: bool = True,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Read one session's betas, ready for a model: z-scored, and finite everywhere.

    Parameters
    ----------
    group
        A group that `write_session` made.
    trials
        Which trials to read, ascending; all of them if None.
    zscore
        Z-score each vertex over all of the session's trials, whichever are read. Otherwise percent
        signal change.
    out : array of shape (T, V), float32
        Where to read to, for instance a slice of an array for many sessions. Beyond it, a few
        trials are held in memory; of chunks that are no local files, four at most.

    Returns
    -------
    array of shape (T, V), float32
        ``out`` if given. Zero (the mean, for z-scores) where a value is not finite and throughout
        vertices that are not valid.

    Raises
    ------
    ArtifactError
        If the group lacks an array or a chunk, or its arrays do not fit each other.
    ValueError
        If ``out`` has another shape or dtype.
    """
    return SessionBetas(group, zscore=zscore).read(trials, out=out)


class SessionBetas:
    """One session's betas, opened once and read part by part.

    Parameters
    ----------
    group, zscore
        As for `read_betas`.
    vertices
        Which vertices to read, such as those of `read_roi_vertices`; all of them if None.

    Raises
    ------
    ArtifactError
        If the group lacks an array or a chunk, or its arrays do not fit each other.
    """

    def __init__(
        self,
        group: "zarr.Group",
        *,
        vertices: NDArray[np.int64] | None = None,
        zscore: bool = True,
    ) -> None:
        self._group, self._vertices, self._zscore = group, vertices, zscore
        self._betas, mean, std, valid = _arrays(group)
        if vertices is not None:
            mean, std, valid = mean[vertices], std[vertices], valid[vertices]
        self._mean = mean
        self._scale = np.divide(1, std, out=np.zeros_like(std), where=valid)
        self._invalid = np.flatnonzero(~valid)
        # Outside invalid vertices, that is.
        self._some_missing = bool(group.attrs.get("n_partly_nan", True))

    def read(
        self,
        trials: NDArray[np.int64] | None = None,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Read some trials, or all of them: see `read_betas`."""
        wanted = np.arange(self._betas.shape[0]) if trials is None else trials
        result = destination(out, (len(wanted), len(self._mean)), "trials")

        def take(place: slice, betas: NDArray[np.float32]) -> None:
            chosen = betas if self._vertices is None else betas[:, self._vertices]
            self._standardise(chosen, result[place])

        read_rows(self._betas, wanted, take, self._damaged_chunk)
        return result

    def _standardise(self, betas: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        if self._zscore:
            np.subtract(betas, self._mean, out=out)
            out *= self._scale
        else:
            out[...] = betas
        out[:, self._invalid] = 0.0
        if self._some_missing:
            out[~np.isfinite(out)] = 0.0

    def _damaged_chunk(self, trial: int, error: Exception) -> ArtifactError:
        return _damaged(self._group, f"have a damaged chunk at trial {trial} ({error})")


def read_roi_vertices(group: "zarr.Group") -> NDArray[np.int64]:
    """Vertices of the region that a session was written with.

    Raises
    ------
    ArtifactError
        If it was written without one.
    """
    if "roi" not in group:
        raise ArtifactError(
            f"The surface betas at {group.store_path} were written without a region of interest.",
            next_step="materialize fsaverage5_betas with `roi` set, or train without it.",
        )
    return np.flatnonzero(group["roi"][...])


def _arrays(
    group: "zarr.Group",
) -> tuple[Any, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """``betas`` as a Zarr array; ``mean``, ``std`` and ``valid`` in memory.

    Zarr reads a chunk that is not there as its fill value, NaN, which would become plausible
    zeros: so missing chunks are looked for.
    """
    lacking = [name for name in ("betas", "mean", "std", "valid") if name not in group]
    if lacking:
        raise _damaged(group, f"lack the array {lacking[0]!r}")
    betas = group["betas"]
    mean, std, valid = (group[name][...] for name in ("mean", "std", "valid"))
    if betas.nchunks_initialized != betas.nchunks:
        raise _damaged(group, f"have {betas.nchunks_initialized} of {betas.nchunks} chunks")
    if not betas.shape[1] == len(mean) == len(std) == len(valid):
        raise _damaged(group, "have arrays of different numbers of vertices")
    return betas, mean, std, valid


def _damaged(group: "zarr.Group", problem: str) -> ArtifactError:
    return ArtifactError(
        f"The surface betas at {group.store_path} {problem}.",
        next_step="materialize fsaverage5_betas for this session again.",
    )
