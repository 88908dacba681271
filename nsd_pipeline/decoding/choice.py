"""Which trials a model learns from, and which it is tested on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.nsd.layout import SUBJECTS, session_key
from nsd_pipeline.nsd.session_lists import choose_sessions
from nsd_pipeline.storage.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT: Final = "held out"
"""Split of the trials of sessions that are kept for a second test."""
LEARNED_BEFORE: Final = "learned before"
"""Split of the trials that the weights which a training begins with were learned from."""
LEARNED: Final = ("train", "val", LEARNED_BEFORE)
"""Splits of the trials whose images a model knows."""


def subjects_involved(own: Sequence[str], config: TrainingConfig) -> tuple[str, ...]:
    """Subjects whose sessions a model needs, to learn from or to be tested on."""
    return tuple(own) if config.train_on == "own" else SUBJECTS


def choose_trials(
    trials: "pd.DataFrame",
    own: Sequence[str],
    config: TrainingConfig,
    before: "pd.DataFrame | None" = None,
) -> "pd.DataFrame":
    """Keep the trials that a model learns from or is tested on; the others are dropped.

    Takes the image events of all sessions at hand of the subjects involved, in order, with
    ``subject``, ``session``, ``image_id`` and ``split`` (``"train"`` or ``"test"``), and the `own`
    subjects of the cohort, on whom it is tested; `before` are the trials that were learned
    `LEARNED_BEFORE`, if any. In the result, ``split`` is ``"train"``, ``"test"`` or `HELD_OUT`.
    Images of the last were not learned, now or before. A NotEnoughDataError if a session that was
    asked for is not at hand, or nothing is left to learn from.
    """
    import pandas as pd

    names = trials[["subject", "session"]]
    keys = pd.Series(
        [session_key(*each) for each in names.itertuples(index=False)], index=trials.index
    )
    at_hand = sorted(keys.unique())
    is_own = trials["subject"].isin(own)
    learn_from = {"own": is_own, "others": ~is_own, "all": pd.Series(True, trials.index)}
    teachers = [key for key in at_hand if learn_from[config.train_on][keys == key].any()]
    chosen = choose_sessions(config.sessions, teachers)
    own_sessions = [key for key in at_hand if is_own[keys == key].any()]
    kept_back = choose_sessions(config.hold_out, own_sessions) if config.hold_out else []
    held = keys.isin(kept_back)
    is_test = trials["split"] == "test"
    learned = ~is_test & keys.isin(chosen) & ~held
    if not learned.any():
        raise NotEnoughDataError(
            f"No trial is left to learn from: sessions {config.sessions!r}, train_on"
            f" {config.train_on!r}, hold_out {config.hold_out!r}; there are sessions of"
            f" {', '.join(trials['subject'].unique())}.",
            next_step="prepare sessions of those who are to teach, or hold out fewer.",
        )
    new_image = ~trials["image_id"].isin(trials.loc[learned, "image_id"])
    if before is not None:
        new_image &= ~trials["image_id"].isin(before["image_id"])
    keep = learned | (is_test & is_own & ~held) | (held & new_image)
    return trials.assign(split=trials["split"].mask(held, HELD_OUT))[keep].reset_index(drop=True)


def learned_from(model: Manifest) -> list[str]:
    """Sessions that a model learned from, by its manifest."""
    return list(model.metadata.get("sessions learned from", model.metadata["sessions"]))
