"""From a fine fsaverage mesh to a coarser one, by taking vertices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.surface.meshes import MESH_VERTICES, Mesh, mesh_vertices


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
