"""Text files and tables: those that people keep themselves, and NSD's own long ones.

Editors and spreadsheets leave traces (a byte order mark, other line ends, other encodings, blank
lines) that change nothing of what a file says: they are read over. Everything else that is not as
expected is an error that names the line.
"""

import codecs
import csv
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, MappingError

if TYPE_CHECKING:
    import pandas as pd

_POINTERS: Final = (b"/annex/objects/", b"version https://git-lfs")
"""How files begin that git-annex and Git LFS put in the place of content that is elsewhere."""
_EMPTY: Final = {"", "n/a", "na", "nan", "-nan", "null", "none", "<na>", "#n/a"}
"""What tables have, in lower case, where there is no value. BIDS wants ``n/a``."""


def check_content(path: Path, *, next_step: str) -> None:
    """Check that a file is there, and not only its name.

    An InvalidFileError if it is not there, or is a link or a pointer to content that is not on this
    machine.
    """
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, _POINTERS)))
    except FileNotFoundError as error:
        if path.is_symlink():
            raise _elsewhere(path, "a link to") from error
        raise InvalidFileError(f"There is no {path}.", next_step=next_step) from error
    except OSError as error:
        raise InvalidFileError(
            f"{path} cannot be read: {error.strerror}.",
            next_step="check what it is and who may read it.",
        ) from error
    if start.startswith(_POINTERS):
        raise _elsewhere(path, "a pointer to")


def _elsewhere(path: Path, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"{path} is {what} content that is not on this machine.",
        next_step="fetch it where the folder is a clone (datalad get, git annex get, git lfs pull),"
        " or copy the folder with its links followed.",
    )


def read_text(path: Path, *, next_step: str) -> str:
    """Text of a file in UTF-8, UTF-16 or Latin-1, its lines ended by a line feed alone.

    An InvalidFileError if it cannot be read.
    """
    check_content(path, next_step=next_step)
    content = path.read_bytes()
    try:
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        # Numbers and names of columns are ASCII, which is the same in all that people still use.
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_number(cell: str) -> float | None:
    """Number that a cell states, NaN if it states none; None if it holds something else."""
    if cell.lower() in _EMPTY:
        return math.nan
    try:
        # Python alone takes 1_000 for a number.
        number = math.inf if "_" in cell else float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Table:
    """A text table with a header line.

    `lines` are the 1-based lines of the file that the rows are from, and `columns` the cells of
    each column by its name, without blanks around them. `next_step` is what to do about a cell that
    is not as it should be.
    """

    path: Path
    lines: tuple[int, ...]
    columns: dict[str, tuple[str, ...]]
    next_step: str

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Numbers of a column, NaN where a cell is empty; a MappingError if one holds no number."""
        parsed = [parse_number(cell) for cell in self.columns[column]]
        for row, number in enumerate(parsed):
            if number is None:
                raise self.rejected(row, column, "numbers or n/a")
        return np.array(parsed, np.float64)

    def rejected(self, row: int, column: str, expected: str) -> MappingError:
        """Error for a cell: what the column must hold, and what it has in which line."""
        return MappingError(
            f"{self.path}, line {self.lines[row]}: the column {column} must hold {expected}, but"
            f" has '{self.columns[column][row]}'.",
            next_step=self.next_step,
        )


def read_table(path: Path, wanted: Iterable[str] = (), *, next_step: str) -> Table:
    """Read a tab-separated table that must have the wanted columns. Blank lines are left out.

    An InvalidFileError if it is no table; a MappingError if a column is missing.
    """

    def damaged(line: int, problem: str) -> InvalidFileError:
        return InvalidFileError(f"{path}, line {line}: {problem}.", next_step=next_step)

    text = read_text(path, next_step=next_step).split("\n")
    reader = csv.reader(text, delimiter="\t", strict=True)
    before = 0  # lines read so far: a cell in quotation marks may go over several
    names: list[str] = []
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            line, before = before + 1, reader.line_num
            if not any(cells):
                continue
            if not names:
                names = cells
                continue
            if any(cells[len(names) :]):
                raise damaged(line, f"{len(cells)} cells for {len(names)} columns")
            lines.append(line)
            rows.append([*cells, *[""] * (len(names) - len(cells))])
    except csv.Error as error:
        raise damaged(before + 1, str(error)) from error
    for column in wanted:
        if (count := names.count(column)) != 1:
            found = ", ".join(repr(name) for name in names[:8]) or "none"
            raise MappingError(
                f"{path} has {count or 'no'} column{'s' * (count > 1)} {column}; its columns,"
                f" separated by tabs, are: {found}.",
                next_step=next_step,
            )
    columns = {name: tuple(row[place] for row in rows) for place, name in enumerate(names)}
    return Table(path, tuple(lines), columns, next_step)


@dataclass(frozen=True)
class NsdTable:
    """Columns of one of NSD's own tables, which are long and come as they were published.

    `frame` has them as pandas reads them; errors call the file by its name and end with a next
    step.
    """

    frame: "pd.DataFrame"
    name: str
    next_step: str

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        separator: str,
        wanted: Sequence[str],
        *,
        optional: Sequence[str] = (),
        name: str,
        next_step: str,
    ) -> "NsdTable":
        """Read the wanted columns, and the optional ones that are there, in this order.

        Errors call the file by `name`, or by its path if that is empty.
        An InvalidFileError if it is not a table with that separator; a MappingError if a wanted
        column is missing.
        """
        import pandas as pd

        name = name or os.fspath(path)
        columns = [*wanted, *optional]
        choose: Callable[[str], bool] = set(columns).__contains__
        try:
            frame = pd.read_csv(path, sep=separator, usecols=choose, low_memory=False)
        except ValueError as error:  # the parser's own, an empty file, and bytes that are no text
            raise InvalidFileError(
                f"{name} is not a readable table ({str(error).strip()}).", next_step=next_step
            ) from error
        missing = [column for column in wanted if column not in frame]
        if missing:
            raise MappingError(
                f"{name} lacks {len(missing)} columns: {', '.join(missing)}.", next_step=next_step
            )
        return cls(frame[[column for column in columns if column in frame]], name, next_step)

    def whole_numbers(self, column: str, low: int, high: int) -> NDArray[np.int64]:
        """A column in which every row has a whole number from `low` to `high`.

        A MappingError names the first line of the file that does not; as in the other methods.
        """
        values = self._parsed(column)
        valid = (values >= low) & (values <= high) & (values == np.round(values))
        self._require(column, valid, f"whole numbers from {low} to {high}")
        return values.astype(np.int64)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column of numbers in which rows may be empty; those are NaN."""
        values = self._parsed(column)
        valid = ~np.isnan(values) | self.frame[column].isna().to_numpy()
        self._require(column, valid, "numbers or nothing")
        return values

    def flags(self, column: str) -> NDArray[np.bool_]:
        """A column in which every row says True or False, or 1 or 0."""
        words = self.frame[column].astype(str).str.lower()
        true = words.isin(["true", "1"]).to_numpy()
        self._require(column, true | words.isin(["false", "0"]).to_numpy(), "True or False")
        return true

    def _parsed(self, column: str) -> NDArray[np.float64]:
        import pandas as pd

        values = self.frame[column]
        if values.dtype == object:  # whole numbers of any length, for which pandas has no rule
            values = values.map(
                lambda value: (
                    min(max(value, -(2.0**64)), 2.0**64) if isinstance(value, int) else value
                )
            )
        return pd.to_numeric(values, errors="coerce").to_numpy(np.float64)

    def _require(self, column: str, valid: NDArray[np.bool_], expected: str) -> None:
        import pandas as pd

        if valid.all():
            return
        row = int(np.flatnonzero(~valid)[0])
        value = self.frame[column].iloc[row]
        found = "is empty" if pd.isna(value) else f"has '{value}'"
        raise self.wrong(
            f": column {column} must hold {expected}, but {np.count_nonzero(~valid)} of"
            f" {len(valid)} rows do not; the first, line {row + 2}, {found}"  # line 1: the header
        )

    def wrong(self, problem: str) -> MappingError:
        """Error for what the table says."""
        return MappingError(f"{self.name}{problem}.", next_step=self.next_step)
