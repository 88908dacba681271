"""Many byte ranges of one version of an object into one file, resumable after any death.

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
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Never

from filelock import FileLock
from tqdm import tqdm

from nsd_pipeline.errors import SourceChangedError, SourceError
from nsd_pipeline.storage.checksums import Verdict
from nsd_pipeline.storage.disk import room_for
from nsd_pipeline.storage.source import ObjectInfo, Source, too_short

BLOCK: Final = 4 * 2**20
"""Largest piece that is requested at once; memory is bounded by this times the concurrency (and the
HTTP client's own copies). Larger ones do not help: 32 of these in flight already hide S3's latency
up to 10 gigabit."""
_PART_BYTES: Final = 2**20
_LINE: Final = re.compile(rb"^(\d+) (\d+)$", re.MULTILINE)


class Piece(NamedTuple):
    """Bytes of an object, and where they go in the file."""

    source_offset: int
    length: int
    file_offset: int


class Journal:
    """The unfinished file of one transfer.

    It consists of `prefix` and then of `pieces` of one version of the object, and becomes
    `destination` once it is finished.
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
        if finished is not None and len(finished) == len(self._pieces):
            self._checksums, self.is_finished = finished, True
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
            right = {}
            for number, checksum in claims.items():
                _, length, offset = self._pieces[number]
                if zlib.crc32(os.pread(descriptor, length, offset)) == checksum:
                    right[number] = checksum
            return right

    @contextmanager
    def open(self) -> Iterator[Callable[[int, bytes], None]]:
        """Open the unfinished file; yield what puts a numbered piece there, from any thread."""
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

            def put(number: int, data: bytes) -> None:
                _write(descriptor, data, self._pieces[number].file_offset)
                os.write(journal, f"{number} {zlib.crc32(data)}\n".encode())

            try:
                yield put
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
            path.unlink(missing_ok=True)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        n_written = os.pwrite(descriptor, view, offset)
        view, offset = view[n_written:], offset + n_written


@dataclass(frozen=True)
class TransferReport:
    """What a transfer cost: bytes and requests of this call, and its wall-clock time.

    Repeated attempts are not counted. `resumed_bytes` are those that an earlier, interrupted call
    had fetched.
    """

    n_bytes: int
    n_requests: int
    seconds: float
    resumed_bytes: int

    @classmethod
    def total(cls, reports: "Iterable[TransferReport]") -> "TransferReport":
        """What transfers that ran one after the other have cost; nothing if there were none."""
        reports = list(reports)
        return cls(
            n_bytes=sum(report.n_bytes for report in reports),
            n_requests=sum(report.n_requests for report in reports),
            seconds=sum((report.seconds for report in reports), 0.0),
            resumed_bytes=sum(report.resumed_bytes for report in reports),
        )


def fetch(
    source: Source,
    info: ObjectInfo,
    ranges: Sequence[tuple[int, int]],
    destination: Path,
    *,
    prefix: bytes = b"",
    progress: bool | str = False,
) -> TransferReport:
    """Write `prefix` and then the ranges, in the order given, to a file.

    What the file needs while it is made (see :mod:`nsd_pipeline.storage.transfer`) lies beside it,
    and partly stays there: fetch into a folder that is discarded later, such as ``Store.scratch``,
    and move the file from there. It appears when it is complete. A call that finds it complete
    makes no request.

    `info` is the version of the object that every request is bound to. Ranges are ``(offset,
    length)`` in bytes: those that follow one another are requested together, and long ones in
    blocks. The prefix is, for instance, a header for the smaller file. `progress` is whether to
    show a progress bar, or its description.

    A StorageFullError if the disk has no room for the file. A SourceError if the object cannot be
    read, or a range lies outside of it: what was fetched is kept. It is discarded with a
    SourceChangedError if the object was replaced meanwhile, and with a SourceError if a whole
    object does not have the checksum that its server states, after a second attempt.
    """
    start = time.monotonic()
    pieces = _pieces(source, info, ranges, len(prefix))
    verdict = Verdict(
        f"{source.url}/{info.key}", info.checksum if _is_whole(info, pieces, prefix) else None
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    n_bytes = n_requests = 0
    # Two processes that want the same file: the second finds it done.
    with FileLock(destination.with_name(destination.name + ".lock")):
        journal = Journal(source.url, info, pieces, prefix, destination)
        done = journal.resume()
        resumed = sum(pieces[number].length for number in done)
        while not journal.is_finished:
            todo = [number for number in range(len(pieces)) if number not in done]
            missing = sum(pieces[number].length for number in todo)
            n_bytes, n_requests = n_bytes + missing, n_requests + len(todo)
            with room_for(destination.parent, missing), journal.open() as put:
                bar = tqdm(
                    total=n_bytes + resumed,
                    initial=n_bytes + resumed - missing,
                    desc=progress if isinstance(progress, str) else destination.name,
                    unit="B",
                    unit_scale=True,
                    disable=not progress,
                    leave=None,  # below the bar of `nsd run`, it goes when it is full
                    # A terminal redraws its line; a log gets a new one each time.
                    mininterval=0.2 if sys.stderr.isatty() else 15,
                )
                with bar:
                    try:
                        _move(source, info, pieces, todo, put, bar)
                    except SourceChangedError:
                        journal.discard()
                        raise
            if _is_accepted(journal, verdict):
                journal.finish()
            else:
                done = set()
    return TransferReport(n_bytes, n_requests, time.monotonic() - start, resumed)


def _is_whole(info: ObjectInfo, pieces: Sequence[Piece], prefix: bytes) -> bool:
    """Whether the file will be the object itself."""
    in_place = all(piece.source_offset == piece.file_offset for piece in pieces)
    return not prefix and in_place and sum(piece.length for piece in pieces) == info.n_bytes


def _is_accepted(journal: Journal, verdict: Verdict) -> bool:
    """Whether all that arrived is right; what is not is discarded."""
    try:
        accepted = verdict.accepts(journal.parts)
    except SourceError:
        journal.discard()
        raise
    if not accepted:
        journal.discard()
    return accepted


def _move(
    source: Source,
    info: ObjectInfo,
    pieces: Sequence[Piece],
    todo: Sequence[int],
    put: Callable[[int, bytes], None],
    bar: "tqdm[Never]",
) -> None:
    def move(number: int) -> int:
        offset, length, _ = pieces[number]
        # The piece is written here, so that a slow disk holds back the requests.
        put(number, source.read(info.key, offset, length, etag=info.etag))
        return length

    with ThreadPoolExecutor(source.max_concurrency) as pool:
        futures = [pool.submit(move, number) for number in todo]
        try:
            for future in as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pieces(
    source: Source, info: ObjectInfo, ranges: Sequence[tuple[int, int]], file_offset: int
) -> list[Piece]:
    """Plan the requests for the ranges: neighbours joined, long ones cut."""
    joined: list[tuple[int, int]] = []
    for offset, length in ranges:
        if offset < 0 or length < 0 or offset + length > info.n_bytes:
            raise too_short(f"{source.url}/{info.key}", info.n_bytes, offset, length)
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    pieces = []
    for offset, length in joined:
        for start in range(0, length, BLOCK):
            piece = Piece(offset + start, min(BLOCK, length - start), file_offset)
            pieces.append(piece)
            file_offset += piece.length
    return pieces
