"""Keep two runs from writing to one folder."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import ignite.distributed as idist
from monai.config import PathLike
from monai.utils import ensure_tuple, optional_import

from scripts.files.atomic_write import unfinished_files

__all__ = ["FolderLock"]

fcntl, has_fcntl = optional_import("fcntl")  # not on Windows

_logger = logging.getLogger(__name__)

_held: dict[Path, IO[str]] = {}  # the locks of this process
if has_fcntl:
    os.register_at_fork(after_in_child=_held.clear)  # a process that is forked, such as a loader of scans, holds none


class FolderLock:
    """
    Keep folders for one run, or for the processes that share one run.

    MONAI lets two runs write to one folder, where the files of both are mixed. The lock is the operating system's, on a
    hidden file in each folder: it ends with the process, however that ends, so that no run is kept out by one that was
    killed. Where another run holds a folder, ``acquire`` raises at once. Processes that predict other shards of the
    same number share a folder; of a training in several processes the first one holds it for all. Runs in one process,
    one behind the other, are not kept apart.

    A run that has a folder to itself removes the unfinished files that one that was killed has left there.

    Args:
        folders: the folder, or several; made where they are missing.
        shard: number of this process among ``shards``.
        shards: processes that share the folders, each with its own files.
    """

    def __init__(self, folders: PathLike | Sequence[PathLike], shard: int = 0, shards: int = 1) -> None:
        self.folders = [Path(folder).resolve() for folder in ensure_tuple(folders)]
        self.shard = shard
        self.shards = shards

    def acquire(self) -> None:
        """
        Keep the folders, until `release` or the end of this process.

        Raises:
            BlockingIOError: when another run writes to one of them.
            OSError: when one of them is a file, or cannot be written to.
        """
        if self.shards == 1 and idist.get_rank() > 0:
            return
        if not has_fcntl:
            _logger.warning(f"This system has no locks: let no other run write to {self.folders[0]}.")
            return
        try:
            for folder in self.folders:
                self._acquire(folder)
        except OSError:
            self.release()
            raise

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def _acquire(self, folder: Path) -> None:
        _lock(self._file(folder))
        for other in folder.glob(".lock-*-of-*"):
            if not other.name.endswith(f"-of-{self.shards}"):  # of a run that shares the scans in another way
                _lock(other)
                _unlock(other)
        if self.shards == 1:
            for path, _ in unfinished_files(folder):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let others have the folders; does nothing where they are not held."""
        for folder in self.folders:
            _unlock(self._file(folder))

    def _file(self, folder: Path) -> Path:
        return folder / f".lock-{self.shard}-of-{self.shards}"


def _lock(path: Path) -> None:
    """
    Lock a file, which is made where it is missing, for this process.

    By POSIX: unlike those of ``flock``, these locks do not pass to processes that are forked, which may live on for
    some seconds when this one is killed.
    """
    if path in _held:
        return
    while True:
        file = _opened(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read()
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                _logger.warning(f"{path.parent} has no locks ({error.strerror}): let no other run write there.")
                return
            raise BlockingIOError(
                f"{path.parent}: another run writes there ({holder or 'a process that has just started'}): wait for "
                "its end, or choose another folder."
            ) from error
        if _is_at(file, path):
            break
        file.close()  # the run that held it has removed it meanwhile
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    _held[path] = file


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> OSError:
    """Say in one sentence why a folder cannot be written to."""
    reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
    return type(error)(f"{folder} cannot be written to ({reason}): choose another folder, or mend this one.")


def _is_at(file: IO[str], path: Path) -> bool:
    """Tell whether an open file is the one of a name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _unlock(path: Path) -> None:
    if path in _held:
        path.unlink(missing_ok=True)
        _held.pop(path).close()
