import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, Remake
from nsd_pipeline.storage.s3_bucket import Bucket
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline_tests.storage.servers import MotoServer, Relay
from nsd_pipeline_tests.storage.test_store import (
    KEY,
    MADE_BY,
    empty,
    objects,
    put,
    use_moto,
    write_zarr,
)

BUCKET = "lab-s3"
_DAY = timedelta(days=1)
MANIFEST = f"artifacts/manifests/{KEY}.json"


@pytest.fixture
def server(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoServer]:
    use_moto(moto_server, monkeypatch)
    moto_server.client.create_bucket(Bucket=BUCKET)
    yield moto_server
    empty(moto_server, BUCKET)
    moto_server.client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def store(server: MotoServer, tmp_path: Path) -> S3Store:
    return S3Store(f"s3://{BUCKET}/artifacts", cache=tmp_path / "writer's cache")


@pytest.fixture
def reader(server: MotoServer, tmp_path: Path) -> S3Store:
    return S3Store(f"s3://{BUCKET}/artifacts", cache=tmp_path / "reader's cache")


def _data(server: MotoServer) -> list[str]:
    return [name for name in objects(server, BUCKET) if not name.startswith("artifacts/manifests/")]


def test_files_lie_below_the_version_that_the_manifest_names(
    store: S3Store, server: MotoServer
) -> None:
    put(store)
    manifest = store.manifest(KEY)
    assert manifest is not None
    root = f"artifacts/{KEY}/{manifest.version}"
    assert _data(server) == [f"{root}/events.txt", f"{root}/figures/map.png"]


def test_a_superseded_version_is_deleted(store: S3Store, server: MotoServer) -> None:
    put(store)
    old = _data(server)
    put(store, text="two")
    assert len(_data(server)) == len(old)
    assert not set(_data(server)) & set(old)


def test_a_writer_that_dies_before_the_manifest_leaves_the_old_artifact(
    store: S3Store, reader: S3Store, server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    old = _data(server)

    class _Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> bool:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(store._bucket, "put_if", die)
        patch.setattr(store, "_withdraw", lambda _: None)  # what is killed does not clean up
        with pytest.raises(_Killed):
            put(store, text="two")
    assert len(_data(server)) == 2 * len(old), "the test is about objects that were left"
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"

    with monkeypatch.context() as patch:
        patch.setattr("nsd_pipeline.storage.s3_store.ABANDONED", -_DAY)  # a day later
        put(store, text="three")
    assert len(_data(server)) == len(old), "left objects are cleared away when they are old"
    assert (reader.folder(KEY) / "events.txt").read_text() == "three"


def test_an_error_while_publishing_leaves_no_objects(
    store: S3Store, server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise ArtifactError("no", next_step="none")

    monkeypatch.setattr(store._bucket, "put_if", refuse)
    with pytest.raises(ArtifactError):
        put(store)
    assert objects(server, BUCKET) == []


def test_writers_at_once_leave_one_version(
    store: S3Store, reader: S3Store, server: MotoServer
) -> None:
    """Each one that was superseded is deleted by its successor, even when all publish at once."""
    together = threading.Barrier(4)

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
    folder = reader.folder(KEY)
    assert (folder / "a").read_text() == (folder / "b").read_text()
    assert len(_data(server)) == 2


def test_readers_see_one_version_while_it_is_replaced(store: S3Store, tmp_path: Path) -> None:
    put(store, text="0" * 500)
    done = threading.Event()

    def replace() -> None:
        for number in range(1, 8):
            put(store, text=str(number % 10) * 500)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    turn = 0
    while not done.is_set():
        turn += 1
        reader = S3Store(store.url, cache=tmp_path / f"cache {turn}")
        text = (reader.folder(KEY) / "events.txt").read_text()
        assert len(text) == 500
        assert len(set(text)) == 1
        seen.add(text)
    writer.join()
    assert len(seen) > 1


def test_a_version_is_downloaded_once(
    store: S3Store, reader: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    first = reader.folder(KEY)
    monkeypatch.setattr(reader._bucket, "download", None)
    assert reader.folder(KEY) == first
    monkeypatch.setattr(store._bucket, "download", None)
    store.folder(KEY)  # the writer has it from writing


def test_a_spoilt_cache_is_downloaded_again(store: S3Store, reader: S3Store) -> None:
    put(store)
    file = reader.folder(KEY) / "events.txt"
    file.write_text("two")
    again = S3Store(reader.url, cache=file.parents[6])
    assert again._cache == reader._cache
    assert (again.folder(KEY) / "events.txt").read_text() == "one"


def test_superseded_versions_leave_the_cache_when_nobody_can_be_reading_them(
    store: S3Store, reader: S3Store
) -> None:
    put(store)
    old = reader.folder(KEY)
    put(store, text="two")
    assert reader.folder(KEY) != old
    assert old.is_dir(), "somebody may be reading it"
    os.utime(old, (0, 0))
    put(store, text="three")
    assert (reader.folder(KEY) / "events.txt").read_text() == "three"
    assert not old.exists()


@pytest.mark.parametrize("damage", ["missing", "shorter", "same size"])
def test_damage_is_told_with_the_file_and_the_command(
    store: S3Store, reader: S3Store, server: MotoServer, damage: str
) -> None:
    put(store)
    name = next(name for name in _data(server) if name.endswith("events.txt"))
    if damage == "missing":
        server.client.delete_object(Bucket=BUCKET, Key=name)
    else:
        content = b"" if damage == "shorter" else b"two"
        server.client.put_object(Bucket=BUCKET, Key=name, Body=content)
    if damage != "same size":
        assert reader.manifest(KEY) is None, "it is not up to date"
    with pytest.raises(ArtifactError) as told:
        reader.folder(KEY)
    for part in (f"{store.url}/{KEY}", "events.txt"):
        assert part in str(told.value)
    assert told.value.remake == Remake("events", "subj01_ses01")
    assert reader.manifest(KEY) is None, "or the command would find it up to date"
    assert reader.keys() == [KEY], "or the next reader would go on without it"
    with pytest.raises(DamagedArtifactError, match=r"events\.txt"):
        reader.find(KEY)
    put(store)
    assert store.find(KEY) is not None
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"


def test_what_only_arrives_damaged_is_fetched_again_and_not_marked(
    store: S3Store, reader: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    download = Bucket.download
    spoilt: list[Path] = []

    def spoil_once(bucket: Bucket, files: Mapping[str, Path]) -> None:
        download(bucket, files)
        if not spoilt:
            spoilt.extend(path for path in files.values() if path.name == "events.txt")
            spoilt[0].write_text("two")

    monkeypatch.setattr(Bucket, "download", spoil_once)
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"
    assert len(spoilt) == 1
    assert reader.find(KEY) is not None


def test_a_chunk_that_is_deleted_while_reading_is_an_error(store: S3Store, reader: S3Store) -> None:
    write_zarr(store, np.ones((4, 3)))
    group = reader.zarr("betas.zarr/subj01/ses01")
    write_zarr(store, np.zeros((4, 3)))
    with pytest.raises(ArtifactError, match="was replaced by another run"):
        group["betas"][:]
    assert (reader.zarr("betas.zarr/subj01/ses01")["betas"][:] == 0).all()


def test_an_unreadable_manifest_is_damage(store: S3Store, server: MotoServer) -> None:
    put(store)
    server.client.put_object(Bucket=BUCKET, Key=MANIFEST, Body=b"{")
    assert store.manifest(KEY) is None
    assert store.keys() == [KEY]
    for attempt in (store.find, store.folder, store.zarr):
        with pytest.raises(DamagedArtifactError, match=f"{store.url}/{KEY} is damaged"):
            attempt(KEY)
    put(store, text="two")
    assert (store.folder(KEY) / "events.txt").read_text() == "two"


def test_without_credentials_the_next_step_is_told(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ArtifactError) as told:
        store.manifest(KEY)
    assert f"{store.url}/manifests/{KEY}.json" in str(told.value)
    assert "AWS_PROFILE" in str(told.value)


def test_a_cache_that_was_emptied_is_filled_again(store: S3Store, reader: S3Store) -> None:
    put(store)
    shutil.rmtree(reader.folder(KEY))
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"


def test_a_manifest_that_is_cut_off_is_asked_again(
    store: S3Store, server: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(store)
    relay = Relay(server.url, cut_after=600, n_cuts=2)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", relay.url)
    try:
        assert S3Store(store.url, cache=tmp_path / "c").manifest(KEY) == store.manifest(KEY)
    finally:
        relay.close()
    assert relay.cuts_left == 0
