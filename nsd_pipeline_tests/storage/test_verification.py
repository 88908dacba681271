"""All of a store at once: what a snapshot holds, what is found wrong, and what may go."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from nsd_pipeline.errors import DamagedArtifactError
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.store import Store
from nsd_pipeline.storage.verification import (
    Kind,
    check_content,
    damaged,
    other_inputs,
    take_away,
    unnamed_files,
)
from nsd_pipeline_tests.storage.test_store import KEY, MADE_BY, Change, change, put, store

__all__ = ["change", "store"]
OTHER = "events/subj01/ses02"
TOMORROW = datetime.now(UTC) + timedelta(days=2)


def location(store: Store) -> str:
    manifest = store.manifest(KEY)
    assert manifest is not None
    return manifest.location


def test_a_snapshot_answers_as_the_store_did(store: Store) -> None:
    put(store)
    put(store, OTHER)
    snapshot = Snapshot(store)
    put(store, "events/subj02/ses01")
    assert snapshot.keys() == [KEY, OTHER]
    assert snapshot.keys("events/subj01/ses02") == [OTHER]
    assert snapshot.find(KEY) == store.find(KEY)
    assert snapshot.find("events/subj02/ses01") is None
    assert snapshot.folder(KEY) == store.folder(KEY)


@pytest.mark.parametrize("how", [lambda _: b"longer than it was", None])
def test_a_file_of_another_size_and_a_torn_manifest_are_damage(
    store: Store, change: Callable[[str, Change], None], how: Change | None
) -> None:
    put(store)
    put(store, OTHER)
    name = f"{location(store)}/events.txt" if how else f"manifests/{KEY}.json"
    change(name, how or (lambda content: content[:50]))
    snapshot = Snapshot(store)
    assert [(each.kind, each.key) for each in damaged(snapshot)] == [(Kind.DAMAGED, KEY)]
    with pytest.raises(DamagedArtifactError):
        snapshot.find(KEY)
    assert not unnamed_files(snapshot, TOMORROW), "what is damaged is not what nobody needs"


def test_other_bytes_are_found_by_reading_and_marked(
    store: Store, change: Callable[[str, Change], None]
) -> None:
    put(store)
    put(store, OTHER)
    change(f"{location(store)}/events.txt", lambda content: content.upper())
    snapshot = Snapshot(store)
    assert not damaged(snapshot)
    seen: list[int] = []
    ((manifest, what),) = check_content(snapshot, seen.append)
    assert manifest.key == KEY
    assert "events.txt has another SHA-256" in what
    assert sum(seen) == sum(each.n_bytes for each in snapshot.manifests)
    assert store.mark_damaged(manifest, what)
    assert store.manifest(KEY) is None
    put(store, text="two")
    assert not store.mark_damaged(manifest, what), "it is another artifact now"
    assert store.manifest(KEY) is not None


def test_inputs_are_those_that_are_there(store: Store) -> None:
    put(store)  # made from a design that the store does not have: no error of its own
    assert not other_inputs(Snapshot(store))
    design = MADE_BY | {"asset": "experiment_design", "partition": None, "inputs": {}}
    with store.write("experiment_design", **design) as draft:
        (draft.folder / "design").write_text("another")
    (finding,) = other_inputs(Snapshot(store))
    assert (finding.kind, finding.key) == (Kind.INPUTS, KEY)
    assert "experiment_design" in finding.what


def test_what_no_manifest_names_is_taken_away_and_nothing_else(
    store: Store, change: Callable[[str, Change], None]
) -> None:
    put(store)
    left = "20200101T000000-0123abcd" if store.url.startswith("s3://") else "left"
    change(f"{KEY}/{left}/events.txt", lambda _: b"left by a writer that died")
    change("notes/mine.txt", lambda _: b"not ours")
    change("events/notes.txt", lambda _: b"not ours either")
    (finding,) = unnamed_files(Snapshot(store), TOMORROW)
    assert (finding.key, finding.files) == (KEY, (f"{KEY}/{left}/events.txt",))
    assert finding.kind is (Kind.SUPERSEDED if store.url.startswith("s3://") else Kind.ORPHAN)
    assert finding.n_bytes == 26
    if store.url.startswith("s3://"):
        assert not unnamed_files(Snapshot(store)), "a living writer's are as young"
    before = set(store.files())
    take_away(store, finding)
    assert before - set(store.files()) == set(finding.files)
    assert store.folder(KEY).is_dir()


def test_a_folder_that_lost_its_manifest_may_go(store: Store) -> None:
    put(store)
    put(store, OTHER)
    store.remove([f"manifests/{KEY}.json"])
    (finding,) = unnamed_files(Snapshot(store), TOMORROW)
    assert finding.key == KEY
    take_away(store, finding)
    assert store.keys() == [OTHER]
    assert not store.files(KEY)


def test_a_deleted_artifact_is_as_if_it_had_never_been(store: Store) -> None:
    put(store)
    put(store, OTHER)
    store.delete(KEY)
    assert store.keys() == [OTHER]
    assert store.find(KEY) is None
    assert not store.files(KEY)
    put(store)
    assert store.find(KEY) is not None
