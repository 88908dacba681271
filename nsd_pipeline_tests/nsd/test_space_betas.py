"""Functional betas from a bucket: of HDF5 the voxels that are wanted, of NIfTI everything."""

from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from nsd_pipeline.errors import SourceError
from nsd_pipeline.nsd.layout import betas_files, valid_key
from nsd_pipeline.nsd.space_betas import inspect_space, locate_files, read_parts
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.source import Source
from nsd_pipeline_tests.storage.servers import S3rver, s3rver, s3rver_script

__all__ = ["s3rver", "s3rver_script"]

SHAPE, N_TRIALS = (20, 18, 16), 750
SESSION = ("subj01", 1, "func1pt8mm")
FILES = betas_files(*SESSION)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(-999, 999, (*SHAPE, N_TRIALS), dtype=np.int16)


@pytest.fixture(scope="module")
def bucket(values: np.ndarray, s3rver: S3rver, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a server that has the session in both formats."""
    folder = tmp_path_factory.mktemp("bucket")
    hdf5, nifti, mask = (folder / name for name in ("betas.hdf5", "betas.nii.gz", "mask.nii.gz"))
    with h5py.File(hdf5, "w", libver="earliest") as file:
        file.create_dataset("betas", data=values.transpose(3, 2, 1, 0), chunks=(N_TRIALS, 1, 1, 1))
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), nifti)
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), mask)
    keys = (FILES["hdf5"][0], FILES["nii.gz"][0], valid_key(*SESSION))
    for key, path in zip(keys, (hdf5, nifti, mask), strict=True):
        s3rver.add("nsd", key, path)
    return s3rver.url


@pytest.fixture
def source(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    return open_source("s3://nsd", endpoint_url=bucket)


def test_of_hdf5_the_voxels_come_that_are_wanted(
    source: Source, values: np.ndarray, tmp_path: Path
) -> None:
    found = inspect_space(source, *SESSION, file_format="hdf5", n_trials=N_TRIALS)
    assert found.shapes == (SHAPE,)
    # A block of voxels, and single ones far from it. In the file, x runs fastest.
    place = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    wanted = np.unique(np.r_[place[4:16, 5:12, 7:10].ravel(), place[3, 4, 0], place[-1, -1, -1]])
    folder = tmp_path / "fetched"
    folder.mkdir()
    download = replace(found, voxels=wanted)
    report = download.download(folder, tmp_path / "scratch")
    betas = {path.name: path.stat().st_size for path in folder.iterdir()}["betas_session01.npy"]
    assert 2 * N_TRIALS * len(wanted) <= betas < 1.5 * 2 * N_TRIALS * len(wanted)
    assert betas < report.n_bytes < 0.15 * found.betas[0].n_bytes
    flat = values.reshape(-1, N_TRIALS)
    places, parts = zip(*read_parts(locate_files(folder), [SHAPE], wanted), strict=True)
    assert sorted(np.concatenate(places)) == [*range(len(wanted))]
    np.testing.assert_array_equal(np.concatenate(parts), flat[wanted[np.concatenate(places)]])


def test_auto_takes_nifti_as_a_whole(source: Source, values: np.ndarray, tmp_path: Path) -> None:
    found = inspect_space(source, *SESSION, file_format="auto", n_trials=N_TRIALS)
    assert [info.key for info in found.betas] == list(FILES["nii.gz"])
    folder = tmp_path / "fetched"
    folder.mkdir()
    report = found.download(folder, tmp_path / "scratch")
    assert report.n_bytes == sum(info.n_bytes for info in found.objects)
    (path,) = locate_files(folder).betas
    np.testing.assert_array_equal(nibabel.load(path).dataobj, values)
    with pytest.raises(SourceError, match=r"no betas in nativesurface as nii\.gz"):
        inspect_space(source, "subj01", 1, "nativesurface", file_format="nii.gz", n_trials=N_TRIALS)
