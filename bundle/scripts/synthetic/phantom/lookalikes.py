"""What looks like a fracture on real scans: worn joints, cupped rib ends, streaks of the shoulders, a breath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from scripts.synthetic.phantom.anatomy import Patient
from scripts.synthetic.phantom.geometry import Grid, coverage, paint_segment, tube_coordinates
from scripts.synthetic.phantom.skeleton import VERTEBRAE_MM, Rib, section_distance

__all__ = ["Breath", "add_shoulder_streaks", "draw_breath", "paint_cups", "paint_joints"]

_JOINTED = 10  # ribs 11 and 12 have no joint with a transverse process
_CARTILAGE_HU = (60.0, 120.0)
_SHOULDERS_MM = 75.0  # height above which rays cross them, as in the scanner's noise
_STREAK_MM = (30.0, 0.9, 0.6)  # length along left-right, and widths, of a streak
_COARSE = 16  # voxels of the scan for one of the streaks along left-right: they change slowly there


def paint_joints(grid: Grid, patient: Patient, ribs: Sequence[Rib], rng: np.random.Generator) -> None:
    """Wear the joints of rib heads and tubercles: a dark gap between dense rims, and spurs beside it."""
    bone = patient.bone_scale
    for rib in ribs:
        if rib.number > _JOINTED or rng.random() < 0.4:
            continue
        head_z = VERTEBRAE_MM[rib.number] * patient.scale[2]
        middle, spine_y = float(patient.midline(head_z)), float(patient.spine_y(head_z))
        process = patient.turn @ np.array([middle + rib.side * 30, spine_y - 31, head_z + 3])
        nearest = int(np.linalg.norm(rib.curve.points[:80] - process, axis=1).argmin())
        towards = process - rib.curve.points[nearest]
        towards = towards / max(float(np.linalg.norm(towards)), 1e-6)
        radius = float(rib.half_thickness_mm[nearest])
        _paint_joint(
            grid, rib.curve.points[nearest] + radius * towards, towards, rib.curve.tangents[nearest], bone, rng
        )
        if rng.random() < 0.5:
            first = rib.curve.points[0]
            _paint_joint(grid, first, -rib.curve.tangents[0], rib.curve.normals[0], bone, rng)


def _paint_joint(
    grid: Grid, center: np.ndarray, towards: np.ndarray, along: np.ndarray, bone: float, rng: np.random.Generator
) -> None:
    """Paint a joint whose plane is perpendicular to ``towards``, and some 8 mm long in the direction ``along``."""
    along = along - (along @ towards) * towards
    along = along / max(float(np.linalg.norm(along)), 1e-6)
    half, gap = rng.uniform(3.0, 5.0), rng.uniform(0.5, 1.0)
    for side in (-1, 1):
        rim = center + side * (gap + 1.0) * towards
        paint_segment(
            grid, rim - half * along, rim + half * along, rng.uniform(0.7, 1.3), rng.uniform(600, 1000) * bone
        )
    for _ in range(int(rng.integers(1, 4))):
        start = center + rng.choice([-1, 1]) * half * along + rng.uniform(-1, 1) * (gap + 1.0) * towards
        tip = start + rng.uniform(2, 5) * along * np.sign((start - center) @ along) + rng.normal(0, 1.0, 3)
        paint_segment(grid, start, tip, rng.uniform(0.7, 1.5), rng.uniform(450, 900) * bone)
    hu = rng.uniform(*_CARTILAGE_HU)
    paint_segment(grid, center - half * along, center + half * along, gap, hu)


def paint_cups(grid: Grid, ribs: Sequence[Rib], rng: np.random.Generator) -> None:
    """Hollow the front ends of ribs 1 to 10, and calcify the rim of the cartilage that goes on from there."""
    for rib in ribs:
        if rib.number > _JOINTED or rng.random() < 0.35:
            continue
        end = rib.curve.length_mm
        depth, rim_mm = rng.uniform(3, 8), rng.uniform(3, 12)
        half_u, half_v = float(rib.half_thickness_mm[-1]), float(rib.half_height_mm[-1])
        tube = tube_coordinates(grid, rib.curve, half_v + 4, end - depth, end + rim_mm)
        distance = section_distance(tube.u, tube.v, half_u, half_v)
        # the hollow is wide in front and ends in a point
        share = np.clip((tube.s - (end - depth)) / depth, 0.0, 1.0)
        hollow = section_distance(tube.u, tube.v, 0.2 + 0.75 * half_u * share, 0.2 + 0.75 * half_v * share)
        is_rib = tube.s <= end
        grid.paint(tube.index, coverage(hollow, grid.voxel_mm) * is_rib, rng.uniform(*_CARTILAGE_HU))
        wall, gaps = rng.uniform(0.5, 1.0), rng.uniform(-0.6, 0.4)
        around = np.cos(np.arctan2(tube.u / half_u, tube.v / half_v) * rng.integers(1, 4) + rng.uniform(0, 2 * np.pi))
        shell = coverage(np.abs(distance + wall) - wall, grid.voxel_mm) * (around > gaps) * ~is_rib
        grid.paint(tube.index, shell, rng.uniform(350, 800))


def add_shoulder_streaks(image: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """
    Add dark and bright streaks from left to right, where too few rays come through both shoulders.

    Args:
        image: HU, on the grid.
        grid: the scan.
        rng: source of the streaks.

    Returns:
        The image with streaks of 30 to 90 HU (standard deviation) at the level of the shoulders, in the body alone.
    """
    strength = rng.uniform(30, 90) / (1 + np.exp(-(grid.axes_mm[2] - _SHOULDERS_MM) / 8))
    coarse_mm = _COARSE * grid.spacing_mm[0]
    shape = (-(-grid.shape[0] // _COARSE) + 1, *grid.shape[1:])
    sigmas = [_STREAK_MM[0] / coarse_mm, _STREAK_MM[1] / grid.spacing_mm[1], _STREAK_MM[2] / grid.spacing_mm[2]]
    streaks = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigmas)
    streaks /= float(streaks.std())
    places = np.arange(grid.shape[0]) / _COARSE
    low, share = places.astype(int), (places % 1)[:, None].astype(np.float32)
    streaked = image.astype(np.float32)
    for k in np.flatnonzero(strength > 1):
        lines = streaks[low, :, k] * (1 - share) + streaks[low + 1, :, k] * share
        streaked[:, :, k] += strength[k] * lines * (image[:, :, k] > -500)
    return np.clip(np.round(streaked), -1024, 3071).astype(image.dtype)


@dataclass(frozen=True)
class Breath:
    """
    How far the front of the chest has moved in each slice, because the patient breathed during the scan.

    Args:
        front_mm: movement of the chest's front in each slice, forward, shape ``(D,)``.
        back_mm: the place along back-front, RAS, behind which nothing moves.
        reach_mm: from there to where all of the movement is seen.
    """

    front_mm: np.ndarray
    back_mm: float
    reach_mm: float

    def share(self, y_mm: np.ndarray) -> np.ndarray:
        """Return which share of the movement is seen at places along back-front, in [0, 1]."""
        return np.clip((y_mm - self.back_mm) / self.reach_mm, 0.0, 1.0)

    def moved(self, volume: np.ndarray, grid: Grid, nearest: bool) -> np.ndarray:
        """
        Move a volume on the grid.

        Args:
            volume: shape ``(H, W, D)``.
            grid: its grid.
            nearest: whether ids are taken from the nearest row; otherwise two rows are mixed.
        """
        y_mm = grid.axes_mm[1].astype(float)
        result = volume.copy()
        for k in np.flatnonzero(self.front_mm):
            rows = (y_mm - self.front_mm[k] * self.share(y_mm) - y_mm[0]) / grid.spacing_mm[1]
            rows = rows.clip(0, len(y_mm) - 1)
            low = np.minimum(rows.astype(int), len(y_mm) - 2)
            mix = (rows - low)[None]
            if nearest:
                result[:, :, k] = volume[:, np.rint(rows).astype(int), k]
            else:
                mixed = volume[:, low, k] * (1 - mix) + volume[:, low + 1, k] * mix
                result[:, :, k] = np.round(mixed) if np.issubdtype(volume.dtype, np.integer) else mixed
        return result

    def moved_points(self, points_mm: np.ndarray, grid: Grid) -> np.ndarray:
        """Move points in RAS mm, shape ``(n, 3)``; beyond the scan as its last slice moves."""
        front = np.interp(points_mm[:, 2], grid.axes_mm[2], self.front_mm)
        result = points_mm.copy()
        result[:, 1] += front * self.share(points_mm[:, 1])
        return result


def draw_breath(grid: Grid, patient: Patient, rng: np.random.Generator) -> Breath:
    """Draw a breath: slabs of 18 to 40 mm, every other one of which was scanned with the chest 2 to 6 mm higher."""
    z = grid.axes_mm[2]
    front_mm, level, is_moved = np.zeros(grid.shape[2]), float(z[0]) + rng.uniform(5, 30), False
    while level < z[-1]:
        following = level + rng.uniform(18, 40)
        is_moved = not is_moved
        if is_moved:
            front_mm[(z >= level) & (z < following)] = rng.uniform(2, 6)
        level = following
    front_mm = gaussian_filter1d(front_mm, 0.3, mode="nearest")  # a slice or so is between the two
    back_mm = float(patient.spine_y(0.0)) - 30.0
    return Breath(front_mm, back_mm, float(patient.front_y(0.0)) - back_mm)
