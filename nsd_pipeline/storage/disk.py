"""The local disk: room on it, what survives a power cut, and a folder for what is unfinished.

For single files. Artifacts of several files are published by a store (``store``).

A file system may write the names of files before their bytes, and forgets either when the power
goes. What has been synced is kept: bytes of files, and the folders that name them.

Whoever makes a draft holds its lock, and the operating system drops the lock with the process, so
drafts of dead processes are told from living ones without process ids.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from nsd_pipeline.errors import StorageFullError

_log = logging.getLogger(__name__)

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""How some network file systems say that their folders cannot be synced, or need not be."""
_NEXT_STEP: Final = (
    "free some space there, or set NSD_STORAGE (for the cache of a bucket: XDG_CACHE_HOME) to a"
    " larger disk, and run this step again."
)


@contextmanager
def room_for(folder: Path, n_bytes: int) -> Iterator[None]:
    """Check that a folder's disk has room for what a block writes; name it if it fills up.

    A StorageFullError if the disk has, or proves to have, too little room.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise StorageFullError(
            f"The disk of {folder} has {_human(free)} left, and {_human(n_bytes)} are needed.",
            next_step=_NEXT_STEP,
        )
    try:
        yield
    except Exception as error:
        # safetensors, written in Rust, has an error of its own: its text alone has the number.
        told = re.search(r"\(os error (\d+)\)$", str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"The disk of {folder}, or its quota, is full: {os.strerror(number)}.",
                next_step=_NEXT_STEP,
            ) from error
        raise


def _human(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.2f} MB"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write, in the same folder, that takes a path's place if nothing goes wrong.

    It is removed if an error leaves the block. One process at a time may write it. Its mode is the
    umask's, whatever the library that writes it makes of that.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)
        # Or the name could be on the disk before the content, and a power cut leave neither.
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync all files and folders below a folder, and the folder itself."""
    sync_all(
        [
            path
            for parent, _, names in os.walk(folder)
            for path in (Path(parent), *map(Path(parent).joinpath, names))
        ]
    )


def sync_all(paths: Sequence[Path]) -> None:
    """Sync files and folders, in any order."""
    # All at once: the disk orders waiting writes as suits it, and the journal takes many together.
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(sync, paths))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of which will be there after a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def exchange(one: Path, other: Path, *, aside: Path) -> None:
    """Let two folders take each other's place.

    At once on Linux's own file systems. On others (NFS, SMB) and on macOS by renaming: for a moment
    there is nothing at `other`, and what was there is at `aside`.
    """
    rename = _renameat2()
    if rename is not None:
        failed = rename(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        if not failed:
            return
        if (code := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(one), None, str(other))
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """The C library's function, where it has it."""
    with suppress(AttributeError, OSError):
        function = ctypes.CDLL(None, use_errno=True).renameat2
        place = (ctypes.c_int, ctypes.c_char_p)
        function.argtypes = (*place, *place, ctypes.c_uint)
        call: Callable[[int, bytes, int, bytes, int], int] = function
        return call
    return None


class Workspace:
    """What one store keeps outside of its artifacts.

    Its folder is made when first needed, and lies on the artifacts' disk if those are to be moved.
    Messages name the `place` it is in: a draft is gone when they are read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = folder.parent
        self._drafts = folder / "drafts"

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Make an empty folder that is gone afterwards, and clear away those of dead processes."""
        self._drafts.mkdir(parents=True, exist_ok=True)
        self._clear_dead()
        folder = self._drafts / uuid.uuid4().hex
        lock = folder.with_name(f"{folder.name}.lock")
        try:
            # The lock comes before the folder: a folder without a held lock has no living owner.
            with FileLock(lock):
                folder.mkdir()
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder)
        finally:
            lock.unlink(missing_ok=True)

    def _clear_dead(self) -> None:
        # By the locks too: who died just before making its folder has left only that.
        for name in {path.stem for path in self._drafts.iterdir()}:
            lock = self._drafts / f"{name}.lock"
            with suppress(Timeout), FileLock(lock, timeout=0):
                # Another process may be clearing the same one.
                shutil.rmtree(self._drafts / name, ignore_errors=True)
                # While it is held: who has just made it and waits for it then makes another.
                lock.unlink(missing_ok=True)

    def scratch(self, key: str) -> Path:
        """Folder for partial work on an artifact, which the next attempt continues."""
        folder = self._folder / "scratch" / _flat(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_scratch(self, key: str) -> None:
        """Forget the partial work on an artifact."""
        shutil.rmtree(self._folder / "scratch" / _flat(key), ignore_errors=True)

    def next(self, key: str) -> Path:
        """Place of an artifact's files between their publication and their final place."""
        return self._folder / "next" / _flat(key)

    def aside(self, key: str) -> Path:
        """Place of the earlier artifact's files, where two folders cannot be exchanged at once."""
        return self.next(f"{key}~")

    def discard_outlived(self, key: str) -> None:
        """Forget partial work on an artifact that is there, unless a process is at it.

        A kill, or a power cut that forgets a removal, may leave it after the artifact appeared.
        """
        if (self._folder / "scratch" / _flat(key)).exists():
            # A Timeout is an OSError, and so is what a store says that this user may only read.
            with suppress(OSError), self._alone(key).acquire(blocking=False):
                self.discard_scratch(key)

    def _alone(self, key: str) -> FileLock:
        folder = self._folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{_flat(key)}~.lock")

    @contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """Make an artifact in one process of this machine at a time; whether it had to wait."""
        lock = self._alone(key)
        try:
            lock.acquire(blocking=False)
            waited = False
        except Timeout:
            _log.warning("%s is being made by another process of this machine: waiting.", key)
            lock.acquire()
            waited = True
        try:
            yield waited
        finally:
            lock.release()

    def lock(self, key: str) -> AbstractContextManager[object]:
        """Lock of the short moments in which an artifact is replaced.

        Whoever may only read goes without: a store of others, shared read-only, is still readable.
        """
        folder = self._folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return nullcontext()
        if not os.access(folder, os.W_OK):
            return nullcontext()
        return FileLock(folder / f"{_flat(key)}.lock")


def _flat(key: str) -> str:
    return key.replace("/", "+")
