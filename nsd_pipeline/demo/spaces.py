"""Where a demo session in a space other than fsaverage goes, and what goes with it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.demo import volumes
from nsd_pipeline.demo.anatomy import grid, native_surface, write_transforms
from nsd_pipeline.demo.brain import Brain
from nsd_pipeline.nsd.layout import FUNCTIONAL_SPACES, Space, betas_files, betas_keys, valid_key


def write_session_in(
    space: Space,
    folder: Path,
    brains: list[Brain],
    shown: NDArray[np.float32],
    session: int,
    *,
    hdf5: bool,
) -> None:
    """Write one session of a subject in a space, with the mask of voxels that have data.

    Parameters
    ----------
    space
        Any but fsaverage.
    folder
        Root of the mirror.
    brains
        Both hemispheres of the subject, left first.
    shown
        (T, 59) standardised features of the images shown, by trial.
    session
        1-based session.
    hdf5
        Whether to write a functional volume as HDF5 as well.
    """
    subject = brains[0].subject
    paths = [folder / key for key in betas_keys(subject, session, space)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    betas = [brain.betas(shown, session) for brain in brains]
    invalid = [brain.invalid(session) for brain in brains]
    if space == "nativesurface":
        for path, brain, values, missing in zip(paths, brains, betas, invalid, strict=True):
            values[:, missing] = np.nan
            surface = native_surface(subject, brain.hemisphere, brain.seed)
            volumes.write_native_surface(path, surface, values)
        return
    voxels = grid(subject, space)
    vertex = volumes.nearest_vertices(voxels)
    for file_format, (key,) in betas_files(subject, session, space).items():
        if file_format == "nii.gz":
            volumes.write_betas(folder / key, voxels, vertex, np.hstack(betas))
        elif hdf5:
            volumes.write_volume_hdf5(folder / key, vertex, np.hstack(betas))
    mask = folder / valid_key(subject, session, space)
    mask.parent.mkdir(parents=True, exist_ok=True)
    volumes.write_mask(mask, voxels, vertex, np.concatenate(invalid))


def write_subject_transforms(
    folder: Path, subject: str, spaces: tuple[Space, ...], seed: int
) -> None:
    """Write the transforms that lead from a subject's own spaces to fsaverage."""
    functional = tuple(space for space in FUNCTIONAL_SPACES if space in spaces)
    write_transforms(folder / f"nsddata/ppdata/{subject}/transforms", subject, functional, seed)
