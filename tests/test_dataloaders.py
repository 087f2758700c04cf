"""Tests of loading scans of which some are broken."""

from __future__ import annotations

import gzip
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd
from torch import nn

from scripts.datalist import load_datalist
from scripts.dataloaders import SkippingDataLoader
from scripts.image_readers import CTReader
from scripts.transforms import CheckFilesd, CheckImaged


def write_nifti(path: Path, shape: tuple[int, ...] = (9, 8, 7), value: float = 40.0, dtype: Any = np.int16) -> bytes:
    """Write a volume of noise around a value; return the file's bytes."""
    volume = np.random.default_rng(0).normal(value, 10, shape).astype(dtype)
    nib.save(nib.Nifti1Image(volume, lps_affine()), path)
    return path.read_bytes()


def cut(path: Path) -> None:
    whole = write_nifti(path, (40, 40, 40))
    path.write_bytes(whole[: len(whole) // 2])


def wrong_checksum(path: Path) -> None:
    whole = bytearray(write_nifti(path))
    whole[-8] ^= 0xFF
    path.write_bytes(whole)


def short(path: Path) -> None:
    """A whole gzip file with half of a volume in it."""
    whole = gzip.decompress(write_nifti(path))
    path.write_bytes(gzip.compress(whole[: len(whole) // 2]))


def not_a_number(path: Path) -> None:
    write_nifti(path, value=np.nan, dtype=np.float32)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (cut, r"is damaged \(Compressed file ended"),
    "crc": (wrong_checksum, r"is damaged \(CRC check failed"),
    "short": (short, "is cut short: holds"),
    "text": (lambda path: path.write_text("no scan"), "is no readable NIfTI file"),
    "empty": (lambda path: path.write_bytes(b""), "is no readable NIfTI file"),
    "flat": (lambda path: write_nifti(path, (9, 8)), r"has 2 axes \(9, 8\), a CT scan has 3"),
    "long": (lambda path: write_nifti(path, (9, 8, 7, 2)), r"has 4 axes \(9, 8, 7, 2\), a CT scan has 3"),
    "nan": (not_a_number, "504 voxels are infinite or not numbers"),
}


def loader(folder: Path, num_workers: int = 0) -> SkippingDataLoader:
    steps = [
        CheckFilesd("image"),
        LoadImaged("image", CTReader, image_only=True),
        EnsureChannelFirstd("image"),
        CheckImaged("image"),
    ]
    data = load_datalist(folder, "all", labels=False, check=False)
    return SkippingDataLoader(Dataset(data, Compose(steps)), num_workers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A broken scan of each kind between two that are whole."""
    for name in ("a-first", "z-last"):
        write_nifti(tmp_path / f"{name}.nii.gz")
    for name, (write, _) in FAULTS.items():
        write(tmp_path / f"{name}.nii.gz")
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_scans_are_passed_over_and_told_with_their_file(folder: Path, num_workers: int) -> None:
    scans = loader(folder, num_workers)
    assert [batch["scan"][0] for batch in scans] == ["a-first", "z-last"]
    assert [skipped.scan for skipped in scans.skipped] == sorted(FAULTS)
    for skipped in scans.skipped:
        with pytest.raises(ValueError, match=FAULTS[skipped.scan][1]):
            raise ValueError(skipped.reason)
        assert str(folder / f"{skipped.scan}.nii.gz") in skipped.reason
    with pytest.raises(ValueError, match="8 of 10 scans could not be loaded, the others are done:\ncrc: "):
        scans.raise_skipped()


def test_nothing_is_raised_where_all_scans_are_whole(tmp_path: Path) -> None:
    write_nifti(tmp_path / "whole.nii.gz")
    scans = loader(tmp_path)
    assert len(list(scans)) == 1
    scans.raise_skipped()


def test_an_engine_ends_at_the_last_whole_scan(folder: Path) -> None:
    evaluator = SupervisedEvaluator("cpu", loader(folder), nn.Identity(), decollate=False)
    evaluator.run()
    assert evaluator.state.iteration == 2


def test_an_engine_without_a_whole_scan_ends_too(tmp_path: Path) -> None:
    cut(tmp_path / "cut.nii.gz")
    scans = loader(tmp_path)
    SupervisedEvaluator("cpu", scans, nn.Identity(), decollate=False).run()
    assert [skipped.scan for skipped in scans.skipped] == ["cut"]


def test_a_second_pass_forgets_the_first(folder: Path) -> None:
    scans = loader(folder)
    for _ in range(2):
        assert len(list(scans)) == 2
        assert len(scans.skipped) == len(FAULTS)
    (folder / "nan.nii.gz").unlink()
    list(scans)
    assert "does not exist" in next(skipped.reason for skipped in scans.skipped if skipped.scan == "nan")


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way to start a process; the last is Linux's default from Python 3.14 on."""
    before = multiprocessing.get_context().get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("start_method")
def test_what_a_process_has_loaded_can_be_inverted(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scan.nii.gz")
    steps = Compose(
        [
            LoadImaged("image", CTReader, image_only=True),
            EnsureChannelFirstd("image"),
            Orientationd("image", "PIR", labels=None),
        ]
    )
    data = load_datalist(tmp_path, "all", labels=False, check=False)
    (batch,) = SkippingDataLoader(Dataset(data, steps), num_workers=1)
    assert batch["image"].shape == (1, 1, 8, 7, 9)
    assert Invertd("image", steps)({"image": batch["image"][0]})["image"].shape == (1, 9, 8, 7)
