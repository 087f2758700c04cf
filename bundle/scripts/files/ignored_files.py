"""Count the files of a data set that were not taken for a scan."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

__all__ = ["IgnoredFiles", "ignored_files", "is_bookkeeping", "log_ignored"]

# Tables, lists and texts lie beside scans, and some systems put these files into every folder
_BOOKKEEPING_SUFFIXES = (".csv", ".json", ".md", ".txt")
_BOOKKEEPING_NAMES = ("thumbs.db", "desktop.ini")
_SUFFIX = re.compile(r"(\.(tar|nii|img|hdr|raw|seg))?\.[a-z][a-z0-9]{0,7}|\.7z")
_MAX_KINDS_LOGGED = 8

_logger = logging.getLogger(__name__)


class IgnoredFiles(TypedDict):
    """Files of one suffix: the suffix in lower case, empty without any, their number, and one of them."""

    suffix: str
    files: int
    example: str


def is_bookkeeping(path: Path) -> bool:
    """Tell whether a file is a table, a text or one of the system's own, which nobody takes for a scan."""
    name = path.name.lower()
    return name.endswith(_BOOKKEEPING_SUFFIXES) or name in _BOOKKEEPING_NAMES


def ignored_files(paths: Iterable[Path], shown: Callable[[Path], str]) -> list[IgnoredFiles]:
    """
    Count files by their suffix.

    Args:
        paths: the files, in order; those of `is_bookkeeping` do not count.
        shown: writes a path for a log, without the patient's name.

    Returns:
        The suffixes, the most frequent one first, each with its first file as the example.
    """
    counts: dict[str, int] = {}
    examples: dict[str, Path] = {}
    for path in paths:
        if not is_bookkeeping(path):
            suffix = _suffix(path)
            counts[suffix] = counts.get(suffix, 0) + 1
            examples.setdefault(suffix, path)
    by_number = sorted(counts, key=lambda suffix: (-counts[suffix], suffix))
    return [{"suffix": suffix, "files": counts[suffix], "example": shown(examples[suffix])} for suffix in by_number]


def log_ignored(ignored: Sequence[IgnoredFiles]) -> None:
    """Tell of ignored files in one line, where there are any."""
    if not ignored:
        return
    kinds = [
        f"{kind['files']} {kind['suffix'] or 'without a suffix'} (such as {kind['example']})"
        for kind in ignored[:_MAX_KINDS_LOGGED]
    ]
    more = f" and {len(ignored) - _MAX_KINDS_LOGGED} other suffixes" if len(ignored) > _MAX_KINDS_LOGGED else ""
    _logger.warning(f"Files in no format that is read here are ignored: {', '.join(kinds)}{more}.")


def _suffix(path: Path) -> str:
    """Return the suffix in lower case; empty where what follows the last dot is none, as in a UID."""
    parts = path.name.lower().rsplit(".", 2)[1:]
    for start in range(len(parts)):
        suffix = "." + ".".join(parts[start:])
        if _SUFFIX.fullmatch(suffix):
            return suffix
    return ""
