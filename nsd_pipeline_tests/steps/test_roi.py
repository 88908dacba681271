"""A region of interest is kept beside the betas, and a model can be restricted to it."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from nibabel.freesurfer import MGHImage
from safetensors.numpy import load_file

from nsd_pipeline.checks import AtChance
from nsd_pipeline.errors import InvalidFileError, NotEnoughDataError
from nsd_pipeline.surface import read_roi
from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd
from nsd_pipeline_tests.steps.test_bad_input import fails

N = 10_242


@pytest.fixture(scope="module")
def streams() -> dict[str, np.ndarray]:
    """Labels from 0 to 7 on fsaverage."""
    rng = np.random.default_rng(0)
    return {side: rng.integers(0, 8, 163_842).astype(np.float32) for side in ("lh", "rh")}


@pytest.fixture
def labels(streams: dict[str, np.ndarray], tmp_path: Path) -> dict[str, Path]:
    paths = {side: tmp_path / f"{side}.streams.mgz" for side in streams}
    for side, path in paths.items():
        MGHImage(streams[side][:, None, None], np.eye(4)).to_filename(path)
    return paths


def test_bounds_select_labels(
    streams: dict[str, np.ndarray], labels: dict[str, Path], tmp_path: Path
) -> None:
    both = np.concatenate([streams[side][:N] for side in ("lh", "rh")])
    np.testing.assert_array_equal(read_roi(labels), both >= 1)
    np.testing.assert_array_equal(read_roi(labels, above=4, up_to=5), both == 5)
    with pytest.raises(NotEnoughDataError, match="above 7"):
        read_roi(labels, above=7)
    right = tmp_path / "rh.mine.label"
    right.write_text("#!ascii label\n2\n7 0 0 0 0.5\n20000 0 0 0 0.5\n")
    mixed = read_roi({"lh": labels["lh"], "rh": right}, above=6)
    np.testing.assert_array_equal(mixed, np.concatenate([both[:N] == 7, np.zeros(N, bool)]))
    assert read_roi({"lh": right, "rh": right}).nonzero()[0].tolist() == [7, N + 7]
    MGHImage(np.ones((450, 1, 1), np.float32), np.eye(4)).to_filename(labels["rh"])
    with pytest.raises(InvalidFileError, match="450 values"):
        read_roi(labels)


def test_a_model_can_be_restricted_to_a_region(
    small_nsd: SmallNsd,
    streams: dict[str, np.ndarray],
    labels: dict[str, Path],
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    folder = mirror / "nsddata/freesurfer/fsaverage/label"
    shutil.rmtree(folder)  # the demo's own
    folder.mkdir()
    for side, path in labels.items():
        path.rename(folder / path.name)
        general = (streams[side] > 0).astype(np.float32)[:, None, None]
        MGHImage(general, np.eye(4)).to_filename(folder / f"{side}.nsdgeneral.mgz")
    graph = pipeline(mirror)
    sessions = {"first": "subj01_ses01", "last": "subj01_ses02"}
    graph.run_sessions(*sessions.values())
    graph.run_images("shared", "subj01")
    quick = {"n_epochs": 1, "hidden": 8, "seeds": [0]}

    def train(**region: object) -> dict[str, Any]:
        facts = graph.run("fmri_mlp", first="subj01", config={"fmri_mlp": quick | region})
        return facts["fmri_mlp"]

    with pytest.raises(dg.Failure, match=r"no region 'strems'[\s\S]*one of nsdgeneral, streams"):
        train(region="strems")
    with pytest.raises(dg.Failure, match=r"No fsaverage5 vertex has a value above 7"):
        train(region="streams", region_above=7)
    ventral = {"region": "streams", "region_above": 4, "region_up_to": 5}
    inside = np.concatenate([streams[side][:N] == 5 for side in ("lh", "rh")])
    assert train(**ventral)["vertices"] == inside.sum()
    weights = load_file(graph.artifacts / "fmri_mlp/subj01/model.safetensors")
    assert weights["lin0.weight"].shape == (8, inside.sum())
    with suppress(AtChance):  # after one epoch it may be
        graph.run("retrieval_metrics", first="subj01")
    assert graph.store.find("retrieval_metrics/subj01")

    general = sum(int((streams[side][:N] > 0).sum()) for side in ("lh", "rh"))
    assert train(region="nsdgeneral")["vertices"] == general
    by_path = str(folder / "{hemisphere}.streams.mgz")
    assert train(region=by_path)["vertices"] == general
    words = ["lh.mine.mgz", "{hemisphere} becomes lh and rh"]
    nowhere = {"fmri_mlp": quick | {"region": str(folder / "{hemisphere}.mine.mgz")}}
    fails(graph, "fmri_mlp", first="subj01", says=words, config=nowhere)
