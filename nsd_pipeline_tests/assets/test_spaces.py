"""Betas from every space NSD has, through the graph: the same story, whichever way it came."""

from collections.abc import Callable

import numpy as np
import pytest

from nsd_pipeline.demo import generate
from nsd_pipeline.nsd.layout import betas_keys
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline, SmallNsd
from nsd_pipeline_tests.storage.servers import S3rver

SESSION = "subj01_ses01"
BUCKET = "natural-scenes-dataset"
OPERATOR = "fsaverage5_operator"


@pytest.fixture(scope="module")
def every_space(small_nsd: SmallNsd, tmp_path_factory: pytest.TempPathFactory) -> SmallNsd:
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
    return SmallNsd(dataset.folder, small_nsd.encoder)


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
    return graph.run(*SESSION_ASSETS, first=SESSION, config=settings(space, **betas))


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
        assert facts["fsaverage5_betas"]["nan_share"] < 0.05
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


def test_of_hdf5_on_a_bucket_only_what_is_needed_comes(
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
    of_file = every_space.folder / betas_keys("subj01", 1, "nativesurface")[0]
    assert facts["betas"]["bytes fetched"] < 4 * of_file.stat().st_size
    local = pipeline(every_space.folder)
    local.artifacts = graph.artifacts.with_name("local")
    prepare(local, "nativesurface")
    np.testing.assert_array_equal(fetched, stored(local))
