"""One session's surface betas as a Zarr group; `session_rows` reads it.

The group is Zarr v3 and holds::

    betas  (trial, vertex) float32   percent signal change as NSD published it, NaN kept
    mean   (vertex,)       float32   over the vertex's finite trials
    std    (vertex,)       float32   of a sample (ddof=1), over the vertex's finite trials
    valid  (vertex,)       bool      whether the vertex has a z-score
    roi    (vertex,)       bool      whether the vertex is in the region asked for, if one was

Chunks are plain: betas are noise to a compressor, and Zarr's checksum in every chunk (``crc32c``)
made reading half as long again; the artifact's manifest holds one of every file instead, which the
store compares while it reads.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.surface.statistics import SessionStatistics

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
