"""Many byte ranges of one version of an object into one file, resumable after any death."""

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Never

from filelock import FileLock
from tqdm import tqdm

from nsd_pipeline.errors import SourceChangedError, SourceError
from nsd_pipeline.storage.checksums import Verdict
from nsd_pipeline.storage.disk import room_for
from nsd_pipeline.storage.journal import Journal, PartialFile, Piece
from nsd_pipeline.storage.source import ObjectInfo, Source, too_short

BLOCK: Final = 4 * 2**20
"""Largest piece that is requested at once; memory is bounded by this times the concurrency (and the
HTTP client's own copies). Larger ones do not help: 32 of these in flight already hide S3's latency
up to 10 gigabit."""


@dataclass(frozen=True)
class TransferReport:
    """What a transfer cost.

    Attributes
    ----------
    n_bytes
        Bytes fetched from the source by this call.
    n_requests
        Requests for them, not counting repeated attempts.
    seconds
        Wall-clock time.
    resumed_bytes
        Bytes that an earlier, interrupted call had fetched.
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
    max_concurrency: int | None = None,
    progress: bool | str = False,
) -> TransferReport:
    """Write `prefix` and then the ranges, in the order given, to a file.

    What the file needs while it is made (see :mod:`nsd_pipeline.storage.journal`) lies beside it,
    and partly stays there: fetch into a folder that is discarded later, such as ``Store.scratch``,
    and move the file from there. A call that finds the file complete makes no request.

    Parameters
    ----------
    source
        What to read from.
    info
        The version of the object that every request is bound to.
    ranges
        ``(offset, length)`` in bytes. Ranges that follow one another are requested together, and
        long ones in blocks.
    destination
        The file to make. It appears when it is complete.
    prefix
        Bytes at the start of the file, such as a header for the smaller file.
    max_concurrency
        Requests in flight at once; the source's by default.
    progress
        Whether to show a progress bar, or its description.

    Raises
    ------
    StorageFullError
        If the disk has no room for the file.
    SourceChangedError
        If the object was replaced meanwhile. What was fetched is discarded.
    SourceError
        If the object cannot be read, or a range lies outside of it. What was fetched is kept.
        If a whole object does not have the checksum that its server states, after a second
        attempt. What was fetched is discarded.
    """
    start = time.monotonic()
    pieces = _pieces(source, info, ranges, len(prefix))
    verdict = Verdict(
        f"{source.url}/{info.key}", info.checksum if _is_whole(info, pieces, prefix) else None
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    n_bytes = n_requests = resumed = 0
    # Two processes that want the same file: the second finds it done.
    with FileLock(destination.with_name(destination.name + ".lock")):
        journal = Journal(source.url, info, pieces, prefix, destination)
        done = journal.resume()
        resumed = sum(pieces[number].length for number in done)
        while not journal.is_finished:
            todo = [number for number in range(len(pieces)) if number not in done]
            missing = sum(pieces[number].length for number in todo)
            n_bytes, n_requests = n_bytes + missing, n_requests + len(todo)
            with room_for(destination.parent, missing), journal.open() as file:
                bar = tqdm(
                    total=n_bytes + resumed,
                    initial=n_bytes + resumed - missing,
                    desc=progress if isinstance(progress, str) else destination.name,
                    unit="B",
                    unit_scale=True,
                    disable=not progress,
                    # A terminal redraws its line; a log gets a new one each time.
                    mininterval=0.2 if sys.stderr.isatty() else 15,
                )
                with bar:
                    try:
                        _move(source, info, pieces, todo, file, max_concurrency, bar)
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
    file: PartialFile,
    max_concurrency: int | None,
    bar: "tqdm[Never]",
) -> None:
    def move(number: int) -> int:
        offset, length, _ = pieces[number]
        # The piece is written here, so that a slow disk holds back the requests.
        file.put(number, source.read(info.key, offset, length, etag=info.etag))
        return length

    with ThreadPoolExecutor(max_concurrency or source.max_concurrency) as pool:
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
