"""What is known of candidates, and the rows of fractures.csv and of the challenge's table, counted by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import FrozenInstanceError, asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor

from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.candidates import (
    Candidate,
    candidate_from_record,
    count_words,
    describe_candidates,
    failed_scan,
    summarize,
)
from scripts.reporting.tables import (
    CHALLENGE_COLUMNS,
    CHEST_COLUMNS,
    FRACTURE_COLUMNS,
    SCAN_COLUMNS,
    displacement_words,
    fracture_row,
    scan_row,
    type_words,
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


MEASURES = [
    *("offset_mm", "offset_sd_mm", "along_mm", "along_sd_mm"),
    *("contact_percent", "contact_sd_percent", "bend_degrees"),
]
DESCRIBED = replace(
    FIRST,
    part="lateral",
    rib_side="left",
    rib_number=4,
    rib_order=3,
    displacement="offset",
    **dict(zip(MEASURES, (3.2, 0.3, -1.5, 0.6, 61, 4, 8))),
    type="displaced",
    type_probabilities=(0.7, 0.1, 0.15, 0.05),
    segmental_with=3,
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
        "rib": "",
        "rib_order": "",
        "rib_from_spine_mm": "",
        "rib_percent": "",
        **dict.fromkeys(FRACTURE_COLUMNS[-15:], ""),
    }
    assert ("scan", *fracture_row(FIRST)) == FRACTURE_COLUMNS


def test_a_candidate_comes_back_from_json_as_it_was():
    # thirds, halves and a score that float32 does not hold: nothing may be lost on the way
    plane = torch.tensor([0.96, 0.28, 0.0, 1 / 3])
    candidates = describe_candidates(prediction(), torch.rand(2), plane, AXIS, straight_rib("left", 6))
    assert [name for name, value in asdict(candidates[0]).items() if value is None] == [*MEASURES, "segmental_with"]
    for candidate in (*candidates, FIRST, DESCRIBED):
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
    places = ("from_apex_mm", "level", "angle_degrees", "part")
    assert [first[c] for c in places] == ["30", "middle", "98", "lateral"]
    assert [second[c] for c in places] == ["26", "middle", "119", "lateral"]


def straight_rib(side, number, starts=True, ends=True, shift_mm=0.0):
    """A rib along x = 12 down to 3 mm through the first candidate of ``prediction``, 9 mm long."""
    cage_affine = lps_affine()
    cage_affine[1, 3] += shift_mm
    mask = np.zeros((10, 8, 6), dtype=np.uint8)
    line = [[12.0 - x, -8.5 + shift_mm, 30.0] for x in (0.0, 3.0, 6.0, 9.0)]
    rib = Rib(side, number, 2, 0.8, np.array(line), starts, ends)
    mask[:, 2, 0] = rib.id
    return RibCage(mask, cage_affine, (rib,))


# the first candidate's center at x = 10.125 is 1.875 mm of 9 mm along the rib, the second one's at 6.75 is 5.25
@pytest.mark.parametrize(
    "rib, first, second",
    [
        pytest.param(("left", 6), ["left 6", "2", "2", "21"], ["left 6", "2", "5", "58"], id="left 6"),
        pytest.param(("right", None), ["unknown", "2", "2", "21"], ["unknown", "2", "5", "58"], id="no number"),
        pytest.param(("left", 6, True, False), ["left 6", "2", "2", ""], ["left 6", "2", "5", ""], id="the front cut"),
        pytest.param(("left", 6, False), ["left 6", "2", "", ""], ["left 6", "2", "", ""], id="the back cut"),
        # 3.75 mm behind the first one's last voxels, and more than 5 mm from all of the second one's
        pytest.param(("left", 6, True, True, 4.5), ["left 6", "2", "2", "21"], [""] * 4, id="far from the second"),
        pytest.param(("left", 6, True, True, 20.0), [""] * 4, [""] * 4, id="far from both"),
    ],
)
def test_place_on_a_rib(rib, first, second):
    both = describe_candidates(prediction(), [0.5, 0.4], rib_cage=straight_rib(*rib))
    columns = ("rib", "rib_order", "rib_from_spine_mm", "rib_percent")
    assert [[fracture_row(candidate)[column] for column in columns] for candidate in both] == [first, second]


def test_a_rib_of_the_other_side_leaves_the_side_of_the_plane():
    plane = torch.tensor([1.0, 0.0, 0.0, 0.0])  # both candidates lie on the right of it
    first, _ = describe_candidates(prediction(), [0.5, 0.4], plane, rib_cage=straight_rib("left", 1))
    assert (first.side, first.rib_side, first.rib) == ("right", "left", "left 1")


def test_a_large_candidate_is_placed_by_some_of_its_voxels():
    ids = MetaTensor(torch.ones(1, 30, 30, 30, dtype=torch.int32), affine=torch.eye(4))
    seen = []
    cage = straight_rib("left", 6)
    placed = SimpleNamespace(ribs=cage.ribs, place_of=lambda points: seen.append(points) or cage.place_of(points))
    describe_candidates(ids, [0.5], rib_cage=placed)
    (points,) = seen
    assert 1000 < len(points) <= 2000  # of 27000, from all parts of it
    assert np.allclose(points.mean(axis=0), 14.5, atol=0.5)


def test_no_ribs_in_the_cage():
    empty = RibCage(np.zeros((2, 2, 2), dtype=np.uint8), np.eye(4), notes=("no ribs",))
    assert describe_candidates(prediction(), [0.5, 0.4], rib_cage=empty) == describe_candidates(
        prediction(), [0.5, 0.4]
    )


def test_the_columns_of_before_keep_their_place():
    assert FRACTURE_COLUMNS[:5] == ("scan", "id", "score", "volume_mm3", "side")
    assert (FRACTURE_COLUMNS[16], FRACTURE_COLUMNS[21]) == ("last_k", "part")


@pytest.mark.parametrize(
    "scores, expected",
    [
        pytest.param([], "0 candidates of score 0.5 or more", id="none"),
        pytest.param([0.5], "1 candidate of score 0.5 or more", id="the score itself counts"),
        pytest.param([0.9, 0.5, 0.49], "2 candidates of score 0.5 or more, 1 below", id="one below"),
    ],
)
def test_words_that_count_candidates(scores, expected):
    assert count_words(scores, 0.5) == expected


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
    row = ["doubtful", *map(str, expected), "no lungs", *[""] * len(CHEST_COLUMNS)]
    assert list(scan_row(summary).values()) == row
    write_scan_table([("a, b", summary)], tmp_path / "scans.csv")
    assert read(tmp_path / "scans.csv") == [list(SCAN_COLUMNS), ["a, b", *row]]


@pytest.mark.parametrize(
    "summary, status, notes",
    [
        pytest.param(summarize([], 0.5, 3), "done", "", id="predicted"),
        pytest.param(summarize([], 0.5, 3, notes="no lungs"), "doubtful", "no lungs", id="with a note"),
        pytest.param(failed_scan("a.nii.gz: is cut short"), "failed", "a.nii.gz: is cut short", id="failed"),
    ],
)
def test_status_of_a_scan(summary, status, notes):
    row = scan_row(summary)
    assert tuple(row) == SCAN_COLUMNS[1:]
    assert (row["status"], row["notes"]) == (status, notes)
    assert row["candidates"] == ("" if status == "failed" else "0")  # 0 would tell that there is no fracture


def test_row_of_a_scan_whose_fractures_are_described():
    fractures = [replace(DESCRIBED, rib_number=1), replace(DESCRIBED, score=0.5), DESCRIBED]
    row = scan_row(summarize(fractures, operating_score=0.55, many_fractures=3, described=True))
    # two count, both on the left, one on the first rib, one on the fourth; no other side, so that the lines are drawn
    told = ["2", "0", "1", "1", "4", "no", "no", "no", "no", "no", "no", "yes", "no", "1"]
    assert [row[column] for column in CHEST_COLUMNS] == told


def test_row_of_what_is_measured():
    row = fracture_row(DESCRIBED)
    texts = ["offset", "3.2", "0.3", "-1.5", "0.6", "61", "4", "8", ""]
    assert [row[column] for column in FRACTURE_COLUMNS[-15:]] == [
        *texts,
        *["displaced", "0.700", "0.100", "0.150", "0.050", "3"],
    ]
    words = "offset: 3.2 ± 0.3 mm across, overlap of 1.5 mm, 61 % of contact, bend of 8°"
    assert (displacement_words(DESCRIBED), type_words(DESCRIBED)) == (words, "displaced (70 %), segmental with C3")
    gap = replace(DESCRIBED, along_mm=1.5, segmental_with=None)
    assert "gap of 1.5 mm" in displacement_words(gap) and type_words(gap) == "displaced (70 %)"
    assert (displacement_words(FIRST), type_words(FIRST)) == ("", "")
    assert displacement_words(replace(FIRST, not_measurable="metal beside it")) == "not measurable: metal beside it"


@pytest.mark.parametrize(
    "known, code",
    [
        pytest.param({}, -1, id="unknown"),
        pytest.param({"type": "displaced"}, 1, id="displaced"),
        pytest.param({"type": "nondisplaced"}, 2, id="nondisplaced"),
        pytest.param({"type": "buckle"}, 3, id="buckle"),
        pytest.param({"type": "segmental"}, 4, id="segmental"),
        pytest.param({"type": "displaced", "segmental_with": 2}, 4, id="by the rule"),
    ],
)
def test_code_of_a_type(known, code, tmp_path):
    one = replace(FIRST, **known)
    assert one.type_code == code
    write_candidate_tables([("a", [one])], tmp_path / "fractures.csv", tmp_path / "challenge.csv")
    assert read(tmp_path / "challenge.csv")[-1] == ["a", "1", "0.875000", str(code)]


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
