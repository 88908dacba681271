"""The demo's betas as NSD's files: on fsaverage, and in the subjects' own spaces.

A voxel in the grey matter has the beta of the nearest vertex of fsaverage5, so that every space
tells the same story; the rest of a volume is 0.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.demo.anatomy import Grid, NativeSurface, grid, native_surface, write_transforms
from nsd_pipeline.demo.brain import WHITE_NOISE, Brain, load_cortex
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import (
    FSAVERAGE5_VERTICES,
    FSAVERAGE_VERTICES,
    FUNCTIONAL_SPACES,
    HEMISPHERES,
    PERCENT_SCALE,
    Space,
    betas_files,
    betas_keys,
    valid_key,
)
from nsd_pipeline.nsd.voxel_chunks import DATASET, VALUE, read_layout

_MGH_FOOTER: Final = np.zeros(4, ">f4").tobytes()
"""Repetition time, flip angle, echo and inversion time, as FreeSurfer's MATLAB code appends."""
_FRAMES_AT_ONCE: Final = 16


def write_surface_betas(path: Path, brain: Brain, betas: NDArray[np.float32], session: int) -> None:
    """Write a session of one hemisphere on fsaverage: big-endian float32, NaN where invalid.

    Parameters
    ----------
    path
        MGH file to write.
    brain
        The hemisphere.
    betas
        (T, 10242) what :meth:`Brain.betas` gives for the session.
    session
        1-based session.
    """
    rng = brain.rng(session, 2)
    cortex = brain.cortex
    invalid = cortex.refine(brain.invalid(session).astype(np.float32)) > 0
    with path.open("wb") as file:
        file.write(mgh.header_bytes(FSAVERAGE_VERTICES, len(betas)))
        for start in range(0, len(betas), _FRAMES_AT_ONCE):
            coarse = np.ascontiguousarray(betas[start : start + _FRAMES_AT_ONCE].T)
            frames = np.ascontiguousarray(cortex.refine(coarse).T)
            between = frames[:, FSAVERAGE5_VERTICES:]
            between += np.float32(WHITE_NOISE) * rng.standard_normal(between.shape, np.float32)
            frames[:, invalid] = np.nan
            frames.astype(">f4").tofile(file)
        file.write(_MGH_FOOTER)


_RIBBON: Final = 2.5
"""Voxels within this distance of the middle of the grey matter have data, in mm."""


def nearest_vertices(voxels: Grid) -> NDArray[np.int64]:
    """Vertex of both hemispheres nearest to each voxel (X, Y, Z); -1 outside the grey matter."""
    from scipy.spatial import KDTree

    middle = np.concatenate([load_cortex(hemisphere).middle for hemisphere in HEMISPHERES])
    vertex = np.full(voxels.shape, -1)
    # Voxels that a vertex is anywhere near: most of a volume need not be searched.
    places = np.round((middle - voxels.affine[:3, 3]) / voxels.size).astype(int)
    reach = np.arange(-np.ceil(_RIBBON / voxels.size), np.ceil(_RIBBON / voxels.size) + 1)
    around = np.stack(np.meshgrid(reach, reach, reach), axis=-1).reshape(-1, 3).astype(int)
    near = np.zeros(voxels.shape, np.bool_)
    for offset in around:
        shifted = places + offset
        inside = ((shifted >= 0) & (shifted < voxels.shape)).all(axis=1)
        near[tuple(shifted[inside].T)] = True
    candidates = np.argwhere(near)
    found: Any = KDTree(middle).query(
        candidates * voxels.size + voxels.affine[:3, 3], distance_upper_bound=_RIBBON
    )
    hit = np.isfinite(found[0])
    vertex[tuple(candidates[hit].T)] = found[1][hit]
    return vertex


def write_nifti(
    path: Path,
    voxels: Grid,
    vertex: NDArray[np.int64],
    betas: NDArray[np.float32],
    dtype: str = VALUE.str,
) -> None:
    """Write volumes as gzipped NIfTI.

    Parameters
    ----------
    path
        File to write.
    voxels
        Their grid.
    vertex
        What :func:`nearest_vertices` gives for it.
    betas
        (T, 20484) one row a volume, in the unit of the file; NaN and voxels without a vertex
        become 0.
    dtype
        Of the file.
    """
    import nibabel
    from isal import igzip

    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((*voxels.shape, len(betas)) if len(betas) > 1 else voxels.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_sform(voxels.affine, code="scanner")
    header.set_qform(voxels.affine, code="scanner")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    places = np.flatnonzero((vertex >= 0).ravel(order="F"))
    sources = vertex.ravel(order="F")[places]
    frame = np.zeros(vertex.size, dtype)
    with path.open("wb") as file, igzip.IGzipFile("", "wb", 1, file, mtime=0) as volumes:
        header.write_to(volumes)
        for row in betas:
            frame[places] = np.round(np.nan_to_num(row[sources]))
            volumes.write(frame.tobytes())


def write_betas(
    path: Path, voxels: Grid, vertex: NDArray[np.int64], betas: NDArray[np.float32]
) -> None:
    """Write a session's betas (T, 20484), in percent, as ``betas_sessionNN.nii.gz``."""
    write_nifti(path, voxels, vertex, PERCENT_SCALE * betas)


def write_mask(
    path: Path, voxels: Grid, vertex: NDArray[np.int64], invalid: NDArray[np.bool_]
) -> None:
    """Write which voxels have data: all but those of vertices (20484,) without any."""
    everywhere = np.concatenate([~invalid, [True]]).astype(np.float32)
    # Voxels outside the grey matter, of no vertex, have data; they are just 0.
    filled = np.where(vertex < 0, len(invalid), vertex)
    write_nifti(path, voxels, filled, everywhere[np.newaxis])


def write_volume_hdf5(path: Path, vertex: NDArray[np.int64], betas: NDArray[np.float32]) -> None:
    """Write a session's betas (T, 20484), in percent, as ``betas_sessionNN.hdf5``.

    HDF5 lays the chunks out, and only those of the grey matter are written to: the others are
    holes in the file, which read as 0. Through HDF5 itself it would take ten times as long.
    """
    import h5py

    n_trials = len(betas)
    with h5py.File(path, "w", libver="earliest") as file:
        creation: Any = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((n_trials, 1, 1, 1))
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((n_trials, *vertex.shape[::-1]))
        h5py.h5d.create(file.id, DATASET.encode(), h5py.h5t.STD_I16LE, space, creation)
    places = np.flatnonzero(vertex.ravel() >= 0)
    offsets = read_layout(path, name=str(path)).offsets[places]
    values = np.round(PERCENT_SCALE * betas[:, vertex.ravel()[places]].T).astype(VALUE)
    content = np.memmap(path, VALUE, "r+")
    content[offsets[:, np.newaxis] // VALUE.itemsize + np.arange(n_trials)] = values
    content.flush()


def write_native_surface(path: Path, surface: NativeSurface, betas: NDArray[np.float32]) -> None:
    """Write a hemisphere's betas (T, 10242), in percent, on the subject's own surface."""
    import h5py

    percent = np.nan_to_num(surface.values(np.ascontiguousarray(betas.T)).T)
    values = np.round(PERCENT_SCALE * percent).astype(VALUE)
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset(DATASET, data=values, chunks=(len(values), 1))


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
            write_native_surface(path, surface, values)
        return
    voxels = grid(subject, space)
    vertex = nearest_vertices(voxels)
    for file_format, (key,) in betas_files(subject, session, space).items():
        if file_format == "nii.gz":
            write_betas(folder / key, voxels, vertex, np.hstack(betas))
        elif hdf5:
            write_volume_hdf5(folder / key, vertex, np.hstack(betas))
    mask = folder / valid_key(subject, session, space)
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_mask(mask, voxels, vertex, np.concatenate(invalid))


def write_subject_transforms(
    folder: Path, subject: str, spaces: tuple[Space, ...], seed: int
) -> None:
    """Write the transforms that lead from a subject's own spaces to fsaverage."""
    functional = tuple(space for space in FUNCTIONAL_SPACES if space in spaces)
    write_transforms(folder / f"nsddata/ppdata/{subject}/transforms", subject, functional, seed)
