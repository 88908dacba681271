"""From a volume in MNI space to fsaverage, as nilearn does it, as one sparse product.

nilearn's ``vol_to_surf`` interpolates every volume anew at ten points between the white and the
pial surface of each vertex and averages them. For a given grid that is a fixed linear map, so it
is built once here, as a sparse matrix, and applied to all volumes together.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.surface.interpolation import (
    combine_axes,
    linear_weights,
    list_voxels,
    take_voxels,
)
from nsd_pipeline.surface.meshes import Mesh, mesh_vertices
from nsd_pipeline.surface.volume_operator import FsaverageOperator

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_N_DEPTHS: Final = 10
"""Samples between pial and white surface, both included: nilearn's default."""

# Volumes that are projected at once: what they need of a 2 mm grid then takes about 30 MB.
_BLOCK_VOLUMES: Final = 128


def project_volume(
    volume: NDArray[Any], affine: ArrayLike, mesh: Mesh = "fsaverage5"
) -> NDArray[np.float32]:
    """Project volumes in MNI space onto the fsaverage surface.

    Each vertex gets the mean of ten trilinear samples, evenly spaced from the pial to the white
    surface. This equals the reference's ``SurfaceProjector``, which calls nilearn's
    ``vol_to_surf(image, surf_mesh=pial, inner_mesh=white)`` for each hemisphere, within single
    precision. The first call for a grid takes a moment; later ones reuse what it prepared.

    Parameters
    ----------
    volume : array of shape (X, Y, Z, T) or (X, Y, Z)
        Any unit.
    affine : array of shape (4, 4)
        From 0-based voxel indices to mm in MNI space, as ``nibabel`` images have it.
    mesh
        Where to project to. nilearn brings the surfaces of fsaverage5 along and downloads those
        of the finer meshes when they are first asked for.

    Returns
    -------
    array of shape (2 * V, T) or (2 * V,), float32
        Vertices of the left hemisphere, then of the right (20,484 on fsaverage5). As in nilearn:
        samples outside the grid, or with a NaN among their eight voxels, are left out of the
        mean, and a vertex without any sample is NaN.

    Raises
    ------
    ValueError
        If a shape, the affine or the mesh is wrong.
    """
    if volume.ndim not in (3, 4) or min(volume.shape[:3]) < 2:
        raise ValueError(
            "A volume has shape (X, Y, Z) or (X, Y, Z, T) with at least two voxels along each "
            f"axis, not {volume.shape}."
        )
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise ValueError("An affine is an invertible matrix of shape (4, 4).")
    mesh_vertices(mesh)
    volumes = volume if volume.ndim == 4 else volume[..., None]
    n_x, n_y, n_z = volumes.shape[:3]
    projector = _projector(mesh, matrix.tobytes(), (n_x, n_y, n_z))
    surface = projector.apply(volumes)
    return surface if volume.ndim == 4 else surface[:, 0]


def grid_operator(
    affine: ArrayLike,
    shape: tuple[int, int, int],
    valid: NDArray[np.bool_],
) -> FsaverageOperator:
    """What `project_volume` does with volumes of one grid, as an operator.

    Voxels (X, Y, Z) that are not `valid` are treated as `project_volume` treats NaN: samples that
    look at them are left out of a vertex's mean.
    """
    projector = _projector("fsaverage5", np.asarray(affine, np.float64).tobytes(), shape)
    return FsaverageOperator(projector.mean_where(valid), projector.touched, (shape,))


@dataclass(frozen=True, eq=False)
class _Projector:
    """The linear map from the voxels of one grid to a surface.

    `touched` (n,) are the voxels that matter, as indices in C order. `mean` (2 * V, n) leads from
    these to vertices, and `samples` (m, n) to samples inside the grid, in order of their vertices,
    which `sample_vertex` (m,) names.
    """

    touched: NDArray[np.int64]
    mean: "csr_array"
    samples: "csr_array"
    sample_vertex: NDArray[np.intp]

    def apply(self, volumes: NDArray[Any]) -> NDArray[np.float32]:
        """Project volumes of shape (X, Y, Z, T): (2 * V, T)."""
        n_vertices, n_volumes = self.mean.shape[0], volumes.shape[3]
        empty = np.bincount(self.sample_vertex, minlength=n_vertices) == 0
        surface = np.empty((n_vertices, n_volumes), np.float32)
        for first in range(0, n_volumes, _BLOCK_VOLUMES):
            some = slice(first, first + _BLOCK_VOLUMES)
            values = take_voxels(volumes[..., some], self.touched, np.float32)
            block = self.mean @ values
            block[empty] = np.nan
            affected = ~np.isfinite(block).all(axis=1) & ~empty
            if affected.any():
                block[affected] = self._mean_of_finite(values, affected)
            surface[:, some] = block
        return surface

    def mean_where(self, valid: NDArray[np.bool_]) -> "csr_array":
        """The map to vertices when only some voxels of the grid (X, Y, Z) hold data."""
        from scipy.sparse import csr_array

        missing = (~valid.reshape(-1)[self.touched]).astype(np.float32)
        pattern = csr_array(
            (np.ones_like(self.samples.data), self.samples.indices, self.samples.indptr),
            shape=self.samples.shape,
        )
        kept = np.flatnonzero(pattern @ missing == 0)
        vertex = self.sample_vertex[kept]
        share = 1 / np.bincount(vertex, minlength=self.mean.shape[0])[vertex]
        average = csr_array(
            (share.astype(np.float32), (vertex, np.arange(len(kept)))),
            shape=(self.mean.shape[0], len(kept)),
        )
        return csr_array(average @ self.samples[kept])

    def _mean_of_finite(
        self, values: NDArray[np.float32], vertices: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Mean over those samples that are not NaN, at some vertices."""
        rows = np.flatnonzero(vertices[self.sample_vertex])
        samples = self.samples[rows] @ values
        missing = np.isnan(samples)
        samples[missing] = 0.0
        first_of_vertex = np.flatnonzero(np.diff(self.sample_vertex[rows], prepend=-1))
        total = np.add.reduceat(samples, first_of_vertex, axis=0)
        count = np.add.reduceat(~missing, first_of_vertex, axis=0, dtype=np.float32)
        with np.errstate(invalid="ignore"):  # 0 / 0: no sample is left, so NaN
            return np.divide(total, count, dtype=np.float32)


@lru_cache(maxsize=4)
def _projector(mesh: Mesh, affine: bytes, shape: tuple[int, int, int]) -> _Projector:
    """Prepare the projection of one grid (13 MB for a 2 mm grid and fsaverage5)."""
    from scipy.sparse import coo_array, csr_array

    to_voxels = np.linalg.inv(np.frombuffer(affine).reshape(4, 4))
    points = _points_between_surfaces(mesh) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    n_vertices = len(points)
    # nilearn's idea of inside ends one voxel after the last centre; up to there, the last two
    # voxels are extrapolated.
    inside = ((points >= 0) & (points < np.asarray(shape))).all(axis=2)
    sample_vertex = np.nonzero(inside)[0]
    kept = points[inside]
    base = np.clip(np.floor(kept), 0, np.asarray(shape) - 2)
    voxels, weights = combine_axes(
        base.astype(np.int64)[:, :, None] + np.array([0, 1]), linear_weights(kept - base), shape
    )
    touched, columns = list_voxels(voxels, int(np.prod(shape)))
    n_samples, n_neighbours = voxels.shape
    samples = csr_array(
        (
            weights.astype(np.float32).ravel(),
            columns.ravel(),
            np.arange(n_samples + 1, dtype=np.int32) * n_neighbours,
        ),
        shape=(n_samples, len(touched)),
    )
    share = 1 / np.bincount(sample_vertex, minlength=n_vertices)[sample_vertex]
    # Entries for the same vertex and voxel are added up; those that add up to zero stay, so that
    # a NaN in any voxel that a vertex looks at shows in the product.
    mean = coo_array(
        (
            (weights * share[:, None]).astype(np.float32).ravel(),
            (np.repeat(sample_vertex, n_neighbours).astype(np.int32), columns.ravel()),
        ),
        shape=(n_vertices, len(touched)),
    ).tocsr()
    return _Projector(touched, mean, samples, sample_vertex)


@lru_cache(maxsize=1)
def _points_between_surfaces(mesh: Mesh) -> NDArray[np.float64]:
    """Where vertices are sampled, in mm: (2 * V, 10, 3), from the pial to the white surface.

    The same for every grid, and half the time of preparing one.
    """
    from nilearn.datasets import load_fsaverage

    surfaces = load_fsaverage(mesh)
    pial, white = (
        np.concatenate([surfaces[name].parts[side].coordinates for side in ("left", "right")])
        for name in ("pial", "white_matter")
    )
    depth = np.linspace(0, 1, _N_DEPTHS)[:, None]
    points: NDArray[np.float64] = pial[:, None] + depth * (white - pial)[:, None]
    return points
