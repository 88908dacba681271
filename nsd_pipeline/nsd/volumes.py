"""Recordings as NIfTI files: what the header says, and their volumes in the unit it says.

A run of NSD is 300 MB to 1 GB when it is unpacked, of which a projection needs the voxels around
the cortex.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.volume_stream import VolumeStream

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
