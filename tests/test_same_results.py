"""Tests of benchmarks/same_results.py: what counts as the same result."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import BUNDLE_ROOT

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks.same_results import differences, digests  # noqa: E402


def write(folder: Path, **texts: str) -> dict[str, str]:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_csv", ".csv").replace("_nii", ".nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return digests(folder)


def test_a_result_that_differs_or_is_missing_is_named(tmp_path):
    before = write(tmp_path / "a", predictions__one_nii="1", predictions__two_nii="2", fractures_csv="x", notes="a")
    assert set(before) == {"predictions/one.nii.gz", "predictions/two.nii.gz", "fractures.csv"}
    assert differences(before, write(tmp_path / "b", predictions__one_nii="1", fractures_csv="y", notes="b")) == [
        "fractures.csv",
        "predictions/two.nii.gz",
    ]


def test_the_same_results_differ_in_nothing(tmp_path):
    texts = {"predictions__one_nii": "1", "scans_csv": "x"}
    assert differences(write(tmp_path / "a", **texts), write(tmp_path / "b", **texts)) == []
