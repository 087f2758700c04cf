"""Files in a bucket, as of s3://, gs:// and az://, through the packages of fsspec."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from monai.config import PathLike

__all__ = ["ObjectStore", "StoredFile", "is_address"]

# What changes with an object's content, by the package: the first of them that it tells
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # of this machine's disk


class StoredFile(NamedTuple):
    """An object: its size in bytes, and a text that changes with its content."""

    size: int
    version: str


def is_address(path: PathLike | None) -> bool:
    """Tell an address, such as ``s3://bucket/folder``, from a path."""
    return "://" in str(path)


class ObjectStore:
    """
    A folder of a bucket, whose objects are read and written whole.

    fsspec has each of its methods twice, for one object and for many, and raises what the packages behind it raise.

    Args:
        address: of the folder, with the scheme.

    Raises:
        ModuleNotFoundError: when the package for the scheme is not installed.
        ValueError: when nothing is known of the scheme.
    """

    def __init__(self, address: str) -> None:
        from fsspec.core import url_to_fs

        self.address = address.rstrip("/")
        is_local = self.address.startswith("file:")
        options: dict[str, Any] = {"use_listings_cache": False} | ({"auto_mkdir": True} if is_local else {})
        try:
            self.system, self.root = url_to_fs(self.address, **options)
        except ImportError as error:
            raise ModuleNotFoundError(f"{address} cannot be opened: {error}, by pip on every node.") from None
        except ValueError as error:
            raise ValueError(f"{address} cannot be opened: {error}.") from None

    def address_of(self, name: str) -> str:
        """Return the address of an object."""
        return f"{self.address}/{name}"

    def objects(self) -> dict[str, StoredFile]:
        """
        List the objects below the folder.

        Returns:
            The objects by their names below the folder; none where there is no such folder.

        Raises:
            RuntimeError: when the store does not answer.
            ValueError: when the address is that of an object, or the name of an object could be none of a file's.
        """
        with _reached(self.address, "listed", (ValueError,)), suppress(FileNotFoundError):
            found = self.system.find(self.root, detail=True)
            return {self._name(path): _stored(info) for path, info in found.items() if info.get("type") != "directory"}
        return {}

    def fetch(self, files: Mapping[str, Path]) -> None:
        """
        Fetch objects, several at once.

        Args:
            files: where to, by the objects' names.

        Raises:
            FileNotFoundError: when there is no such object.
            RuntimeError: when the store does not answer.
        """
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        with _reading(self.address):
            if files:
                self.system.get([self._path(name) for name in files], [str(path) for path in files.values()])

    def heads(self, sizes: Mapping[str, int]) -> list[bytes]:
        """
        Read the beginnings of objects, several at once.

        Args:
            sizes: how many bytes of each, by the objects' names; no more than it has.

        Raises:
            FileNotFoundError, RuntimeError: as :meth:`fetch`.
        """
        with _reading(self.address):
            full = {name: size for name, size in sizes.items() if size}
            starts, ends = [0] * len(full), list(full.values())
            parts = self.system.cat_ranges([self._path(name) for name in full], starts, ends, on_error="raise")
            contents = dict(zip(full, parts))
        return [contents.get(name, b"") for name in sizes]

    def put(self, files: Mapping[str, Path]) -> None:
        """
        Write objects, several at once, each whole or not at all.

        Args:
            files: the files, by the objects' names.

        Raises:
            RuntimeError: when the store does not answer, or takes none.
        """
        with _reached(self.address, "written to"):
            if files:
                self.system.put([str(path) for path in files.values()], [self._path(name) for name in files])

    def remove(self, names: Iterable[str]) -> None:
        """
        Remove objects, as far as they exist.

        Args:
            names: of the objects.

        Raises:
            RuntimeError: when the store does not answer, or lets none be removed.
        """
        for name in names:
            with _reached(self.address, "written to"), suppress(FileNotFoundError):
                self.system.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _name(self, path: str) -> str:
        name = path[len(self.root) + 1 :]
        if not name:
            raise ValueError(f"{self.address} is an object: give the folder that holds it.")
        if ".." in (parts := PurePosixPath(name).parts) or "/".join(parts) != name:
            raise ValueError(f"{self.address_of(name)}: no file can have that name: give the object another one.")
        return name


def _stored(info: Mapping[str, Any]) -> StoredFile:
    return StoredFile(int(info["size"]), next(str(info[key]) for key in _VERSIONS if info.get(key) is not None))


def _reading(address: str) -> AbstractContextManager[None]:
    """Leave out what a package says: there may be names of objects in it, which may be those of patients."""
    return _reached(address, "read", (FileNotFoundError,), tells=False)


@contextmanager
def _reached(
    address: str, what: str, passed_on: tuple[type[Exception], ...] = (), tells: bool = True
) -> Iterator[None]:
    """Name the address where a package raises one of its own errors, but for some; and its text, unless forbidden."""
    try:
        yield
    except Exception as error:
        if isinstance(error, passed_on) or isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        reason = (str(error) if tells else "") or type(error).__name__
        raise RuntimeError(
            f"{address} cannot be {what} ({reason}): check the address, the credentials and the network of each node."
        ) from error
