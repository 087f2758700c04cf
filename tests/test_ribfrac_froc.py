"""Tests of scripts/metrics/ribfrac_froc.py: the MONAI metric, the command, agreement with the challenge's evaluator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from scipy import ndimage

from scripts.commands.score import main
from scripts.metrics.froc import challenge_scores
from scripts.metrics.ribfrac_froc import RibFracFROCMetric, annotated_and_predicted

GOLDEN_DIR = Path(__file__).parent / "data" / "froc_golden"
sys.path.insert(0, str(GOLDEN_DIR))

from make_masks import KINDS, make_set  # noqa: E402

# The evaluator's 1e-8 in each sum moves a ratio of small numbers by no more.
TOLERANCE = 1e-7

# ---- MONAI metric ----


def tensors(ids: str) -> torch.Tensor:
    """A row of voxels, an id each, as a volume ``(1, n, 1, 1)``."""
    return torch.tensor([int(voxel) for voxel in ids])[None, :, None, None]


SCANS: list[dict[str, Any]] = [
    # A hit of 3/3 at 0.9 and a miss at 0.6.
    {
        "pred": MetaTensor(tensors("1110022")),
        "label_scores": torch.tensor([0.9, 0.6]),
        "pred_codes": torch.tensor([4, 4]),
        "label": MetaTensor(tensors("1110000")),
        "label_codes": {0: 0, 1: torch.tensor(4)},
    },
    {"pred": tensors("0000000"), "label_scores": torch.zeros(0), "label": tensors("0000000")},
    {"pred": tensors("0000000").float(), "label_scores": [], "label": tensors("0011000"), "label_codes": {1: 2}},
]


def test_metric_in_monais_handler_equals_the_scores_of_the_scans() -> None:
    metric: Any = RibFracFROCMetric(exact_thresholds=True, bootstrap=20, seed=1)
    engine = Engine(lambda engine, batch: batch)
    IgniteMetricHandler(metric_fn=metric, output_transform=annotated_and_predicted).attach(engine, "froc")
    for _ in range(2):
        # The second run starts anew.
        engine.run([SCANS[:2], SCANS[2:]])
        # 1 of 2 fractures at 0 false positives, and so at every key point.
        assert engine.state.metrics["froc"] == pytest.approx(1 / 2, abs=TOLERANCE)
        details = metric.details()
        assert details["counts"] == {"scans": 3, "fractures": 2, "candidates": 2}
        assert details["detection"]["average_fp_at_max_recall"] == pytest.approx(1 / 3, abs=TOLERANCE)
        assert details["classification"]["confusion_matrix"]["values"][3] == [0, 0, 0, 1, 1, 0]
        assert details["classification"]["confusion_matrix"]["values"][4] == [0, 0, 1, 0, 0, 0]
        assert details["segmentation"]["dice"] == pytest.approx(6 / 10)
    assert metric.details() == challenge_scores(metric.results(), exact_thresholds=True, bootstrap=20, seed=1)


def test_metric_gives_back_what_each_scan_added() -> None:
    metric = RibFracFROCMetric()
    metric(SCANS[::-1], SCANS[::-1])
    results = metric.results()
    assert [len(result.fracture_codes) for result in results] == [1, 0, 1]
    assert results[2].label_scores.tolist() == pytest.approx([0.9, 0.6])
    assert results[2].best_fracture.tolist() == [0, -1]
    assert (results[2].candidate_voxels, results[2].fracture_voxels, results[2].shared_voxels) == (5, 3, 3)
    metric.reset()
    assert metric.results() == []
    assert metric.aggregate().isnan()
    with pytest.raises(ValueError, match="no scan"):
        metric.details()
    metric(SCANS, SCANS)
    assert len(metric.results()) == 3


@pytest.mark.parametrize(
    "codes, row",
    [
        pytest.param({}, [0, 0, 0, 0, 0, 1], id="unknown without codes"),
        pytest.param({"label_codes": {1: 2}}, [0, 0, 1, 0, 0, 0], id="the data list's own key"),
        pytest.param({"fracture_codes": {1: 3}}, [1, 0, 0, 0, 0, 0], id="the key that an engine's output has"),
    ],
)
def test_metric_reads_the_fractures_classes(codes: dict[str, Any], row: list[int]) -> None:
    metric = RibFracFROCMetric(bootstrap=0)
    metric([{"pred": tensors("000"), "label_scores": []}], [{"label": tensors("011"), **codes}])
    assert metric.details()["classification"]["confusion_matrix"]["values"][4] == row


@pytest.mark.parametrize(
    "y_pred, message",
    [
        pytest.param([], "0 predicted and 1 annotated", id="lists of different length"),
        pytest.param([{"pred": tensors("011")[0], "label_scores": [0.5]}], "shape", id="no channel"),
        pytest.param([{"pred": tensors("011"), "label_scores": []}], "no row", id="a candidate without a score"),
        pytest.param([{"pred": tensors("011") * 0.5, "label_scores": [0.5]}], "not integers", id="half an id"),
    ],
)
def test_metric_refuses(y_pred: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RibFracFROCMetric()(y_pred, [{"label": tensors("001")}])


# ---- command line ----


@pytest.fixture()
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A scan with two fractures, a hit (3 voxels of 4) and a miss that touches the hit; and a scan with nothing."""
    affine = np.array([[-0.7, 0, 0, 12], [0, -0.8, 0, -7], [0, 0, 1.25, 30], [0, 0, 0, 1]])
    gt, pred = tmp_path / "gt", tmp_path / "pred"
    for folder, name, ids in (
        (gt, "RibFrac1-label", "1110022"),
        (gt, "RibFrac2-label", "0000000"),
        (pred, "RibFrac1", "1112000"),
        (pred, "RibFrac2", "0000000"),
    ):
        folder.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(tensors(ids)[0].numpy().astype(np.uint8), affine), folder / f"{name}.nii.gz")
    (gt / "ribfrac-val-info.csv").write_text(
        "public_id,label_id,label_code\nRibFrac1,0,0\nRibFrac1,1,2\nRibFrac1,2,-1\nRibFrac2,0,0\n"
    )
    (pred / "ribfrac-val-pred.csv").write_text(
        "public_id,label_id,confidence\nRibFrac1,0,0\nRibFrac1,1,0.9\nRibFrac1,2,0.35\nRibFrac2,0,0\n"
    )
    return gt, pred


def test_command_line_writes_and_prints(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, pred = folders
    output = tmp_path / "out" / "scores.json"
    main(["--gt_dir", str(gt), "--pred_dir", str(pred), "--output", str(output), "--exact_thresholds"])
    printed = capsys.readouterr().out
    # Half a recall at 0 false positives, and so everywhere; the miss lies right of it, at 1/2.
    assert "2 scans, 2 fractures, 2 candidates" in printed
    assert "average recall            0.5000" in printed
    details = json.loads(output.read_text())
    assert details["detection"]["key_recall"] == pytest.approx([0.5] * 5, abs=TOLERANCE)
    assert details["bootstrap"] is None  # half a recall in every draw
    assert sorted(path.name for path in output.parent.iterdir()) == ["froc.csv", "froc.png", "scores.json"]


def test_command_line_says_what_is_wrong(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--gt_dir", str(folders[0] / "nowhere"), "--pred_dir", str(folders[1])])
    assert stop.value.code == 1 and "nowhere is not a folder" in capsys.readouterr().err


# ---- agreement with the challenge's evaluator ----


@pytest.mark.parametrize("name", KINDS)
def test_agrees_with_the_evaluator(name: str, tmp_path: Path) -> None:
    gt, pred, output = GOLDEN_DIR / name / "gt", GOLDEN_DIR / name / "pred", tmp_path / "metrics.json"
    main(["--gt_dir", str(gt), "--pred_dir", str(pred), "--output", str(output), "--bootstrap", "0"])
    found = json.loads(output.read_text())
    expected = json.loads((GOLDEN_DIR / name / "expected.json").read_text())
    for section, scores in expected.items():
        for key, value in scores.items():
            if key == "confusion_matrix":
                assert found[section][key] == value
            else:
                assert found[section][key] == pytest.approx(value, abs=1e-6), (section, key)


@pytest.mark.parametrize(
    "kind, recall, candidates",
    [
        # 7 of 8 scans have 4 fractures; 7 of them 3 candidates elsewhere
        pytest.param("perfect", 1.0, 28, id="perfect"),
        pytest.param("nothing_predicted", 0.0, 0, id="nothing predicted"),
        pytest.param("no_hit", 0.0, 21, id="no hit"),
    ],
)
def test_masks_of_a_kind_are_made_as_it_says(kind: str, recall: float, candidates: int, tmp_path: Path) -> None:
    make_set(tmp_path, kind, seed=3)
    output = tmp_path / "metrics.json"
    gt, pred = str(tmp_path / "gt"), str(tmp_path / "pred")
    main(["--gt_dir", gt, "--pred_dir", pred, "--output", str(output), "--bootstrap", "0", "--workers", "1"])
    found = json.loads(output.read_text())
    assert found["counts"] == {"scans": 8, "fractures": 28, "candidates": candidates}
    assert found["detection"]["max_recall"] == pytest.approx(recall, abs=TOLERANCE)


@pytest.mark.parametrize(
    "kind, touch", [pytest.param("touching", True, id="touching"), pytest.param("plain", False, id="apart")]
)
def test_fractures_of_a_made_set_touch_as_it_says(kind: str, touch: bool, tmp_path: Path) -> None:
    make_set(tmp_path, kind, seed=3)
    label = np.asarray(nib.nifti1.load(tmp_path / "gt" / "RibFrac903-label.nii.gz").dataobj)
    _, pieces = ndimage.label(label, np.ones((3, 3, 3)))
    assert (pieces < label.max()) == touch
