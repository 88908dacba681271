"""One session's fMRI, read row by row: a reader for betas and for time series.

A row is all vertices of one trial (betas) or of one sample (a time series). Betas are z-scored
while they are read, a few rows at a time: a training set of many sessions is filled session by
session, without a second copy. Time series were z-scored by run before they were stored.

Zarr reads whole chunks and copies them twice. Where a chunk is a plain local file, a few rows at a
time are read to where they are wanted, and compared with their checksum and z-scored while they are
in the processor's cache: so all that costs about what ``numpy.load`` of as many numbers does.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import ArtifactError

if TYPE_CHECKING:
    import zarr

    from nsd_pipeline.storage.zarr_guard import FileCheck


_WORDS: Final = {
    "betas": ("surface betas", "fsaverage5_betas", "trial"),
    "series": ("surface time series", "fsaverage5_series", "sample"),
}
"""By the array that a group holds, for messages: what it is, its step, what a row is."""


class SessionRows:
    """One session's rows, opened once and read part by part.

    The group is one that `write_session` or `write_series` made. Some `vertices` are read, such as
    those of a region, or all of them if None. Each vertex's betas are z-scored over all of the
    session's trials, whichever are read, or else in percent signal change; time series are as they
    were stored. `n_rows` and `n_vertices` are the shape of what can be read, and `chunk_rows` are
    stored together.

    An ArtifactError if the group lacks an array or a chunk, or its arrays do not fit each other.
    """

    n_rows: int
    n_vertices: int
    chunk_rows: int

    def __init__(
        self,
        group: "zarr.Group",
        *,
        vertices: NDArray[np.int64] | None = None,
        zscore: bool = True,
    ) -> None:
        # All at once: asking for one after the other took longer than the reading of a session.
        arrays = dict(group.arrays())
        name = "series" if "series" in arrays else "betas"
        self._what, self._made_by, self._row = _WORDS[name]
        self._group, self._vertices = group, vertices
        self._array = self._complete(arrays, name)
        self._zscore: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._invalid = np.empty(0, np.int64)
        # Whether valid vertices lack values. A time series does not say, so it is looked for.
        self._some_missing = bool(group.attrs.get("n_partly_nan", True))
        if name == "betas":
            mean, std, valid = self._statistics(arrays)
            self._invalid = np.flatnonzero(~valid)
            if zscore:
                self._zscore = mean, np.divide(1, std, out=np.zeros_like(std), where=valid)
        self.n_rows, stored_vertices = self._array.shape
        self.n_vertices = stored_vertices if vertices is None else len(vertices)
        self.chunk_rows = int(self._array.chunks[0])

    def read(
        self,
        rows: NDArray[np.int64] | None = None,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Read rows (R,), ascending, or all of them if None, ready for a model: finite everywhere.

        Returns (R, V) float32, which is `out` if that is given, for instance a slice of an array
        for many sessions: zero (the mean, for z-scores) where a value is not finite and throughout
        vertices that are not valid. Beyond it, a few rows are held in memory; of chunks that are no
        local files, four at most. An ArtifactError if a chunk is damaged; a ValueError if `out` has
        another shape or dtype.
        """
        wanted = np.arange(self.n_rows) if rows is None else rows
        shape = (len(wanted), self.n_vertices)
        result = np.empty(shape, np.float32) if out is None else out
        if result.shape != shape or result.dtype != np.float32:
            raise ValueError(
                f"`out` is {result.dtype} of shape {result.shape}; these {self._row}s need"
                f" float32 of shape {shape}."
            )

        def take(place: slice, values: NDArray[np.float32]) -> None:
            chosen = values if self._vertices is None else values[:, self._vertices]
            self._prepare(chosen, result[place])

        def damaged(row: int, error: Exception) -> ArtifactError:
            return self._damaged(f"have a damaged chunk at {self._row} {row} ({error})")

        straight = self._vertices is None and result.flags.c_contiguous
        read_rows(self._array, wanted, take, damaged, into=result if straight else None)
        return result

    def _prepare(self, values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Fill ``out`` (n, V), which may be the very memory that the values (n, V) are in."""
        if self._zscore is None:
            if not np.may_share_memory(values, out):
                out[...] = values
        else:
            mean, scale = self._zscore
            np.subtract(values, mean, out=out)
            out *= scale
        out[:, self._invalid] = 0.0
        if self._some_missing:
            missing = ~np.isfinite(out)
            if missing.any():
                out[missing] = 0.0

    def _statistics(
        self, arrays: Mapping[str, Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Mean, standard deviation and validity (V,) of the vertices that are read."""
        names = ("mean", "std", "valid")
        lacking = [name for name in names if name not in arrays]
        if lacking:
            raise self._damaged(f"lack the array {lacking[0]!r}")
        mean, std, valid = (arrays[name][...] for name in names)
        if not self._array.shape[1] == len(mean) == len(std) == len(valid):
            raise self._damaged("have arrays of different numbers of vertices")
        if self._vertices is None:
            return mean, std, valid
        return mean[self._vertices], std[self._vertices], valid[self._vertices]

    def _complete(self, arrays: Mapping[str, Any], name: str) -> Any:
        """The Zarr array of this name, all chunks of which are there."""
        if name not in arrays:
            raise self._damaged(f"lack the array {name!r}")
        array = arrays[name]
        # Zarr reads a chunk that is not there as its fill value, NaN: plausible zeros for a model.
        if array.nchunks_initialized != array.nchunks:
            raise self._damaged(f"have {array.nchunks_initialized} of {array.nchunks} chunks")
        return array

    def _damaged(self, problem: str) -> ArtifactError:
        return ArtifactError(
            f"The {self._what} at {self._group.store_path} {problem}.",
            next_step=f"make {self._made_by} of this session again.",
        )


def read_session(
    group: "zarr.Group",
    rows: NDArray[np.int64] | None = None,
    *,
    zscore: bool = True,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Read one session's rows, all or some of them: see :meth:`SessionRows.read`."""
    return SessionRows(group, zscore=zscore).read(rows, out=out)


_BLOCK_ROWS: Final = 8
"""Rows read at once: 0.7 MB on fsaverage5."""

_THREADS: Final = 4
"""Chunks read at once."""


def read_rows(
    array: Any,
    wanted: NDArray[np.int64],
    take: Callable[[slice, NDArray[np.float32]], None],
    damaged: Callable[[int, Exception], Exception],
    *,
    into: NDArray[np.float32] | None = None,
) -> None:
    """Read rows of an array, several chunks at once; a chunk without any of them is not read.

    The chunks of the Zarr array (R, V), float32, hold whole rows, and `wanted` (N,) are numbers of
    rows, ascending. `take` is given a slice of the N rows and their values (n, V): those of `into`,
    or others that are overwritten when it has returned. It is called from several threads.
    `damaged` makes the exception for a chunk that cannot be read, from its first row and what was
    wrong. Rows that are stored next to each other may be read to `into` (N, V), float32 and
    contiguous, which saves a copy.
    """
    chunk_rows = array.chunks[0]

    def read_chunk(number: int) -> None:
        start = number * chunk_rows
        first, last = np.searchsorted(wanted, (start, start + chunk_rows)).tolist()
        out = None if into is None else into[first:last]
        blocks = _blocks(array, number, wanted[first:last] - start, out)
        while True:
            # Not around `take`: an error of its own says nothing of the chunk.
            try:
                found = next(blocks, None)
            except (ValueError, EOFError, FileNotFoundError) as error:
                raise damaged(start, error) from error
            if found is None:
                break
            part, values = found
            take(slice(first + part.start, first + part.stop), values)

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(read_chunk, np.unique(wanted // chunk_rows).tolist()):
            pass  # what a thread raised is raised here


def _blocks(
    array: Any, number: int, rows: NDArray[np.int64], out: NDArray[np.float32] | None
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Values of these rows (n,) of a chunk, block by block, each after its slice of the n rows."""
    n_rows, n_columns = array.shape
    first_row = number * array.chunks[0]
    n_rows = min(array.chunks[0], n_rows - first_row)
    plain = _plain_file(array, number)
    if plain is None:
        chunk = array[first_row : first_row + n_rows]
        yield slice(0, len(rows)), chunk if len(rows) == n_rows else chunk[rows]
        return
    file, check = plain
    buffer = np.empty((_BLOCK_ROWS, n_columns), np.float32)
    with file:
        for start in range(0, n_rows, _BLOCK_ROWS):
            n_block = min(_BLOCK_ROWS, n_rows - start)
            first, last = np.searchsorted(rows, (start, start + n_block)).tolist()
            if check is None and first == last:
                continue  # while a checksum is that of all blocks
            whole = last - first == n_block
            block = out[first:last] if whole and out is not None else buffer[:n_block]
            file.seek(start * buffer[0].nbytes)
            _fill(file, block.data.cast("B"))
            if check is not None:
                check.update(block.data.cast("B"))
            if first < last:
                yield slice(first, last), block if whole else block[rows[first:last] - start]
        if check is not None:
            # All chunks are of one size: the last one has rows beyond the array's.
            while rest := file.read(buffer.nbytes):
                check.update(memoryview(rest))
            check.finish()


def _fill(file: FileIO, view: memoryview) -> None:
    """Fill a buffer from a file."""
    while view:  # a network file system may return less than was asked for
        n_read = file.readinto(view)
        if not n_read:
            raise EOFError("its file ends too early")
        view = view[n_read:]


def _plain_file(array: Any, number: int) -> "tuple[FileIO, FileCheck | None] | None":
    """The file of a chunk, if it holds the values as they are in memory, and how it is checked."""
    from zarr.codecs import BytesCodec
    from zarr.storage import LocalStore

    from nsd_pipeline.storage.zarr_guard import GuardedStore

    if array.metadata.codecs != (BytesCodec(),) or array.dtype != np.float32:
        return None
    store = array.store_path.store
    key = f"{array.store_path.path}/{array.metadata.encode_chunk_key((number, 0))}"
    if isinstance(store, LocalStore):
        return FileIO(store.root / key), None
    return store.open_file(key) if isinstance(store, GuardedStore) else None
