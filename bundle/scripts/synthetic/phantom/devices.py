"""What else is in or on a thorax phantom: arms, wires, metal in the spine, a pacemaker, and the streaks of metal."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from scripts.synthetic.phantom.anatomy import Patient
from scripts.synthetic.phantom.geometry import Curve, Grid, coverage, paint_segment, tube_coordinates
from scripts.synthetic.phantom.skeleton import VERTEBRAE_MM, paint_bone

__all__ = ["paint_arms", "paint_implants", "paint_lead", "paint_streaks", "paint_wire"]

_METAL_HU = 6000
_STREAK_FROM_HU = 2500
_SMALLEST_STREAK_MM2 = 6.0


def paint_wire(grid: Grid, points: np.ndarray, radius_mm: float) -> None:
    """Paint a metal wire through points in world coordinates, shape ``(n, 3)``."""
    for start, end in zip(points[:-1], points[1:]):
        paint_segment(grid, start, end, radius_mm, _METAL_HU)


def paint_lead(grid: Grid, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Paint the wire of an ECG over the skin; returns its ends in world coordinates, shape ``(2, 3)``."""
    x = np.linspace(rng.uniform(-90, 0), rng.uniform(10, 100), 25)
    z = np.linspace(rng.uniform(-110, 0), rng.uniform(10, 60), 25) + 6 * np.sin(x / 15)
    depth = patient.skin_distance(x[:, None], np.arange(220.0)[None, :], z[:, None])
    y = (depth < 0).sum(axis=1) + 0.5  # on the skin
    points = np.stack([x, y, z], axis=1) @ patient.turn.T
    paint_wire(grid, points, 0.6)
    return points[[0, -1]]


def paint_implants(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint one or two of: rods and screws in the spine, a pacemaker with its lead, leads of an ECG with electrodes."""
    kinds = rng.choice(["rods", "pacemaker", "leads"], size=int(rng.integers(1, 3)), replace=False)
    if "rods" in kinds:
        _paint_rods(grid, patient, rng)
    if "pacemaker" in kinds:
        _paint_pacemaker(grid, patient, rng)
    if "leads" in kinds:
        for _ in range(int(rng.integers(3, 6))):
            for end in paint_lead(grid, patient, rng):
                paint_segment(grid, end, end, 3.0, _METAL_HU)


def _paint_rods(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint a rod on each side behind the spine over 5 to 9 vertebrae, with screws through the pedicles."""
    first = int(rng.integers(2, 7))
    heights = VERTEBRAE_MM[first : first + int(rng.integers(5, 10))] * patient.scale[2]
    for side in (1, -1):
        behind = np.array([[patient.midline(z) + side * 15, patient.spine_y(z) - 37, z] for z in heights])
        rod = Curve.through(np.vstack([behind[0] + [0, 0, 10], behind, behind[-1] - [0, 0, 10]]), np.array([0, 1, 0]))
        paint_wire(grid, rod.points[::8] @ patient.turn.T, 2.75)
        for place in behind:
            if rng.random() < 0.8:
                tip = place + [-side * 8, 42, 0]
                paint_segment(grid, patient.turn @ place, patient.turn @ tip, 2.5, _METAL_HU)


def _paint_pacemaker(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint the can under the skin in front of the upper ribs of the left side, and its lead into the heart."""
    x, z = -rng.uniform(70, 95) * patient.scale[0], rng.uniform(58, 76) * patient.scale[2]
    y = float((patient.skin_distance(np.full(220, x), np.arange(220.0), np.full(220, z)) < 0).sum()) - 9
    for row in np.arange(-18, 18.1, 3):
        half = 22 * np.sqrt(1 - (row / 20) ** 2)
        ends = np.array([[x - half, y - 0.05 * half, z + row], [x + half, y + 0.05 * half, z + row]]) @ patient.turn.T
        paint_segment(grid, ends[0], ends[1], 3.5, _METAL_HU)
    knots = np.array([[x, y - 2, z + 20], [-50, 48, 108], [0, 30, 95], [26, 16, 60], [24, 18, 0], [-25, 30, -45]])
    paint_wire(grid, Curve.through(knots, np.array([0, 1, 0])).points[::6] @ patient.turn.T, 1.0)


def paint_arms(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint both arms beside the chest, from the shoulder down: fat, muscle and humerus; after the soft parts."""
    bone = patient.bone_scale
    for side in (1, -1):
        wide, apart = rng.uniform(38, 46), rng.uniform(-4, 8)
        beside = 152 * patient.scale[0] + patient.fat_mm + wide + apart
        knots = np.array([[side * (beside - 18), -24, 112], [side * (beside - 4), -20, 50], [side * beside, -14, -70]])
        knots = np.vstack([knots, [side * (beside - 4), -4, -230]])
        arm = Curve.through(knots, np.array([0, 1, 0])).rotated(patient.turn)
        tube = tube_coordinates(grid, arm, wide + 4, -35.0)
        away = np.hypot(np.hypot(tube.u, tube.v), np.minimum(tube.s, 0))
        flat = grid.image.reshape(-1)
        outside = flat[tube.index] < -500  # the chest keeps its shape
        for inner, hu in ((0.0, 20.0), (2.0, -100.0), (2.0 + 0.6 * patient.fat_mm, 52.0)):
            grid.paint(tube.index, coverage(away - wide + inner, grid.voxel_mm) * outside, hu)
        radius = np.interp(tube.s, [0, 22, 45, 300], [22, 20, 11, 10.5])
        distance = np.hypot(np.hypot(tube.u, tube.v), np.minimum(tube.s, 0)) - radius
        cortex = np.interp(tube.s, [20, 60], [1.2, 3.8])
        paint_bone(grid, tube, distance, cortex, 1350 * bone, 140 * bone)


def paint_streaks(grid: Grid, rng: np.random.Generator) -> None:
    """Add bright and dark rays around the metal of each slice; they fade over some centimeters."""
    area = grid.spacing_mm[0] * grid.spacing_mm[1]
    x, y = grid.axes_mm[0][:, None], grid.axes_mm[1][None, :]
    for k in range(grid.shape[2]):
        pieces, count = ndimage.label(grid.image[:, :, k] > _STREAK_FROM_HU)
        if count == 0:
            continue
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * area
        for piece in np.argsort(-sizes)[:4]:
            if sizes[piece] < _SMALLEST_STREAK_MM2:
                break
            i, j = ndimage.center_of_mass(pieces == piece + 1)
            dx, dy = x - (grid.origin_mm[0] + i * grid.spacing_mm[0]), y - (grid.origin_mm[1] + j * grid.spacing_mm[1])
            angle, away = np.arctan2(dy, dx), np.hypot(dx, dy)
            rays = sum(np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in rng.integers(3, 14, size=4)) / 2
            fade = np.clip(away / 4 - np.sqrt(sizes[piece] / np.pi) / 4, 0, 1) * np.exp(-away / 35)
            height = min(350.0, 45 * np.sqrt(sizes[piece]))
            grid.image[:, :, k] += (height * fade * rays).astype(np.float32)
