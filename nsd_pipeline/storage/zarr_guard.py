"""Zarr groups whose files cannot be damaged, go missing or become another version's, unnoticed.

Zarr reads a chunk that is not there as fill values, and one with a flipped bit as numbers. The
manifest tells which files exist and what is in them, so every one is compared with it when it is
read: by its CRC-32, which costs a hundredth of reading it, or by its SHA-256 where an older
manifest has nothing else.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from typing import TYPE_CHECKING, Any, Final

import zarr
from isal.isal_zlib import crc32
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from nsd_pipeline.storage.manifest import FileRecord

if TYPE_CHECKING:
    from typing import Self

_SMALL: Final = 2**17
"""Bytes whose checksum takes no longer than it takes to ask another thread for it."""

Damage = Callable[[str], Exception]
"""Makes the exception for an artifact from what is wrong with it."""


class FileCheck:
    """Compares the bytes of a file with its record, part by part, from start to end.

    `finish` hands on whether all of them were right.
    """

    def __init__(
        self, record: FileRecord, finished: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._record, self._finished = record, finished
        self._n_bytes = self._crc = 0
        self._sha = hashlib.sha256() if record.crc32 is None else None

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        self._n_bytes += data.nbytes
        if self._sha is None:
            self._crc = crc32(data, self._crc)
        else:
            self._sha.update(data)

    @property
    def is_right(self) -> bool:
        """Whether what came is all of the file, as it was written."""
        if self._n_bytes != self._record.bytes:
            return False
        if self._sha is None:
            return self._crc == self._record.crc32
        return self._sha.hexdigest() == self._record.sha256

    def finish(self) -> None:
        """Say that the file ends here."""
        self._finished(self.is_right)


class GuardedStore(WrapperStore[Any]):  # type: ignore[misc]  # zarr is not followed
    """A group's files, each compared with its record: see `open_group`."""

    def __init__(
        self,
        store: Store,
        files: Mapping[str, FileRecord],
        damaged: Damage,
        check: Callable[[], None] | None,
    ) -> None:
        super().__init__(store)
        self._files = files
        self._damaged = damaged
        self._check = check or (lambda: None)
        self._right: set[str] = set()

    def _with_store(self, store: Any) -> "Self":
        return type(self)(store, self._files, self._damaged, self._check)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value, or a part of it, that is as it was written."""
        value = await self._get(key, prototype)
        if value is None or byte_range is None:
            return value
        if isinstance(byte_range, RangeByteRequest):
            return value[byte_range.start : byte_range.end]
        if isinstance(byte_range, OffsetByteRequest):
            return value[byte_range.offset :]
        return value[max(0, len(value) - byte_range.suffix) :]

    async def _get(self, key: str, prototype: BufferPrototype) -> Buffer | None:
        """The whole value: only that can be compared."""
        record = self._files.get(key)
        for _ in range(2):  # a value may only have arrived damaged
            value: Buffer | None = await self._store.get(key, prototype)
            self._check()
            if record is None and value is None:
                return None
            if record is None:
                raise self._damaged(f"its file {key} is none that was written")
            if value is None:
                raise self._damaged(_missing(key))
            if record.bytes <= _SMALL:
                is_right = _is_right(value, record)
            else:
                is_right = await asyncio.to_thread(_is_right, value, record)
            if is_right:
                return value
        raise self._damaged(_differs(key))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read parts of values: see `get`."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def open_file(self, key: str) -> tuple[FileIO, FileCheck | None] | None:
        """File of a key, unbuffered, if the group lies in a local folder.

        What is read from it is of the version that was opened, whatever happens meanwhile. Until it
        has been compared with its record, once, the comparison to make comes with it.
        """
        if not isinstance(self._store, LocalStore):
            return None
        if (record := self._files.get(key)) is None:
            raise self._damaged(f"its file {key} is none that was written")
        try:
            file = FileIO(self._store.root / key)
        except FileNotFoundError:
            self._check()
            raise self._damaged(_missing(key)) from None

        def done(is_right: bool) -> None:
            if not is_right:
                raise self._damaged(_differs(key))
            self._right.add(key)

        try:
            self._check()
        except BaseException:
            file.close()
            raise
        return file, None if key in self._right else FileCheck(record, done)


def open_group(
    store: Store,
    files: Mapping[str, FileRecord],
    damaged: Damage,
    check: Callable[[], None] | None,
) -> zarr.Group:
    """Open a group of a read-only Zarr store.

    `files` is what must be in it, and nothing else; `damaged` makes the exception for what is not.
    `check` is called after every read, before its value is handed out, and raises if the files have
    become those of another version; None where they cannot.
    """
    # Of this format, or zarr looks for the files of others first.
    return zarr.open_group(GuardedStore(store, files, damaged, check), mode="r", zarr_format=3)


def _is_right(value: Buffer, record: FileRecord) -> bool:
    content = FileCheck(record)
    content.update(memoryview(value.as_numpy_array()))
    return content.is_right


def _missing(key: str) -> str:
    return f"its file {key} went missing while it was read"


def _differs(key: str) -> str:
    return f"its file {key} is not what was written: its checksum differs"
