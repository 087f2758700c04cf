"""Data loaders that MONAI lacks."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch.distributed as dist
from monai.data import DataLoader, list_data_collate
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from scripts.data.by_value import pack, unpack
from scripts.data.loading_faults import loading_fault, where_raised
from scripts.data.loading_process import LoadingProcess, how_it_ended
from scripts.files.scan_names import printable

__all__ = ["PipeFallbackDataLoader", "SkippedScan", "SkippingDataLoader", "raise_skipped"]

_logger = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it


class SkippedScan(NamedTuple):
    """A scan that failed: its name, and what is wrong with which file."""

    scan: str
    reason: str


class PipeFallbackDataLoader(DataLoader):
    """
    Load batches in processes that need no more shared memory than there is; MONAI's ``DataLoader`` crashes there.

    A container has 64 MB of it unless it is told otherwise: too little for seven batches of 16 ROIs of 48x48x32 voxels,
    which is what three processes load ahead, and for two of 64x64x64. Where a batch might not fit, it goes through a
    pipe, at 14 ms for 9 MB of the main process's time, and the log says so once.

    Args:
        dataset: as for ``DataLoader``.
        num_workers: processes that load ahead; 0 loads in this one.
        kwargs: as for ``DataLoader``.
    """

    def __init__(self, dataset: Dataset, num_workers: int = 0, **kwargs: Any) -> None:
        if num_workers > 0:
            kwargs["collate_fn"] = _PackingCollate(kwargs.get("collate_fn", list_data_collate))
        super().__init__(dataset, num_workers, **kwargs)
        self._has_told = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own iterator's class
        for batch in super().__iter__():
            if not isinstance(batch, _Packed):
                yield batch
                continue
            if not self._has_told:
                _logger.warning(
                    f"{_SHARED_MEMORY} has too little room for {self.num_workers} processes that load batches of "
                    f"{batch.nbytes / 1e6:.0f} MB: they are sent through pipes, which takes longer. A container gets "
                    "more by docker run --shm-size 8g."
                )
                self._has_told = True
            yield self.collate_fn(unpack(batch.content, batch.buffers))


class _Packed(NamedTuple):
    """The items of a batch by value, as ``pack`` gives them."""

    content: bytes
    buffers: list[NDArray[np.uint8]]

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)


class _PackingCollate:
    """
    Collate items in a loading process, or pack them where shared memory might not hold the batches of all.

    What collates in a loading process writes into shared memory, so packed items are collated where they arrive.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[Any]) -> Any:
        worker = get_worker_info()
        if worker is not None and _SHARED_MEMORY.is_dir():  # elsewhere than on Linux it has no such limit
            packed = _Packed(*pack(items))
            if shutil.disk_usage(_SHARED_MEMORY).free < 2 * worker.num_workers * packed.nbytes:
                return packed
        return self.collate(items)


class SkippingDataLoader(DataLoader):
    """
    Load scans one at a time, and skip those that fail; MONAI's ``DataLoader`` ends the run at the first.

    Each that fails is logged as an error at once and kept in ``skipped``; end a run by ``raise_skipped``, so that it
    does not end as if all were well. How many scans will come is not known beforehand, so there is no length.

    Scans are loaded in processes of the loader's own, which need no shared memory. Where one is ended, by the system
    for want of memory or by a library's crash, its scan is loaded once more in a fresh one, and is then skipped.

    Where Python starts processes by a fork server, as on Linux from 3.14 on, the loading ones are forked instead:
    MONAI's ``Invertd`` takes a transform from a fork server for another one, and the prediction would end there.

    Args:
        dataset: gives items as dictionaries; those of its ``data`` hold ``scan``, a name, and ``image``, a path
            or the list of a DICOM series' slices.
        num_workers: processes that load ahead, each one scan; 0 loads in this one.
        meanwhile: called once, while such a process loads the first scan.
    """

    def __init__(self, dataset: Dataset, num_workers: int = 0, meanwhile: Callable[[], object] | None = None) -> None:
        super().__init__(_Guarded(dataset), 0, batch_size=1, collate_fn=_first)
        self.processes = num_workers
        self.meanwhile = meanwhile
        self.skipped: list[SkippedScan] = []

    def __len__(self) -> int:
        raise TypeError("it is not known beforehand how many scans can be loaded.")

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own iterator's class
        self.skipped = []
        for batch in self._loaded_here() if self.processes == 0 else self._loaded_elsewhere():
            if isinstance(batch, SkippedScan):
                self.skip(batch)
            else:
                yield batch
            del batch  # of 0.4 GB, before the next one comes

    def skip(self, scan: SkippedScan) -> None:
        """Take a scan for failed; one that was loaded, too, when it cannot be predicted."""
        _logger.error(f"{scan.scan} is skipped: {scan.reason}")
        self.skipped.append(scan)

    def _requests(self) -> Iterator[Any]:
        """Yield what the data set is asked for; None for nothing as yet, while something is in hand."""
        return iter(range(len(self.dataset)))  # type: ignore[arg-type]

    def _loaded_here(self) -> Iterator[Any]:
        return super().__iter__()

    def _loaded_elsewhere(self) -> Iterator[Any]:
        """Give the batches in order, with as many in the making as there are processes."""
        requests = self._requests()
        idle: list[LoadingProcess] = []
        asked: deque[tuple[LoadingProcess, Any]] = deque()
        try:
            while True:
                self._ask(requests, idle, asked)
                if not asked:
                    return
                if self.meanwhile is not None:
                    self.meanwhile()
                    self.meanwhile = None
                process, request = asked.popleft()
                batch, process = self._answer(process, request)
                idle.append(process)
                self._ask(requests, idle, asked)
                yield batch
                del batch
        finally:
            for process in (*idle, *(process for process, _ in asked)):
                process.close()

    def _ask(
        self, requests: Iterator[Any], idle: list[LoadingProcess], asked: deque[tuple[LoadingProcess, Any]]
    ) -> None:
        """Let idle processes load what comes next."""
        while len(asked) < self.processes and (request := next(requests, None)) is not None:
            process = idle.pop() if idle else self._start()
            process.ask(request)
            asked.append((process, request))

    def _start(self) -> LoadingProcess:
        method = multiprocessing.get_context().get_start_method()
        context = multiprocessing.get_context("fork" if method == "forkserver" else method)
        return LoadingProcess(self.dataset.__getitem__, context)

    def _answer(self, process: LoadingProcess, request: Any) -> tuple[Any, LoadingProcess]:
        """Wait for a scan, of a second process where the first is ended; return it and the process that goes on."""
        item = self.dataset.item(request)  # type: ignore[attr-defined]  # of _Guarded
        for last in (False, True):
            try:
                return process.answer(), process
            except EOFError:
                ended = how_it_ended(process.exit_code())
            process = self._start()
            if not last:
                _logger.warning(f"{item['scan']}: the process that loads it {ended}. It is loaded once more.")
                process.ask(request)
        image = f"{item['image']}: " if isinstance(item["image"], str) else ""
        return SkippedScan(item["scan"], f"{image}the process that loads it {ended}; it was tried twice."), process

    def raise_skipped(self) -> None:
        """End a run in which scans were skipped, see :func:`raise_skipped`."""
        raise_skipped(self.skipped, len(self.dataset))  # type: ignore[arg-type]


def raise_skipped(skipped: Sequence[SkippedScan], total: int) -> None:
    """
    End a run in which scans were skipped; does nothing where none was.

    Processes of one run wait for each other here, so that none is ended by another's scans while it still writes.

    Args:
        skipped: those of this process.
        total: its scans.

    Raises:
        ValueError: with those of all processes, and the reason of each.
    """
    parts: list[Any] = [(skipped, total)] * idist.get_world_size()
    if len(parts) > 1:
        dist.all_gather_object(parts, parts[0])
    if skipped := [scan for scans, _ in parts for scan in scans]:
        reasons = "\n".join(f"{scan.scan}: {scan.reason}" for scan in skipped)
        total = sum(count for _, count in parts)
        others = "the others are done" if total > len(skipped) else "and there are no others"
        raise ValueError(f"{len(skipped)} of {total} scans failed, {others}:\n{reasons}")


class _Guarded(Dataset):
    """Items of a data set, each a batch of its own, or in their place what is wrong with them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, request: Any) -> Mapping[str, Any]:
        """Return what is asked for: it is an item by itself, or the number of one."""
        return request if isinstance(request, Mapping) else self.dataset.data[request]

    def __getitem__(self, request: Any) -> Any:
        try:
            return list_data_collate([self.dataset[request]])
        except Exception as error:  # whatever a file can make the readers and the transforms raise
            item = self.item(request)
            _logger.debug("%s: loading failed\n%s", item["scan"], where_raised(error))
            return SkippedScan(item["scan"], printable(loading_fault(error, item["image"])))


def _first(items: Sequence[Any]) -> Any:
    return items[0]
