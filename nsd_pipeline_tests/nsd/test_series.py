"""NSD's prepared time series: looked up with few requests, their names, onsets and times."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd.nsd_series import (
    design_key,
    design_onsets,
    file_run,
    inspect_series,
    series_key,
)
from nsd_pipeline.nsd.series_runs import agree_on_tr
from nsd_pipeline.storage.source import LocalMirror, ObjectInfo

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
        for key in (series_key, design_key):
            path = tmp_path / key(subject, session, run, space)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"." * run)
    return CountingSource(tmp_path, together=2 * len(RUNS))


def test_a_session_is_looked_up_in_two_listings_and_one_request_a_file(source) -> None:
    subject, session, space = SESSION
    found = inspect_series(source, *SESSION, RUNS)
    assert len(source.listed) == 2
    assert len(source.described) == 2 * len(RUNS)
    assert [
        (each.run, each.volumes.key, each.design.key, each.volumes.n_bytes) for each in found
    ] == [
        (
            run,
            series_key(subject, session, run, space),
            design_key(subject, session, run, space),
            run,
        )
        for run in RUNS
    ]


def test_a_missing_run_is_named_before_anything_else_is_asked(source, tmp_path: Path) -> None:
    missing = design_key(SESSION[0], SESSION[1], 5, SESSION[2])
    (tmp_path / missing).unlink()
    with pytest.raises(SourceError, match=rf"of run 5 of subj01_ses21 .*{missing}"):
        inspect_series(source, *SESSION, RUNS)
    assert (len(source.listed), source.described) == (2, [])


def test_task_runs_of_sessions_with_rest_are_one_further_on() -> None:
    names = series_key("subj01", 21, 1, "func1pt8mm"), design_key("subj08", 30, 12, "func1mm")
    assert names == (
        "nsddata_timeseries/ppdata/subj01/func1pt8mm/timeseries/timeseries_session21_run02.nii.gz",
        "nsddata_timeseries/ppdata/subj08/func1mm/design/design_session30_run13.tsv",
    )
    shifted = {
        subject: [session for session in range(1, 41) if file_run(subject, session, 5) == 6]
        for subject in ("subj01", "subj02", "subj05", "subj08")
    }
    assert shifted["subj01"] == shifted["subj05"] == list(range(21, 39))
    assert shifted["subj02"] == shifted["subj08"] == list(range(21, 31))


def test_design_files(tmp_path: Path) -> None:
    path = tmp_path / "design.tsv"
    path.write_text("0\n0\n0\n46003\n0\n0\n61883\n0\n0\n")
    onsets = design_onsets(path, 4 / 3)
    np.testing.assert_allclose(onsets.seconds, [4, 8])
    np.testing.assert_array_equal(onsets.numbers, [46_003, 61_883])
    path.write_bytes(b"\xef\xbb\xbf0\r\n0\r\n 46003\r\n\r\n")
    np.testing.assert_allclose(design_onsets(path, 1.0).seconds, [2])
    for wrong in ("0\n73001\n", "0\n1.5\n", "0\nx\n0", "0\n1\t2\n", "0\n\n7\n", "0\nn/a\n0"):
        path.write_text(wrong)
        with pytest.raises(InvalidFileError, match=r"design\.tsv, line 2 must be a whole number"):
            design_onsets(path, 4 / 3)
    with pytest.raises(InvalidFileError, match=r"There is no .*none\.tsv"):
        design_onsets(tmp_path / "none.tsv", 4 / 3)


def test_repetition_times_agree_or_are_named() -> None:
    assert agree_on_tr([("a", None)]) is None
    assert agree_on_tr([("a", None), ("b", 1.3333334), ("c", 4 / 3)]) == 1.3333334
    with pytest.raises(InvalidFileError, match=r"b has 1\.6 s, c has 1\.33333 s"):
        agree_on_tr([("a", None), ("b", 1.6), ("c", 4 / 3)])
    for wrong in (0.0, 0.0016, 1600.0, float("nan")):
        with pytest.raises(InvalidFileError, match=f"a states a repetition time of {wrong:g} s"):
            agree_on_tr([("a", wrong)])
