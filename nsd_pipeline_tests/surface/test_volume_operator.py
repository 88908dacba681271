import numpy as np
import pytest
from nibabel.freesurfer import MGHImage

from nsd_pipeline.errors import ArtifactError, InvalidFileError
from nsd_pipeline.nsd.layout import layer_keys, transform_keys, white_to_fsaverage_key
from nsd_pipeline.surface import FsaverageOperator, interpolate, read_operator

SHAPE = (12, 14, 13)
N_NATIVE = {"lh": 500, "rh": 450}
N = 10_242


@pytest.fixture(scope="module")
def transforms():
    """Three depths through a small volume, some without a value, and indices into them."""
    rng = np.random.default_rng(0)
    layers, nearest = {}, {}
    for hemisphere, n_vertices in N_NATIVE.items():
        start = 0.8 + rng.random((n_vertices, 3)) * (np.array(SHAPE) - 0.6)
        layers[hemisphere] = [
            (start + depth * rng.normal(size=3)).astype(np.float32) for depth in range(3)
        ]
        layers[hemisphere][1][:5] = 9999
        layers[hemisphere][2][5:9] = np.nan
        layers[hemisphere][0][9] = [3, 4, 5]  # on a voxel's centre: all but one weight are 0
        nearest[hemisphere] = rng.integers(1, n_vertices + 1, 163_842).astype(np.float32)
    return layers, nearest


@pytest.fixture(scope="module")
def operator(transforms) -> FsaverageOperator:
    return FsaverageOperator.from_coordinates(*transforms, SHAPE)


def chain(transforms, volumes: np.ndarray) -> np.ndarray:
    """What the authors do, step by step: depths, their mean, the nearest vertex."""
    layers, nearest = transforms
    hemispheres = []
    for hemisphere in ("lh", "rh"):
        depths = [interpolate(volumes, points, "cubic") for points in layers[hemisphere]]
        native = np.mean(depths, axis=0)
        hemispheres.append(native[nearest[hemisphere].astype(int) - 1][:N])
    return np.concatenate(hemispheres).T


def test_equals_the_chain_of_single_steps(transforms, operator, monkeypatch) -> None:
    monkeypatch.setattr("nsd_pipeline.surface.volume_operator._BLOCK_VOLUMES", 2)
    rng = np.random.default_rng(1)
    volumes = rng.normal(size=(*SHAPE, 3)).astype(np.float32)
    volumes[4, 5, 6, 1] = np.nan
    expected = chain(transforms, volumes)
    surface = operator.apply(volumes.reshape(-1, 3))
    assert surface.shape == (3, 20_484)
    assert surface.dtype == np.float32
    missing = np.isnan(expected).sum(axis=1)
    assert 0 < missing[0] == missing[2] < missing[1] < 20_484
    np.testing.assert_allclose(surface, expected, atol=2e-6)


def test_invalid_voxels_are_as_good_as_nan(transforms, operator) -> None:
    rng = np.random.default_rng(2)
    volumes = rng.integers(-3_000, 3_000, (*SHAPE, 2), dtype=np.int16)
    valid = rng.random(SHAPE) > 0.002
    valid[2, 3, 4] = False  # below the vertex that lies on a centre
    valid[3, 3, 4] = False  # its neighbour, of weight 0
    percent = np.where(valid[..., None], volumes / np.float32(300), np.float32(np.nan))
    expected = chain(transforms, percent)
    assert 0.05 < np.isnan(expected).mean() < 0.95
    flat = volumes.reshape(-1, 2)
    np.testing.assert_allclose(
        operator.masked(valid.ravel()).apply(flat) / 300, expected, atol=1e-5
    )
    block = flat[operator.touched_voxels]
    of_block = operator.masked(valid.ravel()[operator.touched_voxels]).apply(block)
    np.testing.assert_array_equal(of_block, operator.masked(valid.ravel()).apply(flat))


def test_a_voxel_of_weight_zero_counts_as_needed() -> None:
    centre = np.array([[5, 5, 5]], np.float32)
    layers = dict.fromkeys(("lh", "rh"), [centre] * 3)
    nearest = dict.fromkeys(("lh", "rh"), np.ones(N))
    operator = FsaverageOperator.from_coordinates(layers, nearest, (9, 9, 9))
    assert len(operator.touched_voxels) == 64
    valid = np.ones((9, 9, 9), bool)
    valid[3, 6, 6] = False
    ones = np.ones((9**3, 1))
    np.testing.assert_array_equal(operator.apply(ones), 1)
    assert np.isnan(operator.masked(valid.ravel()).apply(ones)).all()
    valid[:] = True
    valid[2] = False
    assert np.isfinite(operator.masked(valid.ravel()).apply(ones)).all()


def test_a_hemisphere_outside_the_volume_is_nan(transforms) -> None:
    layers, nearest = transforms
    layers = {**layers, "rh": [np.full((450, 3), 9999.0)] * 3}
    surface = FsaverageOperator.from_coordinates(layers, nearest, SHAPE).apply(
        np.ones((np.prod(SHAPE), 1))
    )
    assert np.isnan(surface[:, N:]).all()
    assert np.nanmax(np.abs(surface[:, :N] - 1)) < 1e-6


def test_survives_a_file_and_refuses_a_damaged_one(operator, tmp_path) -> None:
    path = tmp_path / "operator.npz"
    operator.save(path)
    loaded = FsaverageOperator.load(path)
    volumes = np.random.default_rng(3).normal(size=(np.prod(SHAPE), 2))
    np.testing.assert_array_equal(loaded.apply(volumes), operator.apply(volumes))
    assert loaded.shapes == (SHAPE,)
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(ArtifactError, match=r"operator\.npz"):
        FsaverageOperator.load(path)
    np.savez(path, data=np.ones(3))
    with pytest.raises(ArtifactError, match=r"operator\.npz"):
        FsaverageOperator.load(path)


def test_refuses_what_does_not_fit(transforms, operator) -> None:
    layers, nearest = transforms
    with pytest.raises(ValueError, match="neither all"):
        operator.apply(np.zeros((7, 2)))
    with pytest.raises(ValueError, match="voxels, volumes"):
        operator.apply(np.zeros(7))
    for wrong in (0, 501, 1.5):
        bad = {**nearest, "lh": nearest["lh"].copy()}
        bad["lh"][100] = wrong
        with pytest.raises(ValueError, match="whole number from 1 to 500"):
            FsaverageOperator.from_coordinates(layers, bad, SHAPE)
    with pytest.raises(ValueError, match="one shape"):
        FsaverageOperator.from_coordinates(
            {**layers, "rh": [*layers["rh"][:2], layers["rh"][2][1:]]}, nearest, SHAPE
        )
    with pytest.raises(ValueError, match="do not cover"):
        FsaverageOperator.from_coordinates(layers, {**nearest, "rh": np.ones(5)}, SHAPE)


def test_reads_the_transforms_as_nsd_names_and_shapes_them(transforms, operator, tmp_path) -> None:
    layers, nearest = transforms
    files = {}
    for hemisphere in ("lh", "rh"):
        for key, points in zip(
            layer_keys("subj01", "func1mm", hemisphere), layers[hemisphere], strict=True
        ):
            files[key] = points.reshape(-1, 1, 1, 3)
        files[white_to_fsaverage_key("subj01", hemisphere)] = nearest[hemisphere][:, None, None]
    assert list(files) == list(transform_keys("subj01", "func1mm"))
    assert "nsddata/ppdata/subj01/transforms/lh.func1pt0-to-layerB1.mgz" in files
    assert layer_keys("subj02", "func1pt8mm", "rh")[2].endswith("rh.func1pt8-to-layerB3.mgz")
    paths = {}
    for key, data in files.items():
        paths[key] = tmp_path / key.rsplit("/", 1)[1]
        MGHImage(np.asarray(data, np.float32), np.eye(4)).to_filename(paths[key])
    read = read_operator(paths, "subj01", "func1mm", SHAPE)
    volumes = np.random.default_rng(4).normal(size=(np.prod(SHAPE), 2))
    np.testing.assert_array_equal(read.apply(volumes), operator.apply(volumes))

    broken = paths[layer_keys("subj01", "func1mm", "rh")[0]]
    MGHImage(np.zeros((450, 1, 1, 2), np.float32), np.eye(4)).to_filename(broken)
    with pytest.raises(InvalidFileError, match=r"rh\.func1pt0-to-layerB1\.mgz has shape"):
        read_operator(paths, "subj01", "func1mm", SHAPE)
    broken.write_bytes(b"not gzip")
    with pytest.raises(InvalidFileError, match=r"rh\.func1pt0-to-layerB1\.mgz is not"):
        read_operator(paths, "subj01", "func1mm", SHAPE)
    MGHImage(np.zeros((451, 1, 1, 3), np.float32), np.eye(4)).to_filename(broken)
    with pytest.raises(InvalidFileError, match="transforms of subj01 do not fit each other"):
        read_operator(paths, "subj01", "func1mm", SHAPE)
