"""
Where in the chest a point lies: how far below the lungs' apex, in which third, and toward which part of the wall.

Words for a place need a frame of the patient's own, whatever the scanner's axes are. It is made of the mid-sagittal
plane (:mod:`scripts.anatomy.midline`) and of the lungs, which plain image processing finds. No trained weights are
needed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from skimage.morphology import convex_hull_image

from scripts.anatomy.body import LUNG_HU, block_mean, body_mask, checked_spacing, cut_body, cut_shares
from scripts.anatomy.components import connected_components

__all__ = ["LEVELS", "PARTS", "ChestPosition", "chest_position", "largest_extent_mm", "thorax_axis"]

LEVELS = ("upper", "middle", "lower")
PARTS = ("anterior", "lateral", "posterior")
# Sectors of equal size from straight ahead (0 degrees) around the side (90) to straight behind (180).
PART_DEGREES = 60.0

COARSE_MM = 4.0
# Less air than this in one piece, or than a quarter of the largest piece, is bowel: both lungs are of about one size.
MIN_LUNG_ML = 100.0
MIN_SHARE_OF_LARGEST = 0.25
# The windpipe is air as well, but reaches no farther from the mid-sagittal plane; lungs' tips lie 20 to 60 mm from it.
MIDLINE_MM = 20.0
# The cross-section of both lungs from which on a level counts as lung: a speck of noise is no apex.
MIN_SECTION_MM2 = 100.0
# Near the apex, and in the recesses below the domes, the lungs fill a part of the chest alone: their middle is not its.
MIN_HULL_SHARE = 0.5
# Lungs are in view in part where their extent at a border across, before or behind is such a share of the greatest one.
CUT_LUNG_SHARE = 0.1
CENTERS = 32


def thorax_axis(
    image_hu: NDArray, spacing_mm: ArrayLike, affine: NDArray, midsagittal_plane: ArrayLike
) -> NDArray[np.float64]:
    """
    Find the lungs' apex and base, and the middle of the chest between them.

    The lungs are the large pieces of air inside the body. The middle of the chest at a level is that of the convex hull
    of both lungs, at the levels where the hull has at least half of its largest area.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        spacing_mm: voxel size along each axis in mm.
        affine: voxels to RAS mm, shape ``(4, 4)``.
        midsagittal_plane: the plane n·x = d in RAS mm as ``(nx, ny, nz, d)``, n to the patient's right; NaN where it is
            doubtful.

    Returns:
        points in RAS mm, float64, shape ``(34, 3)``: the apex, 32 centers from above to below, the base. The apex is
        NaN where the lungs reach the first slice, the base where they reach the last; all is NaN without lungs. Where
        the lungs are in view in part, since a border of the first two axes cuts them or the plane does not pass through
        the scan, the centers have their heights alone, and all else is NaN.

    Raises:
        ValueError: when the image has not three axes or the spacing is not three positive numbers.
    """
    spacing = checked_spacing(image_hu, spacing_mm)
    coarse, factors = block_mean(image_hu, spacing, COARSE_MM)
    step = spacing * factors
    to_world = affine @ np.array(np.vstack([np.column_stack([np.diag(factors), (factors - 1) / 2]), [0, 0, 0, 1]]))
    lungs = _lungs(coarse, step)
    axis = np.full((CENTERS + 2, 3), np.nan)
    if lungs.any():
        plane = np.asarray(midsagittal_plane, dtype=float)
        axis[1:-1] = _centers(lungs, to_world)
        air = cut_body(coarse, step) & (coarse < LUNG_HU)
        if (cut_shares(air) > CUT_LUNG_SHARE).any() or not _passes(plane, image_hu.shape, affine):
            axis[:, :2] = np.nan
        else:
            axis[0], axis[-1] = _ends(lungs, step, to_world, plane)
    return axis


def _passes(plane: NDArray[np.float64], shape: tuple[int, ...], affine: NDArray) -> bool:
    """Whether voxels of an array lie on both sides of a plane."""
    corners = np.argwhere(np.ones((2, 2, 2))) * (np.array(shape) - 1)
    beside_mm = (corners @ affine[:3, :3].T + affine[:3, 3]) @ plane[:3] - plane[3]
    return bool(beside_mm.min() < 0 < beside_mm.max())


def _lungs(coarse: NDArray, step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the lungs, with the windpipe."""
    pieces = connected_components(body_mask(coarse, step) & (coarse < LUNG_HU))
    milliliters = np.bincount(pieces.ravel()) * step.prod() / 1000
    milliliters[0] = 0
    return (milliliters >= max(MIN_LUNG_ML, MIN_SHARE_OF_LARGEST * milliliters.max()))[pieces]


def _centers(lungs: NDArray[np.bool_], to_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middle of the lungs' hull in world mm at levels from above to below, shape ``(CENTERS, 3)``."""
    levels, areas, middles = [], [], []
    for k in np.flatnonzero(lungs.any(axis=(0, 1))):
        hull = convex_hull_image(lungs[:, :, k])
        levels.append(k)
        areas.append(hull.sum())
        middles.append([*ndimage.center_of_mass(hull), k])
    wide = np.array(areas) >= MIN_HULL_SHARE * max(areas)
    known = np.array(middles)[wide]
    at = np.linspace(known[-1, 2], known[0, 2], CENTERS)
    voxels = np.stack([np.interp(at, known[:, 2], known[:, i]) for i in range(3)], axis=1)
    return voxels @ to_world[:3, :3].T + to_world[:3, 3]


def _ends(
    lungs: NDArray[np.bool_], step: NDArray[np.float64], to_world: NDArray[np.float64], plane: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the middle of the lungs' highest and of their lowest section, or NaN where the scan cuts them off."""
    voxels = np.argwhere(lungs)
    points = voxels @ to_world[:3, :3].T + to_world[:3, 3]
    aside = np.abs(points @ plane[:3] - plane[3]) > MIDLINE_MM
    sections = np.bincount(voxels[aside, 2], minlength=lungs.shape[2]) * step[0] * step[1]
    levels = np.flatnonzero(sections >= MIN_SECTION_MM2)
    unseen = np.full(3, np.nan)
    if len(levels) == 0:
        return unseen, unseen
    top, bottom = (points[aside & (voxels[:, 2] == level)].mean(axis=0) for level in (levels[-1], levels[0]))
    return (top if levels[-1] < lungs.shape[2] - 1 else unseen), (bottom if levels[0] > 0 else unseen)


@dataclass(frozen=True)
class ChestPosition:
    """
    Where in the chest a point lies.

    Args:
        from_apex_mm: how far below the lungs' apex, along the body; negative above it, NaN where the scan lacks it.
        level: third of the way from the lungs' apex to their base, of ``LEVELS``; empty where the scan lacks either, or
            shows the lungs in part.
        angle_degrees: about the chest's middle at that level, from straight ahead (0) to straight behind (180), either
            side; NaN where the scan shows no lungs, or a part of them.
        part: 60 degrees each, of ``PARTS``; empty where the angle is NaN.
    """

    from_apex_mm: float
    level: str
    angle_degrees: float
    part: str


def chest_position(point_mm: ArrayLike, midsagittal_plane: ArrayLike, axis: ArrayLike) -> ChestPosition:
    """
    Tell where in the chest a point lies.

    Above the highest and below the lowest of the axis's centers the chest's middle is that of the nearest one.

    Args:
        point_mm: the point in RAS mm, shape ``(3,)``.
        midsagittal_plane: the plane n·x = d in RAS mm as ``(nx, ny, nz, d)``, n to the patient's right.
        axis: what :func:`thorax_axis` gives.

    Returns:
        the position; the axes of the patient come from the plane, and from up in the scanner's coordinates.
    """
    point, points = np.asarray(point_mm, dtype=float), np.asarray(axis, dtype=float)
    *normal, offset = np.asarray(midsagittal_plane, dtype=float)
    right = np.array(normal)
    up = np.array([0.0, 0.0, 1.0]) - right[2] * right
    up /= np.linalg.norm(up)
    ahead = np.cross(up, right)

    height, heights = up @ point, points @ up
    from_apex = float(heights[0] - height)
    share = from_apex / float(heights[0] - heights[-1])
    level = "" if np.isnan(share) else LEVELS[int(np.clip(share * len(LEVELS), 0, len(LEVELS) - 1))]
    # np.interp wants rising heights
    middle = np.interp(height, heights[-2:0:-1], (points @ ahead)[-2:0:-1])
    degrees = float(np.degrees(np.arctan2(abs(right @ point - offset), ahead @ point - middle)))
    part = "" if np.isnan(degrees) else PARTS[min(int(degrees // PART_DEGREES), len(PARTS) - 1)]
    return ChestPosition(from_apex, level, degrees, part)


def largest_extent_mm(mask: NDArray[np.bool_], affine: NDArray) -> float:
    """
    Measure the largest distance between the centers of two voxels, as a caliper would.

    Args:
        mask: marks the voxels, at least one, shape ``(H, W, D)``.
        affine: voxels to mm, shape ``(4, 4)``.

    Returns:
        mm.
    """
    # of each row of voxels its ends lie farthest apart
    rows = np.argwhere(mask.any(axis=0))
    first = mask.argmax(axis=0)[tuple(rows.T)]
    last = len(mask) - 1 - mask[::-1].argmax(axis=0)[tuple(rows.T)]
    ends = np.unique(np.vstack([np.column_stack([first, rows]), np.column_stack([last, rows])]), axis=0)
    with suppress(QhullError):  # which takes no voxels in one plane; of them the ends are few
        ends = ends[ConvexHull(ends).vertices]
    return float(pdist(ends @ affine[:3, :3].T).max(initial=0.0))
