"""Made-up answers to NSD's task: to say of every image whether it was shown before."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.demo.settings import DemoSettings
from nsd_pipeline.nsd.design import ExperimentDesign
from nsd_pipeline.nsd.layout import subject_number

_NEW_BUTTON, _OLD_BUTTON = 1, 2
_MISSED: Final = 0.03
"""Part of the trials without a button press."""
_LOST_RUN: Final = 10
"""Run of the last subject's last session whose answers were not recorded, as happens in NSD."""
_SECONDS_PER_DAY: Final = 86_400
_ANSWERS: Final = (
    "ISCORRECT", "RT", "CHANGEMIND", "ISCORRECTCURRENT", "TOTAL1", "TOTAL2", "BUTTON",
)  # fmt: skip


def make_responses(design: ExperimentDesign, settings: DemoSettings, subject: str) -> pd.DataFrame:
    """Answers of a subject in all its sessions: one row a trial, NSD's 19 columns.

    Answers are NaN where no button was pressed or a run's record was lost; what only applies to
    images seen before is NaN for new ones.
    """
    rng = np.random.default_rng([settings.seed, 2, subject_number(subject)])
    n_sessions = settings.subject_sessions[subject]
    trials = pd.concat(
        [design.trials(subject, session) for session in range(1, n_sessions + 1)],
        ignore_index=True,
    )
    number = pd.Series(np.arange(len(trials)))
    by_image = number.groupby(trials["image_id"])
    old = trials["repetition"].to_numpy() > 0
    old_current = trials.duplicated(["session", "image_id"]).to_numpy()
    says_old = np.where(rng.uniform(size=old.size) < 0.8, old, ~old)
    change = rng.uniform(size=old.size) < 0.03
    first, second = says_old ^ change, says_old
    responses = pd.DataFrame(
        {
            "SUBJECT": subject_number(subject),
            "SESSION": trials["session"],
            "RUN": trials["run"],
            "TRIAL": trials.groupby(["session", "run"]).cumcount() + 1,
            "73KID": trials["image_id"] + 1,
            "10KID": trials["image_id_10k"] + 1,
            "TIME": _days(trials, rng).round(8),
            "ISOLD": old.astype(float),
            "ISCORRECT": (says_old == old).astype(float),
            "RT": rng.gamma(9, 100, old.size).clip(250, 3900).round(1),
            "CHANGEMIND": change.astype(float),
            "MEMORYRECENT": by_image.diff() - 1,
            "MEMORYFIRST": (number - by_image.transform("first") - 1).where(old),
            "ISOLDCURRENT": old_current.astype(float),
            "ISCORRECTCURRENT": (says_old == old_current).astype(float),
            "TOTAL1": ((~first).astype(float) + (change & ~second)),
            "TOTAL2": (first.astype(float) + (change & second)),
            "BUTTON": np.where(says_old, _OLD_BUTTON, _NEW_BUTTON).astype(float),
            "MISSINGDATA": 0,
        }
    )
    silent = rng.uniform(size=old.size) < _MISSED
    responses.loc[silent, ["ISCORRECT", "RT", "CHANGEMIND", "ISCORRECTCURRENT", "BUTTON"]] = np.nan
    responses.loc[silent, ["TOTAL1", "TOTAL2"]] = 0
    if subject == list(settings.subject_sessions)[-1]:
        lost = (trials["session"] == n_sessions) & (trials["run"] == _LOST_RUN)
        responses.loc[lost, list(_ANSWERS)] = np.nan
        responses.loc[lost, "MISSINGDATA"] = 1
    return responses


def write_responses(responses: pd.DataFrame, path: Path) -> None:
    """Write ``responses.tsv``, in which a missing value is empty for some and NaN for others.

    Both spellings are in use for such tables, and a reader has to take either.
    """
    spelling = "" if responses["SUBJECT"].iloc[0] % 2 else "NaN"
    whole = responses.columns.difference(["TIME", "RT"])
    typed = responses.astype(dict.fromkeys(whole, "Int64"))
    typed.to_csv(path, sep="\t", index=False, na_rep=spelling)


def _days(trials: pd.DataFrame, rng: np.random.Generator) -> NDArray[np.float64]:
    """When the trials were, in days: sessions about a week apart, runs six minutes."""
    n_sessions = int(trials["session"].max())
    gaps = rng.integers(3, 12, n_sessions) + rng.uniform(-0.1, 0.1, n_sessions)
    start = 0.45 + np.cumsum(gaps) - gaps[0]
    seconds = (trials["run"] - 1) * 360 + trials["slot"] * 4
    return np.asarray(start[trials["session"] - 1] + seconds / _SECONDS_PER_DAY)
