"""A copy of a bucket's folder whose files have no content, for code that knows folders alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from scripts.files.object_store import ObjectStore, StoredFile

__all__ = ["HollowCopy", "NoCopy"]

_TIMES_S = 2**32  # seconds, from 1970 on: what every file system can keep as a time of change


class HollowCopy:
    """
    Files as those of a store, by name and size, without content, and therefore of no size on the disk.

    Whoever lists scans, or looks for what is done, asks for little more; what is read is fetched whole. The time of
    change is made of the object's version: it differs where the content does, and tells nothing else.

    Args:
        store: the store.
        folder: of the copy.
        whole: tells by its name whether a file is fetched whole.
    """

    def __init__(self, store: ObjectStore, folder: Path, whole: Callable[[str], bool]) -> None:
        self.store = store
        self.folder = folder
        self.whole = whole
        self._same: dict[str, tuple[int, int]] = {}  # sizes and times of files that are as in the store

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """
        Copy what is new in the store, has changed there, or is here no more.

        Args:
            wanted: tells by its name whether a file is looked at.

        Raises:
            RuntimeError, ValueError: see :meth:`ObjectStore.objects`.
        """
        new = {name: one for name, one in self.store.objects().items() if wanted(name) and not self._has(name, one)}
        self.store.fetch({name: self.folder / name for name in new if self.whole(name)})
        for name, one in new.items():
            path = self.folder / name
            if not self.whole(name):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.truncate(path, one.size)
            os.utime(path, ns=(_time_ns(one), _time_ns(one)))
            self._same[name] = _state(path)

    def push(self) -> None:
        """
        Write to the store what is new here or has changed, and remove there what is here no more.

        Raises:
            RuntimeError: when the store does not answer, or takes nothing.
        """
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("[!.]*") if path.is_file()]
        self.store.remove(gone := self._same.keys() - set(names))
        for name in gone:
            del self._same[name]
        self.push_files(names)

    def push_files(self, names: Iterable[str]) -> None:
        """
        Write files to the store, as far as they exist and are new or have changed.

        Args:
            names: of the files, below the folder.

        Raises:
            RuntimeError: as :meth:`push`.
        """
        states = {name: _state(path) for name in names if (path := self.folder / name).is_file()}
        changed = {name: state for name, state in states.items() if self._same.get(name) != state}
        self.store.put({name: self.folder / name for name in changed})
        self._same |= changed

    def text(self, text: str) -> str:
        """Write a text with addresses in place of the copy's paths."""
        return text.replace(str(self.folder), self.store.address)

    def _has(self, name: str, one: StoredFile) -> bool:
        return self._same.get(name) == (one.size, _time_ns(one)) and (self.folder / name).exists()


class NoCopy:
    """Take the place of a ``HollowCopy`` where all see the folder itself."""

    def pull(self, wanted: Callable[[str], bool]) -> None:
        """Do nothing."""

    def push(self) -> None:
        """Do nothing."""

    def push_files(self, names: Iterable[str]) -> None:
        """Do nothing."""

    def text(self, text: str) -> str:
        """Return a text as it is."""
        return text


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _time_ns(one: StoredFile) -> int:
    digest = hashlib.sha256(one.version.encode()).digest()
    return int.from_bytes(digest[:8], "big") % (_TIMES_S * 10**9)
