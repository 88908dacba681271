"""After a power cut at any moment, what was published is the old one, the new one, or absent."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.disk import replacing
from nsd_pipeline.storage.local_store import LocalStore
from nsd_pipeline.storage.source import LocalMirror
from nsd_pipeline.storage.transfer import fetch
from nsd_pipeline_tests.soak.effort import SEED, Effort, efforts
from nsd_pipeline_tests.soak.power_cuts import Recording, recorded
from nsd_pipeline_tests.storage.test_store import MADE_BY

KEY = "betas.zarr/subj01/ses01"
OTHER = "betas.zarr/subj02/ses01"
FILES = ("zarr.json", "betas/zarr.json", "betas/c/0/0", "betas/c/1/0", "mean/c/0")


def publish(root: Path, text: str, key: str = KEY) -> None:
    with LocalStore(root).write(key, **MADE_BY) as draft:
        for name in FILES:
            path = draft.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text} {name} " * (9 if text == "new" else 5))


def found(root: Path, key: str = KEY) -> str | None:
    """Which artifact a store has, None for none. Fails if it is neither whole nor absent."""
    store = LocalStore(root)
    manifest = store.find(key)
    assert set(store.keys()) - {OTHER} == ({key} if manifest else set())
    if manifest is None:
        with pytest.raises(ArtifactError, match="no complete artifact"):
            store.folder(key)
        return None
    folder = store.folder(key)
    text = (folder / FILES[0]).read_text().split()[0]
    for name in FILES:
        assert (folder / name).read_text() == f"{text} {name} " * (9 if text == "new" else 5)
    assert {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } == {*FILES}
    return text


def first(root: Path, mark: Callable[[str], Recording]) -> None:
    mark("start")
    publish(root, "new")


def first_of_a_subject(root: Path, mark: Callable[[str], Recording]) -> None:
    publish(root, "old", OTHER)
    mark("start")
    publish(root, "new")


def replacement(root: Path, mark: Callable[[str], Recording]) -> None:
    publish(root, "old")
    mark("start")
    publish(root, "new")


def replacement_after_a_death(root: Path, mark: Callable[[str], Recording]) -> None:
    """An earlier writer died between its manifest and its files' place; somebody finishes that."""
    publish(root, "older")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "_put_in_place", lambda *_: _die())
        with pytest.raises(KeyboardInterrupt):
            publish(root, "old")
    mark("start")
    publish(root, "new")


def _die() -> None:
    raise KeyboardInterrupt


SCENARIOS = {
    ("first", True): first,
    ("first of a subject", True): first_of_a_subject,
    ("replacement", True): replacement,
    ("replacement", False): replacement,
    ("after a death", True): replacement_after_a_death,
    ("after a death", False): replacement_after_a_death,
}
"""By name, and whether the file system can exchange two folders."""


@efforts(300, 10_000, share=0.1)
def test_an_artifact_is_whole_or_absent_after_a_power_cut(
    effort: Effort, tmp_path: Path, figures: Callable[..., None]
) -> None:
    recordings: dict[tuple[str, bool], Recording] = {}
    for number, ((name, exchanges), scenario) in enumerate(SCENARIOS.items()):
        root = tmp_path / str(number)
        root.mkdir()
        with recorded(root, exchanges=exchanges) as mark:
            scenario(root, mark)
            recordings[name, exchanges] = mark("end")
    start, outcomes, twice = time.monotonic(), [], 0
    for case in effort.numbers():
        chance = random.Random(f"{SEED} power {case}")
        scenario, recording = list(recordings.items())[case % len(recordings)]
        # Every prefix in turn; from the second round on with other losses.
        begin, end = recording.marks["start"], len(recording.events)
        n_events = begin + (case // len(recordings)) % (end - begin + 1)
        target = tmp_path / "after"
        recording.after_cut(n_events, chance, target)
        if case % 4 == 3:  # the power goes again, while somebody looks and puts in order
            target = _cut_while_reading(target, chance, tmp_path, exchanges=scenario[1])
            twice += 1
        problem = f"case {case}: {scenario} cut after {n_events} of {end} events"
        try:
            outcome = found(target)
            outcomes.append(outcome)
            if n_events == end:
                assert outcome == "new", "it was acknowledged"
            if not scenario[0].startswith("first"):
                assert outcome in ("old", "new"), "there was one before"
            publish(target, "newer")
            assert found(target) == "newer"
        except BaseException as error:
            error.add_note(problem)
            raise
        shutil.rmtree(target)
    assert {None, "old", "new"} <= set(outcomes)
    figures("power cuts while publishing", len(outcomes), time.monotonic() - start, again=twice)


def _cut_while_reading(root: Path, chance: random.Random, folder: Path, *, exchanges: bool) -> Path:
    copied = folder / "recorded"
    copied.mkdir()
    with recorded(copied, exchanges=exchanges) as mark:
        shutil.copytree(root, copied, dirs_exist_ok=True)
        mark("copied")
        found(copied)
        recording = mark("end")
    first = recording.keep(recording.marks["copied"])  # what had survived the first cut
    n_events = chance.randint(first, len(recording.events))
    after = folder / "after again"
    recording.after_cut(n_events, chance, after)
    for each in (root, copied):
        shutil.rmtree(each)
    return after


@efforts(100, 2_000, share=0.02)
def test_a_single_file_is_the_old_or_the_new_one_after_a_power_cut(
    effort: Effort, tmp_path: Path, figures: Callable[..., None]
) -> None:
    (root := tmp_path / "recorded").mkdir()
    path = "config.json"
    with recorded(root) as mark:
        for text in ("old" * 9, "new" * 12):
            start = mark(text)
            with replacing(root / path) as partial:
                partial.write_text(text)
        recording = mark("end")
    begin, end = recording.marks[text], len(start.events)
    seen, since = set(), time.monotonic()
    for case in effort.numbers():
        n_events = begin + case % (end - begin + 1)
        recording.after_cut(n_events, random.Random(f"{SEED} file {case}"), tmp_path / "after")
        content = (tmp_path / "after" / path).read_text()
        assert content == "new" * 12 or (n_events < end and content == "old" * 9), f"case {case}"
        seen.add(content)
        shutil.rmtree(tmp_path / "after")
    assert len(seen) == 2
    figures("power cuts while replacing a file", case + 1, time.monotonic() - since)


@efforts(100, 2_000, share=0.02)
def test_a_download_goes_on_after_a_power_cut(
    effort: Effort, tmp_path: Path, figures: Callable[..., None]
) -> None:
    content = random.Random(33).randbytes(4000)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "object").write_bytes(content)
    source = LocalMirror(tmp_path / "mirror", max_concurrency=2)
    ranges = [(start, 300) for start in range(0, 4000, 400)]
    wanted = b"".join(content[start : start + length] for start, length in ranges)
    (root := tmp_path / "recorded").mkdir()

    def download(folder: Path) -> bytes:
        info = source.describe("object")
        fetch(source, info, ranges, folder / "scratch/file")
        return (folder / "scratch/file").read_bytes()

    with recorded(root) as mark:
        # What a piece leaves is seen when the next one comes.
        read = source.read
        source.read = lambda *args, **options: (mark("piece"), read(*args, **options))[1]  # type: ignore[method-assign]
        assert download(root) == wanted
        recording = mark("end")
    source.read = read  # type: ignore[method-assign]
    end, since = len(recording.events), time.monotonic()
    for case in effort.numbers():
        recording.after_cut(
            case % (end + 1), random.Random(f"{SEED} download {case}"), tmp_path / "after"
        )
        assert download(tmp_path / "after") == wanted, f"case {case}"
        shutil.rmtree(tmp_path / "after")
    figures("power cuts while downloading", case + 1, time.monotonic() - since)
