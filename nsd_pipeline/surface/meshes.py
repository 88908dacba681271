"""The fsaverage meshes that the pipeline knows, how one contains the other, and regions on them.

FreeSurfer builds them by subdividing an icosahedron, which appends vertices: a finer mesh starts
with all vertices of the coarser one. This holds for fsaverage5, 6 and 7 as FreeSurfer orders
them; fsaverage3 and 4 have an order of their own, so they are not offered.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, NotEnoughDataError, parsing
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, FSAVERAGE_VERTICES, HEMISPHERES, Hemisphere
from nsd_pipeline.nsd.mgh import read_any

Mesh = Literal["fsaverage5", "fsaverage6", "fsaverage7"]

MESH_VERTICES: Final = MappingProxyType(
    {
        "fsaverage5": FSAVERAGE5_VERTICES,
        "fsaverage6": 40_962,
        "fsaverage7": FSAVERAGE_VERTICES,
    }
)
"""Vertices of one hemisphere, by mesh. ``fsaverage7`` is what FreeSurfer calls ``fsaverage``."""


def mesh_vertices(mesh: str) -> int:
    """Vertices of one hemisphere of a mesh; a ValueError if it is none of `MESH_VERTICES`."""
    if mesh not in MESH_VERTICES:
        raise ValueError(f"Unknown mesh {mesh!r}: choose one of {', '.join(MESH_VERTICES)}.")
    return MESH_VERTICES[mesh]


def downsample(data: NDArray[Any], mesh: Mesh = "fsaverage5") -> NDArray[Any]:
    """Take the vertices of a coarser fsaverage mesh out of data on a finer one.

    This is decimation, not averaging: no smoothing is applied, and NaN stays where it was. It is
    what neuralset's ``SurfaceProjector`` does to data that are on a surface already.

    Parameters
    ----------
    data : array of shape (2 * V, ...)
        All vertices of the left hemisphere, then all of the right, on fsaverage5, 6 or 7
        (V = 10,242, 40,962 or 163,842); time or trials follow.
    mesh
        The mesh to go to.

    Returns
    -------
    array of shape (2 * n, ...)
        The first n vertices of either hemisphere, left first, in the dtype of ``data``; n = 10,242
        for fsaverage5. Always a copy.

    Raises
    ------
    ValueError
        If ``data`` is not on an fsaverage mesh, or on a coarser one than ``mesh``.
    """
    n_target = mesh_vertices(mesh)
    n_source, odd = divmod(len(data), 2)
    if odd or n_source not in MESH_VERTICES.values():
        raise ValueError(
            f"Data of {len(data):,} vertices are not on two hemispheres of an fsaverage mesh: "
            + ", ".join(f"{name} has 2 x {n:,}" for name, n in MESH_VERTICES.items())
            + "."
        )
    if n_source < n_target:
        raise ValueError(f"{mesh} is finer than the data, which have 2 x {n_source:,} vertices.")
    return np.concatenate([data[:n_target], data[n_source : n_source + n_target]])


def read_labels(paths: Mapping[Hemisphere, Path]) -> NDArray[np.float64]:
    """Label (20484,) of every fsaverage5 vertex; files and errors are those of `read_roi`."""
    halves = [_values(paths[side])[:FSAVERAGE5_VERTICES] for side in HEMISPHERES]
    return np.concatenate(halves).astype(np.float64)


def read_roi(
    paths: Mapping[Hemisphere, Path], *, above: float = 0.0, up_to: float | None = None
) -> NDArray[np.bool_]:
    """Vertices whose value in a label file is within bounds.

    Parameters
    ----------
    paths
        A file for each hemisphere: ``.mgz`` or ``.mgh`` with a value for each vertex of fsaverage,
        fsaverage6 or fsaverage5, or a FreeSurfer ``.label``, whose vertices have the value 1.
    above, up_to
        A vertex is in the region if above < value <= up_to; without an upper bound if that is
        None. NSD's ``nsdgeneral`` is 1 inside; ``streams`` counts streams from 1, and 0 is none.

    Returns
    -------
    array of shape (20484,), bool
        Left hemisphere first. The region may lie in one hemisphere only.

    Raises
    ------
    InvalidFileError
        If a file is unreadable or not on fsaverage.
    NotEnoughDataError
        If no vertex is within the bounds.
    """
    values = read_labels(paths)
    roi: NDArray[np.bool_] = (values > above) & (values <= (np.inf if up_to is None else up_to))
    if not roi.any():
        bounds = f"above {above}" + ("" if up_to is None else f" and up to {up_to}")
        raise NotEnoughDataError(
            f"No fsaverage5 vertex has a value {bounds} in"
            f" {' or '.join(str(path) for path in paths.values())}.",
            next_step="change region_above or region_up_to, or choose another region.",
        )
    return roi


def _values(path: Path) -> NDArray[Any]:
    """A value for each vertex of an fsaverage mesh."""
    from nibabel.freesurfer import read_label

    with parsing(
        lambda problem: InvalidFileError(
            f"{path} is not a readable label file: {problem}.",
            next_step="name an .mgz, .mgh or .label file on fsaverage.",
        )
    ):
        if path.suffix == ".label":
            values = np.zeros(MESH_VERTICES["fsaverage7"])
            values[read_label(path)] = 1
        else:
            values = read_any(path).ravel()
    if len(values) not in MESH_VERTICES.values():
        raise InvalidFileError(
            f"{path} has {len(values):,} values, which is no fsaverage mesh.",
            next_step="name a file on fsaverage, not on a subject's own surface or in a volume.",
        )
    return values
