"""Whether results may stand side by side: which settings they share, and in which they differ."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

Settings = Mapping[str, Any]

NOT_RECORDED: Final = "not recorded"
"""Stands for a setting of which a result, made by an earlier version, does not say."""


def shared_settings(each: Sequence[Settings]) -> dict[str, Any]:
    """Settings that have the same value in all results, in the order of the first one."""
    if not each:
        return {}
    return {
        name: value
        for name, value in each[0].items()
        if all(name in other and other[name] == value for other in each)
    }


def differing_settings(by_result: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    """Settings in which results differ.

    Parameters
    ----------
    by_result
        Settings by the name of the result (a cohort).

    Returns
    -------
    dict
        For each setting that differs, its value by result; `NOT_RECORDED` where a result has none.
    """
    names = dict.fromkeys(name for settings in by_result.values() for name in settings)
    shared = shared_settings(list(by_result.values()))
    return {
        name: {result: each.get(name, NOT_RECORDED) for result, each in by_result.items()}
        for name in names
        if name not in shared
    }
