"""The server of the load drops connections and counts; our source reads through it all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load_server import OTHERS, Request, repeated_bytes, serve
from nsd_pipeline.storage import open_source

CONTENT = os.urandom(400_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nsddata").mkdir()
    (tmp_path / "nsddata" / "some.mgh").write_bytes(CONTENT)
    return tmp_path


def test_what_is_dropped_is_asked_for_again_and_nothing_differs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    with serve(folder, drop=0.3, seed=3) as bucket:
        source = open_source("s3://natural-scenes-dataset", endpoint_url=bucket.url)
        assert source.list("nsddata/") == ["nsddata/some.mgh"]
        info = source.describe("nsddata/some.mgh")
        for start in range(0, len(CONTENT), 50_000):
            assert (
                source.read(info.key, start, 50_000, etag=info.etag)
                == CONTENT[start : start + 50_000]
            )
    assert sum(each.dropped for each in bucket.requests) > 2
    assert {each.who for each in bucket.requests} == {OTHERS}
    sent = sum(each.sent for each in bucket.requests if each.method == "GET")
    assert sent - repeated_bytes(bucket.requests) == len(CONTENT)


def test_a_run_is_known_by_its_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(folder) as bucket:
        code = f"import urllib.request; urllib.request.urlopen('{bucket.url}/b/nsddata/some.mgh')"
        environment = {**os.environ, "NSD_RUN_ID": "some-run"}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [each.who for each in bucket.requests] == ["some-run"]


def test_bytes_count_as_repeated_where_ranges_overlap() -> None:
    spans = [(0, 10), (5, 10), (40, 5), (0, 3)]
    requests = [Request(OTHERS, "GET", "a", first, sent) for first, sent in spans]
    assert repeated_bytes([*requests, Request(OTHERS, "GET", "b", 0, 10)]) == 5 + 3
