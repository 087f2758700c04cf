"""The unfolded rib cage: bent tubes become straight, and a ball on one lies where paper says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from rib_cages import RIB_HU, ball, image_of, made_cage

from scripts.anatomy.rib_cage import rib_id
from scripts.anatomy.straight_ribs import sampled, sampled_ids, straight_ribs
from scripts.reporting import rib_picture as rib_picture_module
from scripts.reporting.rib_picture import rib_picture
from scripts.reporting.unfolding import HALF_HEIGHT_MM, UnfoldedCage

LENGTH_MM = 70 * np.pi / 2 + 60  # of each rib
RIBS = [("left", 5), ("left", 6), ("right", 5), ("right", 6)]


@pytest.fixture(scope="module")
def cage():
    return made_cage(RIBS)


@pytest.fixture(scope="module")
def unfolded(cage):
    return UnfoldedCage.of(cage)


def place_on(side, radians, height_mm, farther_mm=0.0):
    """A place at an angle on the bow of a rib, and how far along it that is."""
    sign = -1 if side == "left" else 1
    radius = 70 + farther_mm
    return (sign * radius * np.sin(radians), -radius * np.cos(radians), height_mm)


@pytest.mark.parametrize("side, sign", [("left", -1), ("right", 1)])
def test_axes_of_a_rib(side, sign, cage):
    straight = next(one for one in straight_ribs(cage) if one.rib.side == side)
    at = int(np.argmin(abs(straight.way_mm - 70.0)))  # 70 mm along a circle of 70 mm is 1 radian
    point = straight.points_mm[at]
    assert point == pytest.approx(place_on(side, 1.0, straight.rib.centerline_mm[0, 2]), abs=1.0)
    assert straight.up[at] == pytest.approx([0, 0, 1], abs=0.05)
    assert straight.outward[at] @ [sign * np.sin(1.0), -np.cos(1.0), 0] > 0.98
    assert len(straight.points_mm) == round(LENGTH_MM) + 1 + 2 * 10  # a mm apart, and 10 mm beyond both ends


def test_bent_ribs_become_straight(cage, unfolded):
    maximum, mean = unfolded.pictures(image_of(cage), cage.affine, -1000.0)
    assert maximum.shape == mean.shape == (unfolded.height_mm, unfolded.width_mm)
    middle = unfolded.width_mm // 2
    for placed in unfolded.ribs:
        way = np.arange(8, LENGTH_MM - 8)
        columns = np.rint(placed.start_mm + placed.direction * way).astype(int)
        assert (columns < middle).all() if placed.straight.rib.side == "right" else (columns > middle).all()
        row = int(placed.middle_mm)
        # of the tube's voxels the lowest and the uppermost lie 4 mm below and 2 mm above its middle
        assert maximum[row - 2 : row + 3, columns].min() > 0.9 * RIB_HU
        for away in (-11, 11):
            assert maximum[row + away, columns].max() < 0.1 * RIB_HU
        assert abs(mean[row, columns].mean() - RIB_HU * 10 / 11) < 0.15 * RIB_HU  # 10 mm of 11
    assert set(np.unique(maximum[:, middle - 15 : middle + 15])) == {-1000.0}  # nothing but names


@pytest.mark.parametrize("side, row", [("left", 5), ("left", 6), ("right", 6)])
@pytest.mark.parametrize("up_mm, farther_mm", [(0, 0), (7, 0), (-7, 0), (0, 8)])
def test_where_a_ball_lies(side, row, up_mm, farther_mm, cage, unfolded):
    height = 25 + 30 * (6 - row)
    ids = ball(cage, place_on(side, 0.8, height + up_mm, farther_mm)).astype(np.int32) * 3
    (shadow,) = unfolded.shadows(ids, cage.affine, {3: rib_id(side, row, row - 4), 4: 1})
    (placed,) = [one for one in unfolded.ribs if one.straight.rib.id == rib_id(side, row, row - 4)]
    left, top, right, bottom = shadow.box_mm
    assert shadow.instance == 3
    assert (left + right) / 2 == pytest.approx(placed.start_mm + placed.direction * 0.8 * 70, abs=2.5)
    assert (top + bottom) / 2 == pytest.approx(placed.middle_mm - up_mm, abs=2.5)
    assert right - left == pytest.approx(12, abs=4)


def test_an_instance_far_from_its_rib_has_no_shadow(cage, unfolded):
    ids = ball(cage, place_on("left", 0.8, 25, farther_mm=25)).astype(np.int32)
    assert ids.any() and unfolded.shadows(ids, cage.affine, {1: 6}) == []


@pytest.mark.parametrize(
    "ribs, rows",
    [
        pytest.param(
            [("left", 3), ("left", 4), ("right", 4), ("right", 5)], ["0 L3", "1 L4", "1 R4", "2 R5"], id="by number"
        ),
        pytest.param([("left", None), ("left", None), ("right", None)], ["0 L?1", "1 L?2", "0 R?1"], id="by order"),
        pytest.param([("left", None), ("left", 4), ("right", 3)], ["0 L?1", "1 L4", "0 R3"], id="counted upward"),
        pytest.param([("left", 0), ("left", 1), ("left", 2)], ["0 L0", "1 L1", "2 L2"], id="a cervical rib"),
        pytest.param(
            [("left", None), ("right", 7), ("right", 8)], ["0 L?1", "0 R7", "1 R8"], id="as on the other side"
        ),
        pytest.param([("left", 5), ("left", None), ("left", 6)], ["0 L5", "1 L?2", "2 L6"], id="one too many"),
    ],
)
def test_rows(ribs, rows):
    unfolded = UnfoldedCage.of(made_cage(ribs))
    row_mm = 2 * HALF_HEIGHT_MM + 1 + 4
    first = min(placed.middle_mm for placed in unfolded.ribs)
    assert [f"{round((placed.middle_mm - first) / row_mm)} {placed.name}" for placed in unfolded.ribs] == rows
    assert max(placed.middle_mm for placed in unfolded.ribs) < unfolded.height_mm


def test_no_ribs(cage, tmp_path):
    empty = made_cage([])
    assert (UnfoldedCage.of(empty).ribs, UnfoldedCage.of(empty).height_mm) == ((), 0)
    with pytest.raises(ValueError, match="no rib"):
        rib_picture(image_of(cage), cage.affine, empty, cage.mask * 0, [], {}, tmp_path / "a.png")


def test_samples_between_voxels_and_outside():
    image = np.arange(24.0).reshape(2, 3, 4)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10
    places = np.array([[11.0, 13.0, 14.0], [30.0, 13.0, 14.0], [np.nan, 0.0, 0.0], [10.0, 10.0, 23.0]])
    # halfway between image[0, 1, 1] = 5 and image[1, 1, 1] = 17; within half a voxel of the border it is the border's
    assert sampled(image, affine, places, -1.0).tolist() == [11.0, -1.0, -1.0, 3.0]
    assert sampled_ids(image.astype(int), affine, places + [0.1, 0, 0]).tolist() == [17, 0, 0, 3]


def test_the_picture_shows_candidates_and_fractures(cage, tmp_path):
    pred = ball(cage, place_on("left", 0.8, 55)).astype(np.int32)
    label = ball(cage, place_on("right", 0.8, 25)).astype(np.int32)
    arguments = image_of(cage), cage.affine, cage, pred, [0.875], {1: 5}, tmp_path / "a.png"
    rib_picture(*arguments, label=label, label_rib_of={1: 18}, title="$a_b$")
    rgb = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    for color, is_left in (((86, 180, 233), True), ((230, 159, 0), False)):  # of candidates, and of fractures
        rows, columns = np.nonzero((abs(rgb - color) < 12).all(axis=2))
        in_panels = rows < 0.9 * len(rgb)  # below is the legend
        assert in_panels.sum() > 100
        assert ((columns[in_panels] > rgb.shape[1] / 2) == is_left).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_picture_counts_candidates_beside_the_ribs(cage, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(rib_picture_module, "save_figure", lambda figure, path: saved.append(figure))
    pred = ball(cage, place_on("left", 0.8, 55)).astype(np.int32)
    scores = [0.875, 0.5, 0.25]  # the second lies on no rib, the third counts nowhere
    rib_picture(image_of(cage), cage.affine, cage, pred, scores, {1: 5}, tmp_path / "a.png", operating_score=0.5)
    (told,) = [text.get_text() for text in saved[0].legends[0].get_texts()]
    assert told == "C: candidate of score 0.5 or more (predicted; id, score); 1 beside the ribs not drawn"
