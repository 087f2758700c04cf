"""The bones of a thorax phantom and the cartilage between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.anatomy.rib_cage import CERVICAL, LUMBAR, rib_id
from scripts.synthetic.phantom.anatomy import Patient
from scripts.synthetic.phantom.geometry import (
    STEP_MM,
    Curve,
    Grid,
    TubeCoordinates,
    coverage,
    paint_segment,
    tube_coordinates,
)

__all__ = [
    "VERTEBRAE_MM",
    "Rib",
    "draw_extra_rib",
    "draw_ribs",
    "fork",
    "paint_bone",
    "paint_bridge",
    "paint_cartilage",
    "paint_girdle",
    "paint_spine",
    "section_distance",
]

VERTEBRAE_MM = 125 - np.concatenate([[-19.0, 0.0], np.cumsum(19 + 0.6 * np.arange(13))])  # C7, T1..T12, L1, L2
# rows for ribs 1-12: how far the front end lies below the head in mm, and its angle on the cage in degrees
_DROP_MM = (38, 56, 73, 86, 95, 102, 105, 103, 97, 87, 60, 36)
_END_DEGREES = (150, 152, 150, 147, 144, 139, 132, 124, 117, 110, 86, 58)
_STERNAL_MM = (88, 67, 45, 26, 9, -7, -19)  # height at which the cartilage of ribs 1-7 meets the sternum
_TILT_MM = 14.0  # a rib rises by as much as the tilted vertebra does this far beside its middle


@dataclass
class Rib:
    """
    One rib; arrays have one value for each sample of the curve.

    Args:
        number: 1 to 12; 0 for a cervical and 13 for a lumbar rib.
        side: 1 for right, -1 for left.
        curve: axis in world coordinates, from the head to the front end; its normal points out of the chest.
        half_thickness_mm: half of the section along the normal.
        half_height_mm: half of the section along the binormal.
        cortex_mm: thickness of the cortex.
        marrow_hu: HU of the marrow.
        cortex_hu: HU of the cortex before blur.
    """

    number: int
    side: int
    curve: Curve
    half_thickness_mm: np.ndarray
    half_height_mm: np.ndarray
    cortex_mm: np.ndarray
    marrow_hu: np.ndarray
    cortex_hu: float

    @property
    def rib_id(self) -> int:
        """1 to 12 on the left, 13 to 24 on the right, 31 to 34 cervical and lumbar ribs, see ``scripts.anatomy``."""
        return rib_id("right" if self.side > 0 else "left", self.number, 0)

    def along(self, values: np.ndarray, s_mm: np.ndarray) -> np.ndarray:
        """Read one of the arrays at arc lengths."""
        return np.interp(s_mm, self.curve.s_mm, values).astype(np.float32)


def draw_ribs(patient: Patient, rng: np.random.Generator) -> list[Rib]:
    """Draw 12 pairs of ribs, no two alike: slope, size, thickness of the cortex and density differ."""
    slope, thick, high = rng.uniform(0.88, 1.12), rng.uniform(0.9, 1.12), rng.uniform(0.9, 1.1)
    cortex = rng.uniform(0.55, 1.15)
    ribs = []
    for number in range(1, 13):
        pair = rng.normal(0, 1, 4)
        for side in (1, -1):
            own = 0.7 * pair + 0.5 * rng.normal(0, 1, 4)
            curve = _rib_curve(patient, number, side, slope * (1 + 0.04 * own[0]), 3 * own[1])
            curve = curve.rotated(patient.turn)
            t = np.linspace(0, 1, len(curve.points))
            size = np.interp(number, [1, 2, 10, 12], [0.85, 0.95, 1.0, 0.8])
            # rounder near the spine, wider at the front end
            half_thickness = 3.6 * thick * size * (1 + 0.25 * np.exp(-t / 0.12) + 0.15 * np.exp((t - 1) / 0.03))
            half_height = 6.4 * high * size * (1 - 0.25 * np.exp(-t / 0.08) + 0.12 * np.exp((t - 1) / 0.04))
            ribs.append(
                Rib(
                    number,
                    side,
                    curve,
                    half_thickness * (1 + 0.05 * own[2] + _waves(rng, curve, 0.035)),
                    half_height * (1 + 0.04 * own[3] + _waves(rng, curve, 0.03)),
                    np.clip(cortex * (1 + _waves(rng, curve, 0.18)) * (1 - 0.35 * t**4), 0.4, 2.2),
                    (rng.uniform(60, 280) * patient.bone_scale) * (1 + _waves(rng, curve, 0.3)),
                    float(rng.uniform(1000, 1400) * patient.bone_scale),
                )
            )
    return ribs


def draw_extra_rib(patient: Patient, number: int, side: int, length_mm: float, rng: np.random.Generator) -> Rib:
    """Draw a short rib at C7 (number 0) or L1 (number 13), slimmer than the others and with a pointed tip."""
    if number not in (CERVICAL, LUMBAR):
        raise ValueError(f"number is {number}; an extra rib has the number {CERVICAL} or {LUMBAR}.")
    whole = _rib_curve(patient, number, side, float(rng.uniform(0.8, 1.2)), 0.0).rotated(patient.turn)
    kept = slice(0, int(length_mm / STEP_MM) + 1)
    curve = Curve(whole.points[kept], whole.tangents[kept], whole.normals[kept])
    t = np.linspace(0, 1, len(curve.points))
    tip = 1 - 0.45 * t**3
    return Rib(
        number,
        side,
        curve,
        rng.uniform(2.6, 3.3) * tip * (1 + _waves(rng, curve, 0.03)),
        rng.uniform(3.8, 4.8) * tip * (1 + _waves(rng, curve, 0.03)),
        rng.uniform(0.6, 1.0) * tip,
        rng.uniform(80, 250) * patient.bone_scale * np.ones_like(t),
        float(rng.uniform(1000, 1300) * patient.bone_scale),
    )


def fork(rib: Rib, length_mm: float, apart_mm: float) -> Rib:
    """
    Give the second branch of a forked rib.

    Args:
        rib: the rib; its own front end is the first branch.
        length_mm: how far behind the front end it forks.
        apart_mm: distance of the branches at the end along the binormal, which is positive towards the feet or the
            head, as the side has it.
    """
    part = slice(max(0, len(rib.curve.points) - int(length_mm / STEP_MM)), None)
    whole = rib.curve
    t = np.linspace(0, 1, len(whole.points[part]))
    binormals = np.cross(whole.tangents[part], whole.normals[part])
    away = apart_mm * np.sin(t * np.pi / 2)[:, None] * binormals
    curve = Curve.through((whole.points[part] + away)[:: max(1, len(t) // 8)], whole.normals[part].mean(axis=0))
    own = np.linspace(part.start, len(whole.points) - 1, len(curve.points)).astype(int)
    return Rib(
        rib.number,
        rib.side,
        curve,
        0.9 * rib.half_thickness_mm[own],
        0.75 * rib.half_height_mm[own],
        rib.cortex_mm[own],
        rib.marrow_hu[own],
        rib.cortex_hu,
    )


def paint_bridge(grid: Grid, ends: Sequence[tuple[Rib, float]], rib_ids: np.ndarray, rng: np.random.Generator) -> None:
    """
    Paint a bridge of bone between two ribs.

    Args:
        grid: the scan, with the ribs painted.
        ends: the two ribs, and the arc length on each at which the bridge ends.
        rib_ids: rib ids, written in place, of the grid's shape; each half of the bridge belongs to its rib.
        rng: source of its thickness and its bend.
    """
    first, last = (rib.curve.at(s_mm) for rib, s_mm in ends)
    middle = (first + last) / 2 + rng.normal(0, 1.5, 3)
    radius, cortex_hu = rng.uniform(3.0, 5.0), 0.8 * ends[0][0].cortex_hu
    for (rib, _), end in zip(ends, (first, last)):
        knots = np.stack([end, (end + middle) / 2 + rng.normal(0, 0.8, 3), middle])
        curve = Curve.through(knots, np.array([0.0, 1.0, 0.0]))
        tube = tube_coordinates(grid, curve, radius + 3, -1.0, curve.length_mm + 1)
        alpha = paint_bone(grid, tube, np.hypot(tube.u, tube.v) - radius, 1.2, cortex_hu, 0.4 * cortex_hu)
        flat = rib_ids.reshape(-1)
        inside = tube.index[alpha > 0.5]
        flat[inside[flat[inside] == 0]] = rib.rib_id


def _waves(rng: np.random.Generator, curve: Curve, amplitude: float) -> np.ndarray:
    """Irregular variation along a curve, from centimeters to decimeters long."""
    waves = [
        np.sin(2 * np.pi * curve.s_mm / length + rng.uniform(0, 2 * np.pi)) for length in rng.uniform(12, 110, size=4)
    ]
    return amplitude * np.sum(waves, axis=0)


def _rib_curve(patient: Patient, number: int, side: int, slope: float, turn_degrees: float) -> Curve:
    """Lay a rib from the vertebra over its angle to its front end on the cage, in the patient's frame."""
    head_z = VERTEBRAE_MM[number] * patient.scale[2]
    tilt = -side * _TILT_MM * float(patient.bend_slope(head_z))  # ribs rise and fall with the tilted vertebra
    row = min(max(number, 1), 12) - 1  # a cervical rib runs as the first one, a lumbar one as the twelfth
    out = 30 if number <= 2 else 36
    start = 58.0 if number <= 1 else 36.0 if number == 2 else 26.0
    degrees = np.linspace(start, _END_DEGREES[row] + turn_degrees, 9)
    share = 0.12 + 0.88 * np.linspace(0, 1, 9)
    drop = _DROP_MM[row] * slope * patient.scale[2]
    z = head_z - drop * (0.55 * share + 0.45 * share**2 * (3 - 2 * share))
    on_cage = patient.cage_point(side, degrees, z + tilt)
    spine_y, mid = float(patient.spine_y(head_z)), float(patient.midline(head_z))
    head = [mid + side * 19 * patient.scale[0], spine_y - 9, head_z + tilt + 3]
    tubercle = [mid + side * out * patient.scale[0], spine_y - 24, head_z + tilt]
    curve = Curve.through(np.vstack([head, tubercle, on_cage]), np.array([side, 0, 0]))
    return Curve.from_points(curve.points, _outwards(patient, curve.points))


def _outwards(patient: Patient, points: np.ndarray) -> np.ndarray:
    """Gradient of the cage at points of the patient's frame, shape ``(n, 3)``; from the body's axis near the spine."""
    gradient = [
        patient.cage_distance(*(points + step).T) - patient.cage_distance(*(points - step).T) for step in 2 * np.eye(3)
    ]
    normals = np.stack(gradient, axis=1)
    normals[:, 2] *= 0.6  # the sections of real ribs stand steeper than the cage
    return normals


def section_distance(
    u: np.ndarray, v: np.ndarray, half_u: np.ndarray | float, half_v: np.ndarray | float
) -> np.ndarray:
    """Approximate signed distance from an ellipse in mm, negative inside."""
    level = np.sqrt((u / half_u) ** 2 + (v / half_v) ** 2) + 1e-3
    slope = np.sqrt((u / half_u**2) ** 2 + (v / half_v**2) ** 2) / level + 1e-3
    return (level - 1) / np.maximum(slope, 1 / np.maximum(half_u, half_v))


def paint_bone(
    grid: Grid,
    tube: TubeCoordinates,
    distance_mm: np.ndarray,
    cortex_mm: np.ndarray | float,
    cortex_hu: np.ndarray | float,
    marrow_hu: np.ndarray | float,
    present: np.ndarray | float = 1.0,
) -> np.ndarray:
    """
    Paint cortex and marrow.

    Args:
        grid: the scan.
        tube: the voxels.
        distance_mm: their signed distance from the surface of the bone.
        cortex_mm: thickness of the cortex.
        cortex_hu: HU of the cortex.
        marrow_hu: mean HU of the marrow; its trabeculae are noise about it.
        present: share of each voxel that no fracture has emptied, in [0, 1].

    Returns:
        The share of each voxel that is bone, in [0, 1].
    """
    outer = coverage(distance_mm, grid.voxel_mm)
    inner = coverage(distance_mm + cortex_mm, grid.voxel_mm)
    marrow = marrow_hu + (25 + 0.3 * np.abs(marrow_hu)) * grid.texture(tube.index)
    hu = cortex_hu + inner * (marrow - cortex_hu)
    grid.paint(tube.index, outer * present, hu)
    return outer * present


def paint_spine(grid: Grid, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """
    Paint vertebrae C7 to L2 with disks, arches and processes.

    Returns:
        Where a vertebra is, bool, of the grid's shape.
    """
    mask = np.zeros(grid.shape, dtype=bool)
    heights = VERTEBRAE_MM * patient.scale[2]
    axis = _spine_curve(patient, heights[0] + 14, heights[-1] - 14)
    disks = tube_coordinates(grid, axis, 26)
    level = np.interp(disks.s, [0, axis.length_mm], [0, 1])
    distance = section_distance(disks.u, disks.v, 13 + 3 * level, 14 + 5 * level)
    grid.paint(disks.index, coverage(distance, grid.voxel_mm), 85)
    marrow = rng.uniform(110, 260) * patient.bone_scale
    for number, z in enumerate(heights):
        t = number / (len(heights) - 1)
        half_height = (7.6 + 2.9 * t) * patient.scale[2]
        body = _spine_curve(patient, z + half_height, z - half_height)
        tube = tube_coordinates(grid, body, 27, -1.5, body.length_mm + 1.5)
        waist = 1 - 0.08 * np.sin(np.pi * np.clip(tube.s / body.length_mm, 0, 1))
        sides = section_distance(tube.u, tube.v, (13 + 3 * t) * waist, (14 + 5.5 * t) * waist)
        distance = np.maximum(sides, np.maximum(-tube.s, tube.s - body.length_mm))
        alpha = paint_bone(grid, tube, distance, 0.9, 800 * patient.bone_scale, marrow)
        mask.reshape(-1)[tube.index[alpha > 0.5]] = True
        for knots, half_u, half_v in _arch(float(patient.spine_y(z)), z, t):
            knots[:, 2] -= patient.bend_slope(z) * knots[:, 0]
            knots[:, 0] += float(patient.midline(z))
            part = Curve.through(knots, np.array([0.1, 0.2, 1.0])).rotated(patient.turn)
            tube = tube_coordinates(grid, part, max(half_u, half_v) + 3)
            distance = section_distance(tube.u, tube.v, half_u, half_v)
            distance = np.maximum(distance, np.maximum(-tube.s, tube.s - part.length_mm))
            alpha = paint_bone(grid, tube, distance, 1.2, 1000 * patient.bone_scale, marrow)
            mask.reshape(-1)[tube.index[alpha > 0.5]] = True
    return mask


def _spine_curve(patient: Patient, top_z: float, bottom_z: float) -> Curve:
    z = np.linspace(top_z, bottom_z, max(4, int((top_z - bottom_z) / 8)))
    knots = np.stack([patient.midline(z), patient.spine_y(z), z], axis=1)
    return Curve.through(knots, np.array([0, 1, 0])).rotated(patient.turn)


def _arch(y: float, z: float, t: float) -> list[tuple[np.ndarray, float, float]]:
    """Knots, half height and half width of the pedicles, laminae and processes of a vertebra at (y, z)."""
    parts = []
    for side in (1, -1):
        root = [side * 13, y - 22, z + 1]
        reach = 33 - 6 * t
        parts.append((np.array([[side * 9, y - 8, z + 3], [side * 12, y - 14, z + 3], root]), 5.5, 3.6))
        parts.append((np.array([root, [side * 7, y - 29, z - 4], [0, y - 32, z - 6]]), 8.0, 3.0))
        parts.append((np.array([root, [side * 22, y - 27, z + 2], [side * reach, y - 32, z + 3]]), 4.6, 4.0))
        parts.append(
            (np.array([[side * 14, y - 22, z + 11], [side * 14, y - 24, z], [side * 13, y - 25, z - 11]]), 4, 4)
        )
    slant = 17 - 12 * t
    tip = [0, y - 56 + 4 * t, z - 8 - slant]
    parts.append((np.array([[0, y - 31, z - 5], [0, y - 43, z - 7 - slant / 2], tip]), 5.5 + 2 * t, 2.6))
    return parts


def paint_cartilage(grid: Grid, patient: Patient, ribs: Sequence[Rib], rng: np.random.Generator) -> None:
    """Paint the cartilage from ribs 1-10 towards the sternum, with the calcifications that come with age."""
    calcified = rng.choice([0.0, 0.3, 1.0], p=[0.3, 0.4, 0.3])
    for side in (1, -1):
        upper: np.ndarray | None = None
        for rib in sorted((r for r in ribs if r.side == side and r.number <= 10), key=lambda r: r.number):
            end = rib.curve.points[-1] @ patient.turn  # back into the patient's frame
            if rib.number <= 7:
                degrees = np.linspace(_END_DEGREES[rib.number - 1], 171, 5)[1:]
                z = np.linspace(end[2], _STERNAL_MM[rib.number - 1] * patient.scale[2], 5)[1:]
                knots = np.vstack([end, patient.cage_point(side, degrees, z)])
            else:
                joint = upper[2] if upper is not None else end
                knots = np.vstack([end, (0.5 * end + 0.5 * joint) + [0, 3, -3], joint])
            upper = knots
            curve = Curve.through(knots, np.array([0, 1, 0])).rotated(patient.turn)
            half_u, half_v = 4.2, 6.2 - 0.15 * rib.number
            tube = tube_coordinates(grid, curve, 9)
            distance = section_distance(tube.u, tube.v, half_u, half_v)
            grid.paint(tube.index, coverage(distance, grid.voxel_mm), rng.uniform(80, 130))
            for _ in range(rng.poisson(calcified * curve.length_mm / 6)):
                _paint_calcification(grid, curve, half_u, half_v, rng)


def _paint_calcification(grid: Grid, curve: Curve, half_u: float, half_v: float, rng: np.random.Generator) -> None:
    """Paint a grain or a short plate, mostly at the edge of the cartilage."""
    first = int(rng.integers(0, len(curve.points) - 1))
    last = min(first + int(rng.integers(0, 14)), len(curve.points) - 1)
    angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.85)
    ends = []
    for i in (first, last):
        binormal = np.cross(curve.tangents[i], curve.normals[i])
        across = half_u * np.cos(angle) * curve.normals[i] + half_v * np.sin(angle) * binormal
        ends.append(curve.points[i] + out * across)
    paint_segment(grid, ends[0], ends[1], rng.uniform(0.5, 1.5), rng.uniform(300, 900))


def paint_girdle(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint the sternum, the clavicles and the scapulae."""
    scale, bone = patient.scale, patient.bone_scale
    z = np.array([97, 72, 58, 30, 0, -22, -38], dtype=float) * scale[2]
    knots = np.stack([0 * z + patient.lean(patient.front_y(z), z), patient.front_y(z) + 1, z], axis=1)
    sternum = Curve.through(knots, np.array([0, 1, 0])).rotated(patient.turn)
    tube = tube_coordinates(grid, sternum, 32)
    half_width = np.interp(tube.s, np.array([0, 8, 32, 42, 85, 115, 140]), [25, 27, 17, 13, 19, 15, 6]) * scale[0]
    half_depth = np.interp(tube.s, [0, 10, 110, 140], [7.5, 6.5, 5.5, 3])
    ends = np.maximum(-tube.s, tube.s - sternum.length_mm)
    angle_gap = 1.2 - np.abs(tube.s - 40)  # the joint between manubrium and body
    distance = np.maximum(section_distance(tube.u, tube.v, half_depth, half_width), np.maximum(ends, angle_gap))
    paint_bone(grid, tube, distance, 0.9, 850 * bone, 120 * bone)
    for side in (1, -1):
        front = float(patient.front_y(96 * scale[2]))
        knots = np.array([[side * 21, front - 2, 100], [side * 60, front - 2, 111], [side * 100, -4, 117]])
        knots = np.vstack([knots, [side * 138, -22, 112]]) * [scale[0], 1, scale[2]]
        clavicle = Curve.through(knots, np.array([0, 0, 1])).rotated(patient.turn)
        tube = tube_coordinates(grid, clavicle, 12)
        distance = section_distance(tube.u, tube.v, 6.0, 7.0)
        distance = np.maximum(distance, np.maximum(-tube.s, tube.s - clavicle.length_mm))
        paint_bone(grid, tube, distance, 1.8, 1250 * bone, 150 * bone)
        _paint_scapula(grid, patient, side, rng)


def _paint_scapula(grid: Grid, patient: Patient, side: int, rng: np.random.Generator) -> None:
    """Paint the blade, bent around the cage, with its spine and the socket of the shoulder."""
    scale, bone = patient.scale, patient.bone_scale
    z = np.array([92, 60, 30, 0, -28], dtype=float) * scale[2]
    degrees = 50 + rng.uniform(-6, 6) + np.array([0, 0, -1, -3, -6])
    on_cage = patient.cage_point(side, degrees, z)
    blade = Curve.through(on_cage + 17 * np.array([side * 0.6, -0.8, 0]), np.array([side * 0.65, -0.75, 0]))
    blade = blade.rotated(patient.turn)
    tube = tube_coordinates(grid, blade, 50)
    half_width = np.interp(tube.s, [0, 25, 60, blade.length_mm], [24, 44, 34, 7])
    bent = tube.u + tube.v**2 / 190
    edge = np.exp(-(half_width - np.abs(tube.v)) / 5)
    thickness = np.abs(bent) - (1.5 + 2.2 * np.clip(edge, 0, 1))
    distance = np.maximum(thickness, np.abs(tube.v) - half_width)
    distance = np.maximum(distance, np.maximum(-tube.s, tube.s - blade.length_mm))
    paint_bone(grid, tube, distance, 1.1, 1100 * bone, 180 * bone)
    start, middle = on_cage[1] + [side * 2, -24, 0], np.array([side * 118, -70, 84]) * scale
    end = np.array([side * 142, -26, 106]) * scale
    for knots, half_u, half_v in (
        (np.array([start, middle, end]), 7.0, 2.6),
        (np.array([[side * 122, -46, 92], [side * 124, -45, 78], [side * 123, -48, 62]]) * scale, 9.0, 11.0),
    ):
        curve = Curve.through(knots, np.array([side, -1, 0]) if half_v > 5 else np.array([0.3, -1, 0.5]))
        curve = curve.rotated(patient.turn)
        tube = tube_coordinates(grid, curve, 15)
        distance = section_distance(tube.u, tube.v, half_u, half_v)
        distance = np.maximum(distance, np.maximum(-tube.s, tube.s - curve.length_mm))
        paint_bone(grid, tube, distance, 1.3, 1100 * bone, 170 * bone)
