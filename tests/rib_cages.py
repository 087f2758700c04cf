"""Small rib cages whose centerlines are known: bent tubes of bone in water, and a chest of straight bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from scripts.anatomy.rib_cage import Rib, RibCage

SPACING_MM = (2.0, 2.5, 3.0)
SHAPE = (96, 72, 40)  # 192 x 180 x 120 mm
WATER_HU, RIB_HU = 0.0, 800.0
RADIUS_MM = 5.0
APART_MM = 30.0
WAY_MM = 70.0  # a radian on the bow
_SIGN = {"left": -1.0, "right": 1.0}  # of x in RAS


def centerline(side: str, row: int) -> np.ndarray:
    """
    A quarter of a circle of 70 mm and 60 mm straight on, level, from behind outward and to the front.

    The spine ends at x = 0, y = -70; the lowest row is 0, 25 mm above the origin of the scan's frame.
    """
    turn = np.radians(np.arange(0.0, 90.0, 1.5))
    bow = np.stack([70 * np.sin(turn), -70 * np.cos(turn)], axis=1)
    ahead = np.stack([np.full(31, 70.0), np.arange(0.0, 62.0, 2.0)], axis=1)
    level = np.concatenate([bow, ahead])
    height = np.full(len(level), 25.0 + APART_MM * row)
    return np.column_stack([_SIGN[side] * level[:, 0], level[:, 1], height])


def on_rib(height_mm: float, side: str = "left") -> tuple[float, float, float]:
    """The place on a rib's bow that is WAY_MM from its spinal end."""
    turn = WAY_MM / 70
    return _SIGN[side] * 70 * np.sin(turn), -70 * np.cos(turn), height_mm


def made_cage(ribs: Sequence[tuple[str, int | None]], whole: bool = True) -> RibCage:
    """
    Ribs (side, number) from above on each side, the lowest of a side in row 0, with both ends in the scan or neither.
    """
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = (-95.0, -90.0, 0.0)
    counts = {side: sum(of == side for of, _ in ribs) for side in _SIGN}
    seen = dict.fromkeys(_SIGN, 0)
    made = []
    for side, number in ribs:
        seen[side] += 1
        line = centerline(side, counts[side] - seen[side])
        made.append(Rib(side, number, seen[side], 0.9, line, whole, whole))
    places = np.argwhere(np.ones(SHAPE, dtype=bool)) @ affine[:3, :3].T + affine[:3, 3]
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for rib in made:
        dense = np.concatenate([np.linspace(a, b, 4) for a, b in zip(rib.centerline_mm, rib.centerline_mm[1:])])
        distance_mm, _ = cKDTree(dense).query(places, distance_upper_bound=2 * RADIUS_MM)  # infinite beyond
        mask[(distance_mm <= RADIUS_MM).reshape(SHAPE)] = rib.id
    return RibCage(mask, affine, tuple(sorted(made, key=lambda rib: (rib.side, rib.order))))


def image_of(cage: RibCage) -> np.ndarray:
    """The scan of a cage on the grid of its mask, HU, float32."""
    return np.where(cage.mask > 0, RIB_HU, WATER_HU).astype(np.float32)


def ball(cage: RibCage, center_mm: Sequence[float], radius_mm: float = 6.0) -> np.ndarray:
    """A ball on the grid of the mask, bool."""
    places = np.moveaxis(np.indices(SHAPE), 0, -1) @ cage.affine[:3, :3].T + cage.affine[:3, 3]
    return np.linalg.norm(places - center_mm, axis=-1) <= radius_mm


def thorax(left: Iterable[int] = range(1, 13), right: Iterable[int] = range(1, 13)) -> RibCage:
    """
    A chest of 120 x 60 x 300 mm in voxels of 3 mm.

    Rib n of a side is a bar of 9 x 30 x 6 mm. Its middle lies 20 mm off x = 60 mm, 300 - 22 n mm high.
    """
    mask, ribs = np.zeros((40, 20, 100), dtype=np.uint8), []
    for side, numbers in (("left", left), ("right", right)):
        x = 60.0 + (20.0 if side == "right" else -20.0)
        for order, number in enumerate(numbers, 1):
            height = 300.0 - 22.0 * number
            line = np.array([[x, y, height] for y in np.arange(15.0, 45.0, 2.0)])
            ribs.append(Rib(side, number, order, 1.0, line, True, True))
            i, k = round(x / 3), round(height / 3)
            mask[i - 1 : i + 2, 5:15, k - 1 : k + 1] = ribs[-1].id
    return RibCage(mask, np.diag([3.0, 3.0, 3.0, 1.0]), tuple(ribs))
