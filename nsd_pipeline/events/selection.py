"""Which events are used, and what for: a condition, the one recording, training or validation.

``DataFrame.query`` evaluates ``@name`` and any method of a column, so a condition could write files
or run programs, and conditions come from a configuration that anyone who can start a run can edit.
Hence a condition is parsed first, and only what a comparison of columns needs is let through.

The Python engine evaluates it, always: tables have some hundred rows, numexpr knows neither strings
nor null, and the answer must not depend on whether numexpr happens to be installed.

The test set is NSD's own: the images shared by all subjects. Validation is held out of the rest.
"""

import ast
from typing import TYPE_CHECKING, Final

from nsd_pipeline.errors import NotEnoughDataError, NsdError

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_QUERY: Final = "type != 'Fmri' or space == 'fsaverage'"
"""All trials, and recordings in the space fsaverage only (neuralbench's ``fmri/image``)."""

SPLITS: Final = ("train", "val", "test")

_METHODS: Final = ("isin", "isna", "notna", "between")
_TEXT_METHODS: Final = ("contains", "startswith", "endswith")
_SYNTAX: Final = (
    *(ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr),
    *(ast.Constant, ast.List, ast.Tuple, ast.Load),
)


def filter_events(events: "pd.DataFrame", query: str = DEFAULT_QUERY) -> "pd.DataFrame":
    """Keep the events that a condition holds for.

    Parameters
    ----------
    events
        Table of events.
    query
        Condition over the columns: comparisons, ``in``, arithmetic, ``and``, ``or``, ``not``, and
        of methods ``isin``, ``isna``, ``notna``, ``between``, ``str.contains``,
        ``str.startswith``, ``str.endswith``. A null where a condition needs a value is false.

    Returns
    -------
    DataFrame
        The rows kept, in order, with a new index.

    Raises
    ------
    NsdError
        If the condition is malformed, names an unknown column, is not true or false for every
        event, or does anything else than compare columns.
    """
    import pandas as pd

    # Configuration files fold long conditions over several lines; pandas takes one.
    line = " ".join(query.splitlines()).strip()
    # pandas rewrites these two before it parses, so the tree below would not be the one evaluated.
    if forbidden := {"@", "`"} & set(line):
        raise _error(query, f"{forbidden.pop()} is not allowed", events)
    try:
        _check_node(ast.parse(line, mode="eval"), query, events)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _error(query, str(error), events) from error
    try:
        keep = events.eval(line, engine="python")
        if not (isinstance(keep, pd.Series) and pd.api.types.is_bool_dtype(keep.dtype)):
            raise TypeError("it is not true or false for each event")
    except Exception as error:  # pandas raises whatever the evaluated operation raises
        raise _error(query, str(error), events) from error
    return events[keep.fillna(False)].reset_index(drop=True)


def _check_node(node: ast.AST, query: str, events: "pd.DataFrame") -> None:
    """Check that a part of a condition, and every part of it, does no more than compare columns."""
    children: list[ast.AST]
    match node:
        case ast.Name(id=name):
            if name not in events.columns:
                raise _error(query, f"there is no column {name!r}", events)
            return
        case ast.Call(func=ast.Attribute(value=owner, attr=method)):
            text = isinstance(owner, ast.Attribute) and owner.attr == "str"
            if method not in (_TEXT_METHODS if text else _METHODS):
                raise _error(query, f"method {method!r} is not allowed", events)
            column = owner.value if isinstance(owner, ast.Attribute) and text else owner
            children = [column, *node.args, *(keyword.value for keyword in node.keywords)]
        case _ if isinstance(node, _SYNTAX):
            children = list(ast.iter_child_nodes(node))
        case _:
            raise _error(query, f"{ast.unparse(node)!r} is not allowed", events)
    for child in children:
        _check_node(child, query, events)


def _error(query: str, reason: str, events: "pd.DataFrame") -> NsdError:
    return NsdError(
        f"The events query {query!r} cannot be used: {reason}.",
        next_step=f'write a condition such as "{DEFAULT_QUERY}" over the columns '
        f"{', '.join(map(str, events.columns))}.",
    )


def sole_recording(events: "pd.DataFrame", session: str) -> str:
    """Space of the one recording of betas that a session has after the space filter.

    The session's name is for the error: an NsdError if no recording is left, or more than one, so
    that trials would count twice.
    """
    spaces = events.loc[events["type"] == "Fmri", "space"].tolist()
    return _sole(spaces, session, "one recording", "fsaverage_events", "events")


def sole_recordings(events: "pd.DataFrame", session: str) -> dict[int, str]:
    """Space of the one recording that each run of a session has after the space filter.

    As `sole_recording`, but by run, for every run with trials, in order.
    """
    recordings = events[events["type"] == "Fmri"]
    spaces = recordings.groupby("run")["space"].agg(list).to_dict()
    found = {}
    for run in sorted(events.loc[events["type"] == "Image", "run"].unique().tolist()):
        wanted = f"one recording of run {run}"
        found[run] = _sole(spaces.get(run, []), session, wanted, "fsaverage5_series", "bold_events")
    return found


def _sole(spaces: list[str], session: str, wanted: str, filtered_by: str, listed_in: str) -> str:
    """The one space that there is; the steps that filter and list events are for the error."""
    if len(spaces) == 1:
        return str(spaces[0])
    found = ", ".join(map(str, spaces)) or "none"
    raise NsdError(
        f"The filtered events of {session} should hold {wanted}, but hold {len(spaces)}: {found}.",
        next_step=f"make {filtered_by} with a query that keeps the one space to use, such as"
        f' "{DEFAULT_QUERY}"; `{listed_in}` lists the spaces that there are.',
    )


def assign_validation(
    events: "pd.DataFrame", by: str = "timeline", ratio: float = 0.2, seed: int = 33
) -> "pd.DataFrame":
    """Move a part of the training events to validation, in whole groups.

    Parameters
    ----------
    events
        Table with ``split`` ("train" or "test") and the column named by ``by``. For a joint model,
        the events of all its subjects together. Events without a split (recordings) stay so.
    by
        Column whose values stay whole. "timeline" is neuralbench's protocol: a run is either
        trained on or validated on, but repeats of one image fall on both sides. "image_id" is the
        clean alternative: an image is seen in training or in validation, never in both.
    ratio
        Share of the groups that goes to validation, above 0 and below 1.
    seed
        Seed of the shuffle, which takes the groups in order of appearance.

    Returns
    -------
    DataFrame
        A copy with ``split`` one of "train", "val", "test".

    Raises
    ------
    NsdError
        If there is no column ``by``, or ``ratio`` is not a share.
    NotEnoughDataError
        If the training events are of too few groups to leave any on either side.
    """
    from sklearn.model_selection import train_test_split

    if by not in events:
        raise NsdError(
            f"The events have no column {by!r} to split by.",
            next_step=f"choose one of {', '.join(map(str, events.columns))}.",
        )
    if not 0 < ratio < 1:
        raise NsdError(
            f"The validation ratio is {ratio}.", next_step="choose one above 0 and below 1."
        )
    training = events["split"].eq("train").fillna(False).astype(bool)
    groups = events.loc[training, by].dropna().drop_duplicates().tolist()
    try:
        _, validation = train_test_split(groups, test_size=ratio, random_state=seed)
    except ValueError as error:
        raise NotEnoughDataError(
            f"{len(groups)} training {by} values cannot be split into training and {ratio:.0%} "
            "validation.",
            next_step="add sessions, or change the validation ratio.",
        ) from error
    held_out = training & events[by].isin(validation)
    return events.assign(split=events["split"].mask(held_out, "val"))


def check_split(events: "pd.DataFrame") -> None:
    """Check that there is something to train on, to stop by and to test on.

    A NotEnoughDataError if training, validation or test has no event.
    """
    counts = events["split"].value_counts()
    if empty := [split for split in SPLITS if counts.get(split, 0) == 0]:
        raise NotEnoughDataError(
            f"The events hold no {' and no '.join(empty)} trials "
            f"({', '.join(f'{split} {counts.get(split, 0)}' for split in SPLITS)}).",
            next_step="add sessions: the test images are the shared ones, of which a single "
            "session shows few.",
        )
