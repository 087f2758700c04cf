"""One straight rib, broken in a known way, in soft tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from scripts.anatomy.rib_cage import Rib
from scripts.anatomy.straight_ribs import BEYOND_MM, StraightRib

HALF_MM = (6.0, 4.0)  # half height and half thickness of the section, an ellipse
CORTEX_HU, MARROW_HU, SOFT_HU = 900.0, 150.0, 40.0
LENGTH_MM = 110.0


def broken_rib(
    offset_mm: Sequence[float] = (0.0, 0.0),
    gap_mm: float = 0.0,
    bend_degrees: float = 0.0,
    spacing_mm: Sequence[float] = (0.8, 0.7, 1.1),
    flips: Sequence[int] = (1, 1, 1),
    order: Sequence[int] = (0, 1, 2),
    breaks_mm: Sequence[float] = (0.0,),
    length_mm: float = LENGTH_MM,
) -> tuple[np.ndarray, np.ndarray, StraightRib]:
    """
    A rib along the x axis of the world, from -55 mm to 55 mm, with z up and y out of the chest.

    Args:
        offset_mm: how far the stub beyond the break is moved, (up, outward).
        gap_mm: between the stubs, negative where they overlap.
        bend_degrees: how far it is turned upward.
        spacing_mm: along x, y and z.
        flips: -1 turns an axis of the array.
        order: of the array's axes.
        breaks_mm: x of the breaks; a piece between two of them is moved, and what is beyond is not.
        length_mm: of the rib.

    Returns:
        The scan in HU, its affine, and the straightened rib, whose way at x is x + half its length.
    """
    fine = 0.5
    reach = np.array([length_mm / 2 + 15.0, 22.0, 22.0])
    x, y, z = (np.arange(-r, r + fine / 2, fine) for r in reach)
    slope = np.tan(np.radians(bend_degrees))
    image = np.full((len(x), len(y), len(z)), SOFT_HU)
    ends = [-length_mm / 2, *breaks_mm, length_mm / 2]
    for place, (first, last) in enumerate(zip(ends[:-1], ends[1:])):
        moved = place % 2 == 1
        low = first + (gap_mm / 2 if place > 0 else 0.0)
        high = last - (gap_mm / 2 if place < len(ends) - 2 else 0.0)
        up = (offset_mm[0] + slope * (x - first) if moved else 0.0 * x)[:, None, None]
        out = offset_mm[1] if moved else 0.0
        level = np.hypot((z - up) / HALF_MM[0], (y[:, None] - out) / HALF_MM[1])
        bone = (level < 1) & ((x >= low) & (x <= high))[:, None, None]
        image[bone] = np.maximum(image, np.where(level > 0.7, CORTEX_HU, MARROW_HU))[bone]
    image = ndimage.gaussian_filter(image, 0.5 / fine)
    at = [np.arange(-r, r, step) for r, step in zip(reach, spacing_mm)]
    coarse = [(values + r) / fine for values, r in zip(at, reach)]
    scan = ndimage.map_coordinates(image, np.meshgrid(*coarse, indexing="ij"), order=1)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [values[0] for values in at]
    for axis, flip in enumerate(flips):
        if flip < 0:
            scan = np.flip(scan, axis)
            affine[:3, 3] += affine[:3, axis] * (scan.shape[axis] - 1)
            affine[:3, axis] *= -1
    scan, affine[:, :3] = scan.transpose(order), affine[:, list(order)]
    return scan, affine, straight_rib(length_mm)


def straight_rib(length_mm: float = LENGTH_MM) -> StraightRib:
    """The rib as it was before it broke."""
    along = np.arange(-length_mm / 2 - BEYOND_MM, length_mm / 2 + BEYOND_MM + 0.5)
    points = np.column_stack([along, 0 * along, 0 * along])
    inner = points[BEYOND_MM:-BEYOND_MM:2]
    up, outward = np.tile([0.0, 0.0, 1.0], (len(along), 1)), np.tile([0.0, 1.0, 0.0], (len(along), 1))
    return StraightRib(Rib("left", 6, 6, 0.9, inner, True, True), points, up, outward)


def candidate_points(x_mm: float = 0.0, half_mm: float = 8.0) -> np.ndarray:
    """Places of a candidate about the rib's axis."""
    steps = np.arange(-half_mm, half_mm + 0.5)
    return np.array([(x_mm + x, y, z) for x in steps for y in (-3.0, 0.0, 3.0) for z in (-4.0, 0.0, 4.0)])
