"""Looking at a data set: what is counted on paper, and what is wrong with which scan."""

from __future__ import annotations

import csv
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine, write_scan
from test_pages import Page

from scripts.commands.inspect import inspect_dataset, main, summary_of
from scripts.data.scan_facts import ScanFacts, doubled_images, scan_facts


def rewrite(path, change, affine=None):
    """Change the voxels of a file, or its place."""
    volume = np.asarray(nib.load(path).dataobj)
    volume = volume.astype(np.float32)
    change(volume)
    nib.save(nib.Nifti1Image(volume, lps_affine() if affine is None else affine), path)


@pytest.fixture
def folder(tmp_path):
    """Two training scans of RibFrac's layout with 2 and no fractures; bone of 800 HU, air of -1000."""
    write_scan(tmp_path / "data", "train", 1, fractures=2)
    write_scan(tmp_path / "data", "train", 2, fractures=0)
    path = tmp_path / "data" / "ribfrac-train-images" / "RibFrac2-image.nii.gz"
    rewrite(path, lambda volume: volume.__setitem__((5, 5, 5), 900))
    return tmp_path / "data"


def image_of(folder, number):
    return folder / "ribfrac-train-images" / f"RibFrac{number}-image.nii.gz"


def label_of(folder, number):
    return folder / "ribfrac-train-labels" / f"RibFrac{number}-label.nii.gz"


def facts_of(folder, tmp_path):
    scans, problems = inspect_dataset(folder, "training", True, tmp_path / "inspect.html")
    return {facts.scan: facts for facts in scans}, problems


def test_what_a_scan_holds(folder, tmp_path):
    scans, problems = facts_of(folder, tmp_path)
    first = scans["RibFrac1"]
    assert problems == [] and first.problems == []
    assert (first.shape, first.spacing_mm, first.orientation) == ((32, 28, 24), (0.75, 0.75, 1.25), "LPS")
    # cubes of 4³ voxels; the table's codes are 1 + id % 4
    assert [(f.id, f.volume_mm3, f.type, f.pieces) for f in first.fractures] == [
        (1, 45.0, "Nondisplaced", 1),
        (2, 45.0, "Buckle", 1),
    ]
    assert first.fractures[0].mean_hu == 800 and (first.hu[0], first.hu[-1]) == (-1000, 800)
    assert scans["RibFrac2"].notes == ["no fracture is marked"] and scans["RibFrac2"].problems == []


def test_the_summary(folder, tmp_path):
    scans, _ = facts_of(folder, tmp_path)
    summary = summary_of(list(scans.values()))
    assert summary["scans"] == "2, of which 2 could be read"
    assert summary["voxels, third axis"] == "24" and summary["spacing, third axis, mm"] == "1.25"
    assert summary["fractures a scan"] == "0 to 2, median 1"
    assert summary["their types"] == "Nondisplaced 1, Buckle 1" and summary["scans without a fracture"] == "1"


def test_wrong_scans_are_listed_and_the_others_looked_at(folder, tmp_path):
    for number in (3, 4, 5):
        write_scan(folder, "train", number, fractures=1)
    rewrite(label_of(folder, 3), lambda volume: None, affine=lps_affine(origin_mm=(17.0, -7.0, 30.0)))
    image_of(folder, 4).write_bytes(b"no volume")
    label_of(folder, 5).unlink()
    scans, problems = facts_of(folder, tmp_path)
    assert list(scans) == ["RibFrac1", "RibFrac2", "RibFrac3", "RibFrac4"]
    assert "5.0 mm apart" in scans["RibFrac3"].problems[0] and "no readable NIfTI" in scans["RibFrac4"].problems[0]
    assert len(problems) == 1 and "RibFrac5-image.nii.gz: has no label" in problems[0]
    assert len(scans["RibFrac1"].fractures) == 2
    page = Page((tmp_path / "inspect.html").read_text(encoding="utf-8"))
    assert len([e for e in page.all("img") if e.attributes["src"].startswith("data:")]) == 2
    assert any("5.0 mm apart" in e.text for e in page.all("li"))


@pytest.mark.parametrize(
    "change, problem",
    [
        pytest.param(lambda v: v.__setitem__(v > 0, 3), r"ids \[3\] have no row", id="an id without a row"),
        pytest.param(lambda v: v.__setitem__(v == 1, 0), r"ids \[1\] of the table have no voxels", id="a row alone"),
        pytest.param(lambda v: v.__setitem__((0, 0, 0), 0.5), "no ids", id="interpolated"),
        pytest.param(lambda v: v.__setitem__((0, 0, 0), -1), "no ids", id="negative"),
    ],
)
def test_labels_that_do_not_fit(folder, tmp_path, change, problem):
    rewrite(label_of(folder, 1), change)
    scans, _ = facts_of(folder, tmp_path)
    assert any(re.search(problem, text) for text in scans["RibFrac1"].problems)


@pytest.mark.parametrize(
    "change, problem",
    [
        pytest.param(lambda v: v.__iadd__(1024), "the offset (mostly -1024) seems to be missing", id="stored from 0"),
        pytest.param(lambda v: v.__itruediv__(10), "from -100 to 80", id="scaled"),
        pytest.param(lambda v: v.__setitem__((0, 0, 0), np.nan), "1 voxels are infinite or not", id="not a number"),
    ],
)
def test_images_that_are_no_hu(folder, tmp_path, change, problem):
    rewrite(image_of(folder, 1), change)
    scans, _ = facts_of(folder, tmp_path)
    assert problem in scans["RibFrac1"].problems[0]


def test_unusual_fractures_are_noted(folder, tmp_path):
    rewrite(image_of(folder, 1), lambda volume: volume.__setitem__(slice(None), -800))
    rewrite(image_of(folder, 1), lambda volume: volume.__setitem__((0, 0, slice(0, 2)), (-1000, 400)))

    def change(label):
        first = np.argwhere(label == 1)
        label[label == 1] = 0
        label[tuple(first[0])] = label[tuple(first[-1])] = 1  # two voxels of 0.703 mm³

    rewrite(label_of(folder, 1), change)
    scans, _ = facts_of(folder, tmp_path)
    assert scans["RibFrac1"].problems == []
    assert scans["RibFrac1"].notes == [
        "fracture 1 has 1.4 mm³",
        "fracture 1 is in 2 pieces",
        "fracture 1 lies in air or lung (-800 HU): does the label fit?",
        "fracture 2 lies in air or lung (-800 HU): does the label fit?",
    ]


def test_thick_and_oblique_scans_are_noted(tmp_path):
    turn = np.radians(10)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 5]]
    volume = np.zeros((10, 10, 10), np.int16)
    volume[0], volume[1] = -1000, 500
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "a.nii.gz")
    facts, image, ids = scan_facts({"scan": "a", "image": str(tmp_path / "a.nii.gz")})
    assert facts.notes == ["slices of 5.0 mm", "axes 10 degrees off the patient's"]
    assert tuple(image.shape) == (1, 10, 10, 10) and ids is None


def test_scans_of_the_same_voxels_are_told(folder, tmp_path):
    write_scan(folder, "train", 3, fractures=2)
    for kind in (image_of, label_of):
        shutil.copy(kind(folder, 1), kind(folder, 3))
    _, problems = facts_of(folder, tmp_path)
    assert problems == ["RibFrac3: holds the same voxels as RibFrac1."]
    assert doubled_images([ScanFacts("unread"), ScanFacts("unread, too")]) == []


def test_the_command(folder, tmp_path, capsys):
    arguments = ["--dataset_dir", str(folder), "--output", str(tmp_path / "page.html")]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0 and "Problems: 0" in capsys.readouterr().out
    with (folder / "ribfrac-train-info.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["RibFrac1", 7, 1])
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1 and "RibFrac1: the ids [7] of the table" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["--dataset_dir", str(tmp_path / "nothing")])
    assert end.value.code == 1 and "does not exist" in capsys.readouterr().err


def test_images_without_annotations(folder, tmp_path):
    scans, problems = inspect_dataset(folder, "all", False, tmp_path / "page.html")
    assert [facts.scan for facts in scans] == ["RibFrac1", "RibFrac2"] and problems == []
    assert scans[0].notes == [] and scans[0].fractures == []
