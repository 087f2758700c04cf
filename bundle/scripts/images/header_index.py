"""Keep what the headers of DICOM files say, so that an archive's files are opened once."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.config import PathLike

from scripts.images.dicom_series import DicomSlice

__all__ = ["HeaderIndex"]

_AT_ONCE = 500  # of names in a question: SQLite takes 32,766, and before 3.32 took 999


class HeaderIndex:
    """
    Headers of DICOM files by path, size and time of change, in a file of SQLite.

    It holds what tells the patient, as the files do: keep it where these are kept.

    Args:
        path: the file, made where it is missing. One that is no such index is refused by SQLite.
        known_as: gives the path by which a file is known, where that is another than its own.
    """

    def __init__(self, path: PathLike, known_as: Callable[[Path], str] = str) -> None:
        self.path = Path(path)
        self.known_as = known_as
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS headers (path TEXT PRIMARY KEY, version TEXT, header TEXT)")

    def find(self, files: Sequence[Path]) -> dict[Path, DicomSlice | None]:
        """
        Return the headers of those files that have not changed since they were put.

        Args:
            files: any files; those that do not exist have none.
        """
        found: dict[Path, DicomSlice | None] = {}
        with self._open() as database:
            for start in range(0, len(files), _AT_ONCE):
                some = {self.known_as(path): path for path in files[start : start + _AT_ONCE]}
                marks = ",".join("?" * len(some))
                rows = database.execute(f"SELECT * FROM headers WHERE path IN ({marks})", list(some))
                for name, version, header in rows.fetchall():
                    if version == _version(some[name]):
                        found[some[name]] = _slice(str(some[name]), json.loads(header))
        return found

    def put(self, headers: Mapping[Path, DicomSlice | None]) -> None:
        """
        Keep headers that were read.

        Args:
            headers: as ``read_slices`` gives them, by the file.
        """
        with self._open() as database:
            database.executemany(
                "INSERT OR REPLACE INTO headers VALUES (?, ?, ?)",
                [
                    (self.known_as(path), _version(path), json.dumps(one and asdict(one)))
                    for path, one in headers.items()
                ],
            )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)


def _version(path: Path) -> str:
    """Return size and time of change of a file; nothing where it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _slice(file: str, values: dict | None) -> DicomSlice | None:
    if values is None:
        return None
    told: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return DicomSlice(**told | {"file": file})
