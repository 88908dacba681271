"""A session's betas and time series come back as they were written, or not at all."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nsd_pipeline.errors import ArtifactError, NotEnoughDataError
from nsd_pipeline.surface import (
    SeriesLayout,
    read_session,
    series_layout,
    summarise,
    write_series,
    write_session,
)

sessions = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 40), st.integers(1, 5)),
    elements=st.one_of(
        st.integers(-50_000, 50_000).map(lambda thousandths: np.float32(thousandths / 1_000)),
        st.sampled_from([np.nan, np.inf, -np.inf, np.float32(0.1)]),
    ),
)


def written(folder: Path, betas: np.ndarray, **attributes: object) -> zarr.Group:
    write_session(folder, betas, summarise(betas), attributes)
    return zarr.open_group(folder, mode="r")


@given(sessions)
def test_statistics_are_those_of_each_vertex_alone(betas) -> None:
    statistics = summarise(betas)
    n_nan = n_partly = n_constant = 0
    for vertex, column in enumerate(betas.T.astype(np.float64)):
        values = column[np.isfinite(column)]
        n_nan += values.size == 0
        n_partly += 0 < values.size < len(column)
        constant = values.size > 0 and np.all(values == values[0])
        n_constant += constant
        assert statistics.valid[vertex] == (values.size > 0 and not constant)
        mean = values.mean() if values.size else np.nan
        np.testing.assert_allclose(statistics.mean[vertex], mean, rtol=1e-6, atol=1e-30)
        std = values.std(ddof=1) if values.size > 1 else np.nan
        np.testing.assert_allclose(statistics.std[vertex], std, rtol=1e-6)
    counts = statistics.counts()
    assert (counts["n_nan"], counts["n_partly_nan"]) == (n_nan, n_partly)
    assert counts["n_constant"] == n_constant
    assert counts["n_missing"] == np.count_nonzero(~np.isfinite(betas))
    assert counts["nan_share"] == n_nan / betas.shape[1]
    assert counts["valid_share"] == counts["n_valid"] / betas.shape[1]


def test_the_smallest_difference_of_float32_is_not_taken_for_a_constant() -> None:
    betas = np.full((750, 2), 0.1, np.float32)
    betas[400, 1] = np.nextafter(np.float32(0.1), np.float32(1))
    statistics = summarise(betas)
    np.testing.assert_array_equal(statistics.valid, [False, True])
    assert statistics.std[0] == 0


def test_round_trip_gives_finite_zscores_and_nothing_spreads(tmp_path) -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(1.0, 2.0, (200, 8)).astype(np.float32)
    betas = clean.copy()
    betas[:, 1] = np.nan
    betas[10:30, 2] = np.nan
    betas[5, 3] = -np.inf
    betas[:, 4] = 0.7
    betas[1:, 5] = np.nan
    group = written(tmp_path / "ses01", betas)
    read = read_session(group)
    np.testing.assert_array_equal(group["valid"][:], [1, 0, 1, 1, 0, 0, 1, 1])
    assert np.isfinite(read).all()
    assert not read[:, [1, 4, 5]].any()
    for vertex in (0, 2, 3, 6, 7):
        column = betas[:, vertex].astype(np.float64)
        finite = np.isfinite(column)
        expected = (column - column[finite].mean()) / column[finite].std(ddof=1)
        np.testing.assert_allclose(read[finite, vertex], expected[finite], atol=1e-6)
        assert not read[~finite, vertex].any()
    raw = read_session(group, zscore=False)
    assert not raw[:, [1, 4, 5]].any()
    np.testing.assert_array_equal(raw[:, [0, 6, 7]], clean[:, [0, 6, 7]])
    assert not raw[10:30, 2].any()
    np.testing.assert_array_equal(raw[30:, 2], clean[30:, 2])
    np.testing.assert_array_equal(group["betas"][:], betas)


def test_reads_into_a_slice_without_a_second_copy(tmp_path) -> None:
    betas = np.random.default_rng(0).standard_normal((750, 4_000), dtype=np.float32)
    group = written(tmp_path / "ses01", betas)
    everything = np.full((1_000, 4_000), 7, np.float32)
    tracemalloc.start()
    out = read_session(group, out=everything[100:850])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.base is everything
    assert peak < 0.3 * betas.nbytes
    np.testing.assert_allclose(everything[100:850].std(axis=0, ddof=1), 1, atol=1e-5)
    assert (everything[:100] == 7).all()
    assert (everything[850:] == 7).all()
    with pytest.raises(ValueError, match=r"float32 of shape \(750, 4000\)"):
        read_session(group, out=everything)
    with pytest.raises(ValueError, match="float64"):
        read_session(group, out=np.empty((750, 4_000)))


def test_trials_without_any_value_are_kept(tmp_path) -> None:
    """Zarr leaves out chunks of nothing but NaN unless told otherwise."""
    betas = np.random.default_rng(0).standard_normal((160, 3), dtype=np.float32)
    betas[:75] = np.nan
    read = read_session(written(tmp_path, betas))
    assert not read[:75].any()
    np.testing.assert_allclose(read[75:].std(axis=0, ddof=1), 1, rtol=1e-5)


def test_statistics_need_little_memory() -> None:
    betas = np.ones((750, 20_484), np.float32)
    tracemalloc.start()
    summarise(betas)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_the_group_says_what_it_is(tmp_path) -> None:
    betas = np.random.default_rng(0).standard_normal((80, 6), dtype=np.float32)
    betas[:, 0] = np.nan
    group = written(tmp_path / "ses01", betas, subject="subj01", session=1, etags={"lh": "a"})
    metadata = json.loads((tmp_path / "ses01" / "betas" / "zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    assert metadata["dimension_names"] == ["trial", "vertex"]
    assert group["betas"].chunks == (75, 6)
    assert group["mean"].metadata.dimension_names == ("vertex",)
    attributes = dict(group.attrs)
    assert attributes["subject"] == "subj01"
    assert attributes["etags"] == {"lh": "a"}
    assert attributes["mesh"] == "fsaverage5"
    assert attributes["hemispheres"] == ["lh", "rh"]
    assert attributes["units"] == "percent signal change"
    assert attributes["std_ddof"] == 1
    assert attributes["n_nan"] == 1
    assert set(attributes["software"]) == {"nsd_pipeline", "numpy", "zarr"}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "betas/c/1/0").unlink(), "1 of 2 chunks"),
        (lambda folder: (folder / "std/zarr.json").unlink(), "lack the array 'std'"),
        (lambda folder: (folder / "betas/c/1/0").write_bytes(b"1234"), "damaged chunk at trial 75"),
    ],
)
def test_a_damaged_group_is_refused_by_name(tmp_path, damage, problem) -> None:
    folder = tmp_path / "subj01" / "ses01"
    group = written(folder, np.random.default_rng(0).standard_normal((80, 6), dtype=np.float32))
    damage(folder)
    with pytest.raises(ArtifactError, match=problem) as raised:
        read_session(group)
    assert "subj01/ses01" in str(raised.value)


def test_refuses_what_has_no_spread_or_other_statistics(tmp_path) -> None:
    with pytest.raises(NotEnoughDataError, match="session of 1 trial"):
        summarise(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="shape"):
        summarise(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"\(5, 4\).*\(6, 4\)"):
        write_session(
            tmp_path, np.zeros((5, 4), np.float32), summarise(np.eye(6, 4, dtype=np.float32)), {}
        )


@settings(max_examples=10)
@given(data=st.data())
def test_reading_some_trials_is_reading_all_and_taking_them(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    n_trials = data.draw(st.integers(2, 160))
    betas = np.random.default_rng(0).normal(size=(n_trials, 6)).astype(np.float32)
    folder = tmp_path_factory.mktemp("session") / "group"
    write_session(folder, betas, summarise(betas), {})
    group = zarr.open_group(folder, mode="r")
    trials = np.flatnonzero(data.draw(hnp.arrays(bool, n_trials)))
    np.testing.assert_array_equal(read_session(group, trials), read_session(group)[trials])


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
