"""What NSD's HDF5 files may be made of, their index read from a bucket, and parts of them kept.

HDF5 can place a dataset in any other file of the machine, by a link, by external storage or by a
virtual dataset. NSD's files do not, so one that does is not NSD's, and would read what somebody
else chose.

The index of chunks is a tree of small nodes that lie between the chunks, so HDF5 reads thousands of
them one after the other, and each would cost the time of a request. But a node above the leaves
names all of its children: when such a node is read, they are fetched together, before HDF5 asks
for them. This guesses what HDF5 will ask for next, and nothing more: HDF5 alone interprets the
bytes, and what was not guessed is fetched when it is asked for.
"""

import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import DTypeLike

from nsd_pipeline.errors import InvalidFileError, parsing
from nsd_pipeline.storage.source import ObjectInfo, RangeFile, Source

if TYPE_CHECKING:
    import h5py
    from _typeshed import WriteableBuffer


def reading(name: str) -> AbstractContextManager[None]:
    """Turn what HDF5 raises for a damaged file into an InvalidFileError that names the file."""
    return parsing(
        lambda problem: InvalidFileError(
            f"{name} is not a whole, readable HDF5 file ({problem}).",
            next_step="download it again; a mirror's copy may be incomplete.",
        )
    )


def own_member(file: "h5py.File", member: str, *, name: str) -> Any:
    """Dataset or group at the root of a file (`name` in errors), None if there is none.

    An InvalidFileError if it, or its data, lies in another file.
    """
    import h5py

    problem = found = None
    # Not opened before it is known to be no link: that would open the other file.
    if isinstance(file.get(member, getlink=True), h5py.ExternalLink):
        problem = "is a link to another file"
    elif isinstance(found := file.get(member), h5py.Dataset):
        if found.external:
            problem = "has its data in another file (external storage)"
        elif found.is_virtual:
            problem = "is put together from other datasets (virtual)"
    if problem:
        raise InvalidFileError(
            f"{name}: {member} {problem}.",
            next_step="use NSD's own file: download it again, or point the mirror to a whole copy.",
        )
    return found


# A node of HDF5's version 1 B-tree (HDF5 File Format Specification, III.A.1).
_SIGNATURE: Final = b"TREE"
_CHUNKS: Final = 1
_HEADER: Final = struct.Struct("<4sBBHQQ")
_ADDRESS: Final = struct.Struct("<Q")


class IndexFile(RangeFile):
    """A remote file, read by exact ranges instead of blocks, with the nodes of its index ahead.

    Every read is bound to one version of the object. The dataset's number of axes gives the size of
    a key of the tree; `n_bytes` and `n_requests` count what has been fetched.
    """

    def __init__(self, source: Source, info: ObjectInfo, n_axes: int) -> None:
        super().__init__(source, info)
        self.n_bytes = 0
        self.n_requests = 0
        self._key_bytes = 8 + 8 * (n_axes + 1)
        self._fetched: dict[tuple[int, int], bytes] = {}
        self._pool = ThreadPoolExecutor(source.max_concurrency)

    def close(self) -> None:
        """Let go of the threads that fetch ahead."""
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as the object reaches; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._info.n_bytes - self._position))
        wanted = (self._position, length)
        if wanted not in self._fetched:
            self._fetched[wanted] = self._read(wanted)
            self._count([wanted])
        data = self._fetched.pop(wanted)
        ahead = [child for child in self._children(data) if child not in self._fetched]
        self._count(ahead)
        for child, node in zip(ahead, self._pool.map(self._read, ahead), strict=True):
            self._fetched[child] = node
        view[:length] = data
        self._position += length
        return length

    def _count(self, parts: list[tuple[int, int]]) -> None:
        self.n_requests += len(parts)
        self.n_bytes += sum(length for _, length in parts)

    def _read(self, part: tuple[int, int]) -> bytes:
        offset, length = part
        return self._source.read(self._info.key, offset, length, etag=self._info.etag)

    def _children(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where the nodes below one of the tree's upper nodes lie; nothing for other bytes."""
        if len(data) < _HEADER.size or not data.startswith(_SIGNATURE):
            return
        _, kind, level, n_children, _, _ = _HEADER.unpack_from(data)
        if kind != _CHUNKS or level == 0:
            return
        step = self._key_bytes + _ADDRESS.size
        first = _HEADER.size + self._key_bytes
        for place in range(first, min(first + n_children * step, len(data) - 7), step):
            (address,) = _ADDRESS.unpack_from(data, place)
            if address + len(data) <= self._info.n_bytes:
                yield address, len(data)


def npy_header(shape: tuple[int, ...], dtype: DTypeLike) -> bytes:
    """Start of an ``.npy`` file in C order, for `fetch` to write before the values that it gets."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()
