"""Pieces of ribs, and nothing else, are found in synthetic chests of known shape and in the sample CT."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from scripts.anatomy.ribs import _straight_runs, find_ribs
from scripts.anatomy.spine import spine_mask
from scripts.commands.sample_ct import SampleCT

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import ribs as benchmark  # noqa: E402

SPACING_MM = (2.4, 2.2, 2.6)
SHAPE = (167, 128, 52)
# voxel (0, 0, 0) in the chest's own frame, mm: x to the right of its midline, y anterior, z superior
CORNER_MM = (-200.0, -150.0, -60.0)
# heights of the lower edges of the ribs at y = 0, mm
LOW_MM = (-70, -40, -10, 20)
CORTEX_HU = 600
MARROW_HU = 60


class Chest(NamedTuple):
    """A synthetic chest; arrays of shape ``(H, W, D)``, RAS axes."""

    image_hu: np.ndarray
    ribs: np.ndarray  # 1, 2, … from below, the right one first: ids of the ribs from 45 degrees beside the front
    frame_mm: np.ndarray  # x, y, z of every voxel


@cache
def make_chest(extras: str = "", spacing_mm: tuple = SPACING_MM, shape: tuple = SHAPE, low_mm: tuple = LOW_MM) -> Chest:
    """
    Make a chest from ellipses; ribs 8 mm thick and 12 mm high slope down to the front, 2 mm outside of the lungs.

    Args:
        extras: words for what is added to it, or left out (``no-ribs``).
        spacing_mm: voxel size.
        shape: number of voxels.
        low_mm: heights of the ribs.
    """
    corner = np.array(CORNER_MM)[:, None, None, None]
    frame = np.indices(shape) * np.array(spacing_mm)[:, None, None, None] + corner
    x, y, z = frame
    side = np.abs(x)

    def ellipse(center: tuple[float, float], radii: tuple[float, float], at: np.ndarray = x) -> np.ndarray:
        return ((at - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 <= 1

    def wall(inner: float, outer: float) -> np.ndarray:
        return ellipse((0, 0), (118 + outer, 78 + outer)) & ~ellipse((0, 0), (118 + inner, 78 + inner))

    image = np.full(shape, -1000.0)
    image[ellipse((0, 0), (160, 115))] = 20
    image[ellipse((0, 0), (118, 78)) & (side > 25)] = -850
    degrees = np.degrees(np.arctan2(side, y))
    above = z + 0.4 * y
    ribs = np.zeros(shape, dtype=np.int16)
    for number, low in enumerate([] if "no-ribs" in extras else low_mm):
        height = 60 if "plate" in extras else 12
        tube = (side > 40) & wall(2, 10) & (above >= low) & (above < low + height)
        marrow = (side > 40) & wall(4.5, 7.5) & (above >= low + 3) & (above < low + 9)
        if "short" in extras:
            tube &= np.abs(y) < 12
        if "zigzag" in extras:  # the rib at -10 mm behind, the one at 20 mm in front
            tube &= {-10: y < 6, 20: y > -6}[low]
        image[tube] = CORTEX_HU
        image[tube & marrow] = MARROW_HU
        if "cartilage" in extras:
            image[tube & (degrees < 45)] = 900
        ribs[tube & (degrees >= 45)] = 2 * number + 1
        ribs[tube & (degrees >= 45) & (x < 0)] += 1
    image[ellipse((0, -38), (18, 15)) | ellipse((0, -60), (14, 14))] = 450
    image[(side < 32) & (np.abs(y + 68) < 5) | (side < 5) & (np.abs(y + 78) < 12)] = 450
    image[ellipse((0, -60), (8, 8))] = 30
    if "heart" in extras:
        image[ellipse((-40, 35), (70, 55))] = 400
    if "vein" in extras:  # 10 mm thick and 12 mm high, level around the tips of the lungs, above all ribs in front
        image[wall(2, 12) & (degrees < 85) & (np.abs(z - 50) < 6)] = 800
    if "scapula" in extras:
        image[wall(16, 20) & (degrees > 110) & (degrees < 150) & (z > -30)] = 700
    if "table" in extras:
        image[np.abs(y + 125) < 6] = 500
    if "arm" in extras:
        image[ellipse((180, 0), (18, 18))] = 20
        image[ellipse((180, 0), (11, 11)) & ~ellipse((180, 0), (6, 6))] = 900
    if "lead" in extras:  # along the pleura, 8 mm thick, across the ribs
        image[wall(2, 10) & (np.abs(y) < 4) & (x > 0)] = 3000
    if "bridge" in extras:  # between the ribs at -10 and 20 mm, 12 mm wide
        image[wall(2, 10) & (np.abs(y) < 6) & (above >= 2) & (above < 20) & (side > 40)] = CORTEX_HU
    return Chest(image, ribs, frame)


@cache
def found_in_chest(extras: str = "", spacing_mm: tuple = SPACING_MM, shape: tuple = SHAPE) -> np.ndarray:
    """What is found in a synthetic chest."""
    return find_ribs(make_chest(extras, spacing_mm, shape).image_hu, spacing_mm)


@pytest.mark.parametrize(
    "extras, spacing_mm, shape",
    [
        pytest.param("", SPACING_MM, SHAPE, id="plain chest"),
        pytest.param("cartilage", SPACING_MM, SHAPE, id="calcified cartilage goes on from the ribs"),
        pytest.param("heart vein", SPACING_MM, SHAPE, id="contrast medium"),
        pytest.param("scapula table arm", SPACING_MM, SHAPE, id="other bone and a table"),
        pytest.param("cartilage heart vein scapula table arm", (1.0, 2.2, 4.1), (400, 128, 33), id="fine in plane"),
    ],
)
def test_one_piece_for_each_rib_and_nothing_else(extras: str, spacing_mm: tuple, shape: tuple) -> None:
    chest = make_chest(extras, spacing_mm, shape)
    found = found_in_chest(extras, spacing_mm, shape)
    assert found.shape == shape and found.dtype == np.int16
    assert (chest.ribs[found > 0] > 0).mean() >= 0.99
    # 4 ribs on 2 sides
    held = [np.unique(chest.ribs[(found == piece) & (chest.ribs > 0)]).tolist() for piece in range(1, found.max() + 1)]
    assert sorted(held) == [[1], [2], [3], [4], [5], [6], [7], [8]]


def test_a_piece_is_solid() -> None:
    chest = make_chest()
    found = found_in_chest()
    x, y, z = chest.frame_mm
    # ribs 5 and 6 (at -10 mm) go down from z = 14 to -22 between 30 mm behind and in front of the chest's middle
    middle = np.isin(chest.ribs, (5, 6)) & (np.abs(y) < 30)
    marrow = middle & (chest.image_hu == MARROW_HU)
    assert marrow.sum() > 50
    assert (found[marrow] > 0).all()
    assert (found[middle] > 0).mean() >= 0.98


def test_nothing_near_the_spine_nor_in_front() -> None:
    chest = make_chest("cartilage")
    found = found_in_chest("cartilage") > 0
    x, y, z = chest.frame_mm
    assert not found[(np.abs(x) < 40) & (y < 0)].any()
    # 50 degrees, less one voxel
    assert not found[np.degrees(np.arctan2(np.abs(x), y)) < 48].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "extras, low_mm, min_share",
    [
        # two ribs a side lose some 20 of 190 mm each, the other two lose nothing
        pytest.param("bridge", LOW_MM, 0.8, id="two ribs touch"),
        # each half of 95 mm, less a front end of 15 mm, loses up to 3 bands of 6 mm at the corner
        pytest.param("bridge zigzag", (-10, 20), 0.25, id="a path from the back of one rib to the front of the next"),
    ],
)
def test_ribs_that_touch_are_parted(extras: str, low_mm: tuple, min_share: float) -> None:
    chest = make_chest(extras, low_mm=low_mm)
    bare = find_ribs(make_chest(low_mm=low_mm).image_hu, SPACING_MM) > 0
    found = find_ribs(chest.image_hu, SPACING_MM)
    for piece in range(1, found.max() + 1):
        assert len(np.unique(chest.ribs[(found == piece) & (chest.ribs > 0)])) == 1
    assert (found > 0).sum() >= min_share * bare.sum()


def test_a_path_is_cut_at_a_corner_and_not_along_a_curve() -> None:
    # 10 sections 6 mm apart to the right, then 10 to the front: three before and three after the corner (section 9)
    # differ by 90 degrees, at sections 8 and 10 by atan(12 / 6) = 63, at sections 7 and 11 by atan(6 / 12) = 27
    corner = np.array([(6.0 * min(i, 9), 6.0 * max(0, i - 9), 0.0) for i in range(20)])
    assert _straight_runs(list(range(20)), corner) == [list(range(8)), list(range(11, 20))]
    # on a circle of 40 mm, three sections make 18 / 40 rad = 26 degrees
    angles = np.arange(20) * 6 / 40
    circle = 40 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    assert _straight_runs(list(range(20)), circle) == [list(range(20))]


def test_no_piece_near_metal() -> None:
    chest = make_chest("lead")
    found = find_ribs(chest.image_hu, SPACING_MM) > 0
    x, y, z = chest.frame_mm
    # the lead's half width of 4 mm and 6 mm beside it, less one voxel
    assert not found[(np.abs(y) < 8) & (x > 0)].any()
    assert found[(np.abs(y) < 8) & (x < 0)].any()


@pytest.mark.parametrize(
    "extras, pieces",
    [
        pytest.param("", 2, id="a rib of 190 mm on each side"),
        pytest.param("short", 0, id="bones of 26 mm"),
        pytest.param("plate", 0, id="plates of 8 x 60 mm, where ribs have 350 mm2 at most"),
    ],
)
def test_bone_of_another_size_is_no_piece(extras: str, pieces: int) -> None:
    assert find_ribs(make_chest(extras, low_mm=(-10,)).image_hu, SPACING_MM).max() == pieces


def test_a_given_spine_is_used() -> None:
    image = make_chest().image_hu
    spine = spine_mask(image, SPACING_MM)
    spine[SHAPE[0] // 2 :] = True
    # the right half is called spine; the left ribs stay
    covered = find_ribs(image, SPACING_MM, spine)
    left = found_in_chest()[: SHAPE[0] // 2]
    assert not covered[SHAPE[0] // 2 :].any()
    assert np.array_equal(covered[: SHAPE[0] // 2] > 0, left > 0)


def make_head() -> np.ndarray:
    """A skull 8 mm thick around a brain, with a sinus of 33 mL (4/3 x pi x 20³ mm3) of air."""
    x, y, z = (np.indices((70, 70, 60)) - np.array([35, 35, 30])[:, None, None, None]) * 3.0
    image = np.full(x.shape, -1000.0)
    radius = np.sqrt(x**2 + y**2 + z**2)
    image[radius < 85] = 20
    image[(radius < 80) & (radius > 72)] = 900
    image[x**2 + (y - 50) ** 2 + z**2 < 400] = -1000
    return image


@pytest.mark.parametrize(
    "image_hu",
    [
        pytest.param(np.full((40, 40, 20), -1000), id="air"),
        pytest.param(np.zeros((40, 40, 20)), id="water everywhere"),
        pytest.param(np.full((80, 60, 20), 500), id="bone everywhere"),
        pytest.param(np.full((1, 1, 1), 500), id="one voxel"),
        pytest.param(make_head(), id="a head"),
        pytest.param(make_chest("no-ribs heart table", (3.0, 3.0, 3.0), (133, 94, 40)).image_hu, id="no rib"),
    ],
)
def test_scan_without_ribs_gives_zeros(image_hu: np.ndarray) -> None:
    found = find_ribs(image_hu, (3.0, 3.0, 3.0))
    assert found.shape == image_hu.shape
    assert not found.any()


@pytest.mark.parametrize(
    "shape, spacing_mm, spine, message",
    [
        pytest.param((1, 8, 8, 8), (1, 1, 1), None, "three axes", id="a channel axis"),
        pytest.param((8, 8, 8), (1, 0, 1), None, "three positive", id="spacing of 0"),
        pytest.param((8, 8, 8), (1, 1, 1), np.zeros((8, 8, 7), bool), "spine must have the image's", id="other grid"),
    ],
)
def test_wrong_input_is_named(shape: tuple, spacing_mm: tuple, spine: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_ribs(np.zeros(shape), spacing_mm, spine)


def test_benchmark_counts_length_and_ribs() -> None:
    rib = np.zeros((60, 5, 4), dtype=bool)
    rib[5:55, 2, 1:3] = True
    found = rib.copy()
    found[25:] = False
    # 50 voxels of 2 mm; the ways to the last are 98 mm and a diagonal: 20 steps of 5 mm, the first 8 of them found
    assert benchmark.length_found(rib, found, np.array([2.0, 1.0, 1.0])) == pytest.approx(0.4, abs=0.05)
    organs = np.zeros((100, 1, 1), dtype=int)
    organs[:97], organs[97:99] = 95, 96
    assert benchmark.ribs_held(organs > 0, organs) == [95, 96]
    # 1 of 98 voxels is no second rib
    organs[98] = 0
    assert benchmark.ribs_held(organs > 0, organs) == [95]


@pytest.mark.slow
@pytest.mark.real_ct
def test_pieces_lie_on_labelled_ribs(real_ct: SampleCT) -> None:
    figures = benchmark.rib_figures(*real_ct)
    assert figures["precision"] >= 0.97, json.dumps(figures)
    assert figures["precision_of_worst_piece"] >= 0.9
    assert figures["pieces_on_two_ribs"] == 0
    assert figures["length_found_2_to_10"] >= 0.5
