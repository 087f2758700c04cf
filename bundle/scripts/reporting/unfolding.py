"""
The rib cage unfolded: each rib straightened along its centerline, all in one picture (curved planar reformation).

A straight rib has three axes: along it from the spine, up across its height, and outward through the chest wall. In the
picture the ribs of the right run to the left from the middle, as radiologists look at a patient, those of the left to
the right, from above to below in the order of their numbers. A pixel is a mm².

References:
    Ringl et al. (2015), The ribs unfolded, Eur Radiol 25:1865-1874: rib fractures are read faster in such a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.anatomy.straight_ribs import BEYOND_MM, STEP_MM, StraightRib, sampled, sampled_ids, straight_ribs

__all__ = ["Shadow", "UnfoldedCage", "UnfoldedRib"]

HALF_HEIGHT_MM = 15  # shown above and below the centerline
HALF_DEPTH_MM = 5  # to the inside and the outside: summed up
_REACH_MM = 12  # to the inside and the outside: an instance this near to the centerline has a shadow
ROOM_MM = 4  # between two rows
NAMES_MM = 60  # in the middle, for the names of the ribs
_EDGE_MM = 6


@dataclass(frozen=True)
class UnfoldedRib:
    """
    Where a straight rib lies in the picture of all, in mm from its upper left corner.

    Args:
        straight: the rib.
        name: such as ``R6``, or ``R?3`` for the third one from above in the scan on the right, of unknown number.
        start_mm: where the line at the spinal end stands, from the left.
        middle_mm: where the centerline stands, from above.
        direction: 1 where it runs to the right, -1 to the left.
    """

    straight: StraightRib
    name: str
    start_mm: float
    middle_mm: float
    direction: int

    def placed(self, strip: NDArray) -> tuple[NDArray, int, int]:
        """
        Turn a strip as it stands in the picture.

        Args:
            strip: along the rib and up, a pixel a mm, shape ``(n, 31)``.

        Returns:
            The strip, rows first, and the row and the column of its upper left pixel.
        """
        turned = strip.T[::-1, :: self.direction]
        left = self.start_mm - BEYOND_MM if self.direction > 0 else self.start_mm + BEYOND_MM - len(strip)
        return turned, round(self.middle_mm - turned.shape[0] / 2), round(left)


@dataclass(frozen=True)
class Shadow:
    """
    An instance in the picture.

    Args:
        instance: its id.
        mask: its pixels in a part of the picture, rows first, bool.
        top_mm: upper edge of the part.
        left_mm: left edge of the part.
    """

    instance: int
    mask: NDArray[np.bool_]
    top_mm: int
    left_mm: int

    @property
    def box_mm(self) -> tuple[float, float, float, float]:
        """Its left, upper, right and lower edge."""
        rows, columns = np.nonzero(self.mask)
        left, right = self.left_mm + columns.min(), self.left_mm + columns.max() + 1
        return float(left), float(self.top_mm + rows.min()), float(right), float(self.top_mm + rows.max() + 1)


@dataclass(frozen=True)
class UnfoldedCage:
    """
    All ribs of a scan in one picture.

    Args:
        ribs: the ribs in it.
        width_mm: of the picture, and its number of columns.
        height_mm: of the picture, and its number of rows.
    """

    ribs: tuple[UnfoldedRib, ...]
    width_mm: int
    height_mm: int

    @classmethod
    def of(cls, cage: RibCage) -> UnfoldedCage:
        """Lay out the ribs of a cage; without any the picture has no height."""
        straight = straight_ribs(cage)
        rows = _rows(cage.ribs)
        half_mm = max((len(one.points_mm) for one in straight), default=0) + NAMES_MM // 2 + _EDGE_MM
        height_mm = 2 * HALF_HEIGHT_MM + 1
        placed = []
        for one in straight:
            rib, direction = one.rib, 1 if one.rib.side == "left" else -1
            name = f"{rib.side[0].upper()}{f'?{rib.order}' if rib.number is None else rib.number}"
            middle_mm = _EDGE_MM + rows[rib.id] * (height_mm + ROOM_MM) + height_mm / 2
            placed.append(
                UnfoldedRib(one, name, half_mm + direction * (NAMES_MM / 2 + BEYOND_MM), middle_mm, direction)
            )
        count = max(rows.values(), default=-1) + 1
        return cls(tuple(placed), 2 * half_mm, count * (height_mm + ROOM_MM) - ROOM_MM + 2 * _EDGE_MM if count else 0)

    def pictures(
        self, image: NDArray, affine: NDArray[np.float64], outside: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """
        Draw a scan.

        Args:
            image: of any numeric type, shape ``(H, W, D)``.
            affine: from voxels to RAS mm, shape ``(4, 4)``.
            outside: the value where there is no rib, or no scan.

        Returns:
            The maximum and the mean through the chest wall, 5 mm to both sides of the centerline, rows first.
        """
        highest = np.full((self.height_mm, self.width_mm), outside, dtype=np.float32)
        mean = highest.copy()
        for placed in self.ribs:
            block = sampled(image, affine, _block_mm(placed.straight, HALF_DEPTH_MM), outside)
            for picture, strip in ((highest, block.max(axis=2)), (mean, block.mean(axis=2))):
                turned, top, left = placed.placed(strip)
                picture[top : top + turned.shape[0], left : left + turned.shape[1]] = turned
        return highest, mean

    def shadows(self, ids: NDArray, affine: NDArray[np.float64], rib_of: Mapping[int, int]) -> list[Shadow]:
        """
        Tell where instances lie in the picture, each in the row of its own rib.

        Args:
            ids: volume of ids, integers, shape ``(H, W, D)``.
            affine: from voxels to RAS mm, shape ``(4, 4)``.
            rib_of: id of the rib, by the id of each instance that lies on one.

        Returns:
            The shadow of each instance that has one.
        """
        found = []
        for placed in self.ribs:
            wanted = [instance for instance, rib in rib_of.items() if rib == placed.straight.rib.id]
            if not wanted:
                continue
            block = sampled_ids(ids, affine, _block_mm(placed.straight, _REACH_MM))
            for instance in wanted:
                mask, top, left = placed.placed((block == instance).any(axis=2))
                if mask.any():
                    found.append(Shadow(instance, mask, top, left))
        return found


def _block_mm(straight: StraightRib, half_depth_mm: int) -> NDArray[np.float64]:
    height, depth = (np.arange(-half, half + 1) * STEP_MM for half in (HALF_HEIGHT_MM, half_depth_mm))
    return straight.places_mm(straight.way_mm, height, depth)


def _rows(ribs: Sequence[Rib]) -> dict[int, int]:
    """
    Give each rib its row, from 0, by its id.

    Ribs of one number stand side by side. One without a number stands where its place from above puts it, counted from
    the nearest rib on its side that has one, or on the other side.
    """
    rows: dict[int, int] = {}
    for side in ("left", "right"):
        own = sorted((rib for rib in ribs if rib.side == side), key=lambda rib: rib.order)
        shifts = {rib.order: rib.number - rib.order for rib in own if rib.number is not None} or {
            rib.order: rib.number - rib.order for rib in ribs if rib.number is not None
        }
        last = None
        for rib in own:
            nearest = min(shifts, key=lambda order: abs(order - rib.order), default=0)
            row = rib.order + shifts.get(nearest, 0)
            last = row if last is None else max(row, last + 1)
            rows[rib.id] = last
    first = min(rows.values(), default=0)
    return {rib: row - first for rib, row in rows.items()}
