"""Prepared scans on disk, of which only what is sampled is read."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, write_scan
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    MapTransform,
    RandSpatialCropd,
    ScaleIntensityd,
)

from scripts import datasets
from scripts.datalist import load_datalist
from scripts.datasets import MappedDataset, files_hashing


class Noted(MapTransform):
    """Leaves a line in a file for each scan that is loaded, and a number and an array beside it."""

    def __init__(self, log: Path) -> None:
        super().__init__("image")
        self.log = log

    def __call__(self, data: Any) -> dict[Any, Any]:
        with self.log.open("a") as file:
            file.write(f"{data['scan']}\n")
        return {**data, "plane": np.array([1.0, 0.0, 0.0, 3.5])}


def transforms(log: Path, factor: float = 1.0) -> Compose:
    return Compose(
        [
            LoadImaged(["image", "label"], image_only=True),
            EnsureChannelFirstd(["image", "label"]),
            ScaleIntensityd("image", minv=None, maxv=None, factor=factor - 1),
            CastToTyped(["image", "label"], torch.int16),
            Noted(log),
            RandSpatialCropd(["image", "label"], roi_size=(8, 8, 8), random_size=False),
        ]
    )


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    for number in (1, 2, 3):
        write_scan(tmp_path / "data", "train", number, fractures=2)
    return load_datalist(tmp_path / "data", "training")


def loads(log: Path) -> list[str]:
    return sorted(log.read_text().split()) if log.exists() else []


def mapped(items: list[dict[str, Any]], folder: Path, num_workers: int = 0, **arguments: Any) -> MappedDataset:
    dataset = MappedDataset(items, transforms(folder / "log", **arguments), folder / "cache", num_workers)
    dataset.prepare()
    return dataset


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_scan_is_loaded_once_and_for_the_next_training_not_again(
    items: list[dict[str, Any]], tmp_path: Path, num_workers: int
) -> None:
    for _ in range(2):
        dataset = mapped(items, tmp_path, num_workers)
        for _ in range(2):
            assert len(list(DataLoader(dataset, batch_size=1, num_workers=num_workers))) == 3
    assert loads(tmp_path / "log") == ["RibFrac1", "RibFrac2", "RibFrac3"]


def test_items_are_those_without_a_cache(items: list[dict[str, Any]], tmp_path: Path) -> None:
    chain = Compose(transforms(tmp_path / "log").transforms[:-1])
    plain, kept = MappedDataset(items, chain, None), MappedDataset(items, chain, tmp_path / "cache", 0)
    for a, b in zip(plain, kept):
        assert a.keys() == b.keys() and a["label_codes"] == b["label_codes"]
        for key in ("image", "label"):
            assert isinstance(b[key], MetaTensor) and b[key].dtype == torch.int16
            assert torch.equal(a[key].as_tensor(), b[key].as_tensor())
            np.testing.assert_array_equal(a[key].affine, b[key].affine)
        np.testing.assert_array_equal(a["plane"], b["plane"])
    assert loads(tmp_path / "log") == sorted(["RibFrac1", "RibFrac2", "RibFrac3"] * 2)


def test_without_a_folder_each_item_is_loaded_anew(items: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = MappedDataset(items[:1], transforms(tmp_path / "log"), None)
    dataset[0], dataset[0]
    assert loads(tmp_path / "log") == ["RibFrac1", "RibFrac1"]


def test_scans_are_prepared_when_asked_for(items: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = MappedDataset(items, transforms(tmp_path / "log"), tmp_path / "cache")
    assert not loads(tmp_path / "log")  # a config may be read, and checked, without a training
    dataset[1], dataset[1]
    assert loads(tmp_path / "log") == ["RibFrac2"]
    dataset.prepare()
    assert loads(tmp_path / "log") == ["RibFrac1", "RibFrac2", "RibFrac3"]


def test_a_change_of_voxels_is_not_kept(items: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = MappedDataset(items, Compose(transforms(tmp_path / "log").transforms[:-1]), tmp_path / "cache", 0)
    dataset[0]["image"][:] = 7
    assert (dataset[0]["image"] != 7).any()


def test_a_scan_that_changed_is_loaded_anew(items: list[dict[str, Any]], tmp_path: Path) -> None:
    mapped(items, tmp_path)
    os.utime(items[1]["label"], ns=(1, 1))
    mapped(items, tmp_path)
    assert loads(tmp_path / "log").count("RibFrac2") == 2 and len(loads(tmp_path / "log")) == 4


def test_other_transforms_before_the_random_ones_prepare_anew(items: list[dict[str, Any]], tmp_path: Path) -> None:
    mapped(items, tmp_path)
    mapped(items, tmp_path, factor=2.0)
    assert len(loads(tmp_path / "log")) == 6


def test_a_stopped_preparation_leaves_whole_files_and_goes_on(
    items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def stop_in_the_second(obj: Any, file: IO[bytes]) -> None:
        if list((tmp_path / "cache").glob("[!.]*.pt")):
            file.write(b"half")
            raise KeyboardInterrupt
        save(obj, file)

    monkeypatch.setattr(torch, "save", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        mapped(items, tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(torch, "save", save)
    mapped(items, tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 3 and len(loads(tmp_path / "log")) == 4


def test_a_full_disk_is_told_before_it_is_full(
    items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")(free=1000)
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="the 2 scans left need about 0 GB, more than the disk has: set cache_dir"):
        mapped(items, tmp_path)


def test_loading_does_not_change_the_hash_of_a_data_set_that_shares_transforms(
    items: list[dict[str, Any]], tmp_path: Path
) -> None:
    """As training and validation do; or what a first training prepared for the validation is of no use to the next."""
    shared = transforms(tmp_path / "log")
    first = MappedDataset(items[:2], shared, tmp_path / "cache", 0)
    first.prepare()
    assert MappedDataset(items[2:], shared, tmp_path / "cache", 0).transform_hash == first.transform_hash


def prepare_at_once(
    items: list[dict[str, Any]], folder: Path, start: Any, results: Any, loading: Callable[[Path], Compose]
) -> None:
    dataset = MappedDataset(items, loading(folder / f"log-{os.getpid()}"), folder / "cache", 0)
    start.wait()
    dataset.prepare()
    results.put([float(item["image"].sum()) for item in dataset])


def without_its_log(log: Path) -> Compose:
    return Compose(transforms(log).transforms[:-2])  # Noted would tell the two processes' files apart


def test_two_trainings_may_prepare_one_folder_at_once(items: list[dict[str, Any]], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    arguments = items, tmp_path, start, results, without_its_log
    processes = [context.Process(target=prepare_at_once, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    alone = [float(item["image"].sum()) for item in MappedDataset(items, without_its_log(tmp_path / "log"), None)]
    assert found == [alone, alone]
    assert len(list((tmp_path / "cache").iterdir())) == 3  # whole files, and nothing else


def test_hash_tells_files_and_plain_values_apart(tmp_path: Path) -> None:
    folder = tmp_path / "slices"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"one")
    item = {"scan": "a", "image": str(folder), "codes": {1: 2}}
    first = files_hashing(item)
    assert files_hashing({**item, "array": np.ones(3)}) == first  # no plain data
    assert files_hashing({**item, "codes": {1: 3}}) != first
    (folder / "2.dcm").write_bytes(b"two")
    assert files_hashing(item) != first
    shutil.rmtree(folder)


@pytest.mark.slow
def test_training_transforms_hash_alike_in_every_process() -> None:
    """Or each training would prepare all scans anew."""
    code = (
        "from monai.bundle import ConfigParser\n"
        "from monai.data.utils import pickle_hashing\n"
        "parser = ConfigParser()\n"
        "parser.read_config('configs/train.yaml')\n"
        "print(pickle_hashing(parser.get_parsed_content('loading')).decode())\n"
    )
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=BUNDLE_ROOT, env=env, capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        for env in environments
    }
    assert len(hashes) == 1
