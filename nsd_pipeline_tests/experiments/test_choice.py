"""Who teaches a model, and what it is tested on."""

import pandas as pd
import pytest

from nsd_pipeline.decoding.choice import HELD_OUT, choose_trials
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError


@pytest.fixture
def trials() -> pd.DataFrame:
    """Two subjects of three sessions; each showed two images of its own, and a shared one."""
    rows = [
        {"subject": subject, "session": session, "image_id": image, "split": split}
        for number, subject in enumerate(("subj01", "subj02"))
        for session in (1, 2, 3)
        for image, split in (
            (100 * number + 10 * session, "train"),
            (100 * number + 10, "train"),  # of session 1, shown again
            (7, "test"),
        )
    ]
    return pd.DataFrame(rows)


def counts(trials: pd.DataFrame, subject: str, **settings: object) -> dict[tuple, int]:
    chosen = choose_trials(trials, [subject], TrainingConfig(**settings))
    return chosen.groupby(["split", "subject", "session"]).size().to_dict()


def test_own_trials_of_all_sessions_by_default(trials: pd.DataFrame) -> None:
    everyone = choose_trials(trials, ["subj01", "subj02"], TrainingConfig())
    pd.testing.assert_frame_equal(everyone, trials)


def test_sessions_decide_what_is_learned_and_not_what_is_tested(trials: pd.DataFrame) -> None:
    expected = {("test", "subj01", n): 1 for n in (1, 2, 3)} | {("train", "subj01", 1): 2}
    own = trials[trials["subject"] == "subj01"]
    assert counts(own, "subj01", sessions="first 1") == expected
    assert counts(own, "subj01", sessions="1") == expected
    for wanted, why in (
        ("first 4", "it has 3"),
        ("1-4", "it lacks subj01_ses04"),
        ("41", "NSD has 1 to 40 of it"),
    ):
        with pytest.raises(NotEnoughDataError, match=f"'{wanted}' of subj01 were asked .*{why}"):
            counts(own, "subj01", sessions=wanted)


def test_nothing_to_learn_from_is_told_as_that(trials: pd.DataFrame) -> None:
    own = trials[trials["subject"] == "subj01"]
    for settings in (
        {"train_on": "others"},
        {"hold_out": "all"},
        {"sessions": "2", "hold_out": "2"},
    ):
        with pytest.raises(NotEnoughDataError, match=r"No trial is left to .*sessions of subj01\."):
            counts(own, "subj01", **settings)


def test_a_new_subject_is_tested_and_teaches_nothing(trials: pd.DataFrame) -> None:
    found = counts(trials, "subj02", train_on="others")
    assert found == {("test", "subj02", n): 1 for n in (1, 2, 3)} | {
        ("train", "subj01", n): 2 for n in (1, 2, 3)
    }
    everybody = counts(trials, "subj02", train_on="all")
    assert everybody == found | {("train", "subj02", n): 2 for n in (1, 2, 3)}


def test_what_is_held_out_was_not_learned(trials: pd.DataFrame) -> None:
    own = trials[trials["subject"] == "subj01"]
    chosen = choose_trials(own, ["subj01"], TrainingConfig(hold_out="3"))
    held = chosen[chosen["split"] == HELD_OUT]
    assert held["image_id"].tolist() == [30, 7]  # not 10, which session 1 taught
    assert set(chosen.loc[chosen["split"] != HELD_OUT, "session"]) == {1, 2}
    config = TrainingConfig(sessions="1", hold_out="3", start_from="other")
    again = choose_trials(own, ["subj01"], config, own[own["image_id"] == 30])
    assert again.loc[again["split"] == HELD_OUT, "image_id"].tolist() == [7], "30 was, before"


def test_settings_of_an_earlier_version_are_understood_or_refused() -> None:
    recorded = {"seed": 3, "hidden": 8, "roi": False}
    assert TrainingConfig.of_model(recorded) == TrainingConfig(seeds=[3], hidden=8)
    with pytest.raises(ArtifactError, match="restricted this model to a region"):
        TrainingConfig.of_model(recorded | {"roi": True})
