"""Which experiments make a curve: those that differ in nothing but what it is drawn over."""

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd


SESSIONS: Final = {"sessions"}
REGION: Final = {"region", "region_above", "region_up_to"}
NEW_SUBJECT: Final = {"sessions", "train_on", "start_from"}

_NOT_DECIDING: Final = {"hold_out", "memory_gb"}


def families(
    settings: Mapping[str, Mapping[str, Any]], varying: Collection[str]
) -> list[list[str]]:
    """Group experiments, by their settings, that differ in some (``varying``) only.

    Names are in the order given; groups have at least two members that do differ.
    """
    alike: dict[str, list[str]] = {}
    for name, values in settings.items():
        rest = {key: values[key] for key in values if key not in {*varying, *_NOT_DECIDING}}
        alike.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(name)

    def kinds(names: list[str]) -> int:
        return len({str([settings[name].get(key) for key in varying]) for name in names})

    return [names for names in alike.values() if kinds(names) > 1]


def learning_curve(
    results: "pd.DataFrame", settings: Mapping[str, Mapping[str, Any]]
) -> "pd.DataFrame":
    """Points of learning curves: experiments that differ in their sessions, a line a cohort.

    Each result has its ``experiment``, ``cohort``, ``sessions`` (number learned from), ``value``,
    ``low``, ``high`` and ``chance``. Points are as `interval_curves` takes them, with a panel for
    each family; there are none if no line has two points.
    """
    # What begins with others' weights belongs to the curves of new subjects.
    own = {name: each for name, each in settings.items() if not each.get("start_from")}
    found = families(own, SESSIONS)
    parts = [
        results[results["experiment"].isin(names)].assign(
            panel=_stem(names) if len(found) > 1 else "",
            line=lambda part: part["cohort"],
            x=lambda part: part["sessions"],
        )
        for names in found
    ]
    return _with_two_points(parts)


def new_subject_curve(
    results: "pd.DataFrame", settings: Mapping[str, Mapping[str, Any]]
) -> "pd.DataFrame":
    """Points of new-subject curves, a panel a cohort: own sessions alone, or after others' model.

    Takes and returns what `learning_curve` does. A model of others' trials has learned from none of
    the subject's own.
    """
    parts = []
    for names in families(settings, NEW_SUBJECT):
        others = [name for name in names if settings[name].get("train_on") == "others"]
        tuned = [name for name in names if settings[name].get("start_from") in others]
        alone = [
            name
            for name in names
            if settings[name].get("train_on") == "own" and not settings[name].get("start_from")
        ]
        for line, members in (("others, then own", [*others, *tuned]), ("own alone", alone)):
            part = results[results["experiment"].isin(members) & (results["cohort"] != "all")]
            zero = part["experiment"].isin(others)
            x = part["sessions"].where(~zero, 0)
            if others:
                parts.append(part.assign(panel=part["cohort"], line=line, x=x))
    points = _with_two_points(parts)
    return points[points["panel"].isin(points.loc[points["x"] == 0, "panel"])]


def regions(results: "pd.DataFrame", settings: Mapping[str, Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows, as `interval_rows` takes them, of experiments that differ in their region only."""
    import pandas as pd

    parts = [
        results[results["experiment"].isin(names)].assign(
            group=lambda part: [
                f"{name} (all vertices)" if settings[name].get("region") is None else name
                for name in part["experiment"]
            ],
            label=lambda part: part["cohort"],
        )
        for names in families(settings, REGION)
    ]
    found = pd.concat(parts) if parts else results.iloc[:0]
    return found if len(found["experiment"].unique()) > 1 else found.iloc[:0]


def repeats_curve(metrics: "pd.DataFrame") -> "pd.DataFrame":
    """Points, as `interval_curves` takes them, of accuracies in percent against repeats averaged.

    ``metrics`` is a result's; empty if no image was seen three times.
    """
    found = metrics["metric"].str.extract(r"^(?P<line>top\d+)_acc_repeats=(?P<x>\d)$")
    points = metrics[["value", "low", "high", "chance"]].mul(100).join(found).dropna(subset="line")
    line = points["line"].str.replace("top", "top-")
    return points.assign(panel="", line=line, x=points["x"].astype(int))


def _with_two_points(parts: "list[pd.DataFrame]") -> "pd.DataFrame":
    """Points of the panels in which some line has two values of x."""
    import pandas as pd

    if not parts:
        return pd.DataFrame(columns=["panel", "line", "x"])
    points = pd.concat(parts).drop_duplicates(["panel", "line", "x"])
    widest = points.groupby(["panel", "line"])["x"].nunique().groupby("panel").max()
    return points[points["panel"].map(widest) > 1].sort_values(["panel", "line", "x"])


def _stem(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join((names[0], names[-1]))
