import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import boto3
import h5py
import numpy as np
import obstore
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from nsd_pipeline.errors import (
    NsdError,
    SourceChangedError,
    SourceError,
    TermsNotAcceptedError,
)
from nsd_pipeline.storage import terms
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.s3 import S3Source, byte_store, client_config
from nsd_pipeline.storage.source import LocalMirror, Source
from nsd_pipeline.storage.transfer import fetch
from nsd_pipeline_tests.storage.servers import Answer, MotoServer, Relay, S3rver, ScriptedServer

BUCKET = "natural-scenes-dataset"
KEY = "nsddata/lh.mgh"
CONTENT = np.random.default_rng(0).bytes(300_000)
Script = Callable[[Callable[[int], Answer]], ScriptedServer]


@pytest.fixture(scope="module")
def bucket(moto_server: MotoServer) -> MotoServer:
    moto_server.client.create_bucket(Bucket=BUCKET, ACL="public-read")
    moto_server.put_public(BUCKET, KEY, CONTENT)
    moto_server.put_public(BUCKET, f"mirror/2023/{KEY}", CONTENT)
    return moto_server


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    path = tmp_path / "mirror" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return tmp_path / "mirror"


@pytest.fixture(params=["bucket", "prefix", "mirror"])
def source(
    request: pytest.FixtureRequest, bucket: MotoServer, mirror: Path, terms_accepted: None
) -> Source:
    match request.param:
        case "bucket":
            return open_source(f"s3://{BUCKET}", endpoint_url=bucket.url)
        case "prefix":
            return open_source(f"s3://{BUCKET}/mirror/2023/", endpoint_url=bucket.url)
        case _:
            return open_source(mirror)


def test_sources_read_alike(source: Source) -> None:
    info = source.describe(KEY)
    assert (info.key, info.n_bytes) == (KEY, len(CONTENT))
    assert source.read(KEY, 284, 1000, etag=info.etag) == CONTENT[284:1284]
    assert source.read(KEY, 5, 0, etag=info.etag) == b""
    assert source.list("nsddata/l") == [KEY]
    assert source.list("nsddata/x") == []
    with source.open(KEY) as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == CONTENT[-10:]
        file.seek(100)
        assert file.read(50) == CONTENT[100:150]


def test_sources_refuse_alike(source: Source, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not part of the mirror")
    with pytest.raises(SourceError, match=r"absent\.mgh"):
        source.describe("nsddata/absent.mgh")
    with pytest.raises(SourceError, match=r"absent\.mgh"):
        source.read("nsddata/absent.mgh", 0, 10, etag='"any"')
    with pytest.raises(SourceChangedError, match=r"lh\.mgh was replaced"):
        source.read(KEY, 0, 10, etag='"another"')
    etag = source.describe(KEY).etag
    with pytest.raises(SourceError, match=rf"has {len(CONTENT)} bytes, too few for 10 bytes"):
        source.read(KEY, len(CONTENT) - 4, 10, etag=etag)
    for key in ("../secret", "nsddata/../../secret", "/etc/passwd", ""):
        with pytest.raises(NsdError, match="not a key"):
            source.describe(key)


def test_a_mirror_is_read_in_place(mirror: Path) -> None:
    source = open_source(str(mirror))
    assert not source.requires_terms
    assert source.local_path(KEY) == mirror / KEY
    with pytest.raises(SourceError, match="NSD_SOURCE"):
        LocalMirror(mirror / "elsewhere")


def test_h5py_reads_a_source(bucket: MotoServer, tmp_path: Path, terms_accepted: None) -> None:
    images = np.random.default_rng(1).integers(0, 256, (40, 425, 17), np.uint8)
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file["imgBrick"] = images
    bucket.put_public(BUCKET, "images.hdf5", (tmp_path / "images.hdf5").read_bytes())
    source = open_source(f"s3://{BUCKET}", endpoint_url=bucket.url)
    with source.open("images.hdf5") as remote, h5py.File(remote, "r") as file:
        np.testing.assert_array_equal(file["imgBrick"][[3, 17, 39]], images[[3, 17, 39]])


def test_a_forbidden_object_is_told_at_once(bucket: MotoServer, terms_accepted: None) -> None:
    bucket.client.create_bucket(Bucket="not-public")
    bucket.client.put_object(Bucket="not-public", Key="private", Body=b"data")
    source = open_source("s3://not-public", endpoint_url=bucket.url)
    for attempt in (
        lambda: source.describe("private"),
        lambda: source.read("private", 0, 4, etag='"any"'),
    ):
        with pytest.raises(SourceError, match=r"refuses to show \S+private \(403\)"):
            attempt()


def test_the_endpoint_may_come_from_botos_environment(
    bucket: MotoServer, monkeypatch: pytest.MonkeyPatch, terms_accepted: None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    source = open_source(f"s3://{BUCKET}")
    assert source.read(KEY, 0, 4, etag=source.describe(KEY).etag) == CONTENT[:4]


def test_nothing_is_asked_before_the_terms_are_accepted(scripted_server: Script) -> None:
    server = scripted_server(lambda _: Answer(body=b"data"))
    source = open_source("s3://some-bucket", endpoint_url=server.url)
    for attempt in (
        lambda: source.describe("key"),
        lambda: source.list(""),
        lambda: source.open("key"),
        lambda: source.read("key", 0, 4, etag='"v1"'),
    ):
        with pytest.raises(TermsNotAcceptedError, match="nsd terms --accept"):
            attempt()
    assert server.requests == []
    terms.accept()
    assert source.read("key", 0, 4, etag='"v1"') == b"data"


def test_requests_are_unsigned_and_bound_to_the_version(
    scripted_server: Script, terms_accepted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = scripted_server(lambda _: Answer(body=b"data"))
    source = open_source("s3://some-bucket", endpoint_url=server.url)
    source.read("key", 7, 4, etag='"v1"')
    source.describe("key")
    headers = {name.lower(): value for name, value in server.requests[0].items()}
    assert headers["range"] == "bytes=7-10"
    assert headers["if-match"] == '"v1"'
    assert "AKIASECRET" not in str(server.requests)
    assert all("authorization" not in map(str.lower, request) for request in server.requests)


def test_another_version_is_noticed_where_if_match_is_ignored(
    scripted_server: Script, terms_accepted: None
) -> None:
    server = scripted_server(lambda _: Answer(body=b"data", etag='"v2"'))
    source = open_source("s3://some-bucket", endpoint_url=server.url)
    with pytest.raises(SourceChangedError):
        source.read("key", 0, 4, etag='"v1"')
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "passing",
    [
        Answer(503),
        Answer(429),
        Answer(206, b"sho", total=4),
        Answer(206, b"sho", content_range="bytes 0-3/4"),  # says that it is whole, and is not
        Answer(206, b"data and more", content_range="bytes 0-3/20"),
        Answer(200, b"data"),  # all of an object, where a part was asked for
    ],
)
def test_what_passes_is_asked_again(
    scripted_server: Script, terms_accepted: None, passing: Answer
) -> None:
    server = scripted_server(lambda number: Answer(body=b"data") if number else passing)
    source = open_source("s3://some-bucket", endpoint_url=server.url)
    assert source.read("key", 0, 4, etag='"v1"') == b"data"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 416])
def test_what_stays_is_asked_once(
    scripted_server: Script, terms_accepted: None, status: int
) -> None:
    server = scripted_server(lambda _: Answer(status))
    source = open_source("s3://some-bucket", endpoint_url=server.url)
    with pytest.raises(SourceError):
        source.read("key", 0, 4, etag='"v1"')
    assert len(server.requests) == 1


def test_an_address_with_a_password_is_not_told(
    scripted_server: Script, terms_accepted: None
) -> None:
    server = scripted_server(lambda _: Answer(400))
    endpoint = server.url.replace("http://", "http://user:hunter2@")
    source = open_source("s3://some-bucket", endpoint_url=endpoint)
    with pytest.raises(SourceError) as told:
        source.read("key", 0, 4, etag='"v1"')
    assert "hunter2" not in str(told.value)


def test_connections_cut_within_a_body_cost_no_byte(
    s3rver: S3rver, tmp_path: Path, terms_accepted: None
) -> None:
    (tmp_path / "lh.mgh").write_bytes(CONTENT)
    s3rver.add("nsd", "lh.mgh", tmp_path / "lh.mgh")
    relay = Relay(s3rver.url, cut_after=20_000, n_cuts=5)
    source = open_source("s3://nsd", endpoint_url=relay.url)
    ranges = [(start, 30_000) for start in range(0, 300_000, 50_000)]
    try:
        fetch(source, source.describe("lh.mgh"), ranges, tmp_path / "cut")
    finally:
        relay.close()
    assert relay.cuts_left == 0
    expected = b"".join(CONTENT[offset : offset + length] for offset, length in ranges)
    assert (tmp_path / "cut").read_bytes() == expected


def test_an_object_replaced_between_two_ranges_is_told(
    bucket: MotoServer, tmp_path: Path, terms_accepted: None
) -> None:
    bucket.put_public(BUCKET, "replaced", CONTENT)

    class _Replacing(S3Source):
        def read(self, key: str, offset: int, length: int, *, etag: str) -> bytes:
            if offset == 2000:
                bucket.put_public(BUCKET, "replaced", CONTENT[::-1])
            return super().read(key, offset, length, etag=etag)

    source = _Replacing(f"s3://{BUCKET}", endpoint_url=bucket.url, max_concurrency=1)
    with pytest.raises(SourceChangedError, match=f"s3://{BUCKET}/replaced"):
        fetch(
            source,
            source.describe("replaced"),
            [(0, 1000), (2000, 1000), (4000, 1000)],
            tmp_path / "f",
        )
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("endpoint_url", "bucket_name", "expected"),
    [
        (
            None,
            "natural-scenes-dataset",
            "https://natural-scenes-dataset.s3.us-east-2.amazonaws.com/key",
        ),
        (None, "with.dots", "https://s3.us-east-2.amazonaws.com/with.dots/key"),
        ("http://localhost:9000", "data", "http://localhost:9000/data/key"),
    ],
)
def test_both_clients_ask_the_same_address(
    endpoint_url: str | None, bucket_name: str, expected: str
) -> None:
    client = boto3.client(
        "s3",
        region_name="us-east-2",
        endpoint_url=endpoint_url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=client_config(1, signature_version="s3v4"),
    )
    asked: list[str] = []

    def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        asked.append(request.url)
        response = AWSResponse(request.url, 200, {}, None)
        response._content = b""  # there is no connection to read it from
        return response

    client.meta.events.register("before-send.s3.HeadObject", answer)
    client.head_object(Bucket=bucket_name, Key="key")
    store = byte_store(client, bucket_name, access_key_id="a", secret_access_key="b")
    asked.append(obstore.sign(store, "GET", "key", timedelta(minutes=1)).partition("?")[0])
    assert asked == [expected, expected]


def test_a_url_without_a_bucket_is_told() -> None:
    with pytest.raises(NsdError, match="names no bucket"):
        open_source("s3://")
