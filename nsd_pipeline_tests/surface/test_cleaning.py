import numpy as np
import pytest

from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.surface import clean


def test_equals_the_reference(golden) -> None:
    data = golden("clean")
    cleaned = clean(data["data"], float(data["tr"]))
    assert cleaned.dtype == np.float32
    np.testing.assert_allclose(cleaned, data["cleaned"], atol=1e-5)


def test_equals_nilearn_across_blocks_and_at_the_scale_of_bold() -> None:
    from nilearn.signal import clean as nilearn_clean

    rng = np.random.default_rng(0)
    data = 1e4 + 30 * rng.standard_normal((1500, 97)) + 5 * np.arange(97)
    expected = nilearn_clean(data.T, detrend=True, standardize="zscore_sample", t_r=1.6).T
    np.testing.assert_allclose(clean(data.astype(np.float32), 1.6), expected, atol=1e-4)
    np.testing.assert_allclose(clean(data, 1.6), expected, atol=1e-6)


def test_bad_samples_and_flat_vertices_stay_where_they_are() -> None:
    rng = np.random.default_rng(1)
    data = rng.standard_normal((300, 500)).astype(np.float32)
    expected = clean(data, 1.0)
    data[7, 3] = np.nan
    data[8, 4] = np.inf
    data[9] = 0.1
    data[10] = 5 - 3 * np.arange(500)
    cleaned = clean(data, 1.0)
    assert np.isnan(cleaned[[7, 8]]).all()
    assert not cleaned[[9, 10]].any()
    others = np.r_[:7, 11:300]
    np.testing.assert_array_equal(cleaned[others], expected[others])


def test_refuses_what_it_cannot_clean() -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        clean(np.zeros((2, 5)), 0.0)
    with pytest.raises(ValueError, match="shape"):
        clean(np.zeros(5), 1.0)
    with pytest.raises(NotEnoughDataError, match="2 samples"):
        clean(np.zeros((5, 2)), 1.0)
