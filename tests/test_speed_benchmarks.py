"""The benchmarks of evaluation and of training: what they compare is the same work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT, write_scan

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks import evaluation, training  # noqa: E402


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
def test_rois_are_fed_with_and_without_prepared_scans(tmp_path: Path, cached: bool) -> None:
    for number in (1, 2):
        write_scan(tmp_path / "scans", "train", number, fractures=1, shape=(64, 56, 48))
    cache = tmp_path / "cache" if cached else None
    _, rois = training.rois_a_second(tmp_path / "scans", cache, workers=0, epochs=2)
    assert rois > 0
    assert (tmp_path / "cache").exists() == cached


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_step_is_timed(bfloat16: bool) -> None:
    assert 0 < training.seconds_a_step(bfloat16, repeats=1) < 60
