import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.nsd.errors import ArtifactError
from nsd_pipeline.storage.store import Store, open_store
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
    for part in (
        f"{store.url}/{KEY}",
        "events.txt",
        "dagster asset materialize -m nsd_pipeline.definitions --select events "
        "--partition subj01_ses01",
    ):
        assert part in str(told.value)
    assert reader.manifest(KEY) is None, "or the command would find it up to date"
    put(store)
    assert (reader.folder(KEY) / "events.txt").read_text() == "one"


def test_a_damaged_artifact_is_not_up_to_date(store: Store) -> None:
    put(store)
    (Path(store.url) / KEY / "events.txt").write_text("")
    assert store.manifest(KEY) is None
    assert store.keys() == []


def test_an_unreadable_manifest_is_no_manifest(store: Store) -> None:
    put(store)
    (Path(store.url) / "manifests" / f"{KEY}.json").write_text("")
    assert store.manifest(KEY) is None
    put(store)
    assert store.manifest(KEY) is not None


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


def test_a_death_while_replacing_leaves_no_manifest_beside_other_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, text="old")
    rename = Path.rename

    def die(path: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            put(store, text="new")
    assert store.manifest(KEY) is None
    put(store, text="new")
    assert (store.folder(KEY) / "events.txt").read_text() == "new"


def test_a_reader_waits_out_a_replacement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the moment without a manifest, the artifact is not missing, it is about to be there."""
    put(store)
    rename = Path.rename
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(open_store(store.url).manifest(KEY)))

    def look_before_the_manifest_comes(path: Path, target: Path) -> Path:
        if target.suffix == ".json":
            reader.start()
            reader.join(0.2)  # returns early only if the reader does not wait
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", look_before_the_manifest_comes)
    put(store, text="two")
    reader.join()
    assert found == [store.manifest(KEY)]


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
from nsd_pipeline.storage.store import open_store
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
    assert store.manifest(KEY) is None
    with store.write("events/subj01/ses02", **MADE_BY) as living:
        assert leftovers(tmp_path) == [str(living.folder.parent), f"{living.folder.parent}.lock"]
        put(store)  # clears again, and spares the living draft
        assert living.folder.is_dir()
    assert leftovers(tmp_path) == []


WRITES_MANY_TIMES = """
import json, sys
from nsd_pipeline.storage.store import open_store
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
