"""Reader of NSD's gzipped NIfTI volumes: headers, masks, and betas a few volumes at a time.

A session at 1.8 mm is a gigabyte when unpacked, at 1 mm in MNI space eleven, and gzip can only be
read from the front. So volumes are unpacked one after the other, the voxels that are wanted are
taken out, and the rest is forgotten. Unpacking is what takes the time: ISA-L does it three times
as fast as Python's own zlib.
"""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.errors import InvalidFileError

if TYPE_CHECKING:
    from isal.igzip import IGzipFile

HEADER_PART: Final = 2**16
"""Bytes from the front of a compressed file that hold its header, whatever the compression."""

_HEADER_BYTES: Final = 352
_VOLUMES_AT_ONCE: Final = 32


@dataclass(frozen=True)
class VolumeHeader:
    """What a NIfTI header says of volumes.

    Attributes
    ----------
    shape
        Voxels along x, y and z.
    n_volumes
        Volumes in the file: trials of a session, 1 for a mask.
    dtype
        Of a voxel's value.
    data_offset
        Byte of the unpacked file where values start, x fastest, volumes slowest.
    affine
        (4, 4) from 0-based voxels to mm, as nested tuples of rows.
    """

    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[np.generic]
    data_offset: int
    affine: tuple[tuple[float, ...], ...]


def parse_header(compressed: bytes, *, name: str) -> VolumeHeader:
    """Read the header out of the first `HEADER_PART` bytes of a ``.nii.gz`` file.

    Raises
    ------
    InvalidFileError
        If it is not gzipped NIfTI-1, or its values would have to be rescaled.
    """
    from isal import isal_zlib
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        raw = isal_zlib.decompressobj(wbits=31).decompress(compressed, _HEADER_BYTES)
        header = Nifti1Header.from_fileobj(io.BytesIO(raw))
        shape = header.get_data_shape()
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, WrapStructError, *_damage()) as error:
        raise _invalid(name, f"is not a gzipped NIfTI file ({error})") from error
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise _invalid(name, f"has shape {shape}, not that of volumes")
    if slope not in (None, 1.0) or intercept not in (None, 0.0):
        raise _invalid(name, f"has values to be scaled by {slope}, which NSD's are not")
    n_x, n_y, n_z, *n_volumes = (int(n) for n in shape)
    return VolumeHeader(
        shape=(n_x, n_y, n_z),
        n_volumes=n_volumes[0] if n_volumes else 1,
        dtype=header.get_data_dtype(),
        data_offset=int(header.get_data_offset()),
        affine=tuple(tuple(row) for row in header.get_best_affine().tolist()),
    )


def read_header(path: Path) -> VolumeHeader:
    """Read the header of a ``.nii.gz`` file on this machine.

    Raises
    ------
    InvalidFileError
        See :func:`parse_header`.
    """
    with path.open("rb") as file:
        return parse_header(file.read(HEADER_PART), name=str(path))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Voxels of a mask that are not 0: (X, Y, Z).

    Raises
    ------
    InvalidFileError
        If the file is not one volume, or is damaged.
    """
    header = read_header(path)
    if header.n_volumes != 1:
        raise _invalid(str(path), f"has {header.n_volumes} volumes, where a mask has one")
    everything = np.arange(np.prod(header.shape))
    (mask,) = read_voxels(path, header, everything)
    return np.asarray(mask[:, 0] != 0).reshape(header.shape)


def read_voxels(
    path: Path, header: VolumeHeader, voxels: NDArray[np.int64]
) -> Iterator[NDArray[np.generic]]:
    """Yield the values of some voxels in a few volumes at a time, from the first to the last.

    The next volumes are unpacked, in a thread, while the caller works on those it got.

    Parameters
    ----------
    path
        A ``.nii.gz`` file.
    header
        Its header.
    voxels : array of shape (n,), int
        Indices in C order into a volume.

    Yields
    ------
    array of shape (n, k)
        In native byte order.

    Raises
    ------
    InvalidFileError
        If the file ends early or its compression is damaged.
    """
    from isal import igzip

    # In the file, x runs fastest.
    places = np.ravel_multi_index(np.unravel_index(voxels, header.shape), header.shape, order="F")
    n_bytes = int(np.prod(header.shape)) * header.dtype.itemsize

    def unpack(file: "IGzipFile", n_volumes: int) -> NDArray[np.generic]:
        block = np.empty((n_volumes, len(places)), header.dtype.newbyteorder("="))
        for row in block:
            try:
                raw = file.read(n_bytes)
            except _damage() as error:
                raise _invalid(str(path), f"is truncated or damaged ({error})") from error
            if len(raw) != n_bytes:
                raise _invalid(str(path), f"is truncated: {header.n_volumes} volumes were expected")
            np.take(np.frombuffer(raw, header.dtype), places, out=row, mode="clip")
        return block.T

    sizes = [
        min(_VOLUMES_AT_ONCE, header.n_volumes - first)
        for first in range(0, header.n_volumes, _VOLUMES_AT_ONCE)
    ]
    with igzip.IGzipFile(path) as file, ThreadPoolExecutor(1) as pool:
        file.seek(header.data_offset)
        pending = pool.submit(unpack, file, sizes[0])
        for size in sizes[1:]:
            block = pending.result()
            pending = pool.submit(unpack, file, size)
            yield block
        yield pending.result()
        # The end of the file holds its checksum.
        _check_end(file, path)


def _check_end(file: "IGzipFile", path: Path) -> None:
    try:
        more = file.read(1)
    except _damage() as error:
        raise _invalid(str(path), f"is truncated or damaged ({error})") from error
    if more:
        raise _invalid(str(path), "is longer than its header says")


def _damage() -> tuple[type[Exception], ...]:
    """What unpacking raises when the file is damaged."""
    from isal import isal_zlib

    # Its stub calls the class an instance.
    return (EOFError, OSError, ValueError, cast("type[Exception]", isal_zlib.error))


def _invalid(name: str, problem: str) -> InvalidFileError:
    return InvalidFileError(
        f"{name} {problem}.",
        next_step="download it again; a mirror's copy may be incomplete.",
    )
