"""Write files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from numpy.typing import NDArray

from scripts.files.memory_order import in_fortran_order

__all__ = ["unfinished_files", "whole_file", "write_json", "write_tensors", "write_text", "write_volume"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a user's share of it, the largest size of a file


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

    Raises:
        OSError: when the disk has no room, by the file's name; whatever was there before is as it was.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{secrets.token_hex(8)}.{final.name}")
    try:
        yield temporary
        temporary.replace(final)
    except (OSError, RuntimeError) as error:
        if reason := _no_room(error):
            raise OSError(
                f"{final} cannot be written ({reason}): make room on its disk, or choose another one. What was "
                "written before is whole."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _no_room(error: BaseException | None) -> str | None:
    """Return the system's words for a disk without room where it caused an error, such as torch's own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


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


def write_tensors(path: str | os.PathLike[str], content: Any) -> None:
    """Write tensors and plain data as ``torch.save`` does."""
    # by an open file: given a path, torch does not say why it cannot write
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def write_volume(path: str | os.PathLike[str], volume: NDArray, affine: NDArray) -> None:
    """
    Write a volume as NIfTI, in the patient's coordinates.

    Args:
        path: the file, ``.nii.gz`` or ``.nii``.
        volume: shape ``(H, W, D)``.
        affine: voxels to mm in RAS, shape ``(4, 4)``.
    """
    image = nib.Nifti1Image(in_fortran_order(volume), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with whole_file(path) as temporary:
        nib.save(image, temporary)
