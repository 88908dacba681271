"""One session's downloaded betas on fsaverage5 and in percent, from any of NSD's spaces.

Files of other spaces than fsaverage hold int16, percent signal change times 300. Maps are linear,
so integers go through them and the result is divided.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd import mgh, nifti
from nsd_pipeline.nsd.fsaverage_betas import locate_betas
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, N_VERTICES, PERCENT_SCALE, Space
from nsd_pipeline.nsd.space_betas import locate_files, read_parts
from nsd_pipeline.surface.projection import grid_operator
from nsd_pipeline.surface.volume_operator import FindOperator, FsaverageOperator


def read_betas(
    folder: Path,
    space: Space,
    n_trials: int,
    find_operator: FindOperator,
    shapes: Iterable[Sequence[int]] = (),
) -> NDArray[np.float32]:
    """Read a session's betas from what was downloaded of them, whichever the space.

    `folder` has the files, or the list of those of a mirror. `find_operator` gives the operator
    from the subject's space; it is not called for fsaverage and MNI. `shapes` are what each file of
    the subject's space holds: (X, Y, Z), or (V,) of each hemisphere. Returns (T, 20484), float32,
    in percent signal change; NaN where there is no data. An InvalidFileError if a file is damaged,
    or of another shape than the operator's.
    """
    if space == "fsaverage":
        betas = np.empty((n_trials, N_VERTICES), np.float32)
        halves = np.split(betas, 2, axis=1)
        for half, path in zip(halves, locate_betas(folder).values(), strict=True):
            mgh.read_vertices(path, FSAVERAGE5_VERTICES, n_frames=n_trials, out=half)
            mgh.check_no_empty_frame(half, name=str(path))
        return betas
    files = locate_files(folder)
    if space == "MNI":
        header = nifti.open_volumes(files.betas[0])
        valid = nifti.read_mask(files.masks[0])
        return betas_from_nifti(files.betas[0], grid_operator(header.affine, header.shape, valid))
    operator, of_files = find_operator(), [tuple(shape) for shape in shapes]
    check_shapes([str(path) for path in files.betas], of_files, operator)
    for mask in files.masks:
        operator = operator.masked(nifti.read_mask(mask).reshape(-1))
    if files.file_format == "nii.gz":
        return betas_from_nifti(files.betas[0], operator)
    parts = read_parts(files, of_files, operator.touched_voxels)
    if space == "nativesurface":
        values = np.zeros((len(operator.touched_voxels), n_trials), np.int16)
        for places, part in parts:
            values[places] = part
        # There are no masks of native surfaces: a vertex that is 0 in all trials has no data.
        betas = operator.masked((values != 0).any(axis=1)).apply(values)
    else:
        betas = operator.apply_to_parts(parts, n_trials)
    betas /= PERCENT_SCALE
    return betas


def betas_from_nifti(path: Path, operator: FsaverageOperator) -> NDArray[np.float32]:
    """Map a ``.nii.gz`` file of one session, a few volumes at a time.

    The operator is `FsaverageOperator.masked` for the session. Returns betas (T, 20484), float32,
    in percent signal change; NaN where there is no data. An InvalidFileError if the file is damaged
    or its volumes have another shape than the operator's.
    """
    volumes = nifti.open_volumes(path)
    check_shapes([str(path)], [volumes.shape], operator)
    blocks = volumes.voxels(operator.touched_voxels)
    betas = operator.apply_to_blocks(blocks, volumes.n_volumes)
    betas /= PERCENT_SCALE
    return betas


def check_shapes(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], operator: FsaverageOperator
) -> None:
    """Check that files, by name and shape, are of the space that an operator starts from.

    An InvalidFileError names one that is not.
    """
    for name, shape, expected in zip(names, shapes, operator.shapes, strict=True):
        if shape != expected:
            raise InvalidFileError(
                f"{name} has shape {shape}, but the subject's transforms to fsaverage5 are for"
                f" {expected}.",
                next_step="check that the file is of this subject, space and hemisphere and of the"
                " same release as the transforms, then make fsaverage5_operator again.",
            )
