"""A disk that is full, files and folders without permission, a device that is missing: told, and nothing lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_scan
from monai.engines import SupervisedEvaluator
from test_configs import SMALL_PREDICTION, SMALL_TRAINING, files, workflow
from test_large_archives import contents
from torch import nn

from scripts.data.datalist import load_datalist
from scripts.data.dataset import MappedDataset
from scripts.files.atomic_write import write_tensors
from scripts.handlers import ResumableCheckpointHandler

NOBODY = 65534


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in (501, 502):
        write_scan(tmp_path / "data", "test", number, fractures=1, shape=(20, 18, 16))
    for section, number in (("train", 1), ("train", 2), ("val", 421)):
        write_scan(tmp_path / "data", section, number, fractures=1, shape=(20, 18, 16))
    return tmp_path / "data"


def prediction(data: Path, folder: Path, model: Path, **settings: Any) -> Callable[[], Any]:
    arguments = {"dataset_dir": str(data), "output_dir": str(folder), "checkpoint": str(model), "engine": "torch"}
    ready = workflow("inference.yaml", **SMALL_PREDICTION | {"resume": True} | arguments | settings)
    ready.initialize()
    return ready.run


def reason(error: BaseException) -> str:
    """The error at the bottom, around which MONAI raises others."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def in_another_process(prepare: Callable[[], Any], act: Callable[[], Any]) -> str:
    """Prepare and act in a process of its own, since no limit can be taken back there; returns what it fails with."""

    def child(told: Any) -> None:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        torch.set_num_threads(1)
        prepare()
        try:
            act()
            told.send("")
        except Exception as error:
            told.send(reason(error))

    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(send,))
    process.start()
    send.close()
    told = receive.recv()
    process.join()
    return told


def no_file_above(size_bytes: int) -> Callable[[], None]:
    """Limit the size of files, which fails as a full disk does, while they are written."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


# ---- a full disk ----


def test_a_prediction_on_a_full_disk_stops_and_goes_on_when_there_is_room(data, tmp_path, model):
    undisturbed, full = tmp_path / "undisturbed", tmp_path / "full"
    shown = {"outputs::review_page": False, "outputs::pictures": True}
    prediction(data, undisturbed, model, **shown)()
    picture = (undisturbed / "pictures" / "RibFrac501.png").stat().st_size
    others = [path.stat().st_size for path in undisturbed.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert max(others) < picture - 1000
    told = in_another_process(no_file_above(max(others) + 1000), prediction(data, full, model, **shown))
    picture_name = f"{full}/pictures/RibFrac501.png"
    assert re.fullmatch(rf"OSError: {picture_name} cannot be written \(File too large\): make room on its disk.*", told)
    assert "predictions/RibFrac501.nii.gz" in files(full)
    assert not [name for name in files(full) if Path(name).name.startswith(".")], "no lock, nothing unfinished"
    prediction(data, full, model, **shown)()
    assert contents(full) == contents(undisturbed)


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "fractures.csv"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("RibFrac502.nii.gz", "RibFrac502.json", "report.html", "summary.json")
        ),
    ],
)
def test_whatever_file_the_disk_has_no_room_for(name, data, tmp_path, model, monkeypatch):
    run, replace = prediction(data, tmp_path / "out", model), Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RuntimeError) as error:
        run()
    told = reason(error.value)
    assert re.search(rf"OSError: .*/{name} cannot be written \(No space left on device\): make room", told)
    left = files(tmp_path / "out")
    assert not [path for path in left if path.endswith(name)]
    assert not [path for path in left if Path(path).name.startswith(".")], "no lock, nothing unfinished"
    done = "records/RibFrac501.json" in left
    assert done == (name != "config.yaml")
    monkeypatch.undo()
    prediction(data, tmp_path / "out", model)()
    assert {"fractures.csv", "records/RibFrac502.json", "summary.json"} <= set(files(tmp_path / "out"))


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path):
    network = nn.Linear(100, 100)
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], network)
    trainer = SupervisedEvaluator(torch.device("cpu"), [], network)
    trainer.state.max_epochs = 3
    handler = ResumableCheckpointHandler(tmp_path, network, evaluator, {})
    handler.save(trainer)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    told = in_another_process(no_file_above(10_000), lambda: handler.save(trainer))
    assert re.fullmatch(rf"OSError: {tmp_path}/\w+\.pt cannot be written \(File too large\): make room .*", told)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_cache_that_does_not_fit_is_told_by_name(num_workers, data, tmp_path):
    settings = SMALL_TRAINING | {"dataset_dir": str(data), "output_dir": str(tmp_path / "out")}
    ready = workflow("train.yaml", kind="train", **settings | {"cache_dir": str(tmp_path / "cache")})
    ready.initialize()
    dataset = ready.parser.get_parsed_content("train::dataset")
    dataset.num_workers = num_workers
    told = in_another_process(no_file_above(10_000), dataset.prepare)
    assert re.fullmatch(rf"OSError: {tmp_path}/cache/\w+-\w+\.pt cannot be written \(File too large\): make .*", told)
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_errors_of_a_writer_are_told_as_they_are(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):  # the latter from Python 3.14 on
        write_tensors(tmp_path / "weights.pt", lambda: None)
    assert list(tmp_path.iterdir()) == []


# ---- no permission ----


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may look into, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def as_nobody() -> None:
    """Lose the rights of root, who may write to anything; anybody else has none to lose."""
    if os.getuid() == 0:
        os.setuid(NOBODY)


def test_a_folder_without_permission_is_told_before_any_work(shared, data, model):
    (shared / "out").mkdir(mode=0o555)
    told = in_another_process(as_nobody, prediction(data, shared / "out", model))
    advice = "choose another folder, or mend this one."
    assert told == f"PermissionError: {shared}/out cannot be written to (Permission denied): {advice}"
    assert list((shared / "out").iterdir()) == []


def test_a_scan_without_permission_is_named(shared):
    write_scan(shared, "train", 1, fractures=1, shape=(8, 7, 6))
    path = shared / "ribfrac-train-images" / "RibFrac1-image.nii.gz"
    path.chmod(0)
    told = in_another_process(as_nobody, lambda: load_datalist(shared, "training"))
    assert re.match(rf"ValueError: .*{path}.*Permission denied", told, re.DOTALL), told


# ---- no such device ----


@pytest.mark.parametrize("config, kind", [("train.yaml", "train"), ("inference.yaml", "infer")])
def test_a_gpu_that_is_not_there_is_refused_before_any_work(config, kind, tmp_path):
    ready = workflow(config, kind=kind, device="cuda:99", output_dir=str(tmp_path / "out"))
    with pytest.raises(RuntimeError) as error:
        ready.initialize()
    assert re.match("ValueError: device is cuda:99, but torch sees .*: leave device out", reason(error.value))
    assert list(tmp_path.iterdir()) == []


# ---- what a killed run leaves in a cache that others may share ----


def test_what_is_left_unfinished_in_a_cache_goes_when_nobody_can_be_writing_it(data, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    old, new = (cache / f".{digit * 16}.scan.pt" for digit in "01")
    for path, age_s in ((old, 3700), (new, 60)):
        path.touch()
        before = path.stat().st_mtime - age_s
        os.utime(path, (before, before))
    MappedDataset(load_datalist(data, "training"), [], cache, 0).prepare()
    assert not old.exists() and new.exists()
