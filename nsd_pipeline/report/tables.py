"""Metrics in words and as tables, and the settings in which results differ.

The reference's ranks count from 0, and so do metrics by its names. What is written for people says
*place*, which counts from 1: the rank plus 1.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
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
_SETS: Final = {
    "hard-negatives": "among the 20 most similar",
    "seen-by-all": "images that all saw three times",
}
_NAME = re.compile(
    r"(?P<batch>batch_)?(?P<base>.+?)(?P<level>_(?:instance|subject)-(?:agg|ind))?"
    r"(?:_repeats=(?P<repeats>\d))?(?:_size=(?P<size>\d+))?(?:_set=(?P<set>[\w-]+?))?(?P<macro>_macro)?"
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


@cache  # a report asks for the same 80 names of each result
def metric_label(name: str) -> str:
    """Say in words what a metric's name means; a name that is not known stays as it is.

    ``top5_acc_instance-agg_size=250`` is "Top-5 accuracy (averaged per image, set of 250)".
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    base = match["base"]
    words = _NAMES.get(base.replace("retrieval_", "")) or _TOP_K.sub(r"Top-\1 accuracy", base)
    notes = [
        "within batches" if match["batch"] else "",
        _QUALIFIERS[match["macro"] or match["level"]] if match["level"] else "",
        f"mean of {match['repeats']} of 3 repeats" if match["repeats"] else "",
        f"set of {match['size']}" if match["size"] else "",
        _SETS.get(match["set"], match["set"]) if match["set"] else "",
    ]
    qualified = ", ".join(note for note in notes if note)
    return f"{words} ({qualified})" if qualified else words


def readable_metrics(table: "pd.DataFrame") -> "pd.DataFrame":
    """Turn a table of metrics into one for people.

    It has ``metric``, ``value`` and ``chance``, and as far as they are known ``low``, ``high``,
    ``sd_of_seeds`` and ``ensemble``. They come back with ``metric`` in words, places instead of
    ranks, ``ratio`` (value / chance: above 1 is better for accuracies, below 1 for places) and
    ``name``, the reference's.
    """
    import pandas as pd

    names = [str(name) for name in table["metric"]]
    readable = pd.DataFrame({"metric": [metric_label(name) for name in names]})
    for column in ("value", "low", "high", "chance", "ensemble"):
        values = table[column] if column in table else [np.nan] * len(names)
        readable[column] = [
            as_read(name, float(value)) for name, value in zip(names, values, strict=True)
        ]
    readable["sd_of_seeds"] = table["sd_of_seeds"].to_numpy() if "sd_of_seeds" in table else np.nan
    # No ratio to a chance level of 0.
    ratio = readable["value"] / readable["chance"].where(readable["chance"] != 0)
    return readable.assign(ratio=ratio, name=names)


def headline(readable: "pd.DataFrame", names: Sequence[str]) -> list[dict[str, str]]:
    """A few rows of a table of `readable_metrics`, in words."""
    rows = readable.set_index("name").loc[list(names)]
    return [
        {
            "metric": str(row["metric"]),
            "value": metric_text(str(name), row["value"]),
            "95 % interval": interval_text(str(name), row["low"], row["high"]),
            "chance": metric_text(str(name), row["chance"]),
        }
        for name, row in rows.iterrows()
    ]


def metric_text(name: str, value: float) -> str:
    """Write a value as a person reads it: an accuracy as a percentage, others with four digits."""
    if np.isnan(value):
        return "–"  # noqa: RUF001
    # Seeds that agree differ by 1e-16, by the order of summation.
    return f"{100 * value:.1f} %" if is_accuracy(name) else f"{round(value, 12):.4g}"


def interval_text(name: str, low: float, high: float) -> str:
    """Write an interval, in the unit of its metric's values; nothing if it is not known."""
    if np.isnan(low) or np.isnan(high):
        return ""
    scale, digits = (100, ".1f") if is_accuracy(name) else (1, ".4g")
    return f"{scale * low:{digits}} to {scale * high:{digits}}"


def is_accuracy(name: str) -> bool:
    """Whether a metric is a share of the trials or images."""
    return name.endswith("_acc") or "_acc_" in name


def to_latex(results: "pd.DataFrame", metric: str, place: str) -> str:
    """Write one metric of all results as a LaTeX table, experiments x cohorts.

    Each result has its ``experiment``, ``cohort``, ``metric``, ``value``, ``low``, ``high`` and
    ``chance``. ``place`` is the label of the table.
    """
    rows = results[results["metric"] == metric]
    read = {
        name: [as_read(metric, value) for value in rows[name]]
        for name in ("value", "low", "high", "chance")
    }
    cells = [
        f"{metric_text(metric, value)} [{between}]" if between else metric_text(metric, value)
        for value, between in zip(
            read["value"],
            map(interval_text, [metric] * len(rows), read["low"], read["high"]),
            strict=True,
        )
    ]
    ends = (metric_text(metric, end(read["chance"])) for end in (min, max))
    chance = " to ".join(dict.fromkeys(ends))
    return (
        rows.assign(cell=cells)
        .pivot_table(
            index="experiment", columns="cohort", values="cell", aggfunc="first", sort=False
        )
        .fillna("")
        .rename_axis(index=None, columns=None)
        .to_latex(
            escape=True,
            caption=f"{metric_label(metric)}, mean over seeds, with 95 % bootstrap intervals over"
            f" test images. Chance: {chance}.".replace(" %", r"\,\%"),
            label=place,
        )
    )


def to_markdown(table: "pd.DataFrame") -> str:
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
    """Settings in which results (cohorts) differ: for each, its value by result.

    `NOT_RECORDED` where a result has none.
    """
    names = dict.fromkeys(name for settings in by_result.values() for name in settings)
    shared = shared_settings(list(by_result.values()))
    return {
        name: {result: each.get(name, NOT_RECORDED) for result, each in by_result.items()}
        for name in names
        if name not in shared
    }
