"""One session's betas from NSD's other spaces, on fsaverage5 and in percent.

Files hold int16, percent signal change times 300. Maps are linear, so integers go through them and
the result is divided.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd import nifti
from nsd_pipeline.nsd.layout import PERCENT_SCALE
from nsd_pipeline.surface.volume_operator import FsaverageOperator

Parts = Iterable[tuple[NDArray[np.int64], NDArray[Any]]]
"""Places (k,) in an operator's touched voxels, and values (k, T) of these voxels."""


def betas_from_nifti(path: Path, operator: FsaverageOperator) -> NDArray[np.float32]:
    """Map a ``.nii.gz`` file of one session, a few volumes at a time.

    Parameters
    ----------
    path
        The file.
    operator
        To fsaverage5; `FsaverageOperator.masked` for the session.

    Returns
    -------
    array of shape (T, 20484), float32
        Percent signal change; NaN where there is no data.

    Raises
    ------
    InvalidFileError
        If the file is damaged or its volumes have another shape than the operator's.
    """
    volumes = nifti.open_volumes(path)
    check_shapes([str(path)], [volumes.shape], operator)
    betas = np.empty((volumes.n_volumes, operator.weights.shape[0]), np.float32)
    first = 0
    for block in volumes.voxels(operator.touched_voxels):
        betas[first : first + block.shape[1]] = operator.apply(block)
        first += block.shape[1]
    betas /= PERCENT_SCALE
    return betas


def betas_from_voxels(
    parts: Parts, operator: FsaverageOperator, n_trials: int
) -> NDArray[np.float32]:
    """Map voxels of a functional space that come some at a time, each in all trials.

    Returns
    -------
    array of shape (T, 20484), float32
        Percent signal change; NaN where there is no data.
    """
    betas = operator.apply_to_parts(parts, n_trials)
    betas /= PERCENT_SCALE
    return betas


def betas_from_vertices(
    parts: Parts, operator: FsaverageOperator, n_trials: int
) -> NDArray[np.float32]:
    """Map vertices of a subject's own surface; one that is 0 in all trials has no data.

    Returns
    -------
    array of shape (T, 20484), float32
        Percent signal change; NaN where there is no data.
    """
    values = np.zeros((len(operator.touched_voxels), n_trials), np.int16)
    for places, part in parts:
        values[places] = part
    betas = operator.masked((values != 0).any(axis=1)).apply(values)
    betas /= PERCENT_SCALE
    return betas


def check_shapes(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], operator: FsaverageOperator
) -> None:
    """Check that files are of the space that an operator starts from.

    Parameters
    ----------
    names
        What to call the files in the error.
    shapes
        (X, Y, Z) of one file, or (V,) of each hemisphere.

    Raises
    ------
    InvalidFileError
        If one is not; it is named.
    """
    for name, shape, expected in zip(names, shapes, operator.shapes, strict=True):
        if shape != expected:
            raise InvalidFileError(
                f"{name} has shape {shape}, but the subject's transforms to fsaverage5 are for"
                f" {expected}.",
                next_step="check that the file is of this subject, space and hemisphere and of the"
                " same release as the transforms, then materialize fsaverage5_operator again.",
            )
