"""A disk of its own for a store: it can be full, and its power can go.

An ext4 file system in an image. As xfstests does, the power goes by ``EXT4_IOC_SHUTDOWN``: what was
not synced yet is lost, whatever asks for more fails, and mounting it again reads its journal.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BYTES: Final = 2**28
_SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_THE_JOURNAL: Final = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk."""

    folder: Path
    image: Path

    def cut_power(self) -> None:
        """Take the power away; the folder is of no use until :meth:`mount_again`."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_THE_JOURNAL)
        finally:
            os.close(descriptor)

    def mount_again(self) -> None:
        """Find what the disk has kept; nobody may have a file of it open any more."""
        subprocess.run(["umount", str(self.folder)], check=True)
        _mount(self).check_returncode()

    @contextmanager
    def filled(self, n_left: int) -> Iterator[None]:
        """All but so many bytes are used."""
        ballast = self.folder / ".ballast"
        free = os.statvfs(self.folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - n_left)
        try:
            yield
        finally:
            ballast.unlink()


def _mount(disk: SmallDisk) -> subprocess.CompletedProcess[bytes]:
    command = ["mount", "-o", "loop", str(disk.image), str(disk.folder)]
    return subprocess.run(command, capture_output=True, check=False)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk | None]:
    """A disk in a new folder, None where this user may not have one."""
    folder.mkdir()
    disk = SmallDisk(folder, folder.with_suffix(".ext4"))
    with disk.image.open("wb") as file:
        file.truncate(_BYTES)
    make = shutil.which("mkfs.ext4")
    if not make or os.getuid() != 0:
        yield None
        return
    subprocess.run([make, "-q", "-m", "0", str(disk.image)], check=True)
    if _mount(disk).returncode:  # as in a container without privileges
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(folder)], check=True)
