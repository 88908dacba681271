"""A session's time series come back as they were written, or not at all."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.surface import SeriesLayout, read_session, series_layout, write_series

LAYOUT = SeriesLayout.of_runs(4 / 3, {1: 100, 2: 60, 3: 7})


@pytest.fixture
def series() -> np.ndarray:
    data = np.random.default_rng(0).standard_normal((167, 8)).astype(np.float32)
    data[100:160, 2] = np.nan
    return data


def test_there_and_back(series, tmp_path: Path) -> None:
    write_series(tmp_path / "a", series, LAYOUT, {"subject": "subj01"})
    group = zarr.open_group(tmp_path / "a", mode="r")
    assert series_layout(group) == LAYOUT
    assert LAYOUT.runs[3] == (160, 7)
    np.testing.assert_array_equal(group["series"][...], series)
    out = np.full((200, 8), 9, np.float32)
    read_session(group, out=out[10:177])
    np.testing.assert_array_equal(out[10:177], np.nan_to_num(series))
    some = np.r_[3, 70:80, 150:166]
    np.testing.assert_array_equal(read_session(group, some), np.nan_to_num(series[some]))
    assert (out[:10] == 9).all()
    assert (out[177:] == 9).all()


def test_refuses_what_is_not_whole(series, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="166 samples"):
        write_series(tmp_path / "b", series, SeriesLayout.of_runs(1.0, {1: 166}), {})
    write_series(tmp_path / "a", series, LAYOUT, {})
    group = zarr.open_group(tmp_path / "a", mode="r")
    with pytest.raises(ValueError, match="float32 of shape"):
        read_session(group, out=np.empty((166, 8), np.float32))
    (tmp_path / "a/series/c/1/0").unlink()
    with pytest.raises(ArtifactError, match="2 of 3 chunks"):
        read_session(group)
