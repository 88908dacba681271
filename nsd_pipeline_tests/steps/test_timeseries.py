"""NSD's prepared time series, tiny: from the source through NSD's transforms to fsaverage5."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import zarr
from nibabel.freesurfer import MGHImage

from nsd_pipeline.nsd.design import read_experiment_design
from nsd_pipeline.nsd.layout import EXPDESIGN_KEY, transform_keys, valid_prefix
from nsd_pipeline.nsd.nsd_series import TR, design_key, series_key
from nsd_pipeline.surface import clean, read_operator
from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd
from nsd_pipeline_tests.steps.test_bad_input import fails
from nsd_pipeline_tests.storage.servers import S3rver

SHAPE = (9, 11, 10)
N_VOLUMES = 55
N_NATIVE = 300
SPACE = "func1pt8mm"
SESSION, OPERATOR = "subj01_ses01", "subj01_func1pt8mm"


def add_timeseries(mirror: Path, folder: Path) -> list[str]:
    """Volumes, designs and transforms for session 1; what they are of is listed."""
    rng = np.random.default_rng(0)
    trials = read_experiment_design(mirror / EXPDESIGN_KEY).trials("subj01", 1)
    keys = []
    for run, of_run in trials.groupby("run"):
        design = np.zeros(N_VOLUMES - 1, int)
        design[3 * of_run["slot"]] = of_run["image_id"] + 1
        volumes, names = (key("subj01", 1, run, SPACE) for key in (series_key, design_key))
        for key in (volumes, names):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            keys.append(key)
        np.savetxt(folder / names, design, fmt="%d")
        data = rng.integers(100, 2000, (*SHAPE, N_VOLUMES)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / volumes)
    for key in transform_keys("subj01", SPACE):
        values = (
            1 + rng.random((N_NATIVE, 1, 1, 3)) * (np.array(SHAPE) - 1)
            if "layer" in key
            else rng.integers(1, N_NATIVE + 1, (163_842, 1, 1))
        )
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        MGHImage(values.astype(np.float32), np.eye(4)).to_filename(folder / key)
        keys.append(key)
    keys.append(f"{valid_prefix('subj01', SPACE)}01.nii.gz")
    (folder / keys[-1]).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), folder / keys[-1])
    return keys


@pytest.fixture
def mirror(small_nsd: SmallNsd, tmp_path: Path) -> Path:
    copy = small_nsd.copy(tmp_path / "nsd")
    add_timeseries(copy, copy)
    return copy


def check_first_run(graph: Pipeline, mirror: Path) -> None:
    """The first run is the operator's, without its last volume, detrended and z-scored."""
    paths = {key: mirror / key for key in transform_keys("subj01", SPACE)}
    operator = read_operator(paths, "subj01", SPACE, SHAPE)
    volumes = nibabel.load(mirror / series_key("subj01", 1, 1, SPACE)).get_fdata()
    expected = clean(operator.apply(volumes[..., :-1].reshape(-1, N_VOLUMES - 1)).T, TR[SPACE])
    group = zarr.open_group(graph.artifacts / "fsaverage5_series.zarr/subj01/ses01", mode="r")
    assert group.attrs["tr"] == 4 / 3
    assert group.attrs["runs"][1] == {"run": 2, "first_sample": 54, "n_samples": 54}
    np.testing.assert_allclose(group["series"][:54], expected.T, atol=1e-3)
    events = pd.read_parquet(graph.artifacts / "bold_events/subj01/ses01/events.parquet")
    designed = pd.read_parquet(graph.artifacts / "events/subj01/ses01/events.parquet")
    starts = [each.loc[each["type"] == "Image", "start"] for each in (events, designed)]
    np.testing.assert_allclose(*starts)


def prepare(graph: Pipeline, *assets: str) -> dict[str, dict]:
    graph.run("experiment_design")
    graph.run("fsaverage5_operator", first=OPERATOR)
    return graph.run("events", *assets, first=SESSION, config={"bold": {"derivatives": ""}})


def test_from_a_bucket(
    small_nsd: SmallNsd,
    s3rver: S3rver,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "timeseries"
    for key in add_timeseries(small_nsd.folder, folder):
        s3rver.add("natural-scenes-dataset", key, folder / key)
    for path in (small_nsd.folder / "nsddata").rglob("*.*"):
        s3rver.add("natural-scenes-dataset", str(path.relative_to(small_nsd.folder)), path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3rver.url)
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    graph = pipeline("s3://natural-scenes-dataset")
    facts = prepare(graph, "bold", "bold_events", "fsaverage5_series")
    downloaded = sorted(path.name for path in (graph.artifacts / "bold/subj01/ses01").iterdir())
    assert len(downloaded) == 12 * 2 + 1
    sizes = sum(
        (folder / series_key("subj01", 1, run, SPACE)).stat().st_size for run in range(1, 13)
    )
    assert facts["bold"]["bytes fetched"] > sizes
    check_first_run(graph, folder)
    assert graph.leftovers() == []


def test_in_place_and_what_is_wrong_with_it(
    mirror: Path, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(mirror)
    graph.run("experiment_design")
    graph.run("events", "bold", "bold_events", first=SESSION)
    fails(
        graph, "fsaverage5_series", first=SESSION, says=[SESSION, "fsaverage5_operator", OPERATOR]
    )
    facts = prepare(graph, "bold", "bold_events", "fsaverage5_series")
    assert facts["bold"]["bytes fetched"] == 0
    check_first_run(graph, mirror)

    def replace(path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)

    volumes, design = (mirror / key("subj01", 1, 3, SPACE) for key in (series_key, design_key))
    rows = design.read_text().splitlines()

    def broken(path: Path, content: bytes, asset: str, *says: str) -> None:
        whole = path.read_bytes()
        replace(path, content)
        for before in ("bold", "bold_events")[
            : ("bold", "bold_events", "fsaverage5_series").index(asset)
        ]:
            graph.run(before, first=SESSION, config={before: {}} if before != "bold" else None)
        fails(graph, asset, first=SESSION, says=[SESSION, *says])
        replace(path, whole)

    onset = next(number for number, row in enumerate(rows) if row != "0")
    other = [*rows]
    other[onset] = "1"
    broken(
        design, "\n".join(other).encode(), "bold_events", design.name, "showed image", "names 1 "
    )
    late = [*rows[:onset], "0", *rows[onset:-1]]
    broken(design, "\n".join(late).encode(), "bold_events", design.name, "came on at")
    longer = "\n".join([*rows, "0", "0", "0"]).encode()
    broken(design, longer, "fsaverage5_series", volumes.name, "55 volumes", "is of 57")
    broken(volumes, volumes.read_bytes()[:-500], "fsaverage5_series", volumes.name, "truncated")
    volumes.unlink()
    fails(graph, "bold", first=SESSION, says=[SESSION, "run 3", "of 12 runs", volumes.name])
