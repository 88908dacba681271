"""What holds for every test, and the small dataset that many of them share."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import hypothesis
import pytest
from filelock import FileLock
from PIL import Image

import nsd_pipeline_tests.environment  # noqa: F401  # first
from nsd_pipeline_tests.pipeline import Once, SmallNsd, link_tree, pipeline_in

# How long an example takes depends on the machine and says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")

MODIFIED = 10**18
"""When the small dataset's files were written, in ns: part of the version of a mirror's file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of fewest tests, which take longest: real servers, whole graphs.

    What comes last is quick, so that pytest's processes end at the same time.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        n_tests = Counter(item.path for item in items)
        items.sort(key=lambda item: n_tests[item.path])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Fill a folder in the first of pytest's processes that asks for it; the others wait."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of what belongs to each process

    def fill(name: str, make: Callable[[Path], object]) -> Path:
        folder, filled = shared / name, shared / f"{name}.filled"
        with FileLock(shared / f"{name}.lock"):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                make(folder)
                filled.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def small_nsd(once: Once) -> SmallNsd:
    """One subject, two sessions of 30 trials in NSD's layout. Not to be written to."""
    from nsd_pipeline.demo import generate, write_tiny_encoder

    def make(folder: Path) -> None:
        options: dict[str, Any] = {"subjects": 1, "sessions": 2, "trials_per_run": 3}
        generate(folder / "nsd", **options, signal="bold", strength=3.0, spaces=())
        for path in (folder / "nsd").rglob("*"):
            if path.is_file():
                os.utime(path, ns=(MODIFIED, MODIFIED))
        write_tiny_encoder(folder / "encoder")

    folder = once("small_nsd", make)
    return SmallNsd(folder / "nsd", folder / "encoder")


@pytest.fixture(scope="session")
def one_session(small_nsd: SmallNsd, once: Once) -> Path:
    """Artifacts of the first session and its images. Not to be written to."""
    made = once("one_session", lambda folder: _prepare(folder, small_nsd, "subj01_ses01"))
    return made / "artifacts"


@pytest.fixture(scope="session")
def two_sessions(small_nsd: SmallNsd, one_session: Path, once: Once) -> Path:
    """Artifacts of both sessions and their images. Not to be written to."""

    def make(folder: Path) -> None:
        link_tree(one_session, folder / "artifacts")
        _prepare(folder, small_nsd, "subj01_ses02")

    return once("two_sessions", make) / "artifacts"


def _prepare(folder: Path, small_nsd: SmallNsd, session: str) -> None:
    with pipeline_in(folder, small_nsd) as graph:
        graph.run_sessions(session)
        graph.run_images("shared", "subj01")  # those of the session that are not there yet


@pytest.fixture(scope="session")
def trained(small_nsd: SmallNsd, two_sessions: Path, once: Once) -> Path:
    """Folder with `artifacts` of the small dataset, models included. Not to be written to."""

    def make(folder: Path) -> None:
        link_tree(two_sessions, folder / "artifacts")
        with pipeline_in(folder, small_nsd) as graph:
            settings = {"hidden": 16, "n_epochs": 8, "learning_rate": 1e-2, "seeds": [0, 1]}
            graph.run("fmri_mlp", first="subj01", config={"fmri_mlp": settings})
            graph.run("retrieval_metrics", first="subj01")

    return once("trained", make)


@pytest.fixture
def workplace(
    trained: Path, small_nsd: SmallNsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder that a user works in: artifacts, dataset, encoder, and pictures of their own."""
    link_tree(trained / "artifacts", tmp_path / "artifacts")
    small_nsd.copy(tmp_path / "nsd")
    # The small dataset's encoder is known by the name of its folder.
    (tmp_path / "encoder").symlink_to(small_nsd.encoder)
    (tmp_path / "my_pictures").mkdir()
    for color in ("red", "navy"):
        Image.new("RGB", (640, 480), color).save(tmp_path / "my_pictures" / f"{color}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
