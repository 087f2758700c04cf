"""A pool of workers that end in all ways: each scan is answered once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pool_workers
import pytest
from conftest import ray_on_this_machine

from scripts.data.dataloader import SkippedScan
from scripts.runs.worker_pool import WorkerPool

pytest.importorskip("ray", reason="the package ray is not installed: it is in the extra [cluster]")


@pytest.fixture(scope="module", autouse=True)
def engine(the_only_cluster: None) -> Iterator[None]:
    """Ray on this machine, with room for two workers, and without a token in the home directory."""
    with ray_on_this_machine(2, PYTHONPATH=str(Path(__file__).parent)):
        yield


def pool(folder: Path, worker: type = pool_workers.Worker, **arguments: Any) -> WorkerPool:
    given = () if worker is pool_workers.Unable else (str(folder),)
    return WorkerPool(worker, given, **{"workers": 2, **arguments})


def scans(folder: Path, *kinds: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"scan": f"scan{number}", "image": str(folder), **kind} for number, kind in enumerate(kinds)]


def answers(pool: WorkerPool, items: Any) -> dict[str, Any]:
    """The answers by scan; each scan has one."""
    found = list(pool.predict(items))
    assert len({item["scan"] for item, _ in found}) == len(found)
    return {item["scan"]: answer for item, answer in found}


def tries(folder: Path, scan: str) -> list[str]:
    return (folder / scan).read_text().split()


def test_scans_whose_worker_ends_are_done_by_another_and_given_up_at_last(tmp_path):
    items = scans(tmp_path, {}, {"kills": 9}, {}, {"kills": 1}, {"fails": 1}, {})
    found = answers(pool(tmp_path, max_retries=2), items)
    reason = "its process was ended, perhaps because memory ran out, or its node left"
    assert found.pop("scan1") == SkippedScan(
        "scan1", f"{tmp_path}: the worker that predicts it is lost each time ({reason}); it was tried 3 times."
    )
    assert found == {item["scan"]: f"{item['scan']} done" for item in items if item["scan"] != "scan1"}
    assert [len(set(tries(tmp_path, scan))) for scan in ("scan1", "scan3", "scan4")] == [3, 2, 2], "other workers"


def test_a_worker_whose_disk_is_full_gets_no_more_and_a_run_without_workers_ends(tmp_path):
    items = scans(tmp_path, {"fills_disk": 1}, {"seconds": 0.1}, {})
    one = pool(tmp_path)
    assert set(answers(one, items).values()) == {"scan0 done", "scan1 done", "scan2 done"}
    assert one.count == 1
    with pytest.raises(RuntimeError, match="no worker can go on: .*scan0.nii.gz cannot be written"):
        answers(pool(tmp_path), scans(tmp_path, {"fills_disk": 9}))


def test_workers_that_cannot_start_or_are_of_another_kind_end_the_run(tmp_path):
    with pytest.raises(RuntimeError, match="no worker can go on: /data/model.pt is no file that exists"):
        answers(pool(tmp_path, pool_workers.Unable), scans(tmp_path, {}))
    with pytest.raises(RuntimeError, match="a worker has other weights, settings or code"):
        answers(pool(tmp_path, agreed="another"), scans(tmp_path, {}))
    with pytest.raises(ValueError, match="the cluster has 2 cores and 0 GPUs, no room for a worker of 4 and 0"):
        pool(tmp_path, workers=None, cpus_per_worker=4)


def test_workers_that_are_killed_as_they_start_are_started_again(tmp_path):
    """As where several nodes leave while none has started."""
    assert answers(pool(tmp_path, pool_workers.StartsLate, workers=1), scans(tmp_path, {})) == {"scan0": "scan0 done"}
    assert len(tries(tmp_path, "starts")) == 6


def test_a_worker_that_is_busy_keeps_nobody_waiting(tmp_path):
    """The long scan's worker has at most one other; the other worker has all the rest."""
    items = scans(tmp_path, {"seconds": 3}, *[{"seconds": 0.05}] * 11)
    found = [item["scan"] for item, _ in pool(tmp_path).predict(items)]
    assert len(found) == 12 and found.index("scan0") >= 10


def test_scans_are_predicted_while_others_are_listed(tmp_path):
    seen: list[str] = []

    def listed() -> Iterator[dict[str, Any] | None]:
        first, second = scans(tmp_path, {}, {})
        yield first
        while not seen:
            yield None
        yield second

    for item, _ in pool(tmp_path, workers=1).predict(listed()):
        seen.append(item["scan"])
    assert seen == ["scan0", "scan1"]
