"""``python -m scripts ribs``: masks on the scans' own grids, centerlines and table; the finder is replaced."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine
from dicom_scans import OBLIQUE, ras_affine, write_series
from numpy.typing import NDArray

from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.commands.ribs import RIB_COLUMNS, main, write_ribs
from scripts.files.atomic_write import write_volume

SHAPE = (24, 20, 18)
BONE_HU = 700
RIGHT_6, LEFT_2_FROM_ABOVE = 18, 102


def chest(spots: dict[tuple[int, int, int], int]) -> NDArray[np.int16]:
    """Air with soft tissue in the middle, and voxels of other HU."""
    volume = np.full(SHAPE, -1000, dtype=np.int16)
    volume[4:20, 4:16] = 40
    for voxel, hu in spots.items():
        volume[voxel] = hu
    return volume


def find_bright(image_hu: NDArray[Any], spacing_mm: NDArray[Any], affine: NDArray[Any]) -> RibCage:
    """Take what is bright for two ribs: right 6 where x is above that of the middle, else a left one without number."""
    assert image_hu.shape[2] == SHAPE[2] and nib.aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing_mm)
    bright = np.argwhere(image_hu > 300)
    if not len(bright):
        return RibCage(np.zeros((1, 1, 1), np.uint8), affine, notes=("no bone", "is it a chest"))
    mask, ribs = np.zeros(image_hu.shape, dtype=np.uint8), []
    for side, number, own in (("left", None, bright[:, 0] < 12), ("right", 6, bright[:, 0] >= 12)):
        ends = nib.affines.apply_affine(affine, bright[own][[0, -1]])
        ribs.append(Rib(side, number, 2, 0.876, ends, True, number is None))
        mask[tuple(bright[own].T)] = ribs[-1].id
    return RibCage(mask, affine, tuple(ribs), ("the apex is not in the scan",))


@pytest.fixture(autouse=True)
def finder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.commands.ribs.find_rib_cage", find_bright)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "ribs.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        assert tuple(rows.fieldnames or ()) == RIB_COLUMNS
        return list(rows)


def test_a_mask_has_the_grid_of_its_scan(tmp_path: Path) -> None:
    """Axes L, P, S: the voxels with small first indices lie on the right."""
    affine = lps_affine((2.0, 3.0, 4.0))
    volume = chest({(6, 8, 3): BONE_HU, (6, 8, 6): BONE_HU, (15, 9, 3): BONE_HU, (15, 9, 8): BONE_HU})
    (tmp_path / "scans").mkdir()
    write_volume(tmp_path / "scans" / "one.nii.gz", volume, affine)
    assert write_ribs(tmp_path / "scans", tmp_path / "out") == (1, [])
    mask = nib.load(tmp_path / "out" / "one.nii.gz")
    np.testing.assert_allclose(mask.affine, affine)
    assert mask.get_data_dtype() == np.uint8
    ids = np.asarray(mask.dataobj)
    assert {tuple(int(i) for i in voxel): int(ids[tuple(voxel)]) for voxel in np.argwhere(ids)} == {
        (6, 8, 3): RIGHT_6,
        (6, 8, 6): RIGHT_6,
        (15, 9, 3): LEFT_2_FROM_ABOVE,
        (15, 9, 8): LEFT_2_FROM_ABOVE,
    }


def test_table_and_centerlines(tmp_path: Path) -> None:
    """The left rib is 5 slices of 4 mm long, the right one 3; the first voxel lies at (12, -7, 30) mm."""
    volume = chest({(6, 8, 3): BONE_HU, (6, 8, 6): BONE_HU, (15, 9, 3): BONE_HU, (15, 9, 8): BONE_HU})
    scan = tmp_path / "one.nii.gz"
    write_volume(scan, volume, lps_affine((2.0, 3.0, 4.0)))
    write_ribs(scan, tmp_path / "out")
    assert [list(row.values()) for row in table(tmp_path / "out")] == [
        ["one", "102", "left", "", "2", "0.88", "20", "yes", "yes", "the apex is not in the scan"],
        ["one", "18", "right", "6", "2", "0.88", "12", "yes", "no", "the apex is not in the scan"],
    ]
    written = json.loads((tmp_path / "out" / "one-centerlines.json").read_text())
    assert (written["scan"], written["axes"], written["notes"]) == ("one", "RAS", ["the apex is not in the scan"])
    left, right = written["ribs"]
    assert (left["id"], left["name"], left["number"]) == (102, "left unknown (2 from above)", None)
    assert right["centerline_mm"] == [[12 - 6 * 2, -7 - 8 * 3, 30 + 3 * 4], [12 - 6 * 2, -7 - 8 * 3, 30 + 6 * 4]]
    assert right["length_mm"] == 12 and right["ends_in_scan"] is False


def test_dicom_and_oblique_axes(tmp_path: Path) -> None:
    volume = chest({(6, 8, 3): BONE_HU, (6, 8, 6): BONE_HU, (15, 9, 3): BONE_HU, (15, 9, 8): BONE_HU})
    write_series(tmp_path / "scans" / "study", volume, OBLIQUE)
    assert write_ribs(tmp_path / "scans", tmp_path / "out")[1] == []
    (path,) = (tmp_path / "out").glob("*.nii.gz")
    mask = nib.load(path)
    ids = np.asarray(mask.dataobj)
    np.testing.assert_allclose(mask.affine, ras_affine(OBLIQUE), atol=1e-3)
    assert np.argwhere(ids).tolist() == [[6, 8, 3], [6, 8, 6], [15, 9, 3], [15, 9, 8]]


def test_a_scan_without_ribs_says_why(tmp_path: Path) -> None:
    scan = tmp_path / "empty.nii.gz"
    write_volume(scan, chest({}), lps_affine())
    write_ribs(scan, tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert row["scan"] == "empty" and row["id"] == "" and row["notes"] == "no bone. is it a chest"
    assert not np.asarray(nib.load(tmp_path / "out" / "empty.nii.gz").dataobj).any()
    assert json.loads((tmp_path / "out" / "empty-centerlines.json").read_text())["ribs"] == []


def test_one_bad_scan_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "c"):
        write_volume(scans / f"{name}.nii.gz", chest({(6, 8, 3): BONE_HU, (15, 9, 3): BONE_HU}), lps_affine())
    (scans / "b.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:300])
    with pytest.raises(SystemExit) as ended:
        main(["--scans", str(scans), "--output_dir", str(tmp_path / "out")])
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert "ribs.csv lists the ribs of 2 scans." in told.out
    assert "error: b: " in told.err and "b.nii.gz" in told.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    (row,) = (row for row in table(tmp_path / "out") if not row["id"])
    assert (row["scan"], row["notes"]) == ("b", "could not be done")


def test_results_are_no_scans_of_the_next_run(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", chest({(6, 8, 3): BONE_HU, (15, 9, 3): BONE_HU}), lps_affine())
    for _ in range(2):
        assert write_ribs(tmp_path, tmp_path / "out") == (1, [])


def test_masks_never_replace_scans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "a.nii.gz", chest({}), lps_affine())
    before = (tmp_path / "a.nii.gz").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["--scans", str(tmp_path), "--output_dir", str(tmp_path)])
    assert ended.value.code == 1
    assert "holds scans: give another folder as output_dir" in capsys.readouterr().err
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_missing_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--scans", str(tmp_path / "none"), "--output_dir", str(tmp_path / "out")])
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_orientation_can_be_stated(tmp_path: Path) -> None:
    scan = tmp_path / "a.nii"
    image = nib.Nifti1Image(chest({(6, 8, 3): BONE_HU, (15, 9, 3): BONE_HU}), np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, scan)
    (fault,) = write_ribs(scan, tmp_path / "out")[1]
    assert "orientation" in fault
    assert write_ribs(scan, tmp_path / "out", "LPS") == (1, [])
    ids = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert ids[6, 8, 3] == RIGHT_6, "small first indices lie on the right"
