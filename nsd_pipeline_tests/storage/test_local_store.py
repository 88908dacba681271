import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, Remake
from nsd_pipeline.storage import disk
from nsd_pipeline.storage.local_store import LocalStore
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store
from nsd_pipeline_tests.storage.test_store import KEY, MADE_BY, leftovers, put, write_zarr


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "artifacts")


def test_files_lie_where_a_person_looks_for_them(store: Store) -> None:
    put(store)
    root = Path(store.url)
    assert (root / KEY / "events.txt").read_text() == "one"
    assert (root / "manifests" / f"{KEY}.json").exists()


@pytest.mark.parametrize("damage", ["shorter", "missing", "same size"])
def test_damage_is_told_with_the_file_and_the_command(store: Store, damage: str) -> None:
    put(store)
    file = Path(store.url) / KEY / "events.txt"
    match damage:
        case "shorter":
            file.write_text("on")
        case "missing":
            file.unlink()
        case _:
            file.write_text("two")
    reader = open_store(store.url)
    with pytest.raises(ArtifactError) as told:
        reader.folder(KEY)
    for part in (f"{store.url}/{KEY}", "events.txt"):
        assert part in str(told.value)
    assert told.value.remake == Remake("events", "subj01_ses01")
    assert reader.manifest(KEY) is None, "or the command would find it up to date"
    put(store)
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"


@pytest.mark.parametrize("damage", ["shorter", "missing", "torn manifest", "no manifest"])
def test_a_damaged_artifact_is_listed_and_told_and_made_again(store: Store, damage: str) -> None:
    """What was there is never left out: it is not up to date, and whoever reads it is told."""
    put(store)
    put(store, "events/subj01/ses02")
    file = Path(store.url, KEY, "events.txt")
    manifest = Path(store.url, "manifests", f"{KEY}.json")
    match damage:
        case "shorter":
            file.write_text("")
        case "missing":
            file.unlink()
        case "torn manifest":
            manifest.write_bytes(manifest.read_bytes()[:100])
        case _:  # as a writer of an earlier version left it that died while it replaced
            manifest.unlink()
    reader = open_store(store.url)
    assert reader.keys("events/subj01/") == [KEY, "events/subj01/ses02"]
    for attempt in (reader.find, reader.folder, reader.zarr):
        with pytest.raises(DamagedArtifactError, match=f"artifact {store.url}/{KEY} is damaged"):
            attempt(KEY)
    assert reader.manifest(KEY) is None
    put(store)
    assert store.manifest(KEY) is not None
    assert (open_store(store.url).folder(KEY) / "events.txt").read_text() == "one"


def test_damage_that_was_read_once_stays_damage(store: Store) -> None:
    """The reader that found it is not the last one: the next must not go on without it."""
    put(store)
    (Path(store.url) / KEY / "events.txt").write_text("two")
    for _ in range(2):
        reader = open_store(store.url)
        assert reader.keys() == [KEY]
        with pytest.raises(DamagedArtifactError, match=r"events\.txt has another SHA-256"):
            reader.folder(KEY)
    assert reader.manifest(KEY) is None


def test_an_artifact_that_somebody_took_away_is_gone(store: Store) -> None:
    put(store)
    put(store, "events/subj01/ses02")
    Path(store.url, "manifests", f"{KEY}.json").unlink()
    shutil.rmtree(Path(store.url, KEY))
    assert store.keys() == ["events/subj01/ses02"]
    assert store.find(KEY) is None


def test_folders_that_were_never_artifacts_are_none(store: Store) -> None:
    put(store)
    Path(store.url, "notes", "more").mkdir(parents=True)
    Path(store.url, "events", "subj01", "a b").mkdir()
    assert store.keys() == [KEY]
    assert store.keys(f"{KEY}/") == [], "the folders within an artifact"


def test_a_chunk_that_goes_missing_is_an_error_not_fill_values(store: Store) -> None:
    write_zarr(store, np.ones((4, 3)))
    group = store.zarr("betas.zarr/subj01/ses01")
    (Path(store.url) / "betas.zarr/subj01/ses01/betas/c/2/0").unlink()
    with pytest.raises(ArtifactError, match="betas/c/2/0 went missing"):
        group["betas"][:]


def test_readers_never_see_two_versions_at_once(store: Store) -> None:
    """While one artifact is replaced again and again, every read is of a single version or none.

    A folder's name is good until the next replacement, so a file may be gone, but never mixed.
    """
    put(store, text="0" * 1000)
    done = threading.Event()

    def replace() -> None:
        for number in range(1, 10_000):
            put(store, text=str(number % 10) * (1000 + number))
            if done.is_set():
                return

    writer = threading.Thread(target=replace)
    writer.start()
    announced, read = set(), set()
    while writer.is_alive() and min(len(announced), len(read)) < 20:
        reader = open_store(store.url)
        manifest = reader.manifest(KEY)
        assert manifest is not None, "it is there all the time"
        announced.add(manifest.files["events.txt"].bytes)
        with suppress(FileNotFoundError):
            text = (reader.folder(KEY) / "events.txt").read_text()
            assert text == text[0] * len(text)
            read.add(len(text))
    done.set()
    writer.join()
    assert min(len(announced), len(read)) == 20


def test_a_group_that_is_replaced_while_it_is_read_is_an_error_not_a_mixture(store: Store) -> None:
    write_zarr(store, np.zeros((4, 3)))
    betas = store.zarr("betas.zarr/subj01/ses01")["betas"]
    assert not betas[:2].any()
    write_zarr(store, np.ones((4, 3)))
    with pytest.raises(ArtifactError, match="was replaced by another run"):
        betas[2:]
    with pytest.raises(ArtifactError, match="was replaced by another run"):
        betas.store_path.store.open_file("betas/c/2/0")
    assert store.zarr("betas.zarr/subj01/ses01")["betas"][2:].all()


STEPS = ("rename", "replace", "mkdir", "fsync", "rmdir", "unlink")
"""What publishing asks of the system, by the functions of `os` behind it."""


class _PowerCut(BaseException):
    pass


def _die_at(patch: pytest.MonkeyPatch, step: int, *, exchanges: bool) -> None:
    """Let the process die before its so-many-th call that changes the store."""
    left = itertools.count(-step)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(left) >= 0:
                raise _PowerCut
            return function(*args, **options)

        return call

    for name in STEPS:
        patch.setattr(os, name, dying(getattr(os, name)))
    renameat2 = disk._renameat2()
    patch.setattr(disk, "_renameat2", lambda: dying(renameat2) if exchanges else None)


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("earlier", [True, False])
def test_whenever_a_writer_dies_the_artifact_is_the_old_or_the_new_one(
    store: Store, earlier: bool, exchanges: bool, tmp_path: Path
) -> None:
    if exchanges and disk._renameat2() is None:
        pytest.skip("this system cannot exchange two folders")
    outcomes = []
    for step in itertools.count():
        key = f"events/subj01/{step}"
        if earlier:
            put(store, key, text="old")
        with pytest.MonkeyPatch.context() as patch:
            _die_at(patch, step, exchanges=exchanges)
            try:
                put(store, key, text="new")
            except _PowerCut:
                died = True
            else:
                died = False
        reader = open_store(store.url)
        there = reader.keys(key) == [key]
        outcomes.append((reader.folder(key) / "events.txt").read_text() if there else None)
        assert there or not earlier
        assert (reader.find(key) is not None) == there
        put(store, key, text="newer")
        assert (open_store(store.url).folder(key) / "events.txt").read_text() == "newer"
        assert list(Path(store.url, ".partial", "next").glob("*")) == []
        if not died:
            break
    before = "old" if earlier else None
    n_before = outcomes.index("new")
    assert outcomes == [before] * n_before + ["new"] * (len(outcomes) - n_before)
    assert n_before > 5
    assert len(outcomes) > n_before + 3, "deaths after the one rename that publishes it"


def test_bytes_are_on_the_disk_before_names(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, then their folders, then the manifest's new name, each before the next."""
    put(store, text="old")
    done: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def name_of(path: object) -> str:
        name = os.path.relpath(os.fspath(path), store.url)  # type: ignore[call-overload]
        return re.sub(r"\b[0-9a-f]{32}\b", "*", name)

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(f"sync {name_of(Path(f'/proc/self/fd/{descriptor}').readlink())}")

    def moved(function: Callable[..., None], one: object, other: object) -> None:
        done.append(f"{name_of(one)} -> {name_of(other)}")
        function(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", partial(moved, replace))
    monkeypatch.setattr(os, "rename", partial(moved, rename))
    put(store, text="new")
    next_one = f".partial/next/{KEY.replace('/', '+')}"
    draft = ".partial/drafts/*"
    moves = [
        f"{draft}/files -> {next_one}",
        f"{draft}/manifest.json -> manifests/{KEY}.json",
        f"{next_one} -> {draft}/superseded",
    ]
    first, published, last = map(done.index, moves)
    assert set(done[:first]) == {
        f"sync {draft}/files{name}" for name in ("/events.txt", "/figures/map.png", "/figures", "")
    }
    assert set(done[first + 1 : published]) == {"sync .partial/next", f"sync {draft}/manifest.json"}
    assert done[published + 1 : last] == ["sync manifests/events/subj01"]


def test_no_listing_misses_what_is_replaced(store: Store) -> None:
    others = [f"events/subj01/ses{number:02d}" for number in range(2, 8)]
    for key in (KEY, *others):
        put(store, key)
    path = Path(store.url) / KEY / "events.txt"
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            put(store)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(400):
            assert open_store(store.url).keys("events/subj01/") == [KEY, *others]
            assert open_store(store.url).find(KEY) is not None
            if disk._renameat2() is not None:
                assert path.read_text() == "one", "for those who read without us"
    finally:
        done.set()
        writer.join()


def test_a_reader_waits_out_a_replacement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its manifest and its files' final place, the artifact is the new one already."""
    put(store)
    found: list[object] = []
    reader = threading.Thread(
        target=lambda: found.append((open_store(store.url).folder(KEY) / "events.txt").read_text())
    )
    put_in_place = LocalStore._put_in_place

    def look_before(self: LocalStore, key: str) -> None:
        reader.start()
        reader.join(0.2)  # returns early only if the reader does not wait
        put_in_place(self, key)

    monkeypatch.setattr(LocalStore, "_put_in_place", look_before)
    put(store, text="two")
    reader.join()
    assert found == ["two"]


def test_a_store_of_others_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not write, not even locks, reads what is complete and is told what is not."""
    put(store)
    locks = Path(store.url) / ".partial" / "locks"
    for lock in locks.iterdir():
        lock.unlink()
    monkeypatch.setattr("os.access", lambda *_: False)
    reader = open_store(store.url)
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"
    assert reader.manifest("events/subj01/ses02") is None
    with pytest.raises(ArtifactError, match="no complete artifact"):
        reader.folder("events/subj01/ses02")
    assert list(locks.iterdir()) == []


DIES_WHILE_WRITING = """
import json, os, signal, sys
from nsd_pipeline.storage.opening import open_store
url, key, made_by = json.loads(sys.argv[1])
with open_store(url).write(key, **made_by) as draft:
    (draft.folder / "events.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_cleared_away(store: Store, tmp_path: Path) -> None:
    argument = json.dumps([store.url, KEY, MADE_BY])
    died = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, argument], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 2, "the draft and its lock"
    drafts = Path(store.url, ".partial", "drafts")
    (drafts / "died-before-it-had-a-folder.lock").touch()
    (drafts / "lost-its-lock-with-the-power").mkdir()
    assert store.manifest(KEY) is None
    with store.write("events/subj01/ses02", **MADE_BY) as living:
        assert leftovers(tmp_path) == [str(living.folder.parent), f"{living.folder.parent}.lock"]
        put(store)  # clears again, and spares the living draft
        assert living.folder.is_dir()
    assert leftovers(tmp_path) == []


WRITES_MANY_TIMES = """
import json, sys
from nsd_pipeline.storage.opening import open_store
url, key, made_by = json.loads(sys.argv[1])
for turn in range(15):
    with open_store(url).write(key, **made_by) as draft:
        for name in "abc":
            (draft.folder / name).write_text(sys.argv[2] * (turn + 1))
"""


def test_two_processes_end_with_one_whole_artifact(store: Store, tmp_path: Path) -> None:
    argument = json.dumps([store.url, KEY, MADE_BY])
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITES_MANY_TIMES, argument, name])
        for name in ("x", "y")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    folder = store.folder(KEY)
    assert len({(folder / name).read_text() for name in "abc"}) == 1
    assert leftovers(tmp_path) == []
