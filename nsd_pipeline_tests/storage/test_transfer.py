import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsd_pipeline.errors import SourceChangedError, SourceError, StorageFullError
from nsd_pipeline.storage import transfer
from nsd_pipeline.storage.source import LocalMirror, ObjectInfo
from nsd_pipeline.storage.transfer import TransferReport, fetch

CONTENT = bytes(range(251)) * 4
KEY = "betas/lh.mgh"


class _Mirror(LocalMirror):
    """A mirror that counts, and breaks off after some reads."""

    def __init__(self, folder: Path, *, reads: int | None = None) -> None:
        super().__init__(folder, max_concurrency=4)
        self.reads_left = reads
        self.n_bytes = 0
        self.lock = threading.Lock()

    def read(self, key: str, offset: int, length: int, *, etag: str) -> bytes:
        with self.lock:
            if self.reads_left == 0:
                raise SourceError("The network is down.", next_step="wait.")
            if self.reads_left is not None:
                self.reads_left -= 1
            self.n_bytes += length
        return super().read(key, offset, length, etag=etag)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BLOCK", 32)


@pytest.fixture
def mirror_folder(tmp_path: Path) -> Path:
    path = tmp_path / "mirror" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return tmp_path / "mirror"


@st.composite
def _ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Ranges in any order: overlapping, adjacent, repeated, empty, longer than a block."""
    ranges: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(0, 12))):
        follows = ranges and draw(st.booleans())
        offset = sum(ranges[-1]) if follows else draw(st.integers(0, len(CONTENT)))
        ranges.append((offset, draw(st.integers(0, min(100, len(CONTENT) - offset)))))
    return ranges


def _slices(ranges: list[tuple[int, int]], prefix: bytes = b"") -> bytes:
    return prefix + b"".join(CONTENT[offset : offset + length] for offset, length in ranges)


tmp_path_is_shared = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@tmp_path_is_shared
@given(ranges=_ranges(), prefix=st.binary(max_size=40), max_concurrency=st.integers(1, 8))
def test_a_file_is_the_prefix_and_the_slices(
    mirror_folder: Path, ranges: list[tuple[int, int]], prefix: bytes, max_concurrency: int
) -> None:
    mirror = _Mirror(mirror_folder)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lh.mgh")
        mirror.max_concurrency = max_concurrency
        report = fetch(mirror, mirror.describe(KEY), ranges, file, prefix=prefix)
        assert file.read_bytes() == _slices(ranges, prefix)
        assert report.n_bytes == mirror.n_bytes == sum(length for _, length in ranges)
        assert report.resumed_bytes == 0
        again = fetch(mirror, mirror.describe(KEY), ranges, file, prefix=prefix)
        assert (again.n_bytes, again.n_requests) == (0, 0)


@tmp_path_is_shared
@given(ranges=_ranges(), reads=st.integers(0, 8), data=st.data())
def test_what_is_resumed_is_right_whatever_a_crash_left(
    mirror_folder: Path, ranges: list[tuple[int, int]], reads: int, data: st.DataObject
) -> None:
    """A journal cut anywhere, and partial bytes lost by a power cut, cost time but no byte."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lh.mgh")
        partial, journal = Path(f"{file}.partial"), Path(f"{file}.journal")
        mirror = _Mirror(mirror_folder, reads=reads)
        info = mirror.describe(KEY)
        try:
            fetch(mirror, info, ranges, file, prefix=b"header")
        except SourceError:
            assert not file.exists()
            lines = journal.read_bytes()
            journal.write_bytes(lines[: data.draw(st.integers(0, len(lines)))])
            spoilt = bytearray(partial.read_bytes())
            for position in data.draw(st.lists(st.integers(0, len(spoilt) - 1), max_size=3)):
                spoilt[position] ^= 0xFF
            partial.write_bytes(spoilt)
        second = _Mirror(mirror_folder)
        report = fetch(second, info, ranges, file, prefix=b"header")
        assert file.read_bytes() == _slices(ranges, b"header")
        assert report.n_bytes == second.n_bytes
        assert report.n_bytes + report.resumed_bytes == sum(length for _, length in ranges)
        assert not partial.exists()


def test_an_interrupted_transfer_continues_where_it_was(
    mirror_folder: Path, tmp_path: Path
) -> None:
    ranges = [(start, 20) for start in range(0, 1000, 25)]
    for _ in range(2):
        broken = _Mirror(mirror_folder, reads=10)
        info = broken.describe(KEY)
        with pytest.raises(SourceError, match="network is down"):
            fetch(broken, info, ranges, tmp_path / "cut.mgh")
    report = fetch(_Mirror(mirror_folder), info, ranges, tmp_path / "cut.mgh")
    assert report.resumed_bytes == 2 * 10 * 20
    assert report.n_requests == 20
    assert (tmp_path / "cut.mgh").read_bytes() == _slices(ranges)


def test_neighbouring_ranges_are_one_request(mirror_folder: Path, tmp_path: Path) -> None:
    mirror = _Mirror(mirror_folder)
    ranges = [(100, 10), (110, 10), (120, 5), (300, 10), (310, 80)]  # blocks are of 32 bytes
    report = fetch(mirror, mirror.describe(KEY), ranges, tmp_path / "f")
    assert report.n_requests == 1 + 3
    assert (tmp_path / "f").read_bytes() == _slices(ranges)


def test_a_new_version_of_the_object_is_not_mixed_with_the_old(
    mirror_folder: Path, tmp_path: Path
) -> None:
    broken = _Mirror(mirror_folder, reads=10)
    file = tmp_path / "whole.mgh"
    with pytest.raises(SourceError, match="network is down"):
        fetch(broken, broken.describe(KEY), [(0, len(CONTENT))], file)
    new = CONTENT[::-1]
    (mirror_folder / KEY).write_bytes(new)
    os.utime(mirror_folder / KEY, (1, 1))
    mirror = _Mirror(mirror_folder)
    assert fetch(mirror, mirror.describe(KEY), [(0, len(new))], file).resumed_bytes == 0
    assert file.read_bytes() == new


def test_an_object_replaced_meanwhile_is_told_and_leaves_nothing(
    mirror_folder: Path, tmp_path: Path
) -> None:
    mirror = _Mirror(mirror_folder)
    info = mirror.describe(KEY)
    os.utime(mirror_folder / KEY, (1, 1))
    with pytest.raises(SourceChangedError, match=r"lh\.mgh was replaced"):
        fetch(mirror, info, [(0, 500)], tmp_path / "out" / "lh.mgh")
    assert list((tmp_path / "out").glob("lh.mgh*")) in ([], [tmp_path / "out" / "lh.mgh.lock"])


def test_no_more_blocks_are_in_flight_than_asked_for(mirror_folder: Path, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=10)
    in_flight: list[int] = []
    most: list[int] = []

    class _Busy(_Mirror):
        def read(self, *args: Any, **options: Any) -> bytes:
            in_flight.append(1)
            most.append(len(in_flight))
            together.wait()  # passes only if three reads are under way at once
            data = super().read(*args, **options)
            in_flight.pop()
            return data

    mirror = _Busy(mirror_folder)
    ranges = [(start, 10) for start in range(0, 900, 30)]
    mirror.max_concurrency = 3
    fetch(mirror, mirror.describe(KEY), ranges, tmp_path / "f")
    assert max(most) == 3


def test_a_range_outside_the_object_is_refused_before_any_request(
    mirror_folder: Path, tmp_path: Path
) -> None:
    mirror = _Mirror(mirror_folder)
    with pytest.raises(SourceError, match=r"lh\.mgh has 1004 bytes"):
        fetch(mirror, mirror.describe(KEY), [(1000, 10)], tmp_path / "f")
    assert mirror.n_bytes == 0


def test_a_full_disk_is_told_before_the_first_byte(
    mirror_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = _Mirror(mirror_folder)
    too_much = 2**60
    info = ObjectInfo(KEY, too_much, mirror.describe(KEY).etag)
    monkeypatch.setattr(transfer, "BLOCK", too_much)
    with pytest.raises(StorageFullError, match=str(tmp_path)):
        fetch(mirror, info, [(0, too_much)], tmp_path / "f")
    assert mirror.n_bytes == 0


def test_a_disk_that_fills_up_is_told(
    mirror_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    mirror = _Mirror(mirror_folder)
    with pytest.raises(StorageFullError, match="No space left"):
        fetch(mirror, mirror.describe(KEY), [(0, 100)], tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_progress_goes_to_stderr_in_bytes(
    mirror_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = _Mirror(mirror_folder)
    fetch(mirror, mirror.describe(KEY), [(0, 1000)], tmp_path / "f", progress="left hemisphere")
    shown = capsys.readouterr()
    assert "left hemisphere: 100%" in shown.err
    assert "1.00k" in shown.err
    assert shown.out == ""


def test_transfers_one_after_the_other_cost_their_sum() -> None:
    assert TransferReport.total([]) == TransferReport(0, 0, 0.0, 0)
    assert TransferReport.total(
        [TransferReport(1, 2, 0.5, 4), TransferReport(10, 20, 0.25, 40)]
    ) == (TransferReport(11, 22, 0.75, 44))
