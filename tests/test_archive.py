"""A prediction by several workers: the results of a single process, whatever fails."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ending_of, ray_on_this_machine, write_scan
from test_configs import SMALL_PREDICTION, files, workflow

from scripts.data import load_datalist
from scripts.runs import PrepareBatchNearRibs
from scripts.runs.archive_worker import ScanWorker

pytest.importorskip("ray", reason="the package ray is not installed: it is in the extra [cluster]")

BROKEN = 503


@pytest.fixture(scope="module")
def engine(the_only_cluster: None) -> Iterator[None]:
    """Ray on this machine, with room for two workers, and without a token in the home directory."""
    with ray_on_this_machine(2):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans of different sizes, one of which is cut."""
    folder = tmp_path_factory.mktemp("data")
    for number, slices in zip(range(501, 505), (16, 20, 24, 18)):
        write_scan(folder, "test", number, fractures=1, shape=(24, 22, slices))
    cut = folder / "ribfrac-test-images" / f"RibFrac{BROKEN}-image.nii.gz"
    cut.write_bytes(cut.read_bytes()[:200])
    return folder


def run(data: Path, folder: Path, model: Path, *overlays: str, **settings: Any) -> str:
    """Run; returns what the run ends with, which is nothing where all is well."""
    settings = {"dataset_dir": str(data), "output_dir": str(folder), "checkpoint": str(model), **settings}
    return ending_of(workflow("inference.yaml", *overlays, **SMALL_PREDICTION | settings))


def archive(data: Path, folder: Path, model: Path, **settings: Any) -> str:
    return run(data, folder, model, "archive.yaml", **{"workers": 2, "cpus_per_worker": 1, **settings})


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run, without what tells of its own settings, and when its page was made."""
    found = {name: (folder / name).read_bytes() for name in files(folder) if name != "config.yaml"}
    found["report.html"] = re.sub(rb'<dt>made</dt>.*?</time>|data-run=".*?"', b"", found["report.html"])
    return found


def test_a_worker_looks_near_ribs_as_a_single_process_does(data, tmp_path, model, monkeypatch):
    """A process's own worker, without an engine."""
    looks: list[tuple[float | None, float]] = []
    near = PrepareBatchNearRibs._near

    def seen(self: PrepareBatchNearRibs, *of_scan: Any) -> Any:
        looks.append((self.distance_mm, self.min_probability))
        return near(self, *of_scan)

    monkeypatch.setattr(PrepareBatchNearRibs, "_near", seen)
    settings = {
        "dataset_dir": str(data),
        "output_dir": str(tmp_path),
        "checkpoint": str(model),
        "bone::max_rib_mm": 7.0,
    }
    config = workflow("inference.yaml", "archive.yaml", **SMALL_PREDICTION | settings).parser.get()
    worker = ScanWorker(config, os.getcwd())
    worker.start()
    worker.predict(load_datalist(data, "test", labels=False, check=False)[0])
    assert looks == [(7.0, 0.03)] and (tmp_path / "predictions" / "RibFrac501.nii.gz").is_file()


@pytest.mark.slow
def test_two_workers_give_the_results_of_one_process(engine, data, tmp_path, model):
    one, two, shown = tmp_path / "one", tmp_path / "two", {"outputs::pictures": True}
    assert "1 of 4 scans failed, the others are done" in (said := run(data, one, model, **shown))
    assert archive(data, two, model, **shown) == said
    expected, found = contents(one), contents(two)
    progress = json.loads(found.pop("progress.json"))
    assert progress.pop("scans_per_minute") > 0
    assert progress == {"scans": 4, "done_before": 0, "done": 3, "failed": 1, "minutes_left": 0}
    assert list(found) == list(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert len([name for name in found if name.startswith("predictions/")]) == 4, "three masks and the table"


@pytest.mark.slow
def test_what_is_done_is_left_out(engine, data, tmp_path, model):
    run(data, tmp_path, model)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").glob("*.nii.gz")}
    assert "1 of 1 scans failed" in archive(data, tmp_path, model)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert json.loads((tmp_path / "progress.json").read_text())["done_before"] == 3
