"""A local folder for what is not finished: drafts, downloads to be resumed, locks.

Whoever makes a draft holds its lock, and the operating system drops the lock with the process, so
drafts of dead processes are told from living ones without process ids.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout


class Workspace:
    """What one store keeps outside of its artifacts.

    Parameters
    ----------
    folder
        Made when first needed. On the same disk as the artifacts, if those are to be moved there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drafts = folder / "drafts"

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Make an empty folder that is gone afterwards, and clear away those of dead processes."""
        self._drafts.mkdir(parents=True, exist_ok=True)
        self._clear_dead()
        folder = self._drafts / uuid.uuid4().hex
        lock = self._draft_lock(folder)
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

    def _draft_lock(self, folder: Path) -> Path:
        return folder.with_name(folder.name + ".lock")

    def _clear_dead(self) -> None:
        for folder in self._drafts.iterdir():
            if not folder.is_dir():
                continue
            lock = self._draft_lock(folder)
            try:
                with FileLock(lock, timeout=0):
                    # Another process may be clearing the same one.
                    shutil.rmtree(folder, ignore_errors=True)
            except Timeout:
                continue
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
        return self._folder / "next" / f"{_flat(key)}~"

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
