"""Which pieces of an unfinished file are in it, in a form that survives being killed.

Beside the destination lie ``<name>.partial``, the file in the making, and ``<name>.journal``: one
line that says what is being fetched (object, version, pieces), then a line for every piece that is
in the file, with its CRC-32. A line is written after its piece. That order survives a killed
process; it need not survive a power cut, which is why a piece counts only if its checksum is right.
The journal stays beside the finished file, so that a step that died between two files finds the
first one done.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from nsd_pipeline.storage.source import ObjectInfo

_PART_BYTES: Final = 2**20
_LINE: Final = re.compile(rb"^(\d+) (\d+)$", re.MULTILINE)


class Piece(NamedTuple):
    """Bytes of an object, and where they go in the file."""

    source_offset: int
    length: int
    file_offset: int


class Journal:
    """The unfinished file of one transfer.

    Parameters
    ----------
    url
        Root of the source.
    info
        Version of the object.
    pieces
        What the file consists of, after `prefix`.
    prefix
        Bytes at the start of the file.
    destination
        The file once it is finished.
    """

    def __init__(
        self, url: str, info: ObjectInfo, pieces: Sequence[Piece], prefix: bytes, destination: Path
    ) -> None:
        self._pieces = pieces
        self._prefix = prefix
        self._size = len(prefix) + sum(piece.length for piece in pieces)
        self._destination = destination
        self._partial = destination.with_name(destination.name + ".partial")
        self._path = destination.with_name(destination.name + ".journal")
        plan = hashlib.sha256(json.dumps([prefix.hex(), pieces]).encode()).hexdigest()
        self._header = json.dumps(
            {"source": url, "key": info.key, "etag": info.etag, "plan": plan}, sort_keys=True
        )
        self._checksums: dict[int, int] = {}
        self.is_finished = False

    def resume(self) -> set[int]:
        """Numbers of the pieces that earlier calls left behind, each checked against its checksum.

        All of them, and :attr:`is_finished`, if the destination itself is there and right.
        """
        claims = self._claims()
        finished = self._verified(self._destination, claims)
        self.is_finished = finished is not None and len(finished) == len(self._pieces)
        if finished is not None and self.is_finished:
            self._checksums = finished
        else:
            self._checksums = self._verified(self._partial, claims) or {}
        return set(self._checksums)

    def _claims(self) -> dict[int, int]:
        try:
            header, _, lines = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return {}
        if header != self._header.encode():
            return {}
        # A kill can tear the last line; a wrong number is noticed like wrong bytes are.
        claims = {int(number): int(checksum) for number, checksum in _LINE.findall(lines)}
        return {number: crc for number, crc in claims.items() if number < len(self._pieces)}

    def _verified(self, path: Path, claims: dict[int, int]) -> dict[int, int] | None:
        """Those claims that a file fulfils, or None if it is not the file in question at all."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            descriptor = file.fileno()
            if (
                os.fstat(descriptor).st_size != self._size
                or os.pread(descriptor, len(self._prefix), 0) != self._prefix
            ):
                return None
            return {
                number: checksum
                for number, checksum in claims.items()
                if checksum == self._checksum(descriptor, self._pieces[number])
            }

    @staticmethod
    def _checksum(descriptor: int, piece: Piece) -> int:
        return zlib.crc32(os.pread(descriptor, piece.length, piece.file_offset))

    @contextmanager
    def open(self) -> Iterator["PartialFile"]:
        """Open the unfinished file for its missing pieces."""
        flags = os.O_RDWR | os.O_CREAT | (0 if self._checksums else os.O_TRUNC)
        descriptor = os.open(self._partial, flags, 0o666)
        try:
            os.ftruncate(descriptor, self._size)
            _write(descriptor, self._prefix, 0)
            # Written anew: a torn line at the end would swallow the next one.
            done = "".join(f"{number} {crc}\n" for number, crc in self._checksums.items())
            draft = self._path.with_name(self._path.name + ".new")
            draft.write_text(f"{self._header}\n{done}")
            draft.replace(self._path)
            journal = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                yield PartialFile(descriptor, journal, self._pieces)
            finally:
                os.close(journal)
        finally:
            os.close(descriptor)

    def parts(self) -> Iterator[bytes]:
        """The unfinished file, from its start to its end."""
        with self._partial.open("rb") as file:
            yield from iter(partial(file.read, _PART_BYTES), b"")

    def finish(self) -> None:
        """Let the destination appear."""
        self._partial.replace(self._destination)
        self.is_finished = True

    def discard(self) -> None:
        """Forget the unfinished file."""
        self._checksums = {}
        for path in (self._path, self._partial):
            with suppress(FileNotFoundError):
                path.unlink()


class PartialFile:
    """An unfinished file that takes its pieces in any order, from any thread."""

    def __init__(self, descriptor: int, journal: int, pieces: Sequence[Piece]) -> None:
        self._descriptor = descriptor
        self._journal = journal
        self._pieces = pieces

    def put(self, number: int, data: bytes) -> None:
        """Write a piece, and then that it is there."""
        _write(self._descriptor, data, self._pieces[number].file_offset)
        os.write(self._journal, f"{number} {zlib.crc32(data)}\n".encode())


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        n_written = os.pwrite(descriptor, view, offset)
        view, offset = view[n_written:], offset + n_written
