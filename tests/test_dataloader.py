"""Tests of loading scans of which some are broken."""

from __future__ import annotations

import gzip
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, lps_affine
from monai.data import Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd
from torch import nn

from scripts.data import dataloader as dataloaders
from scripts.data.by_value import pack, unpack
from scripts.data.datalist import load_datalist
from scripts.data.dataloader import PipeFallbackDataLoader, SkippingDataLoader
from scripts.images.image_reader import CTReader
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
    with pytest.raises(ValueError, match="8 of 10 scans failed, the others are done:\ncrc: "):
        scans.raise_skipped()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_scan_whose_name_is_no_utf8_can_be_told(num_workers: int, tmp_path: Path) -> None:
    write_nifti(tmp_path / "whole.nii.gz")
    (tmp_path / os.fsdecode(b"\xd6\xd0.nii.gz")).write_bytes(b"text")
    scans = loader(tmp_path, num_workers)
    assert [batch["scan"][0] for batch in scans] == ["whole"]
    (skipped,) = scans.skipped
    assert f"{tmp_path}/\\xd6\\xd0.nii.gz: is no readable NIfTI file" in skipped.reason
    f"{skipped.scan} {skipped.reason}".encode()


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


# ---- processes that are ended ----


class Deadly:
    """A data set whose loading ends its own process, by a signal or an exit status; an item of None is whole."""

    def __init__(self, folder: Path, ends: list[int | None], times: int = 9) -> None:
        self.data = [{"scan": f"scan{n}", "image": str(folder / f"{n}.nii.gz")} for n in range(len(ends))]
        self.folder, self.ends, self.times = folder, ends, times

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        end = self.ends[index]
        tries = self.folder / f"tries{index}"
        if end is not None and len(tries.read_bytes() if tries.exists() else b"") < self.times:
            with tries.open("ab") as file:
                file.write(b".")
            if end < 0:
                os.kill(os.getpid(), -end)
            os._exit(end)
        return {"scan": self.data[index]["scan"], "image": MetaTensor(torch.full((1, 4, 3, 2), float(index)))}


@pytest.mark.parametrize("num_workers", [1, 2, 9])
def test_a_scan_whose_process_is_ended_is_passed_over_and_the_others_are_loaded(
    num_workers: int, tmp_path: Path
) -> None:
    ends = [None, -signal.SIGKILL, None, -signal.SIGSEGV, 3, None]
    scans = SkippingDataLoader(Deadly(tmp_path, ends), num_workers)  # type: ignore[arg-type]
    assert [int(batch["image"].max()) for batch in scans] == [0, 2, 5]
    assert [(skipped.scan, skipped.reason.removeprefix(str(tmp_path))) for skipped in scans.skipped] == [
        (
            "scan1",
            "/1.nii.gz: the process that loads it was ended by signal 9 (Killed), perhaps because memory ran out: free "
            "some, or lower num_workers; it was tried twice.",
        ),
        (
            "scan3",
            "/3.nii.gz: the process that loads it was ended by signal 11 (Segmentation fault): perhaps a library "
            "cannot read the file, or memory ran out; it was tried twice.",
        ),
        ("scan4", "/4.nii.gz: the process that loads it ended with exit status 3; it was tried twice."),
    ]
    assert [len((tmp_path / f"tries{index}").read_bytes()) for index in (1, 3, 4)] == [2, 2, 2]
    with pytest.raises(ValueError, match="3 of 6 scans failed, the others are done:"):
        scans.raise_skipped()


def test_a_scan_whose_process_is_ended_once_is_loaded_by_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = SkippingDataLoader(Deadly(tmp_path, [None, -signal.SIGKILL, None], times=1), 1)  # type: ignore[arg-type]
    assert [int(batch["image"].max()) for batch in scans] == [0, 1, 2] and not scans.skipped
    (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert message.startswith("scan1: the process that loads it was ended by signal 9 (Killed)")
    assert message.endswith("It is loaded once more.")


def test_something_else_is_done_once_while_the_first_scan_is_loaded(tmp_path: Path) -> None:
    children: list[int] = []
    scans = SkippingDataLoader(
        Deadly(tmp_path, [None] * 3),  # type: ignore[arg-type]
        1,
        meanwhile=lambda: children.append(len(multiprocessing.active_children())),
    )
    assert [int(batch["image"].max()) for batch in scans] == [0, 1, 2]
    assert children == [1]


def test_a_process_that_is_ended_between_two_scans_costs_none(tmp_path: Path) -> None:
    scans = iter(SkippingDataLoader(Deadly(tmp_path, [None] * 4), 1))  # type: ignore[arg-type]
    next(scans)
    (child,) = multiprocessing.active_children()
    time.sleep(0.2)  # it waits to hand over the next one
    os.kill(child.pid or 0, signal.SIGKILL)
    assert [int(batch["image"].max()) for batch in scans] == [1, 2, 3]


def test_the_slices_of_a_series_whose_process_is_ended_are_not_named(tmp_path: Path) -> None:
    dataset = Deadly(tmp_path, [-signal.SIGKILL])
    dataset.data[0]["image"] = [str(tmp_path / "Doe^Jane" / "1.dcm")]  # type: ignore[assignment]
    scans = SkippingDataLoader(dataset, 1)  # type: ignore[arg-type]
    assert list(scans) == []
    assert scans.skipped[0].reason.startswith("the process that loads it was ended by signal 9")


def test_no_process_stays_where_a_run_stops_in_the_middle(tmp_path: Path) -> None:
    scans = iter(SkippingDataLoader(Deadly(tmp_path, [None] * 6), 2))  # type: ignore[arg-type]
    next(scans)
    assert len(multiprocessing.active_children()) == 2
    scans.close()  # type: ignore[attr-defined]  # of a generator
    assert multiprocessing.active_children() == []


def test_no_process_stays_where_its_parent_is_killed(tmp_path: Path) -> None:
    def run(pids: Any) -> None:
        scans = iter(SkippingDataLoader(Deadly(tmp_path, [None] * 6), 2))  # type: ignore[arg-type]
        next(scans)
        pids.put([child.pid for child in multiprocessing.active_children()])
        time.sleep(60)

    context = multiprocessing.get_context("fork")
    pids = context.SimpleQueue()
    parent = context.Process(target=run, args=(pids,))
    parent.start()
    children = pids.get()
    parent.kill()
    parent.join()
    until = time.monotonic() + 20
    while any(is_running(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in children if is_running(pid)] == []


def is_running(pid: int) -> bool:
    """Tell whether there is such a process that is no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


# ---- shared memory ----


def test_what_goes_by_value_is_what_comes() -> None:
    volume = MetaTensor(torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4), affine=torch.tensor(lps_affine()))
    item = {"image": volume, "part": volume[..., ::2], "plane": np.arange(4.0), "none": torch.empty(0, 3), "scan": "a"}
    content, buffers = pack(item)
    assert [buffer.nbytes for buffer in buffers if buffer.nbytes in (48, 24)] == [48, 24]  # a view of half
    again = unpack(content, [bytearray(buffer) for buffer in buffers])
    assert again.keys() == item.keys() and again["scan"] == "a" and again["none"].shape == (0, 3)
    for key in ("image", "part"):
        assert isinstance(again[key], MetaTensor) and again[key].dtype == torch.int16
        assert torch.equal(again[key].as_tensor(), item[key].as_tensor())
        assert torch.equal(again[key].affine, volume.affine)
    again["image"] += 1  # what comes may be changed
    again["plane"] += 1
    assert int(volume[0, 0, 0, 0]) == 0


def refused(*args: Any, **kwargs: Any) -> Any:
    os._exit(1)  # shared memory is asked for; an error would be lost in a thread of the queue


def test_scans_need_no_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_share_filename_cpu_", "_share_fd_cpu_", "_new_using_filename_cpu", "_new_using_fd_cpu"):
        monkeypatch.setattr(torch.UntypedStorage, name, refused)
    scans = SkippingDataLoader(Deadly(tmp_path, [None] * 3), 2)  # type: ignore[arg-type]
    assert [int(batch["image"].max()) for batch in scans] == [0, 1, 2]


class ROIs(torch.utils.data.Dataset):
    """Items of two ROIs, as a sampler of a training gives them; 2 x 1000 float32 voxels each."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[dict[str, torch.Tensor]]:
        return [{key: torch.full((1, 10, 10, 10), float(index)) for key in ("image", "label")} for _ in range(2)]


# a batch holds 2 items of 2 ROIs of 2 x 4000 bytes; 2 processes may have 2 of them each in shared memory
@pytest.mark.parametrize("free, is_piped", [(2 * 2 * 32_000, False), (2 * 2 * 32_000 - 1, True), (0, True)])
def test_batches_go_through_pipes_where_shared_memory_might_not_hold_them(
    free: int, is_piped: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(dataloaders.shutil, "disk_usage", lambda path: usage)
    if is_piped:
        for name in ("_share_filename_cpu_", "_share_fd_cpu_"):
            monkeypatch.setattr(torch.UntypedStorage, name, refused)
    loader = PipeFallbackDataLoader(ROIs(), num_workers=2, batch_size=2, shuffle=False)
    for _ in range(2):
        assert [batch["image"][:, 0, 0, 0, 0].tolist() for batch in loader] == [[0, 0, 1, 1], [2, 2, 3, 3]]
    told = [record.message for record in caplog.records if "through pipes" in record.message]
    assert len(told) == is_piped


@pytest.mark.slow
def test_scans_and_batches_are_loaded_with_a_mebibyte_of_shared_memory(tmp_path: Path) -> None:
    """In a mount namespace of its own, where /dev/shm is as small; PyTorch's own way ends there by a bus error."""
    code = (
        "import torch\n"
        "from scripts.data.dataloader import PipeFallbackDataLoader, SkippingDataLoader\n"
        "class Scans(torch.utils.data.Dataset):\n"
        "    data = [{'scan': 'a', 'image': 'a.nii'}] * 3\n"
        "    def __len__(self): return 3\n"
        "    def __getitem__(self, n): return {'image': torch.full((1, 100, 100, 100), float(n))}\n"
        "print([int(b['image'].max()) for b in SkippingDataLoader(Scans(), 2)])\n"
        "print([int(b['image'].max()) for b in PipeFallbackDataLoader(Scans(), num_workers=2, batch_size=2)])\n"
    )
    (tmp_path / "program.py").write_text(code)
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "
    if subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small /dev/shm")
    command = f"{mount} {sys.executable} {tmp_path / 'program.py'}"
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE_ROOT)}
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[0, 1, 2]", "[1, 2]"], done.stderr
