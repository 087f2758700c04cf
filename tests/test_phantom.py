"""Tests of the synthetic data set."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import pytest

from scripts.commands.phantom import main
from scripts.data.datalist import load_datalist
from scripts.synthetic.choices import SYNTHETIC_NAMES
from scripts.synthetic.phantom import Phantom
from scripts.synthetic.phantom import dataset as dataset_module
from scripts.synthetic.phantom import generate_phantoms, make_phantom
from scripts.synthetic.phantom.anatomy import Patient
from scripts.synthetic.phantom.fractures import Break, Fracture, Mimic, draw_fractures, draw_mimics, paint_rib
from scripts.synthetic.phantom.geometry import Curve, Grid, coverage, paint_segment, rotation, tube_coordinates
from scripts.synthetic.phantom.healing import Healing
from scripts.synthetic.phantom.scan import draw_axes, draw_count, draw_grid
from scripts.synthetic.phantom.skeleton import VERTEBRAE_MM, Rib, draw_ribs, section_distance

TINY: dict[str, Any] = {"shape": (64, 52, 24), "spacing": (5.6, 5.4, 6.0)}
LPS = (-1, -1, 1)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """Three short scans of the chest, at unequal spacing, one of them without fractures."""
    settings: dict[str, Any] = {"shape": (190, 160, 40), "spacing": (1.9, 2.0, 2.3)}
    return [make_phantom(3, fractures=4, **settings), make_phantom(4, fractures=4, **settings)] + [
        make_phantom(5, fractures=0, **settings)
    ]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    generate_phantoms(folder, training=6, validation=1, test=2, seed=3, workers=1, **TINY)
    return folder


def straight_rib(grid: Grid) -> Rib:
    """A rib of 100 mm along x through the middle of a grid; thickness 8 mm along y, height 12 mm along z."""
    x = np.arange(-50, 50.1, 0.5)
    points = np.stack([x, 0 * x, 0 * x], axis=1)
    curve = Curve.from_points(points, np.broadcast_to([0.0, 1.0, 0.0], points.shape))
    same = np.ones(len(points))
    return Rib(5, 1, curve, 4 * same, 6 * same, 1.0 * same, 200 * same, 1200.0)


def make_grid() -> Grid:
    shape, spacing = (160, 60, 60), (0.8, 0.7, 0.9)
    origin = [-(n - 1) / 2 * d for n, d in zip(shape, spacing)]
    return Grid(shape, spacing, (origin[0], origin[1], origin[2]), np.random.default_rng(0))


def plain_break(s_mm: float, width_mm: float, **settings: Any) -> Break:
    return Break(s_mm, width_mm, (0.0, 0.0), (0.0, 0.0), **settings)


def one_fracture(code: int, breaks: list[Break], bump_mm: float = 0.0) -> Fracture:
    return Fracture(0, code, 50.0, breaks, bump_mm, 10.0, 10.0, (2.0, 2.0), 0.0)


def painted(fracture: Fracture | None, mimics: list[Mimic] | None = None) -> tuple[Grid, np.ndarray, np.ndarray]:
    """The straight rib with one fracture: grid, label and where the rib is."""
    grid = make_grid()
    label, ribs = np.zeros(grid.shape, dtype=np.uint8), np.zeros(grid.shape, dtype=np.uint8)
    paint_rib(grid, straight_rib(grid), [] if fracture is None else [(1, fracture)], mimics or [], label, ribs)
    return grid, label, ribs > 0


def at(grid: Grid, x: float, y: float, z: float) -> tuple[int, ...]:
    """Indices of the voxel at a place in mm."""
    return tuple(np.round((np.array([x, y, z]) - grid.origin_mm) / grid.spacing_mm).astype(int))


def drawn_fractures(seed: int, count: int = 9) -> tuple[Grid, list[Rib], np.ndarray, list[Fracture]]:
    rng = np.random.default_rng(seed)
    patient = Patient.draw(rng)
    grid = draw_grid(patient, "full", (160, 125, 165), (2.1, 2.1, 2.0), rng)
    ribs = draw_ribs(patient, rng)
    z = VERTEBRAE_MM * patient.scale[2]
    spine = np.stack([patient.midline(z), patient.spine_y(z), z], axis=1) @ patient.turn.T
    return grid, ribs, spine, draw_fractures(grid, ribs, spine, count, rng)


# ---- geometry ----


@pytest.mark.parametrize(
    "distance_mm, share",
    [
        pytest.param(-5.0, 1.0, id="inside"),
        pytest.param(0.0, 0.5, id="the surface halves the voxel"),
        pytest.param(0.2, 0.25, id="a quarter of the voxel inside"),
        pytest.param(5.0, 0.0, id="outside"),
    ],
)
def test_coverage(distance_mm: float, share: float) -> None:
    assert coverage(np.array(distance_mm), 0.8) == pytest.approx(share)


@pytest.mark.parametrize(
    "turn, vector, turned",
    [
        pytest.param((0, 0, 90), [1, 0, 0], [0, 1, 0], id="about z, x becomes y"),
        pytest.param((90, 0, 0), [0, 1, 0], [0, 0, 1], id="about x, y becomes z"),
        pytest.param((0, 90, 0), [0, 0, 1], [1, 0, 0], id="about y, z becomes x"),
        pytest.param((90, 0, 90), [0, 1, 0], [0, 0, 1], id="about x comes before about z"),
    ],
)
def test_rotation(turn: tuple[float, float, float], vector: list[float], turned: list[float]) -> None:
    np.testing.assert_allclose(rotation(*turn) @ vector, turned, atol=1e-12)


def test_a_bent_tube_has_the_volume_of_a_straight_one() -> None:
    """A tube of radius 5 mm on a quarter circle of radius 40 mm: pi * 25 * (pi / 2 * 40) mm³ (Pappus)."""
    grid = Grid((80, 76, 30), (0.8, 0.9, 1.0), (-10.0, -10.0, -14.5), np.random.default_rng(0))
    angle = np.linspace(0, np.pi / 2, 12)
    knots = np.stack([40 * np.cos(angle), 40 * np.sin(angle), 0 * angle], axis=1)
    curve = Curve.through(knots, np.array([0, 0, 1]))
    assert curve.length_mm == pytest.approx(20 * np.pi, abs=0.5)
    tube = tube_coordinates(grid, curve, 8)
    assert len(np.unique(tube.index)) == len(tube.index)
    share = coverage(np.hypot(tube.u, tube.v) - 5, grid.voxel_mm)
    assert share.sum() * np.prod(grid.spacing_mm) == pytest.approx(np.pi * 25 * 20 * np.pi, rel=0.02)
    np.testing.assert_allclose(curve.at(curve.length_mm / 2), [28.28, 28.28, 0], atol=0.4)


def test_a_tube_beside_the_grid_has_no_voxel() -> None:
    grid = make_grid()
    curve = Curve.through(np.array([[500.0, 0, 0], [510, 0, 0], [520, 0, 0]]), np.array([0, 1, 0]))
    assert len(tube_coordinates(grid, curve, 5).index) == 0
    paint_segment(grid, np.array([500.0, 0, 0]), np.array([520.0, 0, 0]), 3.0, 500.0)
    assert (grid.image == -1000).all()


def test_a_segment_is_a_cylinder_with_round_ends() -> None:
    """Radius 4 mm, 20 mm long: pi * 16 * 20 + 4/3 * pi * 64 mm³, each voxel up from -1000 by 1000."""
    grid = make_grid()
    paint_segment(grid, np.array([-10.0, 0, 0]), np.array([10.0, 0, 0]), 4.0, 0.0)
    volume = (grid.image + 1000).sum() / 1000 * np.prod(grid.spacing_mm)
    assert volume == pytest.approx(np.pi * 16 * 20 + 4 / 3 * np.pi * 64, rel=0.03)


def test_section_distance_is_negative_inside_and_zero_on_the_ellipse() -> None:
    u, v = np.array([0.0, 4.0, 0.0, 8.0]), np.array([0.0, 0.0, 6.0, 0.0])
    distance = section_distance(u, v, 4.0, 6.0)
    assert distance[0] < -3
    np.testing.assert_allclose(distance[1:3], 0, atol=0.05)
    assert distance[3] == pytest.approx(4, abs=0.1)


# ---- fractures of a straight rib: its middle is at s = 50 mm, x = 0 ----


def test_an_intact_rib_has_cortex_around_marrow() -> None:
    grid, label, rib = painted(None)
    assert label.max() == 0
    assert rib.sum() * np.prod(grid.spacing_mm) == pytest.approx(np.pi * 4 * 6 * 100, rel=0.04)
    assert grid.image[at(grid, 10, 3.4, 0)] > 700
    assert grid.image[at(grid, 10, 0, 0)] < 700


def test_a_displaced_stub_is_bent_away_and_eases_back() -> None:
    """Moved 6 mm up at the break, easing off over 25 mm: 6 * (1 - 5/25)^1.5 = 4.29 mm after 5 mm, nothing after 25."""
    moved = np.array([0.0, 0.0, 6.0])
    grid, label, rib = painted(one_fracture(1, [plain_break(50, 2.5, after_mm=moved, ease_mm=25)]))
    heights = {x: grid.axes_mm[2][np.nonzero(rib[at(grid, x, 0, 0)[0]])[1]].mean() for x in (-6, 5, 30)}
    assert heights[-6] == pytest.approx(0, abs=0.3)
    assert heights[5] == pytest.approx(4.29, abs=0.5)
    assert heights[30] == pytest.approx(0, abs=0.3)
    assert cc3d.connected_components(label, connectivity=26).max() == 1
    assert label[at(grid, -3, 0, 0)] == 1 and label[at(grid, 3, 0, 5)] == 1


def test_the_gap_of_a_complete_break_is_empty() -> None:
    """2.5 mm wide and rough by at most 0.7 mm: nothing within 1.25 - 0.7 mm of the plane, bone 1.25 + 0.7 mm away."""
    grid, _, rib = painted(one_fracture(1, [plain_break(50, 2.5)]))
    assert not rib[at(grid, -0.4, 0, 0)[0]].any() and not rib[at(grid, 0.4, 0, 0)[0]].any()
    assert rib[at(grid, -2.8, 0, 0)] and rib[at(grid, 2.8, 0, 0)]


def test_a_cleft_opens_the_outer_cortex_alone() -> None:
    grid, _, _ = painted(one_fracture(2, [plain_break(50, 1.5, depth=0.4)]))
    intact, _, _ = painted(None)
    column = slice(at(grid, -2, 0, 0)[0], at(grid, 2, 0, 0)[0] + 1)  # the plane is rough by 0.7 mm
    outer, inner = at(grid, 0, 3.4, 0)[1], at(grid, 0, -3.4, 0)[1]
    middle = at(grid, 0, 0, 0)[2]
    assert grid.image[column, outer, middle].min() < 0.4 * intact.image[column, outer, middle].min()
    np.testing.assert_allclose(grid.image[column, inner, middle], intact.image[column, inner, middle])


@pytest.mark.parametrize("side", [pytest.param(1, id="outwards"), pytest.param(-1, id="inwards")])
def test_a_buckle_bumps_out_on_one_side_without_a_gap(side: int) -> None:
    grid, label, rib = painted(one_fracture(3, [], bump_mm=side * 2.8))
    widths = {
        sign: (rib[at(grid, 0, 0, 0)[0], :, at(grid, 0, 0, 0)[2]] & (sign * grid.axes_mm[1] > 0)).sum() * 0.7
        for sign in (1, -1)
    }
    assert widths[side] == pytest.approx(4 + 2.8, abs=0.75)
    assert widths[-side] == pytest.approx(4, abs=0.75)
    assert cc3d.connected_components(rib, connectivity=26).max() == 1
    assert label.max() == 1


def test_a_segmental_fracture_is_one_instance_over_two_breaks() -> None:
    breaks = [plain_break(35, 3.0), plain_break(65, 3.0)]
    grid, label, rib = painted(one_fracture(4, breaks))
    assert cc3d.connected_components(rib, connectivity=6).max() == 3, "two breaks leave three pieces"
    assert cc3d.connected_components(label, connectivity=26).max() == 1
    assert label[at(grid, -15, 0, 0)] == label[at(grid, 0, 0, 0)] == label[at(grid, 15, 0, 0)] == 1


def test_the_mask_is_an_ellipsoid_around_the_rib() -> None:
    """Half axes 10, 4 + 2 and 6 + 2 mm: 4/3 * pi * 480 = 2011 mm³; the hand's tremor changes it a little."""
    grid, label, _ = painted(one_fracture(2, [plain_break(50, 1.0, depth=0.5)]))
    assert label.sum() * np.prod(grid.spacing_mm) == pytest.approx(4 / 3 * np.pi * 10 * 6 * 8, rel=0.1)


@pytest.mark.parametrize(
    "kind, size_mm, length_mm, larger",
    [
        pytest.param("callus", 2.0, 20.0, True, id="a callus adds bone"),
        pytest.param("groove", 2.0, 20.0, False, id="a groove takes bone away"),
    ],
)
def test_mimics_change_the_rib_and_are_not_annotated(kind: str, size_mm: float, length_mm: float, larger: bool) -> None:
    _, label, rib = painted(None, [Mimic(0, kind, 50.0, size_mm, length_mm)])
    _, _, intact = painted(None)
    assert (rib.sum() > intact.sum()) == larger
    assert rib.sum() != intact.sum()
    assert label.max() == 0


def test_an_island_is_dense_bone_in_the_marrow() -> None:
    grid, _, _ = painted(None, [Mimic(0, "island", 50.0, 2.0, 4.0)])
    intact, _, _ = painted(None)
    assert grid.image[at(grid, 0, 0, 0)] > intact.image[at(grid, 0, 0, 0)] + 400


# ---- subtle and healing fractures ----


def healing_of(age: str, **settings: Any) -> Healing:
    values: dict[str, Any] = {"callus_mm": 3.0, "callus_hu": 500.0, "callus_half_mm": 8.0, "lean": 0.0, "texture": 0.0}
    values |= {"line_filled": 0.0, "sclerosis_hu": 0.0, "sclerosis_mm": 2.0, "rounding_mm": 0.0}
    return Healing(age, **(values | settings))


def test_callus_lies_around_the_bone_and_closes_the_line() -> None:
    """500 HU beside a rib with a cuff of 3 mm; a line of 2 mm, 0.9 of it closed: -1000 + 0.9 * 1500 HU."""
    fresh = one_fracture(2, [plain_break(50, 2.0)])
    grid, label, _ = painted(fresh)
    healed, wide, _ = painted(replace(fresh, healing=healing_of("hard callus", line_filled=0.9)))
    assert grid.image[at(grid, 0, 5.6, 0)] == -1000 and healed.image[at(grid, 0, 5.6, 0)] == pytest.approx(500)
    assert healed.image[at(grid, 12, 5.6, 0)] == -1000, "8 mm to both sides"
    assert grid.image[at(grid, 0, 0, 0)] < -900 and healed.image[at(grid, 0, 0, 0)] == pytest.approx(350, abs=60)
    assert np.count_nonzero(wide) > 1.1 * np.count_nonzero(label), "callus is annotated too"


def test_an_ununited_line_stays_open_between_dense_rounded_stubs() -> None:
    fresh = one_fracture(2, [plain_break(50, 1.5)])
    old = replace(
        fresh, healing=healing_of("ununited", callus_mm=0.0, sclerosis_hu=800.0, sclerosis_mm=3.0, rounding_mm=1.0)
    )
    (grid, _, bone), (scan, _, rounded) = painted(fresh), painted(old)
    assert scan.image[at(grid, 0, 0, 0)] < -500, "open"
    for x in (-2.4, 2.4):
        assert scan.image[at(grid, x, 0, 0)] > grid.image[at(grid, x, 0, 0)] + 80
    assert np.count_nonzero(rounded) < np.count_nonzero(bone)
    assert not (rounded & ~bone).any()


def test_a_low_buckle_widens_the_section_by_its_height() -> None:
    grid, _, _ = painted(one_fracture(3, [], bump_mm=1.0))
    intact, _, _ = painted(None)
    x, _, z = at(grid, 0, 0, 0)
    rise = (grid.image - intact.image)[x, :, z]
    outer, inner = grid.axes_mm[1] > 3, grid.axes_mm[1] < -3
    # the outline: half a voxel of bone on air
    edges = [grid.axes_mm[1][np.flatnonzero(g.image[x, :, z] > 0)].max() for g in (grid, intact)]
    assert edges[0] - edges[1] == pytest.approx(1.0, abs=0.75) and edges[0] > edges[1]
    assert rise[outer].max() > 100 and np.abs(rise[inner]).max() < 100


@pytest.mark.parametrize("seed", [11, 12])
def test_subtle_fractures_are_of_all_kinds_and_ages(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patient = Patient.draw(rng)
    grid = draw_grid(patient, "full", (160, 125, 165), (2.1, 2.1, 2.0), rng)
    ribs = draw_ribs(patient, rng)
    z = VERTEBRAE_MM * patient.scale[2]
    spine = np.stack([patient.midline(z), patient.spine_y(z), z], axis=1) @ patient.turn.T
    drawn = draw_fractures(grid, ribs, spine, 20, rng, subtle=1.0)
    assert len(drawn) == 20 and all(one.subtle for one in drawn)
    assert {one.code for one in drawn} >= {1, 2, 3} and len({one.age for one in drawn}) >= 3
    for one in drawn:
        assert 0.6 <= abs(one.bump_mm) <= 1.5 if one.code == 3 else one.bump_mm == 0
        assert all(0.3 <= b.width_mm <= (1.5 if one.age == "ununited" else 1.2) for b in one.breaks)
        assert one.healing is None or one.swelling == 0


def test_every_subtle_fracture_of_a_phantom_has_a_label() -> None:
    settings: dict[str, Any] = {"shape": (190, 160, 60), "spacing": (1.9, 2.0, 2.3), "fractures": 5}
    made, again = (make_phantom(6, **settings, subtle=1.0) for _ in range(2))
    assert sorted(np.unique(made.label)) == list(range(6)) and sorted(made.label_codes) == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(made.image, again.image)
    assert not np.array_equal(made.image, make_phantom(6, **settings).image)


# ---- where fractures are, and how many ----


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_fractures_keep_their_distances(seed: int) -> None:
    _, ribs, spine, fractures = drawn_fractures(seed)
    assert len(fractures) == 9
    for fracture in fractures:
        curve = ribs[fracture.rib].curve
        # 25 mm from the edge of the vertebral bodies, which reach some 20 mm from their axis
        assert np.linalg.norm(spine - curve.at(fracture.s_mm), axis=1).min() >= 45
        assert fracture.s_mm < curve.length_mm - 4
        for other in fractures:
            assert other is fracture or other.rib != fracture.rib or abs(other.s_mm - fracture.s_mm) > 45


def test_masks_have_the_size_of_ribfracs() -> None:
    """RibFrac's mean is 2.7 mL; each mask is one piece between 0.5 and 6.5 mL."""
    volumes_ml: list[float] = []
    codes: Counter[int] = Counter()
    for seed in range(4):
        grid, ribs, _, fractures = drawn_fractures(seed, count=14)
        label, rib_ids = np.zeros(grid.shape, dtype=np.uint8), np.zeros(grid.shape, dtype=np.uint8)
        for index in {fracture.rib for fracture in fractures}:
            own = [(i, f) for i, f in enumerate(fractures, start=1) if f.rib == index]
            paint_rib(grid, ribs[index], own, [], label, rib_ids)
        pieces, count = cc3d.connected_components(label, connectivity=26, return_N=True)
        assert count == len(fractures), "every instance is one connected piece"
        volumes_ml += list(np.bincount(label.ravel())[1:] * np.prod(grid.spacing_mm) / 1000)
        codes.update(fracture.code for fracture in fractures)
    assert 2.3 < np.mean(volumes_ml) < 3.1
    assert min(volumes_ml) > 0.5 and max(volumes_ml) < 6.5
    assert set(codes) == {1, 2, 3, 4}


def test_counts_are_like_ribfracs() -> None:
    grid = Grid((4, 4, 200), (1.0, 1.0, 1.5), (0.0, 0.0, 0.0), np.random.default_rng(0))
    counts = [draw_count(grid, np.random.default_rng(seed)) for seed in range(400)]
    assert 5 <= np.median(counts) <= 9
    assert min(counts) >= 1 and max(counts) <= 20


def test_most_fractures_are_on_one_side_and_few_are_mirrored() -> None:
    mirrored, total = 0, 0
    for seed in range(12):
        _, ribs, _, fractures = drawn_fractures(seed)
        sides = Counter(ribs[f.rib].side for f in fractures)
        total += len(fractures)
        sites = [(ribs[f.rib].number, ribs[f.rib].side, f.s_mm) for f in fractures]
        mirrored += sum(a[0] == b[0] and a[1] > b[1] and abs(a[2] - b[2]) < 30 for a in sites for b in sites)
        assert max(sides.values()) >= 5  # of nine
    assert mirrored <= total / 10


def test_mimics_keep_off_the_fractures() -> None:
    rng = np.random.default_rng(0)
    _, ribs, _, fractures = drawn_fractures(1, count=15)
    mimics = [mimic for _ in range(20) for mimic in draw_mimics(ribs, fractures, rng)]
    assert {mimic.kind for mimic in mimics} == {"callus", "groove", "island"}
    assert all(m.rib != f.rib or abs(m.s_mm - f.s_mm) > 30 for m in mimics for f in fractures)


# ---- the scan ----


def test_spacing_and_field_of_view_are_those_of_chest_ct() -> None:
    for seed in range(25):
        rng = np.random.default_rng(seed)
        patient = Patient.draw(rng)
        slab = draw_grid(patient, "slab", None, None, rng)
        assert 0.6 <= slab.spacing_mm[0] == slab.spacing_mm[1] <= 0.95
        assert 0.8 <= slab.spacing_mm[2] <= 1.5
        assert 96 <= slab.shape[2] <= 112
        assert 300 <= slab.shape[0] * slab.spacing_mm[0] <= 410


def test_a_full_scan_holds_the_whole_rib_cage() -> None:
    rng = np.random.default_rng(1)
    patient = Patient.draw(rng)
    grid = draw_grid(patient, "full", None, None, rng)
    points = np.concatenate([rib.curve.points for rib in draw_ribs(patient, rng)])
    low, high = np.array(grid.origin_mm), np.array([axis[-1] for axis in grid.axes_mm])
    inside = ((points > low) & (points < high)).all(axis=1)
    assert inside.mean() > 0.98


def test_five_scans_in_six_are_lps() -> None:
    axes = Counter(draw_axes(np.random.default_rng(seed)) for seed in range(600))
    assert axes[LPS] == pytest.approx(500, abs=40)
    assert set(axes) == {LPS, (1, 1, 1), (-1, 1, 1), (1, -1, 1)}


def test_arrays_of_a_phantom_agree(phantoms: list[Phantom]) -> None:
    for phantom, count in zip(phantoms, (4, 4, 0)):
        assert phantom.image.dtype == np.int16 and phantom.label.dtype == np.uint8
        assert phantom.image.shape == phantom.label.shape == phantom.ribs.shape == phantom.vertebrae.shape
        assert sorted(np.unique(phantom.label)) == list(range(count + 1))
        assert sorted(phantom.label_codes) == list(range(1, count + 1))
        assert set(phantom.label_codes.values()) <= {1, 2, 3, 4}
        np.testing.assert_allclose(nib.affines.voxel_sizes(phantom.affine), (1.9, 2.0, 2.3))


def test_tissues_have_their_hu(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        image = phantom.image
        assert image.min() >= -1024 and image.max() <= 3071
        assert np.median(image[phantom.ribs > 0]) == pytest.approx(450, abs=300)
        assert np.median(image[phantom.vertebrae]) == pytest.approx(300, abs=200)
        soft = image[(image > -40) & (image < 150)]
        assert soft.size > 0.15 * image.size  # muscle, blood and organs
        lung = (image > -950) & (image < -700)
        assert lung.sum() > 0.08 * image.size
        assert (image < -930).sum() > 0.05 * image.size  # air around the patient


def test_left_and_right_are_the_patients(phantoms: list[Phantom]) -> None:
    """Right ribs lie on the side to which the mid-plane's normal points, and mirror the left ones."""
    for phantom in phantoms:
        centers = []
        for low, high in ((1, 12), (13, 24)):
            voxels = np.argwhere((phantom.ribs >= low) & (phantom.ribs <= high))
            centers.append(nib.affines.apply_affine(phantom.affine, voxels).mean(axis=0))
        left, right = (center - phantom.midplane_point_mm for center in centers)
        assert centers[1][0] > centers[0][0], "RAS: x grows to the right"
        normal = phantom.midplane_normal
        assert np.linalg.norm(normal) == pytest.approx(1)
        mirrored = left - 2 * (left @ normal) * normal
        np.testing.assert_allclose(mirrored, right, atol=12)  # the sides differ by up to 4 % of 140 mm, and in slope


def test_a_threshold_finds_no_fractures(phantoms: list[Phantom]) -> None:
    """Components above any threshold hit at most 2 of the 8 fractures: overlap > 0.2, the challenge's rule."""
    for threshold in range(0, 1300, 100):
        hits = 0
        for phantom in phantoms[:2]:
            pieces = cc3d.connected_components(phantom.image > threshold, connectivity=26)
            for instance in phantom.label_codes:
                mask = phantom.label == instance
                ids, common = np.unique(pieces[mask], return_counts=True)
                sizes = np.array([(pieces == i).sum() for i in ids])
                iou = (common / (sizes + mask.sum() - common))[ids > 0]
                hits += bool((iou > 0.2).any())
        assert hits <= 2, f"{hits} of 8 found above {threshold} HU"


def test_hu_in_fractures_is_hu_around_intact_ribs(phantoms: list[Phantom]) -> None:
    """The chance that a voxel of a mask is brighter than one of a dilated intact rib is about one half."""
    inside = np.concatenate([p.image[p.label > 0] for p in phantoms])
    around = []
    for phantom in phantoms:
        near = np.zeros(phantom.ribs.shape, dtype=bool)
        for axis in range(3):
            for step in (-1, 0, 1):
                near |= np.roll(phantom.ribs > 0, step, axis=axis)
        around.append(phantom.image[near & (phantom.label == 0)])
    order = np.sort(np.concatenate(around))
    brighter = np.searchsorted(order, inside) / len(order)
    assert 0.35 < brighter.mean() < 0.65


def test_the_seed_decides() -> None:
    first, again, other = (make_phantom(seed, **TINY) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize(
    "settings, message",
    [
        pytest.param({"size": "huge"}, "choose one of full, slab", id="unknown size"),
        pytest.param({"subtle": 1.1}, "a share, 0 to 1", id="more than all"),
        pytest.param({"fractures": 21}, "ask for 0 to 20", id="too many fractures"),
        pytest.param({"fractures": 5, "shape": (20, 20, 4), "spacing": (2, 2, 2)}, "do not fit", id="scan too small"),
    ],
)
def test_a_phantom_that_cannot_be_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_phantom(0, **settings)


# ---- the data set ----


def test_layout_and_names_are_ribfracs(generated: Path) -> None:
    names = sorted(str(path.relative_to(generated)) for path in generated.rglob("*") if path.is_file())
    expected = ["dataset-info.json", *(f"ribfrac-{section}-info.csv" for section in ("train", "val", "test"))]
    for section, ids in (("train", range(1, 7)), ("val", [421]), ("test", [501, 502])):
        expected += [f"ribfrac-{section}-images/RibFrac{i}-image.nii.gz" for i in ids]
        expected += [f"ribfrac-{section}-labels/RibFrac{i}-label.nii.gz" for i in ids]
    assert names == sorted(expected)
    info = json.loads((generated / "dataset-info.json").read_text())
    assert info["description"] == "synthetic data, no patient"
    assert (info["seed"], info["training"], info["validation"], info["test"]) == (3, 6, 1, 2)


def test_tables_match_the_labels(generated: Path) -> None:
    with open(generated / "ribfrac-train-info.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["public_id", "label_id", "label_code"]
    for number in range(1, 7):
        own = [(int(r["label_id"]), int(r["label_code"])) for r in rows if r["public_id"] == f"RibFrac{number}"]
        label = nib.Nifti1Image.from_filename(generated / "ribfrac-train-labels" / f"RibFrac{number}-label.nii.gz")
        image = nib.Nifti1Image.from_filename(generated / "ribfrac-train-images" / f"RibFrac{number}-image.nii.gz")
        assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(image.affine, label.affine)
        assert own[0] == (0, 0)
        assert [row[0] for row in own[1:]] == list(range(1, len(own)))
        assert {row[1] for row in own[1:]} <= {1, 2, 3, 4}
        assert (len(own) == 1) == (number == 6), "the sixth scan has no fracture"
        assert set(np.unique(label.dataobj)) <= {row[0] for row in own}


@pytest.mark.slow
def test_scans_depend_on_neither_workers_nor_other_scans(generated: Path, tmp_path: Path) -> None:
    generate_phantoms(tmp_path, training=1, validation=1, test=0, seed=3, workers=2, **TINY)
    for name in ("ribfrac-train-images/RibFrac1-image.nii.gz", "ribfrac-val-labels/RibFrac421-label.nii.gz"):
        assert (tmp_path / name).read_bytes() == (generated / name).read_bytes()


def test_a_finished_data_set_is_kept(generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "make_phantom", lambda *_, **__: pytest.fail("made a scan again"))
    generate_phantoms(generated, training=6, validation=1, test=2, seed=3, workers=1, **TINY)


@pytest.mark.slow
def test_an_interrupted_generation_goes_on(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def interrupted(seed: Any, *args: Any, **settings: Any) -> Phantom:
        made.append(seed)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make_phantom(seed, *args, **settings)

    monkeypatch.setattr(dataset_module, "make_phantom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_phantoms(tmp_path, training=4, validation=0, test=0, seed=3, workers=1, **TINY)
    assert not (tmp_path / "ribfrac-train-info.csv").exists()
    generate_phantoms(tmp_path, training=4, validation=0, test=0, seed=3, workers=1, **TINY)
    assert len(made) == 5, "two, the one interrupted, and the two that lacked"
    rows = (tmp_path / "ribfrac-train-info.csv").read_text().splitlines()
    assert rows == [
        row
        for row in (generated / "ribfrac-train-info.csv").read_text().splitlines()
        if row.split(",")[0] not in ("RibFrac5", "RibFrac6")
    ]
    assert not any(path.name.startswith(".") for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "settings, message",
    [
        pytest.param({"training": 421}, "room for 0 to 420", id="training ids would reach those of validation"),
        pytest.param({"validation": 81}, "room for 0 to 80", id="validation ids would reach those of test"),
        pytest.param({"test": -1}, "room for 0 to", id="less than nothing"),
        pytest.param({"size": "huge"}, "choose one of full, slab", id="unknown size"),
        pytest.param({"workers": 0}, "1 or more", id="nobody works"),
        pytest.param({"subtle": -1}, "a share, 0 to 1", id="less than none"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        generate_phantoms(tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()


def test_a_folder_of_other_settings_is_an_error(generated: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset-info.json.*other settings \(seed\)"):
        generate_phantoms(generated, training=6, validation=1, test=2, seed=4, **TINY)


def test_a_folder_of_other_data_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path)])
    assert "holds other data" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_names_of_their_own_change_neither_voxels_nor_sections(generated: Path, tmp_path: Path) -> None:
    generate_phantoms(tmp_path, training=1, validation=1, test=0, seed=3, workers=1, names=SYNTHETIC_NAMES, **TINY)
    assert [item["scan"] for item in load_datalist(tmp_path, "training")] == ["synthetic-0001"]
    [item] = load_datalist(tmp_path, "validation")
    [known] = load_datalist(generated, "validation")
    assert (item["scan"], item["label_codes"]) == ("synthetic-0421", known["label_codes"])
    for kind in ("image", "label"):
        assert np.array_equal(nib.load(item[kind]).dataobj, nib.load(known[kind]).dataobj)


def test_the_command_line_passes_its_settings_on(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, object] = {}
    monkeypatch.setattr("scripts.commands.phantom.generate_phantoms", lambda **settings: passed.update(settings))
    main(["--output_dir", "data", "--test", "3", "--size", "slab", "--workers", "2"])
    assert passed == {
        "output_dir": "data",
        "training": 24,
        "validation": 6,
        "test": 3,
        "seed": 0,
        "size": "slab",
        "subtle": 0.0,
        "traits": [],
        "workers": 2,
        "names": SYNTHETIC_NAMES,
    }
