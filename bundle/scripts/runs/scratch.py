"""A folder for what is fetched from a bucket, or is to be written to one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from scripts.runs.lock import FolderLock

__all__ = ["scratch_folder"]

_PREFIX = "rib-archive-"
_IS_LOCKED_AFTER_S = 60  # since it was made


@cache
def scratch_folder() -> Path:
    """
    Return the folder of this process where temporary files lie, as ``TMPDIR`` says; it is removed at its end.

    Those of processes that were killed, as workers are, are removed here.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _IS_LOCKED_AFTER_S:
                with FolderLock(left):
                    shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    FolderLock(folder).acquire()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
