"""Ids of overlays: those that would do nothing are refused, those that something uses are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT

from scripts.runs.overlays import overlay_fault

CONFIGS = BUNDLE_ROOT / "configs"
DETECTION = BUNDLE_ROOT.parent / "benchmarks" / "detection" / "configs"


@pytest.mark.parametrize(
    "files",
    [
        ["inference.yaml", "evaluate.yaml"],
        ["inference.yaml", "report_inference.yaml", "evaluate.yaml", "multi_gpu_evaluate.yaml"],
        ["inference.yaml", "inference_trt.yaml"],
        ["train.yaml", "report.yaml", "multi_gpu_train.yaml"],
        ["train.yaml", "train_ribs.yaml"],
        ["train.yaml", DETECTION / "fracnet_network.yaml", DETECTION / "fracnet.yaml"],
        ["inference.yaml", DETECTION / "fracnet_network.yaml", DETECTION / "fracnet_inference.yaml"],
    ],
    ids=lambda files: Path(files[-1]).stem,
)
def test_the_overlays_of_this_repository_pass(files: list[str | Path]) -> None:
    assert overlay_fault([str(CONFIGS / file) for file in files]) == ""


@pytest.mark.parametrize(
    "overlay, fault",
    [
        pytest.param("region_los: {_target_: DiceLoss}", "'region_los'.*did you mean region_loss?", id="a component"),
        pytest.param("max_epoch: 3", "'max_epoch'.*did you mean max_epochs?", id="a setting"),
        pytest.param("rois::per_scn: 3", "'rois::per_scn'.*did you mean rois::per_scan?", id="of a group"),
        pytest.param("noise: {probb: 1.0}", "'noise::probb'.*did you mean noise::prob?", id="in a whole group"),
        pytest.param("+handlrs: []", "'handlrs'", id="to be merged"),
        pytest.param("zzz: 1", "'zzz', and nothing refers to it: remove it", id="like none"),
    ],
)
def test_an_id_that_would_do_nothing_is_told(overlay: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(f"{overlay}\n")
    with pytest.raises(AssertionError, match=f"my.yaml: .*train.yaml has no {fault}"):
        assert overlay_fault([str(CONFIGS / "train.yaml"), str(path)]) == ""


@pytest.mark.parametrize(
    "overlay",
    [
        pytest.param("my_rate: 0.1\nlearning_rate: '@my_rate'", id="a reference"),
        pytest.param("my_rate: 0.1\nlearning_rate: '$@my_rate / 2'", id="an expression"),
        pytest.param("my_loss: {_target_: DiceLoss}\nregion_loss: '%my_loss'", id="a macro"),
        pytest.param("rois::mine: 4\nscans_per_batch: \"$@rois['mine']\"", id="by the key of a group"),
        pytest.param("optimizer::amsgrad: true", id="an argument of a component"),
        pytest.param("my_run: []\nrun: '%my_run'", id="what is run"),
        pytest.param("mine: []", id="named on the command line"),
    ],
)
def test_an_id_that_is_used_passes(overlay: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(f"{overlay}\n")
    assert overlay_fault([str(CONFIGS / "train.yaml"), str(path)], {"mine"}) == ""


def test_an_id_of_a_later_overlay_passes(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("bootstrap: 10\n")
    files = [str(CONFIGS / "inference.yaml"), str(path), str(CONFIGS / "evaluate.yaml")]
    assert overlay_fault(files) == ""
    assert "has no 'bootstrap'" in overlay_fault(files[:2])
