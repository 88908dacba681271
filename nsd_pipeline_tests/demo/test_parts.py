"""The demo's mesh, pictures, encoder and command line."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nsd_pipeline.demo import write_tiny_encoder
from nsd_pipeline.demo.__main__ import main
from nsd_pipeline.demo.brain import HEMIFIELD, image_features, load_cortex, response_profile
from nsd_pipeline.demo.made_files import write_labels
from nsd_pipeline.demo.pictures import render
from nsd_pipeline.nsd.layout import HEMISPHERES
from nsd_pipeline.surface import read_roi


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def test_the_refined_mesh_has_as_many_vertices_as_fsaverage_and_keeps_the_first() -> None:
    cortex = load_cortex("rh")
    fine = cortex.refine(cortex.white)
    assert fine.shape == (163_842, 3)
    np.testing.assert_array_equal(fine[:10_242], cortex.white)
    lengths = [
        np.linalg.norm(fine[edges[:, 0]] - fine[edges[:, 1]], axis=1).mean()
        for edges in cortex.parents
    ]
    assert lengths[1] == pytest.approx(lengths[0] / 2, rel=0.05)


def test_the_brain_s_labels_are_where_it_responds(tmp_path: Path) -> None:
    write_labels(tmp_path)
    paths = {side: tmp_path / f"{side}.nsdgeneral.mgz" for side in HEMISPHERES}
    responding = np.concatenate([response_profile(side) > 0 for side in HEMISPHERES])
    np.testing.assert_array_equal(read_roi(paths), responding)
    streams = {side: tmp_path / f"{side}.streams.mgz" for side in HEMISPHERES}
    parts = [read_roi(streams, above=n - 1, up_to=n) for n in (1, 5, 6, 7)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), responding)


def test_smooth_noise_has_unit_variance_and_neighbours_in_common() -> None:
    cortex = load_cortex("lh")
    noise = cortex.smoother @ np.random.default_rng(0).standard_normal((cortex.n_vertices, 50))
    assert noise.std() == pytest.approx(1, abs=0.02)
    first, second, _ = cortex.triangles.T
    assert (noise[first] * noise[second]).mean() > 0.7


def test_pictures_follow_from_seed_and_id_and_differ() -> None:
    first = render(5, seed=1)
    assert first.shape == (425, 425, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render(5, seed=1))
    assert (first != render(6, seed=1)).any()
    assert (first != render(5, seed=2)).any()


def test_every_kind_of_picture_is_a_picture() -> None:
    for image_id in range(40):
        image = render(image_id)
        assert image.std() > 12
        assert 20 < image.mean() < 235


def test_features_know_left_from_right() -> None:
    image = np.zeros((425, 425, 3), np.uint8)
    image[:, :140] = np.random.default_rng(0).integers(0, 255, (425, 140, 1))
    features = np.abs(image_features(image))
    assert features.shape == HEMIFIELD.shape
    assert features[HEMIFIELD == -1].sum() > 20 * features[HEMIFIELD == 1].sum()


def test_the_encoder_is_the_same_every_time(encoder: Path, tmp_path: Path) -> None:
    again = write_tiny_encoder(tmp_path)
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in encoder.iterdir()) == names
    for name in names:
        first, second = (hashlib.sha256((f / name).read_bytes()) for f in (encoder, again))
        assert first.digest() == second.digest(), name


def test_the_encoder_tells_pictures_apart(encoder: Path) -> None:
    from nsd_pipeline.embeddings import ImageEncoder

    images = np.stack([render(image_id) for image_id in range(16)])
    embeddings = ImageEncoder(str(encoder), device="cpu").encode(images)
    assert embeddings.shape == (16, 64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    between = (unit @ unit.T)[np.triu_indices(16, 1)]
    assert between.mean() < 0.3
    assert between.max() < 0.995


def test_command_line(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--subjects", "1", "--sessions", "1", "--trials-per-run", "2"]
    first = CliRunner().invoke(main, [*arguments, "--space", "none"])
    assert first.exit_code == 0, first.output
    assert f"NSD_SOURCE={tmp_path / 'nsd'}" in first.output
    assert (tmp_path / "nsd" / "demo.json").exists()
    assert (tmp_path / "tiny_dinov2" / "model.safetensors").exists()
    other = CliRunner().invoke(main, arguments)
    assert other.exit_code == 1
    assert "spaces [] instead of ['func1pt8mm']" in other.output
    wrong = CliRunner().invoke(main, [str(tmp_path / "x"), "--subjects", "9"])
    assert wrong.exit_code == 2
    assert "subjects" in wrong.output


def test_importing_the_demo_loads_no_heavy_library() -> None:
    code = (
        "import sys, nsd_pipeline.demo; "
        "print({'torch', 'transformers', 'nilearn', 'nibabel', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
