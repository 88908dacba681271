"""The volumes of a NIfTI file, one after the other, or some of their voxels.

A session at 1.8 mm is a gigabyte when unpacked, at 1 mm in MNI space eleven, and gzip can only be
read from the front. So volumes are unpacked one after the other, the voxels that are wanted are
taken out, and the rest is forgotten. Unpacking is what takes the time: ISA-L does it three times
as fast as Python's own zlib.
"""

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
