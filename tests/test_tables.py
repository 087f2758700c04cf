"""What is known of candidates, and the rows of fractures.csv and of the challenge's table, counted by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor

from scripts.candidates import Candidate, candidate_from_record, describe_candidates, summarize
from scripts.reporting.tables import (
    CHALLENGE_COLUMNS,
    FRACTURE_COLUMNS,
    SCAN_COLUMNS,
    fracture_row,
    scan_row,
    write_candidate_tables,
    write_scan_table,
)


def prediction():
    ids = torch.zeros(1, 10, 8, 6, dtype=torch.int32)
    ids[0, 2:4, 1:4, 0:1] = 1  # 2 · 3 · 1 voxels around (2.5, 2, 0)
    ids[0, 7:8, 5:6, 2:6] = 2  # 4 voxels around (7, 5, 3.5)
    return MetaTensor(ids, affine=torch.as_tensor(lps_affine()))


AXIS = torch.tensor([[0.0, -7.0, z] for z in np.linspace(60, 0, 34)], dtype=torch.float64)
FIRST = Candidate(
    id=1,
    score=0.875,
    volume_mm3=4.2,  # 6 · 0.75 · 0.75 · 1.25
    side="",
    # to the left: -(12 - 2.5 · 0.75) = -10.125; to the back: -(-7 - 2 · 0.75); a half goes to the even digit
    center_mm=(-10.12, 8.5, 30.0),
    center_voxels=(2.5, 2.0, 0.0),
    first_voxel=(2, 1, 0),
    last_voxel=(3, 3, 0),
    length_mm=1.7,  # √((1 · 0.75)² + (2 · 0.75)²)
)


def test_what_is_known_of_a_candidate():
    first, second = describe_candidates(prediction(), torch.tensor([0.875, 0.25]))
    assert first == FIRST
    # 30 + 3.5 · 1.25
    assert (second.center_mm[2], second.first_voxel[2], second.last_voxel[2]) == (34.38, 2, 5)
    with pytest.raises(FrozenInstanceError):
        first.score = 1.0


def test_row():
    assert fracture_row(FIRST) == {
        "id": "1",
        "score": "0.875000",
        "volume_mm3": "4.2",
        "side": "",
        "center_x_mm": "-10.12",
        "center_y_mm": "8.50",
        "center_z_mm": "30.00",
        "center_i": "2.5",
        "center_j": "2.0",
        "center_k": "0.0",
        "first_i": "2",
        "first_j": "1",
        "first_k": "0",
        "last_i": "3",
        "last_j": "3",
        "last_k": "0",
        "length_mm": "1.7",
        "from_apex_mm": "",
        "level": "",
        "angle_degrees": "",
        "part": "",
    }
    assert ("scan", *fracture_row(FIRST)) == FRACTURE_COLUMNS


def test_a_candidate_comes_back_from_json_as_it_was():
    # thirds, halves and a score that float32 does not hold: nothing may be lost on the way
    candidates = describe_candidates(prediction(), torch.rand(2), torch.tensor([0.96, 0.28, 0.0, 1 / 3]), AXIS)
    assert None not in asdict(candidates[0]).values()
    for candidate in (*candidates, FIRST):
        assert candidate_from_record(json.loads(json.dumps(asdict(candidate)))) == candidate


@pytest.mark.parametrize(
    "score, expected",
    [
        pytest.param(0.4999996, 1, id="0.500000 in the table, so at the operating point 0.5"),
        pytest.param(0.4999994, 0, id="0.499999 in the table"),
    ],
)
def test_the_operating_point_sees_the_score_of_the_table(score, expected):
    candidates = describe_candidates(prediction(), [score, 0.1])
    assert summarize(candidates, 0.5, 1).at_operating_point == expected
    assert (fracture_row(candidates[0])["score"] >= "0.500000") == bool(expected)


@pytest.mark.parametrize(
    "x_mm, sides",
    [
        pytest.param(0.0, ["right", "right"], id="both to the right of the plane"),
        pytest.param(8.0, ["right", "left"], id="one to either side"),  # centers at x = 10.125 and 6.75 mm
        pytest.param(11.0, ["left", "left"], id="both to the left"),
    ],
)
def test_side(x_mm, sides):
    candidates = describe_candidates(prediction(), [0.5, 0.4], torch.tensor([1.0, 0.0, 0.0, x_mm]))
    assert [candidate.side for candidate in candidates] == sides


def test_an_unknown_plane_leaves_side_and_place_empty():
    for candidate in describe_candidates(prediction(), [0.5, 0.4], torch.full((4,), torch.nan), AXIS):
        row = fracture_row(candidate)
        assert [row[column] for column in ("side", "from_apex_mm", "level", "angle_degrees", "part")] == [""] * 5


def test_place_in_the_chest():
    # the chest's middle at x = 0, y = -7, the apex at z = 60, the base at z = 0
    both = describe_candidates(prediction(), [0.5, 0.4], torch.tensor([1.0, 0.0, 0.0, 0.0]), AXIS)
    first, second = map(fracture_row, both)
    # centers at x = 10.125 and 6.75, y = -8.5 and -10.75, z = 30 and 34.375 mm; 90 + atan(1.5 / 10.125) degrees
    assert [first[c] for c in FRACTURE_COLUMNS[-4:]] == ["30", "middle", "98", "lateral"]
    assert [second[c] for c in FRACTURE_COLUMNS[-4:]] == ["26", "middle", "119", "lateral"]


def test_the_columns_of_before_keep_their_place():
    assert FRACTURE_COLUMNS[:5] == ("scan", "id", "score", "volume_mm3", "side")
    assert FRACTURE_COLUMNS[16] == "last_k"


def candidate(score, side):
    return replace(FIRST, score=score, side=side)


COUNTED = [candidate(0.9, "right"), candidate(0.55, "left")]
FAINT = [candidate(0.549, "left")]


@pytest.mark.parametrize(
    "candidates, expected",
    [
        pytest.param([], [0, 0, 0, 0, "", "no"], id="none"),
        pytest.param(COUNTED + FAINT, [3, 2, 1, 1, "0.900000", "no"], id="one below the operating point"),
        pytest.param([*COUNTED, candidate(0.9, "")], [3, 3, 1, 1, "0.900000", "yes"], id="one of unknown side"),
        pytest.param(COUNTED + FAINT + COUNTED[1:], [4, 3, 1, 2, "0.900000", "yes"], id="three at it or above"),
    ],
)
def test_row_of_a_scan(candidates, expected, tmp_path):
    summary = summarize(candidates, operating_score=0.55, many_fractures=3, notes="no lungs")
    assert list(scan_row(summary).values()) == [*map(str, expected), "no lungs"]
    write_scan_table([("a, b", summary)], tmp_path / "scans.csv")
    assert read(tmp_path / "scans.csv") == [list(SCAN_COLUMNS), ["a, b", *map(str, expected), "no lungs"]]


def test_no_candidates():
    empty = MetaTensor(torch.zeros(1, 4, 4, 4, dtype=torch.int32), affine=torch.eye(4))
    assert describe_candidates(empty, torch.zeros(0)) == []


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_tables(tmp_path):
    rows = {"RibFrac501": describe_candidates(prediction(), [0.875, 0.25]), "chest, 2": []}
    assert (
        write_candidate_tables(rows.items(), tmp_path / "fractures.csv", tmp_path / "predictions" / "ribfrac-pred.csv")
        == 2
    )
    header, *people = read(tmp_path / "fractures.csv")
    assert tuple(header) == FRACTURE_COLUMNS
    assert [row[:3] for row in people] == [
        ["RibFrac501", "1", "0.875000"],
        ["RibFrac501", "2", "0.250000"],
        ["chest, 2", "", ""],
    ]
    assert read(tmp_path / "predictions" / "ribfrac-pred.csv") == [
        list(CHALLENGE_COLUMNS),
        ["RibFrac501", "0", "0.0", "0"],
        ["RibFrac501", "1", "0.875000", "-1"],
        ["RibFrac501", "2", "0.250000", "-1"],
        ["chest, 2", "0", "0.0", "0"],
    ]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["fractures.csv", "ribfrac-pred.csv"]


def test_volume_of_an_oblique_scan():
    turned = np.array([[0.6, -0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    ids = MetaTensor(torch.ones(1, 1, 1, 3, dtype=torch.int32), affine=torch.as_tensor(turned))
    assert describe_candidates(ids, [1.0])[0].volume_mm3 == 6.0
