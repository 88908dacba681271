"""Processes that publish, killed at random moments: nothing acknowledged is lost or torn."""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store
from nsd_pipeline_tests.soak.effort import SEED, Effort, efforts
from nsd_pipeline_tests.storage.servers import MotoServer
from nsd_pipeline_tests.storage.test_store import MADE_BY, leftovers, use_moto

KEYS = ("betas.zarr/subj01/ses01", "betas.zarr/subj01/ses02", "events/subj01")
FILES = ("zarr.json", "betas/c/0/0", "betas/c/1/0", "mean/c/0")
BUCKET = "lab-kills"


def content(key: str, turn: int, name: str) -> bytes:
    """What a file holds in each turn: a few kB to some 100, never the same twice."""
    chance = random.Random(f"{key} {turn} {name}")
    return chance.randbytes(chance.choice((100, 10_000, 200_000)))


def publish_on(url: str, first: int, environment: dict[str, str], told: Connection) -> None:
    """Publish one turn after the other, each key in its turn, and tell what is done."""
    os.environ.update(environment)
    store = open_store(url)
    for number in range(first, 2**30):
        turn, place = divmod(number, len(KEYS))
        publish(store, KEYS[place], turn)
        told.send(number)


def publish(store: Store, key: str, turn: int) -> None:
    with store.write(key, **(MADE_BY | {"fingerprint": f"{turn:064}"})) as draft:
        for name in FILES:
            path = draft.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(key, turn, name))


def digest(folder: Path) -> str:
    """Names and bytes of everything in a folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sha.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()


def turn_of(store: Store, key: str) -> int:
    """Turn of the artifact that is there, -1 for none. Fails if it is torn."""
    manifest = store.find(key)
    if manifest is None:
        return -1
    turn, folder = int(manifest.fingerprint), store.folder(key)
    assert {name: (folder / name).read_bytes() for name in manifest.files} == {
        name: content(key, turn, name) for name in FILES
    }
    return turn


@pytest.mark.parametrize("kind", ["local", "s3"])
@efforts(4, 150, share=0.08)
def test_no_kill_loses_or_tears_an_artifact(
    effort: Effort,
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[..., None],
) -> None:
    url = str(tmp_path / "artifacts")
    if kind == "s3":
        server: MotoServer = request.getfixturevalue("moto_server")
        use_moto(server, monkeypatch)
        with suppress(server.client.exceptions.BucketAlreadyOwnedByYou):
            server.client.create_bucket(Bucket=BUCKET)
        url = f"s3://{BUCKET}/{effort.cases}"
    start = time.monotonic()
    # Processes of their own that are ready at once: most kills fall into publishing.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    chance = random.Random(f"{SEED} {kind} kills")
    reached, kills = -1, 0
    for kills in effort.numbers():
        here, there = processes.Pipe(duplex=False)
        arguments = (url, reached + 1, dict(os.environ), there)
        writer = processes.Process(target=publish_on, args=arguments)
        writer.start()
        there.close()
        if chance.random() < 0.7:  # or a slow machine comes to nothing
            assert here.poll(60), "nothing gets published"
        time.sleep(chance.uniform(0, 0.3))
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        with suppress(EOFError):
            while True:
                reached = here.recv()
        here.close()
        # What was acknowledged is there; the one after it may be.
        store = open_store(url)
        turns = {key: turn_of(store, key) for key in KEYS}
        for place, key in enumerate(KEYS):
            acknowledged = (reached - place) // len(KEYS)
            under_way = (reached + 1 - place) // len(KEYS)
            assert turns[key] in (acknowledged, under_way), f"kill {kills}: {key}"
        assert store.keys() == sorted(key for key in KEYS if turns[key] >= 0)
    # One more turn without a kill, a day later: as if there had been none.
    for module in ("s3_store", "s3_bucket"):
        monkeypatch.setattr(f"nsd_pipeline.storage.{module}.ABANDONED", timedelta(0))
    monkeypatch.setattr("nsd_pipeline.storage.s3_bucket._servers", {})  # of a new process
    last = reached // len(KEYS) + 1
    whole = [open_store(each) for each in (url, f"{url}-without")]
    for store in whole:
        for key in KEYS:
            publish(store, key, last)
    for key in KEYS:
        one, other = (store.find(key) for store in whole)
        assert one is not None
        assert other is not None
        same = {"created": other.created, "version": other.version}
        assert one.model_copy(update=same) == other
        assert digest(whole[0].folder(key)) == digest(whole[1].folder(key))
    if kind == "local":
        assert leftovers(Path(url)) == []
        assert list(Path(url, ".partial", "next").iterdir()) == []
        assert [path for path in Path(url).rglob("*") if path.name.endswith("~")] == []
    else:
        names = [objects(server, f"{effort.cases}{end}/") for end in ("", "-without")]
        assert len(names[0]) == len(names[1]) == len(KEYS) * (len(FILES) + 1)
    figures(
        f"kills while publishing, {kind}",
        kills + 1,
        time.monotonic() - start,
        published=reached + 1,
    )


def objects(server: MotoServer, prefix: str) -> list[str]:
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
