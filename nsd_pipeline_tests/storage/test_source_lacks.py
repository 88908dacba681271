"""Sources on servers that lack something: what is asked instead, and what is refused at once."""

from collections.abc import Iterator
from typing import Any

import pytest

from nsd_pipeline.errors import SourceChangedError, SourceError
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.s3_servers import tell_once
from nsd_pipeline_tests.storage.servers import (
    Environ,
    MotoServer,
    PickyServer,
    another_etag,
    listing_2,
)
from nsd_pipeline_tests.storage.test_store import empty

BUCKET = "copy-lacks"
KEY = "nsddata/lh.mgh"
CONTENT = bytes(range(256)) * 8

pytestmark = pytest.mark.usefixtures("terms_accepted")


@pytest.fixture
def picky(moto_server: MotoServer) -> Iterator[PickyServer]:
    moto_server.client.create_bucket(Bucket=BUCKET, ACL="public-read")
    moto_server.put_public(BUCKET, KEY, CONTENT)
    tell_once.cache_clear()
    server = PickyServer()
    yield server
    server.stop()
    empty(moto_server, BUCKET)
    moto_server.client.delete_bucket(Bucket=BUCKET)


def _head(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "HEAD"


def _if_match(environ: Environ) -> bool:
    return "HTTP_IF_MATCH" in environ


LACKS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "ETags": ({"headers": {"etag": lambda _: None}}, "ETags are missing"),
    "strong ETags": ({"headers": {"etag": lambda etag: f"W/{etag}"}}, ""),
    "stable ETags": ({"headers": {"etag": another_etag}}, "ETags change"),
    "HEAD": ({"refuses": _head, "status": "405 Method Not Allowed"}, "does not know HEAD"),
    "If-Match": ({"refuses": _if_match}, "refuses If-Match"),
    "If-Match that fits": (
        {"refuses": _if_match, "status": "412 Precondition Failed"},
        "refuses If-Match",
    ),
    "Last-Modified": ({"headers": {"last-modified": lambda _: None}}, ""),
    "listings of version 2": ({"refuses": listing_2}, "version 1 is used"),
}
"""How a server lacks something, and what has to be told."""


@pytest.mark.parametrize("lack", LACKS)
def test_objects_are_read_all_the_same_and_bound_to_their_version(
    picky: PickyServer, moto_server: MotoServer, lack: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = picky.lack(*LACKS[lack])
    source = open_source(f"s3://{BUCKET}", endpoint_url=picky.url)
    info = source.describe(KEY)
    assert info.n_bytes == len(CONTENT)
    assert source.list("nsddata/l") == [KEY]
    assert source.describe(KEY) == info
    assert source.read(KEY, 100, 300, etag=info.etag) == CONTENT[100:400]
    with source.open(KEY) as file:
        assert file.read() == CONTENT
    messages = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(messages) == bool(told), messages
    assert all(told in message for message in messages)
    moto_server.put_public(BUCKET, KEY, CONTENT[::-1] + b"longer")
    with pytest.raises(SourceChangedError):
        source.read(KEY, 100, 300, etag=info.etag)


@pytest.mark.parametrize(
    ("header", "value", "problem"),
    [
        ("content-range", "bytes 1-2/*", "cannot be read in parts"),
        ("content-range", "bytes 0-1/2048", "cannot be read in parts"),
        ("content-range", None, "cannot be read in parts"),
        ("last-modified", "yesterday", "Invalid timestamp"),
        ("last-modified", "Wednesday, 01-Jan-25 00:00:00 GMT", "cannot be read in parts"),
    ],
)
def test_an_odd_answer_is_refused_before_the_work(
    picky: PickyServer, header: str, value: str | None, problem: str
) -> None:
    asked: list[str] = []
    picky.changes = lambda environ: asked.append(environ["REQUEST_METHOD"])
    picky.headers[header] = lambda _: value
    source = open_source(f"s3://{BUCKET}", endpoint_url=picky.url)
    with pytest.raises(SourceError, match=problem):
        source.describe(KEY)
    assert len(asked) <= 7, "or a minute of waiting goes by"


def test_a_server_without_ranges_is_refused(picky: PickyServer) -> None:
    picky.forgets = ("HTTP_RANGE",)
    source = open_source(f"s3://{BUCKET}", endpoint_url=picky.url)
    with pytest.raises(SourceError, match="cannot be read in parts") as told:
        source.describe(KEY)
    assert "set NSD_SOURCE to it" in told.value.next_step


def test_a_server_that_tells_no_version_is_refused(picky: PickyServer) -> None:
    picky.headers = {"etag": lambda _: None, "last-modified": lambda _: None}
    source = open_source(f"s3://{BUCKET}", endpoint_url=picky.url)
    with pytest.raises(SourceError, match="tells neither an ETag nor a time"):
        source.describe(KEY)


def test_a_private_copy_is_read_with_signed_requests(
    moto_server: MotoServer, picky: PickyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server.client.create_bucket(Bucket="private-copy")
    moto_server.client.put_object(Bucket="private-copy", Key="private", Body=CONTENT)
    unsigned = open_source("s3://private-copy", endpoint_url=picky.url)
    with pytest.raises(SourceError, match="403") as told:
        unsigned.describe("private")
    assert "NSD_SOURCE_SIGNED=1" in told.value.next_step
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    signed = open_source("s3://private-copy", endpoint_url=picky.url, signed=True)
    info = signed.describe("private")
    assert signed.read("private", 5, 20, etag=info.etag) == CONTENT[5:25]
