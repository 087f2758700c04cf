"""The scans of an archive in a bucket: listed by a copy without content, and fetched one by one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from monai.utils import ensure_tuple

from scripts.files.hollow_copy import HollowCopy
from scripts.files.object_store import ObjectStore
from scripts.images.dicom_files import looks_like_dicom
from scripts.images.dicom_series import DicomSlice, read_slices
from scripts.images.volume_files import companion_files
from scripts.runs.scratch import scratch_folder

__all__ = ["StoredScans", "fetch_scan", "read_stored_slices"]

# What is read to list scans: a data list, what tells results of a run, and headers that name another file
_READ_NAMES, _READ_SUFFIXES = ("dataset.json", "config.yaml"), (".mhd", ".nhdr")
_HEAD_BYTES = 2**16  # of a DICOM file: more than its header has as a rule
_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag behind the header, in both orders of bytes
_PREAMBLE = bytes(128) + b"DICM"


class StoredScans:
    """
    List the scans of a bucket's folder as those of a folder, and name their files by addresses.

    Args:
        address: of the folder.
    """

    def __init__(self, address: str) -> None:
        self.store = ObjectStore(address)
        # a scan may have the folder's name
        self.folder = Path(tempfile.mkdtemp(dir=scratch_folder())) / PurePosixPath(self.store.address).name
        self.copy = HollowCopy(self.store, self.folder, _is_read)

    def pull(self) -> None:
        """
        List the objects.

        Raises:
            FileNotFoundError: when there are none.
            RuntimeError, ValueError: see :meth:`ObjectStore.objects`.
        """
        self.copy.pull()
        if not self.folder.exists():
            raise FileNotFoundError(
                f"{self.store.address} holds no object: set dataset_dir to the folder that holds the scans."
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name addresses in place of paths in what is raised."""
        try:
            yield
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(self.copy.text(str(error))) from error

    def address_of(self, path: Path) -> str:
        """Return the address of a file or folder of the copy."""
        return self.copy.text(str(path))

    def item(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """
        Name a scan's files by their addresses.

        Args:
            item: the scan, as ``load_datalist`` gives it.

        Returns:
            The same for :func:`fetch_scan`, with ``stored``: address of the folder, bytes of all files, and of each
            the size and what changes with its content, by its name in the folder.
        """
        files = [file for path in map(Path, ensure_tuple(item["image"])) for file in _files(path)]
        states = {file.relative_to(self.folder).as_posix(): file.stat() for file in files}
        stored = {
            "address": self.store.address,
            "bytes": sum(state.st_size for state in states.values()),
            "files": {name: f"{state.st_size} {state.st_mtime_ns}" for name, state in states.items()},
        }
        return _moved(item, str(self.folder), self.store.address) | {"stored": stored}

    def mark_dicom(self, headers: Mapping[Path, DicomSlice | None]) -> None:
        """Let files of the copy look like DICOM that are so in the store, but for slices, which are known."""
        for path, one in headers.items():
            is_other = one is None or one.is_dicom and one.skipped
            if is_other and (status := path.stat()).st_size >= len(_PREAMBLE):
                with path.open("r+b") as file:
                    file.write(_PREAMBLE)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def fetch_scan(item: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """
    Fetch a scan.

    Args:
        item: the scan, as :meth:`StoredScans.item` gives it.
        folder: where to.

    Returns:
        The scan as ``load_datalist`` would give it from there.

    Raises:
        FileNotFoundError: when a file is not there any more.
        RuntimeError: when the store does not answer.
    """
    stored = item["stored"]
    ObjectStore(stored["address"]).fetch({name: folder / name for name in stored["files"]})
    return _moved({name: item[name] for name in item if name != "stored"}, stored["address"], str(folder))


def read_stored_slices(address: str, sizes: Mapping[str, int]) -> list[DicomSlice | None]:
    """
    Read headers of files in a store, as ``read_slices`` does: of DICOM the beginning, which holds it as a rule.

    Args:
        address: of the store's folder.
        sizes: of the files in bytes, by their names.

    Returns:
        What each file says, with its name in place of its path; None for a list of other files.
    """
    store = ObjectStore(address)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, str(number)) for number, name in enumerate(sizes)}
        heads = store.heads({name: min(size, _HEAD_BYTES) for name, size in sizes.items()})
        longer = {}
        for (name, path), head in zip(paths.items(), heads):
            path.write_bytes(head)
            os.truncate(path, sizes[name])
            if looks_like_dicom(path) and len(head) < sizes[name] and not any(tag in head for tag in _PIXEL_DATA):
                longer[name] = path
        store.fetch(longer)
        slices = read_slices(paths.values())
        return [one and replace(one, file=name) for name, one in zip(paths, slices)]


def _files(path: Path) -> Iterable[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path, *companion_files(path)]


def _is_read(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name in _READ_NAMES or path.suffix.lower() in _READ_SUFFIXES


def _moved(item: Mapping[str, Any], source: str, target: str) -> dict[str, Any]:
    """Name a scan's files by where they are now."""

    def moved(image: str | list[str]) -> str | list[str]:
        return (
            image.replace(source, target)
            if isinstance(image, str)
            else [path.replace(source, target) for path in image]
        )

    return {name: moved(value) if name in ("image", "label") else value for name, value in item.items()}
