"""Tests of scripts/reporting/scores.py: what the files and the printed table say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scripts.metrics.froc import ScanResult, challenge_scores
from scripts.reporting.scores import NO_INTERVAL, metrics_table, write_metrics

# Two fractures, a displaced and one of unknown type; a hit of the first at 0.9, and a miss at 0.355.
RESULT = ScanResult(
    fracture_codes=np.array([1, -1]),
    candidate_codes=np.array([1, 2]),
    label_scores=np.array([0.9, 0.355]),
    best_fracture=np.array([0, -1]),
    best_overlap=np.array([0.75, 0]),
    candidate_voxels=4,
    fracture_voxels=5,
    shared_voxels=3,
)


def curve(path: Path) -> list[list[float]]:
    """The rows of a written curve: threshold, false positives per scan, recall."""
    with path.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["threshold", "fp_per_scan", "recall"]
    return [[float(value) for value in row] for row in rows]


def test_written_curve_has_the_challenges_hundred_thresholds(tmp_path: Path) -> None:
    write_metrics(challenge_scores([RESULT], bootstrap=0), tmp_path / "new" / "folder")
    rows = curve(tmp_path / "new" / "folder" / "froc.csv")
    assert len(rows) == 100
    # The miss, of score 0.355, takes part at 0.35, no more at 0.36.
    assert rows[35] == pytest.approx([0.35, 1, 1 / 2]) and rows[36] == pytest.approx([0.36, 0, 1 / 2], abs=1e-7)
    assert json.loads((tmp_path / "new" / "folder" / "metrics.json").read_text())["counts"]["scans"] == 1


def test_written_curve_has_every_score_where_asked(tmp_path: Path) -> None:
    write_metrics(challenge_scores([RESULT], exact_thresholds=True), tmp_path, "scores.json")
    assert curve(tmp_path / "froc.csv") == [
        pytest.approx(row, abs=1e-7) for row in ([0, 1, 1 / 2], [0.355, 1, 1 / 2], [0.9, 0, 1 / 2])
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["froc.csv", "froc.png", "scores.json"]


@pytest.mark.parametrize(
    "exact, bootstrap, head, row",
    [
        pytest.param(False, 0, ["recall"], ["0.5000"], id="recall alone"),
        pytest.param(True, 0, ["recall", "exact"], ["0.5000", "0.5000"], id="beside exact thresholds"),
        pytest.param(
            False, 99, ["recall", "95", "%", "interval"], ["0.5000", "0.0000-1.0000"], id="beside an interval"
        ),
    ],
)
def test_table_has_a_column_for_what_was_asked(exact: bool, bootstrap: int, head: list[str], row: list[str]) -> None:
    found = replace(RESULT, best_fracture=np.array([0, 1]), best_overlap=np.array([0.75, 0.75]))
    nothing = dict.fromkeys(("candidate_codes", "label_scores", "best_fracture", "best_overlap"), np.array([]))
    missed = replace(RESULT, **{name: value.astype(int) for name, value in nothing.items()})
    results = [found, missed] if bootstrap else [RESULT]
    lines = metrics_table(challenge_scores(results, exact, bootstrap)).splitlines()
    assert lines[3].split() == head
    assert next(line for line in lines if line.startswith("average recall")).split()[2:] == row


def test_table_begins_with_counts() -> None:
    lines = metrics_table(challenge_scores([RESULT], bootstrap=0)).splitlines()
    assert lines[0] == "1 scan, 2 fractures, 2 candidates of any score"


def test_table_says_why_there_is_no_interval() -> None:
    assert NO_INTERVAL in metrics_table(challenge_scores([RESULT] * 2, bootstrap=9)).splitlines()
    assert NO_INTERVAL not in metrics_table(challenge_scores([RESULT] * 2, bootstrap=0)).splitlines()


def test_table_shows_classes_and_voxels() -> None:
    lines = [line.split() for line in metrics_table(challenge_scores([RESULT], bootstrap=0)).splitlines()]
    # Columns: buckle, displaced, nondisplaced, segmental, on no fracture, on a fracture of unknown type.
    assert ["Displaced", "0", "1", "0", "0", "0", "0"] in lines
    assert ["Nondisplaced", "0", "0", "0", "0", "1", "0"] in lines
    assert ["FN", "0", "0", "0", "0", "0", "1"] in lines
    # 2·3 / (4 + 5) and 3 / (4 + 5 - 3)
    assert ["dice", "0.6667"] in lines and ["iou", "0.5000"] in lines


def test_the_table_of_types_is_left_out_where_no_candidate_has_one() -> None:
    untyped = replace(RESULT, candidate_codes=np.full_like(RESULT.candidate_codes, -1))
    lines = metrics_table(challenge_scores([untyped], bootstrap=0)).splitlines()
    assert "Classification: left out, since no candidate has a type" in lines
    assert not any("rows: candidates" in line or "F1" in line for line in lines)
