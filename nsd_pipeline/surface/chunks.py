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


@runtime_checkable
class HasFiles(Protocol):
    """A Zarr store whose values are files, perhaps."""

    def open_file(self, key: str) -> FileIO | None:
        """Open the file that is the value of a key, unbuffered; None if values are no files."""


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
    file = _plain_file(array, number)
    if file is None:
        yield 0, array[first : first + n_rows]
        return
    buffer = np.empty((_BLOCK_ROWS, n_columns), np.float32)
    with file:
        for start in (np.unique(rows // _BLOCK_ROWS) * _BLOCK_ROWS).tolist():
            block = buffer[: n_rows - start]
            file.seek(start * buffer[0].nbytes)
            if file.readinto(block.data.cast("B")) != block.nbytes:
                raise EOFError("its file ends too early")
            yield start, block


def _plain_file(array: Any, number: int) -> FileIO | None:
    """The file of a chunk, if it holds the values as they are in memory."""
    from zarr.codecs import BytesCodec
    from zarr.storage import LocalStore

    if array.metadata.codecs != (BytesCodec(),) or array.dtype != np.float32:
        return None
    store = array.store_path.store
    key = f"{array.store_path.path}/{array.metadata.encode_chunk_key((number, 0))}"
    if isinstance(store, LocalStore):
        return FileIO(store.root / key)
    return store.open_file(key) if isinstance(store, HasFiles) else None
