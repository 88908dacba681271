"""One version of a remote object as a seekable file."""

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nsd_pipeline.storage.source import ObjectInfo

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from nsd_pipeline.storage.source import Source

_BLOCK: Final = 2**20
"""An HDF5 file's scattered metadata are a few such blocks; an image of NSD is half of one."""
_N_BLOCKS: Final = 32


class RangeFile(io.RawIOBase):
    """Read-only file over range requests, with the most recently used blocks kept in memory.

    Parameters
    ----------
    source
        What to read from.
    info
        The version of the object that every read is bound to.
    """

    def __init__(self, source: "Source", info: ObjectInfo) -> None:
        self.name = f"{source.url}/{info.key}"
        self._source = source
        self._info = info
        self._position = 0
        self._block = lru_cache(maxsize=_N_BLOCKS)(self._read_block)

    def _read_block(self, number: int) -> bytes:
        start = number * _BLOCK
        length = min(_BLOCK, self._info.n_bytes - start)
        return self._source.read(self._info.key, start, length, etag=self._info.etag)

    def readable(self) -> bool:
        """Whether this can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether this can be repositioned: yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.n_bytes}
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"cannot seek to {position}, before the start of {self.name}")
        self._position = position
        return position

    def tell(self) -> int:
        """Present position."""
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as the object reaches; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._info.n_bytes - self._position))
        done = 0
        while done < wanted:
            number, start = divmod(self._position, _BLOCK)
            part = self._block(number)[start : start + wanted - done]
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return wanted
