"""Tables in Markdown, and their place in a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.files.atomic_write import write_text

__all__ = ["show", "table", "write_between_markers"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def show(text: str, path: Path | None, name: str) -> None:
    """Put text between the markers of a file, see `write_between_markers`; print it where there is none."""
    if path is None:
        print(text)
    else:
        write_between_markers(text, path, name)


def write_between_markers(text: str, path: Path, name: str) -> None:
    """
    Put text between the lines ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a Markdown file, in place of what is there.

    Args:
        text: in Markdown.
        path: of the file.
        name: of the markers.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it lacks a marker.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: make it, with a line {first} and a line {last}.")
    before, start, rest = path.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise ValueError(f"{path} lacks the lines {first} and {last}: add them where the tables are to be.")
    write_text(path, f"{before}{first}\n\n{text}\n{last}{after}")
