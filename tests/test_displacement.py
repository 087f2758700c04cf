"""Displacement of the stubs of ribs that are broken in a known way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from broken_ribs import HALF_MM, LENGTH_MM, broken_rib, candidate_points, straight_rib

from scripts.anatomy.rib_cage import Rib
from scripts.anatomy.straight_ribs import BEYOND_MM, StraightRib
from scripts.description import displacement
from scripts.description.displacement import displacement_class
from scripts.description.measure import NOT_MEASURABLE, measure_fracture
from scripts.description.rib_profile import rib_frame


def measured(points=None, metal_mm=None, slice_mm=1.1, **broken):
    scan, affine, straight = broken_rib(**broken)
    return measure_fracture(
        scan, affine, straight, candidate_points() if points is None else points, slice_mm, metal_mm
    )


def overlap(apart: float) -> float:
    """Share of a circle of radius 1 that an equal one covers whose center is so far away."""
    half = min(apart / 2, 1.0)
    return 2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))


@pytest.mark.parametrize("offset_mm", [(0.0, 0.0), (2.0, 0.0), (0.0, -3.0), (4.0, 3.0), (0.0, 7.0)])
def test_offset_and_contact(offset_mm):
    found = measured(offset_mm=offset_mm, gap_mm=1.5).displacement
    assert found.offset_mm == pytest.approx(np.hypot(*offset_mm), abs=0.3)
    assert found.offset_sd_mm < 0.6
    wanted = overlap(float(np.hypot(offset_mm[0] / HALF_MM[0], offset_mm[1] / HALF_MM[1])))
    assert found.contact == pytest.approx(wanted, abs=0.09)


@pytest.mark.parametrize(
    "broken, kind",
    [
        pytest.param({"gap_mm": 1.0}, "undisplaced", id="a line alone"),
        pytest.param({"offset_mm": (0.0, 2.5), "gap_mm": 1.0}, "offset", id="a third of the thickness"),
        pytest.param({"offset_mm": (0.0, 9.0), "gap_mm": 1.0}, "displaced", id="more than the thickness"),
        pytest.param({"gap_mm": 8.0}, "displaced", id="torn apart along the rib"),
    ],
)
def test_class(broken, kind):
    assert measured(**broken).displacement.kind == kind


@pytest.mark.parametrize(
    "contact, kind",
    [
        pytest.param(1.0, "undisplaced", id="all"),
        pytest.param(0.901, "undisplaced", id="above 90 %"),
        pytest.param(0.9, "offset", id="90 %"),
        pytest.param(0.1, "offset", id="10 %"),
        pytest.param(0.099, "displaced", id="a rim of blur"),
        pytest.param(0.0, "displaced", id="none"),
    ],
)
def test_limits_of_the_classes(contact, kind):
    assert displacement_class(contact) == kind


@pytest.mark.parametrize("least_sd_mm, kind", [(0.15, "offset"), (0.9, "undisplaced")])
def test_an_offset_within_its_error_is_none(least_sd_mm, kind, monkeypatch):
    monkeypatch.setattr(displacement, "_LEAST_SD_MM", least_sd_mm)
    found = measured(offset_mm=(1.2, 1.2), gap_mm=1.5).displacement
    assert found.kind == kind and 0.1 < found.contact < 0.9 and 1.2 < found.offset_mm < 1.9


def test_side_by_side_stays_displaced_however_unsure(monkeypatch):
    monkeypatch.setattr(displacement, "_LEAST_SD_MM", 5.0)
    assert measured(gap_mm=8.0).displacement is None  # too unsure for a number
    monkeypatch.setattr(displacement, "_LEAST_SD_MM", 0.9)
    assert measured(gap_mm=8.0).displacement.kind == "displaced"


@pytest.mark.parametrize("gap_mm", [1.0, 2.0, 4.0])
def test_gap(gap_mm):
    assert measured(gap_mm=gap_mm).displacement.along_mm == pytest.approx(gap_mm, abs=0.5)


def test_overlap_is_negative():
    found = measured(offset_mm=(0.0, 8.5), gap_mm=-4.0).displacement
    assert found.along_mm == pytest.approx(-4.0, abs=1.5)


@pytest.mark.parametrize("bend_degrees", [0.0, 6.0, 12.0])
def test_bend(bend_degrees):
    found = measured(gap_mm=1.5, bend_degrees=bend_degrees).displacement
    assert found.angle_degrees == pytest.approx(bend_degrees, abs=1.5)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({"flips": (-1, -1, 1)}, id="LPS"),
        pytest.param({"flips": (1, -1, -1), "order": (2, 0, 1)}, id="other order and directions"),
        pytest.param({"spacing_mm": (0.6, 0.6, 0.6)}, id="fine voxels"),
        pytest.param({"spacing_mm": (0.9, 0.9, 2.0)}, id="slices of 2 mm"),
        pytest.param({"spacing_mm": (2.0, 0.8, 0.8)}, id="coarse along the rib"),
    ],
)
def test_other_axes_and_spacing_give_the_same(stored):
    broken = {"offset_mm": (2.0, 3.0), "gap_mm": 2.0}
    one, other = measured(**broken).displacement, measured(**broken, **stored).displacement
    assert other.offset_mm == pytest.approx(one.offset_mm, abs=0.3)
    assert other.along_mm == pytest.approx(one.along_mm, abs=0.8)
    assert other.contact == pytest.approx(one.contact, abs=0.06)


def test_the_break_lies_anywhere_in_the_candidate():
    found = measured(points=candidate_points(3.0), offset_mm=(3.0, 0.0), gap_mm=1.5)
    assert found.way_mm == pytest.approx(LENGTH_MM / 2, abs=1.0)
    assert found.displacement.offset_mm == pytest.approx(3.0, abs=0.3)


def test_the_centerline_may_follow_the_displaced_stub():
    scan, affine, straight = broken_rib(offset_mm=(0.0, 4.0), gap_mm=1.5)
    bent = straight_rib()
    bent.points_mm[:, 1] = 4.0 / (1 + np.exp(-bent.points_mm[:, 0] / 4.0))
    found = measure_fracture(scan, affine, bent, candidate_points(), 1.1).displacement
    wanted = measure_fracture(scan, affine, straight, candidate_points(), 1.1).displacement
    assert found.offset_mm == pytest.approx(wanted.offset_mm, abs=0.4)


def shortened(straight, last_mm):
    """The same rib, whose centerline was lost behind a place."""
    rib = replace(straight.rib, centerline_mm=straight.rib.centerline_mm[straight.rib.centerline_mm[:, 0] <= last_mm])
    kept = straight.points_mm[:, 0] <= last_mm + BEYOND_MM
    return StraightRib(rib, straight.points_mm[kept], straight.up[kept], straight.outward[kept])


@pytest.mark.parametrize("last_mm", [-6.0, -1.0, 6.0])
def test_the_centerline_may_end_at_the_break(last_mm):
    scan, affine, straight = broken_rib(offset_mm=(0.0, 5.0), gap_mm=1.5)
    found = measure_fracture(scan, affine, shortened(straight, last_mm), candidate_points(), 1.1)
    assert found.way_mm == pytest.approx(LENGTH_MM / 2, abs=1.0)
    assert found.displacement.offset_mm == pytest.approx(5.0, abs=0.4)


def test_a_frame_goes_on_as_curved_as_the_rib():
    x = np.arange(-60.0 - BEYOND_MM, 60.0 + BEYOND_MM + 0.5)  # a parabola of 120 mm
    line = np.column_stack([x, -(x**2) / 200.0, 0 * x])
    up, outward = np.tile([0.0, 0.0, 1.0], (len(x), 1)), np.tile([0.0, 1.0, 0.0], (len(x), 1))
    rib = Rib("left", 6, 6, 0.9, line[BEYOND_MM:-BEYOND_MM], True, True)
    frame = rib_frame(StraightRib(rib, line, up, outward), 90.0)
    assert frame.points_mm[-1, 0] == pytest.approx(60.0 + 26.0, abs=1.0)
    assert frame.points_mm[:, 1] == pytest.approx(-frame.points_mm[:, 0] ** 2 / 200.0, abs=0.1)
    assert frame.ways_at(frame.points_mm[[3, -3]]).tolist() == frame.way_mm[[3, -3]].tolist()


@pytest.mark.parametrize(
    "made, reason",
    [
        pytest.param({"slice_mm": 5.0}, "thick", id="slices of 5 mm"),
        pytest.param({"slice_mm": 4.96}, "thick", id="slices that headers round to 5 mm"),
        pytest.param({"slice_mm": 4.9}, "", id="slices below 5 mm"),
        pytest.param({"metal_mm": np.array([[10.0, 12.0, 0.0]])}, "metal", id="metal within 15 mm"),
        pytest.param({"metal_mm": np.array([[0.0, 40.0, 0.0]])}, "", id="metal far away"),
        pytest.param({"metal_mm": np.zeros((0, 3))}, "", id="no metal"),
        pytest.param({"points": candidate_points(LENGTH_MM / 2 - 2.0, 2.0)}, "stub", id="at the end of the rib"),
        pytest.param({"points": candidate_points(-20.0, 10.0), "gap_mm": 30.0}, "stub", id="no other stub near by"),
    ],
)
def test_what_cannot_be_measured(made, reason):
    found = measured(**{"gap_mm": 1.5} | made)
    assert found.reason == reason and (found.displacement is None) == bool(reason)
    assert reason in ("", *NOT_MEASURABLE)


def test_a_rib_cut_by_the_border_is_not_measured():
    scan, affine, straight = broken_rib(gap_mm=1.5)
    first = round((-5.0 - affine[0, 3]) / affine[0, 0])  # the scan begins 5 mm before the break
    affine[0, 3] += first * affine[0, 0]
    found = measure_fracture(scan[first:], affine, straight, candidate_points(), 1.1)
    assert (found.reason, found.displacement, found.features) == ("cut", None, None)


def test_noise_gives_no_number():
    scan, affine, straight = broken_rib()
    noise = np.random.default_rng(0).normal(40.0, 150.0, scan.shape)
    found = measure_fracture(noise, affine, straight, candidate_points(), 1.1)
    assert found.displacement is None and found.reason in ("stub", "unclear")
