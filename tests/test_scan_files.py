"""Masks in 256 folders by their names: written there, found there, and packed flat."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import BUNDLE_ROOT, write_scan
from monai.data import MetaTensor
from test_configs import SMALL_PREDICTION, files, workflow

from scripts.commands.submission import pack_submission
from scripts.files.scan_files import find_mask, subfolder_of
from scripts.metrics.folders import score_folders
from scripts.runs.records import ScanRecords
from scripts.transforms import SaveScand

GOLDEN = Path(__file__).parent / "data" / "froc_golden" / "many"
A, B = "ca", "3e"  # the first digits of sha256sum of "a" and of "b"


def to_subfolders(folder: Path) -> Path:
    for mask in sorted(folder.glob("*.nii.gz")):
        inner = folder / subfolder_of(mask.name.removesuffix(".nii.gz"))
        inner.mkdir(exist_ok=True)
        mask.rename(inner / mask.name)
    return folder


def test_a_mask_is_found_in_both_places(tmp_path):
    assert (subfolder_of("a"), subfolder_of("b")) == (A, B)
    (tmp_path / A).mkdir()
    (tmp_path / A / "a.nii.gz").touch()
    assert find_mask(tmp_path, "a") == tmp_path / A / "a.nii.gz"
    assert find_mask(tmp_path, "b") == tmp_path / "b.nii.gz"


def test_a_mask_is_written_there(tmp_path):
    mask = MetaTensor(np.ones((1, 3, 4, 5), np.uint8), affine=np.eye(4), meta={"scan": "a.b"})
    SaveScand("pred", tmp_path, subfolders=True)({"pred": mask})
    assert files(tmp_path) == [f"{subfolder_of('a.b')}/a.b.nii.gz"]


def test_masks_in_folders_score_as_others(tmp_path):
    usual = score_folders(GOLDEN / "gt", GOLDEN / "pred")
    inside = score_folders(GOLDEN / "gt", to_subfolders(Path(shutil.copytree(GOLDEN / "pred", tmp_path / "pred"))))
    assert len(usual) == 20 and [vars(one).keys() for one in inside] == [vars(one).keys() for one in usual]
    for one, other in zip(inside, usual):
        for name, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), value)


def test_a_submission_is_flat(tmp_path):
    folder = to_subfolders(Path(shutil.copytree(GOLDEN / "pred", tmp_path / "pred")))
    for name in ("flat", "inside"):
        source = GOLDEN / "pred" if name == "flat" else folder
        pack_submission(source, tmp_path / f"{name}.zip", "any")
    flat, inside = (zipfile.ZipFile(tmp_path / f"{name}.zip") for name in ("flat", "inside"))
    assert sorted(inside.namelist()) == sorted(flat.namelist()) and len(flat.namelist()) == 21
    assert all(inside.read(name) == flat.read(name) for name in flat.namelist())


@pytest.fixture
def records(tmp_path: Path) -> Callable[[str], ScanRecords]:
    """Records of two scans, the first of which has a mask in its folder."""
    scans = [{"scan": scan, "image": str(tmp_path / f"{scan}.nii")} for scan in ("a", "b")]
    masks = tmp_path / "predictions"
    (masks / A).mkdir(parents=True)
    (masks / A / "a.nii.gz").write_bytes(b"mask")

    def of(place: str) -> ScanRecords:
        return ScanRecords(tmp_path, masks, scans, "definition", [str(masks / place / "{scan}.nii.gz")])

    of("{subfolder}").write(scans[0], [])
    return of


def test_what_is_done_is_told_by_the_masks_in_folders(records):
    inside = records("{subfolder}")
    inside.check_masks()
    assert [item["scan"] for item in inside.to_do()] == ["b"]
    unfinished = inside.predictions_dir / A / ".0123456789abcdef.a.nii.gz"
    unfinished.touch()
    inside.remove_unfinished([])
    assert not unfinished.exists()


def test_masks_in_the_other_place_or_of_other_scans_are_refused(records):
    with pytest.raises(ValueError, match=r"ca/a.nii.gz is .*, written where outputs#subfolders is true: give this run"):
        records("").check_masks()
    (records("").predictions_dir / A / "c.nii.gz").touch()
    with pytest.raises(ValueError, match=r"ca/c.nii.gz is .*, on a scan that this one does not have: give this run"):
        records("{subfolder}").check_masks()


@pytest.mark.slow
def test_a_prediction_with_folders_differs_in_nothing_else(tmp_path, model):
    write_scan(tmp_path / "data", "test", 501, fractures=1, shape=(24, 22, 16))
    for name in ("flat", "inside"):
        paths = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / name), "checkpoint": str(model)}
        outputs = {"outputs::pictures": True, "outputs::subfolders": name == "inside"}
        settings = SMALL_PREDICTION | paths | outputs | {"num_workers": 0}
        ready = workflow("inference.yaml", bundle_root=str(BUNDLE_ROOT), **settings)
        ready.initialize()
        ready.run()
    flat, inside = (
        {Path(name).name: (tmp_path / one / name) for name in files(tmp_path / one)} for one in ("flat", "inside")
    )
    assert inside["RibFrac501.nii.gz"].is_file() and set(flat) == set(inside)
    assert find_mask(tmp_path / "inside" / "predictions", "RibFrac501").parent.name == subfolder_of("RibFrac501")
    differ = [name for name in flat if flat[name].read_bytes() != inside[name].read_bytes()]
    assert set(differ) <= {"config.yaml", "report.html"}
