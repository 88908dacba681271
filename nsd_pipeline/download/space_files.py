"""What a download of betas in some space has left on this machine, and how to read it back."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd import voxel_chunks
from nsd_pipeline.storage.paths import listed_path, read_listing

LocalFormat = Literal["hdf5", "nii.gz", "npy"]

_FILES: Final = "files.json"
_ROWS_AT_ONCE: Final = 2**14


@dataclass(frozen=True)
class SpaceFiles:
    """A session's files in a space on this machine.

    Attributes
    ----------
    file_format
        ``hdf5`` or ``nii.gz`` as NSD has them, or ``npy``: one row for each voxel that was fetched.
    betas
        One file; for native surfaces one for each hemisphere, left first.
    masks
        The mask of voxels with data; none for native surfaces.
    """

    file_format: LocalFormat
    betas: tuple[Path, ...]
    masks: tuple[Path, ...]


def write_files(folder: Path, file_format: str, betas: Sequence[str], masks: Sequence[str]) -> None:
    """Write down which files there are: names in the folder, or paths of a mirror."""
    listed = {"file_format": file_format, "betas": betas, "masks": masks}
    (folder / _FILES).write_text(json.dumps(listed, indent=2))


def locate_files(folder: Path) -> SpaceFiles:
    """Find the files again that :func:`write_files` listed in a folder.

    Raises
    ------
    DamagedArtifactError
        If the list is damaged, or names something else than files there or of a mirror.
    """
    path = folder / _FILES
    listed = read_listing(path)
    betas, masks = (
        tuple(listed_path(folder, name, path) for name in listed.get(what, ()))
        for what in ("betas", "masks")
    )
    return SpaceFiles(listed.get("file_format"), betas, masks)  # type: ignore[arg-type]


def voxels_file(path: Path) -> Path:
    """File that names the voxel of each row of an ``.npy`` file."""
    return path.with_suffix(".voxels.npy")


def read_parts(
    files: SpaceFiles, shapes: Sequence[tuple[int, ...]], voxels: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    """Read voxels out of HDF5 files or of what was fetched from them, some at a time.

    Parameters
    ----------
    files
        Files of format ``hdf5`` or ``npy``.
    shapes
        Of each file's voxels.
    voxels : array of shape (n,), int
        Voxels that are wanted, increasing; in C order, one file's after the other's.

    Yields
    ------
    places : array of shape (k,)
        Where these voxels stand in ``voxels``.
    values : array of shape (k, T), int16

    Raises
    ------
    InvalidFileError
        If a file is damaged.
    """
    first = 0
    for path, shape in zip(files.betas, shapes, strict=True):
        n_voxels = int(np.prod(shape))
        place = np.full(n_voxels, -1, np.int64)
        start, stop = np.searchsorted(voxels, [first, first + n_voxels])
        place[voxels[start:stop] - first] = np.arange(start, stop)
        parts = _fetched(path) if files.file_format == "npy" else _in_place(path, place)
        for numbers, values in parts:
            wanted = place[numbers] >= 0
            yield place[numbers[wanted]], values if wanted.all() else values[wanted]
        first += n_voxels


def _fetched(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    numbers = np.load(voxels_file(path), allow_pickle=False)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        stop = start + _ROWS_AT_ONCE
        yield numbers[start:stop], rows[start:stop]


def _in_place(
    path: Path, place: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    layout = voxel_chunks.read_layout(path, name=str(path))
    return voxel_chunks.read_chunks(
        path, voxel_chunks.plan_chunks(layout, np.flatnonzero(place >= 0))
    )
