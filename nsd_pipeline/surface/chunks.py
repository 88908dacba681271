"""Rows of a Zarr array of fMRI, a few at a time, straight from where they lie.

Zarr hands out whole chunks, by way of two copies. Where a chunk is a plain local file, its rows are
read into one small buffer instead, which stays in the processor's cache until they have been used.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS: Final = 8
"""Rows read at once: 0.7 MB on fsaverage5."""

_THREADS: Final = 4
"""Chunks read at once."""


class Check(Protocol):
    """Compares a file with its checksum while it is read from start to end."""

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> None:
        """Raise if what was read is not what was written."""


@runtime_checkable
class HasFiles(Protocol):
    """A Zarr store whose values are files, perhaps."""

    def open_file(self, key: str) -> tuple[FileIO, Check | None] | None:
        """Open the file that is the value of a key, unbuffered; None if values are no files.

        With it comes a check, if all of the file is still to be compared with its checksum.
        """


def read_rows(
    array: Any,
    wanted: NDArray[np.int64],
    take: Callable[[slice, NDArray[np.float32]], None],
    damaged: Callable[[int, Exception], Exception],
) -> None:
    """Read rows of an array, several chunks at once; a chunk without any of them is not read.

    Parameters
    ----------
    array : zarr.Array of shape (R, V), float32
        Its chunks hold whole rows.
    wanted : array of shape (N,)
        Numbers of the rows, ascending.
    take
        Is given a slice of the N rows and their values (n, V), good until it returns. Called from
        several threads.
    damaged
        Makes the exception for a chunk that cannot be read, from its first row and what was wrong.
    """
    chunk_rows = array.chunks[0]

    def read_chunk(number: int) -> None:
        start = number * chunk_rows
        first, last = np.searchsorted(wanted, (start, start + chunk_rows))
        blocks = _blocks(array, number, wanted[first:last] - start)
        while True:
            try:
                found = next(blocks, None)
            except (ValueError, EOFError, FileNotFoundError) as error:
                raise damaged(start, error) from error
            if found is None:
                break
            offset, block = found
            begin = start + offset
            first, last = np.searchsorted(wanted, (begin, begin + len(block)))
            rows = wanted[first:last] - begin
            take(slice(first, last), block if len(rows) == len(block) else block[rows])

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(read_chunk, np.unique(wanted // chunk_rows).tolist()):
            pass  # what a thread raised is raised here


def _blocks(
    array: Any, number: int, rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blocks of a chunk that hold some of these rows of it, each after its first row's number."""
    n_rows, n_columns = array.shape
    first = number * array.chunks[0]
    n_rows = min(array.chunks[0], n_rows - first)
    plain = _plain_file(array, number)
    if plain is None:
        yield 0, array[first : first + n_rows]
        return
    file, check = plain
    buffer = np.empty((_BLOCK_ROWS, n_columns), np.float32)
    wanted = np.unique(rows // _BLOCK_ROWS) * _BLOCK_ROWS
    # A checksum is one of all blocks; they pass by in the processor's cache, which costs little.
    starts = wanted if check is None else np.arange(0, n_rows, _BLOCK_ROWS)
    is_wanted = np.isin(starts, wanted)
    with file:
        for start, is_taken in zip(starts.tolist(), is_wanted.tolist(), strict=True):
            block = buffer[: n_rows - start]
            file.seek(start * buffer[0].nbytes)
            _fill(file, block.data.cast("B"))
            if check is not None:
                check.update(block.data.cast("B"))
            if is_taken:
                yield start, block
        if check is not None:
            # The last chunk has rows beyond the array's.
            while rest := file.read(buffer.nbytes):
                check.update(memoryview(rest))
            check.finish()


def _fill(file: FileIO, view: memoryview) -> None:
    """Fill a buffer; a network file system may return less than was asked for."""
    while view:
        n_read = file.readinto(view)
        if not n_read:
            raise EOFError("its file ends too early")
        view = view[n_read:]


def _plain_file(array: Any, number: int) -> tuple[FileIO, Check | None] | None:
    """The file of a chunk, if it holds the values as they are in memory."""
    from zarr.codecs import BytesCodec
    from zarr.storage import LocalStore

    if array.metadata.codecs != (BytesCodec(),) or array.dtype != np.float32:
        return None
    store = array.store_path.store
    key = f"{array.store_path.path}/{array.metadata.encode_chunk_key((number, 0))}"
    if isinstance(store, LocalStore):
        return FileIO(store.root / key), None
    return store.open_file(key) if isinstance(store, HasFiles) else None
