"""Taking the few voxels that matter out of many volumes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compact(
    voxels: NDArray[np.int64], n_voxels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """List the voxels that occur, and express each one as its place in the list.

    Parameters
    ----------
    voxels : array of any shape, int
        Indices into a volume.
    n_voxels
        Voxels of the volume.

    Returns
    -------
    touched : array of shape (n,), int
        Each voxel that occurs, once, in increasing order.
    numbers : array of the shape of ``voxels``, int32
        ``touched[numbers]`` is ``voxels``.
    """
    occurs = np.zeros(n_voxels, np.bool_)
    occurs[voxels] = True
    number = np.cumsum(occurs, dtype=np.int32) - 1
    return np.flatnonzero(occurs), number[voxels]


def gather(
    volumes: NDArray[Any], voxels: NDArray[np.int64], dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    """Values of some voxels in each volume.

    Parameters
    ----------
    volumes : array of shape (X, Y, Z, T)
        In any memory layout: nibabel reads files in Fortran order.
    voxels : array of shape (n,), int
        Indices into a volume in C order.
    dtype
        Of the result.

    Returns
    -------
    array of shape (n, T)
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
