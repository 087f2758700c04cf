"""Write files whole or not at all."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
from numpy.typing import NDArray

__all__ = ["unfinished_files", "whole_file", "write_json", "write_text", "write_volume"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a temporary name to write to, and rename it to the final one at the end of the ``with`` block.

    A run that is killed, or an error while writing, leaves the file of that name as it was.

    Args:
        path: the file to write; its folder is made if it is missing.

    Yields:
        A name beside ``path``, with the same extension, hidden, and different each time: several processes, on several
        machines, may write into one folder.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{secrets.token_hex(8)}.{final.name}")
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished_files(folder: str | os.PathLike[str]) -> Iterator[tuple[Path, str]]:
    """
    List what a run that was killed left unfinished in a folder, or another process is writing.

    Args:
        folder: the folder, which may be missing.

    Yields:
        The temporary file, and the name of the file that it would have become.
    """
    for path in Path(folder).glob(".*"):
        if match := re.fullmatch(r"\.[0-9a-f]{16}\.(.+)", path.name):
            yield path, match[1]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any, indent: int = 1) -> None:
    """Write plain data as JSON, each item on a line of its own."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def write_volume(path: str | os.PathLike[str], volume: NDArray, affine: NDArray) -> None:
    """
    Write a volume as NIfTI, in the patient's coordinates.

    Args:
        path: the file, ``.nii.gz`` or ``.nii``.
        volume: shape ``(H, W, D)``.
        affine: voxels to mm in RAS, shape ``(4, 4)``.
    """
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with whole_file(path) as temporary:
        nib.save(image, temporary)
