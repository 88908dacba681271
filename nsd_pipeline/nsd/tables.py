"""Columns of NSD's text tables, checked one by one so that an error names what is wrong."""

import os
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, MappingError

_HEADER_LINES: Final = 1


def read_table(
    path: str | os.PathLike[str],
    separator: str,
    wanted: Iterable[str],
    *,
    optional: Iterable[str] = (),
    next_step: str,
) -> pd.DataFrame:
    """Read the wanted columns of a text table, in the wanted order.

    Parameters
    ----------
    path
        Table with a header line.
    separator
        What separates its columns.
    wanted, optional
        Columns that must be there, and columns that are taken if they are.
    next_step
        What to do about a table that is not as it should be.

    Raises
    ------
    InvalidFileError
        If it is not a table with that separator.
    MappingError
        If a wanted column is missing.
    """
    name = os.fspath(path)
    wanted, optional = list(wanted), list(optional)
    accepted = {*wanted, *optional}
    choose: Callable[[str], bool] = accepted.__contains__
    try:
        table = pd.read_csv(path, sep=separator, usecols=choose, low_memory=False)
    except (
        ValueError
    ) as error:  # the parser's own errors, an empty file, and bytes that are no text
        raise InvalidFileError(
            f"{name} is not a readable table ({str(error).strip()}).", next_step=next_step
        ) from error
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise MappingError(
            f"{name} lacks {len(missing)} columns: {', '.join(missing)}.", next_step=next_step
        )
    return table[[column for column in [*wanted, *optional] if column in table.columns]]


def whole_numbers(
    table: pd.DataFrame, column: str, low: int, high: int, *, name: str, next_step: str
) -> NDArray[np.int64]:
    """Return a column in which every row has a whole number from `low` to `high`.

    Raises
    ------
    MappingError
        If a row does not; the first such line of the file is named.
    """
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    valid = (values >= low) & (values <= high) & (values == np.round(values))
    if not valid.all():
        _reject(table[column], valid, f"whole numbers from {low} to {high}", name, next_step)
    return values.astype(np.int64)


def numbers(table: pd.DataFrame, column: str, *, name: str, next_step: str) -> NDArray[np.float64]:
    """Return a column of numbers in which rows may be empty; those are NaN.

    Raises
    ------
    MappingError
        If a row holds something else; the first such line of the file is named.
    """
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    valid = ~np.isnan(values) | table[column].isna().to_numpy()
    if not valid.all():
        _reject(table[column], valid, "numbers or nothing", name, next_step)
    return values


def flags(table: pd.DataFrame, column: str, *, name: str, next_step: str) -> NDArray[np.bool_]:
    """Return a column in which every row says True or False, or 1 or 0.

    Raises
    ------
    MappingError
        If a row does not; the first such line of the file is named.
    """
    words = table[column].astype(str).str.lower()
    true = words.isin(["true", "1"]).to_numpy()
    valid = true | words.isin(["false", "0"]).to_numpy()
    if not valid.all():
        _reject(table[column], valid, "True or False", name, next_step)
    return true


def _reject(
    column: pd.Series, valid: NDArray[np.bool_], expected: str, name: str, next_step: str
) -> None:
    row = int(np.flatnonzero(~valid)[0])
    value = column.iloc[row]
    found = "is empty" if pd.isna(value) else f"has '{value}'"
    raise MappingError(
        f"{name}: column {column.name} must hold {expected}, but {np.count_nonzero(~valid)} of "
        f"{len(column)} rows do not; the first, line {row + 1 + _HEADER_LINES}, {found}.",
        next_step=next_step,
    )
