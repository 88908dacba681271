"""One hemisphere of one session at its real size, from a server that serves it by seeking."""

import json
import mmap
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from nsd_pipeline_tests.storage.servers import Relay, S3rver

HEADER: Final = 284
FRAME: Final = 163_842 * 4
PART: Final = 10_242 * 4
N_FRAMES: Final = 750
N_BYTES: Final = HEADER + N_FRAMES * FRAME
KEYS: Final = ("lh.betas_session01.mgh", "rh.betas_session01.mgh")
RANGES: Final = [(HEADER + frame * FRAME, PART) for frame in range(N_FRAMES)]

FETCH = """
import json, sys
from pathlib import Path
from nsd_pipeline.storage import fetch, open_source
from nsd_pipeline_tests.memory import peak_bytes
url, folder, ranges, keys = json.loads(sys.argv[1])
source = open_source("s3://nsd", endpoint_url=url)
reports = [fetch(source, source.describe(key), ranges or [(0, source.describe(key).n_bytes)],
                 Path(folder, key), prefix=b"header") for key in keys]
print(json.dumps({
    "n_bytes": sum(report.n_bytes for report in reports),
    "n_requests": sum(report.n_requests for report in reports),
    "resumed_bytes": sum(report.resumed_bytes for report in reports),
    "seconds": sum(report.seconds for report in reports),
    "peak_bytes": peak_bytes(),
}))
"""


@pytest.fixture(scope="module")
def originals(s3rver: S3rver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both hemispheres, served: noise where it will be read and a little around it, else sparse."""
    folder = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(0)
    for key in KEYS:
        file = folder / key
        with file.open("wb") as target:
            target.truncate(N_BYTES)
            for offset, length in RANGES:
                target.seek(offset - 100)
                target.write(rng.bytes(length + 200))
        s3rver.add("nsd", key, file)
    return folder


def _command(url: str, folder: Path, ranges: Any, keys: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-c", FETCH, json.dumps([url, str(folder), ranges, keys])]


def _fetch(url: str, folder: Path, ranges: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run(
        _command(url, folder, ranges, keys), check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _is_cut_of(fetched: Path, original: Path) -> bool:
    with (
        original.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        fetched.open("rb") as cut,
    ):
        return cut.read(6) == b"header" and all(
            cut.read(length) == content[offset : offset + length] for offset, length in RANGES
        )


def test_a_session_is_61_megabytes_of_983(
    s3rver: S3rver, originals: Path, tmp_path: Path, terms_accepted: None
) -> None:
    report = _fetch(s3rver.url, tmp_path / "cut", RANGES, KEYS)
    assert report["n_bytes"] == 2 * 750 * 40_968
    assert report["n_requests"] == 1500
    assert report["peak_bytes"] < 1e9
    assert report["seconds"] < 60
    for key in KEYS:
        assert _is_cut_of(tmp_path / "cut" / key, originals / key)
        assert (tmp_path / "cut" / key).stat().st_size == 6 + 750 * 40_968


def test_a_killed_transfer_continues(
    s3rver: S3rver, originals: Path, tmp_path: Path, terms_accepted: None
) -> None:
    """After SIGKILL at a third of the bytes, only what was on its way is fetched again."""
    folder, keys = tmp_path / "cut", KEYS[:1]
    n_bytes = 750 * PART
    relay = Relay(s3rver.url, hold_after=n_bytes // 3)
    with subprocess.Popen(_command(relay.url, folder, RANGES, keys)) as process:
        assert relay.held.wait(60)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    relay.close()
    assert not (folder / KEYS[0]).exists()

    relay = Relay(s3rver.url)
    report = _fetch(relay.url, folder, RANGES, keys)
    relay.close()
    on_their_way = 32 * PART
    assert report["resumed_bytes"] >= n_bytes // 3 - on_their_way - 400 * 250
    assert report["n_bytes"] + report["resumed_bytes"] == n_bytes
    assert relay.n_bytes < n_bytes - report["resumed_bytes"] + 1000 * 400, "headers included"
    assert _is_cut_of(folder / KEYS[0], originals / KEYS[0])


def test_a_whole_file_comes_in_blocks_of_bounded_memory(
    s3rver: S3rver, originals: Path, tmp_path: Path, terms_accepted: None
) -> None:
    report = _fetch(s3rver.url, tmp_path / "whole", None, KEYS[:1])
    assert report["n_bytes"] == N_BYTES
    assert report["peak_bytes"] < 1e9
    compared = subprocess.run(
        ["cmp", "--ignore-initial=6:0", tmp_path / "whole" / KEYS[0], originals / KEYS[0]],
        check=False,
    )
    assert compared.returncode == 0
