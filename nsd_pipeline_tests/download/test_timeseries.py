"""Looking a session's time series up costs few requests, and they go out together."""

import threading
from pathlib import Path
from typing import Any

import pytest

from nsd_pipeline.download.timeseries import inspect_timeseries
from nsd_pipeline.errors import SourceError
from nsd_pipeline.nsd.timeseries import design_key, timeseries_key
from nsd_pipeline.storage.mirror import LocalMirror
from nsd_pipeline.storage.source import ObjectInfo

RUNS = range(1, 13)
SESSION: Any = ("subj01", 21, "func1pt8mm")  # of 14 runs, of which 12 are wanted


class CountingSource(LocalMirror):
    """Counts what a bucket would be asked, and answers about files when all are asked for."""

    def __init__(self, folder: Path, together: int) -> None:
        super().__init__(folder)
        self.listed: list[str] = []
        self.described: list[str] = []
        self._all_asked = threading.Barrier(together)

    def list(self, prefix: str) -> list[str]:
        self.listed.append(prefix)
        return super().list(prefix)

    def describe(self, key: str) -> ObjectInfo:
        self.described.append(key)
        self._all_asked.wait(timeout=30)
        return super().describe(key)


@pytest.fixture
def source(tmp_path: Path) -> CountingSource:
    subject, session, space = SESSION
    for run in range(14):
        for key in (timeseries_key, design_key):
            path = tmp_path / key(subject, session, run, space)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"." * run)
    return CountingSource(tmp_path, together=2 * len(RUNS))


def test_a_session_is_looked_up_in_two_listings_and_one_request_a_file(source) -> None:
    subject, session, space = SESSION
    found = inspect_timeseries(source, *SESSION, RUNS)
    assert len(source.listed) == 2
    assert len(source.described) == 2 * len(RUNS)
    assert [
        (each.run, each.volumes.key, each.design.key, each.volumes.n_bytes) for each in found
    ] == [
        (
            run,
            timeseries_key(subject, session, run, space),
            design_key(subject, session, run, space),
            run,
        )
        for run in RUNS
    ]


def test_a_missing_run_is_named_before_anything_else_is_asked(source, tmp_path: Path) -> None:
    missing = design_key(SESSION[0], SESSION[1], 5, SESSION[2])
    (tmp_path / missing).unlink()
    with pytest.raises(SourceError, match=rf"of run 5 of subj01_ses21 .*{missing}"):
        inspect_timeseries(source, *SESSION, RUNS)
    assert (len(source.listed), source.described) == (2, [])
