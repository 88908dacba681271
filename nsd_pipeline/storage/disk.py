"""Room on a disk: asked for before writing, and a full disk told as such."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsd_pipeline.errors import StorageFullError

_NEXT_STEP = "free some space there, or set NSD_STORAGE to a larger disk, and run this step again."


@contextmanager
def room_for(folder: Path, n_bytes: int) -> Iterator[None]:
    """Check for room before a block that writes, and name the disk if it fills up within.

    Parameters
    ----------
    folder
        An existing folder on the disk.
    n_bytes
        What is about to be written.

    Raises
    ------
    StorageFullError
        If the disk has, or proves to have, too little room.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise StorageFullError(
            f"The disk of {folder} has {_human(free)} left, and {_human(n_bytes)} are needed.",
            next_step=_NEXT_STEP,
        )
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"The disk of {folder}, or its quota, is full: {error.strerror}.",
                next_step=_NEXT_STEP,
            ) from error
        raise


def _human(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.2f} MB"
