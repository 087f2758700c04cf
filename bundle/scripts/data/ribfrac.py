"""What RibFrac and its challenge lay down: numbers, class codes, and tables as people and their programs save them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "CHALLENGE_THRESHOLDS",
    "CLASS_NAMES",
    "ID_ROUNDING",
    "KEY_FALSE_POSITIVES",
    "MATRIX_CODES",
    "MIN_OVERLAP",
    "UNKNOWN_CLASS",
    "RibFracTable",
    "TableRow",
    "integer_ids",
    "is_hidden",
    "read_ribfrac_table",
]

# Constants of the challenge's evaluator.
MIN_OVERLAP = 0.2
KEY_FALSE_POSITIVES = (0.5, 1.0, 2.0, 4.0, 8.0)
CHALLENGE_THRESHOLDS = np.arange(0, 1, 0.01)
# How far a stored id may lie from a whole number: a slope is a float32, so 255 / 3 * 3 is off by some 1e-5
ID_ROUNDING = 1e-3
CLASS_NAMES = {1: "Displaced", 2: "Nondisplaced", 3: "Buckle", 4: "Segmental"}
UNKNOWN_CLASS = -1
# The evaluator's order of rows (candidates) and columns (fractures) in the confusion matrix.
MATRIX_CODES = (3, 1, 2, 4)

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of spreadsheets in languages with a decimal comma, and of Excel's "Unicode text"
_DELIMITERS = (",", ";", "\t")


class TableRow(NamedTuple):
    """A row of a table: its values by the columns' names, without blanks around them, and where it stands."""

    values: dict[str, str]
    where: str

    def whole_number(self, column: str) -> int:
        """Read a whole number; ``ValueError``, which names the line, where there is none."""
        try:
            return int(self.values[column])
        except ValueError as error:
            raise ValueError(f"{self.where}: {column} is '{self.values[column]}', needs a whole number.") from error

    def number(self, column: str) -> float:
        """Read a number, likewise."""
        try:
            return float(self.values[column])
        except ValueError as error:
            raise ValueError(f"{self.where}: {column} is '{self.values[column]}', needs a number.") from error


class RibFracTable(NamedTuple):
    """
    A table as it was read.

    Args:
        columns: names in its first line.
        rows: the others; empty ones are left out.
        encoding: ``utf-8``, ``utf-8-sig``, ``utf-16``, ``utf-32`` or ``latin-1``.
        delimiter: between columns: a comma, a semicolon, or a tab.
    """

    columns: tuple[str, ...]
    rows: list[TableRow]
    encoding: str
    delimiter: str


def is_hidden(path: Path, folder: Path) -> bool:
    """
    Tell whether a file, or a folder that holds it, is hidden or one of macOS's archives' own.

    Args:
        path: a file below the folder.
        folder: whose own name does not count.
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def read_ribfrac_table(path: Path, wanted: Sequence[str]) -> RibFracTable:
    """
    Read a table.

    Its encoding is that of its byte order mark, else UTF-8, else Latin-1: then the wanted columns must be ASCII, so
    that a remark alone depends on it. Columns are parted by the comma, the semicolon or the tab, whichever gives the
    wanted ones; with semicolons or tabs, a number may have a decimal comma, which becomes a point.

    Args:
        path: the table.
        wanted: names of columns that it must have.

    Returns:
        The table; each row has the wanted columns.

    Raises:
        ValueError: when it is no such table; the message names the file, and the line.
    """
    text, encoding = _decoded(path)
    first_line = re.split(r"\r\n?|\n", text, maxsplit=1)[0]
    names = {delimiter: _split(first_line, delimiter) for delimiter in _DELIMITERS}
    delimiter = next((d for d in _DELIMITERS if set(wanted) <= set(names[d])), None)
    if delimiter is None:
        columns = max(names.values(), key=len)
        raise ValueError(f"{path}: has the columns {list(columns)}, needs {','.join(wanted)}.")
    columns = names[delimiter]
    doubled = [name for name in wanted if columns.count(name) > 1]
    if doubled:
        raise ValueError(f"{path}: has the column {doubled[0]} twice: keep one.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows = []
    try:
        next(reader)
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append(_row(path, reader.line_num, columns, cells, wanted, delimiter))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: is no line of a table ({error}): save it again.") from error
    if encoding == "latin-1":
        for row in rows:
            if not all(row.values[name].isascii() for name in wanted):
                raise ValueError(f"{row.where}: its letters are neither ASCII nor UTF-8: save the table as UTF-8.")
    return RibFracTable(columns, rows, encoding, delimiter)


def _decoded(path: Path) -> tuple[str, str]:
    """Return a file's text and its encoding."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise ValueError(f"{path}: is damaged, no {encoding.upper()} ({error.reason}): save it again.") from error
        text, encoding = content.decode("latin-1"), "latin-1"
    if "\0" in text:
        raise ValueError(f"{path}: is no table, but holds bytes of 0: save it as CSV in UTF-8.")
    return text, encoding or "utf-8"


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return tuple(cell.strip() for cell in cells)


def _row(
    path: Path, line: int, columns: Sequence[str], cells: list[str], wanted: Sequence[str], delimiter: str
) -> TableRow:
    """Give the cells of a line their columns' names."""
    where = f"{path}, line {line}"
    values = dict(zip(columns, cells))
    missing = [name for name in wanted if name not in values]
    if missing:
        raise ValueError(f"{where}: has {len(cells)} columns, and no {missing[0]}: complete the line.")
    if delimiter != ",":
        values |= {name: values[name].replace(",", ".") for name in ("confidence",) if name in values}
    return TableRow(values, where)


def integer_ids(volume: np.ndarray, name: str) -> np.ndarray:
    """
    Return a volume of instance ids as integers, as files may hold them as floating point numbers.

    Where a file stores a slope, an id may come out as 1.0000001: what is within 0.001 of a whole number is that number.

    Args:
        volume: ids, of any type, shape ``(H, W, D)``.
        name: what an error calls the volume, such as its file.

    Raises:
        ValueError: when a value is not within 0.001 of an integer.
    """
    if volume.dtype.kind in "iub":
        return volume
    integers = np.rint(np.nan_to_num(volume)).astype(np.int64)
    if not np.array_equal(integers, volume) and not (np.abs(volume - integers) <= ID_ROUNDING).all():
        raise ValueError(f"{name} holds values that are not integers: an id volume holds 0 and the ids of instances")
    return integers
