"""Predictions of unusual scans, and of one scan stored in many ways: on small scans, by an untrained network."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE_ROOT, lps_affine
from test_configs import predict, rows, stored

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks.invariance import MOVED, WAYS, compare  # noqa: E402
from scripts.data.datalist import load_datalist  # noqa: E402

SHAPE = (32, 28, 24)


def patient(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Tissue, bone and air at random, in HU, within a margin of air."""
    volume = np.random.default_rng(7).normal(0, 300, shape).round().clip(-1024, 3071).astype(np.int16)
    volume[[0, -1]] = volume[:, [0, -1]] = -1024
    return volume


def write(path: Path, image: nib.nifti1.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def image_of(volume: np.ndarray) -> nib.nifti1.Nifti1Image:
    return nib.Nifti1Image(volume, lps_affine())


# ---- the same scan, stored otherwise ----


@pytest.fixture(scope="module")
def stored_otherwise(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction of one scan, and of all its copies that are stored otherwise."""
    folder = tmp_path_factory.mktemp("ways")
    write(folder / "scans" / "as it is.nii.gz", image_of(patient()))
    for way, store in WAYS.items():
        write(folder / "scans" / f"{way}.nii.gz", store(image_of(patient())))
    return predict(folder / "scans", folder / "out", model, **{"outputs::review_page": False})


def in_patient(path: Path) -> dict[tuple[float, ...], int]:
    """Id of each marked voxel by its place in the patient, in 0.01 mm."""
    mask, affine = stored(path)
    at = np.argwhere(mask)
    places_mm = at @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(place): number for place, number in zip(places_mm.round(2).tolist(), mask[tuple(at.T)].tolist())}


@pytest.mark.processor
@pytest.mark.parametrize("way", WAYS)
def test_one_scan_stored_otherwise_gives_the_same_fractures(way: str, stored_otherwise: Path) -> None:
    expected, found = (in_patient(stored_otherwise / "predictions" / f"{scan}.nii.gz") for scan in ("as it is", way))
    assert found == expected and len(expected) > 100
    columns = ("id", "score", "volume_mm3", "side", "center_x_mm", "center_y_mm", "center_z_mm", "length_mm")
    of_scan: dict[str, list[list[str]]] = {"as it is": [], way: []}
    for row in rows(stored_otherwise / "fractures.csv"):
        if row["scan"] in of_scan:
            of_scan[row["scan"]].append([row[column] for column in columns])
    assert of_scan[way] == of_scan["as it is"] != []


def candidates(*boxes: tuple[int, int]) -> nib.nifti1.Nifti1Image:
    """A mask whose candidate i fills the slices from the first to before the last number of its box."""
    ids = np.zeros((4, 5, 20), np.int16)
    for number, (first, end) in enumerate(boxes, start=1):
        ids[1:3, 1:3, first:end] = number
    return image_of(ids)


@pytest.mark.parametrize("way", [*WAYS, *MOVED])
def test_the_benchmark_of_the_ways_finds_the_same_in_each(way: str, tmp_path: Path) -> None:
    mask = candidates((2, 6), (9, 12))
    changed = nib.load(write(tmp_path / "changed.nii.gz", (WAYS | MOVED)[way](mask)))
    other = nib.Nifti1Image(changed.get_fdata().clip(0, None).astype(np.int16), changed.affine)
    assert compare(mask, [0.9, 0.8], other, [0.9, 0.7]) == pytest.approx(
        {"candidates": 2, "dice": 1, "score_difference": 0.1}
    )


@pytest.mark.parametrize(
    "boxes, scores, expected",
    [
        pytest.param([(2, 6)], [0.9], [1, 2 * 4 / (7 + 4), 1.0], id="one is not there"),
        pytest.param([], [], [0, 0, 1.0], id="none is there"),
        # of the first one's four slices two are in the first and one in the second
        pytest.param([(2, 4), (5, 6), (9, 12)], [0.5, 0.9, 0.8], [3, 2 * 6 / (7 + 6), 0.4], id="one in two parts"),
        pytest.param([(9, 12), (2, 6)], [0.9, 0.8], [2, 1, 0.1], id="their order changed"),
    ],
)
def test_the_benchmark_of_the_ways_tells_what_differs(boxes: list, scores: list[float], expected: list[float]) -> None:
    found = compare(candidates((2, 6), (9, 12)), [0.9, 0.8], candidates(*boxes), scores)
    assert list(found.values()) == pytest.approx(expected)


# ---- doubtful scans, sizes and names ----


def test_what_is_doubtful_is_logged_and_written(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two scans without lungs: one of them shows no bone, and has a header that says two things of its place."""
    write(tmp_path / "scans" / "abdomen.nii.gz", image_of(patient()))
    flat = image_of((patient() // 10).astype(np.int16))
    flat.set_qform(np.diag([-1.0, 1, 1, 1]) @ lps_affine(), 1)
    write(tmp_path / "scans" / "flat.nii.gz", flat)
    with caplog.at_level(logging.WARNING):
        out = predict(tmp_path / "scans", tmp_path / "out", model, ribs=False)  # which have notes of their own
    assert not (out / "ribs").exists()
    chest = (
        "no lungs found: is it a chest CT? the midline is not surely in view, so sides, levels and parts are left "
        "empty: is the field of view narrow?"
    )
    notes = {row["scan"]: row["notes"] for row in rows(out / "scans.csv")}
    assert notes["abdomen"] == chest
    assert notes["flat"].startswith("its sform and its qform lie up to ") and "which side is left" in notes["flat"]
    assert notes["flat"].endswith(f"no voxel above 300 HU, so no bone: is it in HU? {chest}")
    page = (out / "report.html").read_text(encoding="utf-8")
    for scan, text in notes.items():
        assert f"{scan}: {text}" in caplog.text
        assert json.loads((out / "records" / f"{scan}.json").read_text())["summary"]["notes"] == text
        assert f'<p class="warning">{text}</p>' in page


@pytest.mark.slow
def test_a_thousand_and_more_slices(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "scans" / "long.nii.gz", image_of(patient((16, 16, 2000))))
    out = predict(tmp_path / "scans", tmp_path / "out", model, **{"outputs::review_page": False})
    mask, _ = stored(out / "predictions" / "long.nii.gz")
    assert mask.shape == (16, 16, 2000) and mask[..., 1990:].any()


NAMES = [
    "two  words",
    "config_file=--x",
    "it's",
    'say "so"',
    "Größe 胸部",
    "a&b <i>",
    "{scan}",
    "100%s",
    "$HOME",
]
NAMES += ["semi;colon,comma", "back\\slash", "dots.1.2", r"a $\frac$ b", "x" * 200]
# bytes that are no UTF-8, and what no table or other file system takes
CHANGED = [os.fsdecode(b"\xd6\xd0\xce\xc4"), "line\nbreak", "=SUM(1)", "-dash", "y" * 240, "Twin", "twin"]


@pytest.mark.slow
def test_names(model: Path, tmp_path: Path) -> None:
    """Each name of a file names the mask, the picture, the record and the row, and nothing else is written."""
    small = image_of(patient((12, 11, 10)))
    data = tmp_path / '-a folder\'s "name"'
    for name in (*NAMES, *CHANGED):
        write(data / f"{name}.nii.gz", small)
    names = {item["scan"] for item in load_datalist(data, "all", labels=False)}
    assert names > set(NAMES) and len(names) == len(NAMES) + len(CHANGED)
    out = predict(data, tmp_path / "out ö", model, **{"outputs::pictures": True})
    for folder, suffix in (("predictions", ".nii.gz"), ("pictures", ".png"), ("records", ".json")):
        found = {path.name for path in (out / folder).iterdir()} - {"ribfrac-pred.csv"}
        assert found == {name + suffix for name in names}, folder
    for table, column in (
        ("fractures.csv", "scan"),
        ("scans.csv", "scan"),
        ("predictions/ribfrac-pred.csv", "public_id"),
    ):
        with (out / table).open(newline="", encoding="utf-8") as file:
            assert {row[column] for row in csv.DictReader(file)} == names, table
    assert "<i>" not in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_other_formats_and_an_output_folder_among_the_scans(model: Path, tmp_path: Path) -> None:
    """One scan in four formats gets one mask, on its grid; the next run takes no mask of the first one for a scan."""
    small = image_of(patient((16, 14, 12)))
    data = tmp_path / "data"
    write(data / "a.nii.gz", small).rename(data / "B.NII.GZ")
    nib.save(nib.Nifti1Pair(np.asarray(small.dataobj), small.affine), data / "c.img")
    image = itk.imread(str(data / "c.img"), itk.SS)
    for name in ("d.nrrd", "e.mha"):
        itk.imwrite(image, str(data / name))
    (data / "study.zip").touch()
    for _ in range(2):
        out = predict(data, data / "found", model, **{"outputs::review_page": False})
        masks = {path.name: stored(path) for path in (out / "predictions").glob("*.nii.gz")}
        assert sorted(masks) == ["B.nii.gz", "c.nii.gz", "d.nii.gz", "e.nii.gz"]
    ids, affine = masks["B.nii.gz"]
    assert ids.any()
    for other_ids, other_affine in masks.values():
        np.testing.assert_array_equal(other_ids, ids)
        np.testing.assert_allclose(other_affine, affine, atol=1e-5)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ignored"] == [{"suffix": ".zip", "files": 1, "example": "study.zip"}]
