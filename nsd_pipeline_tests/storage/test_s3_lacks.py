"""Stores on servers that lack something: what is asked instead, and that it is told once."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage import s3_bucket
from nsd_pipeline.storage.s3_bucket import Bucket
from nsd_pipeline.storage.s3_servers import ListingError, list_objects, tell_once
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline_tests.storage.servers import (
    Environ,
    MotoServer,
    PickyServer,
    another_etag,
    listing_2,
)
from nsd_pipeline_tests.storage.test_store import KEY, MADE_BY, empty, objects, put, use_moto

BUCKET = "lab-lacks"
CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")


def _conditional(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and any(name in environ for name in CONDITIONS)


def _with_if_match(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and "HTTP_IF_MATCH" in environ


def _batch(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "POST" and environ["QUERY_STRING"].startswith("delete")


def _parts(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "POST" and environ["QUERY_STRING"].startswith("uploads")


@pytest.fixture
def picky(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[PickyServer]:
    """A server before the same objects as `moto_server`, which stays as it is."""
    use_moto(moto_server, monkeypatch)
    moto_server.client.create_bucket(Bucket=BUCKET)
    server = PickyServer()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    s3_bucket._servers.clear()
    tell_once.cache_clear()
    yield server
    server.stop()
    empty(moto_server, BUCKET)
    moto_server.client.delete_bucket(Bucket=BUCKET)


def _store(tmp_path: Path, name: str = "writer") -> S3Store:
    return S3Store(f"s3://{BUCKET}/artifacts", cache=tmp_path / name)


def _one_version(server: MotoServer, store: S3Store) -> None:
    """Check that a bucket holds the version that the manifest names, and nothing else."""
    manifest = store.find(KEY)
    assert manifest is not None
    root = f"artifacts/{KEY}/{manifest.version}"
    assert objects(server, BUCKET) == [
        f"{root}/events.txt",
        f"{root}/figures/map.png",
        f"artifacts/manifests/{KEY}.json",
    ]


_NO_CONDITIONS = "no conditional writes"
LACKS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "conditions": ({"refuses": _conditional}, _NO_CONDITIONS),
    "conditions, by 400": (
        {"refuses": _conditional, "status": "400 Bad", "code": "InvalidArgument"},
        _NO_CONDITIONS,
    ),
    "If-Match": ({"refuses": _with_if_match}, _NO_CONDITIONS),
    "conditions, silently": ({"forgets": CONDITIONS}, _NO_CONDITIONS),
    "If-Match, silently": ({"forgets": CONDITIONS[:1]}, _NO_CONDITIONS),
    "ETags": ({"headers": {"etag": lambda _: None}}, ""),
    "strong ETags": ({"headers": {"etag": lambda etag: f"W/{etag}"}}, ""),
    "stable ETags": ({"headers": {"etag": another_etag}}, _NO_CONDITIONS),
    "batches": ({"refuses": _batch}, "one by one"),
    "batches, by 400": (
        {"refuses": _batch, "status": "400 Bad", "code": "MissingContentMD5"},
        "one by one",
    ),
    "listings of version 2": ({"refuses": listing_2}, "version 1 is used"),
}
"""How a server lacks something, and what has to be told."""


@pytest.mark.parametrize("lack", LACKS)
def test_artifacts_are_written_and_replaced_all_the_same(
    picky: PickyServer,
    moto_server: MotoServer,
    tmp_path: Path,
    lack: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = picky.lack(*LACKS[lack])
    writer, reader = _store(tmp_path), _store(tmp_path, "reader")
    for text in ("one", "two"):
        put(writer, text=text)
        assert reader.keys() == [KEY]
        assert (reader.folder(KEY) / "events.txt").read_text() == text
        _one_version(moto_server, reader)
    messages = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(messages) == bool(told), messages
    assert all(told in message for message in messages)


@pytest.mark.parametrize("lack", ["conditions", "conditions, silently", "ETags"])
def test_writers_at_once_leave_a_whole_artifact_without_conditions(
    picky: PickyServer, tmp_path: Path, lack: str
) -> None:
    picky.lack(*LACKS[lack])
    together = threading.Barrier(4)
    store = _store(tmp_path)

    def write(number: int) -> None:
        with store.write(KEY, **MADE_BY) as draft:
            (draft.folder / "a").write_text(str(number))
            (draft.folder / "b").write_text(str(number))
            together.wait()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    folder = _store(tmp_path, "reader").folder(KEY)
    assert (folder / "a").read_text() == (folder / "b").read_text()


def test_a_version_that_was_superseded_is_not_marked_without_conditions(
    picky: PickyServer, tmp_path: Path
) -> None:
    picky.refuses = _conditional
    store = _store(tmp_path)
    put(store)
    old = store._load(KEY)
    assert old is not None
    put(store, text="two")
    store._mark(old, "damage of the old one")
    assert store.find(KEY) is not None


def test_an_answer_that_is_lost_after_the_manifest_was_put_leaves_one_version(
    picky: PickyServer, moto_server: MotoServer, tmp_path: Path
) -> None:
    """The client asks again, and is told that what it has put itself is another one now."""
    store = _store(tmp_path)
    put(store, text="one")
    lost: list[str] = []

    def lose(environ: Environ) -> bool:
        if lost or not (_with_if_match(environ) and "/manifests/" in environ["PATH_INFO"]):
            return False
        lost.append(environ["PATH_INFO"])
        list(picky.carry_out(environ))
        return True

    picky.refuses, picky.status, picky.code = lose, "503 Slow Down", "SlowDown"
    put(store, text="two")
    assert lost
    assert (_store(tmp_path, "reader").folder(KEY) / "events.txt").read_text() == "two"
    found = store.find(KEY)
    assert found is not None
    names = objects(moto_server, BUCKET)
    assert {name.split("/")[-2] for name in names if name.endswith(".txt")} == {found.version}


def test_a_server_that_changes_what_it_is_given_is_refused_before_the_work(
    picky: PickyServer, moto_server: MotoServer, tmp_path: Path
) -> None:
    """As one does that keeps the frames of a checksummed upload as a part of the object."""
    bucket = Bucket(f"s3://{BUCKET}/artifacts")

    def garble(environ: Environ) -> None:
        if environ["REQUEST_METHOD"] == "GET" and "probes/" in environ["PATH_INFO"]:
            name = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
            moto_server.client.put_object(Bucket=BUCKET, Key=name, Body=b"3b;chunk-signature=...")

    picky.changes = garble
    with (
        pytest.raises(ArtifactError, match=r"22 other bytes came back") as told,
        _store(tmp_path).write(KEY, **MADE_BY),
    ):
        pytest.fail("the artifact is not to be made")
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in told.value.next_step
    assert list(bucket.list("")) == []


def test_large_files_come_whole_where_parts_are_not_known(
    picky: PickyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picky.refuses = _parts
    content = bytes(9 * 2**20)
    with _store(tmp_path).write(KEY, **MADE_BY) as draft:
        (draft.folder / "large").write_bytes(content)
    assert (_store(tmp_path, "reader").folder(KEY) / "large").read_bytes() == content
    assert [record for record in caplog.records if "takes no object in parts" in record.message]


def _client(server: PickyServer) -> Any:
    return boto3.client("s3", endpoint_url=server.url)


def test_a_listing_by_a_server_that_ignores_version_2_is_whole(
    picky: PickyServer, moto_server: MotoServer
) -> None:
    names = [f"a/{number}" for number in range(7)]
    for name in names:
        moto_server.client.put_object(Bucket=BUCKET, Key=name, Body=b"x")

    def old(environ: Environ) -> None:
        query = environ["QUERY_STRING"].replace("list-type=2", "")
        environ["QUERY_STRING"] = f"{query}&max-keys=2"

    picky.changes = old
    assert [entry["Key"] for entry in list_objects(_client(picky), BUCKET, "a/")] == names

    def stuck(environ: Environ) -> None:
        environ["QUERY_STRING"] = "prefix=a/&max-keys=2"

    picky.changes = stuck
    with pytest.raises(ListingError, match="starts again after a/1"):
        list(list_objects(_client(picky), BUCKET, "a/"))


def test_a_small_object_is_asked_for_once_unless_its_etag_does_not_show_it_to_be_whole(
    picky: PickyServer, moto_server: MotoServer
) -> None:
    moto_server.client.put_object(Bucket=BUCKET, Key="there", Body=b"{}")
    bucket, asked = Bucket(f"s3://{BUCKET}"), []
    picky.changes = lambda environ: asked.append(environ["PATH_INFO"])
    assert (bucket.read("there"), bucket.read("missing")) == (b"{}", None)
    assert len(asked) == 2
    picky.headers = {"etag": another_etag}
    assert bucket.read("there") == b"{}"
    assert len(asked) == 4, "boto3, which compares checksums, asks again"
    empty(moto_server, BUCKET)
