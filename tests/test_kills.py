"""
Runs that are killed at any moment, and started again: they end as one that nobody disturbed, and lose little.

A test run kills each kind of run twice. ``KILLS=20 python -m pytest tests/test_kills.py`` kills each 20 times.
"""

from __future__ import annotations

import csv
import gzip
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import killed_runs
import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, write_scan
from PIL import Image
from test_download import FakeZenodo, FakeZenodoHandler, zipped

from scripts.files.atomic_write import unfinished_files

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "2"))
SCANS = 4


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that are forked from one that has imported everything and computed nothing: they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(BUNDLE_ROOT)]))
        patch.setenv("OMP_NUM_THREADS", "1")
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    return context


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for section, first, count in (("train", 1, 3), ("val", 421, 1), ("test", 501, SCANS)):
        for number in range(first, first + count):
            write_scan(folder, section, number, fractures=1, shape=(24, 22, 20))
    return folder


@pytest.fixture(scope="module")
def slow_zenodo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeZenodo]:
    """A server that takes its time, with archives of 60 files."""

    class Slow(FakeZenodoHandler):
        def setup(self) -> None:
            super().setup()
            write = self.wfile.write

            def slowly(content: bytes) -> int:
                for start in range(0, len(content), 50_000):
                    write(content[start : start + 50_000])
                    time.sleep(0.01)
                return len(content)

            self.wfile.write = slowly  # type: ignore[method-assign]

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # whoever asked was killed
                pass

    noise = random.Random(0)
    archives = {
        name: zipped({f"RibFrac{number}-image.nii.gz": gzip.compress(noise.randbytes(20_000)) for number in range(60)})
        for name in ("ribfrac-train-images-1.zip", "ribfrac-val-images.zip")
    }
    server = FakeZenodo(
        {
            3893508: {"ribfrac-train-images-1.zip": archives["ribfrac-train-images-1.zip"]},
            3893498: {"ribfrac-train-info-2.csv": b"public_id,label_id,label_code\n"},
            3893496: {"ribfrac-val-images.zip": archives["ribfrac-val-images.zip"]},
        }
    )
    server.RequestHandlerClass = Slow
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def whole(path: Path) -> None:
    """Raise when a file is not whole; of other kinds than these there are none, but for TensorBoard's and the log."""
    content = path.read_bytes()
    match path.suffix:
        case ".gz":
            gzip.decompress(content)
        case ".json":
            json.loads(content)
        case ".yaml":
            yaml.safe_load(content)
        case ".png":
            Image.open(path).load()
        case ".pt":
            torch.load(path, weights_only=True)
        case ".csv":
            assert content.endswith(b"\n")
        case ".html":
            assert content.rstrip().endswith(b"</html>")
        case other:
            raise AssertionError(f"{path}: {other} is not expected")


def finished(folder: Path) -> dict[str, Path]:
    """The files under their final names, by these; hidden ones are locks, and what is not finished."""
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in names.items() if not path.name.startswith(".") and "tensorboard" not in name}


@dataclass
class Kind:
    """A kind of run: what it is, what of its files differs each time, and what it must have kept when it is killed."""

    start: Callable[..., None]
    differ: tuple[str, ...] = ()  # files that may differ
    kept: Callable[[Path], list[Path]] = lambda folder: []  # files that may not be written again
    last: Callable[[Path], bool] = lambda folder: True  # from here on it is killed
    partial: str = ""  # ending of files that are not whole by design
    leaves: bool = False  # whether unfinished files may stay for a while
    same: Callable[[Path, Path], None] = lambda folder, undisturbed: None  # of what differs, that its content does not


def masks_with_record(folder: Path) -> list[Path]:
    records = [path.stem for path in (folder / "records").glob("[!.]*.json")]
    masks = [path for path in (folder / "predictions").glob("[!.]*.nii.gz")]
    assert len(masks) <= len(records) + 1  # the scan in hand
    return [path for path in masks if path.name.removesuffix(".nii.gz") in records]


def all_predicted(folder: Path) -> bool:
    return len(list((folder / "records").glob("[!.]*.json"))) == SCANS


def no_epoch_is_lost(folder: Path) -> list[Path]:
    if (folder / "curves.csv").exists():
        with (folder / "curves.csv").open(newline="") as file:
            epochs = len(list(csv.DictReader(file)))
        last = folder / "models" / "last.pt"
        assert (torch.load(last, weights_only=True)["epoch"] if last.exists() else 0) >= epochs - 1
    return []


def same_training(folder: Path, undisturbed: Path) -> None:
    """The same curves and weights; the files differ, since they hold the folder's name or times."""
    tables = [(path / "curves.csv").read_text() for path in (folder, undisturbed)]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 1 + killed_runs.EPOCHS
    for name in ("final.pt", "model.pt"):
        weights = [torch.load(path / "models" / name, weights_only=True) for path in (folder, undisturbed)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1]), name


_OF_PREDICTION = ("config.yaml", "summary.json", "report.html")  # its folder; what was done before; when it was made
KINDS = {
    "training": Kind(
        killed_runs.train,
        differ=("config.yaml", "training.html", "curves.csv", "curves.png", "models/"),
        kept=no_epoch_is_lost,
        same=same_training,
    ),
    "prediction": Kind(killed_runs.predict, differ=_OF_PREDICTION, kept=masks_with_record),
    "page": Kind(killed_runs.predict, differ=_OF_PREDICTION, kept=masks_with_record, last=all_predicted),
    "cache": Kind(killed_runs.build_cache, kept=lambda folder: list((folder / "cache").glob("[!.]*.pt")), leaves=True),
    "download": Kind(
        killed_runs.download,
        kept=lambda folder: list(folder.glob("*/[!.]*.nii.gz")),
        partial=".part",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_killed_at_any_moment_and_started_again(name, processes, data, slow_zenodo, tmp_path, model):
    kind = KINDS[name]
    arguments = (slow_zenodo.url,) if name == "download" else (data, model)

    def run(folder: Path, kill_after: float | None = None) -> tuple[int, float]:
        """Run, and kill; returns the exit status, and the seconds from where it may be killed."""
        process = processes.Process(target=kind.start, args=(folder, *arguments))
        process.start()
        while process.is_alive() and not kind.last(folder):
            time.sleep(0.001)
        begin = time.perf_counter()
        if kill_after is not None:
            process.join(kill_after)
            process.kill()
        process.join()
        return process.exitcode, time.perf_counter() - begin

    undisturbed = tmp_path / "undisturbed"
    status, seconds = run(undisturbed)
    assert status == 0, undisturbed.with_suffix(".log").read_text()
    expected = finished(undisturbed)
    assert len(expected) > 3

    moments = random.Random(name)
    hits = 0
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        moment = moments.uniform(0, seconds)
        status, _ = run(folder, moment if number else moment / 5)  # once early: the first run may have been a slow one
        hits += status == -9
        for path in finished(folder).values():
            if not (kind.partial and path.suffix in (kind.partial, ".zip")):
                whole(path)
        kept = {path: path.stat().st_mtime_ns for path in kind.kept(folder)}
        # all scans are done: what goes on has nothing to show
        lacks = {"report.html"} if all_predicted(folder) and not (folder / "report.html").exists() else set()

        status, _ = run(folder)
        told = folder.with_suffix(".log").read_text()
        assert status == 0, told
        found = finished(folder)
        assert set(expected) - lacks <= set(found) <= set(expected), number
        for path, changed in kept.items():
            assert not path.exists() or path.stat().st_mtime_ns == changed, f"{path} was written again"
        for file in found:
            if not file.startswith(kind.differ or ("-",)):
                assert found[file].read_bytes() == expected[file].read_bytes(), (number, file)
        kind.same(folder, undisturbed)
        left = [path for path, _ in unfinished_files(folder)] + list(folder.rglob(".lock*"))
        left += [path for part in folder.rglob("*") if part.is_dir() for path, _ in unfinished_files(part)]
        assert left == [] or kind.leaves, number
    assert hits > 0, "no run was killed before its end"
    print(f"{name}: {hits} of {KILLS} kills met a run of {seconds:.1f} s")
