"""Archives of which workers, nodes and drivers are lost: in the end they are as where nobody disturbs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from conftest import BUNDLE_ROOT, write_scan
from test_archive import archive, contents, run
from test_configs import SMALL_PREDICTION

from scripts.files.atomic_write import unfinished_files

ray = pytest.importorskip("ray", reason="the package ray is not installed: it is in the extra [cluster]")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("the_only_cluster")]

SCANS = [f"RibFrac{number}" for number in range(501, 507)]
FAULTY, DEADLY = "RibFrac503", "RibFrac505"
DIFFERS = ("summary.json", "progress.json", "report.html")  # what was done before; how long it took; the page of it
FOR_EVER_S = 3600
PATIENCE_S = 900  # on a machine that is busy


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(BUNDLE_ROOT), str(Path(__file__).parent)]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in SCANS:
        write_scan(folder, "test", int(name[-3:]), fractures=1, shape=(24, 22, 16))
    return folder


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def ending(plans: Path) -> dict[str, Any]:
    """The setting by which processes end as planned, in place of the first step, which does nothing here."""
    return {"postprocessing::transforms::0": {"_target_": "pool_workers.EndsAtd", "folder": str(plans)}}


@pytest.fixture
def plan(plans: Path) -> Iterator[Callable[..., Path]]:
    """Plan how often, and after how many seconds, what has a scan is ended; the path of those that tried."""

    def planned(kills: int, seconds: int, scan: str = FAULTY) -> Path:
        (plans / scan).write_text(f"{kills} {seconds}")
        return plans / f"{scan}.tries"

    yield planned
    for path in plans.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def expected(
    data: Path, tmp_path_factory: pytest.TempPathFactory, model: Path, ending: dict[str, Any]
) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected") / "one"
    assert run(data, folder, model, **ending) == ""
    return results(folder)


def results(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name not in DIFFERS}


def records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "records").glob("[!.]*.json")}


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def is_clean(folder: Path) -> bool:
    return not [path for part in (folder, *folder.iterdir()) if part.is_dir() for path in unfinished_files(part)]


def test_a_scan_that_ends_its_worker_once_is_done_and_one_that_does_each_time_given_up(
    data, tmp_path, model, expected, ending, plan
):
    tries = [plan(1, 0), plan(9, 0, DEADLY)]
    message = archive(data, tmp_path, model, max_retries=2, **ending)
    assert message.startswith(f"1 of 6 scans failed, the others are done:\n{DEADLY}: ")
    assert "the worker that predicts it is lost each time" in message and "it was tried 3 times" in message
    done, given_up = (len(of_scan.read_text().split()) for of_scan in tries)
    assert done == 2 and given_up in (2, 3), "a scan that waited in a worker that was lost counts as tried"
    found = results(tmp_path)
    of_others = {name for name in expected if any(scan in name for scan in SCANS) and DEADLY not in name}
    assert {name for name in found if name.startswith("predictions/RibFrac")} <= of_others
    assert len(of_others) >= 5 and all(found[name] == expected[name] for name in of_others) and is_clean(tmp_path)
    assert json.loads((tmp_path / "progress.json").read_text())["failed"] == 1


def test_a_node_leaves_in_the_middle_of_a_scan(data, tmp_path, model, expected, ending, plan):
    tries = plan(1, FOR_EVER_S)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 2**27})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=2**27) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False)

    def leave() -> None:
        wait_until(lambda: tries.exists() and tries.read_text().endswith("\n"))
        raylet = int(tries.read_text())
        node = next(node for node in nodes if node.all_processes["raylet"][0].process.pid == raylet)
        cluster.remove_node(node, allow_graceful=False)

    leaving = Thread(target=leave, daemon=True)
    leaving.start()
    try:
        assert archive(data, tmp_path, model, **ending) == ""
        assert len(set(tries.read_text().split())) == 2, "on another node"
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert results(tmp_path) == expected and is_clean(tmp_path)


def test_the_driver_is_killed_in_the_middle_of_a_scan_and_started_again(
    data, tmp_path, model, expected, ending, plan, plans
):
    settings = SMALL_PREDICTION | {"dataset_dir": data, "output_dir": tmp_path, "checkpoint": model, "num_workers": 0}
    words = [f"--{name.replace('::', '#')}={value}" for name, value in (settings | ending).items()]
    command = [sys.executable, "-m", "scripts", "archive", "--workers=2", "--cpus_per_worker=1", *words]
    tries = plan(1, FOR_EVER_S)
    process = subprocess.Popen(command, cwd=BUNDLE_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: process.poll() is not None or tries.exists() and len(records(tmp_path)) >= 2)
    assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    its = [child for child in children if "ScanWorker" in child.name()]
    assert len(its) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_alive, its)))
    for child in filter(is_alive, children):  # Ray's own ones outlive it by a minute, and disturb the next cluster
        child.kill()
    made = records(tmp_path)
    assert 2 <= len(made) < 6
    (plans / FAULTY).unlink()
    done = subprocess.run(command, cwd=BUNDLE_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert {path: records(tmp_path)[path] for path in made} == made, "a scan is predicted twice"
    assert results(tmp_path) == expected and is_clean(tmp_path)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
