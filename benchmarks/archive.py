"""
Measure how an archive is given to workers: against shards, at random kills, its overhead, and its memory.

    python benchmarks/archive.py balance
    python benchmarks/archive.py overhead --scans 10000
    python benchmarks/archive.py kills --kills 30
    python benchmarks/archive.py simulate --workers 64 --scans 100000

The workers wait in place of a network, so that the figures are of the pool alone and hold on a busy machine. `simulate`
runs nothing: it computes how long an archive takes, and what is used up first.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.waiting_worker import Waiting  # noqa: E402
from scripts.files.atomic_write import unfinished_files  # noqa: E402
from scripts.runs.worker_pool import WorkerPool, connected  # noqa: E402

__all__ = ["balance", "kills", "main", "overhead", "simulate"]

WORKERS = 2
LONG = 10  # times as long: one scan in ten
MIB = 2**20


def _scans(seconds: Sequence[float], folder: Path | None = None) -> list[dict[str, Any]]:
    """Make scans of some seconds, with a file in the folder that is as large as the scan is long, without content."""
    scans = []
    for number, each in enumerate(seconds):
        image = "" if folder is None else str(folder / f"scan{number}")
        if image:
            Path(image).touch()
            os.truncate(image, int(each * MIB))
        scans.append({"scan": f"scan{number}", "image": image, "seconds": each})
    return scans


def _pool(folder: Path | None = None, **arguments: Any) -> WorkerPool:
    return WorkerPool(Waiting, (None if folder is None else str(folder),), WORKERS, 1, 0, **arguments)


def balance(scans: int, rounds: int, seconds: float) -> dict[str, float]:
    """
    Compare the pool with shards, where one scan in ten takes ten times as long.

    Args:
        scans: of a round.
        rounds: each with the scans in another order.
        seconds: of a short scan.

    Returns:
        Seconds of all rounds: of the slowest shard by the scans' own times alone; of the pool, without the start of its
        workers; at least, where both workers were always busy; and how many times as fast the pool is.
    """
    shards = engine = least = 0.0
    for number in range(rounds):
        times = [seconds * (LONG if i % 10 == 0 else 1) for i in range(scans)]
        random.Random(number).shuffle(times)
        shards += max(sum(times[shard::WORKERS]) for shard in range(WORKERS))
        least += sum(times) / WORKERS
        with tempfile.TemporaryDirectory() as folder:
            engine += _seconds(_pool(), _scans(times, Path(folder)))
    return {"shards_s": shards, "pool_s": engine, "least_s": least, "times_as_fast": shards / engine}


def _seconds(pool: WorkerPool, scans: Iterable[dict[str, Any]]) -> float:
    """Time a pool from where all its workers have started."""
    begin = 0.0

    def items() -> Iterator[dict[str, Any] | None]:
        nonlocal begin
        yield from _scans([0.1] * WORKERS)
        while not (len(pool.workers) == WORKERS and all(its.is_ready and not its.in_hand for its in pool.workers)):
            yield None
        begin = time.perf_counter()
        yield from scans

    for _ in pool.predict(items()):
        pass
    return time.perf_counter() - begin


def overhead(scans: int) -> dict[str, float]:
    """
    Time the pool by itself, and watch its memory.

    Args:
        scans: of no time.

    Returns:
        Milliseconds a scan; and MiB of the driver and of a worker after a tenth of the scans, and at the end.
    """
    memory: list[tuple[float, float]] = []

    def watched() -> Iterator[dict[str, Any]]:
        for number, item in enumerate(_scans([0.0] * scans)):
            if number in (scans // 10, scans - 1):
                worker = max(_workers(), key=lambda process: process.pid)
                memory.append((psutil.Process().memory_info().rss / MIB, worker.memory_info().rss / MIB))
            yield item

    seconds = _seconds(_pool(), watched())
    (driver, worker_mib), (driver_end, worker_end) = memory
    return {
        "ms_a_scan": 1000 * seconds / scans,
        "driver_mib": driver,
        "driver_mib_at_the_end": driver_end,
        "worker_mib": worker_mib,
        "worker_mib_at_the_end": worker_end,
    }


def _workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found += [child] if f"ray::{Waiting.__name__}" in " ".join(child.cmdline()) else []
        except psutil.Error:  # it has just ended
            continue
    return found


def kills(count: int, scans: int, seed: int = 0) -> dict[str, int]:
    """
    Kill workers at random moments by SIGKILL until so many were killed, and see that each scan is done once.

    Args:
        count: kills.
        scans: of up to a second.
        seed: of the moments.

    Returns:
        How many were killed; the scans; those answered, answered twice, without a file, and given up; unfinished files.
    """
    moments, stop, killed = random.Random(seed), Event(), []

    def kill() -> None:
        while len(killed) < count and not stop.wait(moments.uniform(0.2, 2)):
            if found := _workers():
                os.kill(moments.choice(found).pid, signal.SIGKILL)
                killed.append(True)

    killer = Thread(target=kill, daemon=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        killer.start()
        items = _scans([moments.uniform(0, 1) for _ in range(scans)])
        answers = [(item["scan"], answer) for item, answer in _pool(folder, max_retries=count).predict(items)]
        stop.set()
        killer.join()
        names = [scan for scan, _ in answers]
        missing = [item for item in items if not (folder / f"{item['scan']}.json").is_file()]
        for path in folder.glob("[!.]*.json"):
            json.loads(path.read_text())
        return {
            "killed": len(killed),
            "scans": scans,
            "answered": len(set(names)),
            "answered_twice": len(names) - len(set(names)),
            "without_file": len(missing),
            "given_up": sum(answer is not None for _, answer in answers),
            "unfinished_files": len(list(unfinished_files(folder))),
        }


def simulate(
    workers: int,
    scans: int,
    load_s: float,
    predict_s: float,
    scan_mb: float,
    storage_mb_s: float,
    overhead_ms: float,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Compute how long an archive takes, from the times of its steps.

    Args:
        workers: each loads a scan while it predicts another one.
        scans: whose times vary by a third.
        load_s: of loading and preparing a scan, without waiting for the storage.
        predict_s: of the network, post-processing and writing.
        scan_mb: that are read and written for a scan.
        storage_mb_s: that the storage gives to all.
        overhead_ms: of the driver for a scan.
        seed: of the times.

    Returns:
        ``hours``; ``scans_a_second`` that each part could give at most; and ``first``, the part that is used up first.
    """
    most = {
        "workers": workers / max(load_s, predict_s),
        "storage": storage_mb_s / scan_mb,
        "driver": 1000 / overhead_ms,
    }
    slowest = min(most, key=lambda part: most[part])
    wait_s = max(0.0, workers / min(most["storage"], most["driver"]) - max(load_s, predict_s))
    times = random.Random(seed)
    ends = [0.0] * workers
    for _ in range(scans):  # each goes to the worker that is free first
        heapq.heapreplace(ends, ends[0] + max(load_s, predict_s) * times.uniform(2 / 3, 4 / 3) + wait_s)
    return {"hours": max(ends) / 3600, "scans_a_second": most, "first": slowest}


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run one measurement, and print its figures as JSON.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = argparse.ArgumentParser(description="Measure how an archive is given to workers.")
    parser.add_argument("what", choices=["balance", "overhead", "kills", "simulate"])
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5, help="of balance")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a short scan, of balance")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=64, help="of simulate, as all that follows")
    parser.add_argument("--load_s", type=float, default=12.0, help="loading and preparing a scan")
    parser.add_argument("--predict_s", type=float, default=10.0, help="network, post-processing and writing")
    parser.add_argument("--scan_mb", type=float, default=110.0)
    parser.add_argument("--storage_mb_s", type=float, default=2000.0)
    parser.add_argument("--overhead_ms", type=float, default=5.0)
    options = parser.parse_args(arguments)
    if options.what == "simulate":
        steps = (options.load_s, options.predict_s, options.scan_mb, options.storage_mb_s, options.overhead_ms)
        print(json.dumps(simulate(options.workers, options.scans, *steps), indent=1))
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "bundle")])
    with connected(None, WORKERS):
        if options.what == "balance":
            found: Mapping[str, Any] = balance(options.scans, options.rounds, options.seconds)
        elif options.what == "overhead":
            found = overhead(options.scans)
        else:
            found = kills(options.kills, options.scans)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
