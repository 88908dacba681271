"""A functional session at its real size, from a bucket to fsaverage5, within a memory ceiling."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import zarr

from nsd_pipeline.demo import made_files
from nsd_pipeline.demo.anatomy import grid, write_transforms
from nsd_pipeline.demo.experiment import DemoSettings, make_design, write_tables
from nsd_pipeline.nsd.layout import (
    betas_files,
    layer_keys,
    valid_key,
    white_to_fsaverage_key,
)
from nsd_pipeline.surface import interpolate
from nsd_pipeline_tests.memory import run_within
from nsd_pipeline_tests.steps.test_full_size import SESSION_CEILING
from nsd_pipeline_tests.storage.servers import S3rver

SPACE = "func1pt8mm"
N_NATIVE = 163_842
"""Vertices of a hemisphere of the subject's own surface; real subjects have as many, or more."""
TRIALS = [0, 749]
"""The ones that are compared."""

SESSION = """
import json, sys
from pathlib import Path
import dagster as dg
from nsd_pipeline_tests.memory import peak_bytes
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline
settings = {
    "betas": {"space": "func1pt8mm"},
    "fsaverage_events": {"query": "type != 'Fmri' or space == 'func1pt8mm'"},
}
with dg.DagsterInstance.ephemeral() as instance:
    graph = Pipeline("s3://natural-scenes-dataset", Path(sys.argv[1]), Path(), instance)
    graph.run("experiment_design")
    operator = graph.run("fsaverage5_operator", first="subj01_func1pt8mm")["fsaverage5_operator"]
    operator_peak = peak_bytes()
    facts = graph.run(*SESSION_ASSETS, first="subj01_ses01", config=settings)
print(json.dumps({
    "n_bytes": facts["betas"]["bytes fetched"],
    "trials": facts["fsaverage5_betas"]["trials"],
    "voxels": operator["voxels looked at"],
    "operator_peak_bytes": operator_peak,
    "peak_bytes": peak_bytes(),
    "failed_checks": graph.failed_checks,
}))
"""


@pytest.fixture
def betas() -> np.ndarray:
    """(750, 20484) in percent."""
    return np.random.default_rng(0).standard_normal((750, 20_484), np.float32)


@pytest.fixture
def vertex() -> np.ndarray:
    """Vertex that each voxel (81, 104, 83) has its betas from, or -1."""
    return made_files.nearest_vertices(grid("subj01", SPACE))


@pytest.fixture
def bucket(
    betas: np.ndarray,
    vertex: np.ndarray,
    s3rver: S3rver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A session of 750 volumes on a bucket, and transforms of a real subject's size: the folder."""
    mirror = tmp_path / "nsd"
    settings = DemoSettings(subjects=1, sessions=1, trials_per_run=63, spaces=())
    (file,) = betas_files("subj01", 1, SPACE)["nii.gz"]
    mask = valid_key("subj01", 1, SPACE)
    write_tables(mirror, make_design(settings), settings)
    for key in (file, mask):
        (mirror / key).parent.mkdir(parents=True, exist_ok=True)
    transforms = mirror / "nsddata/ppdata/subj01/transforms"
    write_transforms(transforms, "subj01", (SPACE,), seed=0, n_vertices=N_NATIVE)
    voxels = grid("subj01", SPACE)
    made_files.write_mask(mirror / mask, voxels, vertex, np.zeros(20_484, np.bool_))
    made_files.write_betas(mirror / file, voxels, vertex, betas)
    for path in mirror.rglob("*.*"):
        s3rver.add("natural-scenes-dataset", str(path.relative_to(mirror)), path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3rver.url)
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    return mirror


def step_by_step(folder: Path, volume: np.ndarray) -> np.ndarray:
    """What NSD's authors do, by its definition: depths, their mean, the nearest vertex."""
    halves = []
    for side in ("lh", "rh"):
        nearest = nibabel.load(folder / white_to_fsaverage_key("subj01", side)).get_fdata()
        own = nearest.ravel()[:10_242].astype(int) - 1
        layers = [
            nibabel.load(folder / key).get_fdata() for key in layer_keys("subj01", SPACE, side)
        ]
        assert layers[0].shape == (N_NATIVE, 1, 1, 3)
        depths = [interpolate(volume, layer[own, 0, 0], "cubic") for layer in layers]
        halves.append(np.mean(depths, axis=0))
    return np.concatenate(halves)


def test_a_functional_session_from_a_bucket_to_the_surface(
    bucket: Path, betas: np.ndarray, vertex: np.ndarray, tmp_path: Path
) -> None:
    measured = run_within(SESSION_CEILING, SESSION, tmp_path / "artifacts")
    assert measured["trials"] == 750
    assert measured["failed_checks"] == []
    assert 100_000 < measured["voxels"] < 300_000  # of 699,192
    assert measured["operator_peak_bytes"] < 0.7e9
    assert measured["peak_bytes"] < 1e9
    stored = zarr.open_group(tmp_path / "artifacts/fsaverage5_betas.zarr/subj01/ses01")["betas"]
    for trial in TRIALS:
        volume = np.where(vertex < 0, 0, np.round(300 * betas[trial, vertex]))
        expected = step_by_step(bucket, volume) / 300
        np.testing.assert_allclose(stored[trial], expected, atol=1e-5)
    assert np.isfinite(stored[TRIALS[0]]).mean() > 0.95
