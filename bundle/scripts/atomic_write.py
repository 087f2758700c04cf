"""Write a file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a temporary name to write to, and rename it to the final one at the end of the ``with`` block.

    A run that is killed, or an error while writing, leaves the file of that name as it was.

    Args:
        path: the file to write; its folder is made if it is missing.

    Yields:
        A name beside ``path``, with the same extension, hidden, and different in each process.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{os.getpid()}.{final.name}")
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
