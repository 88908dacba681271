"""Zarr groups whose chunks cannot go missing, or become another version's, unnoticed.

Zarr reads a chunk that is not there as fill values. For an artifact that is replaced or damaged
while it is being read, that would turn into wrong numbers; the manifest tells which files exist.
"""

from collections.abc import Callable, Collection
from io import FileIO
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

if TYPE_CHECKING:
    from typing import Self


class _GuardedStore(WrapperStore[Any]):  # type: ignore[misc]  # zarr is not followed
    def __init__(
        self,
        store: Store,
        files: Collection[str],
        error: Callable[[str], Exception],
        check: Callable[[], None],
    ) -> None:
        super().__init__(store)
        self._files = files
        self._error = error
        self._check = check

    def _with_store(self, store: Any) -> "Self":
        return type(self)(store, self._files, self._error, self._check)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value: Buffer | None = await self._store.get(key, prototype, byte_range)
        self._check()
        if value is None and key in self._files:
            raise self._error(key)
        return value

    def open_file(self, key: str) -> FileIO | None:
        """File of a key, unbuffered, if the group lies in a local folder.

        What is read from it is of the version that was opened, whatever happens meanwhile.
        """
        if not isinstance(self._store, LocalStore):
            return None
        try:
            file = FileIO(self._store.root / key)
        except FileNotFoundError:
            raise self._error(key) from None
        try:
            self._check()
        except BaseException:
            file.close()
            raise
        return file


def open_group(
    store: Store,
    files: Collection[str],
    error: Callable[[str], Exception],
    check: Callable[[], None] = lambda: None,
) -> zarr.Group:
    """Open a group read-only.

    Parameters
    ----------
    store
        A read-only Zarr store.
    files
        Names that must exist in it.
    error
        Makes the exception for a name that does not.
    check
        Called after every read, before its value is handed out; raises if the files have become
        those of another version.
    """
    return zarr.open_group(_GuardedStore(store, files, error, check), mode="r")
