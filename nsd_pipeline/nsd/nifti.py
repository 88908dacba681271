"""NIfTI files: their header, their volumes one after the other, or some of their voxels.

A session at 1.8 mm is a gigabyte when unpacked, at 1 mm in MNI space eleven, and gzip can only be
read from the front. So volumes are unpacked one after the other, the voxels that are wanted are
taken out, and the rest is forgotten. Unpacking is what takes the time: ISA-L does it three times
as fast as Python's own zlib.
"""

import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError

_VOLUMES_AT_ONCE: Final = 32


@dataclass(frozen=True)
class VolumeStream:
    """Where in a file volumes lie: one after the other, x fastest.

    Parameters
    ----------
    path
        A NIfTI file; gzipped if its name ends in ``.gz``.
    shape
        Voxels along x, y and z.
    n_volumes
        Volumes in the file.
    dtype
        Of a voxel's value.
    offset
        Byte of the unpacked file where values start.
    """

    path: Path
    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[Any]
    offset: int

    def volumes(self) -> Iterator[NDArray[Any]]:
        """Yield each volume, flat, in the order and byte order of the file.

        Raises
        ------
        InvalidFileError
            If the file is damaged, or is shorter or longer than these volumes.
        """
        from isal import igzip

        n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        opened: Any = igzip.IGzipFile if self.path.suffix == ".gz" else Path.open
        with opened(self.path, "rb") as file:
            try:
                file.seek(self.offset)
                for _ in range(self.n_volumes):
                    raw = file.read(n_bytes)
                    if len(raw) != n_bytes:
                        raise self._damaged(f"is truncated: {self.n_volumes} volumes were expected")
                    yield np.frombuffer(raw, self.dtype)
                # The end of a compressed file holds its checksum.
                if file.read(1):
                    raise self._damaged("is longer than its header says")
            except unpacking_errors() as error:
                raise self._damaged(f"is truncated or damaged ({error})") from error

    def voxels(self, voxels: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the values of some voxels in a few volumes at a time.

        The next volumes are unpacked, in a thread, while the caller works on those it got.

        Parameters
        ----------
        voxels : array of shape (n,), int
            Indices in C order into a volume.

        Yields
        ------
        array of shape (n, k)
            In native byte order.

        Raises
        ------
        InvalidFileError
            As `volumes`.
        """
        places = np.ravel_multi_index(np.unravel_index(voxels, self.shape), self.shape, order="F")
        volumes = self.volumes()

        def unpack() -> NDArray[Any] | None:
            rows = [volume[places] for volume in islice(volumes, _VOLUMES_AT_ONCE)]
            if not rows:
                return None
            return np.stack(rows, dtype=self.dtype.newbyteorder("=")).T

        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(unpack)
            while (block := pending.result()) is not None:
                pending = pool.submit(unpack)
                yield block

    def _damaged(self, problem: str) -> InvalidFileError:
        return InvalidFileError(
            f"{self.path} {problem}.",
            next_step="download or make it again; a mirror's copy may be incomplete.",
        )


def unpacking_errors() -> tuple[type[Exception], ...]:
    """What unpacking raises when a file is damaged."""
    from isal import isal_zlib

    # Its stub calls the class an instance.
    return (EOFError, OSError, ValueError, cast("type[Exception]", isal_zlib.error))


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


_SECONDS: Final = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True, eq=False)
class VolumeSeries:
    """A NIfTI file of volumes, its header read.

    Attributes
    ----------
    stream
        Its volumes as they are stored.
    affine : array of shape (4, 4)
        From 0-based voxel indices to mm.
    zooms
        Size of a voxel along each axis, in mm.
    tr
        Seconds from one volume to the next as the header has it, None if it does not say.
    """

    stream: VolumeStream
    affine: NDArray[np.float64]
    zooms: tuple[float, float, float]
    tr: float | None
    _slope: float
    _intercept: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.stream.shape

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return self.stream.n_volumes

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Yield each volume (X, Y, Z), scaled as the header says.

        Raises
        ------
        InvalidFileError
            If the file is damaged, or shorter or longer than its header says.
        """
        for volume in self.stream.volumes():
            yield self._scaled(volume).reshape(self.shape, order="F")

    def voxels(self, voxels: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Yield some voxels in a few volumes at a time: see `VolumeStream.voxels`."""
        for block in self.stream.voxels(voxels):
            yield self._scaled(block)

    def _scaled(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        values = stored.astype(np.float32)
        if (self._slope, self._intercept) != (1.0, 0.0):
            values *= self._slope
            values += self._intercept
        return values


def open_volumes(path: Path) -> VolumeSeries:
    """Read the header of a NIfTI file (``.nii`` or ``.nii.gz``) of one or many volumes.

    Raises
    ------
    InvalidFileError
        If it is none.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
        # Loading clears where and how the header says that values are stored; the proxy knows.
        header, stored = image.header, image.dataobj
        shape = stored.shape
        if len(shape) not in (3, 4):
            raise ValueError(f"it has shape {shape}")
        zooms = [float(zoom) for zoom in header.get_zooms()]
        unit = header.get_xyzt_units()[1]
    except FileNotFoundError as error:
        raise InvalidFileError(f"There is no {path}.", next_step="download it again.") from error
    except (ImageFileError, OSError, EOFError, ValueError, AttributeError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    seconds = zooms[3] * _SECONDS.get(unit, 1.0) if len(shape) == 4 else 0.0
    return VolumeSeries(
        stream=VolumeStream(
            path,
            shape[:3],
            n_volumes=shape[3] if len(shape) == 4 else 1,
            dtype=stored.dtype,
            offset=int(stored.offset),
        ),
        affine=header.get_best_affine(),
        zooms=(zooms[0], zooms[1], zooms[2]),
        tr=seconds if seconds > 0 else None,
        _slope=float(stored.slope),
        _intercept=float(stored.inter),
    )


def _damaged(path: Path, problem: str) -> InvalidFileError:
    return InvalidFileError(
        f"{path} is not a readable NIfTI file: {problem}.",
        next_step="download or make it again; it is probably truncated.",
    )
