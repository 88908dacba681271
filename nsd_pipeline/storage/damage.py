"""What is wrong with the files of an artifact, compared with its manifest, in words."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from nsd_pipeline.storage.manifest import Manifest


def wrong_size(manifest: Manifest, size: Callable[[str], int | None]) -> str | None:
    """Name the first file that is missing (its size is None) or of another size, and say so."""
    for name, record in manifest.files.items():
        n_bytes = size(name)
        if n_bytes is None:
            return f"its file {name} is missing"
        if n_bytes != record.bytes:
            return f"its file {name} has {n_bytes} bytes instead of {record.bytes}"
    return None


def wrong_size_in(folder: Path, manifest: Manifest) -> str | None:
    """Name the first file that a folder has not got, or in another size, and say so."""

    def size(name: str) -> int | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (folder / name).stat().st_size
        return None

    return wrong_size(manifest, size)


def wrong_content(folder: Path, manifest: Manifest) -> str | None:
    """Name the first file in a folder that is not as it was written, and say how."""
    if wrong := wrong_size_in(folder, manifest):
        return wrong
    with ThreadPoolExecutor() as threads:
        found = threads.map(sha256_of, [folder / name for name in manifest.files])
        for (name, record), sha in zip(manifest.files.items(), found, strict=True):
            if sha != record.sha256:
                return other_content(name)
    return None


def other_content(name: str) -> str:
    """Say what is wrong with a file that has the right size and another SHA-256."""
    return f"its file {name} has another SHA-256 than when it was written"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
