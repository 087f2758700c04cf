"""The rows of fractures.csv and of the challenge's table, counted by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor

from scripts.reporting.tables import (
    CHALLENGE_COLUMNS,
    FRACTURE_COLUMNS,
    SCAN_COLUMNS,
    candidate_rows,
    scan_row,
    write_candidate_tables,
    write_scan_table,
)


def prediction():
    ids = torch.zeros(1, 10, 8, 6, dtype=torch.int32)
    ids[0, 2:4, 1:4, 0:1] = 1  # 2 · 3 · 1 voxels around (2.5, 2, 0)
    ids[0, 7:8, 5:6, 2:6] = 2  # 4 voxels around (7, 5, 3.5)
    return MetaTensor(ids, affine=torch.as_tensor(lps_affine()))


def test_rows():
    first, second = candidate_rows(prediction(), torch.tensor([0.875, 0.25]))
    assert first == {
        "id": 1,
        "score": "0.875000",
        "volume_mm3": "4.2",  # 6 · 0.75 · 0.75 · 1.25
        "side": "",
        "center_x_mm": "-10.12",  # to the left: -(12 - 2.5 · 0.75) = -10.125
        "center_y_mm": "8.50",  # to the back: -(-7 - 2 · 0.75)
        "center_z_mm": "30.00",
        "center_i": "2.5",
        "center_j": "2.0",
        "center_k": "0.0",
        "first_i": 2,
        "last_i": 3,
        "first_j": 1,
        "last_j": 3,
        "first_k": 0,
        "last_k": 0,
        "length_mm": "1.7",  # √((1 · 0.75)² + (2 · 0.75)²)
        "from_apex_mm": "",
        "level": "",
        "angle_degrees": "",
        "part": "",
    }
    assert (second["center_z_mm"], second["first_k"], second["last_k"]) == ("34.38", 2, 5)  # 30 + 3.5 · 1.25


@pytest.mark.parametrize(
    "x_mm, sides",
    [
        pytest.param(0.0, ["right", "right"], id="both to the right of the plane"),
        pytest.param(8.0, ["right", "left"], id="one to either side"),  # centers at x = 10.125 and 6.75 mm
        pytest.param(11.0, ["left", "left"], id="both to the left"),
    ],
)
def test_side(x_mm, sides):
    rows = candidate_rows(prediction(), [0.5, 0.4], torch.tensor([1.0, 0.0, 0.0, x_mm]))
    assert [row["side"] for row in rows] == sides


def test_an_unknown_plane_leaves_side_and_place_empty():
    axis = torch.tensor([[0.0, -7.0, z] for z in np.linspace(60, 0, 34)], dtype=torch.float64)
    for row in candidate_rows(prediction(), [0.5, 0.4], torch.full((4,), torch.nan), axis):
        assert [row[column] for column in ("side", "from_apex_mm", "level", "angle_degrees", "part")] == [""] * 5


def test_place_in_the_chest():
    # the chest's middle at x = 0, y = -7, the apex at z = 60, the base at z = 0
    axis = torch.tensor([[0.0, -7.0, z] for z in np.linspace(60, 0, 34)], dtype=torch.float64)
    first, second = candidate_rows(prediction(), [0.5, 0.4], torch.tensor([1.0, 0.0, 0.0, 0.0]), axis)
    # centers at x = 10.125 and 6.75, y = -8.5 and -10.75, z = 30 and 34.375 mm; 90 + atan(1.5 / 10.125) degrees
    assert [first[c] for c in FRACTURE_COLUMNS[-4:]] == ["30", "middle", "98", "lateral"]
    assert [second[c] for c in FRACTURE_COLUMNS[-4:]] == ["26", "middle", "119", "lateral"]


def test_the_columns_of_before_keep_their_place():
    assert FRACTURE_COLUMNS[:5] == ("scan", "id", "score", "volume_mm3", "side")
    assert FRACTURE_COLUMNS[16] == "last_k"


COUNTED = [{"score": "0.900000", "side": "right"}, {"score": "0.550000", "side": "left"}]
FAINT = [{"score": "0.549000", "side": "left"}]


@pytest.mark.parametrize(
    "candidates, expected",
    [
        pytest.param([], [0, 0, 0, 0, "", "no"], id="none"),
        pytest.param(COUNTED + FAINT, [3, 2, 1, 1, "0.900000", "no"], id="one below the operating point"),
        pytest.param([*COUNTED, COUNTED[0] | {"side": ""}], [3, 3, 1, 1, "0.900000", "yes"], id="one of unknown side"),
        pytest.param(COUNTED + FAINT + COUNTED[1:], [4, 3, 1, 2, "0.900000", "yes"], id="three at it or above"),
    ],
)
def test_row_of_a_scan(candidates, expected, tmp_path):
    row = scan_row(candidates, operating_score=0.55, many_fractures=3)
    assert list(row.values()) == expected
    write_scan_table([("a, b", row | {"notes": "no lungs"})], tmp_path / "scans.csv")
    assert read(tmp_path / "scans.csv") == [list(SCAN_COLUMNS), ["a, b", *map(str, expected), "no lungs"]]


def test_no_candidates():
    empty = MetaTensor(torch.zeros(1, 4, 4, 4, dtype=torch.int32), affine=torch.eye(4))
    assert candidate_rows(empty, torch.zeros(0)) == []


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_tables(tmp_path):
    rows = {"RibFrac501": candidate_rows(prediction(), [0.875, 0.25]), "chest, 2": []}
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
    assert candidate_rows(ids, [1.0])[0]["volume_mm3"] == "6.0"
