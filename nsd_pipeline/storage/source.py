"""The dataset as something to read from: a bucket, or a local mirror read in place."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from nsd_pipeline.errors import SourceChangedError, SourceError
from nsd_pipeline.storage.checksums import Checksum, Verdict

DEFAULT_URL: Final = "s3://natural-scenes-dataset"
DEFAULT_REGION: Final = "us-east-2"
DEFAULT_CONCURRENCY: Final = 32
"""Requests in flight at once. S3 takes 20 to 50 ms to the first byte whatever the size, so that one
connection moves few small ranges; 32 of them fill a gigabit with ranges of 40 kB. On loopback,
where nothing waits, 8 and 32 measure the same."""


@dataclass(frozen=True)
class ObjectInfo:
    """One version of one object.

    Attributes
    ----------
    key
        Name relative to the source's root.
    n_bytes
        Size in bytes.
    etag
        What identifies this version: the source's ETag, or what stands in for one. Opaque.
    checksum
        Checksum of all its bytes, where the source states one.
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
        """Exactly `length` bytes of one version of an object.

        Raises
        ------
        SourceChangedError
            If the object is no longer that version.
        """
        ...

    def open(self, key: str) -> BinaryIO:
        """Open one version of an object as a seekable file, for libraries such as h5py."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Path of the object if it is a file on this machine, else None."""
        ...


def read_whole(source: Source, info: ObjectInfo) -> bytes:
    """All bytes of one version of a small object, compared with its checksum where it has one.

    Raises
    ------
    SourceError
        If it cannot be read, or arrives damaged twice.
    SourceChangedError
        If the object is no longer that version.
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
