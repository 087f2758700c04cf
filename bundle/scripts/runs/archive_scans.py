"""The scans of an archive, of which the first are known while others are still looked for."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from monai.config import PathLike

from scripts.data.datalist import ScanList, load_datalist
from scripts.files.object_store import is_address
from scripts.files.scan_names import safe_name
from scripts.images.dicom_series import DicomSlice, read_slices, scan_names, series_of
from scripts.images.header_index import HeaderIndex
from scripts.runs.stored_scans import StoredScans, read_stored_slices
from scripts.runs.worker_pool import worker_environment

__all__ = ["ArchiveScans"]

_WAITS_S = 0.05  # for a series, before it says that none is known as yet
_TASK_FILES = 256  # that a task reads
_CORES_OF_TASK = 8  # of the cluster, for each task that reads at once


class ArchiveScans(ScanList):
    """
    List an archive as ``load_datalist`` does, by tasks on a Ray cluster that read the headers of DICOM files.

    What was read is kept in an index, so that a file that has not changed is not opened again. The list is empty until
    :meth:`listed` is at its end. Scans in a bucket are as ``StoredScans`` gives them.

    Args:
        header_index: file of the index.
        dataset_dir: as of ``load_datalist``; or the address of a folder in a bucket.
        arguments: likewise.
    """

    def __init__(self, header_index: PathLike, dataset_dir: PathLike, **arguments: Any) -> None:
        super().__init__()
        self.header_index = header_index
        self.stored = StoredScans(str(dataset_dir)) if is_address(dataset_dir) else None
        self.dataset_dir = Path(dataset_dir).expanduser() if self.stored is None else self.stored.folder
        self.arguments = arguments
        self._found: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def listed(self) -> Iterator[Mapping[str, Any] | None]:
        """
        List the scans.

        Yields:
            DICOM series as soon as all files of their folder are read, as they will most likely be in the list; None
            where nothing is known as yet.

        Raises:
            FileNotFoundError, ValueError: see ``load_datalist``.
            RuntimeError: when a bucket does not answer.
        """
        with ThreadPoolExecutor(1) as thread:
            listing: Future[ScanList] = thread.submit(self._load)
            while not (listing.done() and self._found.empty()):
                try:
                    yield self._found.get(timeout=_WAITS_S)
                except Empty:
                    yield None
            self[:] = listing.result()
            self.ignored = listing.result().ignored

    def _load(self) -> ScanList:
        load = partial(load_datalist, self.dataset_dir, read_headers=self._read_headers, **self.arguments)
        if self.stored is None:
            return load()
        self.stored.pull()
        with self.stored.named():
            scans = load()
        return ScanList(map(self.stored.item, scans), scans.ignored)

    def _read_headers(self, files: Iterable[Path]) -> Iterator[DicomSlice | None]:
        """Read headers by tasks, a bounded number at once; in the order of the files."""
        import ray

        files = list(files)
        if not files:
            return
        index = HeaderIndex(self.header_index, str if self.stored is None else self.stored.address_of)
        # beside the workers, which have all cores
        options = {"num_cpus": 0, "scheduling_strategy": "SPREAD", "runtime_env": worker_environment()}
        read = ray.remote(_read if self.stored is None else read_stored_slices).options(**options).remote
        at_once = max(2, int(ray.cluster_resources().get("CPU", 0) / _CORES_OF_TASK))
        source, pending = iter(files), deque[tuple[list[Path], dict[Path, DicomSlice | None], Any]]()
        folder: list[DicomSlice] = []
        while True:
            while len(pending) < at_once and (some := list(itertools.islice(source, _TASK_FILES))):
                known = index.find(some)
                missing = [path for path in some if path not in known]
                pending.append((some, known, read(*self._of_task(missing)) if missing else None))
            if not pending:
                break
            some, known, answer = pending.popleft()
            if answer is not None:
                read_now = [path for path in some if path not in known]
                headers = {path: one and replace(one, file=str(path)) for path, one in zip(read_now, ray.get(answer))}
                index.put(headers)
                known |= headers
            if self.stored is not None:
                self.stored.mark_dicom(known)
            for path in some:
                if folder and Path(folder[0].file).parent not in path.parents:
                    self._tell(folder)
                    folder = []
                if (one := known[path]) is not None:
                    folder.append(one)
                yield one
        self._tell(folder)

    def _of_task(self, files: list[Path]) -> tuple[Any, ...]:
        """Return the arguments of a task that reads headers."""
        if self.stored is None:
            return (files,)
        names = [path.relative_to(self.dataset_dir).as_posix() for path in files]
        return self.stored.store.address, {name: path.stat().st_size for name, path in zip(names, files)}

    def _tell(self, slices: list[DicomSlice]) -> None:
        """Tell the scans of a folder."""
        series, _ = series_of(slices)
        for name, one in zip(scan_names(series, self.dataset_dir), series):
            item = {"scan": safe_name(name), "image": [str(path) for path in one.files]}
            self._found.put(item if self.stored is None else self.stored.item(item))


def _read(files: list[Path]) -> list[DicomSlice | None]:
    """The task: read headers on any node."""
    return list(read_slices(files))
