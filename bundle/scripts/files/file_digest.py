"""The checksum of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from monai.config import PathLike

__all__ = ["file_sha256"]


def file_sha256(path: PathLike) -> str | None:
    """Return the SHA-256 of a file, in hexadecimal; None where there is no such file."""
    if not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
