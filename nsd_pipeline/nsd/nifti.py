"""NIfTI files of betas, masks and time series: what the header says, volumes, some of their voxels.

A session at 1.8 mm is a gigabyte when unpacked, at 1 mm in MNI space eleven, a run 300 MB to 1 GB,
and gzip can only be read from the front. So volumes are unpacked one after the other, the voxels
that are wanted are taken out, and the rest is forgotten. Unpacking is what takes the time: ISA-L
does it three times as fast as Python's own zlib.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.text_tables import check_content

HEADER_PART: Final = 2**16
"""Bytes from the front of a file that hold its header, whatever the compression."""

_HEADER_BYTES: Final = {1: 348, 2: 540}
"""Length of the header by the version of the format."""
_GZIP_MOST: Final = 1032
"""How many times as long as the file its unpacked content can be: what deflate reaches at most."""
_SECONDS: Final = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_VOLUMES_AT_ONCE: Final = 32


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """What a NIfTI header says of volumes.

    A file has `n_volumes` (trials of a session, samples of a run, 1 for a mask) of `shape`, voxels
    along x, y and z. Values are stored as `dtype`, from byte `data_offset` of the unpacked file on,
    x fastest, volumes slowest, and are multiplied with `slope` before `intercept` is added. The
    affine (4, 4) is from 0-based voxel indices to mm, `zooms` are the size of a voxel along each
    axis in mm, and `tr` the seconds from one volume to the next, None if the header does not say.
    """

    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[Any]
    data_offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    zooms: tuple[float, float, float]
    tr: float | None


@dataclass(frozen=True, eq=False)
class VolumeSeries(VolumeHeader):
    """A NIfTI file on this machine, its header read; gzipped if its name ends in ``.gz``."""

    path: Path

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Yield each volume (X, Y, Z), scaled as the header says.

        An InvalidFileError if the file is damaged, or shorter or longer than its header says.
        """
        for volume in self._stored():
            yield self._scaled(volume.astype(np.float32)).reshape(self.shape, order="F")

    def voxels(self, voxels: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Yield some voxels in a few volumes at a time: (n, k), scaled as the header says.

        The voxels (n,) are indices in C order into a volume. The next volumes are unpacked, in a
        thread, while the caller works on those it got. Errors are those of `volumes`.
        """
        places = np.ravel_multi_index(np.unravel_index(voxels, self.shape), self.shape, order="F")
        volumes = self._stored()

        def unpack() -> NDArray[np.float32] | None:
            rows = [volume[places] for volume in islice(volumes, _VOLUMES_AT_ONCE)]
            return self._scaled(np.stack(rows, dtype=np.float32)).T if rows else None

        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(unpack)
            while (block := pending.result()) is not None:
                pending = pool.submit(unpack)
                yield block

    def _scaled(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        if (self.slope, self.intercept) != (1.0, 0.0):
            stored *= self.slope
            stored += self.intercept
        return stored

    def _stored(self) -> Iterator[NDArray[Any]]:
        """Yield each volume, flat, as it is stored."""
        from isal import igzip

        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        packed = self.path.suffix == ".gz"
        opened: Any = igzip.IGzipFile if packed else Path.open
        truncated = _damaged(self.path, f"is truncated: {self.n_volumes} volumes were expected")
        # Before memory is reserved for a volume of a size that the header alone claims.
        if self.n_volumes * n_bytes > self.path.stat().st_size * (_GZIP_MOST if packed else 1):
            raise truncated
        with opened(self.path, "rb") as file:
            try:
                file.seek(self.data_offset)
                for _ in range(self.n_volumes):
                    raw = file.read(n_bytes)
                    if len(raw) != n_bytes:
                        raise truncated
                    yield np.frombuffer(raw, self.dtype)
                # The end of a compressed file holds its checksum.
                if file.read(1):
                    raise _damaged(self.path, "is longer than its header says")
            except _unpacking_errors() as error:
                raise _damaged(self.path, f"is truncated or damaged ({error})") from error


def parse_header(start: bytes, *, name: str) -> VolumeHeader:
    """Read the header out of the first `HEADER_PART` bytes of a ``.nii`` or ``.nii.gz`` file.

    An InvalidFileError if it is none.
    """
    from isal import isal_zlib
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        if name.endswith(".gz"):
            start = isal_zlib.decompressobj(wbits=31).decompress(start, max(_HEADER_BYTES.values()))
        second = Nifti2Header.may_contain_header(start)
        header = (Nifti2Header if second else Nifti1Header)(start[: _HEADER_BYTES[1 + second]])
        shape = [int(n) for n in header.get_data_shape()]
        if len(shape) not in (3, 4) or min(shape) < 1:
            raise HeaderDataError(f"it has shape {tuple(shape)}")
        if header.get_data_dtype().kind not in "iuf":
            raise HeaderDataError(f"it holds {header.get_data_dtype()}")
        slope, intercept = header.get_slope_inter()
        zooms = [float(zoom) for zoom in header.get_zooms()]
        seconds = zooms[3] * _SECONDS.get(header.get_xyzt_units()[1], 1.0) if shape[3:] else 0.0
        return VolumeHeader(
            shape=(shape[0], shape[1], shape[2]),
            n_volumes=shape[3] if shape[3:] else 1,
            dtype=header.get_data_dtype(),
            data_offset=header.get_data_offset(),
            slope=1.0 if slope is None else slope,
            intercept=0.0 if intercept is None else intercept,
            affine=header.get_best_affine(),
            zooms=(zooms[0], zooms[1], zooms[2]),
            tr=seconds if seconds > 0 else None,
        )
    except (
        HeaderDataError,
        WrapStructError,
        OverflowError,
        KeyError,
        *_unpacking_errors(),
    ) as error:
        raise _damaged(name, f"is not a readable NIfTI file: {error}") from error


def open_volumes(path: Path) -> VolumeSeries:
    """Read the header of a ``.nii`` or ``.nii.gz`` file; an InvalidFileError if it is none."""
    check_content(path, next_step="download or make it again.")
    with path.open("rb") as file:
        return VolumeSeries(**vars(parse_header(file.read(HEADER_PART), name=str(path))), path=path)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Voxels of a mask that are not 0: (X, Y, Z).

    An InvalidFileError if the file is not one volume, or is damaged.
    """
    mask = open_volumes(path)
    if mask.n_volumes != 1:
        raise _damaged(path, f"has {mask.n_volumes} volumes, where a mask has one")
    (values,) = mask.volumes()  # to the end, which holds the checksum
    return np.asarray(values != 0)


def _damaged(name: object, problem: str) -> InvalidFileError:
    return InvalidFileError(
        f"{name} {problem}.",
        next_step="download or make it again; a mirror's copy may be incomplete.",
    )


def _unpacking_errors() -> tuple[type[Exception], ...]:
    """What unpacking raises when a file is damaged."""
    from isal import isal_zlib

    # Its stub calls the class an instance.
    return (EOFError, OSError, ValueError, cast("type[Exception]", isal_zlib.error))
