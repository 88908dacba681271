import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from nsd_pipeline.errors import ArtifactError, NsdError, StorageFullError
from nsd_pipeline.storage.names import check_artifact_key
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline.storage.store import Draft, Store, fingerprint
from nsd_pipeline_tests.storage.servers import MotoServer

Change = Callable[[bytes], bytes]
KEY = "events/subj01/ses01"
MADE_BY: dict[str, Any] = {
    "asset": "events",
    "partition": "subj01_ses01",
    "fingerprint": "f" * 64,
    "code_version": "1",
    "inputs": {"experiment_design": "a" * 64},
    "config": {"query": "space == 'fsaverage'"},
}


@pytest.fixture(params=["local", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(tmp_path / "artifacts")
        return
    server: MotoServer = request.getfixturevalue("moto_server")
    use_moto(server, monkeypatch)
    server.client.create_bucket(Bucket="lab")
    yield open_store("s3://lab/artifacts")
    empty(server, "lab")
    server.client.delete_bucket(Bucket="lab")


@pytest.fixture
def change(store: Store, request: pytest.FixtureRequest) -> Callable[[str, Change], None]:
    """Change a file of the store, or put one there, behind its back."""

    def on_disk(name: str, how: Change) -> None:
        path = Path(store.url, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(how(path.read_bytes() if path.exists() else b""))

    def on_s3(name: str, how: Change) -> None:
        server: MotoServer = request.getfixturevalue("moto_server")
        place = {"Bucket": "lab", "Key": f"artifacts/{name}"}
        there = place["Key"] in objects(server, "lab")
        content = server.client.get_object(**place)["Body"].read() if there else b""
        server.client.put_object(**place, Body=how(content))

    return on_s3 if isinstance(store, S3Store) else on_disk


def use_moto(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def objects(server: MotoServer, bucket: str) -> list[str]:
    answer = server.client.list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in answer.get("Contents", [])]


def empty(server: MotoServer, bucket: str) -> None:
    for key in objects(server, bucket):
        server.client.delete_object(Bucket=bucket, Key=key)


def put(store: Store, key: str = KEY, *, text: str = "one", **changes: Any) -> None:
    with store.write(key, **(MADE_BY | changes)) as draft:
        (draft.folder / "events.txt").write_text(text)
        (draft.folder / "figures").mkdir()
        (draft.folder / "figures" / "map.png").write_bytes(b"picture")
        draft.metadata["rows"] = 750


def leftovers(root: Path) -> list[str]:
    """Files and non-empty folders below a store's or cache's place for unfinished work."""
    return sorted(
        str(path)
        for kind in ("drafts", "scratch")
        for partial in root.rglob(".partial")
        for path in (partial / kind).glob("*")
    )


def test_an_artifact_is_there_with_its_record(store: Store) -> None:
    assert store.manifest(KEY) is None
    assert store.keys("events/") == []
    put(store)
    manifest = store.manifest(KEY)
    assert manifest is not None
    assert {name: getattr(manifest, name) for name in MADE_BY} == MADE_BY
    assert manifest.metadata == {"rows": 750}
    assert manifest.created.utcoffset() is not None
    assert {name: record.bytes for name, record in manifest.files.items()} == {
        "events.txt": 3,
        "figures/map.png": 7,
    }
    assert store.keys() == store.keys("events/subj01/") == [KEY]
    assert store.keys("events/subj02/") == []
    assert (store.folder(KEY) / "events.txt").read_text() == "one"
    assert (store.folder(KEY) / "figures" / "map.png").read_bytes() == b"picture"


def test_a_new_artifact_takes_the_place_of_the_old_one(store: Store, tmp_path: Path) -> None:
    put(store)
    put(store, text="a longer one", fingerprint="e" * 64)
    assert (store.folder(KEY) / "events.txt").read_text() == "a longer one"
    manifest = store.manifest(KEY)
    assert manifest is not None
    assert manifest.fingerprint == "e" * 64
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_an_error_leaves_nothing_but_what_was_there(
    store: Store, tmp_path: Path, earlier: bool
) -> None:
    if earlier:
        put(store)
    with pytest.raises(FileNotFoundError), store.write(KEY, **MADE_BY) as draft:  # noqa: PT012
        (draft.folder / "events.txt").write_text("half of i")
        (draft.folder / "absent").unlink()
    with pytest.raises(ValueError, match="serialize"), store.write(KEY, **MADE_BY) as draft:
        draft.metadata["not JSON"] = object()
    assert leftovers(tmp_path) == []
    assert store.keys() == ([KEY] if earlier else [])
    if earlier:
        assert (store.folder(KEY) / "events.txt").read_text() == "one"


def test_another_process_sees_it(store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    put(store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    other = open_store(store.url)
    assert other.manifest(KEY) == store.manifest(KEY)
    assert (other.folder(KEY) / "events.txt").read_text() == "one"


def test_a_missing_artifact_is_told_by_its_place(store: Store) -> None:
    for attempt in (lambda: store.folder(KEY), lambda: store.zarr(KEY)):
        with pytest.raises(ArtifactError) as told:
            attempt()
        assert f"{store.url}/{KEY}" in str(told.value)


def test_scratch_lasts_until_the_artifact_is_there(store: Store, tmp_path: Path) -> None:
    (store.scratch(KEY) / "lh.partial").write_text("so far")
    with pytest.raises(ZeroDivisionError), store.write(KEY, **MADE_BY):
        raise ZeroDivisionError
    assert (store.scratch(KEY) / "lh.partial").read_text() == "so far"
    with store.write(KEY, **MADE_BY) as draft:
        (store.scratch(KEY) / "lh.partial").rename(draft.folder / "lh")
    assert (store.folder(KEY) / "lh").read_text() == "so far"
    assert leftovers(tmp_path) == []


def test_a_zarr_group_is_read_in_place_and_only_read(store: Store) -> None:
    write_zarr(store, np.arange(12.0).reshape(4, 3))
    group = store.zarr("betas.zarr/subj01/ses01")
    np.testing.assert_array_equal(group["betas"][1:3], [[3, 4, 5], [6, 7, 8]])
    assert group.attrs["subject"] == "subj01"
    assert np.isnan(group["empty"][:]).all(), "an all-fill chunk has no file, and no error"
    with pytest.raises(ValueError, match=r"read.only"):
        group["betas"][0] = 1


def write_zarr(store: Store, betas: np.ndarray) -> None:
    with store.write("betas.zarr/subj01/ses01", **MADE_BY) as draft:
        group = zarr.open_group(draft.folder, mode="w", attributes={"subject": "subj01"})
        group.create_array("betas", data=betas, chunks=(1, betas.shape[1]))
        group.create_array("empty", shape=(4,), chunks=(2,), dtype="f4", fill_value=np.nan)


def test_a_disk_without_room_is_told_before_anything_is_written(
    store: Store, tmp_path: Path
) -> None:
    with (
        pytest.raises(StorageFullError, match="are needed"),
        store.write(KEY, **MADE_BY, expected_bytes=2**60),
    ):
        pytest.fail("the block was entered")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_full_disk_is_told_whichever_library_writes(store: Store, error: Exception) -> None:
    told = pytest.raises(StorageFullError, match="is full: No space left on device")
    with told, store.write(KEY, **MADE_BY):
        raise error
    assert store.keys() == []


def test_no_artifact_lies_within_another(store: Store) -> None:
    put(store)
    for key in (f"{KEY}/more", "events/subj01"):
        with pytest.raises(ArtifactError, match="cannot be an artifact"):
            put(store, key)
    put(store, f"{KEY}0")


def test_a_link_is_no_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("text")
    with pytest.raises(ArtifactError, match="link"), store.write(KEY, **MADE_BY) as draft:
        (draft.folder / "link").symlink_to(tmp_path / "outside")


@pytest.mark.parametrize(
    "key",
    ["", "/etc", "..", "a/../../b", "a//b", "a/", "./a", ".partial/x", "manifests/a", "a.json"],
)
def test_keys_that_leave_the_root_are_refused(store: Store, key: str) -> None:
    for attempt in (
        lambda: store.manifest(key),
        lambda: store.folder(key),
        lambda: store.scratch(key),
        lambda: put(store, key),
    ):
        with pytest.raises(NsdError, match="cannot be the key"):
            attempt()


@given(st.text(alphabet="ab./\\~=-\n\0 é", max_size=12))
def test_accepted_keys_stay_below_the_root(key: str) -> None:
    try:
        check_artifact_key(key)
    except NsdError:
        return
    assert Path(os.path.normpath(Path("/root", key))) == Path("/root", key) != Path("/root")


def test_writers_at_once_end_with_one_whole_artifact(store: Store, tmp_path: Path) -> None:
    inside = threading.Barrier(4)
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with open_store(store.url).write(KEY, **MADE_BY) as draft:
                inside.wait()
                for name in "abc":
                    (draft.folder / name).write_text(str(number))
                inside.wait()
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    folder = store.folder(KEY)
    assert len({(folder / name).read_text() for name in "abc"}) == 1
    assert store.manifest(KEY) is not None
    assert leftovers(tmp_path) == []


def test_fingerprints_differ_where_the_recipe_does() -> None:
    recipe: dict[str, Any] = {
        "asset": "events",
        "code_version": "1",
        "config": {"a": 1, "b": [2]},
        "inputs": {"x": "1", "y": "2"},
    }
    same = recipe | {"config": {"b": [2], "a": 1}}
    assert fingerprint(**recipe) == fingerprint(**same)
    for change in (
        {"asset": "betas"},
        {"code_version": "2"},
        {"config": {"a": 1, "b": [3]}},
        {"inputs": {"x": "2", "y": "1"}},
    ):
        assert fingerprint(**recipe | change) != fingerprint(**recipe)


def test_a_draft_is_no_artifact_while_it_is_written(store: Store) -> None:
    with store.write(KEY, **MADE_BY) as draft:
        assert isinstance(draft, Draft)
        (draft.folder / "events.txt").write_text("one")
        assert store.manifest(KEY) is None
        assert store.keys() == []
