"""Values of a volume between its voxels, by the rules of NSD's authors.

These are the rules of ``ba_interp3`` and the wrapper around it, with which NSD's authors made
their surface data: coordinates are 1-based, a point is inside from the centre of the first voxel
to the centre of the last, and neighbours beyond the volume are the voxel at its border. A
neighbour of weight zero still counts as needed: if it is NaN, so is the result.
"""

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["cubic", "linear", "nearest"]

METHODS: Final[tuple[Method, ...]] = ("cubic", "linear", "nearest")

_KEYS_A: Final = -0.5
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
        touched, columns = list_voxels(voxels, int(np.prod(shape)))
        # Built row by row, so weights of zero stay and a NaN below them gets through.
        operator = csr_array(
            (weights.ravel(), columns.ravel(), np.arange(n_points + 1) * n_neighbours),
            shape=(n_points, len(touched)),
        )
        for first in range(0, n_volumes, _BLOCK_VOLUMES):
            some = slice(first, first + _BLOCK_VOLUMES)
            values[points, some] = operator @ take_voxels(volumes[..., some], touched, np.float64)
    return values if volume.ndim == 4 else values[:, 0]


def is_inside(coordinates: NDArray[np.floating[Any]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether points (n, 3), in 1-based voxel coordinates, lie in a volume of a shape: (n,).

    NaN, and the 9999 with which NSD marks "no value", are outside.
    """
    inside: NDArray[np.bool_] = np.logical_and.reduce(
        (coordinates >= 1) & (coordinates <= np.asarray(shape)), axis=1
    )
    return inside


def neighbours(
    coordinates: NDArray[np.floating[Any]], shape: tuple[int, ...], method: Method
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels that points inside a volume are interpolated from, and their weights: (n, k) each.

    Points (n, 3) are 1-based voxel coordinates. ``nearest`` takes 1 voxel (halves round up),
    ``linear`` 2 x 2 x 2, and ``cubic`` 4 x 4 x 4 with the kernel of Keys (1981) for a = -0.5, also
    known as Catmull-Rom. Voxels are indices into the volume in C order; at a border, one can occur
    more than once. Weights, float64, sum to 1. A ValueError if the method is unknown.
    """
    points = np.asarray(coordinates, np.float64) - 1
    match method:
        case "nearest":
            base = np.floor(points + 0.5)
            offsets = np.array([0])
            weights = np.ones((*points.shape, 1))
        case "linear":
            base = np.floor(points)
            offsets = np.array([0, 1])
            weights = linear_weights(points - base)
        case "cubic":
            base = np.floor(points)
            offsets = np.array([-1, 0, 1, 2])
            weights = _cubic_weights(points - base)
        case _:
            raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(METHODS)}.")
    positions = base.astype(np.int64)[:, :, None] + offsets
    positions = np.clip(positions, 0, np.asarray(shape)[:, None] - 1)
    return combine_axes(positions, weights, shape)


def linear_weights(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of a voxel and the next one, for a point that far between them; (..., 2)."""
    return np.stack([1 - fraction, fraction], axis=-1)


def combine_axes(
    positions: NDArray[np.int64], weights: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Every combination of 0-based positions along three axes and of their weights, (n, 3, k) each.

    As indices into a volume of that shape in C order and products of weights: (n, k ** 3) each.
    """
    n_points, _, n_along = positions.shape
    _, n_y, n_z = shape
    x, y, z = np.moveaxis(positions, 1, 0)
    rows = ((x * n_y)[:, :, None] + y[:, None, :]) * n_z
    voxels = rows[:, :, :, None] + z[:, None, None, :]
    a, b, c = np.moveaxis(weights, 1, 0)
    products = (a[:, :, None] * b[:, None, :])[:, :, :, None] * c[:, None, None, :]
    return voxels.reshape(n_points, n_along**3), products.reshape(n_points, n_along**3)


def _cubic_weights(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys's kernel at the distances of the four voxels around a point; (..., 4)."""

    def near(d: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((_KEYS_A + 2) * d - (_KEYS_A + 3)) * d * d + 1

    def far(d: NDArray[np.float64]) -> NDArray[np.float64]:
        return _KEYS_A * (((d - 5) * d + 8) * d - 4)

    return np.stack(
        [far(1 + fraction), near(fraction), near(1 - fraction), far(2 - fraction)], axis=-1
    )


def list_voxels(
    voxels: NDArray[np.int64], n_voxels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """List each voxel that occurs, once and in increasing order, and say where it is in the list.

    Returns ``touched`` (n,) and ``places`` of the shape of ``voxels``: ``touched[places]`` is
    ``voxels``. The volume has ``n_voxels``.
    """
    occurs = np.zeros(n_voxels, np.bool_)
    occurs[voxels] = True
    number = np.cumsum(occurs, dtype=np.int32) - 1
    return np.flatnonzero(occurs), number[voxels]


def take_voxels(
    volumes: NDArray[Any], voxels: NDArray[np.int64], dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    """Values (n, T) of some voxels in volumes (X, Y, Z, T) of any memory layout.

    ``voxels`` (n,) are indices into a volume in C order; nibabel reads files in Fortran order.
    """
    places = np.unravel_index(voxels, volumes.shape[:3])
    if not volumes.flags.f_contiguous:
        taken: NDArray[Any] = volumes[places]
        return taken.astype(dtype, copy=False)
    # Volume by volume and upwards, as they lie in memory: in C order nearly every value would have
    # to be fetched by itself.
    by_volume = volumes.reshape(-1, volumes.shape[3], order="F").T
    positions = np.ravel_multi_index(places, volumes.shape[:3], order="F")
    upwards = np.argsort(positions)
    values = np.empty((len(voxels), volumes.shape[3]), dtype)
    values[upwards] = by_volume.take(positions[upwards], axis=1).T
    return values
