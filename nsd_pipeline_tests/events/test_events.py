import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsd_pipeline.errors import ArtifactError, MappingError, NotEnoughDataError, NsdError
from nsd_pipeline.events import (
    EVENT_COLUMNS,
    assign_validation,
    build_events,
    check_split,
    filter_events,
    read_events,
    window,
    write_events,
)
from nsd_pipeline_tests.events.conftest import FILES

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def events(trials, responses):
    return build_events(trials, responses, FILES)


def test_one_row_per_space_and_per_trial(events):
    assert events["type"].tolist() == ["Fmri"] * 2 + ["Image"] * 5
    fmri, images = events.iloc[:2], events.iloc[2:]
    assert fmri["space"].tolist() == ["fsaverage", "func1mm"]
    assert fmri["filepath"].tolist() == [FILES["fsaverage"][0], FILES["func1mm"][0]]
    assert fmri[["run", "timeline", "trial", "image_id", "split"]].isna().all(axis=None)
    assert images["timeline"].tolist() == ["subj01_ses02_run01"] * 3 + ["subj01_ses02_run02"] * 2
    assert images["start"].tolist() == [12.0, 16.0, 24.0, 12.0, 20.0]
    assert images["duration"].eq(3.0).all()
    assert images["split"].tolist() == ["test", "train", "test", "test", "train"]
    assert images["filepath"].iloc[0] == "nsd_stimuli.hdf5#46002"


def test_responses_find_their_trial_and_lost_ones_stay_null(events):
    images = events[events["type"] == "Image"]
    assert images["response_time"].fillna(-1).tolist() == [812.5, 900.0, 1234.5, -1, 700.0]
    assert images["button"].iloc[3] is pd.NA
    assert images["missing_data"].tolist() == [False, False, False, True, False]
    assert images["memory_recent"].iloc[2] == 40


def test_columns_are_those_documented_and_integers_stay_integers(events):
    assert events.dtypes.astype(str).to_dict() == {c.name: c.dtype for c in EVENT_COLUMNS}


def test_a_trial_whose_response_is_about_another_image_is_named(trials, responses):
    responses.loc[responses["73KID"] == 829, "73KID"] = 830
    with pytest.raises(MappingError, match=r"1 trials of subj01 session 2.* run 1 trial 2: image"):
        build_events(trials, responses, FILES)


def test_a_missing_and_a_double_response_row_are_told(trials, responses):
    with pytest.raises(MappingError, match="5 trials"):
        build_events(trials, responses[responses["SESSION"] == 1], FILES)
    with pytest.raises(MappingError, match="twice"):
        build_events(trials, pd.concat([responses, responses]), FILES)


def test_parquet_keeps_everything_and_describes_itself(events, tmp_path):
    path = tmp_path / "events.parquet"
    write_events(path, events)
    pd.testing.assert_frame_equal(read_events(path), events)
    pd.testing.assert_frame_equal(pd.read_parquet(path), events)
    described = duckdb.sql(f"select typeof(image_id), subject from '{path}' where trial = 2")
    assert described.fetchall() == [("BIGINT", "subj01")]
    import pyarrow.parquet as pq

    for field, column in zip(pq.read_schema(path), EVENT_COLUMNS, strict=True):
        assert field.metadata[b"description"].decode() == column.description
    assert [file.name for file in path.parent.iterdir()] == ["events.parquet"]


def test_a_file_that_is_no_event_table_is_named(events, tmp_path):
    path = tmp_path / "events.parquet"
    with pytest.raises(ArtifactError, match=r"events\.parquet"):
        read_events(path)
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(ArtifactError, match=r"events\.parquet"):
        read_events(path)
    events.drop(columns="trial").to_parquet(path)
    with pytest.raises(ArtifactError, match=r"missing columns \['trial'\]"):
        read_events(path)


def test_default_query_drops_recordings_of_other_spaces_only(events):
    kept = filter_events(events)
    assert kept["space"].dropna().tolist() == ["fsaverage"]
    assert (kept["type"] == "Image").sum() == 5
    assert kept.index.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("query", "n_kept"),
    [
        ("run == 1", 3),
        ("trial in [0, 4] and not shared", 1),
        ("type == 'Image' & (slot_like > 1)".replace("slot_like", "start"), 5),
        ("0 < trial < 3", 2),
        ("is_correct", 3),
        ("response_time.isna()", 3),
        ("timeline.str.endswith('run02')\n  or space.isin(['func1mm'])", 3),
        ("image_id % 2 == 0 and trial.between(0, 3, inclusive='left')", 3),
    ],
)
def test_queries(events, query, n_kept):
    assert len(filter_events(events, query)) == n_kept


@pytest.mark.parametrize(
    "query",
    [
        "@pd.eval('1') == 1",
        "run == @secret",
        "__import__('os').system('touch owned') == 0",
        "type.__class__ == 1",
        "type.str.__class__ == 1",
        "run.to_csv('owned') == 1",
        "run.isin(run.to_csv('owned'))",
        "type.str.contains(run.to_pickle('owned'))",
        "`run` == 1",
        "run == 1 if run.to_csv('owned') else 2",
        "[run.to_csv('owned') for x in run] == 1",
        "run == __pd_eval_local_events",
        f"run{' + 1' * 2000} == 1",  # deeper than Python recurses
        "'`' == '`' or @x",
        "run = 1",
        "run ==",
        "run == 1; run == 2",
        "run + 1",
        "run",
        "1",
        "",
        "run == 'a' + 1",
        "index == 0",
    ],
)
def test_queries_that_are_refused(events, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NsdError, match=r"events query[\s\S]*subject, session, run"):
        filter_events(events, query)
    assert not list(tmp_path.iterdir())


def test_unknown_column_is_named(events):
    with pytest.raises(NsdError, match="no column 'spaec'"):
        filter_events(events, "spaec == 'fsaverage'")


def test_validation_is_the_reference_s():
    events = pd.read_csv(GOLDEN / "split.csv")
    split = assign_validation(events)
    assert split["split"].tolist() == events["expected_split"].tolist()
    assert events["split"].isin(["train", "test"]).all()
    other = assign_validation(events, seed=34)
    assert other["split"].tolist() != events["expected_split"].tolist()


def test_recordings_change_nothing_about_the_split():
    events = pd.read_csv(GOLDEN / "split.csv")
    with_recordings = pd.concat([pd.DataFrame({"type": ["Fmri"] * 3}), events], ignore_index=True)
    split = assign_validation(with_recordings.convert_dtypes())["split"]
    assert split.iloc[:3].isna().all()
    assert split.iloc[3:].tolist() == events["expected_split"].tolist()


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 30), st.booleans()), min_size=40, max_size=120
    ).filter(lambda rows: len({image for _, image, _ in rows}) > 20)
)
def test_no_image_is_both_trained_and_validated_on(rows):
    events = pd.DataFrame(rows, columns=["timeline", "image_id", "test"])
    events["split"] = events.pop("test").map({True: "test", False: "train"})
    if events.loc[events["split"] == "train", "image_id"].nunique() < 2:
        return
    split = assign_validation(events, by="image_id")
    images = split.groupby("split")["image_id"].agg(set)
    assert not images["train"] & images["val"]
    assert images["val"]
    assert split["split"].eq("test").equals(events["split"].eq("test"))


def test_too_little_to_split(events):
    with pytest.raises(NotEnoughDataError, match="1 training timeline"):
        assign_validation(events[events["run"] == 1])
    with pytest.raises(NsdError, match="no column 'tiemline'"):
        assign_validation(events, by="tiemline")
    with pytest.raises(NsdError, match="ratio is 20"):
        assign_validation(events, ratio=20)
    split = assign_validation(events)
    check_split(split)
    with pytest.raises(NotEnoughDataError, match=r"no test trials \(train 1, val 1, test 0\)"):
        check_split(split[split["split"] != "test"])


def test_windows_are_the_reference_s():
    golden = json.loads((GOLDEN / "windows.json").read_text())
    by_tr = {}
    for case in golden["windows"]:
        first, n = window(case["onset"], case["tr"], golden["start"], golden["duration"])
        assert list(range(first, first + n)) == case["samples"]
        by_tr.setdefault(case["tr"], []).append((case["onset"], first))
    for tr, pairs in by_tr.items():
        onsets, firsts = zip(*pairs, strict=True)
        assert window(np.array(onsets), tr)[0].tolist() == list(firsts)


def test_a_window_midway_between_samples_takes_the_even_one():
    first, n = window(np.array([[0.0, 4.0], [8.0, 12.0]]), 4 / 3)
    assert first.tolist() == [[2, 4], [8, 10]]
    assert n == 5
    assert window(4.0, 4 / 3) == (4, 5)


@pytest.mark.parametrize(("tr", "duration"), [(0.0, 7.0), (-1.6, 7.0), (1.6, 0.5)])
def test_a_window_without_samples_is_refused(tr, duration):
    with pytest.raises(NsdError, match="no sample"):
        window(0.0, tr, duration=duration)


@pytest.mark.parametrize("module", ["nsd_pipeline.events", "nsd_pipeline.report"])
def test_import_is_light(module):
    heavy = {"torch", "transformers", "nilearn", "nibabel", "matplotlib", "sklearn", "jinja2"}
    code = f"import sys, {module}; print({heavy} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "none"
