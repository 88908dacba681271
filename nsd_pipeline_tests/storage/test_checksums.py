"""Whole objects are compared with what their server states; ranges by what NSD cannot have."""

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.fsaverage_betas import BetasObject, FsaverageDownload
from nsd_pipeline.storage import transfer
from nsd_pipeline.storage.checksums import stated_checksum
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.source import LocalMirror, ObjectInfo, read_whole
from nsd_pipeline.storage.transfer import fetch
from nsd_pipeline_tests.nsd.mgh_files import write_mgh
from nsd_pipeline_tests.storage.servers import Answer, ScriptedServer

Script = Callable[[Callable[[int], Answer]], ScriptedServer]
GOOD, BAD, WORSE = b"data", b"dat\0", b"dat\1"
MD5 = f'"{hashlib.md5(GOOD).hexdigest()}"'
CHECKSUMS = {
    "x-amz-checksum-sha256": b64encode(hashlib.sha256(GOOD).digest()),
    "x-amz-checksum-sha1": b64encode(hashlib.sha1(GOOD).digest()),
    "x-amz-checksum-crc32": b64encode(zlib.crc32(GOOD).to_bytes(4, "big")),
    "x-amz-checksum-crc32c": b64encode((0xAED87DD1).to_bytes(4, "big")),
}
STATED = [({}, MD5), *[({name: value.decode()}, '"v"') for name, value in CHECKSUMS.items()]]


@pytest.fixture(params=["small read", "transfer"])
def read(
    request: pytest.FixtureRequest, scripted_server: Script, tmp_path: Path, terms_accepted: None
) -> Callable[..., bytes]:
    """Read an object in whole, whose server states a checksum and sends one body after another."""

    def run(headers: dict[str, str], etag: str, *bodies: bytes) -> bytes:
        server = scripted_server(
            lambda number: Answer(
                206 if number else 200, (GOOD, *bodies)[number], etag, headers=headers
            )
        )
        source = open_source("s3://lab", endpoint_url=server.url)
        info = source.describe("key")
        if request.param == "small read":
            content = read_whole(source, info)
        else:
            file = tmp_path / "file"
            try:
                report = fetch(source, info, [(0, 2), (2, 2)], file)
            except SourceError:
                assert not file.exists()
                assert not list(tmp_path.glob("file.[pj]*")), "nothing of it is resumed"
                raise
            assert (report.n_bytes, report.resumed_bytes) == (4 * len(bodies), 0)
            content = file.read_bytes()
        assert len(server.requests) == 1 + len(bodies)
        return content

    return run


@pytest.mark.parametrize(("headers", "etag"), STATED)
def test_damage_is_noticed(read: Callable[..., bytes], headers: dict[str, str], etag: str) -> None:
    assert read(headers, etag, BAD, GOOD) == GOOD


@pytest.mark.parametrize(("headers", "etag"), STATED)
def test_what_arrives_damaged_twice_is_an_error(
    read: Callable[..., bytes], headers: dict[str, str], etag: str
) -> None:
    with pytest.raises(SourceError, match="s3://lab/key arrived damaged twice"):
        read(headers, etag, BAD, WORSE)


def test_an_etag_that_only_looks_like_an_md5_keeps_nobody_out(read: Callable[..., bytes]) -> None:
    assert read({}, MD5, BAD, BAD) == BAD


def test_a_checksum_is_no_such_thing(read: Callable[..., bytes]) -> None:
    with pytest.raises(SourceError, match="damaged twice"):
        read(STATED[1][0], MD5, BAD, BAD)


@pytest.mark.parametrize(
    "head",
    [
        {"ETag": MD5[:-1] + '-17"'},
        {"ETag": f"W/{MD5}"},
        {"ETag": MD5, "ServerSideEncryption": "aws:kms"},
        {"ETag": MD5, "SSECustomerAlgorithm": "AES256"},
        {"ChecksumSHA256": "AAAA-17"},
        {"ChecksumCRC32": "AAAAAA==", "ChecksumType": "COMPOSITE"},
        {"ChecksumCRC64NVME": "AAAAAAAAAAA="},
        {"ChecksumSHA256": "no base64!"},
        {},
    ],
)
def test_what_is_no_checksum_of_all_bytes_is_not_taken_for_one(head: dict[str, str]) -> None:
    assert stated_checksum(head) is None


def test_a_part_of_an_object_is_not_compared_with_the_whole(
    scripted_server: Script, terms_accepted: None, tmp_path: Path
) -> None:
    server = scripted_server(
        lambda number: Answer(206, b"ta", MD5, total=4) if number else Answer(200, GOOD, MD5)
    )
    source = open_source("s3://lab", endpoint_url=server.url)
    fetch(source, source.describe("key"), [(2, 2)], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"ta"


class _Zeros(LocalMirror):
    """A source that is no mirror, and sends zeros for one frame of the right hemisphere."""

    zeros = True

    def local_path(self, key: str) -> Path | None:  # type: ignore[override]
        return None

    def open(self, key: str):
        return (self.folder / key).open("rb")

    def read(self, key: str, offset: int, length: int, *, etag: str) -> bytes:
        data = super().read(key, offset, length, etag=etag)
        first = mgh.HEADER_BYTES + 2 * 163_842 * 4
        return bytes(length) if self.zeros and key.startswith("rh") and offset == first else data


@pytest.mark.parametrize("whole_file", [False, True])
def test_a_trial_of_zeros_is_no_data_of_nsd(
    tmp_path: Path, whole_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BLOCK", 163_842 * 4)
    mirror, folder, scratch = (tmp_path / name for name in ("mirror", "draft", "scratch"))
    for each in (mirror, folder, scratch):
        each.mkdir()
    values = np.random.default_rng(0).standard_normal((4, 163_842), np.float32)
    values[1, :10_242] = np.nan  # is data
    values[3, 1:] = 0
    source = _Zeros(mirror)
    objects = {}
    for side in ("lh", "rh"):
        key = f"{side}.betas_session01.mgh"
        write_mgh(mirror / key, values)
        info = source.describe(key)
        header = mgh.parse_header((mirror / key).read_bytes()[:284], name=key)
        objects[side] = BetasObject(ObjectInfo(key, info.n_bytes, info.etag), header)

    def download() -> int:
        found = FsaverageDownload(source, objects, whole_file)
        return found.download(folder, scratch).n_bytes

    if whole_file:  # whose first block also has the header, so that blocks are no frames
        source.zeros = False
        damaged = values.copy()
        damaged[2] = 0
        write_mgh(mirror / "rh.betas_session01.mgh", damaged)
        info = source.describe("rh.betas_session01.mgh")
        objects["rh"] = BetasObject(info, objects["rh"].header)
    with pytest.raises(InvalidFileError, match=r"rh\.betas_session01\.mgh .* trial 2 \(counted"):
        download()
    source.zeros = False
    write_mgh(mirror / "rh.betas_session01.mgh", values)
    info = source.describe("rh.betas_session01.mgh")
    objects["rh"] = BetasObject(info, objects["rh"].header)
    assert download() > 0
