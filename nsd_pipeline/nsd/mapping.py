"""Whether NSD's three sources agree on which image a trial showed.

The experiment design, the table of images and the subject's responses each say it, independently.
A pipeline that pairs betas with images stands or falls with it, so a session is only used when all
three say the same.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import MappingError
from nsd_pipeline.nsd.design import ExperimentDesign
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    STIM_INFO_KEY,
    responses_key,
    session_key,
    subject_number,
)
from nsd_pipeline.nsd.stim_info import N_REPETITIONS, repetition_column

_N_EXAMPLES: Final = 3


def check_mapping(
    trials: pd.DataFrame,
    design: ExperimentDesign,
    stimulus_info: pd.DataFrame,
    responses: pd.DataFrame,
    subject: str,
    session: int,
) -> None:
    """Check that design, table of images and responses name the same image for every trial.

    Parameters
    ----------
    trials
        The session's trials, from `ExperimentDesign.trials`.
    design
        The experiment design.
    stimulus_info
        The table of images, from `read_stimulus_info`.
    responses
        The subject's responses in all sessions, from `read_responses`.
    subject, session
        Which session, ``subj01`` and 1-based.

    Raises
    ------
    MappingError
        If they disagree; the first trials (or images) that do are named.
    """
    _check_responses(trials, responses, subject, session)
    _check_repetitions(trials, design, stimulus_info, subject, session)
    _check_shared(design, stimulus_info)


def _check_responses(
    trials: pd.DataFrame, responses: pd.DataFrame, subject: str, session: int
) -> None:
    """Check that responses have the session's trials, all and in order, with the same images."""
    of_session = (responses["SUBJECT"] == subject_number(subject)) & (
        responses["SESSION"] == session
    )
    rows = responses[of_session]
    if len(rows) != len(trials):
        raise _disagreement(
            f"{responses_key(subject)} has {len(rows)} trials of {session_key(subject, session)}, "
            f"but {EXPDESIGN_KEY} has {len(trials)}."
        )
    expected = {
        "RUN": trials["run"],
        "TRIAL": trials.groupby("run").cumcount() + 1,
        "73KID": trials["image_id"] + 1,
        "10KID": trials["image_id_10k"] + 1,
    }
    for column, values in expected.items():
        _compare_trials(
            f"{column} of {responses_key(subject)}", rows[column], EXPDESIGN_KEY, values, trials
        )


def _check_repetitions(
    trials: pd.DataFrame,
    design: ExperimentDesign,
    stimulus_info: pd.DataFrame,
    subject: str,
    session: int,
) -> None:
    """Check that the table of images lists each trial as the image's n-th showing."""
    columns = [repetition_column(subject, r) for r in range(N_REPETITIONS)]
    listed = stimulus_info[columns].to_numpy()
    too_often = trials["repetition"] >= N_REPETITIONS
    if too_often.any():
        row = trials[too_often].iloc[0]
        raise _disagreement(
            f"{EXPDESIGN_KEY} shows image {row['image_id']} more than {N_REPETITIONS} times, last "
            f"in trial {row['trial']} of {session_key(subject, session)}."
        )
    _compare_trials(
        f"{columns[0]} to {columns[-1]} of {STIM_INFO_KEY}",
        listed[trials["image_id"], trials["repetition"]],
        EXPDESIGN_KEY,
        design.first_trial(session) + trials["trial"] + 1,
        trials,
    )


def _check_shared(design: ExperimentDesign, stimulus_info: pd.DataFrame) -> None:
    """Check that the sources agree on which images all subjects see."""
    in_design = np.isin(stimulus_info["nsdId"].to_numpy(), design.sharedix - 1)
    differ = np.flatnonzero(in_design != stimulus_info["shared1000"].to_numpy())
    if differ.size:
        examples = ", ".join(str(image_id) for image_id in differ[:_N_EXAMPLES])
        raise _disagreement(
            f"shared1000 of {STIM_INFO_KEY} and sharedix of {EXPDESIGN_KEY} disagree on "
            f"{differ.size} images (0-based): {examples}{_and_more(differ)}."
        )


def _compare_trials(
    found_name: str,
    found: ArrayLike,
    expected_name: str,
    expected: ArrayLike,
    trials: pd.DataFrame,
) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    differ = np.flatnonzero(found != expected)
    if differ.size:
        examples = "; ".join(
            f"trial {trials['trial'].iloc[i]} (run {trials['run'].iloc[i]}) has {found[i]}, not "
            f"{expected[i]}"
            for i in differ[:_N_EXAMPLES]
        )
        raise _disagreement(
            f"{found_name} disagrees with {expected_name} in {differ.size} of {len(trials)} trials "
            f"of {session_key(trials['subject'].iloc[0], trials['session'].iloc[0])}: "
            f"{examples}{_and_more(differ)}."
        )


def _and_more(differ: NDArray[np.intp]) -> str:
    return f" and {differ.size - _N_EXAMPLES} more" if differ.size > _N_EXAMPLES else ""


def _disagreement(problem: str) -> MappingError:
    return MappingError(
        problem,
        next_step="fetch these files again from NSD's bucket; if they still disagree, do not use "
        "the session.",
    )
