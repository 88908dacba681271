"""What must survive a power cut, and how a folder takes another's place at once.

A file system may write the names of files before their bytes, and forgets either when the power
goes. What has been synced is kept: bytes of files, and the folders that name them.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""How some network file systems say that their folders need no, or know no, sync."""


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
    paths = [
        path
        for parent, _, names in os.walk(folder)
        for path in (Path(parent), *map(Path(parent).joinpath, names))
    ]
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
