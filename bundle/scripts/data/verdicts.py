"""The verdicts of a reader, as the review page exports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from monai.config import PathLike

from scripts.data.ribfrac import TableRow, read_ribfrac_table

__all__ = ["REVIEW_COLUMNS", "VERDICTS", "Verdict", "read_verdicts"]

REVIEW_COLUMNS = ("scan", "id", "center_x_mm", "center_y_mm", "center_z_mm", "score", "verdict", "comment")
VERDICTS = ("accepted", "rejected", "doubtful")
_FORMAT = "rib fracture review 1"  # of the JSON


class Verdict(NamedTuple):
    """
    What a reader says of a candidate.

    Args:
        scan: name of its scan.
        id: its id in the mask.
        center_mm: its center of mass in patient coordinates as DICOM has them (LPS).
        score: in [0, 1].
        verdict: ``accepted``, ``rejected`` or ``doubtful``; empty where there is none yet.
        where: the file, and the line or the place in it.
    """

    scan: str
    id: int
    center_mm: tuple[float, float, float]
    score: float
    verdict: str
    where: str


def read_verdicts(path: PathLike) -> dict[str, list[Verdict]]:
    """
    Read a review, JSON by its name, or else a table.

    Args:
        path: the exported file.

    Returns:
        The verdicts of each scan, by its name, in the order of the file.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is no such file, or has a candidate twice; the message names the file and the place in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: export it from the review page.")
    rows = _json_rows(path) if path.suffix.lower() == ".json" else read_ribfrac_table(path, REVIEW_COLUMNS).rows
    verdicts: dict[str, list[Verdict]] = {}
    for row in rows:
        verdict = _verdict(row)
        of_scan = verdicts.setdefault(verdict.scan, [])
        if any(other.id == verdict.id for other in of_scan):
            raise ValueError(f"{verdict.where}: has candidate {verdict.id} of {verdict.scan} again: keep one.")
        of_scan.append(verdict)
    if not verdicts:
        raise ValueError(f"{path} lists no candidate: lower the least score of the page, and export again.")
    return verdicts


def _json_rows(path: Path) -> list[TableRow]:
    """Read the candidates of the JSON as rows of a table."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, needs {_FORMAT!r}")
        return [
            TableRow({column: str(item[column]) for column in REVIEW_COLUMNS}, f"{path}, candidate {number}")
            for number, item in enumerate(content["candidates"], start=1)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no review as the page exports it ({error}): export it again.") from error


def _verdict(row: TableRow) -> Verdict:
    verdict = row.values["verdict"]
    if verdict not in (*VERDICTS, ""):
        raise ValueError(f"{row.where}: verdict is '{verdict}', needs one of {', '.join(VERDICTS)}, or nothing.")
    x, y, z = (row.number(f"center_{axis}_mm") for axis in "xyz")
    return Verdict(row.values["scan"], row.whole_number("id"), (x, y, z), row.number("score"), verdict, row.where)
