"""The place of a point in the chest, on a synthetic chest whose lungs and walls are counted on paper."""

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from scripts.anatomy.thorax import chest_position, largest_extent_mm, thorax_axis
from scripts.transforms import ThoraxAxisd

SPACING_MM = (4.0, 5.0, 6.0)
SHAPE = (80, 50, 50)
# the patient's right, ahead and up are the world's, turned by 20 degrees about the long axis and moved
TURN = np.array([[np.cos(0.35), -np.sin(0.35), 0.0], [np.sin(0.35), np.cos(0.35), 0.0], [0.0, 0.0, 1.0]])
ORIGIN_MM = np.array([33.0, -21.0, -400.0])
MIDDLE_MM = (158.0, 122.5)  # of the body: between columns 39 and 40, between rows 24 and 25


def affine():
    matrix = np.eye(4)
    matrix[:3, :3] = TURN * SPACING_MM
    matrix[:3, 3] = ORIGIN_MM
    return matrix


def chest(lungs=slice(10, 40)):
    """A body of 312 x 240 mm with two lungs, 96 x 160 mm each, of 30 slices, and a windpipe between them."""
    image = np.full(SHAPE, -1000.0, dtype=np.float32)
    image[1:79, 1:49] = 40.0
    for columns in (slice(12, 36), slice(44, 68)):
        image[columns, 9:41, lungs] = -850.0
    image[38:42, 22:28, lungs.start or 0 :] = -1000.0
    image[36:44, 24:26, 20] = -1000.0  # the bronchi: all is one piece of air
    return image


def plane():
    normal = TURN[:, 0]
    return np.array([*normal, normal @ to_world(MIDDLE_MM[0], 0, 0)])


def to_world(right_mm, ahead_mm, up_mm):
    return TURN @ np.array([right_mm, ahead_mm, up_mm]) + ORIGIN_MM


def place(right_mm, ahead_mm, up_mm, lungs=slice(10, 40)):
    """The place of a point that lies so far from the chest's middle and from the first slice."""
    axis = thorax_axis(chest(lungs), SPACING_MM, affine(), plane())
    return chest_position(to_world(MIDDLE_MM[0] + right_mm, MIDDLE_MM[1] + ahead_mm, up_mm), plane(), axis)


# the lungs' sections lie from slice 10 to 39: from 60 to 234 mm; the thirds are of 58 mm
@pytest.mark.parametrize(
    "up_mm, from_apex_mm, level",
    [
        pytest.param(250.0, -16.0, "upper", id="above the lungs"),
        pytest.param(180.0, 54.0, "upper", id="upper third"),
        pytest.param(172.0, 62.0, "middle", id="middle third"),
        pytest.param(120.0, 114.0, "middle", id="still the middle third"),
        pytest.param(112.0, 122.0, "lower", id="lower third"),
        pytest.param(20.0, 214.0, "lower", id="below the lungs"),
    ],
)
def test_level(up_mm, from_apex_mm, level):
    found = place(60.0, 0.0, up_mm)
    assert found.from_apex_mm == pytest.approx(from_apex_mm, abs=0.1)
    assert found.level == level


@pytest.mark.parametrize("side", [1, -1], ids=["right", "left"])
@pytest.mark.parametrize(
    "aside_mm, ahead_mm, degrees, part",
    [
        pytest.param(10.0, 100.0, 5.7, "anterior", id="beside the sternum"),
        pytest.param(100.0, 100.0, 45.0, "anterior", id="in front"),
        pytest.param(100.0, 50.0, 63.4, "lateral", id="just behind the border"),
        pytest.param(120.0, 0.0, 90.0, "lateral", id="at the side"),
        pytest.param(100.0, -50.0, 116.6, "lateral", id="just before the border"),
        pytest.param(100.0, -100.0, 135.0, "posterior", id="behind"),
        pytest.param(10.0, -100.0, 174.3, "posterior", id="beside the spine"),
    ],
)
def test_part(side, aside_mm, ahead_mm, degrees, part):
    found = place(side * aside_mm, ahead_mm, 130.0)
    assert found.angle_degrees == pytest.approx(degrees, abs=0.1)
    assert found.part == part


def test_the_part_beyond_the_lungs_is_that_about_the_nearest_middle():
    assert place(60.0, -100.0, 10.0).part == place(60.0, -100.0, 290.0).part == "posterior"


@pytest.mark.parametrize(
    "lungs, is_known, level",
    [
        pytest.param(slice(10, 50), False, "", id="the scan begins within the lungs"),
        pytest.param(slice(0, 40), True, "", id="the scan ends within the lungs"),
    ],
)
def test_what_the_scan_cuts_off_is_not_told(lungs, is_known, level):
    found = place(120.0, 0.0, 130.0, lungs)
    assert np.isnan(found.from_apex_mm) != is_known
    assert (found.level, found.part) == (level, "lateral")


# the lungs lie in columns 12 to 35 and 44 to 67, rows 9 to 40
@pytest.mark.parametrize(
    "part, middle_mm",
    [
        pytest.param(np.s_[24:], MIDDLE_MM[0], id="half of the left lung is cut off"),
        pytest.param(np.s_[:60], MIDDLE_MM[0], id="a third of the right lung is cut off"),
        pytest.param(np.s_[:, 20:], MIDDLE_MM[0], id="the back is cut off"),
        pytest.param(np.s_[40:], 40 * 4.0 - 2.0, id="the plane is the border of the right half"),
    ],
)
def test_of_lungs_in_part_no_place_is_told(part, middle_mm):
    image = chest()[part]
    start = [(axis.start or 0) for axis in (part if isinstance(part, tuple) else (part,))]
    moved = affine()
    moved[:3, 3] += moved[:3, : len(start)] @ start
    border = np.array([*TURN[:, 0], TURN[:, 0] @ to_world(middle_mm, 0, 0)])
    axis = thorax_axis(image, SPACING_MM, moved, border)
    found = chest_position(to_world(MIDDLE_MM[0] + 60.0, MIDDLE_MM[1], 130.0), border, axis)
    assert (found.level, found.part) == ("", "") and np.isnan([found.from_apex_mm, found.angle_degrees]).all()


def test_lungs_in_part_are_not_taken_for_none():
    axis = thorax_axis(chest()[:60], SPACING_MM, affine(), plane())
    assert np.isnan(axis[:, :2]).all()
    np.testing.assert_allclose(axis[[1, -2], 2], ORIGIN_MM[2] + np.array([39, 10]) * 6.0)


def test_without_lungs_nothing_is_told():
    axis = thorax_axis(np.full(SHAPE, 40.0), SPACING_MM, affine(), plane())
    found = chest_position(to_world(60.0, 0.0, 130.0), plane(), axis)
    assert (found.level, found.part) == ("", "") and np.isnan([found.from_apex_mm, found.angle_degrees]).all()


def test_gas_in_the_bowel_is_no_lung():
    image = chest()
    image[30:50, 12:18, 2:6] = -1000.0  # 80 x 30 x 24 mm: 58 ml
    image[30:50, 25:45, 0:5] = -1000.0  # 80 x 100 x 30 mm: 240 ml; a lung has 2765
    axis = thorax_axis(image, SPACING_MM, affine(), plane())
    assert np.array_equal(axis, thorax_axis(chest(), SPACING_MM, affine(), plane()))


@pytest.mark.parametrize("axcodes", ["LPS", "SRA", "PIR"])
def test_axes_of_any_order_and_direction(axcodes):
    """Stored with flipped or exchanged axes, the scan gives the same points in the world."""
    image = MetaTensor(torch.as_tensor(chest())[None], affine=torch.as_tensor(affine()))
    turned = Orientation(axcodes, labels=None)(image)
    assert nib.aff2axcodes(np.asarray(turned.affine)) == tuple(axcodes)
    found = [ThoraxAxisd("image")({"image": scan, "midsagittal_plane": plane()}) for scan in (image, turned)]
    np.testing.assert_allclose(found[1]["thorax_axis"], found[0]["thorax_axis"], atol=2.5)  # blocks start elsewhere


def test_the_axis_takes_one_scan():
    with pytest.raises(ValueError, match="takes one key"):
        ThoraxAxisd(["image", "label"])


@pytest.mark.parametrize(
    "voxels, length_mm",
    [
        pytest.param([[5, 5, 5]], 0.0, id="a voxel"),
        pytest.param([[0, 0, 0], [3, 0, 0]], 6.0, id="along the first axis"),
        pytest.param([[0, 0, 0], [0, 4, 0], [1, 0, 0], [1, 4, 3]], 5.0, id="a diagonal"),  # 2, 4 · 0.5, 3 · √17/3
    ],
)
def test_largest_extent(voxels, length_mm):
    spacing = np.diag([2.0, 0.5, np.sqrt(17) / 3, 1.0])
    turned = np.eye(4)
    turned[:3, :3] = TURN
    mask = np.zeros(np.max(voxels, axis=0) + 2, dtype=bool)
    mask[tuple(np.transpose(voxels))] = True
    assert largest_extent_mm(mask, turned @ spacing) == pytest.approx(length_mm)


def test_largest_extent_of_a_ball():
    ball = np.linalg.norm(np.indices((31, 31, 31)) - 15, axis=0) <= 15
    assert largest_extent_mm(ball, np.diag([0.75, 0.75, 0.75, 1.0])) == pytest.approx(22.5)


def test_largest_extent_of_a_whole_scan_takes_little_memory():
    tracemalloc.start()
    length_mm = np.sqrt(255**2 + 255**2 + 127**2)  # from corner to corner
    assert largest_extent_mm(np.ones((256, 256, 128), dtype=bool), np.eye(4)) == pytest.approx(length_mm)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
