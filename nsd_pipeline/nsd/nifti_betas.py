"""Reader of NSD's gzipped NIfTI betas and masks, of which the header alone can be on a bucket."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.volume_stream import VolumeStream, unpacking_errors

HEADER_PART: Final = 2**16
"""Bytes from the front of a compressed file that hold its header, whatever the compression."""

_HEADER_BYTES: Final = 352


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
    except (HeaderDataError, WrapStructError, *unpacking_errors()) as error:
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
    (mask,) = open_stream(path, header).volumes()
    return np.asarray(mask != 0).reshape(header.shape, order="F")


def open_stream(path: Path, header: VolumeHeader) -> VolumeStream:
    """The volumes of a ``.nii.gz`` file whose header has been read."""
    return VolumeStream(path, header.shape, header.n_volumes, header.dtype, header.data_offset)


def _invalid(name: str, problem: str) -> InvalidFileError:
    return InvalidFileError(
        f"{name} {problem}.",
        next_step="download it again; a mirror's copy may be incomplete.",
    )
