"""Tests of scripts/metrics/folders.py: folders counted on paper, and folders that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.metrics.folders import score_folders
from scripts.metrics.froc import challenge_scores, detection_scores

# The evaluator's 1e-8 in each sum moves a ratio of small numbers by no more.
TOLERANCE = 1e-7
AFFINE = np.array([[-0.7, 0, 0, 12], [0, -0.8, 0, -7], [0, 0, 1.25, 30], [0, 0, 0, 1]])


def line(ids: str) -> np.ndarray:
    """A row of voxels, an id each, as a volume ``(n, 1, 1)``."""
    return np.array([int(voxel) for voxel in ids], dtype=np.uint8)[:, None, None]


def save(path: Path, ids: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(ids, affine), path)


def save_table(path: Path, header: str, *rows: str) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


GT_HEADER, PRED_HEADER = "public_id,label_id,label_code", "public_id,label_id,confidence,label_code"
GT_ROWS = ["RibFrac1,0,0", "RibFrac1,1,2", "RibFrac1,2,-1", "RibFrac2,0,0"]
PRED_ROWS = ["RibFrac1,0,0,0", "RibFrac1,1,0.9,2", "RibFrac1,2,0.35,1", "RibFrac2,0,0,0"]


@pytest.fixture()
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two scans: one with two fractures, a hit and a miss; one with nothing. Labels lie a folder below the table."""
    gt, pred = tmp_path / "gt", tmp_path / "pred"
    save(gt / "ribfrac-val-labels" / "RibFrac1-label.nii.gz", line("1110022"))
    save(gt / "ribfrac-val-labels" / "RibFrac2-label.nii.gz", line("0000000"))
    save(pred / "RibFrac1.nii.gz", line("1112000"))
    save(pred / "RibFrac2-label.nii.gz", line("0000000"))
    save_table(gt / "ribfrac-val-info.csv", GT_HEADER, *GT_ROWS)
    save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, *PRED_ROWS)
    return gt, pred


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("subfolder", [".", "ribfrac-val-labels"])
def test_folders_with_the_table_above_or_beside_the_labels(
    folders: tuple[Path, Path], subfolder: str, workers: int
) -> None:
    gt, pred = folders
    details = challenge_scores(score_folders(gt / subfolder, pred, workers=workers))
    assert details["counts"] == {"scans": 2, "fractures": 2, "candidates": 2}
    # Candidate 1 shares 3 voxels of a component of 4 with fracture 1; candidate 2 touches it and hits nothing.
    assert details["detection"]["max_recall"] == pytest.approx(1 / 2, abs=TOLERANCE)
    assert details["detection"]["average_fp_at_max_recall"] == pytest.approx(1 / 2, abs=TOLERANCE)
    assert details["segmentation"]["iou"] == pytest.approx(3 / 6)


def test_table_without_classes_means_no_class(folders: tuple[Path, Path]) -> None:
    gt, pred = folders
    save_table(pred / "ribfrac-val-pred.csv", "public_id,label_id,confidence", *(r[:-2] for r in PRED_ROWS))
    assert score_folders(gt, pred)[0].candidate_codes.tolist() == [-1, -1]


def test_candidates_above_255_in_a_file(folders: tuple[Path, Path]) -> None:
    gt, pred = folders
    ids = line("1112000").astype(np.uint16)
    ids[ids == 2] = 257
    save(pred / "RibFrac1.nii.gz", ids)
    save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, *(r.replace(",2,0.35", ",257,0.35") for r in PRED_ROWS))
    detection = detection_scores(score_folders(gt, pred))
    # As uint8, 257 would be 1: one candidate, a hit of 3/4 with or without it, and no false positive.
    assert detection["average_fp_at_max_recall"] == pytest.approx(1 / 2, abs=TOLERANCE)


def save_long_pair(gt: Path, pred: Path) -> None:
    """Replace scan 1: 511 steps of 0.74 and 0.749 mm end 4.6 mm apart."""
    ids = np.repeat(line("12"), 256, axis=0)
    save(gt / "ribfrac-val-labels" / "RibFrac1-label.nii.gz", ids, AFFINE @ np.diag([0.74 / 0.7, 1, 1, 1]))
    save(pred / "RibFrac1.nii.gz", ids, AFFINE @ np.diag([0.749 / 0.7, 1, 1, 1]))


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


Spoil = Callable[[Path, Path], object]


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        pytest.param(
            lambda gt, pred: (pred / "RibFrac1.nii.gz").unlink(),
            ValueError,
            "RibFrac1-label.nii.gz has no prediction",
            id="a labelled scan without prediction",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac3.nii.gz", line("000")),
            ValueError,
            "RibFrac3.nii.gz has no annotation",
            id="a prediction without annotation",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac1-label.nii.gz", line("000")),
            ValueError,
            "both of scan RibFrac1",
            id="two predictions of one scan",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac1.nii.gz", line("11120000")),
            ValueError,
            "RibFrac1.nii.gz is not on the grid of .*their shapes are 8 x 1 x 1 and 7 x 1 x 1",
            id="another shape",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac1.nii.gz", line("1112000"), AFFINE @ np.diag([-1, 1, 1, 1])),
            ValueError,
            # 6 steps of 0.7 mm, to one side and to the other
            "RibFrac1.nii.gz is not on the grid of .*RibFrac1-label.nii.gz, their corners lie up to 8.4 mm apart",
            id="another affine",
        ),
        pytest.param(
            lambda gt, pred: save_long_pair(gt, pred),
            ValueError,
            "RibFrac1.nii.gz is not on the grid of .*corners lie up to 4.6 mm apart",
            id="0.74 and 0.749 mm over 512 voxels",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac1.nii.gz", line("1112000")[..., None]),
            ValueError,
            "RibFrac1.nii.gz has shape .* three axes",
            id="four axes",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac1.nii.gz", line("1112000") * np.float32(0.5)),
            ValueError,
            "RibFrac1.nii.gz holds values that are not integers",
            id="values that are not integers",
        ),
        pytest.param(
            lambda gt, pred: save(gt / "ribfrac-val-labels" / "RibFrac1-label.nii.gz", line("1110022") * np.nan),
            ValueError,
            "RibFrac1-label.nii.gz holds values that are not integers",
            id="values that are not numbers",
        ),
        pytest.param(
            lambda gt, pred: save(pred / "RibFrac1.nii.gz", line("1112000") * np.float32(1.002)),
            ValueError,
            "RibFrac1.nii.gz holds values that are not integers",
            id="values off by 0.002",
        ),
        pytest.param(
            lambda gt, pred: corrupt(pred / "RibFrac1.nii.gz"),
            ValueError,
            "RibFrac1.nii.gz cannot be read as NIfTI",
            id="a file cut off",
        ),
        pytest.param(
            lambda gt, pred: save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, *PRED_ROWS[:2], PRED_ROWS[3]),
            ValueError,
            "RibFrac1.nii.gz.*ribfrac-val-pred.csv.*holds candidate 2, the table has no row",
            id="a candidate without a row",
        ),
        pytest.param(
            lambda gt, pred: save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, *PRED_ROWS, "RibFrac2,1,0.5,1"),
            ValueError,
            "RibFrac2-label.nii.gz.*row for candidate 1, the volume has no voxel",
            id="a row without a voxel",
        ),
        pytest.param(
            lambda gt, pred: save_table(gt / "ribfrac-val-info.csv", GT_HEADER, GT_ROWS[0], *GT_ROWS[2:]),
            ValueError,
            "RibFrac1-label.nii.gz.*holds fracture 1, the table has no row",
            id="a fracture without a row",
        ),
        pytest.param(
            lambda gt, pred: save_table(gt / "ribfrac-val-info.csv", GT_HEADER, *GT_ROWS[:3]),
            ValueError,
            "ribfrac-val-info.csv: no row of scan RibFrac2",
            id="a table of fractures without the scan",
        ),
        pytest.param(
            lambda gt, pred: save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, *PRED_ROWS[:3]),
            ValueError,
            "ribfrac-val-pred.csv: no row of scan RibFrac2",
            id="a table of candidates without the scan",
        ),
        pytest.param(
            lambda gt, pred: save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, *PRED_ROWS, PRED_ROWS[1]),
            ValueError,
            "line 6: RibFrac1 has id 1 twice",
            id="an id twice",
        ),
        pytest.param(
            lambda gt, pred: save_table(pred / "ribfrac-val-pred.csv", PRED_HEADER, "RibFrac1,1,high,2"),
            ValueError,
            "ribfrac-val-pred.csv, line 2: .*high",
            id="a score that is no number",
        ),
        pytest.param(
            lambda gt, pred: save_table(pred / "ribfrac-val-pred.csv", "public_id,label_id"),
            ValueError,
            "ribfrac-val-pred.csv: has the columns .*needs public_id,label_id,confidence",
            id="a table without scores",
        ),
        pytest.param(
            lambda gt, pred: (pred / "ribfrac-val-pred.csv").unlink(),
            FileNotFoundError,
            r"pred holds no \*pred\*.csv",
            id="no table of candidates",
        ),
        pytest.param(
            lambda gt, pred: pred.rename(pred.parent / "elsewhere"),
            FileNotFoundError,
            "is not a folder",
            id="no folder",
        ),
    ],
)
def test_folders_that_do_not_fit_are_named(
    folders: tuple[Path, Path], spoil: Spoil, error: type[Exception], message: str
) -> None:
    spoil(*folders)
    with pytest.raises(error, match=message):
        score_folders(*folders)


def found(folders: tuple[Path, Path]) -> list[list[list[float]]]:
    return [[one.tolist() for one in result[:5]] for result in map(astuple, score_folders(*folders))]


APPLE_DOUBLE = (
    b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xff\xfe\x80"  # what macOS puts beside each file it copies
)


@pytest.mark.parametrize(
    "name",
    [
        "gt/._ribfrac-val-info.csv",
        "gt/ribfrac-val-labels/._RibFrac1-label.nii.gz",
        "gt/.ipynb_checkpoints/ribfrac-val-info-checkpoint.csv",
        "gt/.Trash-1000/RibFrac1-label.nii.gz",
        "gt/__MACOSX/RibFrac9-label.nii.gz",
        "gt/.ribfrac-val-info.csv.swp",
        "gt/desktop.ini",
        "pred/._ribfrac-val-pred.csv",
        "pred/._RibFrac1.nii.gz",
        "pred/.DS_Store",
        "pred/.~lock.ribfrac-val-pred.csv#",
        "pred/Thumbs.db",
    ],
)
def test_what_systems_and_editors_leave_is_passed_over(folders: tuple[Path, Path], name: str) -> None:
    alone = found(folders)
    path = folders[0].parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(APPLE_DOUBLE)
    assert found(folders) == alone


def test_a_hidden_folder_may_hold_them_all(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    alone = found(folders)
    (tmp_path / ".hidden").mkdir()
    moved = [folder.rename(tmp_path / ".hidden" / folder.name) for folder in folders]
    assert found((moved[0], moved[1])) == alone


@pytest.mark.parametrize("factor", [1 / 3, 0.1, 1.0])
def test_ids_that_a_slope_makes_are_whole_numbers(folders: tuple[Path, Path], factor: float) -> None:
    """The slope is kept as float32, so that 3 times a third is 1.0000001."""
    alone = found(folders)
    image = nib.Nifti1Image((line("1110022") * round(1 / factor)).astype(np.uint8), AFFINE)
    image.header.set_slope_inter(factor, 0)
    nib.save(image, folders[0] / "ribfrac-val-labels" / "RibFrac1-label.nii.gz")
    assert found(folders) == alone
