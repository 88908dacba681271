"""How the graph is cut into partitions, and how the cuts map onto each other.

- a **session** is one scanning day of one subject (284 of them): ``subj01_ses07``;
- a **stimulus set** is the images of one subject, or the 1,000 that all subjects share: the nine
  sets are disjoint, so that no image is embedded twice;
- a **subject's space** is where betas of a subject may come from other than fsaverage and MNI,
  with a map of its own to fsaverage5: ``subj01_func1pt8mm``;
- a **cohort** is what one model is trained on: a subject, or all of them together. Where others
  teach a model of a subject, there is one for each subject only.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import cast

import dagster as dg

from nsd_pipeline.folders import SHARED as SHARED
from nsd_pipeline.nsd.layout import (
    N_SESSIONS,
    OPERATOR_SPACES,
    SUBJECTS,
    Space,
    parse_session_key,
    session_key,
)

ALL = "all"
"""The cohort of all subjects: what the reference trains."""

SESSIONS = tuple(
    session_key(subject, session)
    for subject, n_sessions in N_SESSIONS.items()
    for session in range(1, n_sessions + 1)
)
STIMULUS_SETS = (SHARED, *SUBJECTS)
COHORTS = (*SUBJECTS, ALL)


def subject_space(subject: str, space: str) -> str:
    """Flat name of a subject's space: ``subj01_func1pt8mm``."""
    return f"{subject}_{space}"


def parse_subject_space(partition: str) -> tuple[str, Space]:
    """Subject and space of a name such as ``subj01_func1pt8mm``."""
    subject, space = partition.split("_")
    return subject, cast("Space", space)


SUBJECT_SPACES = tuple(
    subject_space(subject, space) for subject in SUBJECTS for space in OPERATOR_SPACES
)

sessions = dg.StaticPartitionsDefinition(SESSIONS)
stimulus_sets = dg.StaticPartitionsDefinition(STIMULUS_SETS)
subject_spaces = dg.StaticPartitionsDefinition(SUBJECT_SPACES)
cohorts = dg.StaticPartitionsDefinition(COHORTS)
subjects = dg.StaticPartitionsDefinition(SUBJECTS)

_subject_of = {key: key.split("_")[0] for key in SESSIONS}

subject_spaces_to_sessions = dg.StaticPartitionMapping(
    {
        each: {key for key in SESSIONS if each.startswith(_subject_of[key])}
        for each in SUBJECT_SPACES
    }
)
sessions_to_stimulus_sets = dg.StaticPartitionMapping(
    {session: {subject, SHARED} for session, subject in _subject_of.items()}
)
sessions_to_cohorts = dg.StaticPartitionMapping(
    {session: {subject, ALL} for session, subject in _subject_of.items()}
)
stimulus_sets_to_cohorts = dg.StaticPartitionMapping(
    {SHARED: set(COHORTS)} | {subject: {subject, ALL} for subject in SUBJECTS}
)
sessions_to_subjects = dg.StaticPartitionMapping(_subject_of)
sessions_to_every_subject = dg.StaticPartitionMapping(
    {session: set(SUBJECTS) for session in SESSIONS}
)
stimulus_sets_to_subjects = dg.StaticPartitionMapping(
    {SHARED: set(SUBJECTS)} | {subject: {subject} for subject in SUBJECTS}
)
stimulus_sets_to_every_subject = dg.StaticPartitionMapping(
    {stimulus_set: set(SUBJECTS) for stimulus_set in STIMULUS_SETS}
)
cohorts_to_subjects = dg.StaticPartitionMapping({subject: subject for subject in SUBJECTS})


def between(first: str, last: str) -> frozenset[str]:
    """Partitions of a range, both ends included."""
    for keys in (SESSIONS, STIMULUS_SETS, COHORTS, SUBJECT_SPACES):
        if first in keys and last in keys:
            return frozenset(keys[keys.index(first) : keys.index(last) + 1])
    raise ValueError(f"{first} ... {last} is no range of partitions")


def ranges(sessions: Sequence[str], at_most: int) -> Iterator[tuple[str, str]]:
    """First and last of session keys (in order) without gaps, of one subject, `at_most` a range."""
    position = {session: index for index, session in enumerate(SESSIONS)}

    def stretch(numbered: tuple[int, str]) -> tuple[str, int]:
        # Along a stretch without gaps, position and count grow alike.
        count, session = numbered
        return parse_session_key(session)[0], position[session] - count

    for _, together in groupby(enumerate(sessions), key=stretch):
        keys = [session for _, session in together]
        for start in range(0, len(keys), at_most):
            part = keys[start : start + at_most]
            yield part[0], part[-1]


def in_words(keys: Sequence[str]) -> str:
    """Partitions in order, sessions that follow each other as first and last."""
    if not set(keys) <= set(SESSIONS):
        return ", ".join(keys)
    spans = ranges(keys, len(keys))
    return ", ".join(first if first == last else f"{first} to {last}" for first, last in spans)


def subjects_of_cohort(cohort: str) -> tuple[str, ...]:
    """Subjects whose sessions a cohort's model is trained on."""
    return SUBJECTS if cohort == ALL else (cohort,)


def subjects_of_stimulus_set(stimulus_set: str) -> tuple[str, ...]:
    """Subjects who can have seen images of a stimulus set."""
    return SUBJECTS if stimulus_set == SHARED else (stimulus_set,)
