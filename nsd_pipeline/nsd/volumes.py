"""NIfTI files of many volumes, read from the first to the last volume and never as a whole.

A run of NSD is 300 MB to 1 GB when it is unpacked, of which a projection needs the voxels around
the cortex. A compressed file can only be read in order, so that is what is offered.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.errors import InvalidFileError

_SECONDS: Final = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True, eq=False)
class VolumeSeries:
    """A NIfTI file of volumes, its header read.

    Attributes
    ----------
    path
        The file.
    shape
        Voxels along each axis.
    n_volumes
        Number of volumes.
    affine : array of shape (4, 4)
        From 0-based voxel indices to mm.
    zooms
        Size of a voxel along each axis, in mm.
    tr
        Seconds from one volume to the next as the header has it, None if it does not say.
    """

    path: Path
    shape: tuple[int, int, int]
    n_volumes: int
    affine: NDArray[np.float64]
    zooms: tuple[float, float, float]
    tr: float | None
    _dtype: np.dtype[Any]
    _offset: int
    _slope: float
    _intercept: float

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Yield each volume (X, Y, Z), scaled as the header says.

        Raises
        ------
        InvalidFileError
            If the file is damaged, or ends too early.
        """
        n_bytes = int(np.prod(self.shape)) * self._dtype.itemsize
        with ExitStack() as stack:
            file: Any = stack.enter_context(self.path.open("rb"))
            if self.path.suffix == ".gz":
                file = stack.enter_context(gzip.GzipFile(fileobj=file))
            _read(file, self._offset, self.path)
            for _ in range(self.n_volumes):
                raw = np.frombuffer(_read(file, n_bytes, self.path), self._dtype)
                volume = raw.astype(np.float32).reshape(self.shape, order="F")
                if (self._slope, self._intercept) != (1.0, 0.0):
                    volume *= self._slope
                    volume += self._intercept
                yield volume


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
        path=path,
        shape=shape[:3],
        n_volumes=shape[3] if len(shape) == 4 else 1,
        affine=header.get_best_affine(),
        zooms=(zooms[0], zooms[1], zooms[2]),
        tr=seconds if seconds > 0 else None,
        _dtype=stored.dtype,
        _offset=int(stored.offset),
        _slope=float(stored.slope),
        _intercept=float(stored.inter),
    )


def _read(file: Any, n_bytes: int, path: Path) -> bytes:
    try:
        raw: bytes = file.read(n_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(raw) != n_bytes:
        raise _damaged(path, "it ends before its last volume")
    return raw


def _damaged(path: Path, problem: str) -> InvalidFileError:
    return InvalidFileError(
        f"{path} is not a readable NIfTI file: {problem}.",
        next_step="download or make it again; it is probably truncated.",
    )
