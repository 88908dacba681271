"""NSD's tables as they are and as they must not be, and whether they agree with the design."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nsd_pipeline.errors import InvalidFileError, MappingError
from nsd_pipeline.nsd.mapping import (
    BEHAVIOUR_COLUMNS,
    IDENTIFYING_COLUMNS,
    check_mapping,
    read_responses,
    read_stimulus_info,
)


def test_stimulus_info_is_read(arrays, stimulus_info):
    assert stimulus_info["nsdId"].tolist() == list(range(73_000))
    assert stimulus_info["shared1000"].dtype == bool
    np.testing.assert_array_equal(
        np.flatnonzero(stimulus_info["shared1000"]) + 1, arrays["sharedix"][0]
    )
    assert len(stimulus_info.columns) == 5 + 24


@pytest.fixture
def edit_stim_info(tmp_path, stim_info_path):
    def edit(change):
        table = pd.read_csv(stim_info_path, dtype=object)
        table = change(table)
        table.to_csv(tmp_path / "info.csv", index=False)
        return tmp_path / "info.csv"

    return edit


def test_rows_may_be_in_any_order_and_cropbox_missing(edit_stim_info, stimulus_info):
    path = edit_stim_info(lambda t: t.drop(columns="cropBox").iloc[::-1])
    pd.testing.assert_frame_equal(read_stimulus_info(path), stimulus_info.drop(columns="cropBox"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda t: t.drop(columns=["subject3_rep2", "nsdId"]),
            "lacks 2 columns: nsdId, subject3_rep2",
        ),
        (lambda t: t.iloc[:-1], "has 72999 rows"),
        (lambda t: t.assign(nsdId=t["nsdId"].replace("7", "8")), "the first is nsdId 8"),
        (lambda t: t.assign(nsdId=t["nsdId"].replace("7", "73000")), "line 9, has '73000'"),
        (lambda t: t.assign(subject1_rep0=t["subject1_rep0"].where(t.index != 2)), "line 4, is em"),
        (lambda t: t.assign(shared1000="maybe"), "shared1000 must hold True or False, but 73000"),
    ],
)
def test_wrong_stimulus_info_is_named(edit_stim_info, change, problem):
    path = edit_stim_info(change)
    with pytest.raises(MappingError, match=problem) as caught:
        read_stimulus_info(path)
    assert "info.csv" in caught.value.problem


def test_responses_keep_every_row(responses):
    assert len(responses) == 32 * 750
    assert list(responses) == [*IDENTIFYING_COLUMNS, *BEHAVIOUR_COLUMNS]
    assert responses["73KID"].dtype == np.int64
    assert responses["RT"].isna().mean() == 0.25


HEADER = "\t".join([*IDENTIFYING_COLUMNS, *BEHAVIOUR_COLUMNS])


def _row(ids="1 1 1 1 73000 10000", answers=("",) * 13):
    return "\t".join([*ids.split(), *answers])


def test_rows_without_any_answer_are_rows(tmp_path):
    path = tmp_path / "responses.tsv"
    path.write_text("\n".join([HEADER, _row(), _row("1 1 1 2 1 1", ["NaN"] * 12 + ["1"])]) + "\n")
    table = read_responses(path)
    assert len(table) == 2
    assert table[list(BEHAVIOUR_COLUMNS)].isna().to_numpy().sum() == 25
    assert table["MISSINGDATA"].iloc[1] == 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([HEADER.replace("73KID", "73K_ID").replace("\tRT", "")], "lacks 2 columns: 73KID, RT"),
        ([HEADER, _row("1 1 1 1 0 1")], "73KID must hold whole numbers from 1 to 73000.* line 2"),
        ([HEADER, _row(), _row("1 1 1 2 73001 1")], "73KID .* 1 of 2 rows .* line 3, has '73001'"),
        ([HEADER, _row("1 1 13 1 1 1")], "RUN must hold whole numbers from 1 to 12"),
        ([HEADER, _row("1 1 1 1.5 1 1")], "TRIAL"),
        ([HEADER, _row(f"1 1 1 {'9' * 400} 1 1"), _row()], "TRIAL .* line 2, has '999"),
        ([HEADER, _row("1 1 1 NaN 1 1")], "TRIAL .* line 2, is empty"),
        ([HEADER, _row(answers=["", "yes", *[""] * 11])], "ISOLD must hold numbers or nothing"),
        ([HEADER, _row(), _row("2 1 1 1 1 1")], "of one subject, but has those of 2"),
        ([HEADER], "of one subject, but has those of 0"),
    ],
)
def test_wrong_responses_are_named(tmp_path, lines, problem):
    path = tmp_path / "responses.tsv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(MappingError, match=problem) as caught:
        read_responses(path)
    assert "responses.tsv" in caught.value.problem


@pytest.mark.parametrize("raw", [b"", b"a\tb\n1\t2\t3\n1\t2\t3\t4\n", b"\xff\xfe\x00\xd8" * 99])
def test_what_is_no_table_is_reported(tmp_path, raw):
    path = tmp_path / "responses.tsv"
    path.write_bytes(raw)
    with pytest.raises((InvalidFileError, MappingError), match=r"responses\.tsv"):
        read_responses(path)


@pytest.mark.parametrize("session", [1, 2, 32])
def test_agreeing_sources_pass(design, stimulus_info, responses, session):
    trials = design.trials("subj03", session)
    check_mapping(trials, design, stimulus_info, responses, "subj03", session)


@pytest.fixture
def check(design, stimulus_info, responses):
    trials = design.trials("subj03", 2)

    def check(*, trials=trials, design=design, stimulus_info=stimulus_info, responses=responses):
        check_mapping(trials, design, stimulus_info, responses, "subj03", 2)

    return check


ROW = 750 + 70  # trial 70 of session 2, which is trial 8 of run 2


@pytest.mark.parametrize("column", ["73KID", "10KID", "RUN", "TRIAL"])
def test_responses_that_say_something_else_are_named(check, responses, column):
    changed = responses.copy()
    changed.loc[ROW, column] += 1
    found, expected = changed.loc[ROW, column], responses.loc[ROW, column]
    problem = (
        rf"{column} of nsddata/ppdata/subj03/behav/responses.tsv disagrees with .*expdesign.mat in "
        rf"1 of 750 trials of subj03_ses02: trial 70 \(run 2\) has {found}, not {expected}\."
    )
    with pytest.raises(MappingError, match=problem):
        check(responses=changed)


def test_responses_shifted_by_one_trial_are_named(check, responses):
    changed = responses.copy()
    changed["73KID"] = changed["73KID"].shift(1, fill_value=1)
    with pytest.raises(MappingError, match=r"trial 0 \(run 1\).* and \d+ more\.\nNext step"):
        check(responses=changed)


def test_responses_without_the_session_or_a_trial_of_it_are_named(check, responses):
    with pytest.raises(MappingError, match=r"has 0 trials of subj03_ses02, but .* has 750"):
        check(responses=responses[responses["SESSION"] != 2])
    with pytest.raises(MappingError, match="has 749 trials of subj03_ses02"):
        check(responses=responses.drop(index=ROW))
    with pytest.raises(MappingError, match="has 0 trials"):
        check(responses=responses.assign(SUBJECT=4))


def test_repetitions_that_say_something_else_are_named(check, design, stimulus_info):
    trial = design.trials("subj03", 2).iloc[70]
    changed = stimulus_info.copy()
    changed.loc[trial["image_id"], f"subject3_rep{trial['repetition']}"] = 0
    with pytest.raises(MappingError, match=r"subject3_rep0 .* trial 70 \(run 2\) has 0, not 821\."):
        check(stimulus_info=changed)


def test_an_image_shown_four_times_is_named(check, design):
    trials = design.trials("subj03", 2)
    trials.loc[5, "repetition"] = 3
    with pytest.raises(MappingError, match="more than 3 times, last in trial 5 of subj03_ses02"):
        check(trials=trials)


def test_shared_images_that_are_not_the_same_are_named(check, stimulus_info, design):
    own = int(stimulus_info["nsdId"][~stimulus_info["shared1000"]].iloc[0])
    changed = stimulus_info.copy()
    changed.loc[own, "shared1000"] = True
    with pytest.raises(MappingError, match=rf"shared1000 .* on 1 images \(0-based\): {own}\."):
        check(stimulus_info=changed)
    shifted = dataclasses.replace(design, sharedix=design.sharedix - 1)
    with pytest.raises(MappingError, match=r"shared1000 .* and \d+ more\."):
        check(design=shifted)
