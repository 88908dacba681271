"""A small store with everything in it, and the command on a copy of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nsd_pipeline.cli import main
from nsd_pipeline_tests.pipeline import Once, SmallNsd, link_tree, pipeline_in

SESSION = "subj01_ses01"
Nsd = Callable[..., Result]


@pytest.fixture(scope="package")
def made(small_nsd: SmallNsd, one_session: Path, once: Once) -> Path:
    """A session, its images and a model. Not to be written to."""

    def make(folder: Path) -> None:
        link_tree(one_session, folder / "artifacts")
        with pipeline_in(folder, small_nsd) as graph:
            graph.run("fmri_mlp", first="subj01", config={"fmri_mlp": {"n_epochs": 1, "hidden": 4}})

    return once("made", make) / "artifacts"


@pytest.fixture
def artifacts(small_nsd: SmallNsd, made: Path, tmp_path: Path) -> Path:
    """A copy of that store, and of its dataset, where `nsd` looks for them."""
    small_nsd.copy(tmp_path / "nsd")
    shutil.copytree(made, tmp_path / "artifacts")
    return tmp_path / "artifacts"


@pytest.fixture
def nsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nsd:
    """Run the command on the dataset, store and experiments that lie in ``tmp_path``, if any."""
    monkeypatch.setenv("NSD_SOURCE", str(tmp_path / "nsd"))
    monkeypatch.setenv("NSD_STORAGE", str(tmp_path / "artifacts"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str) -> Result:
        if (tmp_path / "experiments.yaml").exists():
            monkeypatch.setenv("NSD_EXPERIMENTS", str(tmp_path / "experiments.yaml"))
        return CliRunner().invoke(main, list(arguments))

    return run


def parsed(result: Result) -> Any:
    """JSON that a command printed."""
    return json.loads(result.stdout)
