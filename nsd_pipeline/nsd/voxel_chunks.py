"""Reader of NSD's HDF5 betas, in which every voxel (or vertex) is a chunk of its own.

A chunk holds one voxel in all trials of a session, uncompressed, so that it can be read
without HDF5 once its place in the file is known. HDF5 says where the chunks lie; the bytes are then
read directly, neighbours together, whether the file is here or on a bucket.
"""

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.hdf5 import own_member, reading

if TYPE_CHECKING:
    import h5py

DATASET: Final = "betas"
VALUE: Final = np.dtype("<i2")

_BRIDGE_BYTES: Final = 2**15
"""A gap between wanted chunks is read too if it is not larger: one more request would take as long
(0.3 ms at a gigabit, with 32 requests in flight)."""
_PART_BYTES: Final = 24 * 2**20
"""What is in memory at once."""


@dataclass(frozen=True)
class VoxelLayout:
    """What an HDF5 file of betas holds, and where.

    Its voxels (X, Y, Z), or vertices (V,), each have a chunk of as many values as there are trials.
    `offsets` (n_voxels,) are the bytes of the file where the chunks start; voxels in C order.
    """

    shape: tuple[int, ...]
    n_trials: int
    offsets: NDArray[np.int64]

    @property
    def chunk_bytes(self) -> int:
        """Size of a chunk."""
        return self.n_trials * VALUE.itemsize


@dataclass(frozen=True)
class ChunkPlan:
    """Some voxels in the order of the file, with what lies between neighbours.

    `voxels` (n,) are indices in C order of the layout's shape, and `offsets` (n,), increasing,
    where their chunks of `chunk_bytes` start.
    """

    voxels: NDArray[np.int64]
    offsets: NDArray[np.int64]
    chunk_bytes: int

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Offset and length of each run of chunks that follow one another."""
        starts = np.flatnonzero(
            np.diff(self.offsets, prepend=-1 - self.chunk_bytes) != self.chunk_bytes
        )
        counts = np.diff(starts, append=len(self.offsets))
        lengths = (counts * self.chunk_bytes).tolist()
        return list(zip(self.offsets[starts].tolist(), lengths, strict=True))


def read_shape(file: io.RawIOBase | Path, *, name: str) -> tuple[tuple[int, ...], int]:
    """Shape, (X, Y, Z) or (V,), and number of trials of a file, without its index of chunks.

    `name` is what an error calls the file. An InvalidFileError if it is not HDF5, or not one
    uncompressed chunk of int16 for each voxel.
    """
    import h5py

    with reading(name), h5py.File(file, "r") as opened:
        dataset = _dataset(opened, name)
        return dataset.shape[:0:-1], dataset.shape[0]


def read_layout(file: io.RawIOBase | Path, *, name: str) -> VoxelLayout:
    """Find the chunk of every voxel of a file of betas.

    An InvalidFileError as from `read_shape`, and if a voxel has no chunk.
    """
    import h5py

    with reading(name), h5py.File(file, "r") as opened:
        dataset = _dataset(opened, name)
        # MATLAB counts axes from the other end: h5py sees (trial, z, y, x).
        shape = dataset.shape[:0:-1]
        # Before memory is reserved for voxels that the header alone claims.
        if math.prod(dataset.shape) * VALUE.itemsize > opened.id.get_filesize():
            raise _invalid(name, f"is too short for voxels {shape} in {dataset.shape[0]} trials")
        offsets = np.full(shape, -1, np.int64)

        def note(chunk: "h5py.h5d.StoreInfo") -> None:
            offsets[chunk.chunk_offset[:0:-1]] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        layout = VoxelLayout(shape, dataset.shape[0], offsets.reshape(-1))
    missing = int(np.count_nonzero(layout.offsets < 0))
    if missing:
        raise _invalid(name, f"lacks the values of {missing:,} of {offsets.size:,} voxels")
    return layout


def plan_chunks(layout: VoxelLayout, voxels: NDArray[np.int64]) -> ChunkPlan:
    """Put voxels (n,) in the order of the file, and bridge the small gaps between them.

    They are indices in C order of the layout's shape.
    """
    order = np.argsort(layout.offsets, kind="stable")
    wanted = np.zeros(len(order), np.bool_)
    wanted[voxels] = True
    wanted = wanted[order]
    offsets = layout.offsets[order]
    # Numbers stretches of chunks with nothing else between them: only there can a gap be read.
    run = np.cumsum(np.diff(offsets, prepend=offsets[:1]) != layout.chunk_bytes)
    places = np.flatnonzero(wanted)
    gap = np.diff(places) - 1
    bridged = (gap * layout.chunk_bytes <= _BRIDGE_BYTES) & (run[places[1:]] == run[places[:-1]])
    for start, stop in zip(places[:-1][bridged], places[1:][bridged], strict=True):
        wanted[start:stop] = True
    return ChunkPlan(order[wanted], offsets[wanted], layout.chunk_bytes)


def read_chunks(
    path: Path, plan: ChunkPlan
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
    """Read a plan's voxels from a file on this machine, some at a time, in the file's order.

    Yields which ones, (k,), and their values, (k, T) int16. An InvalidFileError if the file ends
    early.
    """
    step = max(1, _PART_BYTES // plan.chunk_bytes)
    with path.open("rb", buffering=0) as file:
        for first in range(0, len(plan.voxels), step):
            some = slice(first, first + step)
            part = ChunkPlan(plan.voxels[some], plan.offsets[some], plan.chunk_bytes)
            raw = b"".join(
                os.pread(file.fileno(), length, offset) for offset, length in part.ranges
            )
            if len(raw) != len(part.voxels) * plan.chunk_bytes:
                raise _invalid(str(path), "is truncated")
            yield part.voxels, np.frombuffer(raw, VALUE).reshape(len(part.voxels), -1)


def _dataset(file: "h5py.File", name: str) -> "h5py.Dataset":
    dataset = own_member(file, DATASET, name=name)
    if not getattr(dataset, "shape", None):
        raise _invalid(name, f"has no dataset {DATASET!r}")
    n_trials, *others = dataset.shape
    if dataset.dtype != VALUE:
        raise _invalid(name, f"holds {dataset.dtype}, where NSD's betas are int16")
    if dataset.chunks != (n_trials, *[1] * len(others)) or dataset.compression is not None:
        raise InvalidFileError(
            f"{name} has chunks of shape {dataset.chunks} and compression {dataset.compression},"
            f" not one uncompressed chunk of {n_trials} trials for each voxel.",
            next_step="set file_format of betas to nii.gz, where the space has it.",
        )
    return dataset


def _invalid(name: str, problem: str) -> InvalidFileError:
    return InvalidFileError(
        f"{name} {problem}.", next_step="download it again; a mirror's copy may be incomplete."
    )
