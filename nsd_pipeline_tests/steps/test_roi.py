"""A region of interest is kept beside the betas, and a model can be restricted to it."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from nibabel.freesurfer import MGHImage
from safetensors.numpy import load_file

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
    folder.mkdir(parents=True)
    for side, path in labels.items():
        path.rename(folder / path.name)
        general = (streams[side] > 0).astype(np.float32)[:, None, None]
        MGHImage(general, np.eye(4)).to_filename(folder / f"{side}.nsdgeneral.mgz")
    graph = pipeline(mirror)
    sessions = {"first": "subj01_ses01", "last": "subj01_ses02"}
    graph.run_sessions(*sessions.values())
    graph.run_images("shared", "subj01")
    quick = {"n_epochs": 1, "hidden": 8, "roi": True}

    words = ["without a region", "`roi`"]
    fails(graph, "fmri_mlp", first="subj01", says=words, config={"fmri_mlp": quick})
    ventral = {"roi": "streams", "roi_above": 4, "roi_up_to": 5}
    unknown = {"fsaverage5_betas": {"roi": "strems"}}
    with pytest.raises(dg.Failure, match=r"no region 'strems'[\s\S]*one of nsdgeneral, streams"):
        graph.run("fsaverage5_betas", first="subj01_ses01", config=unknown)
    facts = graph.run("fsaverage5_betas", **sessions, config={"fsaverage5_betas": ventral})
    inside = np.concatenate([streams[side][:N] == 5 for side in ("lh", "rh")])
    assert facts["fsaverage5_betas"]["vertices in the region"] == inside.sum()
    group = graph.store.zarr("fsaverage5_betas.zarr/subj01/ses01")
    np.testing.assert_array_equal(group["roi"][...], inside)
    assert group.attrs["roi"] == "streams"
    assert group["betas"].shape[1] == 2 * N
    thresholds = [group.attrs[name] for name in ("roi_above", "roi_up_to")]
    assert thresholds == [4, 5]

    facts = graph.run("fmri_mlp", "retrieval_metrics", first="subj01", config={"fmri_mlp": quick})
    assert facts["fmri_mlp"]["vertices"] == inside.sum()
    weights = load_file(graph.artifacts / "fmri_mlp/subj01/model.safetensors")
    assert weights["lin0.weight"].shape == (8, inside.sum())

    general = {"roi": "nsdgeneral"}
    graph.run("fsaverage5_betas", first="subj01_ses02", config={"fsaverage5_betas": general})
    by_name = graph.store.zarr("fsaverage5_betas.zarr/subj01/ses02")["roi"][...]
    other = {"roi": str(folder / "{hemisphere}.streams.mgz")}
    graph.run("fsaverage5_betas", first="subj01_ses02", config={"fsaverage5_betas": other})
    by_path = graph.store.zarr("fsaverage5_betas.zarr/subj01/ses02")["roi"][...]
    np.testing.assert_array_equal(by_name, by_path)
    nowhere = {"fsaverage5_betas": {"roi": str(folder / "{hemisphere}.mine.mgz")}}
    words = ["lh.mine.mgz", "{hemisphere} becomes lh and rh"]
    fails(graph, "fsaverage5_betas", first="subj01_ses02", says=words, config=nowhere)
    words = ["subj01_ses01 and subj01_ses02", "different regions"]
    fails(graph, "fmri_mlp", first="subj01", says=words, config={"fmri_mlp": quick})
