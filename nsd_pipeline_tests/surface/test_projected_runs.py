"""One run from each kind of file to fsaverage5."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.nifti import open_volumes
from nsd_pipeline.surface import FsaverageOperator, clean, project_volume
from nsd_pipeline.surface.projected_runs import project_mni_run, project_native_run, read_gifti_run

N = 10_242
SHAPE = (9, 11, 10)
RNG = np.random.default_rng(7)


def write_gifti(path: Path, data: np.ndarray, **metadata: str) -> Path:
    """(V, T) as FreeSurfer writes it: one array per sample."""
    nibabel.save(
        nibabel.GiftiImage(
            darrays=[
                nibabel.gifti.GiftiDataArray(
                    sample, intent="NIFTI_INTENT_TIME_SERIES", meta=metadata
                )
                for sample in data.T.astype(np.float32)
            ]
        ),
        path,
    )
    return path


def write_nifti(path: Path, data: np.ndarray, affine=None, tr: float = 0, units: str = "sec"):
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header.set_xyzt_units("mm", units)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("n_vertices", [40_962, N])
def test_gifti_is_decimated(tmp_path: Path, n_vertices: int) -> None:
    lh, rh = RNG.standard_normal((2, n_vertices, 3)).astype(np.float32)
    run = read_gifti_run(
        write_gifti(tmp_path / "L.func.gii", lh, TimeStep="1600.000000"),
        write_gifti(tmp_path / "R.func.gii", rh),
    )
    np.testing.assert_array_equal(run.data, np.concatenate([lh[:N], rh[:N]]))
    assert run.tr == 1.6


def test_hemispheres_that_do_not_fit_are_named(tmp_path: Path) -> None:
    lh = write_gifti(tmp_path / "L.func.gii", np.zeros((N, 3)))
    with pytest.raises(InvalidFileError, match=r"L\.func\.gii has 3 samples, but .*R\..* has 2"):
        read_gifti_run(lh, write_gifti(tmp_path / "R.func.gii", np.zeros((N, 2))))
    with pytest.raises(InvalidFileError, match=r"has 10242 vertices, but .* has 40962"):
        read_gifti_run(lh, write_gifti(tmp_path / "R.func.gii", np.zeros((40_962, 3))))
    other = write_gifti(tmp_path / "R.func.gii", np.zeros((5_000, 3)))
    with pytest.raises(InvalidFileError, match=r"5,000 vertices, which is no fsaverage mesh"):
        read_gifti_run(other, other)
    lh.write_bytes(lh.read_bytes()[:2_000])
    with pytest.raises(InvalidFileError, match=r"L\.func\.gii is not a readable GIFTI"):
        read_gifti_run(lh, lh)


def test_mni_volumes_go_as_nilearn_projects_them_within_the_mask(tmp_path: Path, golden) -> None:
    data = golden("volume_to_fsaverage5")
    volume, affine = data["volume"].astype(np.float32), data["affine"]
    many = np.concatenate([volume] * 40, axis=3)[..., :35]  # more than one block
    bold = write_nifti(tmp_path / "bold.nii", many, affine, tr=1600, units="msec")
    mask = np.ones(volume.shape[:3], np.uint8)
    everywhere = write_nifti(tmp_path / "mask.nii.gz", mask, affine)
    run = project_mni_run(bold, everywhere)
    assert run.tr == pytest.approx(1.6)
    np.testing.assert_allclose(run.data, project_volume(many, affine), rtol=1e-5, atol=1e-5)
    mask[: len(mask) // 2] = 0
    run = project_mni_run(bold, write_nifti(tmp_path / "half.nii.gz", mask, affine))
    many[: len(mask) // 2] = np.nan
    np.testing.assert_allclose(run.data, project_volume(many, affine), rtol=1e-5, atol=1e-5)
    assert np.isnan(run.data).any()
    with pytest.raises(InvalidFileError, match="on another grid"):
        project_mni_run(bold, write_nifti(tmp_path / "other.nii.gz", mask[:-1], affine))


def test_without_a_mask_the_template_s_brain_is_taken(tmp_path: Path) -> None:
    """The template has brain where nilearn's own has, on a grid that is flipped and coarser."""
    from nilearn.datasets import load_mni152_brain_mask

    template = load_mni152_brain_mask(resolution=1)
    affine = np.array([[-4.0, 0, 0, 90.3], [0, 4, 0, -126.2], [0, 0, 4, -72.4], [0, 0, 0, 1]])
    shape = (46, 55, 46)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    there = nibabel.affines.apply_affine(np.linalg.inv(template.affine) @ affine, grid)
    there = np.rint(there).astype(int)
    inside = ((there >= 0) & (there < template.shape)).all(axis=-1)
    brain = np.zeros(shape, bool)
    brain[inside] = template.get_fdata()[tuple(there[inside].T)] > 0
    data = RNG.standard_normal((*shape, 2)).astype(np.float32)
    run = project_mni_run(write_nifti(tmp_path / "bold.nii", data, affine, tr=1.6), None)
    data[~brain] = np.nan
    np.testing.assert_allclose(run.data, project_volume(data, affine), rtol=1e-5, atol=1e-5)
    assert 0 < np.isnan(run.data).mean() < 0.1


def operator_for(shape: tuple[int, int, int]) -> FsaverageOperator:
    rng = np.random.default_rng(1)
    layers = {
        hemisphere: [rng.uniform(1, np.array(shape), (300, 3))] * 3 for hemisphere in ("lh", "rh")
    }
    nearest = {hemisphere: rng.integers(1, 301, N) for hemisphere in ("lh", "rh")}
    return FsaverageOperator.from_coordinates(layers, nearest, shape)


def test_native_volumes_are_mapped_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = RNG.integers(-3000, 3000, (*SHAPE, 5)).astype(np.int16)
    path = write_nifti(tmp_path / "timeseries.nii.gz", data, tr=4 / 3)
    run = project_native_run(path, operator_for(SHAPE))
    expected = operator_for(SHAPE).apply(data.reshape(-1, 5)).T
    np.testing.assert_allclose(run.data, expected, rtol=1e-5, atol=1e-2)
    assert run.tr == pytest.approx(4 / 3)
    with pytest.raises(
        InvalidFileError, match=r"timeseries\.nii\.gz has shape .* are for \(11, 9, 10\)"
    ):
        project_native_run(path, operator_for((11, 9, 10)))


def test_smoothing_is_nilearn_s(tmp_path: Path) -> None:
    from nilearn.image import smooth_img

    data = RNG.standard_normal((*SHAPE, 3)).astype(np.float32)
    path = write_nifti(tmp_path / "timeseries.nii", data, np.diag([2, 3, 2, 1.0]), tr=1)
    smooth = smooth_img(nibabel.load(path), 5.0).get_fdata()
    run = project_native_run(path, operator_for(SHAPE), fwhm=5.0)
    expected = operator_for(SHAPE).apply(smooth.reshape(-1, 3)).T
    np.testing.assert_allclose(run.data, expected, atol=1e-4)


def test_damaged_volumes_are_named(tmp_path: Path) -> None:
    data = RNG.integers(-3000, 3000, (*SHAPE, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    path = tmp_path / "bold.nii.gz"
    nibabel.save(image, path)
    volumes = open_volumes(path)
    assert volumes.tr is None or volumes.tr == 1.0
    np.testing.assert_allclose(
        np.stack([*volumes.volumes()], axis=-1), nibabel.load(path).get_fdata(), rtol=1e-6
    )
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(InvalidFileError, match=r"bold\.nii\.gz is truncated"):
        list(open_volumes(path).volumes())
    path.write_bytes(b"something else")
    with pytest.raises(InvalidFileError, match=r"bold\.nii\.gz is not a readable NIfTI"):
        open_volumes(path)
    with pytest.raises(InvalidFileError, match=r"There is no .*none\.nii"):
        open_volumes(tmp_path / "none.nii")


def test_confounds_and_slow_drifts_are_removed_as_nilearn_does() -> None:
    from nilearn.signal import clean as nilearn_clean

    data = 100 + RNG.standard_normal((50, 120))
    confounds = RNG.standard_normal((120, 3))
    data += 2 * RNG.standard_normal((50, 3)) @ confounds.T
    data[4, 7] = np.nan
    options = {"confounds": confounds, "high_pass": 0.01}
    cleaned = clean(data, 1.6, **options)
    expected = nilearn_clean(
        np.nan_to_num(data).T, detrend=True, standardize="zscore_sample", t_r=1.6, **options
    ).T
    assert np.isnan(cleaned[4]).all()
    others = np.arange(50) != 4
    np.testing.assert_allclose(cleaned[others], expected[others], atol=1e-5)
    assert np.abs(cleaned[others] @ (confounds - confounds.mean(axis=0)) / 120).max() < 0.15
    with pytest.raises(ValueError, match="120 samples"):
        clean(data, 1.6, confounds=confounds[1:])
