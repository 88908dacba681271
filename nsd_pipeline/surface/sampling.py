"""Which voxels a point of a volume is interpolated from, and with what weights.

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


def is_inside(coordinates: NDArray[np.floating[Any]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether points lie in a volume.

    Parameters
    ----------
    coordinates : array of shape (n, 3)
        1-based voxel coordinates. NaN, and the 9999 with which NSD marks "no value", are outside.
    shape
        Voxels along each of three axes.

    Returns
    -------
    array of shape (n,), bool
    """
    inside: NDArray[np.bool_] = np.logical_and.reduce(
        (coordinates >= 1) & (coordinates <= np.asarray(shape)), axis=1
    )
    return inside


def neighbours(
    coordinates: NDArray[np.floating[Any]], shape: tuple[int, ...], method: Method
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels that points are interpolated from, and their weights.

    Parameters
    ----------
    coordinates : array of shape (n, 3)
        1-based voxel coordinates of points inside the volume.
    shape
        Voxels along each of three axes.
    method
        ``nearest`` takes 1 voxel (halves round up), ``linear`` 2 x 2 x 2, and ``cubic`` 4 x 4 x 4
        with the kernel of Keys (1981) for a = -0.5, also known as Catmull-Rom.

    Returns
    -------
    voxels : array of shape (n, k), int
        Indices into the volume in C order. At a border, a voxel can occur more than once.
    weights : array of shape (n, k), float64
        They sum to 1.

    Raises
    ------
    ValueError
        If the method is unknown.
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
    """Every combination of positions along three axes, as voxels and products of weights.

    Parameters
    ----------
    positions, weights : arrays of shape (n, 3, k)
        0-based positions along each axis and their weights.
    shape
        Voxels along each of three axes.

    Returns
    -------
    voxels, weights : arrays of shape (n, k ** 3)
        Indices into the volume in C order, and weights.
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
