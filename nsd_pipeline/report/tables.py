"""Metrics in words and as tables, and the settings in which results differ.

The reference's ranks count from 0, and so do metrics by its names. What is written for people says
*place*, which counts from 1: the rank plus 1.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

_NAMES: Final = {
    "median_rank": "Median place",
    "mean_rank": "Mean place",
    "std_rank": "Standard deviation of place",
    "inv_norm_rank_mean": "Mean inverse normalised rank",
    "inv_norm_rank_median": "Median inverse normalised rank",
    "pearson_corr": "Pearson correlation",
}
_QUALIFIERS: Final = {
    "_instance-agg": "averaged per image",
    "_subject-agg": "averaged per subject and image",
    "_subject-ind": "mean over subjects",
    "_macro": "mean over images",
}
_NAME = re.compile(
    r"(?P<batch>batch_)?(?P<base>.+?)(?P<level>_(?:instance|subject)-(?:agg|ind))?"
    r"(?:_size=(?P<size>\d+))?(?P<macro>_macro)?"
)
_TOP_K = re.compile(r"top(\d+)_acc")
_RANK = re.compile(r"(?:batch_)?(?:median|mean)_(?:retrieval_)?rank")
"""How names of metrics begin whose value is a rank. A standard deviation of ranks is none."""


def place_of(rank: float) -> float:
    """Place, counted from 1, of a rank counted from 0."""
    return rank + 1


def as_read(name: str, value: float) -> float:
    """Value of a metric as a person reads it: a place for what is a rank by its name."""
    return place_of(value) if _RANK.match(name) else value


def metric_label(name: str) -> str:
    """Say in words what a metric's name means; a name that is not known stays as it is.

    Examples
    --------
    >>> metric_label("top5_acc_instance-agg_size=250")
    'Top-5 accuracy (averaged per image, set of 250)'
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    base = match["base"]
    words = _NAMES.get(base.replace("retrieval_", "")) or _TOP_K.sub(r"Top-\1 accuracy", base)
    notes = [
        "within batches" if match["batch"] else "",
        _QUALIFIERS[match["macro"] or match["level"]] if match["level"] else "",
        f"set of {match['size']}" if match["size"] else "",
    ]
    qualified = ", ".join(note for note in notes if note)
    return f"{words} ({qualified})" if qualified else words


def metrics_table(metrics: Mapping[str, float], chance: Mapping[str, float]) -> pd.DataFrame:
    """Put each metric beside its chance level.

    Parameters
    ----------
    metrics
        Value by name.
    chance
        Chance level by name; metrics without one have none in the table either.

    Returns
    -------
    DataFrame
        ``metric`` (name), ``value``, ``chance``, and ``ratio`` = value / chance: above 1 is better
        than chance for accuracies, below 1 for ranks.
    """
    table = pd.DataFrame({"metric": list(metrics), "value": list(metrics.values())})
    table["chance"] = table["metric"].map(chance).astype(float)
    return _with_ratio(table)


def readable_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a table of :func:`metrics_table` into one for people.

    Returns
    -------
    DataFrame
        ``metric`` in words, ``value`` and ``chance`` with places instead of ranks, their ``ratio``,
        and ``name``, the reference's.
    """
    names = [str(name) for name in table["metric"]]
    read = {
        column: [as_read(name, value) for name, value in zip(names, table[column], strict=True)]
        for column in ("value", "chance")
    }
    readable = pd.DataFrame({"metric": [metric_label(name) for name in names], **read})
    return _with_ratio(readable).assign(name=names)


def _with_ratio(table: pd.DataFrame) -> pd.DataFrame:
    # No ratio to a chance level of 0.
    return table.assign(ratio=table["value"] / table["chance"].where(table["chance"] != 0))


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown: four significant digits, a dash where there is no value."""
    # tabulate would write nan; it has a sign for None alone.
    table = table.astype(object).where(table.notna(), None)
    return table.to_markdown(index=False, floatfmt=".4g", missingval="-")


Settings = Mapping[str, Any]

NOT_RECORDED: Final = "not recorded"
"""The value of a setting that the version which made a result did not record yet."""


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
