"""The settings of a demo dataset, and its experiment: which image in which trial, made-up answers.

As in the real design, subjects have 10,000 images each, the same 1,000 of them first; one order,
in which each image comes three times, holds for all; and 40 sessions take 30,000 trials. Only the
sessions that are generated are short (later ones take up the rest), and the images that they show
repeat early, as they have to for a test set and repetitions within so few trials.
"""

from pathlib import Path
from typing import Final, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nsd_pipeline.nsd.design import (
    N_SHARED_IMAGES,
    N_SUBJECT_IMAGES,
    STIMPATTERN_SHAPE,
    ExperimentDesign,
)
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    N_IMAGES,
    N_SESSIONS,
    STIM_INFO_KEY,
    SUBJECTS,
    FunctionalSpace,
    Space,
    responses_key,
    subject_number,
)
from nsd_pipeline.nsd.mapping import N_REPETITIONS

N_DESIGN_SESSIONS, N_RUNS, N_SLOTS = STIMPATTERN_SHAPE
"""Of the whole design; each slot, of 4 s, shows an image or nothing."""
N_DESIGN_TRIALS: Final = 30_000
"""Trials the real design plans for every subject, over 40 sessions."""
Signal = Literal["betas", "bold"]
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
DEFAULT_SPACES: Final[tuple[Space, ...]] = ("func1pt8mm",)

SHARED_PART: Final = 0.2
"""Part of the shown images that are shared; 0.1 in NSD, where it still makes 1,000."""
_MEAN_REPETITIONS: Final = 2
_FIRST_SLOT, _LAST_SLOT = 3, N_SLOTS - 5
"""A run starts and ends with nothing to see."""
_SLOTS_PER_TRIAL: Final = 2
"""Slots that there are for a trial where time series are to be short."""

_NEW_BUTTON, _OLD_BUTTON = 1, 2
_MISSED: Final = 0.03
"""Part of the trials without a button press."""
_LOST_RUN: Final = 10
"""Run of the last subject's last session whose answers were not recorded, as happens in NSD."""
_SECONDS_PER_DAY: Final = 86_400
_ANSWERS: Final = (
    "ISCORRECT", "RT", "CHANGEMIND", "ISCORRECTCURRENT", "TOTAL1", "TOTAL2", "BUTTON",
)  # fmt: skip


class DemoSettings(BaseModel):
    """Size, signal and seed of a demo dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subjects: int = Field(
        default=2, ge=1, le=len(SUBJECTS), description="How many of NSD's subjects, from subj01."
    )
    sessions: int = Field(
        default=4,
        ge=1,
        le=min(N_SESSIONS.values()),
        description="Sessions of subj01; each further subject has one less, and at least one.",
    )
    trials_per_run: int = Field(
        default=9,
        ge=2,
        le=63,
        description="Trials in odd runs; even runs have one less (63 and 62 in NSD).",
    )
    signal: Signal = Field(
        default="betas",
        description="How the brain's responses are written: as betas, or as time series (bold)"
        " beside them, in a raw BIDS tree and derivatives on fsaverage5. Trials then come early in"
        " their runs, so that runs can be short.",
    )
    strength: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="How strongly the brain responds to images: 0 for not at all, 1 for responses"
        " that stand out of the noise in visual cortex.",
    )
    spaces: tuple[Space, ...] = Field(
        default=DEFAULT_SPACES,
        description="Space beside fsaverage that first sessions are written in too.",
    )
    hdf5: tuple[FunctionalSpace, ...] = Field(
        default=(), description="Functional space among them to write as HDF5 beside NIfTI."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    generator: int = 2
    """Version of the generator, raised when the same settings give another dataset."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "fsaverage" in self.spaces:
            raise ValueError("fsaverage is written anyway: name other spaces only")
        if not set(self.hdf5) <= set(self.spaces):
            raise ValueError(f"hdf5 names {self.hdf5}, but spaces only {self.spaces}")
        later_slots = (N_DESIGN_SESSIONS - self.sessions) * N_RUNS * N_SLOTS
        if self.n_trials + later_slots < N_DESIGN_TRIALS:
            raise ValueError(
                f"{self.sessions} sessions of {self.session_trials} trials leave more of the "
                f"design's {N_DESIGN_TRIALS} trials than the other sessions have slots for: ask "
                "for fewer sessions or more trials_per_run"
            )
        return self

    @property
    def session_trials(self) -> int:
        """Trials of one generated session."""
        return N_RUNS // 2 * (2 * self.trials_per_run - 1)

    @property
    def n_trials(self) -> int:
        """Trials of subj01, who has the most."""
        return self.sessions * self.session_trials

    @property
    def subject_sessions(self) -> dict[str, int]:
        """How many sessions each subject has."""
        return {
            subject: max(self.sessions - index, 1)
            for index, subject in enumerate(SUBJECTS[: self.subjects])
        }


def make_design(settings: DemoSettings) -> ExperimentDesign:
    """Draw the design of a dataset; ids count from 1, as in NSD's file."""
    rng = np.random.default_rng([settings.seed, 0])
    images = rng.permutation(N_IMAGES) + 1
    shared = np.sort(images[:N_SHARED_IMAGES])
    own = images[N_SHARED_IMAGES:].reshape(len(SUBJECTS), -1)
    return ExperimentDesign(
        masterordering=_order(settings, rng),
        subjectim=np.hstack([np.tile(shared, (len(SUBJECTS), 1)), own]),
        sharedix=shared,
        stimpattern=_pattern(settings, rng),
    )


def shown_images(design: ExperimentDesign, settings: DemoSettings) -> NDArray[np.int64]:
    """0-based ids, sorted, of the images that the generated sessions show to anyone."""
    shown = [
        design.trials(subject, session)["image_id"]
        for subject, n_sessions in settings.subject_sessions.items()
        for session in range(1, n_sessions + 1)
    ]
    return np.unique(np.concatenate(shown))


def write_tables(folder: Path, design: ExperimentDesign, settings: DemoSettings) -> None:
    """Write all that says what was shown when: design, table of images, every subject's answers.

    `folder` is the root of a mirror.
    """
    keys = (EXPDESIGN_KEY, STIM_INFO_KEY, *map(responses_key, settings.subject_sessions))
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
    write_design(design, folder / EXPDESIGN_KEY)
    write_stimulus_info(design, folder / STIM_INFO_KEY, settings.seed)
    for subject in settings.subject_sessions:
        responses = make_responses(design, settings, subject)
        write_responses(responses, folder / responses_key(subject))


def write_design(design: ExperimentDesign, path: Path) -> None:
    """Write ``nsd_expdesign.mat`` as MATLAB does: version 5, numbers as double, vectors as rows."""
    from scipy.io import savemat

    showings = pd.Series(design.masterordering)
    repetition = showings.groupby(showings).cumcount().to_numpy()
    session = np.repeat(np.arange(N_DESIGN_SESSIONS), design.stimpattern.sum(axis=(1, 2)))
    counts = np.zeros((N_REPETITIONS, N_DESIGN_SESSIONS))
    np.add.at(counts, (repetition, session), 1)
    arrays = {
        "basiccnt": counts,
        "masterordering": design.masterordering[np.newaxis].astype(float),
        "sharedix": design.sharedix[np.newaxis].astype(float),
        "stimpattern": design.stimpattern.astype(float),
        "subjectim": design.subjectim.astype(float),
    }
    savemat(path, arrays, format="5", do_compression=True)


def write_stimulus_info(design: ExperimentDesign, path: Path, seed: int) -> None:
    """Write ``nsd_stim_info_merged.csv``: one row for each of the 73,000 images.

    COCO ids, splits and crops are made up, since the images are. Trials count from 1, over all 40
    sessions, whether or not the subject came to them.
    """
    rng = np.random.default_rng([seed, 1])
    crop = rng.uniform(0, 0.25, N_IMAGES).round(4)
    across = rng.uniform(size=N_IMAGES) < 0.5
    table = pd.DataFrame(
        {
            "cocoId": np.sort(rng.choice(580_000, N_IMAGES, replace=False)) + 9,
            "cocoSplit": rng.choice(["train2017", "val2017"], N_IMAGES, p=[0.96, 0.04]),
            "cropBox": [
                f"(0, 0, {c}, {c})" if a else f"({c}, {c}, 0, 0)"
                for c, a in zip(crop.tolist(), across.tolist(), strict=True)
            ],
            "loss": rng.uniform(0, 0.3, N_IMAGES).round(6),
            "nsdId": np.arange(N_IMAGES),
            "flagged": rng.uniform(size=N_IMAGES) < 0.01,
            "BOLD5000": rng.uniform(size=N_IMAGES) < 0.02,
            "shared1000": np.isin(np.arange(1, N_IMAGES + 1), design.sharedix),
        }
    )
    numbers = np.argsort(design.masterordering, kind="stable").reshape(-1, N_REPETITIONS) + 1
    trials = np.zeros((N_IMAGES, len(SUBJECTS), N_REPETITIONS), dtype=np.int64)
    for index, images in enumerate(design.subjectim):
        trials[images - 1, index] = numbers
        table[f"subject{index + 1}"] = (trials[:, index, 0] > 0).astype(int)
    names = [f"subject{s + 1}_rep{r}" for s in range(len(SUBJECTS)) for r in range(N_REPETITIONS)]
    repetitions = pd.DataFrame(trials.reshape(N_IMAGES, -1), columns=names)
    pd.concat([table, repetitions], axis=1).to_csv(path)


def _order(settings: DemoSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    """Order of trials in which the generated sessions show few images, and those repeatedly."""
    n_shown = max(settings.n_trials // _MEAN_REPETITIONS, 2)
    n_shared = min(max(round(SHARED_PART * n_shown), 1), N_SHARED_IMAGES)
    n_own = min(n_shown - n_shared, N_SUBJECT_IMAGES - N_SHARED_IMAGES)
    shown = np.concatenate(
        [
            rng.permutation(N_SHARED_IMAGES)[:n_shared],
            rng.permutation(N_SUBJECT_IMAGES - N_SHARED_IMAGES)[:n_own] + N_SHARED_IMAGES,
        ]
    )
    again = np.repeat(shown, N_REPETITIONS - 1)
    early = np.concatenate([shown, rng.permutation(again)[: settings.n_trials - shown.size]])
    left = np.repeat(
        np.arange(N_SUBJECT_IMAGES), N_REPETITIONS - np.bincount(early, minlength=N_SUBJECT_IMAGES)
    )
    return np.concatenate([rng.permutation(early), rng.permutation(left)]) + 1


def _pattern(settings: DemoSettings, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Slots that show an image: few in the generated sessions, the rest in later ones."""
    counts = np.empty((N_DESIGN_SESSIONS, N_RUNS), dtype=np.int64)
    counts[: settings.sessions, 0::2] = settings.trials_per_run
    counts[: settings.sessions, 1::2] = settings.trials_per_run - 1
    n_later = counts[settings.sessions :].size
    share, extra = divmod(N_DESIGN_TRIALS - settings.n_trials, max(n_later, 1))
    later = share + (np.arange(n_later) < extra)
    counts[settings.sessions :] = later.reshape(-1, N_RUNS)
    pattern = np.zeros((N_DESIGN_SESSIONS, N_RUNS, N_SLOTS), dtype=bool)
    for index in np.ndindex(counts.shape):
        first, last = (_FIRST_SLOT, _LAST_SLOT) if counts[index] <= 63 else (0, N_SLOTS)
        if settings.signal == "bold" and index[0] < settings.sessions:
            last = min(last, first + _SLOTS_PER_TRIAL * settings.trials_per_run)
        slots = rng.choice(np.arange(first, last), counts[index], replace=False)
        pattern[index][slots] = True
    return pattern


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
