"""Measure a fracture on its rib, or tell why it cannot be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from scripts.anatomy.straight_ribs import StraightRib
from scripts.description.displacement import Displacement, break_way_mm, measure_displacement
from scripts.description.fracture_type import fracture_features
from scripts.description.rib_profile import ACROSS_MM, RibProfile, rib_frame, rib_profile

__all__ = ["NOT_MEASURABLE", "Measured", "measure_fracture", "measured_on", "profile_of"]

THICK_MM = 4.95  # slices of 5 mm, as headers round them
NOT_MEASURABLE = {
    "ribs": "no ribs were found",
    "off": "it lies on no rib",
    "thick": "slices of 5 mm or more",
    "cut": "the border of the scan cuts the rib",
    "metal": "metal beside it",
    "stub": "a stub is too short",
    "unclear": "its stubs are not clear",
}
METAL_REACH_MM = 15.0  # of its blur and streaks around a candidate
_RIB_MM = 6.0  # about the axis
_STUB_MM = 12.0
_MOST_UNSEEN = 0.05
_MOST_SD_MM = 1.0
_ENDS_PERCENT = (5.0, 95.0)  # of a candidate's points along the rib
_CORE_SHARE = 0.1  # the break is not in its first and last tenth


@dataclass(frozen=True)
class Measured:
    """
    What was measured of a fracture.

    Args:
        way_mm: where along the rib it is broken; None where that is not known.
        displacement: of its stubs; None where it is not measurable.
        reason: why not, a key of ``NOT_MEASURABLE``; empty where it is.
        features: for its type, see :mod:`scripts.description.fracture_type`; None where they are not known.
    """

    way_mm: float | None = None
    displacement: Displacement | None = None
    reason: str = ""
    features: Mapping[str, float] | None = None


def measure_fracture(
    image_hu: NDArray,
    affine: NDArray[np.float64],
    straight: StraightRib,
    points_mm: ArrayLike,
    slice_mm: float,
    metal_mm: NDArray[np.float64] | None = None,
) -> Measured:
    """
    Measure a fracture.

    Args:
        image_hu: the scan in HU around the fracture, shape ``(H, W, D)``: 60 mm to each side where there is so much.
        affine: from its voxels to RAS mm, shape ``(4, 4)``.
        straight: the rib that the fracture lies on, with its axes.
        points_mm: points of the candidate, RAS mm, shape ``(n, 3)``, n at least 1.
        slice_mm: largest distance of neighboring voxels of the scan as it was taken.
        metal_mm: places of metal in the scan, RAS mm, shape ``(m, 3)``; None where there is none.

    Returns:
        The measures.
    """
    profile, low_mm, high_mm, reason = profile_of(image_hu, affine, straight, points_mm, slice_mm, metal_mm)
    return Measured(reason=reason) if profile is None else measured_on(profile, low_mm, high_mm)


def profile_of(
    image_hu: NDArray,
    affine: NDArray[np.float64],
    straight: StraightRib,
    points_mm: ArrayLike,
    slice_mm: float,
    metal_mm: NDArray[np.float64] | None = None,
) -> tuple[RibProfile | None, float, float, str]:
    """
    Take the profile of the rib about a fracture, for :func:`measured_on`; arguments as of :func:`measure_fracture`.

    Returns:
        The profile, where along it the candidate begins and ends, and an empty reason; without a profile the reason.
    """
    if slice_mm >= THICK_MM:
        return None, 0.0, 0.0, "thick"
    points = np.atleast_2d(np.asarray(points_mm, dtype=float))
    if metal_mm is not None and len(metal_mm):
        if cKDTree(points).query(metal_mm, distance_upper_bound=METAL_REACH_MM)[0].min() < METAL_REACH_MM:
            return None, 0.0, 0.0, "metal"
    frame = rib_frame(straight, straight.rib.way_at(points.mean(axis=0)))
    low_mm, high_mm = np.percentile(frame.ways_at(points), _ENDS_PERCENT)
    profile = rib_profile(image_hu, affine, frame, float((low_mm + high_mm) / 2))
    return profile, float(low_mm), float(high_mm), ""


def measured_on(profile: RibProfile, low_mm: float, high_mm: float) -> Measured:
    """
    Measure a fracture on the profile of its rib.

    Args:
        profile: of the rib.
        low_mm: where along the rib the candidate begins.
        high_mm: where it ends.

    Returns:
        The measures.
    """
    core_mm = _CORE_SHARE * (high_mm - low_mm)
    way_mm = break_way_mm(profile, low_mm + core_mm, high_mm - core_mm)
    if _is_cut(profile, (low_mm + high_mm) / 2 if way_mm is None else way_mm):
        return Measured(way_mm, reason="cut")
    displacement = None if way_mm is None else measure_displacement(profile, way_mm)
    if way_mm is None or displacement is None:
        return Measured(way_mm, reason="stub")
    features = fracture_features(profile, way_mm, high_mm - low_mm, displacement)
    if displacement.offset_sd_mm > _MOST_SD_MM:
        return Measured(way_mm, reason="unclear", features=features)
    return Measured(way_mm, displacement, features=features)


def _is_cut(profile: RibProfile, way_mm: float) -> bool:
    """Whether the rib leaves the scan beside a break."""
    near = np.abs(profile.frame.way_mm - way_mm) <= _STUB_MM
    inside = np.hypot(ACROSS_MM[:, None], ACROSS_MM) <= _RIB_MM
    values = profile.hu[near][:, inside]
    return bool(np.isnan(values).mean() > _MOST_UNSEEN)
