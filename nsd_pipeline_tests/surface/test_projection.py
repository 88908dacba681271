import numpy as np
import pytest

from nsd_pipeline.surface import project_volume
from nsd_pipeline.surface.projection import _projector

RNG = np.random.default_rng(0)
COARSE = np.array([[-6.0, 0, 0, 90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])
COARSE_SHAPE = (31, 37, 31)


def by_nilearn(volumes: np.ndarray, affine: np.ndarray) -> np.ndarray:
    from nibabel import Nifti1Image
    from nilearn.datasets import load_fsaverage
    from nilearn.surface import vol_to_surf

    meshes = load_fsaverage("fsaverage5")
    image = Nifti1Image(volumes, affine)
    return np.concatenate(
        [
            vol_to_surf(
                image,
                meshes["pial"].parts[side],
                inner_mesh=meshes["white_matter"].parts[side],
            )
            for side in ("left", "right")
        ]
    )


def test_equals_the_reference(golden) -> None:
    data = golden("volume_to_fsaverage5")
    surface = project_volume(data["volume"], data["affine"])
    assert surface.dtype == np.float32
    np.testing.assert_allclose(surface, data["surface"], atol=1e-5)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_equals_nilearn_outside_the_grid_and_around_missing_voxels() -> None:
    turn = np.array([[0.9, 0.1, 0], [-0.1, 0.9, 0.2], [0, -0.2, 1]])
    affine = COARSE.copy()
    affine[:3, :3] @= turn
    affine[:3, 3] += [-50, 20, 9]
    volumes = RNG.normal(size=(*COARSE_SHAPE, 4)).astype(np.float32)
    volumes[RNG.random(volumes.shape) < 0.02] = np.nan
    volumes[8:14, :, :, 1] = np.nan
    volumes[12, 14:16, 12, 2] = np.inf
    volumes[..., 3] = RNG.normal(size=COARSE_SHAPE)
    # Cut through the brain: nilearn extrapolates up to one voxel beyond the last centre.
    volumes = volumes[:18, :27, :20]
    expected = by_nilearn(volumes, affine)
    surface = project_volume(volumes, affine)
    n_outside = np.isnan(expected[:, 3]).sum()
    assert 1_000 < n_outside < np.isnan(expected[:, 1]).sum()
    assert np.isinf(expected[:, 2]).any()
    np.testing.assert_allclose(surface, expected, atol=1e-5)


def test_a_grid_that_misses_the_brain_gives_nan() -> None:
    affine = COARSE.copy()
    affine[0, 3] = 5_000
    assert np.isnan(project_volume(np.ones((*COARSE_SHAPE, 2)), affine)).all()


def test_layout_number_of_volumes_and_number_type_do_not_matter(monkeypatch) -> None:
    monkeypatch.setattr("nsd_pipeline.surface.projection._BLOCK_VOLUMES", 2)
    volumes = RNG.integers(-9_000, 9_000, (*COARSE_SHAPE, 5), dtype=np.int16)
    surface = project_volume(volumes, COARSE)
    assert surface.shape == (20_484, 5)
    same = project_volume(np.asfortranarray(volumes, np.float64), COARSE.tolist())
    np.testing.assert_allclose(same, surface, rtol=1e-6)
    single = project_volume(volumes[..., 3], COARSE)
    assert single.shape == (20_484,)
    np.testing.assert_allclose(single, surface[:, 3], rtol=1e-6)


def test_a_grid_is_prepared_once() -> None:
    volume = np.ones(COARSE_SHAPE, np.float32)
    project_volume(volume, COARSE)
    before = _projector.cache_info()
    project_volume(volume + 1, COARSE.copy())
    after = _projector.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_refuses_what_it_cannot_project() -> None:
    volume = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match="A volume has shape"):
        project_volume(np.zeros((4, 4)), COARSE)
    with pytest.raises(ValueError, match="at least two voxels"):
        project_volume(np.zeros((4, 1, 4)), COARSE)
    with pytest.raises(ValueError, match="invertible"):
        project_volume(volume, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="Unknown mesh"):
        project_volume(volume, COARSE, "fsaverage4")
