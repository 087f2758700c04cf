"""Load scans that come one by one while others are predicted, as a worker of an archive gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from monai.data import Dataset

from scripts.data.dataloader import SkippedScan, SkippingDataLoader

__all__ = ["StreamDataLoader"]


class StreamDataLoader(SkippingDataLoader):
    """
    Load scans as they are put, and skip those that fail; ``SkippingDataLoader`` knows all of them beforehand.

    Where another scan was put by then, it is loaded while the one before is predicted.

    Args:
        transform: loads a scan, from an item as ``load_datalist`` gives it.
        num_workers: see :class:`SkippingDataLoader`.
    """

    def __init__(self, transform: Callable[[Any], Any], num_workers: int = 0) -> None:
        super().__init__(_Stream(transform), num_workers)
        self._queue: SimpleQueue[Mapping[str, Any]] = SimpleQueue()
        self._answers: dict[str, Future[Any]] = {}
        self._in_hand = 0

    def put(self, item: Mapping[str, Any]) -> Future[Any]:
        """
        Ask for a scan, behind those that were asked for before.

        Args:
            item: the scan.

        Returns:
            What :meth:`finish` is given; or a ``SkippedScan``.
        """
        answer = self._answers[item["scan"]] = Future()
        self._queue.put(item)
        return answer

    def finish(self, scan: str, value: Any) -> None:
        """Answer for a scan that was loaded, when all of it is done."""
        self._in_hand -= 1
        self._answers.pop(scan).set_result(value)

    def fail(self, error: BaseException) -> None:
        """Raise an error in whoever waits for a scan."""
        while self._answers:
            self._answers.popitem()[1].set_exception(error)

    def skip(self, scan: SkippedScan) -> None:
        self.finish(scan.scan, scan)

    def _loaded_here(self) -> Iterator[Any]:
        return (self.dataset[item] for item in self._requests())

    def _requests(self) -> Iterator[Any]:
        while True:
            try:
                item = self._queue.get(block=self._in_hand == 0)
            except Empty:
                yield None
                continue
            self._in_hand += 1
            yield item


class _Stream(Dataset):
    """Items that are asked for by themselves, not by a number."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        super().__init__([], transform)

    def __getitem__(self, item: Any) -> Any:
        return Dataset([item], self.transform)[0]
