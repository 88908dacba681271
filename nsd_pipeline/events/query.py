"""Choose events by a condition, in pandas' query syntax and without its doors to Python.

``DataFrame.query`` evaluates ``@name`` and any method of a column, so a condition could write files
or run programs, and conditions come from a configuration that anyone who can start a run can edit.
Hence a condition is parsed first, and only what a comparison of columns needs is let through.

The Python engine evaluates it, always: tables have some hundred rows, numexpr knows neither strings
nor null, and the answer must not depend on whether numexpr happens to be installed.
"""

import ast
from typing import Final

import pandas as pd

from nsd_pipeline.errors import NsdError

DEFAULT_QUERY: Final = "type != 'Fmri' or space == 'fsaverage'"
"""Every event but recordings in other spaces (neuralbench's ``fmri/image``)."""

_METHODS: Final = ("isin", "isna", "notna", "between")
_TEXT_METHODS: Final = ("contains", "startswith", "endswith")
_SYNTAX: Final = (
    *(ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr),
    *(ast.Constant, ast.List, ast.Tuple, ast.Load),
)


def filter_events(events: pd.DataFrame, query: str = DEFAULT_QUERY) -> pd.DataFrame:
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
    # Configuration files fold long conditions over several lines; pandas takes one.
    line = " ".join(query.splitlines()).strip()
    _check(line, events)
    try:
        keep = events.eval(line, engine="python")
        if not (isinstance(keep, pd.Series) and pd.api.types.is_bool_dtype(keep.dtype)):
            raise TypeError("it is not true or false for each event")
    except Exception as error:  # pandas raises whatever the evaluated operation raises
        raise _error(query, str(error), events) from error
    return events[keep.fillna(False)].reset_index(drop=True)


def _check(query: str, events: pd.DataFrame) -> None:
    # pandas rewrites these two before it parses, so the tree below would not be the one evaluated.
    if forbidden := {"@", "`"} & set(query):
        raise _error(query, f"{forbidden.pop()} is not allowed", events)
    try:
        _check_node(ast.parse(query, mode="eval"), query, events)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _error(query, str(error), events) from error


def _check_node(node: ast.AST, query: str, events: pd.DataFrame) -> None:
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


def _error(query: str, reason: str, events: pd.DataFrame) -> NsdError:
    return NsdError(
        f"The events query {query!r} cannot be used: {reason}.",
        next_step=f'write a condition such as "{DEFAULT_QUERY}" over the columns '
        f"{', '.join(map(str, events.columns))}.",
    )
