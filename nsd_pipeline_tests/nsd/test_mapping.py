import dataclasses

import pytest

from nsd_pipeline.errors import MappingError
from nsd_pipeline.nsd.mapping import check_mapping


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
