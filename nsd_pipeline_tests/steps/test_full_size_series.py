"""A session's time series at their real size, to fsaverage5, within a memory ceiling."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import zarr

from nsd_pipeline.demo import made_files
from nsd_pipeline.demo.anatomy import grid, write_transforms
from nsd_pipeline.demo.experiment import DemoSettings, make_design, write_tables
from nsd_pipeline.nsd.layout import valid_key
from nsd_pipeline.nsd.nsd_series import design_key, series_key
from nsd_pipeline_tests.memory import run_within

SPACE = "func1pt8mm"
N_RUNS, N_VOLUMES = 12, 226
CEILING = 2.5e9

SERIES = """
import json, sys
from pathlib import Path
import dagster as dg
from nsd_pipeline_tests.memory import peak_bytes
from nsd_pipeline_tests.pipeline import Pipeline
artifacts = Path(sys.argv[1])
with dg.DagsterInstance.ephemeral() as instance:
    graph = Pipeline(str(artifacts.parent / "nsd"), artifacts, Path(), instance)
    graph.run("experiment_design")
    graph.run("fsaverage5_operator", first="subj01_func1pt8mm")
    graph.run("events", "bold", "bold_events", "fsaverage5_series", first="subj01_ses01")
print(json.dumps({"peak_bytes": peak_bytes(), "failed_checks": graph.failed_checks}))
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Twelve runs of 226 volumes with values in the cortex, all runs the same file."""
    folder = tmp_path / "nsd"
    settings = DemoSettings(subjects=1, sessions=1, trials_per_run=63, spaces=())
    design = make_design(settings)
    keys = [key("subj01", 1, 1, SPACE) for key in (series_key, design_key)]
    write_tables(folder, design, settings)
    for key in (valid_key("subj01", 1, SPACE), *keys):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
    write_transforms(folder / "nsddata/ppdata/subj01/transforms", "subj01", (SPACE,), seed=0)
    voxels = grid("subj01", SPACE)
    vertex = made_files.nearest_vertices(voxels)
    no_vertex = np.zeros(20_484, np.bool_)
    made_files.write_mask(folder / valid_key("subj01", 1, SPACE), voxels, vertex, no_vertex)
    data = np.zeros((*vertex.shape, N_VOLUMES), np.int16, order="F")
    inside = vertex >= 0
    rng = np.random.default_rng(0)
    for number in range(N_VOLUMES):
        data[inside, number] = rng.integers(800, 1200, np.count_nonzero(inside), np.int16)
    first = folder / series_key("subj01", 1, 1, SPACE)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), first)
    trials = design.trials("subj01", 1)
    for run in range(1, N_RUNS + 1):
        path = folder / series_key("subj01", 1, run, SPACE)
        if path != first:
            os.link(first, path)
        shown = trials[trials["run"] == run]
        rows = np.zeros(N_VOLUMES - 1, int)
        rows[3 * shown["slot"]] = shown["image_id"] + 1
        np.savetxt(folder / design_key("subj01", 1, run, SPACE), rows, fmt="%d")
    return folder


def test_a_session_of_time_series_takes_a_run_at_a_time(mirror: Path, tmp_path: Path) -> None:
    measured = run_within(CEILING, SERIES, tmp_path / "artifacts")
    assert measured["failed_checks"] == []
    assert measured["peak_bytes"] < 1e9
    series = zarr.open_group(tmp_path / "artifacts/fsaverage5_series.zarr/subj01/ses01")["series"]
    assert series.shape == (N_RUNS * (N_VOLUMES - 1), 20_484)
    last = series[-(N_VOLUMES - 1) :]
    there = np.isfinite(last).all(axis=0)
    assert there.mean() > 0.9
    np.testing.assert_allclose(last[:, there].std(axis=0, ddof=1), 1, atol=1e-4)
