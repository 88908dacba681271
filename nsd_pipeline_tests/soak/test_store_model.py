"""Stores against a dictionary: whatever is done in whatever order, both say the same.

What the dictionary says of a key: a text (the artifact is whole and holds it), :data:`DAMAGED` (it
is there, and every reading is an error that names it), or nothing.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError
from nsd_pipeline.storage.local_store import LocalStore
from nsd_pipeline.storage.s3_bucket import Bucket
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline.storage.store import Store
from nsd_pipeline_tests.soak.effort import SEED, Effort, efforts
from nsd_pipeline_tests.storage.servers import MotoServer
from nsd_pipeline_tests.storage.test_store import MADE_BY, use_moto

BUCKET: Final = "lab-model"
KEYS: Final = ("events/subj01/ses01", "events/subj01/ses02", "events/subj02", "betas/subj01/ses01")
CLASHES: Final = ("events", "events/subj01", "events/subj02/ses01", "betas/subj01/ses01/more")
"""Keys within one of `KEYS`, or above some."""
FILES: Final = ("a.txt", "deep/b.txt", "deep/er/c.txt")
DAMAGED: Final = "damaged"

keys = st.sampled_from(KEYS)
texts = st.text("abc", max_size=3)


@dataclass
class Known:
    """What the dictionary has of an artifact.

    Attributes
    ----------
    text
        What its files hold.
    state
        ``whole``, ``damaged``, or ``silent``: damaged, which only reading its bytes can tell.
    """

    text: str
    state: str = "whole"


class Place:
    """A store's place: where to damage what lies there, and what is asked of both kinds."""

    def __init__(self, folder: Path, server: MotoServer | None) -> None:
        self._folder, self._server = folder, server
        self._n_examples = 0

    def clear(self) -> None:
        """Take a place where there is nothing yet."""
        self._n_examples += 1
        self._name = str(self._n_examples)
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self) -> Store:
        """The store, as another process opens it, on another machine if it is on a bucket."""
        if self._server is None:
            return LocalStore(self._folder / self._name)
        self._n_examples += 1
        cache = self._folder / "caches" / str(self._n_examples)
        return S3Store(f"s3://{BUCKET}/{self._folder.name}/{self._name}", cache=cache)

    def files(self, key: str) -> dict[str, str]:
        """Where each of an artifact's files lies, and its manifest, as far as they are there."""
        place = self.open()
        found = place._load(key)
        names = {name: f"{found.location}/{name}" for name in found.files} if found else {}
        return {**names, "manifest": f"manifests/{key}.json"}

    def read(self, name: str) -> bytes | None:
        """Bytes of a file of the store, None if it is not there."""
        if self._server is None:
            path = self._folder / self._name / name
            return path.read_bytes() if path.is_file() else None
        try:
            answer = self._server.client.get_object(Bucket=BUCKET, Key=self._path(name))
        except self._server.client.exceptions.NoSuchKey:
            return None
        return bytes(answer["Body"].read())

    def write(self, name: str, content: bytes | None) -> None:
        """Put other bytes in the place of a file, or take it away."""
        if self._server is not None:
            place = {"Bucket": BUCKET, "Key": self._path(name)}
            if content is None:
                self._server.client.delete_object(**place)
            else:
                self._server.client.put_object(**place, Body=content)
        elif content is None:
            (self._folder / self._name / name).unlink()
        else:
            (self._folder / self._name / name).write_bytes(content)

    def take_away(self, key: str) -> None:
        """Take an artifact away, as the docs say: its manifest and its folder."""
        self.write(f"manifests/{key}.json", None)
        if self._server is None:
            shutil.rmtree(self._folder / self._name / key)

    @property
    def knows_folders(self) -> bool:
        """Whether files without a manifest are known to have been an artifact."""
        return self._server is None

    def _path(self, name: str) -> str:
        return f"{self._folder.name}/{self._name}/{name}"


class StoreMachine(RuleBasedStateMachine):
    """The rules; a subclass has the place."""

    place: Place

    @initialize()
    def start(self) -> None:
        self.place.clear()
        self.store = self.place.open()
        self.known: dict[str, Known] = {}

    def put(self, store: Store, key: str, text: str) -> None:
        with store.write(key, **(MADE_BY | {"fingerprint": f"{len(text):064}"})) as draft:
            for name in FILES[: len(text) + 1]:
                path = draft.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} {text}")

    @rule(key=keys, text=texts)
    def write(self, key: str, text: str) -> None:
        self.put(self.store, key, text)
        self.known[key] = Known(text)

    @rule(key=keys, text=texts)
    def write_in_vain(self, key: str, text: str) -> None:
        with pytest.raises(ZeroDivisionError), self.store.write(key, **MADE_BY) as draft:  # noqa: PT012
            (draft.folder / "a.txt").write_text(text)
            raise ZeroDivisionError

    @rule(key=keys, texts=st.tuples(texts, texts))
    def write_twice_at_once(self, key: str, texts: tuple[str, str]) -> None:
        with self.store.write(key, **MADE_BY) as draft:
            self.put(self.place.open(), key, texts[0])
            (draft.folder / "a.txt").write_text(f"a.txt {texts[1]}")
            (draft.folder / "only").write_text(f"only {texts[1]}")
        self.known[key] = Known(texts[1])

    @rule(key=st.sampled_from(CLASHES))
    def write_where_another_is(self, key: str) -> None:
        within = [known for known in self.known if known.startswith(f"{key}/")]
        above = [known for known in self.known if key.startswith(f"{known}/")]
        if within or above:
            with pytest.raises(ArtifactError, match="cannot be an artifact"):
                self.put(self.store, key, "")

    @precondition(lambda self: self.known)
    @rule(data=st.data(), how=st.sampled_from(("flip", "cut", "lose")))
    def damage(self, data: st.DataObject, how: str) -> None:
        """A file, or the manifest: one bit, its end, or all of it."""
        key = data.draw(st.sampled_from(sorted(self.known)))
        if self.known[key].state == "damaged":
            return
        name, place = data.draw(st.sampled_from(sorted(self.place.files(key).items())))
        content = self.place.read(place)
        assert content, "every file has some bytes"
        if how == "lose":
            changed = None
        elif how == "cut":
            changed = content[: data.draw(st.integers(0, len(content) - 1))]
            if name == "manifest" and not content[len(changed) :].strip():
                return  # the line feed at its end
        else:
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            if name == "manifest":
                bit %= 8  # in its opening brace: what else a flipped bit makes of it may be JSON
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            changed = bytes(flipped)
        self.place.write(place, changed)
        if name == "manifest" and how == "lose" and not self.place.knows_folders:
            del self.known[key]
        elif name == "manifest" or how != "flip":
            self.known[key].state = "damaged"
        else:
            self.known[key].state = "silent"

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def take_away(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.known)))
        if self.place.read(f"manifests/{key}.json") is not None:
            self.place.take_away(key)
            del self.known[key]

    @rule()
    def open_again(self) -> None:
        self.store = self.place.open()

    @rule(key=keys, of_another_process=st.booleans())
    def read(self, key: str, of_another_process: bool) -> None:
        store = self.place.open() if of_another_process else self.store
        known = self.known.get(key)
        if known is None:
            assert store.find(key) is None
            assert store.manifest(key) is None
            with pytest.raises(ArtifactError, match="no complete artifact"):
                store.folder(key)
            return
        if known.state == "silent" and not of_another_process:
            return  # each process reads every byte once, and need not notice what comes later
        if known.state == "silent":
            with pytest.raises(DamagedArtifactError, match=key):
                store.folder(key)
            known.state = "damaged"
        if known.state == "damaged":
            if self.place.knows_folders or of_another_process:
                with pytest.raises(DamagedArtifactError, match=key):
                    store.folder(key)
            with pytest.raises(DamagedArtifactError, match=key):
                store.find(key)
            assert store.manifest(key) is None
            return
        folder = store.folder(key)
        manifest = store.find(key)
        assert manifest is not None
        found = {name: (folder / name).read_text() for name in manifest.files}
        assert found == {name: f"{name} {known.text}" for name in manifest.files}
        assert "a.txt" in found

    @rule(
        prefix=st.sampled_from(("", "events/", "events/subj01/", "events/subj01/ses0", "b", "x/"))
    )
    def list_keys(self, prefix: str) -> None:
        assert self.store.keys(prefix) == sorted(
            key for key in self.known if key.startswith(prefix)
        )

    @invariant()
    def nothing_is_left_out(self) -> None:
        assert self.place.open().keys() == sorted(self.known)


@pytest.mark.parametrize("kind", ["local", "s3"])
@efforts(12, 1_000_000, share=0.06)
def test_a_store_is_a_dictionary(
    effort: Effort,
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[..., None],
) -> None:
    server: MotoServer | None = None
    if kind == "s3":
        server = request.getfixturevalue("moto_server")
        use_moto(server, monkeypatch)
        server.client.create_bucket(Bucket=BUCKET)
        # Of this, each store would make one of its own, which takes longer than all it does.
        monkeypatch.setattr(Bucket, "_client", server.client)
    cases = effort.cases // 3 if kind == "s3" else effort.cases  # requests take longer
    steps: list[Any] = []

    class Machine(StoreMachine):
        place = Place(tmp_path / kind, server)

        def check_invariants(self, *args: Any, **options: Any) -> None:
            steps.append(None)
            super().check_invariants(*args, **options)

    start, n_examples, batch = time.monotonic(), 0, min(cases, 100)
    for number in Effort(cases // batch, effort.seconds).numbers():
        settings = hypothesis.settings(
            max_examples=batch,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        machine = hypothesis.seed(SEED + number)(Machine)
        run_state_machine_as_test(machine, settings=settings)
        n_examples += batch
    figures(
        f"store against a dictionary, {kind}",
        n_examples,
        time.monotonic() - start,
        steps=len(steps),
    )
