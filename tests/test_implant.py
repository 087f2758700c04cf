"""Tests of the fractures implanted into real CT: axes, warp, places, data set, transform."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.commands.implant import main
from scripts.synthetic.implant import Implanted
from scripts.synthetic.implant import dataset as dataset_module
from scripts.synthetic.implant import generate_implanted, implant_fractures
from scripts.synthetic.implant.centerline import RibPiece, rib_pieces
from scripts.synthetic.implant.fractures import draw_fracture, draw_subtle_fracture, widened
from scripts.synthetic.implant.scan import _allowed_places
from scripts.synthetic.implant.warp import Site, break_rib, sign_hu
from scripts.synthetic.phantom.fractures import Break, Fracture
from scripts.synthetic.phantom.geometry import STEP_MM
from scripts.synthetic.phantom.healing import AGES, Healing, draw_age, draw_healing
from scripts.transforms import implant as transform_module
from scripts.transforms.implant import FindRibsd, RandImplantFracturesd

SPACING = np.array([0.9, 0.8, 1.1])
MUSCLE_HU, NOISE_HU, MARROW_HU, CORTEX_HU, LUNG_HU = 50, 10, 200, 900, -850


def coordinates(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Place of each voxel in mm from the middle of the volume."""
    return list(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, SPACING)], indexing="ij"))


def scan_with_rib(
    length_mm: float = 100.0, thickness_mm: float = 8.0, height_mm: float = 12.0, cortex_hu: float = CORTEX_HU
) -> tuple[np.ndarray, np.ndarray]:
    """
    A straight rib along x in muscle: thickness along y, height along z; image in HU, int16, and ids.

    A bit of another rib behind it, too small for a fracture, makes the front outward.
    """
    shape = (136, 50, 42)
    x, y, z = coordinates(shape)
    section = np.sqrt((2 * y / thickness_mm) ** 2 + (2 * z / height_mm) ** 2)
    rib = (section < 1) & (np.abs(x) < length_mm / 2)
    marrow = rib & (section < 0.7)
    image = np.random.default_rng(0).normal(MUSCLE_HU, NOISE_HU, shape)
    image[rib] = cortex_hu
    image[marrow] = min(MARROW_HU, cortex_hu)
    ids = (rib * 7).astype(np.uint8)
    ids[66:70, :2, 20:22] = 9
    return np.rint(image).astype(np.int16), ids


def straight_site(image: np.ndarray, ids: np.ndarray) -> tuple[Site, RibPiece]:
    (piece,) = rib_pieces(ids, SPACING)
    middle_mm = piece.curve.length_mm / 2
    return Site(image, ids, SPACING, piece, middle_mm, 35.0, np.random.default_rng(0)), piece


def fracture_of(piece: RibPiece, code: int, breaks: list[Break], **settings: Any) -> Fracture:
    values = {"bump_mm": 0.0, "bump_length_mm": 10.0, "half_length_mm": 10.0, "margin_mm": (2.0, 2.0), "swelling": 0.0}
    return Fracture(piece.rib_id, code, piece.curve.length_mm / 2, breaks, **(values | settings))


def plain_break(piece: RibPiece, width_mm: float, **settings: Any) -> Break:
    return Break(piece.curve.length_mm / 2, width_mm, (0.0, 0.0), (0.0, 0.0), **settings)


def broken(site: Site, image: np.ndarray, fracture: Fracture) -> tuple[np.ndarray, np.ndarray]:
    """The scan with the fracture, and its annotation."""
    result = break_rib(site, fracture)
    assert result is not None
    changed, values, annotated = result
    new, label = image.astype(np.float64), np.zeros(image.shape, dtype=bool)
    box, marks = new[site.box], label[site.box]
    box[np.unravel_index(changed, box.shape)] = values
    marks[np.unravel_index(annotated, marks.shape)] = True
    return new, label


def along_mm(piece: RibPiece, mm: float) -> int:
    """Index along x of the place so far ahead of the middle of the rib, in the direction of its axis."""
    point = piece.curve.at(piece.curve.length_mm / 2 + mm)
    return int(round(point[0] / SPACING[0]))


# ---- the axis of a rib ----


def test_the_axis_of_a_bent_rib_is_the_middle_of_its_sections() -> None:
    """A quarter circle of radius 60 mm: 30 pi mm long, less half a knot of 4 mm at each end; sections of 16 pi mm²."""
    shape = (90, 100, 30)
    x, y, z = (c + half for c, half in zip(coordinates(shape), (36.0, 36.0, 0.0)))
    radius = np.hypot(x, y)
    ids = ((radius - 60) ** 2 + z**2 < 16) & (x > 0) & (y > 0)
    (piece,) = rib_pieces(ids.astype(np.uint8), SPACING)
    points = piece.curve.points - (np.array(shape) - 1) / 2 * SPACING + [36.0, 36.0, 0.0]
    inner = slice(16, -16)  # the ends are round
    np.testing.assert_allclose(np.hypot(points[inner, 0], points[inner, 1]), 60, atol=0.6)
    np.testing.assert_allclose(points[inner, 2], 0, atol=0.4)
    assert piece.curve.length_mm == pytest.approx(30 * np.pi - 4, abs=2)
    assert np.median(piece.area_mm2) == pytest.approx(16 * np.pi, rel=0.06)
    assert np.median(piece.half_thickness_mm) == pytest.approx(4, rel=0.1)
    middle = len(points) // 2
    assert piece.curve.normals[middle] @ (points[middle] / 60) > 0.99, "out of the arch"


def test_each_connected_piece_has_its_own_axis_and_short_ones_none() -> None:
    _, ids = scan_with_rib(length_mm=120)
    ids[ids == 9] = 0
    ids[64:70] = 0  # 6 * 0.9 mm in the middle: two pieces of 57 mm
    ids[ids > 0] = 5
    pieces = rib_pieces(ids, SPACING)
    assert [piece.rib_id for piece in pieces] == [5, 5]
    ids[70:90] = 0  # 18 mm less, 39 mm
    assert len(rib_pieces(ids, SPACING)) == 1
    assert rib_pieces(np.zeros_like(ids), SPACING) == []


# ---- the warp ----


def test_a_displaced_stub_lies_where_it_was_moved_and_the_gap_is_muscle() -> None:
    """5 mm outward, easing off over 25 mm: 4 mm from the break 5 * (1 - 4 / 25) ** 1.5 = 3.85 mm."""
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    normal = piece.curve.normals[len(piece.curve.points) // 2]
    one = plain_break(piece, 3.0, after_mm=5 * normal, ease_mm=25.0)
    new, label = broken(site, image, fracture_of(piece, 1, [one]))
    bone = new > 150

    def moved_mm(ahead_mm: float) -> float:
        cut, before = (volume[along_mm(piece, ahead_mm)] for volume in (bone, ids == 7))
        centers = [np.argwhere(section)[:, 0].mean() * SPACING[1] for section in (cut, before)]
        return float((centers[0] - centers[1]) * normal[1])

    assert moved_mm(4) == pytest.approx(3.85, abs=0.35)
    assert moved_mm(-4) == pytest.approx(0, abs=0.2)
    assert moved_mm(27) == pytest.approx(0, abs=0.2)
    gap = new[along_mm(piece, 0)][(ids == 7)[along_mm(piece, 0)]]
    assert np.mean(gap) == pytest.approx(MUSCLE_HU, abs=8)
    assert np.std(gap) > NOISE_HU / 4, "the filling has noise"
    stub = bone[along_mm(piece, 2.7)]
    assert label[along_mm(piece, 2.7)][stub].mean() > 0.97, "the annotation holds the moved stub"
    assert cc3d.connected_components(label, connectivity=6).max() == 1


def test_the_tissue_keeps_its_noise_and_what_is_far_keeps_its_voxels() -> None:
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    normal = piece.curve.normals[len(piece.curve.points) // 2]
    one = plain_break(piece, 2.0, after_mm=6 * normal, ease_mm=25.0)
    new, _ = broken(site, image, fracture_of(piece, 1, [one]))
    x, y, z = coordinates(image.shape)
    changed = new != image
    far = np.sqrt((x - (along_mm(piece, 0) - 67.5) * 0.9) ** 2 + y**2 + z**2) > 45
    assert far.any() and not changed[far].any()
    tissue = changed & (np.hypot(y, z) > 14)
    assert np.count_nonzero(tissue) > 1000
    # white noise is the hardest case: a reconstruction kernel leaves little at the highest frequencies
    assert new[tissue].std() / image[tissue].std() > 0.8


def test_a_cleft_through_one_cortex_leaves_the_other() -> None:
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    normal = piece.curve.normals[len(piece.curve.points) // 2]
    new, _ = broken(site, image, fracture_of(piece, 2, [plain_break(piece, 1.5, depth=0.5)]))
    plane = along_mm(piece, 0)
    _, y, z = (c[plane] for c in coordinates(image.shape))
    cortex = (image[plane] == CORTEX_HU) & (np.abs(z) < 3)
    outer, inner = cortex & (y * normal[1] > 2), cortex & (y * normal[1] < -2)
    # the cleft is 1.5 mm wide and rough by 0.7 mm at most, a voxel 0.9 mm: nearly all of it is muscle
    assert new[plane][outer].mean() < 0.4 * CORTEX_HU
    np.testing.assert_array_equal(new[plane][inner], CORTEX_HU)
    assert np.abs(new - image)[: plane - 4].max() == np.abs(new - image)[plane + 5 :].max() == 0


def test_a_buckle_lifts_one_cortex_and_loses_no_bone() -> None:
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    normal = piece.curve.normals[len(piece.curve.points) // 2]
    new, label = broken(site, image, fracture_of(piece, 3, [], bump_mm=2.4, bump_length_mm=10.0))
    plane, middle = along_mm(piece, 0), 50 // 2
    old_bone, bone = ((volume[plane] > 150).any(axis=1) for volume in (image, new))
    outer, inner = (1, -1) if normal[1] > 0 else (-1, 1)
    reach = {s: [np.flatnonzero(b[middle::s]).max() * SPACING[1] for b in (old_bone, bone)] for s in (1, -1)}
    assert reach[outer][1] - reach[outer][0] == pytest.approx(2.4, abs=0.8)
    assert reach[inner][1] == reach[inner][0]
    assert np.count_nonzero(new > 150) >= np.count_nonzero(image > 150)
    assert np.abs(new - image)[: plane - 7].max() == 0, "5 mm to both sides"
    assert label[plane][(new > 150)[plane]].mean() > 0.97


def test_a_segmental_fracture_is_one_annotation_over_two_gaps() -> None:
    image, ids = scan_with_rib(length_mm=110)
    site, piece = straight_site(image, ids)
    middle_mm = piece.curve.length_mm / 2
    breaks = [Break(middle_mm + side * 15, 2.5, (0.0, 0.0), (0.0, 0.0), ease_mm=60.0) for side in (-1, 1)]
    new, label = broken(site, image, fracture_of(piece, 4, breaks, half_length_mm=5.0))
    in_rib = [new[along_mm(piece, mm)][(ids == 7)[along_mm(piece, mm)]].mean() for mm in (-15, 0, 15)]
    whole = image[along_mm(piece, 0)][(ids == 7)[along_mm(piece, 0)]].mean()
    assert in_rib[0] < 0.4 * whole and in_rib[2] < 0.4 * whole and in_rib[1] == pytest.approx(whole)
    assert cc3d.connected_components(label, connectivity=6).max() == 1
    assert all(label[along_mm(piece, mm)].any() for mm in (-18, -15, 0, 15, 18))
    assert not label[along_mm(piece, 30)].any()


def test_a_stub_does_not_enter_another_bone() -> None:
    image, ids = scan_with_rib()
    _, y, _ = coordinates(image.shape)
    image[np.abs(y - 9) < 1] = 800  # a plate 4 mm beside the rib
    site, piece = straight_site(image, ids)
    for sign, meets in ((1, True), (-1, False)):
        vector = np.array([0, sign * 6.0, 0])
        result = break_rib(site, fracture_of(piece, 1, [plain_break(piece, 2.0, after_mm=vector)]))
        assert (result is None) == meets


def test_blood_takes_the_place_that_the_lung_would_fill() -> None:
    image, ids = scan_with_rib()
    _, y, _ = coordinates(image.shape)
    site, piece = straight_site(image, ids)
    out = float(np.sign(piece.curve.normals[len(piece.curve.points) // 2][1]))
    lung = y * out < -6  # 2 mm under the rib
    image[lung] = LUNG_HU
    site, piece = straight_site(image, ids)
    vector = np.array([0, out * 7.0, 0])
    new, _ = broken(site, image, fracture_of(piece, 1, [plain_break(piece, 2.0, after_mm=vector)]))
    assert new[~lung].min() > -250


def test_swelling_raises_fat_and_nothing_else() -> None:
    image, ids = scan_with_rib()
    x, y, z = coordinates(image.shape)
    fat = (y > 6) & (ids == 0)
    image[fat] = -90
    site, piece = straight_site(image, ids)
    one = plain_break(piece, 1.0)
    plain, _ = broken(site, image, fracture_of(piece, 2, [one]))
    swollen, _ = broken(site, image, fracture_of(piece, 2, [one], swelling=0.8))
    rise = swollen - plain
    assert rise[~fat & (ids == 0)].max() < 1
    near = fat & (np.abs(x - (along_mm(piece, 0) - 67.5) * 0.9) < 5) & (y < 9) & (np.abs(z) < 4)
    assert 15 < rise[near].mean() < 72, "0.8 of 90 HU at most"


def test_thick_slices_get_wide_clefts() -> None:
    _, ids = scan_with_rib()
    (piece,) = rib_pieces(ids, SPACING)
    widths = [
        draw_fracture(piece, 40.0, np.array([3.0, 0.7, 0.7]), np.random.default_rng(seed), code=2).breaks[0].width_mm
        for seed in range(20)
    ]
    assert 1.2 <= min(widths) and max(widths) <= 1.5, "0.45 * 3 mm is more than the cap of 1.2 mm"


# ---- subtle and healing fractures ----


def healing_of(age: str, **settings: Any) -> Healing:
    """A cuff of 3 mm that is the same all around, 8 mm to both sides, without sclerosis."""
    values: dict[str, Any] = {"callus_mm": 3.0, "callus_hu": 500.0, "callus_half_mm": 8.0, "lean": 0.0, "texture": 0.0}
    values |= {"line_filled": 0.0, "sclerosis_hu": 0.0, "sclerosis_mm": 2.0, "rounding_mm": 0.0}
    return Healing(age, **(values | settings))


def test_subtle_fractures_have_the_sizes_asked_for() -> None:
    _, ids = scan_with_rib()
    (piece,) = rib_pieces(ids, SPACING)
    drawn = [draw_subtle_fracture(piece, 40.0, SPACING, np.random.default_rng(seed)) for seed in range(600)]
    by_code = {code: [one for one in drawn if one.code == code] for code in (1, 2, 3, 4)}
    shares = {code: len(own) / len(drawn) for code, own in by_code.items()}
    assert shares == pytest.approx({1: 0.2, 2: 0.36, 3: 0.3, 4: 0.14}, abs=0.05)
    for one in drawn:
        assert one.subtle and one.age in AGES
        old_line = one.age == "ununited"
        for cleft in one.breaks:
            least, most = (0.7, 1.5) if old_line else (0.4, 1.2) if one.code == 1 else (0.3, 0.9)
            assert least <= cleft.width_mm <= most
        moved = max((float(np.linalg.norm(v)) for b in one.breaks for v in (b.before_mm, b.after_mm)), default=0)
        # along the plane of the break, which slants, a stub slides on
        assert moved <= {1: 3.0, 2: 1.2, 3: 0.0, 4: 1.2}[one.code] * 1.8
        assert one.code != 1 or moved >= 1.2
        assert 0.6 <= abs(one.bump_mm) <= 1.5 if one.code == 3 else one.bump_mm == 0
        assert one.healing is None or one.swelling == 0
    assert 0.3 < np.mean([one.breaks[0].depth < 1 for one in by_code[2]]) < 0.6, "one cortex alone"
    assert not any(one.age == "ununited" for one in by_code[3])
    assert np.mean([one.age == "fresh" for one in drawn]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("age", [age for age in AGES if age != "fresh"])
def test_ages_have_their_hu(age: str) -> None:
    drawn = [draw_healing(age, np.random.default_rng(seed)) for seed in range(100)]
    healings = [one for one in drawn if one is not None]
    assert len(healings) == 100 and {one.age for one in healings} == {age}
    callus = [one.callus_hu for one in healings]
    if age == "soft callus":
        assert 80 <= min(callus) < 100 and 180 < max(callus) <= 200
    elif age == "hard callus":
        assert 300 <= min(callus) < 350 and 650 < max(callus) <= 700
        assert all(one.line_filled >= 0.5 for one in healings)
    elif age == "remodeled":
        assert all(one.line_filled >= 0.75 for one in healings), "the line is nearly closed"
    else:
        sclerosis = [one.sclerosis_hu for one in healings]
        assert 500 <= min(sclerosis) < 550 and 850 < max(sclerosis) <= 900
        assert all(one.line_filled == 0 and one.rounding_mm > 0 for one in healings)
    assert draw_healing("fresh", np.random.default_rng(0)) is None


def test_usual_fractures_are_mostly_fresh() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([draw_age(1, False, rng) == "fresh" for _ in range(800)]) == pytest.approx(0.75, abs=0.05)


def test_callus_lies_around_the_bone_and_keeps_the_noise() -> None:
    """500 HU in muscle of 50, 2 mm beside a rib with a cuff of 3 mm, thicker on the outside."""
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    plain = fracture_of(piece, 2, [plain_break(piece, 0.6)])
    healing = healing_of("hard callus", line_filled=0.9)
    fresh, label = broken(site, image, plain)
    healed, wide = broken(site, image, fracture_of(piece, 2, [plain_break(piece, 0.6)], healing=healing))
    x, y, z = coordinates(image.shape)
    middle = along_mm(piece, 0)
    beside = np.abs(z) < 2
    outward = y * np.sign(piece.curve.normals[len(piece.curve.points) // 2][1])  # where the cuff is thickest
    at_cuff = beside & (outward > 5.2) & (outward < 6.2)
    rise = healed - fresh
    assert rise[middle][at_cuff[middle]].mean() == pytest.approx(450, abs=130)
    assert np.abs(rise[along_mm(piece, 14)]).max() < 1, "8 mm to both sides and its blur"
    assert np.abs(rise[beside & (np.abs(y) > 10)]).max() < 1
    noise = np.std((healed - np.median(healed[middle][at_cuff[middle]]))[middle][at_cuff[middle]])
    assert noise > NOISE_HU / 2
    line = (ids == 7)[middle]
    assert rise[middle][line].mean() > 20, "the line is closed"
    assert np.count_nonzero(wide) > 1.1 * np.count_nonzero(label), "callus is annotated too"


def test_an_ununited_line_stays_open_between_dense_rounded_stubs() -> None:
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    one = plain_break(piece, 1.5)
    healing = healing_of("ununited", callus_mm=0.0, sclerosis_hu=800.0, rounding_mm=0.9)
    fresh, _ = broken(site, image, fracture_of(piece, 2, [one]))
    old, _ = broken(site, image, fracture_of(piece, 2, [one], healing=healing))
    _, y, z = (c[0] for c in coordinates(image.shape))
    axis, edge = np.hypot(y / 4, z / 6) < 0.45, (np.hypot(y / 4, z / 6) < 0.98) & (np.hypot(y / 4, z / 6) > 0.8)
    middle, stubs = along_mm(piece, 0), [along_mm(piece, mm) for mm in (-2.4, 2.4)]
    assert old[middle][axis].mean() < 250, "open"
    for stub in stubs:
        assert old[stub][axis].mean() > fresh[stub][axis].mean() + 80, "sclerosis in the marrow"
    near = [along_mm(piece, mm) for mm in (-1.2, 1.2)]
    assert np.mean([old[plane][edge].mean() - fresh[plane][edge].mean() for plane in near]) < -60, "rounded edges"


def test_remodeled_bone_is_denser_and_thicker_than_before() -> None:
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    healing = healing_of("remodeled", callus_mm=1.2, callus_hu=800.0, line_filled=0.9, sclerosis_hu=500.0)
    new, _ = broken(site, image, fracture_of(piece, 2, [plain_break(piece, 0.5)], healing=healing))
    middle = along_mm(piece, 1)
    assert np.count_nonzero(new[middle] > 250) > 1.1 * np.count_nonzero(image[middle] > 250)
    assert new[middle][(ids == 7)[middle]].mean() > image[middle][(ids == 7)[middle]].mean()


@pytest.mark.parametrize("bump_mm", [0.6, 1.5, -1.0])
def test_a_low_buckle_changes_the_outline_by_its_height(bump_mm: float) -> None:
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    new, _ = broken(site, image, fracture_of(piece, 3, [], bump_mm=bump_mm, bump_length_mm=6.0))
    normal = piece.curve.normals[len(piece.curve.points) // 2][1]
    plane, middle_z = along_mm(piece, 0), 20
    side = np.sign(bump_mm * normal)

    def reach_mm(volume: np.ndarray) -> float:
        """Where the last cortex falls below 475 HU, between voxels."""
        profile = (volume[plane, 25:, middle_z] if side > 0 else volume[plane, 24::-1, middle_z]).astype(float)
        last = int(np.flatnonzero(profile > 475).max())
        return (last + (profile[last] - 475) / (profile[last] - profile[last + 1])) * float(SPACING[1])

    # cubic splines overshoot at an edge that no scanner has blurred
    assert reach_mm(new) - reach_mm(image) == pytest.approx(abs(bump_mm), abs=0.35)


def test_a_fracture_that_does_not_show_is_drawn_wider() -> None:
    """A cleft of 0.3 mm in a voxel of 0.9 mm and a scanner's 0.8 mm takes a quarter; 60 HU are less than that."""
    image, ids = scan_with_rib()
    site, piece = straight_site(image, ids)
    signs = []
    for width_mm in (0.3, 0.6, 0.9):
        fracture = fracture_of(piece, 2, [plain_break(piece, width_mm)], subtle=True)
        result = break_rib(site, fracture)
        assert result is not None
        signs.append(sign_hu(site, fracture, *result[:2]))
    assert signs[0] == pytest.approx(0.25 * (CORTEX_HU - MUSCLE_HU), rel=0.25)
    assert 60 < signs[0] < signs[1] < signs[2]
    faint = fracture_of(piece, 2, [plain_break(piece, 0.4)], subtle=True)
    wider = widened(faint)
    assert wider is not None and wider.breaks[0].width_mm == pytest.approx(0.6) and faint.breaks[0].width_mm == 0.4
    assert widened(fracture_of(piece, 2, [plain_break(piece, 1.1)])) is None
    assert widened(fracture_of(piece, 3, [], bump_mm=-1.2)) is None


def test_every_subtle_fracture_shows() -> None:
    image, ids = scan_with_rib(cortex_hu=420)
    widths = []
    for seed in range(8):
        made = implanted(image, ids, 1, seed, codes=(2,), subtle=1.0)
        for one in made.fractures:
            widths.append(one.gap_mm)
            change = np.abs(made.image_hu.astype(float) - image)
            assert np.sort(change[made.label == one.label_id])[-5] >= 59, "rounded to whole HU"
    assert len(widths) >= 6


def test_subtle_fractures_are_recorded_and_repeated() -> None:
    image, ids = scan_with_rib()
    ages = set()
    for seed in range(8):
        made, again = (implanted(image, ids, 2, seed, subtle=1.0) for _ in range(2))
        np.testing.assert_array_equal(made.image_hu, again.image_hu)
        np.testing.assert_array_equal(made.label, again.label)
        assert made.fractures == again.fractures and len(made.fractures) >= 1
        assert set(np.unique(made.label)) - {0} == {one.label_id for one in made.fractures}
        assert all(one.subtle and one.age in AGES for one in made.fractures)
        ages |= {one.age for one in made.fractures}
    assert len(ages) >= 3
    usual = implanted(image, ids, 1, 1)
    assert [(one.subtle, one.age) for one in usual.fractures] == [(False, "fresh")]


def test_subtle_fractures_lie_nearer_to_the_ends() -> None:
    image, ids = scan_with_rib()
    pieces = rib_pieces(ids, SPACING)
    usual, subtle = _allowed_places(pieces, image, SPACING, None)
    lengths = [np.count_nonzero(ok[0]) * STEP_MM for ok in (usual, subtle)]
    assert lengths[1] - lengths[0] == pytest.approx(2 * 15 - 6 - 4, abs=7)  # the border takes up to 4 mm at each end


def test_the_end_of_an_axis_goes_on_as_it_came() -> None:
    _, ids = scan_with_rib()
    (piece,) = rib_pieces(ids, SPACING)
    points = piece.curve.points.copy()
    points[-10:, 1] += np.linspace(0, 3, 10)  # turned aside
    bent = RibPiece(7, type(piece.curve)(points, piece.curve.tangents, piece.curve.normals), *areas(piece))
    steady = bent.with_steady_ends()
    middle = (np.array([50, 42]) - 1) / 2 * SPACING[1:]
    np.testing.assert_allclose(steady.curve.points[:, 1:], np.broadcast_to(middle, (len(points), 2)), atol=0.5)
    assert abs(steady.curve.tangents[-1][0]) > 0.99


def areas(piece: RibPiece) -> tuple[np.ndarray, np.ndarray]:
    return piece.area_mm2, piece.half_thickness_mm


# ---- places ----


def implanted(image: np.ndarray, ids: np.ndarray, count: int, seed: int = 1, **settings: Any) -> Implanted:
    return implant_fractures(image, ids, SPACING, count, np.random.default_rng(seed), **settings)


def test_the_same_state_gives_the_same_fractures() -> None:
    image, ids = scan_with_rib()
    first, again, other = (implanted(image, ids, 1, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image_hu, again.image_hu)
    np.testing.assert_array_equal(first.label, again.label)
    assert first.fractures == again.fractures
    assert (first.image_hu != other.image_hu).any()


def test_what_is_reported_is_what_was_written() -> None:
    image, ids = scan_with_rib()
    before = image.copy()
    made = implanted(image, ids, 1, codes=(2,))
    np.testing.assert_array_equal(image, before)
    (one,) = made.fractures
    assert made.label_codes == {1: 2} == {one.label_id: one.code}
    assert (made.image_hu.dtype, made.label.dtype, one.rib_id) == (np.int16, np.uint8, 7)
    assert set(np.unique(made.label)) == {0, 1} and made.label[one.center_voxel] == 1
    volume_ml = np.count_nonzero(made.label) * SPACING.prod() / 1000
    assert 1 < volume_ml < 6
    marked = np.abs(made.image_hu.astype(int) - image)[made.label > 0]
    assert marked.max() > 200, "a cleft darkens bone"
    assert abs(one.tangent[0]) == pytest.approx(1, abs=0.01) and one.outward[1] ** 2 == pytest.approx(1, abs=0.05)


def test_fractures_keep_their_distances() -> None:
    """Rib from x = 11.25 to 111.25 mm: 70 mm are 15 mm from the ends, so two fractures fit, 45 mm apart."""
    image, ids = scan_with_rib()
    for seed in range(6):
        made = implanted(image, ids, 5, seed, codes=(2,))
        at_mm = sorted(one.center_voxel[0] * SPACING[0] for one in made.fractures)
        assert 1 <= len(at_mm) <= 2
        assert at_mm[0] > 11.25 + 13 and at_mm[-1] < 111.25 - 13
        assert np.diff(at_mm).min(initial=99) > 44


def test_fractures_that_are_there_are_avoided() -> None:
    image, ids = scan_with_rib()
    avoid = np.zeros(ids.shape, dtype=bool)
    avoid[62:66, 23:27, 18:22] = True  # its middle in the middle of the rib
    for seed in range(4):
        made = implanted(image, ids, 3, seed, codes=(3,), avoid=avoid)
        assert all(abs(one.center_voxel[0] - 63.5) * SPACING[0] > 28 for one in made.fractures)
    avoid[30:100, 23:27, 18:22] = True
    assert implanted(image, ids, 3, avoid=avoid).fractures == []


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"cortex_hu": 150}, id="cartilage has no cortex", marks=pytest.mark.slow),
        pytest.param({"length_mm": 45}, id="a piece of 45 mm is all end"),
        pytest.param({"thickness_mm": 24, "height_mm": 28}, id="a section of 528 mm2 is no rib"),
        pytest.param({"thickness_mm": 4, "height_mm": 6}, id="a section of 19 mm2 is no rib"),
    ],
)
def test_no_fracture_where_there_is_no_rib(settings: dict[str, float]) -> None:
    image, ids = scan_with_rib(**settings)
    made = implanted(image, ids, 2)
    assert made.fractures == [] and made.label_codes == {}
    np.testing.assert_array_equal(made.image_hu, image)
    assert not made.label.any()


def test_no_fracture_at_the_border() -> None:
    """The rib's axis is at 20.5, 12.5 * 1.1 mm = 13.75 mm under the top slice."""
    image, ids = scan_with_rib()
    assert implanted(image[:, :, :34], ids[:, :, :34], 2).fractures == []


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param({"rib_ids": np.zeros((2, 2, 2), np.uint8)}, "must be equal", id="other shape"),
        pytest.param({"avoid": np.zeros((2, 2, 2), bool)}, "must be equal", id="places to avoid of another shape"),
        pytest.param({"spacing_mm": (1.0, 0.0, 1.0)}, "three positive numbers", id="spacing 0"),
        pytest.param({"count": 256}, "0 to 255", id="more than a label holds"),
        pytest.param({"subtle": 1.5}, "a share, 0 to 1", id="more than all"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    empty = np.zeros((4, 4, 4), dtype=np.int16)
    arguments = {"image_hu": empty, "rib_ids": empty, "spacing_mm": SPACING, "count": 1} | change
    with pytest.raises(ValueError, match=message):
        implant_fractures(**arguments, rng=np.random.default_rng(0))


# ---- the data set ----

LPS = np.array([[-0.9, 0, 0, 40], [0, -0.8, 0, -25], [0, 0, 1.1, 300], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan with lung at its side, its ribs' mask with ids 92 and 200, and the scan turned upside down in RAS."""
    folder = tmp_path_factory.mktemp("source")
    image, ids = scan_with_rib()
    image[:, :8] = LUNG_HU
    organs = np.where(ids == 7, 92, 0).astype(np.int16)
    organs[:3, :3] = 200
    nib.save(nib.Nifti1Image(image, LPS), folder / "a.nii.gz")
    nib.save(nib.Nifti1Image(organs, LPS), folder / "a-organs.nii.gz")
    nib.save(nib.Nifti1Image(image[::-1], LPS), folder / "b.nii.gz")
    nib.save(nib.Nifti1Image(organs[::-1], LPS), folder / "b-organs.nii.gz")
    return folder


def generate(output_dir: Path, source: Path, names: str = "a", **settings: Any) -> None:
    values: dict[str, Any] = {"rib_ids": (92, 115), "fractures": (1, 1), "seed": 4}
    images, ribs = ([source / f"{name}{end}.nii.gz" for name in names] for end in ("", "-organs"))
    generate_implanted(output_dir, images, **{"ribs": ribs, **values, **settings})


def volume(folder: Path, kind: str, number: int, section: str = "train") -> nib.Nifti1Image:
    return nib.load(folder / f"ribfrac-{section}-{kind}s" / f"RibFrac{number}-{kind}.nii.gz")


def test_a_data_set_has_ribfracs_layout(source: Path, tmp_path: Path) -> None:
    generate(tmp_path / "out", source, scans=2, as_is=True, section="validation")
    with (tmp_path / "out" / "ribfrac-val-info.csv").open() as file:
        rows = [(row["public_id"], int(row["label_id"]), int(row["label_code"])) for row in csv.DictReader(file)]
    assert [row[:2] for row in rows if row[1] == 0] == [("RibFrac421", 0), ("RibFrac422", 0), ("RibFrac423", 0)]
    original = nib.as_closest_canonical(nib.load(source / "a.nii.gz"))
    for number in (421, 422, 423):
        image, label = (volume(tmp_path / "out", kind, number, "val") for kind in ("image", "label"))
        ids = set(np.unique(np.asarray(label.dataobj))) - {0}
        assert ids == {row[1] for row in rows if row[0] == f"RibFrac{number}" and row[1]}
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.affine, original.affine, atol=1e-4)
        np.testing.assert_allclose(label.affine, original.affine, atol=1e-4)
        assert image.get_data_dtype() == np.int16
        unchanged = np.array_equal(image.dataobj, original.dataobj)
        assert unchanged == (number == 423) == (ids == set())
    info = json.loads((tmp_path / "out" / "dataset-info.json").read_text())
    assert [scan["as_is"] for scan in info["made"]] == [False, False, True]
    assert [scan["image"] for scan in info["made"]] == ["a.nii.gz"] * 3
    assert info["subtle"] == 0 and {one["age"] for scan in info["made"] for one in scan["fractures"]} == {"fresh"}
    codes = [(s["public_id"], one["label_id"], one["code"]) for s in info["made"] for one in s["fractures"]]
    assert codes == [row for row in rows if row[1]]


def test_scans_as_they_are_alone(source: Path, tmp_path: Path) -> None:
    generate(tmp_path / "out", source, scans=0, as_is=True)
    info = json.loads((tmp_path / "out" / "dataset-info.json").read_text())
    assert [(scan["as_is"], scan["fractures"]) for scan in info["made"]] == [(True, [])]
    assert not np.asarray(volume(tmp_path / "out", "label", 1).dataobj).any()


def test_a_scan_depends_on_its_seed_and_voxels_alone(source: Path, tmp_path: Path) -> None:
    generate(tmp_path / "ab", source, "ab")
    generate(tmp_path / "b", source, "b", first_id=9)
    generate(tmp_path / "other", source, "b", seed=5)
    scans = [volume(tmp_path / "ab", "image", 2), volume(tmp_path / "b", "image", 9)]
    first, same, other = (np.asarray(s.dataobj) for s in [*scans, volume(tmp_path / "other", "image", 1)])
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_an_interrupted_generation_goes_on(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    generate(folder, source, "ab")
    image_path = folder / "ribfrac-train-images" / "RibFrac1-image.nii.gz"
    table, expected = (folder / "ribfrac-train-info.csv").read_text(), volume(folder, "image", 2).get_fdata()
    first_written = image_path.stat().st_mtime_ns
    info = json.loads((folder / "dataset-info.json").read_text())
    info["made"] = info["made"][:1]
    (folder / "dataset-info.json").write_text(json.dumps(info))
    (folder / "ribfrac-train-info.csv").unlink()
    generate(folder, source, "ab")
    assert image_path.stat().st_mtime_ns == first_written
    assert (folder / "ribfrac-train-info.csv").read_text() == table
    np.testing.assert_array_equal(volume(folder, "image", 2).get_fdata(), expected)
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        generate(folder, source, "ab", seed=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other data"):
        generate(tmp_path / "full", source)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        pytest.param({"section": "tuning"}, ValueError, "choose one of training", id="unknown section"),
        pytest.param({"ribs": []}, ValueError, "1 images and 0 masks", id="a mask lacks"),
        pytest.param({"scans": 0}, ValueError, "1 or more", id="no scan"),
        pytest.param({"subtle": -0.1}, ValueError, "a share, 0 to 1", id="less than none"),
        pytest.param({"fractures": (0, 3)}, ValueError, "within 1 to 255", id="no fracture"),
        pytest.param({"rib_ids": (5, 2)}, ValueError, "lowest and the highest", id="ids upside down"),
        pytest.param({"rib_ids": (1, 9)}, ValueError, "marks no rib", id="no such ids"),
        pytest.param({"first_id": 421}, ValueError, "1 to 420", id="a number of another section"),
        pytest.param({"names": "c"}, FileNotFoundError, "c.nii.gz", id="no such file"),
        pytest.param({"rib_ids": (200, 200)}, ValueError, "room for a fracture", id="no place on the ribs"),
    ],
)
def test_wrong_settings_are_named(
    source: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(tmp_path / "out", source, **settings)


@pytest.mark.parametrize(
    "image, mask, message",
    [
        pytest.param("flat", "a-organs", "three axes", id="a picture"),
        pytest.param("a-organs", "a-organs", "in HU", id="a mask as image"),
        pytest.param("a", "moved", "mask of this scan", id="a mask of another place"),
    ],
)
def test_wrong_files_are_named(source: Path, tmp_path: Path, image: str, mask: str, message: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9, 3), np.int16), LPS), tmp_path / "flat.nii.gz")
    organs = np.asarray(nib.load(source / "a-organs.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(organs, LPS + np.eye(4)[:, [3, 0, 1, 2]]), tmp_path / "moved.nii.gz")
    paths = [
        (source if (source / f"{name}.nii.gz").exists() else tmp_path) / f"{name}.nii.gz" for name in (image, mask)
    ]
    with pytest.raises(ValueError, match=message):
        generate_implanted(tmp_path / "out", paths[:1], ribs=paths[1:], rib_ids=(92, 115))


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"no gzip")
    (tmp_path / "empty").mkdir()
    for name in ("broken.nii.gz", "empty"):
        with pytest.raises(SystemExit):
            main(["--image", str(tmp_path / name), "--output_dir", str(tmp_path / "out" / name)])
        assert f"{name}: cannot be read as an image" in capsys.readouterr().err


def test_ribs_are_searched_where_no_mask_is_given(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def find(image_hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
        seen.append(spacing_mm)
        return (image_hu > 150).astype(np.uint8)

    monkeypatch.setattr(dataset_module, "find_rib_mask", find)
    generate(tmp_path / "out", source, ribs=None, rib_ids=None)
    np.testing.assert_allclose(seen, [SPACING], atol=1e-5)
    assert np.asarray(volume(tmp_path / "out", "label", 1).dataobj).any()


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--image",
        str(source / "a.nii.gz"),
        "--ribs",
        str(source / "a-organs.nii.gz"),
        "--rib_ids",
        "92",
        "115",
    ]
    main([*arguments, "--output_dir", str(tmp_path / "out"), "--fractures", "1", "2", "--seed", "3", "--subtle", "1"])
    info = json.loads((tmp_path / "out" / "dataset-info.json").read_text())
    assert info["subtle"] == 1 and all(one["subtle"] for scan in info["made"] for one in scan["fractures"])
    assert nib.load(tmp_path / "out/ribfrac-train-labels/implanted-0001-label.nii.gz").shape == (136, 50, 42)
    with pytest.raises(SystemExit):
        main([*arguments, "--output_dir", str(tmp_path / "out2"), "--fractures", "4", "2"])
    assert "fractures is 4 to 2" in capsys.readouterr().err


# ---- the transform ----


def training_scan(**more: Any) -> dict[str, Any]:
    image, ids = scan_with_rib()
    affine = np.diag([*SPACING, 1.0])
    label = np.zeros((1, *ids.shape), dtype=np.uint8)
    label[0, 12:15, 23:27, 18:22] = 4
    return {
        "image": MetaTensor(torch.from_numpy(image[None].astype(np.float32)), affine=affine),
        "label": MetaTensor(torch.from_numpy(label), affine=affine),
        "label_codes": {4: 1},
        "ribs": ids[None],
    } | more


def test_a_training_scan_gets_new_fractures_away_from_its_own() -> None:
    data = training_scan()
    before = data["image"].clone()
    made = RandImplantFracturesd("image", prob=1.0, fractures=(1, 1)).set_random_state(2)(data)
    assert torch.equal(data["image"], before) and data["label_codes"] == {4: 1} and int(data["label"].max()) == 4
    assert set(made["label_codes"]) == {4, 5} == set(made["label"].unique().tolist()) - {0}
    new, old = (np.argwhere(np.asarray(made["label"][0]) == n) * SPACING for n in (5, 4))
    assert abs(new[:, 0].mean() - old[:, 0].mean()) > 28
    assert torch.equal(made["label"] == 4, data["label"] == 4)
    changed = (made["image"] != before)[0]
    assert changed.any() and isinstance(made["image"], MetaTensor)
    assert made["image"].dtype == before.dtype and torch.equal(made["image"].affine, before.affine)


def test_the_same_random_state_gives_the_same_scan() -> None:
    first, again = (RandImplantFracturesd("image", prob=1.0).set_random_state(5)(training_scan()) for _ in range(2))
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["label"], again["label"])


def test_the_share_of_subtle_ones_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[float] = []

    def implant(image_hu: np.ndarray, *_: Any, subtle: float, **__: Any) -> Implanted:
        passed.append(subtle)
        return Implanted(image_hu, np.zeros(image_hu.shape, np.uint8), {}, [])

    monkeypatch.setattr(transform_module, "implant_fractures", implant)
    RandImplantFracturesd("image", prob=1.0, subtle=0.3)(training_scan())
    assert passed == [0.3]


def test_a_label_that_is_full_gets_a_wider_type() -> None:
    data = training_scan()
    data["label"][data["label"] == 4] = 255
    made = RandImplantFracturesd("image", prob=1.0, fractures=(1, 1)).set_random_state(2)(data)
    assert made["label"].dtype == torch.int16 and int(made["label"].max()) == 256


@pytest.mark.parametrize(
    "more, prob",
    [
        pytest.param({"ribs": np.zeros((1, 136, 50, 42), np.uint8)}, 1.0, id="no ribs"),
        pytest.param({}, 0.0, id="the draw says no"),
    ],
)
def test_a_scan_passes_unchanged(more: dict[str, Any], prob: float) -> None:
    data = training_scan(**more)
    made = RandImplantFracturesd("image", prob=prob)(data)
    assert made["image"] is data["image"] and made["label"] is data["label"]


def test_ribs_are_searched_where_the_data_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        transform_module, "find_rib_mask", lambda image_hu, spacing_mm: (image_hu > 150).astype(np.uint8)
    )
    data = training_scan()
    del data["ribs"], data["label_codes"]
    data["fracture_boxes"] = np.zeros((0, 7), int)
    made = RandImplantFracturesd("image", prob=1.0, fractures=(1, 1)).set_random_state(2)(data)
    assert int(made["label"].max()) == 5 and "label_codes" not in made and "fracture_boxes" not in made


def test_ribs_that_were_found_once_are_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def find(image_hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
        searched.append(spacing_mm.tolist())
        return (image_hu > 150).astype(np.int16)

    monkeypatch.setattr(transform_module, "find_rib_mask", find)
    data = training_scan()
    del data["ribs"]
    found = FindRibsd("image")(data)
    assert found["ribs"].shape == data["image"].shape and "ribs" not in data
    assert torch.equal(found["ribs"], (data["image"].as_tensor() > 150).short())
    made = RandImplantFracturesd("image", prob=1.0, fractures=(1, 1)).set_random_state(2)(found)
    assert int(made["label"].max()) == 5 and searched == [pytest.approx(SPACING.tolist())]


def test_ribs_are_not_searched_in_a_scan_of_other_axes() -> None:
    image = MetaTensor(torch.zeros(1, 4, 4, 4), affine=np.diag([-1.0, -1, 1, 1]))
    with pytest.raises(ValueError, match="image has axes LPS, FindRibsd needs RAS"):
        FindRibsd("image")({"image": image})


@pytest.mark.parametrize(
    "more, message",
    [
        pytest.param({"image": torch.zeros(1, 4, 4, 4)}, "must be a MetaTensor", id="no affine"),
        pytest.param(
            {"image": MetaTensor(torch.zeros(1, 4, 4, 4), affine=np.diag([-1.0, -1, 1, 1]))}, "needs RAS", id="LPS"
        ),
        pytest.param({"label": torch.zeros(1, 4, 4, 4)}, "label has shape", id="label of another shape"),
        pytest.param({"ribs": np.zeros((1, 4, 4, 4))}, "ribs has shape", id="ribs of another shape"),
    ],
)
def test_wrong_data_is_named(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandImplantFracturesd("image", prob=1.0)(training_scan(**more))


def test_wrong_settings_of_the_transform_are_named() -> None:
    with pytest.raises(ValueError, match="one key"):
        RandImplantFracturesd(["image", "label"])
    with pytest.raises(ValueError, match="within 1 to 100"):
        RandImplantFracturesd("image", fractures=(3, 2))
    with pytest.raises(ValueError, match="a share, 0 to 1"):
        RandImplantFracturesd("image", subtle=2.0)


def test_samples_of_the_axis_are_half_a_millimeter_apart() -> None:
    """Lengths and places above are counted in them."""
    _, ids = scan_with_rib()
    (piece,) = rib_pieces(ids, SPACING)
    assert STEP_MM == 0.5
    np.testing.assert_allclose(np.linalg.norm(np.diff(piece.curve.points, axis=0), axis=1), 0.5, rtol=0.02)
