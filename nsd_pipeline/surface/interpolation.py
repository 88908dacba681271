"""Values of a volume between its voxels, by the rules of NSD's authors."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.surface.sampling import Method, is_inside, neighbours
from nsd_pipeline.surface.voxels import compact, gather

# Points and volumes that are worked on at once: 60 MB for cubic interpolation.
_BLOCK_POINTS: Final = 2**14
_BLOCK_VOLUMES: Final = 128


def interpolate(
    volume: NDArray[Any],
    coordinates: NDArray[np.floating[Any]],
    method: Method = "cubic",
) -> NDArray[np.floating[Any]]:
    """Interpolate volumes at points.

    Cubic is local cubic convolution (Keys's kernel with a = -0.5, Catmull-Rom) as in the
    ``ba_interp3`` with which NSD's authors made their surface data. It is not the B-spline of
    scipy's ``map_coordinates``, which the Python package ``nsdcode`` calls cubic.

    Parameters
    ----------
    volume : array of shape (X, Y, Z) or (X, Y, Z, T)
        Any unit. NaN marks voxels without a value.
    coordinates : array of shape (V, 3)
        1-based voxel coordinates, decimal: (1, 1, 1) is the centre of ``volume[0, 0, 0]``. NSD's
        transforms mark "no value" by NaN or 9999.
    method
        ``cubic`` (4 x 4 x 4 voxels), ``linear`` (2 x 2 x 2) or ``nearest``.

    Returns
    -------
    array of shape (V,) or (V, T)
        Computed in double precision; float64 if ``volume`` is, else float32. NaN where a
        coordinate is below 1, above the number of voxels or NaN, and where any of the voxels that
        the method takes is NaN, whatever its weight. Neighbours beyond the volume take the value
        of the voxel at its border.

    Raises
    ------
    ValueError
        If a shape or the method is wrong.
    """
    from scipy.sparse import csr_array

    if volume.ndim not in (3, 4):
        raise ValueError(f"A volume has shape (X, Y, Z) or (X, Y, Z, T), not {volume.shape}.")
    if coordinates.ndim != 2 or coordinates.shape[1] != 3:
        raise ValueError(f"Coordinates have shape (points, 3), not {coordinates.shape}.")
    volumes = volume if volume.ndim == 4 else volume[..., None]
    shape, n_volumes = volumes.shape[:3], volumes.shape[3]
    dtype = np.float64 if volume.dtype == np.float64 else np.float32
    values = np.full((len(coordinates), n_volumes), np.nan, dtype)
    inside = np.flatnonzero(is_inside(coordinates, shape))
    # An unknown method is an error even if no point is inside.
    for start in range(0, max(1, len(inside)), _BLOCK_POINTS):
        points = inside[start : start + _BLOCK_POINTS]
        voxels, weights = neighbours(coordinates[points], shape, method)
        n_points, n_neighbours = voxels.shape
        touched, columns = compact(voxels, int(np.prod(shape)))
        # Built row by row, so weights of zero stay and a NaN below them gets through.
        operator = csr_array(
            (weights.ravel(), columns.ravel(), np.arange(n_points + 1) * n_neighbours),
            shape=(n_points, len(touched)),
        )
        for first in range(0, n_volumes, _BLOCK_VOLUMES):
            some = slice(first, first + _BLOCK_VOLUMES)
            values[points, some] = operator @ gather(volumes[..., some], touched, np.float64)
    return values if volume.ndim == 4 else values[:, 0]
