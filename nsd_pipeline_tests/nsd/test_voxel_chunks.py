"""The index of an HDF5 file with a chunk for each voxel, and the voxels that are wanted of it."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.hdf5 import IndexFile, npy_header
from nsd_pipeline.nsd.voxel_chunks import plan_chunks, read_chunks, read_layout, read_shape
from nsd_pipeline.storage.opening import open_source

SHAPE, N_TRIALS = (20, 18, 16), 40


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A file as MATLAB writes it: (trial, z, y, x) for h5py; and its voxels (n, T) in C order."""
    path = tmp_path_factory.mktemp("hdf5") / "betas_session01.hdf5"
    values = np.random.default_rng(0).integers(-999, 999, (*SHAPE, N_TRIALS), dtype=np.int16)
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("betas", data=values.transpose(3, 2, 1, 0), chunks=(N_TRIALS, 1, 1, 1))
    return path, values.reshape(-1, N_TRIALS)


def test_chunks_are_where_they_are_said_to_be(volume: tuple[Path, np.ndarray]) -> None:
    path, values = volume
    assert read_shape(path, name="x") == (SHAPE, N_TRIALS)
    layout = read_layout(path, name="x")
    rng = np.random.default_rng(1)
    wanted = np.sort(rng.choice(len(values), 900, replace=False))
    plan = plan_chunks(layout, wanted)
    assert set(wanted) <= set(plan.voxels.tolist())
    assert len(np.unique(plan.voxels)) == len(plan.voxels)
    assert sum(length for _, length in plan.ranges) == 2 * N_TRIALS * len(plan.voxels)
    assert len(plan.ranges) < len(wanted) / 5  # neighbours are read together
    parts = list(read_chunks(path, plan))
    numbers, found = (np.concatenate(each) for each in zip(*parts, strict=True))
    np.testing.assert_array_equal(found, values[numbers])
    # A single voxel costs a single chunk.
    assert plan_chunks(layout, wanted[:1]).ranges == [(layout.offsets[wanted[0]], 2 * N_TRIALS)]


def test_the_index_comes_without_the_chunks_and_ahead(volume: tuple[Path, np.ndarray]) -> None:
    path, _ = volume
    source = open_source(path.parent)
    waited = 0

    class Watched(IndexFile):
        def _children(self, data: bytes):
            nonlocal waited
            waited += 1
            return super()._children(data)

    with Watched(source, source.describe(path.name), n_axes=4) as remote:
        layout = read_layout(remote, name="x")
    np.testing.assert_array_equal(layout.offsets, read_layout(path, name="x").offsets)
    assert remote.n_bytes < 0.7 * path.stat().st_size  # chunks of 80 bytes: mostly index
    assert remote.n_requests <= waited + 2  # nothing came that was not used


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "betas.hdf5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(InvalidFileError, match="not a whole, readable HDF5 file"):
        read_shape(path, name="betas.hdf5")
    with h5py.File(path, "w") as file:
        file.create_dataset("other", data=np.zeros(3))
    with pytest.raises(InvalidFileError, match="no dataset 'betas'"):
        read_shape(path, name="betas.hdf5")
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=np.zeros((4, 3)), chunks=(4, 1))
    with pytest.raises(InvalidFileError, match="float64"):
        read_shape(path, name="betas.hdf5")
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", shape=(4, 3), dtype=np.int16, chunks=(4, 1))
    with pytest.raises(InvalidFileError, match="lacks the values of 3 of 3"):
        read_layout(io.FileIO(path), name="betas.hdf5")
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", shape=(750, 10**6, 10**6), dtype=np.int16, chunks=(750, 1, 1))
    with pytest.raises(InvalidFileError, match=r"too short for voxels \(1000000, 1000000\) in 750"):
        read_layout(path, name="betas.hdf5")


@pytest.mark.parametrize("dtype", [np.uint8, "<i2"])
def test_an_npy_file_starts_as_numpy_writes_it(dtype: str) -> None:
    saved = io.BytesIO()
    np.save(saved, np.zeros((3, 2), dtype))
    assert saved.getvalue() == npy_header((3, 2), dtype) + bytes(6 * np.dtype(dtype).itemsize)
