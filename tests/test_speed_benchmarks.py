"""The benchmarks of evaluation and of training: what they compare is the same work."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, CHANNELS, write_scan
from torch.nn.modules.module import register_module_forward_hook

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks import evaluation, training  # noqa: E402

pytestmark = pytest.mark.processor


def test_both_ways_of_the_overlap_rule_agree_and_are_written_down(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("<!-- evaluation -->\n<!-- /evaluation -->\n")
    arguments = ["--shape", "200", "180", "160", "--repeats", "1", "--json", str(tmp_path / "e.json")]
    evaluation.main([*arguments, "--markdown", str(page)])
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["overlaps"] >= 8  # ten candidates lie on fractures
    assert figures["times_as_fast"] == figures["seconds_plain"] / figures["seconds_ours"]
    assert f"the same {figures['overlaps']} overlaps" in " ".join(page.read_text().split())


def test_ways_that_differ_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "plain_overlaps", lambda pred, label: {(1, 1): 0.5})
    with pytest.raises(SystemExit, match="the two ways differ"):
        evaluation.main(["--shape", "90", "80", "70", "--repeats", "1"])


@pytest.mark.parametrize("cached", [True, False], ids=["prepared", "read anew"])
def test_rois_are_fed_with_and_without_prepared_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    for number in (1, 2):
        write_scan(tmp_path / "scans", "train", number, fractures=1, shape=(64, 56, 48))
    times = iter([10.0, 15.0, 20.0, 24.0])  # before and behind preparing, before and behind feeding
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    cache = tmp_path / "cache" if cached else None
    found = training.rois_a_second(tmp_path / "scans", cache, workers=0, epochs=3)
    rois_per_scan = yaml.safe_load((BUNDLE_ROOT / "configs" / "train.yaml").read_text())["rois"]["per_scan"]
    assert found == (5.0, 3 * 2 * rois_per_scan / 4.0)
    assert (tmp_path / "cache").exists() == cached


@pytest.mark.parametrize("bfloat16, precision", [(True, torch.bfloat16), (False, torch.float32)])
def test_a_step_is_of_a_batch_and_told_for_an_roi(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, precision: torch.dtype
) -> None:
    small = {
        "rois::roi_size": [16, 16, 16],
        "rois::per_scan": 3,
        "scans_per_batch": 2,
        "network_def::channels": CHANNELS,
    }
    config, seen = training._config(), []
    config.update(small)

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv3d):
            seen.append((len(output), output.dtype))

    monkeypatch.setattr(training, "_config", lambda: config)
    monkeypatch.setattr(training, "least_seconds", lambda step, repeats: step() or 12.0)
    with register_module_forward_hook(keep):
        assert training.seconds_a_step(bfloat16) == 12.0 / 6
    assert set(seen) == {(6, precision)}
