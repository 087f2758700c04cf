"""
The bone of a rib around a candidate, section by section, in a frame that is straight along the rib.

A stub that is displaced bends the centerline that follows it. The frame is therefore a smooth curve through some 10 cm
of the centerline, and bone is looked for anew in each section across it, about the middle of the section before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.polynomial.polynomial import polyder, polyfit, polyval
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError, cKDTree

from scripts.anatomy.straight_ribs import StraightRib, sampled

__all__ = ["ACROSS_MM", "ACROSS_STEP_MM", "STEP_MM", "RibFrame", "RibProfile", "rib_frame", "rib_profile"]

STEP_MM = 0.5  # between sections
REACH_MM = 56.0  # to both sides of the candidate: the second break of a segmental fracture is 40 mm away at most
BEYOND_MM = 26.0  # of the centerline's end, which may be a displaced fracture: the other stub lies behind it
ACROSS_STEP_MM = 0.6
ACROSS_MM = np.arange(-22, 23) * ACROSS_STEP_MM
_KNOT_MM = 30.0
_PLACES = np.moveaxis(np.indices((len(ACROSS_MM), len(ACROSS_MM))), 0, -1).astype(float)
# Bone begins a quarter of the way from muscle to the densest cortex near by, which is 200 HU where ribs are thin and
# porous, and 900 HU in young patients; it is dense at two thirds of the way.
MUSCLE_HU = 50.0
LEAST_CORTEX_HU = 200.0
_BONE_SHARE = (0.25, 0.66)
_CORTEX_MM = 7.0  # from the axis
_CORTEX_PERCENTILE = 96.0
_REACH_OF_SECTION_MM = 9.5  # from its center: half the height of a rib is 9 mm at most
_NEAR_MM = 4.0  # from that center a piece of bone begins
_PAST_MM = 10.0  # each stub is followed past the middle, where they may overlap
_FIRST_MM = 7.0  # likewise from the axis, as long as none was found
_MOST_JUMP_MM = 0.8  # of the center from one section to the next


@dataclass(frozen=True)
class RibFrame:
    """
    A smooth curve along a rib, with axes across it.

    Args:
        way_mm: how far along the rib each section lies, as in :class:`StraightRib`, rising, shape ``(n,)``.
        points_mm: where the curve crosses the sections, RAS mm, shape ``(n, 3)``.
        up: across the rib's height, of length 1, shape ``(n, 3)``.
        outward: through the chest wall, of length 1, shape ``(n, 3)``.
    """

    way_mm: NDArray[np.float64]
    points_mm: NDArray[np.float64]
    up: NDArray[np.float64]
    outward: NDArray[np.float64]

    def places_mm(self) -> NDArray[np.float64]:
        """Return where the sections' samples lie, RAS mm, shape ``(n, up, outward, 3)``, ``ACROSS_MM`` both ways."""
        up, outward = (
            self.up[:, None, None] * ACROSS_MM[:, None, None],
            self.outward[:, None, None] * ACROSS_MM[:, None],
        )
        return self.points_mm[:, None, None] + up + outward

    def ways_at(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far along the rib points lie, to half a mm; RAS mm, shape ``(n, 3)``."""
        return np.asarray(self.way_mm[cKDTree(self.points_mm).query(points_mm)[1]])


def rib_frame(straight: StraightRib, way_mm: float, reach_mm: float = REACH_MM) -> RibFrame:
    """
    Lay a smooth curve along a rib about a place on it.

    Args:
        straight: the rib with its axes.
        way_mm: how far along the rib the place lies.
        reach_mm: how far the frame goes to both sides, at most 26 mm beyond the ends of the centerline.

    Returns:
        The frame, with sections every half mm. Beyond the ends it goes on as curved as the rib is near by.
    """
    first, last = straight.way_mm[0] + 10.0, straight.way_mm[-1] - 10.0
    low, high = max(way_mm - reach_mm, first - BEYOND_MM), min(way_mm + reach_mm, last + BEYOND_MM)
    ways = way_mm + np.arange(np.ceil((low - way_mm) / STEP_MM), np.floor((high - way_mm) / STEP_MM) + 1) * STEP_MM
    near = (np.abs(straight.way_mm - way_mm) <= reach_mm) & (straight.way_mm >= first) & (straight.way_mm <= last)
    known = straight.way_mm[near]
    degree = min(3, max(1, int(np.ptp(known) // _KNOT_MM))) if near.sum() > 4 else 1
    scale = max(reach_mm, 1.0)

    def smooth(values: NDArray[np.float64], order: int) -> NDArray[np.float64]:
        x, at = (known - way_mm) / scale, (ways - way_mm) / scale
        inside = np.clip(at, x[0], x[-1])
        derivative, beyond, result = polyfit(x, values[near], order), at - inside, np.zeros((len(at), values.shape[1]))
        for factor in (1.0, beyond[:, None], beyond[:, None] ** 2 / 2):  # Taylor: a cubic would run away
            result += factor * polyval(inside, derivative).T
            derivative = polyder(derivative)
        return result

    points = smooth(straight.points_mm, degree)
    along = _unit(np.gradient(points, axis=0))
    outward = smooth(straight.outward, min(degree, 2))
    outward = _unit(outward - (outward * along).sum(axis=1, keepdims=True) * along)
    up = np.cross(along, outward) if straight.rib.side == "left" else np.cross(outward, along)
    # sections are as far apart as they are said to be
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    true_way = np.concatenate([[0.0], np.cumsum(steps)])
    true_way += way_mm - np.interp(way_mm, ways, true_way)
    return RibFrame(true_way, points, up, outward)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class RibProfile:
    """
    The bone of a rib, section by section.

    Args:
        frame: where the sections lie.
        hu: the scan in them, NaN outside of it, float32, shape ``(n, up, outward)``.
        bone: how much of each sample is bone, 0 in soft tissue and 1 in dense cortex, of this rib alone, likewise.
        centers_mm: middle of the bone of each section in its axes (up, outward), NaN without any, shape ``(n, 2)``.
        area_mm2: area of the bone with its marrow, shape ``(n,)``.
        cortex_mm2: area of cortex that would be as dense in all as the bone with its marrow, shape ``(n,)``.
    """

    frame: RibFrame
    hu: NDArray[np.float32]
    bone: NDArray[np.float32]
    centers_mm: NDArray[np.float64]
    area_mm2: NDArray[np.float64]
    cortex_mm2: NDArray[np.float64]


def rib_profile(image_hu: NDArray, affine: NDArray[np.float64], frame: RibFrame, way_mm: float) -> RibProfile:
    """
    Find the bone of a rib around a place, section by section.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``.
        affine: from its voxels to RAS mm, shape ``(4, 4)``.
        frame: of the rib.
        way_mm: how far along the rib the place lies; a stub is followed toward it from either side.

    Returns:
        The profile; sections outside the scan, and without bone, have no center.
    """
    hu = sampled(image_hu, affine, frame.places_mm(), np.nan)
    cortex_hu = _cortex_hu(hu)
    low, high = (MUSCLE_HU + share * (cortex_hu - MUSCLE_HU) for share in _BONE_SHARE)
    density = np.clip((np.nan_to_num(hu, nan=-1024.0) - low) / (high - low), 0.0, 1.0).astype(np.float32)
    bone = np.zeros_like(density)
    middle = int(np.abs(frame.way_mm - way_mm).argmin())
    past = round(_PAST_MM / STEP_MM)
    _follow(density, bone, range(min(middle + past, len(density))))
    _follow(density, bone, range(len(density) - 1, max(middle - past, 0) - 1, -1))
    area = bone.sum(axis=(1, 2)).astype(float) * ACROSS_STEP_MM**2
    # not cut off at dense bone: a thin gap in it is blurred to a faint dip
    dense = np.maximum(np.nan_to_num(hu, nan=MUSCLE_HU) - MUSCLE_HU, 0.0) / (cortex_hu - MUSCLE_HU)
    cortex = (dense * (bone > 0)).sum(axis=(1, 2)).astype(float) * ACROSS_STEP_MM**2
    with np.errstate(invalid="ignore", divide="ignore"):
        up = (bone.sum(axis=2) * ACROSS_MM).sum(axis=1) / bone.sum(axis=(1, 2))
        outward = (bone.sum(axis=1) * ACROSS_MM).sum(axis=1) / bone.sum(axis=(1, 2))
    centers = np.column_stack([up, outward]).astype(float)
    centers[area < 4.0] = np.nan
    return RibProfile(frame, hu, bone, centers, area, cortex)


def _cortex_hu(hu: NDArray[np.float32]) -> float:
    """Return the density of the densest bone near the axis, the median of what the sections have."""
    core = np.hypot(ACROSS_MM[:, None], ACROSS_MM) <= _CORTEX_MM
    values = hu[:, core]
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) == 0:
        return LEAST_CORTEX_HU
    return max(LEAST_CORTEX_HU, float(np.median(np.percentile(values, _CORTEX_PERCENTILE, axis=1))))


def _follow(density: NDArray[np.float32], bone: NDArray[np.float32], sections: Sequence[int]) -> None:
    """Follow a stub toward the candidate, section by section, and keep the bone near its center, in place."""
    center, is_found = np.zeros(2), False
    grid = np.stack(np.meshgrid(ACROSS_MM, ACROSS_MM, indexing="ij"), axis=-1)
    for section in sections:
        near = np.sqrt((ACROSS_MM[:, None] - center[0]) ** 2 + (ACROSS_MM - center[1]) ** 2)
        own = density[section] * (near <= _REACH_OF_SECTION_MM)
        pieces = cc3d.connected_components(own > 0.25, connectivity=4)  # SciPy's label takes four times as long
        sizes = np.bincount(pieces.ravel(), own.ravel())
        is_kept = np.zeros(len(sizes), dtype=bool)
        is_kept[pieces[near < (_NEAR_MM if is_found else _FIRST_MM)]] = True
        is_kept &= sizes > 2
        is_kept[0] = False
        own = own * is_kept[pieces]
        total = own.sum()
        if total * ACROSS_STEP_MM**2 < 4.0:
            continue
        own = _with_marrow(own)
        bone[section] = np.maximum(bone[section], own)
        found = (own[..., None] * grid).sum(axis=(0, 1)) / own.sum()
        step = found - center
        length = float(np.linalg.norm(step))
        center = center + step * (min(1.0, _MOST_JUMP_MM / max(length, 1e-6)) if is_found else 1.0)
        is_found = True


def _with_marrow(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill what cortex encloses, though it may be open: the convex hull of a section."""
    places = np.argwhere(density > 0.5)
    try:
        hull = ConvexHull(places)
    except (QhullError, ValueError):  # too few, or all in a line
        return density
    low, high = places.min(axis=0), places.max(axis=0) + 1
    box = slice(low[0], high[0]), slice(low[1], high[1])
    inside = (_PLACES[box] @ hull.equations[:, :2].T <= 1e-9 - hull.equations[:, 2]).all(axis=-1)
    filled = density.copy()
    filled[box][inside] = 1.0  # no density is higher
    return filled
