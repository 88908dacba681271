"""One session's betas in a space other than fsaverage, and its mask of voxels with data.

Of HDF5 files on a bucket, only the voxels are fetched that the operator to fsaverage5 looks at;
they are kept as an array with a row for each. NIfTI files are compressed as one stream and come
whole. A local mirror is read in place: of it, only the paths are recorded.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd import nifti, voxel_chunks
from nsd_pipeline.nsd.hdf5 import IndexFile, npy_header
from nsd_pipeline.nsd.layout import FileFormat, Space, betas_files, session_key, valid_key
from nsd_pipeline.storage.names import listed_path, read_listing
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import TransferReport, fetch

FormatChoice = Literal["auto", "hdf5", "nii.gz"]

_FILES: Final = "files.json"
_ROWS_AT_ONCE: Final = 2**14


@dataclass(frozen=True)
class SpaceDownload:
    """A session's betas in a space, their headers read and checked, and how they get here.

    `betas` are one object, or for native surfaces one for each hemisphere, left first; `shapes`
    those of each: (X, Y, Z), or (V,). `masks` have the mask of voxels with data; none for native
    surfaces. `voxels` (n,) are those that are needed, in C order, the hemispheres of a native
    surface one after the other; only for HDF5 files that are not on this machine. Properties mean
    what those of `FsaverageDownload` do.
    """

    source: Source
    file_format: FileFormat
    betas: tuple[ObjectInfo, ...]
    shapes: tuple[tuple[int, ...], ...]
    n_trials: int
    masks: tuple[ObjectInfo, ...]
    voxels: NDArray[np.int64] | None = None

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """Betas and mask."""
        return (*self.betas, *self.masks)

    @property
    def in_place(self) -> bool:
        """Whether nothing is fetched."""
        return all(self.source.local_path(info.key) for info in self.objects)

    @property
    def config(self) -> Mapping[str, Any]:
        """Format, shapes, and which voxels come."""
        return {
            "file_format": self.file_format,
            "shapes": [list(shape) for shape in self.shapes],
            "voxels": None if self.voxels is None else sha256(self.voxels.tobytes()).hexdigest(),
        }

    @property
    def fetched_bytes(self) -> int:
        """Whole files, or the voxels that are needed."""
        if self.voxels is None:
            return sum(info.n_bytes for info in self.objects)
        return 2 * self.n_trials * len(self.voxels)

    def download(self, folder: Path, scratch: Path) -> TransferReport:
        """Fetch betas and mask into a folder, or record where a local mirror has them.

        `scratch` keeps what has arrived if this process dies, for the next attempt.
        """
        reports: list[TransferReport] = []

        def move(
            info: ObjectInfo, name: str, ranges: list[tuple[int, int]], prefix: bytes = b""
        ) -> str:
            file = scratch / name
            reports.append(fetch(self.source, info, ranges, file, prefix=prefix, progress=name))
            return file.rename(folder / name).name

        def move_whole(info: ObjectInfo) -> str:
            return move(info, PurePosixPath(info.key).name, [(0, info.n_bytes)])

        def move_voxels(info: ObjectInfo, n_axes: int, wanted: NDArray[np.int64]) -> str:
            started = time.monotonic()
            with IndexFile(self.source, info, n_axes) as remote:
                layout = voxel_chunks.read_layout(remote, name=remote.name)
            seconds = time.monotonic() - started
            reports.append(TransferReport(remote.n_bytes, remote.n_requests, seconds, 0))
            plan = voxel_chunks.plan_chunks(layout, wanted)
            name = f"{PurePosixPath(info.key).stem}.npy"
            np.save(_voxels_file(folder / name), plan.voxels)
            header = npy_header((len(plan.voxels), self.n_trials), voxel_chunks.VALUE)
            return move(info, name, plan.ranges, header)

        local_format: str = self.file_format
        if self.in_place:
            betas, masks = (
                [str(self.source.local_path(info.key)) for info in infos]
                for infos in (self.betas, self.masks)
            )
        elif self.file_format == "nii.gz":
            betas, masks = ([move_whole(info) for info in of] for of in (self.betas, self.masks))
        elif self.voxels is None:
            raise ValueError("which voxels of the HDF5 files on a bucket are needed?")
        else:
            local_format, betas, first = "npy", [], 0
            for info, shape in zip(self.betas, self.shapes, strict=True):
                last = first + math.prod(shape)
                own = self.voxels[(self.voxels >= first) & (self.voxels < last)] - first
                betas.append(move_voxels(info, len(shape) + 1, own))
                first = last
            masks = [move_whole(info) for info in self.masks]
        listed = {"file_format": local_format, "betas": betas, "masks": masks}
        (folder / _FILES).write_text(json.dumps(listed, indent=2))
        return TransferReport.total(reports)


def inspect_space(
    source: Source,
    subject: str,
    session: int,
    space: Space,
    *,
    file_format: FormatChoice,
    n_trials: int,
) -> SpaceDownload:
    """Read and check the headers of a session's betas in a space.

    The format ``auto`` takes NIfTI where the source has it; `n_trials` is what the experiment
    design has for the session. A SourceError if the source does not have them; an InvalidFileError
    if a header is not what NSD's is, or betas, mask and design do not fit each other.
    """
    chosen, keys = _choose(source, subject, session, space, file_format)
    betas = tuple(source.describe(key) for key in keys)
    shapes = []
    for info in betas:
        shape, found = _read_shape(
            source, info, chosen, n_axes=2 if space == "nativesurface" else 4
        )
        if found != n_trials:
            raise InvalidFileError(
                f"{source.url}/{info.key} has {found} trials, but the experiment design has"
                f" {n_trials} for {session_key(subject, session)}.",
                next_step="check that the betas and nsd_expdesign.mat are of the same release.",
            )
        shapes.append(shape)
    masks: tuple[ObjectInfo, ...] = ()
    if space != "nativesurface":
        mask = source.describe(valid_key(subject, session, space))
        if (shape := volume_shape(source, mask)) != shapes[0]:
            raise InvalidFileError(
                f"{source.url}/{mask.key} has shape {shape}, but the betas {betas[0].key} have"
                f" {shapes[0]}.",
                next_step="check that both are of the same release.",
            )
        masks = (mask,)
    return SpaceDownload(source, chosen, betas, tuple(shapes), n_trials, masks)


def volume_shape(source: Source, info: ObjectInfo) -> tuple[int, int, int]:
    """Voxels along each axis of a ``.nii.gz`` file on the source."""
    return _read_header(source, info).shape


def _choose(
    source: Source, subject: str, session: int, space: Space, wanted: FormatChoice
) -> tuple[FileFormat, tuple[str, ...]]:
    """Format to take, and its keys."""
    offered = betas_files(subject, session, space)
    if wanted != "auto" and wanted not in offered:
        raise SourceError(
            f"NSD has no betas in {space} as {wanted}.",
            next_step=f"set file_format of betas to {' or '.join(offered)}, or to auto.",
        )
    acceptable = {form: keys for form, keys in offered.items() if wanted in ("auto", form)}
    for file_format, keys in acceptable.items():
        if all(key in source.list(key) for key in keys):
            return file_format, keys
    named = [key for keys in acceptable.values() for key in keys]
    raise SourceError(
        f"{source.url} has no {' nor '.join(named)}.",
        next_step="check that the source has this session in this space; `events` lists the"
        " spaces of each session.",
    )


def _read_shape(
    source: Source, info: ObjectInfo, file_format: FileFormat, *, n_axes: int
) -> tuple[tuple[int, ...], int]:
    """Shape of the voxels of a file of betas, and its number of trials."""
    if file_format == "nii.gz":
        header = _read_header(source, info)
        return header.shape, header.n_volumes
    name = f"{source.url}/{info.key}"
    if mirror := source.local_path(info.key):
        return voxel_chunks.read_shape(mirror, name=name)
    with IndexFile(source, info, n_axes) as remote:
        return voxel_chunks.read_shape(remote, name=name)


def _read_header(source: Source, info: ObjectInfo) -> nifti.VolumeHeader:
    name = f"{source.url}/{info.key}"
    length = min(nifti.HEADER_PART, info.n_bytes)
    header = nifti.parse_header(source.read(info.key, 0, length, etag=info.etag), name=name)
    if (header.slope, header.intercept) != (1.0, 0.0):
        raise InvalidFileError(
            f"{name} has values to be scaled by {header.slope:g}, which NSD's are not.",
            next_step="download it again; a mirror's copy may be incomplete.",
        )
    return header


@dataclass(frozen=True)
class SpaceFiles:
    """A session's files in a space on this machine: as in `SpaceDownload`.

    Files of format ``npy`` have one row for each voxel that was fetched from HDF5.
    """

    file_format: Literal["hdf5", "nii.gz", "npy"]
    betas: tuple[Path, ...]
    masks: tuple[Path, ...]


def locate_files(folder: Path) -> SpaceFiles:
    """Find what `SpaceDownload.download` fetched into a folder, or recorded there.

    A DamagedArtifactError if the list is damaged, or names something else than files there or of a
    mirror.
    """
    path = folder / _FILES
    listed = read_listing(path)
    betas, masks = (
        tuple(listed_path(folder, name, path) for name in listed.get(what, ()))
        for what in ("betas", "masks")
    )
    return SpaceFiles(listed.get("file_format"), betas, masks)  # type: ignore[arg-type]


def read_parts(
    files: SpaceFiles, shapes: Sequence[tuple[int, ...]], voxels: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    """Read voxels out of HDF5 files or of what was fetched from them, some at a time.

    The voxels (n,) that are wanted are increasing indices in C order, one file's after the other's,
    and `shapes` those of each file's voxels. Yields where some of these voxels stand in ``voxels``,
    (k,), and their values, (k, T) int16. An InvalidFileError if a file is damaged.
    """
    first = 0
    for path, shape in zip(files.betas, shapes, strict=True):
        n_voxels = math.prod(shape)
        place = np.full(n_voxels, -1, np.int64)
        start, stop = np.searchsorted(voxels, [first, first + n_voxels])
        place[voxels[start:stop] - first] = np.arange(start, stop)
        if files.file_format == "npy":
            parts = _read_fetched(path)
        else:
            layout = voxel_chunks.read_layout(path, name=str(path))
            plan = voxel_chunks.plan_chunks(layout, np.flatnonzero(place >= 0))
            parts = voxel_chunks.read_chunks(path, plan)
        for numbers, values in parts:
            wanted = place[numbers] >= 0
            yield place[numbers[wanted]], values if wanted.all() else values[wanted]
        first += n_voxels


def _read_fetched(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    numbers = np.load(_voxels_file(path), allow_pickle=False)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        stop = start + _ROWS_AT_ONCE
        yield numbers[start:stop], rows[start:stop]


def _voxels_file(path: Path) -> Path:
    """File that names the voxel of each row of an ``.npy`` file."""
    return path.with_suffix(".voxels.npy")
