"""Where a prediction of training scans went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine, write_scan

from scripts.commands.mine import find_hard_examples, main, mine
from scripts.data.hard_examples import add_hard_examples


def volumes() -> tuple[np.ndarray, np.ndarray]:
    """Fractures 2 and 5, candidates 1 (on 2), 3 (beside everything), 4 (touches 5 with a corner)."""
    pred, label = np.zeros((40, 30, 20), np.int16), np.zeros((40, 30, 20), np.int16)
    label[4:8, 4:8, 4:8] = 2
    label[20:24, 20:24, 10:14] = 5
    pred[4:8, 4:8, 5:9] = 1
    pred[30:33, 10:13, 2:5] = 3
    pred[23:28, 23:28, 13:18] = 4
    return pred, label


def test_a_candidate_that_touches_no_fracture_is_false_and_a_fracture_without_a_hit_is_missed() -> None:
    places = find_hard_examples(*volumes(), np.diag([0.5, 0.5, 2.0, 1.0]))
    assert places == {"false_mm": [[15.5, 5.5, 6.0]], "missed": [5]}


def test_places_are_in_mm_of_the_scan() -> None:
    """A flipped array is the same scan, with the same places."""
    pred, label = volumes()
    affine = lps_affine()
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = pred.shape[0] - 1
    assert find_hard_examples(pred[::-1], label[::-1], affine @ flip) == find_hard_examples(pred, label, affine)


def test_without_a_candidate_all_are_missed_and_without_a_fracture_all_are_false() -> None:
    pred, label = volumes()
    none = np.zeros_like(pred)
    assert find_hard_examples(none, label, np.eye(4)) == {"false_mm": [], "missed": [2, 5]}
    assert len(find_hard_examples(pred, none, np.eye(4))["false_mm"]) == 3
    assert find_hard_examples(none, none, np.eye(4)) == {"false_mm": [], "missed": []}


@pytest.fixture
def predicted(tmp_path: Path) -> tuple[Path, Path]:
    """A data set of two scans, and a folder with the prediction of one, which found nothing."""
    for number in (1, 2):
        write_scan(tmp_path / "data", "train", number, fractures=2)
    masks = tmp_path / "predictions"
    masks.mkdir()
    label = nib.load(tmp_path / "data" / "ribfrac-train-labels" / "RibFrac1-label.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), masks / "RibFrac1.nii.gz")
    return tmp_path / "data", masks


def test_command_writes_what_a_training_reads(
    predicted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, masks = predicted
    output = tmp_path / "hard.json"
    main(["--predictions_dir", str(masks), "--dataset_dir", str(dataset), "--output", str(output)])
    assert "0 false candidates and 2 missed fractures in 1 scans" in capsys.readouterr().out
    assert json.loads(output.read_text()) == {"RibFrac1": {"false_mm": [], "missed": [1, 2]}}
    items = add_hard_examples([{"scan": "RibFrac1"}, {"scan": "RibFrac2"}], output)
    assert items[0]["hard_examples"]["missed"] == [1, 2] and items[0]["hard_examples"]["false_mm"].shape == (0, 3)
    assert items[1] == {"scan": "RibFrac2"}


def test_no_file_adds_nothing() -> None:
    assert add_hard_examples([{"scan": "RibFrac1"}], None) == [{"scan": "RibFrac1"}]


@pytest.mark.parametrize(
    "text, message",
    [
        pytest.param(None, "does not exist: python -m scripts mine writes it", id="missing"),
        pytest.param("{", "is no file of hard examples", id="no JSON"),
        pytest.param('{"RibFrac1": [1]}', "is no file of hard examples", id="another JSON"),
        pytest.param('{"RibFrac9": {"false_mm": [], "missed": []}}', "knows none of the 1 scans", id="other scans"),
    ],
)
def test_a_wrong_file_is_told(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hard.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        add_hard_examples([{"scan": "RibFrac1"}], path)


def test_nothing_predicted_is_told(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no prediction of a scan of .*--section training"):
        mine(tmp_path / "empty", predicted[0])


def test_a_prediction_on_another_grid_is_told(predicted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    dataset, masks = predicted
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), masks / "RibFrac1.nii.gz")
    with pytest.raises(SystemExit) as stopped:
        main(["--predictions_dir", str(masks), "--dataset_dir", str(dataset)])
    assert stopped.value.code == 1 and "is not on the grid of" in capsys.readouterr().err


def test_a_prediction_of_a_spacing_a_little_larger_is_refused_with_its_shift(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "train", 1, fractures=1, shape=(512, 16, 16))
    label = nib.load(tmp_path / "data" / "ribfrac-train-labels" / "RibFrac1-label.nii.gz")
    # 511 steps of 0.75 and 0.759 mm end 4.6 mm apart
    affine = label.affine - np.diag([0.009, 0, 0, 0])
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), affine), tmp_path / "RibFrac1.nii.gz")
    with pytest.raises(ValueError, match="RibFrac1.nii.gz is not on the grid of .*corners lie up to 4.6 mm apart"):
        mine(tmp_path, tmp_path / "data")
