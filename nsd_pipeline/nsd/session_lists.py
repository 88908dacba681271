"""Lists of sessions as people write them: ``1-10,15``, ``first 5``, ``all``."""

import re
from collections.abc import Sequence
from typing import Final

from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.nsd.layout import N_SESSIONS, parse_session_key, session_key

_SPAN: Final = re.compile(r"(\d+)(?:-(\d+))?")
_FIRST: Final = re.compile(r"first (\d+)")


def parse_sessions(text: str) -> tuple[int, ...]:
    """Session numbers of a list such as ``1-10,15``, in order; ``all`` stands for 1 to 40.

    A ValueError if it is not such a list.
    """
    if text.strip() == "all":
        return tuple(range(1, max(N_SESSIONS.values()) + 1))
    numbers: set[int] = set()
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 1 <= first <= last:
            raise ValueError(f"{part!r} is neither a session such as 7, nor a span such as 1-10")
        numbers |= set(range(first, last + 1))
    return tuple(sorted(numbers))


def sessions_of(subject: str, sessions: str) -> list[str]:
    """Session keys of those sessions of a list that a subject has."""
    wanted = parse_sessions(sessions)
    return [session_key(subject, number) for number in wanted if number <= N_SESSIONS[subject]]


def check_choice(text: str) -> str:
    """Return what :func:`choose_sessions` understands; a ValueError for anything else."""
    if not ((match := _FIRST.fullmatch(text)) and int(match[1])):
        parse_sessions(text)
    return text


def choose_sessions(text: str, at_hand: Sequence[str]) -> list[str]:
    """Choose sessions of every subject: ``all`` at hand, the ``first 5`` at hand, or ``1-10,15``.

    Takes the keys of the sessions that are prepared, in order, and returns the chosen ones. A
    NotEnoughDataError if a subject at hand lacks a session that was asked for: fewer would be
    another experiment under the same name.
    """
    if text == "all":
        return list(at_hand)
    chosen: list[str] = []
    for subject in dict.fromkeys(parse_session_key(key)[0] for key in at_hand):
        prepared = [key for key in at_hand if parse_session_key(key)[0] == subject]
        if match := _FIRST.fullmatch(text):
            wanted = prepared[: int(match[1])]
            missing = "" if len(wanted) == int(match[1]) else f"it has {len(prepared)}"
        else:
            wanted = sessions_of(subject, text)
            lacking = [key for key in wanted if key not in prepared]
            missing = f"it lacks {', '.join(lacking)}" if lacking else ""
            if not wanted:
                missing = f"NSD has 1 to {N_SESSIONS[subject]} of it"
        if missing:
            raise NotEnoughDataError(
                f"The sessions {text!r} of {subject} were asked for, and {missing}.",
                next_step="prepare these sessions, or choose fewer.",
            )
        chosen += wanted
    return chosen
