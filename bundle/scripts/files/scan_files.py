"""Where the mask of a scan lies in a folder of masks: in it, or in one of 256 folders in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["find_mask", "subfolder_of", "subfolders_in"]


def subfolder_of(scan: str) -> str:
    """Return the folder of a scan by its name, two hexadecimal digits, so that all have about as many."""
    return hashlib.sha256(scan.encode()).hexdigest()[:2]


def subfolders_in(folder: Path) -> list[Path]:
    """List the folders that :func:`subfolder_of` names, as far as they exist."""
    return sorted(path for path in folder.glob("[0-9a-f][0-9a-f]") if path.is_dir())


def find_mask(folder: Path, scan: str) -> Path:
    """
    Return the path of a scan's mask.

    Args:
        folder: of the masks of a prediction, whichever way it was told to write them.
        scan: its name.

    Returns:
        The file; where there is none, the place in the folder itself.
    """
    name = f"{scan}.nii.gz"
    inner = folder / subfolder_of(scan) / name
    return inner if inner.is_file() else folder / name
