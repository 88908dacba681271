"""What holds for every test, and the small dataset that many of them share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import hypothesis
import pytest
from PIL import Image

from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd

# How long an example takes depends on the machine and says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")

# No test may reach beyond this machine, whatever the environment says.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.pop("NSD_ACCEPT_TERMS", None)


MODIFIED = 10**18
"""When the small dataset's files were written, in ns: part of the version of a mirror's file."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(scope="session")
def small_nsd(tmp_path_factory: pytest.TempPathFactory) -> SmallNsd:
    """One subject, two sessions of 30 trials in NSD's layout. Not to be written to."""
    from nsd_pipeline.demo import generate, write_tiny_encoder

    folder = tmp_path_factory.mktemp("small_nsd")
    dataset = generate(
        folder / "nsd",
        subjects=1,
        sessions=2,
        trials_per_run=3,
        signal="bold",
        strength=3.0,
        spaces=(),
    )
    for path in dataset.folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(MODIFIED, MODIFIED))
    return SmallNsd(dataset.folder, Path(write_tiny_encoder(folder / "encoder")))


@pytest.fixture(scope="session")
def trained(small_nsd: SmallNsd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `artifacts` of the small dataset, models included. Not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Pipeline(str(small_nsd.folder), folder / "artifacts", small_nsd.encoder, instance)
        graph.run_sessions("subj01_ses01", "subj01_ses02")
        graph.run_images("shared", "subj01")
        settings = {"hidden": 16, "n_epochs": 8, "learning_rate": 1e-2, "seeds": [0, 1]}
        graph.run("fmri_mlp", first="subj01", config={"fmri_mlp": settings})
        graph.run("retrieval_metrics", first="subj01")
    return folder


@pytest.fixture
def workplace(
    trained: Path, small_nsd: SmallNsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder that a user works in: artifacts, dataset, encoder, and pictures of their own."""
    # Links to the same files, of which none is ever written to in place.
    shutil.copytree(trained / "artifacts", tmp_path / "artifacts", copy_function=os.link)
    small_nsd.copy(tmp_path / "nsd")
    # The small dataset's encoder is known by the name of its folder.
    (tmp_path / "encoder").symlink_to(small_nsd.encoder)
    (tmp_path / "my_pictures").mkdir()
    for color in ("red", "navy"):
        Image.new("RGB", (640, 480), color).save(tmp_path / "my_pictures" / f"{color}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
