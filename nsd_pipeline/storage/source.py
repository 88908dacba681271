"""The dataset as something to read from: a bucket, or a local mirror read in place.

A mirror is whatever a lab has: files, links to files, folders that are links to another disk, a
DataLad clone of which only a part was fetched. Links are followed wherever they lead, out of the
mirror as well: who may make one there may also put a file there. What follows from that:

- A link to a folder above it ends there, or the listing would have no end.
- A link that leads nowhere is a file that is not there. A clone has one for every file that was not
  fetched, so a listing leaves them out, and says so once. To read one is an error.
- A folder that cannot be listed, such as one that this user may not enter or one on a disk that is
  away, is an error. It would look empty, and nothing would ever be made of what it holds.
- Names that start with a dot are none of the dataset's (``.git``, ``.DS_Store``, macOS's ``._*``).
"""

import errno
import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from nsd_pipeline.errors import SourceChangedError, SourceError
from nsd_pipeline.storage.checksums import Checksum, Verdict
from nsd_pipeline.storage.names import check_object_key

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DEFAULT_URL: Final = "s3://natural-scenes-dataset"
DEFAULT_REGION: Final = "us-east-2"
DEFAULT_CONCURRENCY: Final = 32
"""Requests in flight at once. S3 takes 20 to 50 ms to the first byte whatever the size, so that one
connection moves few small ranges; 32 of them fill a gigabit with ranges of 40 kB. On loopback,
where nothing waits, 8 and 32 measure the same."""

_BLOCK: Final = 2**20
"""An HDF5 file's scattered metadata are a few such blocks; an image of NSD is half of one."""
_N_BLOCKS: Final = 32
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Nothing is there: a link in a circle leads nowhere too."""
_Identity = tuple[int, int]
_told: Final[set[Path]] = set()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectInfo:
    """One version of one object, by its key relative to the source's root.

    `etag` is what identifies this version: the source's ETag, or what stands in for one. Opaque.
    `checksum` is that of all its bytes, where the source states one.
    """

    key: str
    n_bytes: int
    etag: str
    checksum: Checksum | None = None


class Source(Protocol):
    """The dataset, read and never written.

    Every method raises :class:`SourceError` for an object that is not there or not readable,
    and :class:`TermsNotAcceptedError` before the first byte where terms are required. Methods may
    be called from several threads.
    """

    url: str
    """The root, as a person would write it."""
    requires_terms: bool
    """Whether NSD's terms must have been accepted before anything is read."""
    max_concurrency: int
    """How many reads to have in flight at once."""

    def describe(self, key: str) -> ObjectInfo:
        """Size and version of an object."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Sorted keys that start with a prefix."""
        ...

    def read(self, key: str, offset: int, length: int, *, etag: str) -> bytes:
        """Exactly `length` bytes of one version; a SourceChangedError if it is another by now."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Open one version of an object as a seekable file, for libraries such as h5py."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Path of the object if it is a file on this machine, else None."""
        ...


def read_whole(source: Source, info: ObjectInfo) -> bytes:
    """All bytes of one version of a small object, compared with its checksum where it has one.

    A SourceError if it cannot be read, or arrives damaged twice; a SourceChangedError if the object
    is no longer that version.
    """
    verdict = Verdict(f"{source.url}/{info.key}", info.checksum)
    while True:
        content = source.read(info.key, 0, info.n_bytes, etag=info.etag)
        if verdict.accepts(lambda content=content: [content]):  # type: ignore[misc]
            return content


def source_changed(name: str) -> SourceChangedError:
    """Error for an object that is not the version that was asked for."""
    return SourceChangedError(
        f"{name} was replaced while it was being read.",
        next_step="run this step again; it starts over with the new version.",
    )


def too_short(name: str, n_bytes: int, offset: int, length: int) -> SourceError:
    """Error for an object that does not reach as far as it was asked for."""
    return SourceError(
        f"{name} has {n_bytes} bytes, too few for {length} bytes from {offset}.",
        next_step="check that the object, or the mirror's copy of it, is complete and of the "
        "expected shape.",
    )


class RangeFile(io.RawIOBase):
    """Read-only file over range requests, with the most recently used blocks kept in memory.

    Every read is bound to one version of the object.
    """

    def __init__(self, source: Source, info: ObjectInfo) -> None:
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


class LocalMirror:
    """A folder with the dataset's files under the bucket's keys. Read in place; nothing is copied.

    Implements :class:`Source`; a version is told by size and modification time. The folder is the
    one that holds ``nsddata``, ``nsddata_betas``, ...; a SourceError if it does not exist, or
    cannot be entered. `max_concurrency` is how many reads
    :func:`~nsd_pipeline.storage.transfer.fetch` may have in flight.
    """

    requires_terms = False

    def __init__(self, folder: Path, *, max_concurrency: int = DEFAULT_CONCURRENCY) -> None:
        self.folder = folder.absolute()
        self.url = str(self.folder)
        self.max_concurrency = max_concurrency
        if not _is_folder(self.folder):
            raise SourceError(
                f"There is no folder {self.folder} to read the dataset from.",
                next_step="set NSD_SOURCE to your mirror's folder (it holds `nsddata_betas`) or to "
                f"{DEFAULT_URL}.",
            )

    def describe(self, key: str) -> ObjectInfo:
        """Size and version of a file; see :meth:`Source.describe`."""
        with self.open(key) as file, _reading(self.local_path(key)):
            return _described(key, file)

    def list(self, prefix: str) -> list[str]:
        """Sorted keys of the files that start with a prefix, as on S3 not only below a folder.

        A SourceError if a folder that has such keys cannot be listed.
        """
        parent, _, start = prefix.rpartition("/")
        folder = self.folder / check_object_key(parent) if parent else self.folder
        if not _is_folder(folder):
            return []
        # Those above as well, or what a link back lists would depend on where the listing starts.
        above = [_identity(each) for each in folder.parents if each.is_relative_to(self.folder)]
        files = _files(folder, start, frozenset(above))
        return sorted(file.relative_to(self.folder).as_posix() for file in files)

    def read(self, key: str, offset: int, length: int, *, etag: str) -> bytes:
        """Exactly `length` bytes of one version of a file; see :meth:`Source.read`."""
        with self.open(key) as file, _reading(self.local_path(key)):
            # The version is compared after reading: a file that changes meanwhile is noticed.
            data = _read_all(file.fileno(), length, offset)
            info = _described(key, file)
        if info.etag != etag:
            raise source_changed(f"{self.url}/{key}")
        if len(data) != length:
            raise too_short(f"{self.url}/{key}", info.n_bytes, offset, length)
        return data

    def open(self, key: str) -> BinaryIO:
        """Open a file; see :meth:`Source.open`."""
        path = self.local_path(key)
        with _reading(path):
            # Before it is opened, since opening a pipe would wait for somebody to write into it.
            if stat.S_ISFIFO(path.stat().st_mode):
                raise OSError(errno.EINVAL, "it is a pipe")
            return path.open("rb")

    def local_path(self, key: str) -> Path:
        """Path of the file that holds an object; see :meth:`Source.local_path`."""
        return self.folder / check_object_key(key)


def _described(key: str, file: BinaryIO) -> ObjectInfo:
    status = os.fstat(file.fileno())
    return ObjectInfo(key, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _read_all(descriptor: int, length: int, offset: int) -> bytes:
    """That number of bytes, or fewer at the end of the file."""
    data = b""
    # A network file system may return less than was asked for.
    while len(data) < length and (part := os.pread(descriptor, length - len(data), offset)):
        data, offset = data + part, offset + len(part)
    return data


def _is_folder(path: Path) -> bool:
    """Whether a folder is there. One that a link promises and does not have is an error."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno in _ABSENT and _lost_link(path) is None:
            return False
        raise _unreadable(path, error) from error


def _identity(folder: Path) -> _Identity:
    with _reading(folder):
        status = folder.stat()
    return status.st_dev, status.st_ino


def _files(folder: Path, start: str, above: frozenset[_Identity]) -> Iterator[Path]:
    """Yield the files below a folder, of which the first part of the name starts with `start`."""
    identity = _identity(folder)
    if identity in above:
        return
    with _reading(folder), os.scandir(folder) as found:
        entries = [each for each in found if each.name.startswith(start) and each.name[0] != "."]
    for entry in entries:
        path = folder / entry.name
        try:
            if entry.is_symlink():
                entry.stat()  # fails for a link that leads nowhere: is_dir would just say no
            if entry.is_dir():
                yield from _files(path, "", above | {identity})
            elif entry.is_file():
                yield path
        except OSError as error:
            if error.errno not in _ABSENT:
                raise _unreadable(path, error) from error
            _tell_lost_link(folder, path)


def _lost_link(path: Path) -> Path | None:
    """Find the link on the way to a path that leads nowhere, if that is why nothing is there."""
    for part in [*reversed(path.parents), path]:
        if part.is_symlink() and not part.exists():
            return part
    return None


def _tell_lost_link(folder: Path, link: Path) -> None:
    """Say it once for each folder: a schedule lists them again at every tick."""
    if folder not in _told:
        _told.add(folder)
        _log.warning(
            "%s has links that lead nowhere, such as %s. They count as files that are not there;"
            " fetch them (`datalad get`), or mount the disk that they lead to.",
            folder,
            link.name,
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell why a path of the mirror cannot be read."""
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SourceError:
    link = _lost_link(path) if error.errno in _ABSENT else None
    if link is not None:
        return SourceError(
            f"The mirror's {path} cannot be read: {link} is a link to {link.readlink()}, which"
            " is not there.",
            next_step="fetch it (`datalad get` or `git annex get` in a clone), or mount the disk"
            " that the link leads to.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceError(
            f"The mirror's {path} may not be read by this user: {error.strerror}.",
            next_step="let this user read it (`chmod -R o+rX`, or its group), and enter every"
            " folder above it.",
        )
    return SourceError(
        f"The mirror's {path} cannot be read: {error.strerror or error}.",
        next_step="add the file to the mirror, check the disk that it lies on, or set NSD_SOURCE to"
        " a source that has it.",
    )
