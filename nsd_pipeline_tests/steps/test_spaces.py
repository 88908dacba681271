"""Betas from every space NSD has, through the graph: the same story, whichever way it came."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import h5py
import numpy as np
import pytest
from nibabel.freesurfer import MGHImage

import nsd_pipeline
from nsd_pipeline.checks import AtChance
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.demo import generate
from nsd_pipeline.experiments import Experiment
from nsd_pipeline.folders import betas_folder
from nsd_pipeline.nsd.layout import betas_keys
from nsd_pipeline.planned_runs import operators
from nsd_pipeline.planned_runs import prepare as prepare_sessions
from nsd_pipeline.steps.every_step import every_step
from nsd_pipeline.steps.measurement import metrics_steps
from nsd_pipeline.steps.overview import State, look_at_store
from nsd_pipeline.steps.sessions import Preparation, look_at_sessions
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline, SmallNsd
from nsd_pipeline_tests.steps.test_bad_input import fails, replace
from nsd_pipeline_tests.storage.servers import S3rver

SESSION = "subj01_ses01"
BUCKET = "natural-scenes-dataset"
OPERATOR = "fsaverage5_operator"


@pytest.fixture(scope="module")
def every_space(tmp_path_factory: pytest.TempPathFactory) -> SmallNsd:
    """One session of one subject in all spaces, functional volumes in both formats."""
    folder = tmp_path_factory.mktemp("every_space")
    dataset = generate(
        folder / "nsd",
        subjects=1,
        sessions=1,
        trials_per_run=2,
        spaces=("func1pt8mm", "func1mm", "nativesurface", "MNI"),
        hdf5=("func1pt8mm",),
    )
    return SmallNsd(dataset.folder, Path())


def settings(space: str, **betas: object) -> dict[str, dict[str, object]]:
    """Configuration of a run that takes betas from a space."""
    return {
        "betas": {"space": space, **betas},
        "fsaverage_events": {"query": f"type != 'Fmri' or space == '{space}'"},
    }


def prepare(graph: Pipeline, space: str, **betas: object) -> dict[str, dict[str, object]]:
    """From experiment design to fsaverage5: what is known of each asset."""
    graph.run("experiment_design")
    if space not in ("fsaverage", "MNI"):
        graph.run(OPERATOR, first=f"subj01_{space}")
    config = settings(space, **betas) | {"fsaverage5_betas": {"space": space}}
    return graph.run(*SESSION_ASSETS, first=SESSION, config=config)


def stored(graph: Pipeline) -> np.ndarray:
    return graph.store.zarr("fsaverage5_betas.zarr/subj01/ses01")["betas"][...]


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Over trials, of every vertex that has data in both."""
    both = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    first, second = (each[:, both] - each[:, both].mean(axis=0) for each in (first, second))
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return (first * second).sum(axis=0) / norms


def test_every_space_gives_nearly_the_same_betas(
    every_space: SmallNsd, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(every_space.folder)
    prepare(graph, "fsaverage")
    expected = stored(graph)
    found = {}
    for space in ("nativesurface", "func1mm", "MNI", "func1pt8mm"):
        facts = prepare(graph, space, file_format="auto" if space != "func1pt8mm" else "nii.gz")
        betas = stored(graph)
        assert betas.shape == expected.shape
        assert facts["fsaverage5_betas"]["space"] == space
        assert facts["fsaverage5_betas"]["share of vertices without any value"] < 0.05
        assert graph.failed_checks == []
        r = correlations(expected, betas)
        found[space] = (round(float(np.median(r)), 3), round(float(np.quantile(r, 0.05)), 2))
        # In the same unit: percent, not percent x 300.
        assert 0.9 < np.nanmedian(betas.std(axis=0) / expected.std(axis=0)) < 1.1
    # Median over vertices, and what 95 % of them reach. A voxel of 1.8 mm is wide for a sulcus.
    assert found["nativesurface"] == (1.0, 1.0), found
    assert found["func1mm"] > (0.995, 0.99), found
    assert found["MNI"] > (0.995, 0.98), found
    assert found["func1pt8mm"] > (0.99, 0.9), found


def test_two_spaces_live_side_by_side(
    every_space: SmallNsd, small_nsd: SmallNsd, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(every_space.folder)
    graph.encoder = small_nsd.encoder
    ridge = TrainingConfig(model="ridge", validation_by="image_id")
    graph.experiments = {
        "default": Experiment(name="default"),
        "volume": Experiment(
            name="volume", training=ridge.model_copy(update={"space": "func1pt8mm"})
        ),
        "surface": Experiment(name="surface", training=ridge),
    }
    graph.run_sessions(SESSION)
    graph.run_images("shared", "subj01")
    before = {key: graph.store.find(key).fingerprint for key in graph.store.keys("")}
    # What is still to do for the other space, and what makes it.
    source, steps = open_source(graph.source), metrics_steps(graph.experiments)
    (volume,) = Preparation.for_all([steps["volume"].model.experiment.training])
    states = look_at_sessions(source, graph.store, [SESSION, "subj01_ses02"], "func1pt8mm")
    assert (states.to_do, states["not on the source"]) == ([SESSION], ["subj01_ses02"])
    for planned in (
        *operators(states.to_do, volume.space),
        *prepare_sessions(states.to_do, volume, at_most=1),
    ):
        graph.run(*planned.assets, first=planned.first)
    assert graph.failed_checks == []
    assert look_at_sessions(source, graph.store, [SESSION], "func1pt8mm").to_do == []
    for name in ("surface", "volume"):
        graph.run(f"{name}_model", first="subj01")
        with suppress(AtChance):
            graph.run(f"{name}_metrics", first="subj01")
    graph.run("decoding_report")
    after = {key: graph.store.find(key).fingerprint for key in graph.store.keys("")}
    assert before.items() <= after.items(), "nothing of the default's was made again"
    of_session = {key for key in set(after) - set(before) if key.endswith("ses01")}
    assert of_session == {
        "betas_func1pt8mm/subj01/ses01",
        "fsaverage5_betas_func1pt8mm.zarr/subj01/ses01",
    }
    for name, space in (("surface", "fsaverage"), ("volume", "func1pt8mm")):
        model = graph.store.find(f"experiments/{name}/model/subj01")
        assert model.metadata["space"] == space
        assert f"{betas_folder(space)}/subj01/ses01" in model.inputs
        assert "figures/sessions.svg" in model.files
    page = (graph.artifacts / "decoding_report/report.html").read_text()
    assert "surface, subj01" in page
    assert "volume, subj01" in page
    overview = look_at_store(Snapshot(graph.store), every_step(steps), lambda: source)
    stages = {stage.name: stage for stage in overview.stages}
    for name in ("betas", "betas_func1pt8mm", "fsaverage5_betas", "fsaverage5_betas_func1pt8mm"):
        assert [each.state for each in stages[name].artifacts].count(State.CURRENT) == 1, name
    notebook = nsd_pipeline.open(graph.artifacts)
    fsaverage, volume_betas = (
        notebook.betas("subj01", space=space) for space in ("fsaverage", "func1pt8mm")
    )
    assert fsaverage.sizes == volume_betas.sizes
    assert not np.array_equal(fsaverage, volume_betas)
    assert notebook.decoder("subj01", "volume").space == "func1pt8mm"
    assert notebook.decoder("subj01", "surface").space == "fsaverage"


def test_hdf5_and_nifti_hold_the_same(
    every_space: SmallNsd, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(every_space.folder)
    prepare(graph, "func1pt8mm", file_format="nii.gz")
    expected = stored(graph)
    prepare(graph, "func1pt8mm", file_format="hdf5")
    np.testing.assert_allclose(stored(graph), expected, atol=1e-5)


@pytest.fixture(scope="module")
def server(every_space: SmallNsd, s3rver: S3rver) -> S3rver:
    for path in every_space.folder.rglob("*"):
        if path.is_file() and "MNI" not in path.parts:
            s3rver.add(BUCKET, str(path.relative_to(every_space.folder)), path)
    return s3rver


def test_hdf5_from_a_bucket_gives_what_a_mirror_gives(
    every_space: SmallNsd,
    server: S3rver,
    pipeline: Callable[..., Pipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    graph = pipeline(f"s3://{BUCKET}")
    facts = prepare(graph, "nativesurface")
    fetched = stored(graph)
    assert facts["betas"]["bytes fetched"] > 0
    local = pipeline(every_space.folder)
    local.artifacts = graph.artifacts.with_name("local")
    prepare(local, "nativesurface")
    np.testing.assert_array_equal(fetched, stored(local))


def test_the_filter_and_the_betas_have_to_agree(
    every_space: SmallNsd, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(every_space.folder)
    graph.run("experiment_design")
    graph.run(
        "betas",
        "events",
        "fsaverage_events",
        first=SESSION,
        config={"betas": {"space": "MNI"}},
    )
    words = [SESSION, "in the space MNI", "recording in fsaverage", "space == 'MNI'"]
    fails(graph, "fsaverage5_betas", first=SESSION, says=words)
    words = [SESSION, "in the space MNI", "to come from func1mm"]
    wanted = {"fsaverage5_betas": {"space": "func1mm"}}
    fails(graph, "fsaverage5_betas", first=SESSION, says=words, config=wanted)


def test_an_operator_is_asked_for_by_name(
    every_space: SmallNsd, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(every_space.folder)
    graph.run("experiment_design")
    graph.run(
        "betas", "events", "fsaverage_events", first=SESSION, config=settings("nativesurface")
    )
    words = ["--select fsaverage5_operator --partition subj01_nativesurface"]
    fails(graph, "fsaverage5_betas", first=SESSION, says=words)


def write_mgz(path: Path, values: np.ndarray) -> None:
    path.unlink()
    MGHImage(values.astype(np.float32), np.eye(4)).to_filename(path)


TRANSFORMS = "nsddata/ppdata/subj01/transforms"


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("lh.func1pt8-to-layerB2.mgz", Path.unlink, "lh.func1pt8-to-layerB2.mgz"),
        (
            "rh.func1pt8-to-layerB2.mgz",
            lambda path: write_mgz(path, np.ones((10_000, 1, 1, 3))),
            "do not fit each other",
        ),
        (
            "rh.white-to-fsaverage.mgz",
            lambda path: write_mgz(path, np.ones((40_962, 1, 1))),
            "rh.white-to-fsaverage.mgz has 40,962 values",
        ),
        (
            "lh.white-to-fsaverage.mgz",
            lambda path: write_mgz(path, np.full((163_842, 1, 1), 99_999)),
            "whole number from 1 to",
        ),
    ],
    ids=["missing", "hemispheres' depths of different length", "not fsaverage", "out of range"],
)
def test_transforms(
    every_space: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    mirror = every_space.copy(tmp_path / "nsd")
    damage(mirror / TRANSFORMS / name)
    fails(pipeline(mirror), OPERATOR, first="subj01_func1pt8mm", says=["subj01", says])


def another_session_s_mask(mirror: Path) -> None:
    mask = "nsddata/ppdata/subj01/{}/valid_session01.nii.gz"
    replace(mirror / mask.format("func1pt8mm"), (mirror / mask.format("func1mm")).read_bytes())


def half_a_file(mirror: Path) -> None:
    path = mirror / betas_keys("subj01", 1, "func1pt8mm")[0]
    replace(path, path.read_bytes()[:-1_000])


def hemispheres_of_other_lengths(mirror: Path) -> None:
    left, right = (mirror / key for key in betas_keys("subj01", 1, "nativesurface"))
    replace(right, left.read_bytes())


def hemispheres_swapped(mirror: Path) -> None:
    left, right = (mirror / key for key in betas_keys("subj01", 1, "nativesurface"))
    contents = right.read_bytes(), left.read_bytes()
    for path, content in zip((left, right), contents, strict=True):
        replace(path, content)


def a_trial_short(mirror: Path) -> None:
    path = mirror / betas_keys("subj01", 1, "nativesurface")[1]
    with h5py.File(path) as file:
        values = file["betas"][:-1]
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=values, chunks=(len(values), 1))


def not_a_chunk_a_voxel(mirror: Path) -> None:
    path = mirror / betas_keys("subj01", 1, "nativesurface")[0]
    with h5py.File(path) as file:
        values = file["betas"][...]
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=values, chunks=(len(values), 10), compression="gzip")


@pytest.mark.parametrize(
    ("space", "damage", "says"),
    [
        ("func1pt8mm", another_session_s_mask, "valid_session01.nii.gz has shape (145, 187, 149)"),
        ("func1pt8mm", half_a_file, "is truncated or damaged"),
        (
            "nativesurface",
            hemispheres_of_other_lengths,
            "rh.betas_session01.hdf5 has shape (10882,), but the subject's transforms to fsaverage5"
            " are for (10752,)",
        ),
        ("nativesurface", hemispheres_swapped, "lh.betas_session01.hdf5 has shape (10752,)"),
        ("nativesurface", a_trial_short, "rh.betas_session01.hdf5 has 17 trials"),
        ("nativesurface", not_a_chunk_a_voxel, "not one uncompressed chunk"),
    ],
)
def test_betas_that_are_not_what_they_should_be(
    every_space: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    space: str,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    graph = pipeline(every_space.folder)
    graph.run("experiment_design")
    graph.run(OPERATOR, first=f"subj01_{space}")
    mirror = every_space.copy(tmp_path / "nsd")
    damage(mirror)
    graph.source = str(mirror)
    config = settings(space, file_format="auto" if space == "nativesurface" else "nii.gz")
    graph.run(
        "events",
        "fsaverage_events",
        first=SESSION,
        config={"fsaverage_events": config["fsaverage_events"]},
    )
    with pytest.raises(dg.Failure) as failure:
        graph.run("betas", "fsaverage5_betas", first=SESSION, config={"betas": config["betas"]})
    message = str(failure.value.description)
    assert says in message
    assert "Next step:" in message


def test_a_space_that_is_not_there(small_nsd: SmallNsd, pipeline: Callable[..., Pipeline]) -> None:
    graph = pipeline()
    graph.run("experiment_design")
    wanted = {"betas": {"space": "MNI"}}
    fails(graph, "betas", first=SESSION, says=["MNI/betas_fithrf/betas_session01"], config=wanted)
    unknown = {"betas": {"space": "talairach"}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="func1pt8mm"):
        graph.run("betas", first=SESSION, config=unknown)
