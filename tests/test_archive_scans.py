"""The list of an archive: the first scans come early, headers are read once, and the end is the usual list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import prediction_run, ray_on_this_machine
from dicom_scans import SERIES, write_series

from scripts.data.datalist import load_datalist
from scripts.files.hollow_copy import NoCopy
from scripts.images.dicom_series import read_slices
from scripts.images.header_index import HeaderIndex
from scripts.runs import archive_scans
from scripts.runs.archive_run import Progress, _items
from scripts.runs.archive_scans import ArchiveScans

pytest.importorskip("ray", reason="the package ray is not installed: it is in the extra [cluster]")

LISTED = {"section": "test", "labels": False, "check": False}


@pytest.fixture(scope="module", autouse=True)
def engine(the_only_cluster: None) -> Iterator[None]:
    with ray_on_this_machine(1):
        yield


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Three series, one of which lies in two folders; and files that are none."""
    volume = np.zeros((6, 5, 12))
    for name in ("a", "b", "c"):
        paths = write_series(tmp_path / "studies" / name, volume, series=f"{SERIES}.{ord(name)}")
    (tmp_path / "studies" / "c" / "more").mkdir()
    paths[-1].rename(tmp_path / "studies" / "c" / "more" / paths[-1].name)
    (tmp_path / "studies" / "a" / "notes.pdf").write_bytes(b"%PDF")
    return tmp_path / "studies"


def test_an_index_knows_what_has_not_changed(studies, tmp_path):
    files = sorted(path for path in studies.rglob("*") if path.is_file())
    index = HeaderIndex(tmp_path / "headers.db")
    assert index.find(files) == {}
    headers = dict(zip(files, read_slices(files)))
    index.put(headers)
    assert HeaderIndex(tmp_path / "headers.db").find(files) == headers
    os.utime(files[0], (1, 1))
    files[1].unlink()
    assert set(index.find(files)) == set(files[2:])


def test_the_list_is_the_usual_one_and_its_series_come_early_and_are_read_once(studies, tmp_path, monkeypatch):
    usual = load_datalist(studies, **LISTED)
    scans = ArchiveScans(tmp_path / "headers.db", studies, **LISTED)
    early = [item for item in scans.listed() if item is not None]
    assert scans == usual and scans.ignored == usual.ignored and len(usual) == 3
    assert [item["scan"] for item in early] == ["a", "b", "c"]
    assert [item for item in early if item not in usual] == [], "a folder is told with those below it"
    monkeypatch.setattr(archive_scans, "_read", lambda files: 1 / 0)  # no task is started
    again = ArchiveScans(tmp_path / "headers.db", studies, **LISTED)
    assert len([item for item in again.listed() if item is not None]) == 3 and again == usual


def test_what_came_early_and_is_in_the_list_otherwise_is_predicted_again(tmp_path):
    """One scan was told without a slice, and one that is none in the end."""
    images = [tmp_path / f"{number}.nii.gz" for number in range(3)]
    for image in images:
        image.touch()
    right = [{"scan": f"scan{number}", "image": str(image)} for number, image in enumerate(images)]

    class Told(ArchiveScans):
        def listed(self) -> Iterator[dict[str, Any] | None]:
            yield right[0]
            yield {"scan": "scan1", "image": str(images[0])}
            yield {"scan": "none", "image": str(images[2])}
            self[:] = right

    run = prediction_run(tmp_path / "out", Told(tmp_path / "headers.db", tmp_path))
    answers: dict[str, Any] = {}
    progress = Progress(tmp_path / "progress.json")
    items = _items(run, answers, progress, NoCopy())
    assert [next(items)["scan"] for _ in range(3)] == ["scan0", "scan1", "none"]
    mask = tmp_path / "out" / "predictions" / "none.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.touch()
    assert next(items) is None, "it waits for what must not be written any more"
    answers |= {"scan1": 0, "none": 0}
    assert list(items) == right[1:] and not mask.exists() and answers == {}
    assert run.to_do == right and (progress.scans, progress.done_before) == (3, 0)
