"""The rows of fractures.csv and of the challenge's table, counted by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor

from scripts.candidate_table import CHALLENGE_COLUMNS, FRACTURE_COLUMNS, candidate_rows, write_candidate_tables


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
