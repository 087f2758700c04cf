"""Prepared scans on disk, of which only what is sampled is read."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, write_scan
from monai.bundle import ConfigParser
from monai.data import DataLoader, MetaTensor
from monai.data.utils import pickle_hashing
from monai.transforms import (
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    MapTransform,
    RandSpatialCropd,
    ScaleIntensityd,
)

from scripts.data import dataset as datasets
from scripts.data.datalist import load_datalist
from scripts.data.dataset import MappedDataset, files_hashing


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


# ---- damaged files ----


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def voxel_flipped(path: Path) -> None:
    content = path.read_bytes()
    image = torch.load(path, weights_only=True)["tensors"]["image"].numpy().tobytes()
    flipped(path, content.index(image) + len(image) // 2)


def hole(path: Path) -> None:
    """Zeros in the middle, as a disk leaves them after a power failure, with the size and time of change as before."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    start = content.index(torch.load(path, weights_only=True)["tensors"]["image"].numpy().tobytes())
    content[start : start + 512] = bytes(512)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def of_another(path: Path) -> None:
    other = next(file for file in sorted(path.parent.glob("*.pt")) if file != path)
    shutil.copy(other, path)


def of_before(path: Path) -> None:
    """As versions before this one wrote it: without its name."""
    kept = torch.load(path, weights_only=True)
    del kept["name"]
    torch.save(kept, path)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "it is damaged"),
    "emptied": (emptied, "it is damaged"),
    "zeroed": (zeroed, "it is damaged"),
    "a byte of the header": (lambda path: flipped(path, 0), "it is damaged"),
    "a byte of a voxel": (voxel_flipped, "it is damaged"),
    "a byte of the end": (lambda path: flipped(path, -22), "it is damaged"),
    "a hole": (hole, "it is damaged"),
    "another scan's": (of_another, "it is of another scan"),
    "an earlier version's": (of_before, "it is of an earlier version of this bundle"),
}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("when", ["before a training", "during one"])
def test_a_damaged_file_is_prepared_anew(
    damage: str, when: str, items: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = mapped(items, tmp_path)
    path = dataset._file_of(items[1])
    image = datasets._read_mapped(path)["image"].clone()
    time.sleep(0.01)  # a change within the same tick of the file system's clock has the same time
    DAMAGES[damage][0](path)
    if when == "before a training":
        dataset = mapped(items, tmp_path)
    elif damage == "a hole":
        pytest.skip("what has the size and time of a file that was found whole is not compared again in a run")
    assert dataset[1]["scan"] == "RibFrac2"
    assert torch.equal(datasets._read_mapped(path)["image"], image)
    assert told(caplog) == [f"{path}: {DAMAGES[damage][1]}; RibFrac2 is prepared again."]
    assert loads(tmp_path / "log") == ["RibFrac1", "RibFrac2", "RibFrac2", "RibFrac3"]


def test_every_byte_that_is_flipped_is_seen_or_does_no_harm(items: list[dict[str, Any]], tmp_path: Path) -> None:
    path = mapped(items[:1], tmp_path)._file_of(items[0])
    whole = path.read_bytes()
    first = datasets._read_mapped(path)["image"].clone()
    for place in range(0, len(whole), max(len(whole) // 200, 1)):
        flipped(path, place)
        if datasets._damage(path) is None:
            assert torch.equal(datasets._read_mapped(path)["image"], first), place
        path.write_bytes(whole)


def test_a_file_is_compared_once(items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped(items, tmp_path)
    dataset = mapped(items, tmp_path)
    monkeypatch.setattr(datasets, "_damage", lambda path: pytest.fail("is compared again"))
    assert len(list(dataset)) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_are_compared_where_a_data_set_is_not_prepared(
    num_workers: int, items: list[dict[str, Any]], tmp_path: Path
) -> None:
    dataset = mapped(items, tmp_path)
    path = dataset._file_of(items[2])
    image = datasets._read_mapped(path)["image"].clone()
    zeroed(path)
    unprepared = MappedDataset(items, transforms(tmp_path / "log"), tmp_path / "cache")
    assert len(list(DataLoader(unprepared, batch_size=1, num_workers=num_workers))) == 3
    assert torch.equal(datasets._read_mapped(path)["image"], image)


def prepare_at_once(
    items: list[dict[str, Any]], folder: Path, start: Any, results: Any, loading: Callable[[Path], Compose]
) -> None:
    dataset = MappedDataset(items, loading(folder / f"log-{os.getpid()}"), folder / "cache", 0)
    start.wait()
    dataset.prepare()
    results.put([float(item["image"].sum()) for item in dataset])


def without_its_log(log: Path) -> Compose:
    return Compose(transforms(log).transforms[:-2])  # Noted would tell the two processes' files apart


@pytest.mark.parametrize("is_damaged", [False, True])
def test_two_trainings_may_prepare_one_folder_at_once(
    is_damaged: bool, items: list[dict[str, Any]], tmp_path: Path
) -> None:
    if is_damaged:
        first = MappedDataset(items, without_its_log(tmp_path / "log"), tmp_path / "cache", 0)
        first.prepare()
        for item, damage in zip(items, (cut, zeroed, emptied)):
            damage(first._file_of(item))
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
def test_training_transforms_hash_alike_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each training would prepare all scans anew."""
    code = (
        "from monai.bundle import ConfigParser\n"
        "from monai.data.utils import pickle_hashing\n"
        "parser = ConfigParser()\n"
        "parser.read_config('configs/train.yaml')\n"
        "print(hash('here'), pickle_hashing(parser.get_parsed_content('loading')).decode())\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BUNDLE_ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    of_text, of_transforms = there.stdout.split()[-2:]
    monkeypatch.chdir(BUNDLE_ROOT)
    config = ConfigParser()
    config.read_config("configs/train.yaml")
    assert int(of_text) != hash("here"), "this process has the same seed of hashes: the test tells nothing"
    assert pickle_hashing(config.get_parsed_content("loading")).decode() == of_transforms


def test_what_lies_beside_a_volume_counts_for_its_hash(tmp_path: Path) -> None:
    """A pair's header, of whose change its .img knows nothing."""
    for name in ("a.img", "a.hdr"):
        (tmp_path / name).write_bytes(b"x")
    item = {"image": str(tmp_path / "a.img")}
    before = files_hashing(item)
    os.utime(tmp_path / "a.hdr", ns=(1, 1))
    assert files_hashing(item) != before
