"""Archives in buckets, here folders by file://: listed as a folder is, and predicted as there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import ray_on_this_machine, write_scan
from dicom_scans import SERIES, write_series
from test_archive import archive, contents, run
from test_configs import SMALL_PREDICTION, files, workflow

from scripts.data.datalist import load_datalist
from scripts.data.dataloader import SkippedScan
from scripts.images.dicom_series import DicomSlice, read_slices
from scripts.runs import archive_run, scratch
from scripts.runs.archive_scans import ArchiveScans
from scripts.runs.archive_worker import ScanWorker
from scripts.runs.stored_scans import StoredScans, fetch_scan, read_stored_slices

pytest.importorskip("ray", reason="the package ray is not installed: it is in the extra [cluster]")

LISTED = {"section": "test", "labels": False, "check": False}
CUT = "RibFrac503"


def address(folder: Path) -> str:
    return f"file://{folder}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans, the last of which is cut."""
    folder = tmp_path_factory.mktemp("data")
    for number in (501, 502, 503):
        write_scan(folder, "test", number, fractures=1, shape=(24, 22, 16))
    cut = folder / "ribfrac-test-images" / f"{CUT}-image.nii.gz"
    cut.write_bytes(cut.read_bytes()[:200])
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A series; a header that is longer than what is read of one; another modality; and files of other kinds."""
    paths = write_series(tmp_path / "studies" / "ct", np.zeros((6, 5, 12)))

    def long(number: int, header: Any) -> None:
        header.add_new(0x00080001, "LO", "x" * 60)
        header.add_new(0x00081030, "LO", "y" * 60)
        block = header.private_block(0x0009, "Made up", create=True)
        block.add_new(1, "OB", bytes(2**17))

    def of_magnetism(number: int, header: Any) -> None:
        header.Modality = "MR"

    write_series(tmp_path / "studies" / "long", np.zeros((6, 5, 12)), series=f"{SERIES}.7", change=long)
    write_series(tmp_path / "studies" / "mr", np.zeros((6, 5, 2)), series=f"{SERIES}.8", change=of_magnetism)
    (tmp_path / "studies" / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / "studies" / "ct" / "empty").touch()
    volume = nib.Nifti1Pair(np.zeros((6, 5, 4), np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]))
    nib.save(volume, tmp_path / "studies" / "pair.img")
    (tmp_path / "studies" / "one.raw").write_bytes(bytes(240))
    (tmp_path / "studies" / "one.mhd").write_text("ObjectType = Image\nElementDataFile = one.raw\n")
    paths[0].rename(paths[0].with_suffix(".dcm"))
    return tmp_path / "studies"


def test_headers_are_read_as_those_of_files(studies):
    paths = sorted(path for path in studies.rglob("*") if path.is_file())
    sizes = {path.relative_to(studies).as_posix(): path.stat().st_size for path in paths}
    found = [one and replace(one, file=str(studies / one.file)) for one in read_stored_slices(address(studies), sizes)]
    assert found == list(read_slices(paths)) and sum(one.series == f"{SERIES}.7" for one in found if one) == 12


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """The scans of a bucket by their names, by one process."""
    stored = StoredScans(address(folder))
    stored.pull()

    def read(paths: Iterable[Path]) -> list[DicomSlice | None]:
        sizes = {path.relative_to(stored.folder).as_posix(): path.stat().st_size for path in paths}
        slices = read_stored_slices(address(folder), sizes)
        return [one and replace(one, file=str(stored.folder / one.file)) for one in slices]

    return {item["scan"]: stored.item(item) for item in load_datalist(stored.folder, read_headers=read, **LISTED)}


def test_a_scan_is_fetched_with_all_its_files_and_known_by_their_versions(studies, tmp_path):
    items = listed(studies)
    assert set(items) == {"ct", "long", "one", "pair"}
    assert items["pair"]["image"] == f"{address(studies)}/pair.img"
    for scan, names in {"pair": ["pair.hdr", "pair.img"], "one": ["one.mhd", "one.raw"]}.items():
        local = fetch_scan(items[scan], tmp_path / scan)
        assert local == {"scan": scan, "image": str(tmp_path / scan / Path(items[scan]["image"]).name)}
        assert files(tmp_path / scan) == sorted(items[scan]["stored"]["files"]) == names
        assert all((tmp_path / scan / name).read_bytes() == (studies / name).read_bytes() for name in names)
    series = fetch_scan(items["ct"], tmp_path / "ct")
    assert [Path(path).name for path in series["image"]] == [Path(path).name for path in items["ct"]["image"]]
    os.utime(studies / "one.raw", (1, 1))
    changed = listed(studies)
    assert [scan for scan in items if changed[scan] != items[scan]] == ["one"]


@pytest.fixture(scope="module")
def engine(the_only_cluster: None) -> Iterator[None]:
    with ray_on_this_machine(2):
        yield


@pytest.mark.slow
def test_the_list_is_that_of_a_folder(engine, studies, tmp_path):
    usual = load_datalist(studies, **LISTED)
    scans = ArchiveScans(tmp_path / "headers.db", address(studies), **LISTED)
    early = [item for item in scans.listed() if item is not None]
    assert [{"scan": item["scan"], "image": item["image"]} for item in scans] == [
        {"scan": item["scan"], "image": json.loads(json.dumps(item["image"]).replace(str(studies), address(studies)))}
        for item in usual
    ]
    assert scans.ignored == usual.ignored and [item for item in early if item not in scans] == []
    again = ArchiveScans(tmp_path / "headers.db", address(studies), **LISTED)
    assert len([item for item in again.listed() if item is not None]) == len(early) and again == scans
    with pytest.raises(FileNotFoundError, match=f"^{address(tmp_path)}/none holds no object"):
        list(ArchiveScans(tmp_path / "headers.db", f"{address(tmp_path)}/none", **LISTED).listed())


@pytest.fixture
def own_scratch(tmp_path, monkeypatch):
    """Scratch folders in that of the test, which is removed at its end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    scratch.scratch_folder.cache_clear()
    yield
    scratch.scratch_folder.cache_clear()


@pytest.mark.usefixtures("own_scratch")
def test_a_worker_fetches_a_scan_and_writes_what_it_finds(data, tmp_path, model):
    """A process's own worker, without an engine; it writes what one writes that has folders."""
    scans = ArchiveScans(tmp_path / "headers.db", address(data), **LISTED)
    assert list(filter(None, scans.listed())) == [] and len(scans) == 3
    found, usual = tmp_path / "bucket" / "found", tmp_path / "usual"
    answers: dict[str, Any] = {}
    for folder, output_dir, items in (
        (usual, str(usual), load_datalist(data, **LISTED)),
        (found, address(found), list(scans)),
    ):
        settings = {"dataset_dir": str(data), "output_dir": output_dir, "checkpoint": str(model), "num_workers": 0}
        settings["outputs::pictures"] = True
        worker = ScanWorker(
            workflow("inference.yaml", "archive.yaml", **SMALL_PREDICTION | settings).parser.get(), os.getcwd()
        )
        worker.start()
        answers[output_dir] = [worker.predict(item) for item in items]
    of_folder, of_bucket = answers.values()
    assert of_bucket[2] == SkippedScan(CUT, of_folder[2].reason.replace(str(data), address(data)))
    assert files(found) == files(usual) and "records/RibFrac502.json" in files(found)
    same = [name for name in files(found) if (found / name).read_bytes() == (usual / name).read_bytes()]
    assert [name for name in files(found) if name not in same] == ["records/RibFrac501.json", "records/RibFrac502.json"]
    records = [json.loads((folder / "records/RibFrac501.json").read_text()) for folder in (found, usual)]
    assert {name for name in records[0] if records[0][name] != records[1][name]} == {"source"}
    left = [name for name in files(scratch.scratch_folder()) if not name.startswith((".lock", "tmp"))]
    assert left == [], "but for the list"
    os.unlink(data / "ribfrac-test-images" / f"{CUT}-image.nii.gz")
    gone = f"a file of it is gone from {address(data)} since it was listed."
    assert worker.predict(scans[2]) == SkippedScan(CUT, gone)


class Here:
    """A pool of one worker in this process, in place of an engine."""

    def __init__(self, worker: type[ScanWorker], arguments: tuple[Any, ...], *others: Any) -> None:
        self.worker = worker(*arguments)
        assert self.worker.start() == others[-1], "another prediction than the run's"

    def predict(self, items: Iterable[dict[str, Any] | None]) -> Iterator[tuple[dict[str, Any], Any]]:
        return ((item, self.worker.predict(item)) for item in items if item is not None)


@pytest.fixture(params=["here", pytest.param("engine", marks=pytest.mark.slow)])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two on an engine; or one in this process."""
    if request.param == "engine":
        request.getfixturevalue("engine")
        return
    monkeypatch.setattr(archive_run, "WorkerPool", Here)
    monkeypatch.setattr(archive_run, "connected", lambda address, cpus: nullcontext())


def test_from_a_bucket_to_a_bucket_as_from_a_folder_to_a_folder(workers, tmp_path, model):
    data, one, two = tmp_path / "data", tmp_path / "one", tmp_path / "bucket" / "two"
    for number in (501, 502, 503):
        write_scan(data, "test", number, fractures=1, shape=(24, 22, 16))
    cut = data / "ribfrac-test-images" / f"{CUT}-image.nii.gz"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:200])
    shown = {"outputs::pictures": True}
    said = run(data, one, model, **shown)
    settings = shown | {"dataset_dir": address(data), "output_dir": address(two)}
    assert archive(data, two, model, **settings) == said.replace(str(data), address(data))
    expected = contents(one)
    found = {name: text.replace(address(data).encode(), str(data).encode()) for name, text in contents(two).items()}
    assert json.loads(found.pop("progress.json"))["done"] == 2
    assert list(found) == list(expected)
    differ = [name for name in found if found[name] != expected[name]]
    assert [name for name in differ if not name.startswith("records/")] == [], "but for what tells the files"
    cut.write_bytes(whole)
    made = {path: path.stat().st_mtime_ns for path in (two / "predictions").glob("*.nii.gz")}
    assert archive(data, two, model, **settings) == "", "the last one can be read now"
    assert {path: path.stat().st_mtime_ns for path in made} == made and len(made) == 2
    run(data, one, model, **shown)
    assert (two / "fractures.csv").read_bytes() == (one / "fractures.csv").read_bytes()
    assert [name for name in files(two) if "predictions" in name] == [
        name for name in files(one) if "predictions" in name
    ]


@pytest.mark.parametrize(
    "settings, message",
    [
        pytest.param({"output_dir": "odd://b/out"}, "odd://b/out cannot be opened: Protocol not known", id="scheme"),
        pytest.param(
            {"output_dir": "file:///data", "dataset_dir": "file:///data/x"}, "lies in output_dir", id="inside"
        ),
        pytest.param(
            {"output_dir": "file:///data", "predictions_dir": "/masks"}, "leave predictions_dir out", id="masks"
        ),
    ],
)
def test_what_cannot_be_in_a_bucket_is_refused_before_any_work(settings, message, tmp_path, model):
    assert message in archive(tmp_path, tmp_path / "out", model, **settings)
