import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsd_pipeline.surface import interpolate
from nsd_pipeline.surface.interpolation import METHODS, neighbours

SHAPE = (7, 8, 9)
RNG = np.random.default_rng(0)
GRID = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in SHAPE), indexing="ij"), axis=-1)

points = st.lists(st.tuples(*(st.floats(1, n) for n in SHAPE)), min_size=1, max_size=20).map(
    np.array
)
# Where all four neighbours along each axis lie in the volume.
inner_points = st.lists(
    st.tuples(*(st.floats(2, n - 1, exclude_max=True) for n in SHAPE)), min_size=1, max_size=20
).map(np.array)


@given(inner_points, st.integers(0, 2**32))
def test_cubic_reproduces_polynomials_of_degree_two(coordinates, seed) -> None:
    terms = np.random.default_rng(seed).normal(size=(3, 3, 3))

    def polynomial(at: np.ndarray) -> np.ndarray:
        return np.polynomial.polynomial.polyval3d(*np.moveaxis(at, -1, 0), terms)

    values = interpolate(polynomial(GRID.astype(float)), coordinates)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, polynomial(coordinates), rtol=1e-9, atol=1e-7)


def test_cubic_is_keys_and_not_a_spline() -> None:
    """An impulse shows the kernel; halfway and 1.5 voxels away Keys has 9/16 and -1/16."""
    volume = np.zeros((9, 9, 9), np.float32)
    volume[4, 4, 4] = 1
    coordinates = 5 + np.array([[0, 0, 0], [0.5, 0, 0], [0, -1.5, 0], [0, 0, 2], [0.5, 0.5, 1.5]])
    expected = [1, 9 / 16, -1 / 16, 0, -((9 / 16) ** 2) / 16]
    np.testing.assert_array_equal(interpolate(volume, coordinates), np.float32(expected))


@given(points, st.sampled_from(METHODS))
def test_weights_sum_to_one_and_stay_in_the_volume(coordinates, method) -> None:
    voxels, weights = neighbours(coordinates, SHAPE, method)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert voxels.min() >= 0
    assert voxels.max() < np.prod(SHAPE)


@given(points, st.sampled_from(METHODS))
def test_voxel_centres_are_kept_and_borders_are_continued(coordinates, method) -> None:
    volume = RNG.normal(size=SHAPE)
    centres = np.round(coordinates)
    at_centre = volume[tuple(centres.astype(int).T - 1)]
    np.testing.assert_array_equal(interpolate(volume, centres, method), at_centre)
    padded = np.pad(volume, 2, mode="edge")
    np.testing.assert_allclose(
        interpolate(volume, coordinates, method),
        interpolate(padded, coordinates + 2, method),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("method", "reach"), [("cubic", (-1, 2)), ("linear", (0, 1)), ("nearest", (0, 0))]
)
def test_a_nan_reaches_every_point_that_takes_its_voxel_whatever_the_weight(method, reach) -> None:
    volume = np.zeros((12, 3, 3), np.float32)
    volume[5] = np.nan
    below = np.arange(1, 13)
    coordinates = np.stack([below, np.full(12, 2), np.full(12, 2)], axis=1).astype(float)
    hit = (below + reach[0] <= 6) & (below + reach[1] >= 6)
    np.testing.assert_array_equal(np.isnan(interpolate(volume, coordinates, method)), hit)


@pytest.mark.parametrize("method", METHODS)
def test_outside_is_nan_and_the_outermost_centres_are_inside(method) -> None:
    volume = np.ones(SHAPE, np.float32)
    inside = np.array([[1, 1, 1], SHAPE, [1, 8, 4.5]], float)
    np.testing.assert_allclose(interpolate(volume, inside, method), 1)
    outside = np.array(
        [
            [np.nextafter(1, 0), 4, 4],
            [4, np.nextafter(8, 9), 4],
            [4, 4, 0.5],
            [4, np.nan, 4],
            [9999, 9999, 9999],
            [-np.inf, 4, 4],
        ]
    )
    assert np.isnan(interpolate(volume, outside, method)).all()


def test_nearest_rounds_halves_up_and_linear_is_linear() -> None:
    volume = np.arange(1, 5, dtype=np.float32)[:, None, None] * np.ones((4, 2, 2), np.float32)
    coordinates = np.array([[1.5, 1, 1], [2.49, 1, 1], [3.5, 1.5, 1.5]])
    np.testing.assert_array_equal(interpolate(volume, coordinates, "nearest"), [2, 2, 4])
    np.testing.assert_allclose(interpolate(volume, coordinates, "linear"), [1.5, 2.49, 3.5])


@pytest.mark.parametrize("order", ["C", "F"])
def test_volumes_are_independent_and_layout_does_not_matter(order, monkeypatch) -> None:
    monkeypatch.setattr("nsd_pipeline.surface.interpolation._BLOCK_POINTS", 7)
    monkeypatch.setattr("nsd_pipeline.surface.interpolation._BLOCK_VOLUMES", 2)
    volumes = np.asarray(RNG.normal(size=(*SHAPE, 5)), order=order)
    volumes[3, 3, 3, 1] = np.nan
    coordinates = 0.5 + RNG.random((50, 3)) * SHAPE
    together = interpolate(volumes, coordinates)
    assert together.shape == (50, 5)
    for index in range(5):
        alone = interpolate(np.ascontiguousarray(volumes[..., index]), coordinates)
        np.testing.assert_array_equal(together[:, index], alone)
    assert np.isnan(together[:, 1]).sum() > np.isnan(together[:, 0]).sum()


def test_refuses_wrong_shapes_and_methods() -> None:
    with pytest.raises(ValueError, match="A volume has shape"):
        interpolate(np.zeros((3, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="Coordinates have shape"):
        interpolate(np.zeros(SHAPE), np.ones((3, 5)))
    with pytest.raises(ValueError, match="Unknown method 'spline'"):
        interpolate(np.zeros(SHAPE), np.zeros((1, 3)), "spline")
