"""
The part of the chest wall by the axillary lines: anterior, lateral or posterior.

The lines are upright planes from side to side. Each stands where the wall of the middle ribs turns from facing the side
to facing ahead, or behind: halfway between both, at 45 degrees. The mid-sagittal plane tells where ahead is, however
the patient lies.

References:
    Edwards et al. (2020), J Trauma Acute Care Surg 88(2):e40-e45: the parts are bounded by the anterior and the
    posterior axillary line. It gives no rule for CT, where arms are up and the folds of the axilla are drawn out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.anatomy.straight_ribs import StraightRib

__all__ = ["AxillaryLines", "axillary_lines"]

_MIDDLE_RIBS = (3, 8)
_TURN_DEGREES = 45.0
_LEAST_RIBS = 3


@dataclass(frozen=True)
class AxillaryLines:
    """
    The axillary lines of one side.

    Args:
        ahead: unit vector ahead in RAS, shape ``(3,)``.
        anterior_mm: how far ahead the anterior line lies, along ``ahead``.
        posterior_mm: likewise the posterior one; less than ``anterior_mm``.
    """

    ahead: NDArray[np.float64]
    anterior_mm: float
    posterior_mm: float

    def part(self, point_mm: ArrayLike) -> str:
        """Name the part of a point, RAS mm: ``anterior``, ``lateral`` or ``posterior``; on a line it is lateral."""
        ahead_mm = float(self.ahead @ np.asarray(point_mm, dtype=float))
        if ahead_mm > self.anterior_mm:
            return "anterior"
        return "posterior" if ahead_mm < self.posterior_mm else "lateral"


def axillary_lines(ribs: Sequence[StraightRib], midsagittal_plane: ArrayLike) -> Mapping[str, AxillaryLines]:
    """
    Find the axillary lines of both sides.

    Args:
        ribs: the straightened ribs of a scan.
        midsagittal_plane: the plane n·x = d in RAS mm as ``(nx, ny, nz, d)``, n to the patient's right; NaN where it is
            not known.

    Returns:
        The lines by side, of both sides those of the other where one lacks them; none where both lack them. A side has
        none of which fewer than three of the ribs 3 to 8 turn to the side, ahead and
        behind in the scan. Where no rib has a number, the middle half of those of a side take their place.
    """
    right = np.asarray(midsagittal_plane, dtype=float)[:3]
    if not np.isfinite(right).all():
        return {}
    up = np.array([0.0, 0.0, 1.0]) - right[2] * right
    ahead = np.cross(up / np.linalg.norm(up), right)
    lines = {}
    for side, sign in (("right", 1.0), ("left", -1.0)):
        turns = [_turns(rib, sign * right, ahead) for rib in _middle([rib for rib in ribs if rib.rib.side == side])]
        known = np.array([turn for turn in turns if turn is not None])
        if len(known) >= _LEAST_RIBS:
            anterior, posterior = np.median(known, axis=0)
            lines[side] = AxillaryLines(ahead, float(anterior), float(posterior))
    return {side: lines.get(side) or next(iter(lines.values())) for side in ("right", "left")} if lines else {}


def _middle(ribs: Sequence[StraightRib]) -> list[StraightRib]:
    numbered = [rib for rib in ribs if rib.rib.number is not None]
    if numbered:
        return [rib for rib in numbered if _MIDDLE_RIBS[0] <= (rib.rib.number or 0) <= _MIDDLE_RIBS[1]]
    by_order = sorted(ribs, key=lambda rib: rib.rib.order)
    return by_order[len(by_order) // 4 : len(by_order) - len(by_order) // 4]


def _turns(rib: StraightRib, aside: NDArray[np.float64], ahead: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return how far ahead a rib turns from facing the side to facing ahead, and behind; None where it does not."""
    facing = np.degrees(np.arctan2(rib.outward @ ahead, rib.outward @ aside))
    to_side = np.flatnonzero(np.abs(facing) < _TURN_DEGREES)
    before, behind = np.flatnonzero(facing >= _TURN_DEGREES), np.flatnonzero(facing <= -_TURN_DEGREES)
    if not (len(to_side) and len(before) and len(behind)):
        return None
    places = rib.points_mm @ ahead
    return float(places[to_side].max()), float(places[to_side].min())
