"""Workers on a Ray cluster that are given one scan after the other, and may be killed, leave, or be slow."""

from __future__ import annotations

import heapq
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from scripts.data.dataloader import SkippedScan

__all__ = ["WorkerPool", "connected", "worker_environment"]

_WAITING = 1000  # scans that are listed ahead
_LISTING_S = 0.1  # until the list is asked again for more
_LOOKS_AGAIN_S = 1.0
# Workers that end as they start, one behind the other, before the run does: by an error of theirs, which the next one
# meets, or by whatever ends processes and nodes
_FAILED_STARTS, _LOST_STARTS = 3, 10
_OBJECT_STORE_BYTES = 256 * 2**20  # of an engine on this machine: what goes through it is small

_logger = logging.getLogger(__name__)


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """
    Use a Ray cluster; one that this program uses already is left as it is.

    Args:
        address: of the cluster; None starts one on this machine, which ends with this process.
        cpus: cores that one on this machine needs at least, whether it has them or not.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        ConnectionError: when there is no cluster at the address.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ray is not installed: pip install -c constraints.txt '.[cluster]'.") from error
    if ray.is_initialized():
        yield
        return
    if address is None:
        cores = max(cpus, os.cpu_count() or 1)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers of each cluster
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES)
    else:
        ray.init(address)
    try:
        yield
    finally:
        ray.shutdown()


def worker_environment() -> dict[str, Any]:
    """Return Ray's ``runtime_env`` in which the processes of a cluster find the bundle, and show no progress bars."""
    bundle = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [bundle, os.environ.get("PYTHONPATH")]))
    return {"env_vars": {"PYTHONPATH": path, "TQDM_DISABLE": "1"}}


@dataclass(order=True)
class _Task:
    """A scan; the largest goes first, so that no long one begins when all others are done."""

    minus_bytes: int
    number: int
    item: Mapping[str, Any] = field(compare=False)
    losses: int = field(default=0, compare=False)  # workers that ended while they had it


@dataclass(eq=False)
class _Worker:
    """An actor, the answer that it has started, and what it was given, by the answers that it owes."""

    actor: Any
    started: Any
    is_ready: bool = False
    in_hand: dict[Any, _Task] = field(default_factory=dict)

    @property
    def owed(self) -> list[Any]:
        return list(self.in_hand) if self.is_ready else [self.started]


class WorkerPool:
    """
    Give scans to workers as these have room for them, and again where a worker ends.

    Ray's own ``ActorPool`` ends at the first worker that is lost. Here another one takes its place, and what it had is
    given to others; alone, so that a scan that ends its worker each time is found, and given up after some tries. A
    worker gets a scan to load while it predicts another one, unless too few are left for all.

    Args:
        worker: class of the workers: ``start()`` makes one ready and returns what all must agree on, ``predict(item)``
            returns the answer for a scan. Errors that they raise end the worker.
        arguments: of the class.
        workers: their number; None: as many as the cluster has room for.
        cpus_per_worker: cores of each.
        gpus_per_worker: GPUs of each; None: 1 where the cluster has any, or 0.
        max_retries: how often a scan is given again.
        room: scans that a worker has at once.
        agreed: what ``start`` must return; None: whatever.

    Raises:
        ValueError: when the cluster has no room for a worker.
    """

    def __init__(
        self,
        worker: Callable[..., Any],
        arguments: tuple[Any, ...] = (),
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float | None = None,
        max_retries: int = 2,
        room: int = 2,
        agreed: Any = None,
    ) -> None:
        import ray

        self.ray = ray
        cluster = ray.cluster_resources()
        gpus = (1 if cluster.get("GPU") else 0) if gpus_per_worker is None else gpus_per_worker
        fits = min(int(cluster.get(kind, 0) / each) for kind, each in (("CPU", cpus_per_worker), ("GPU", gpus)) if each)
        if workers is None and not fits:
            raise ValueError(
                f"the cluster has {cluster.get('CPU', 0):g} cores and {cluster.get('GPU', 0):g} GPUs, no room for a "
                f"worker of {cpus_per_worker} and {gpus}: lower cpus_per_worker or gpus_per_worker, or give workers "
                "where the cluster grows."
            )
        self.count = fits if workers is None else workers
        self.max_retries = max_retries
        self.room = room
        self.agreed = agreed
        self.workers: list[_Worker] = []
        self.waiting: list[_Task] = []
        self.failed_starts = 0
        options = {"num_cpus": cpus_per_worker, "num_gpus": gpus, "max_concurrency": room + 1}
        self._actor = ray.remote(worker).options(**options, runtime_env=worker_environment())
        self._arguments = tuple(map(ray.put, arguments))

    def predict(self, items: Iterable[Mapping[str, Any] | None]) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """
        Have scans predicted, in any order.

        Args:
            items: the scans, which are taken as there is room for them; None where the next one is not known as yet.

        Yields:
            Each scan once, and the answer for it; a ``SkippedScan`` where it ended its worker too often.

        Raises:
            RuntimeError: when no worker can start, or none is left.
        """
        source, number = iter(items), 0
        is_listed = False
        try:
            while True:
                while not is_listed and len(self.waiting) < _WAITING:
                    try:
                        item = next(source)
                    except StopIteration:
                        is_listed = True
                        break
                    if item is None:
                        break
                    heapq.heappush(self.waiting, _Task(-_bytes(item), number, item))
                    number += 1
                if is_listed and not self.waiting and not any(worker.in_hand for worker in self.workers):
                    return
                self._start()
                self._give()
                yield from self._answers(_LOOKS_AGAIN_S if is_listed else _LISTING_S)
        finally:
            for worker in self.workers:
                self.ray.kill(worker.actor)
            self.workers.clear()

    def _start(self) -> None:
        """Start workers, as many as there is work for."""
        in_hand = sum(len(worker.in_hand) for worker in self.workers)
        while len(self.workers) < min(self.count, in_hand + len(self.waiting)):
            actor = self._actor.remote(*self._arguments)
            self.workers.append(_Worker(actor, actor.start.remote()))

    def _give(self) -> None:
        """Give each worker as much as it may have, those with the least first."""
        ready = [worker for worker in self.workers if worker.is_ready]
        for has in range(self.room):
            for worker in ready:
                if len(worker.in_hand) == has and self.waiting and self._may_have(worker):
                    task = heapq.heappop(self.waiting)
                    worker.in_hand[worker.actor.predict.remote(task.item)] = task

    def _may_have(self, worker: _Worker) -> bool:
        """Tell whether a worker may have the next scan: one that has ended a worker is alone in its own."""
        if not worker.in_hand:
            return True
        are_sound = not any(task.losses for task in (self.waiting[0], *worker.in_hand.values()))
        return are_sound and len(self.waiting) >= len(worker.in_hand) * len(self.workers)

    def _answers(self, timeout_s: float) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Wait for the next answer, or for the end of a worker."""
        owed = {answer: worker for worker in self.workers for answer in worker.owed}
        if not owed:
            time.sleep(timeout_s)
            return
        for answer in self.ray.wait(list(owed), timeout=timeout_s)[0]:
            worker = owed[answer]
            try:
                value = self.ray.get(answer)
            except self.ray.exceptions.RayTaskError as error:  # raised in the worker
                if isinstance(error, OSError) and worker.is_ready:  # such as a disk that is full, which the next meets
                    self.count -= 1
                yield from self._lost(worker, str(error.cause), _FAILED_STARTS)
            except self.ray.exceptions.RayError as error:
                _logger.debug("a worker is lost: %s", error)
                reason = "its process was ended, perhaps because memory ran out, or its node left"
                yield from self._lost(worker, reason, _LOST_STARTS)
            else:
                if worker.is_ready:
                    yield worker.in_hand.pop(answer).item, value
                else:
                    self._is_started(worker, value)

    def _is_started(self, worker: _Worker, value: Any) -> None:
        if self.agreed is not None and value != self.agreed:
            raise RuntimeError(
                "a worker has other weights, settings or code than the process that started the run: give all nodes "
                "the same bundle."
            )
        worker.is_ready = True
        self.failed_starts = 0

    def _lost(self, worker: _Worker, reason: str, most_starts: int) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Take back what a worker had; yield what is given up. So many are lost as they start before the run ends."""
        self.workers.remove(worker)
        self.ray.kill(worker.actor)
        self.failed_starts += not worker.is_ready
        if self.failed_starts >= most_starts or self.count == 0:
            raise RuntimeError(f"no worker can go on: {reason}")
        names = ", ".join(str(task.item["scan"]) for task in worker.in_hand.values()) or "no scan"
        _logger.warning(f"A worker is lost, which had {names}: {reason}.")
        for task in worker.in_hand.values():
            task.losses += 1
            if task.losses <= self.max_retries:
                heapq.heappush(self.waiting, task)
                continue
            image = f"{task.item['image']}: " if isinstance(task.item["image"], str) else ""
            text = f"{image}the worker that predicts it is lost each time ({reason}); it was tried {task.losses} times."
            yield task.item, SkippedScan(task.item["scan"], text)


def _bytes(item: Mapping[str, Any]) -> int:
    """Return about the size of a scan's files; 0 where they cannot be asked for it. Those of a bucket were asked."""
    if "stored" in item:
        return item["stored"]["bytes"]
    files = ensure_tuple(item["image"])
    try:
        return len(files) * os.stat(files[0]).st_size
    except OSError:
        return 0
