"""Data loaders that MONAI lacks."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch.distributed as dist
from monai.data import DataLoader, list_data_collate
from torch.utils.data import Dataset

from scripts.loading_faults import loading_fault, where_raised
from scripts.scan_names import printable

__all__ = ["SkippedScan", "SkippingDataLoader"]

_logger = logging.getLogger(__name__)


class SkippedScan(NamedTuple):
    """A scan that could not be loaded: its name, and what is wrong with which file."""

    scan: str
    reason: str


class SkippingDataLoader(DataLoader):
    """
    Load scans one at a time, and pass over those that fail; MONAI's ``DataLoader`` ends the run at the first.

    Each that fails is logged as an error at once and kept in ``skipped``; end a run by ``raise_skipped``, so that it
    does not end as if all were well. How many scans will come is not known beforehand, so there is no length.

    Where Python starts processes by a fork server, as on Linux from 3.14 on, the loading ones are forked instead:
    MONAI's ``Invertd`` takes a transform from a fork server for another one, and the prediction would end there.

    Args:
        dataset: gives items as dictionaries; those of its ``data`` hold ``scan``, a name, and ``image``, a path
            or the list of a DICOM series' slices.
        num_workers: processes that load ahead; 0 loads in this one.
        kwargs: as for ``DataLoader``; the batch size is 1.
    """

    def __init__(self, dataset: Dataset, num_workers: int = 0, **kwargs: Any) -> None:
        if num_workers > 0 and multiprocessing.get_context().get_start_method() == "forkserver":
            kwargs.setdefault("multiprocessing_context", "fork")
        super().__init__(_Guarded(dataset), num_workers, batch_size=1, collate_fn=_collate, **kwargs)
        self.skipped: list[SkippedScan] = []

    def __len__(self) -> int:
        raise TypeError("it is not known beforehand how many scans can be loaded.")

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own iterator's class
        self.skipped = []
        for batch in super().__iter__():
            if isinstance(batch, SkippedScan):
                _logger.error(f"{batch.scan} is passed over: {batch.reason}")
                self.skipped.append(batch)
            else:
                yield batch

    def raise_skipped(self) -> None:
        """
        End a run in which scans were passed over; does nothing where all were loaded.

        Processes of one run wait for each other here, so that none is ended by another's scans while it still writes.

        Raises:
            ValueError: with those of all processes, and the reason of each.
        """
        parts: list[Any] = [(self.skipped, len(self.dataset))] * idist.get_world_size()  # type: ignore[arg-type]
        if len(parts) > 1:
            dist.all_gather_object(parts, parts[0])
        if skipped := [scan for scans, _ in parts for scan in scans]:
            reasons = "\n".join(f"{scan.scan}: {scan.reason}" for scan in skipped)
            total = sum(count for _, count in parts)
            others = "the others are done" if total > len(skipped) else "and there are no others"
            raise ValueError(f"{len(skipped)} of {total} scans could not be loaded, {others}:\n{reasons}")


class _Guarded(Dataset):
    """Items of a data set, or in their place what is wrong with them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:  # whatever a file can make the readers and the transforms raise
            item = self.dataset.data[index]
            _logger.debug("%s: loading failed\n%s", item["scan"], where_raised(error))
            return SkippedScan(item["scan"], printable(loading_fault(error, item["image"])))


def _collate(items: Sequence[Any]) -> Any:
    return items[0] if isinstance(items[0], SkippedScan) else list_data_collate(items)
