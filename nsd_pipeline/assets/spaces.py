"""A session's downloaded betas on fsaverage5, from whichever space they were fetched."""

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.assets.operators import load_operator, require_operator
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd import mgh, nifti
from nsd_pipeline.nsd.fsaverage_betas import locate_betas
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, Space, parse_session_key
from nsd_pipeline.nsd.space_betas import SpaceObjects, locate_files, read_parts
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import (
    FsaverageOperator,
    betas_from_nifti,
    betas_from_vertices,
    betas_from_voxels,
    grid_operator,
)
from nsd_pipeline.surface.other_spaces import check_shapes


def read_fsaverage5(store: Store, downloaded: Manifest) -> NDArray[np.float32]:
    """Betas of a session: (trial, vertex) in percent signal change, NaN where there is no data.

    Parameters
    ----------
    store
        Where `betas` and, for most spaces, `fsaverage5_operator` lie.
    downloaded
        The session's `betas`.
    """
    space: Space = downloaded.config["space"]
    folder = store.folder(downloaded.key)
    n_trials = int(downloaded.metadata["trials"])
    if space == "fsaverage":
        data = np.empty((n_trials, 2 * FSAVERAGE5_VERTICES), np.float32)
        halves = np.split(data, 2, axis=1)
        for half, path in zip(halves, locate_betas(folder).values(), strict=True):
            mgh.read_vertices(path, FSAVERAGE5_VERTICES, n_frames=n_trials, out=half)
            mgh.check_no_empty_frame(half, name=str(path))
        return data

    files = locate_files(folder)
    shapes = [tuple(shape) for shape in downloaded.config["shapes"]]
    if space == "MNI":
        header = nifti.open_volumes(files.betas[0])
        valid = nifti.read_mask(files.masks[0])
        return betas_from_nifti(files.betas[0], grid_operator(header.affine, header.shape, valid))
    subject, _ = parse_session_key(str(downloaded.partition))
    operator = load_operator(store, require_operator(store, subject, space))
    check_shapes([str(path) for path in files.betas], shapes, operator)
    for mask in files.masks:
        operator = operator.masked(nifti.read_mask(mask).reshape(-1))
    if files.file_format == "nii.gz":
        return betas_from_nifti(files.betas[0], operator)
    parts = read_parts(files, shapes, operator.touched_voxels)
    if space == "nativesurface":
        return betas_from_vertices(parts, operator, n_trials)
    return betas_from_voxels(parts, operator, n_trials)


def session_operator(store: Store, subject: str, found: SpaceObjects) -> FsaverageOperator:
    """Operator that fits a session's files.

    Raises
    ------
    ArtifactError
        If it has not been materialized.
    InvalidFileError
        If it is for volumes of another shape.
    """
    operator = load_operator(store, require_operator(store, subject, found.space))
    check_shapes([info.key for info in found.betas], found.shapes, operator)
    return operator


def check_space(session: str, fetched: str, kept: str, wanted: str | None) -> None:
    """Check that a session's betas are in the space that was asked for.

    Parameters
    ----------
    session
        Name of the session, for the error.
    fetched
        Space that `betas` were fetched in.
    kept
        Space of the recording that the filtered events keep.
    wanted
        Space that `fsaverage5_betas` are to come from, if that was said.

    Raises
    ------
    NsdError
        If they are not all the same.
    """
    if wanted not in (None, fetched):
        raise NsdError(
            f"The betas of {session} were fetched in the space {fetched}, but fsaverage5_betas are"
            f" to come from {wanted}.",
            next_step=f"materialize betas with space {wanted}, or leave the space of"
            " fsaverage5_betas empty.",
        )
    if kept != fetched:
        raise NsdError(
            f"The betas of {session} were fetched in the space {fetched}, but its filtered events"
            f" keep the recording in {kept}.",
            next_step=f"materialize betas with space {kept}, or fsaverage_events with the query"
            f" \"type != 'Fmri' or space == '{fetched}'\".",
        )
