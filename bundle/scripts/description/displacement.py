"""
How far the two stubs of a broken rib are apart: across the rib, along it, and in direction.

The middle of the bone is followed on both sides of the break in the frame of :mod:`scripts.description.rib_profile`.
A straight line through the sections beside the break, outside the damaged zone, is the axis of a stub. Both axes are
drawn on to the plane of the break: their distance there is the offset. Other windows give other axes; how much these
differ is the uncertainty.

References:
    Edwards et al. (2020), Taxonomy of multiple rib fractures: results of the Chest Wall Injury Society international
    consensus survey, J Trauma Acute Care Surg 88(2):e40-e45: undisplaced with more than 90 % of cortical contact,
    offset, displaced without contact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scripts.description.rib_profile import ACROSS_MM, ACROSS_STEP_MM, STEP_MM, RibProfile

__all__ = [
    "CLASSES",
    "Displacement",
    "Stubs",
    "break_way_mm",
    "displacement_class",
    "fit_stubs",
    "measure_displacement",
    "missing_share",
]

CLASSES = ("undisplaced", "offset", "displaced")
UNDISPLACED_CONTACT = 0.9
NO_CONTACT = 0.1  # outlines are blurred: stubs side by side seem to share a rim
# Sections that a stub's axis is fitted to, in mm from the damaged zone: farther ones are not yet bent. What other
# windows give tells how sure the first one is.
WINDOWS_MM = ((1.0, 10.0), (0.5, 7.5), (2.0, 12.0), (3.0, 14.0))
SEARCH_MM = (2.0, 9.0)
MIN_STUB_MM = 5.0
# A section near the break is damaged where it has less bone than those farther away, cut by an oblique break, or much
# more: both stubs, or callus. Sound ribs widen and narrow, too.
_CUT_SHARE = 0.16
_SWOLLEN_SHARE = 0.3
_USUAL_MM = (9.0, 22.0)
ZONE_MM = (1.5, 9.0)
_DIP_WEIGHT = 3.0
_NO_BONE = 0.95  # of a section's bone is missing: the break is there
_LEAST_SD_MM = 0.15
_SURE_SDS = 2.0  # an offset of fewer standard deviations may be none: so most classes of synthetic fractures are right
_BASELINE_MM = (5.0, 14.0)
_GAP_MM = 6.0


@dataclass(frozen=True)
class Displacement:
    """
    How the stubs of a fracture lie to each other.

    Args:
        offset_mm: distance of their axes across the rib.
        offset_sd_mm: standard deviation of it.
        along_mm: gap between them along the rib, negative where they overlap.
        along_sd_mm: standard deviation of it.
        contact: share of the section that faces the other stub, in [0, 1].
        contact_sd: standard deviation of it.
        angle_degrees: between their axes, 0 to 90.
        kind: of ``CLASSES``; an offset within its error is none.
    """

    offset_mm: float
    offset_sd_mm: float
    along_mm: float
    along_sd_mm: float
    contact: float
    contact_sd: float
    angle_degrees: float
    kind: str


@dataclass(frozen=True)
class Stubs:
    """
    The axes of both stubs, as straight lines in the frame of a profile.

    Args:
        ends_mm: where they meet the plane of the break, (up, outward), that toward the spine first, shape ``(2, 2)``.
        slopes: their slopes there, mm per mm along the rib, likewise.
        rms_mm: how far the sections' centers lie off the lines.
    """

    ends_mm: NDArray[np.float64]
    slopes: NDArray[np.float64]
    rms_mm: float

    @property
    def offset_mm(self) -> NDArray[np.float64]:
        """From the stub toward the spine to the other one, (up, outward)."""
        return np.asarray(self.ends_mm[1] - self.ends_mm[0])


def displacement_class(contact: float) -> str:
    """
    Name the class of a displacement by the share of contact, see :py:data:`CLASSES`.

    Args:
        contact: share of the section that faces the other stub, in [0, 1].

    Returns:
        ``undisplaced`` above 0.9, ``displaced`` below 0.1, else ``offset``.
    """
    if contact > UNDISPLACED_CONTACT:
        return CLASSES[0]
    return CLASSES[2] if contact < NO_CONTACT else CLASSES[1]


def damaged_zone_mm(profile: RibProfile, way_mm: float) -> tuple[float, float]:
    """
    Tell how far to both sides of a break sections are unlike those of an unbroken rib.

    Args:
        profile: the rib.
        way_mm: where the break is.

    Returns:
        mm toward the spine and mm away from it, each within ``ZONE_MM``.
    """
    zone = []
    for side in (-1, 1):
        ahead = side * (profile.frame.way_mm - way_mm)
        usual = profile.area_mm2[(ahead >= _USUAL_MM[0]) & (ahead <= _USUAL_MM[1]) & (profile.area_mm2 > 0)]
        reach = ZONE_MM[0]
        if len(usual):
            near = (ahead > 0) & (ahead <= ZONE_MM[1])
            more = profile.area_mm2 / np.median(usual) - 1
            ways = np.sort(ahead[near & ((more < -_CUT_SHARE) | (more > _SWOLLEN_SHARE))])
            for way in ways:  # as far as they follow each other
                if way - reach > 2.0:
                    break
                reach = max(reach, float(way))
        zone.append(reach)
    return zone[0], zone[1]


def fit_stubs(
    profile: RibProfile, way_mm: float, window_mm: tuple[float, float], zone_mm: tuple[float, float] = (0.0, 0.0)
) -> Stubs | None:
    """
    Fit the axes of both stubs.

    Args:
        profile: the rib.
        way_mm: where the break is.
        window_mm: the sections that count, by their distance from the zone.
        zone_mm: how far the zone reaches from the break to both sides.

    Returns:
        The axes; None where a stub shows too few sections.
    """
    ahead, centers = profile.frame.way_mm - way_mm, profile.centers_mm
    known = np.isfinite(centers[:, 0])
    ends, slopes, squares = [], [], []
    for sign, reach in zip((-1, 1), zone_mm):
        away = sign * ahead - reach
        side = known & (away >= window_mm[0]) & (away <= window_mm[1])
        if side.sum() * STEP_MM < min(MIN_STUB_MM, 0.7 * (window_mm[1] - window_mm[0])):
            return None
        powers = np.column_stack([np.ones(side.sum()), ahead[side]])
        line = np.linalg.lstsq(powers, centers[side], rcond=None)[0]
        ends.append(line[0])
        slopes.append(line[1])
        squares.append(((centers[side] - powers @ line) ** 2).sum(axis=1))
    return Stubs(np.array(ends), np.array(slopes), float(np.sqrt(np.concatenate(squares).mean())))


def break_way_mm(profile: RibProfile, low_mm: float, high_mm: float) -> float | None:
    """
    Find where a rib is broken: where bone is missing, and straight stubs on both sides fit best.

    Args:
        profile: the rib.
        low_mm: where along the rib the search begins.
        high_mm: where it ends.

    Returns:
        The way along the rib; None where no place has stubs on both sides, or those without any bone have none.
    """
    ways = np.arange(low_mm, high_mm + STEP_MM, STEP_MM)
    costs = np.full(len(ways), np.inf)
    missing = missing_share(profile)
    for place, way in enumerate(ways):
        stubs = fit_stubs(profile, float(way), SEARCH_MM)
        if stubs is not None:
            dip = max(0.0, float(np.interp(way, profile.frame.way_mm, missing)))
            costs[place] = np.log(stubs.rms_mm + 0.1) - _DIP_WEIGHT * dip
    empty = np.interp(ways, profile.frame.way_mm, missing) > _NO_BONE
    if empty.any() and np.isinf(costs[empty]).all():
        return None
    return float(ways[costs.argmin()]) if np.isfinite(costs).any() else None


def missing_share(profile: RibProfile, reach_mm: float = 8.0) -> NDArray[np.float64]:
    """Tell which share of the bone each section lacks, against those within a reach; negative where there is more."""
    mass = ndimage.gaussian_filter1d(profile.cortex_mm2, 0.5 / STEP_MM, mode="nearest")
    reach = 2 * round(reach_mm / STEP_MM) + 1
    usual = ndimage.median_filter(mass, reach, mode="nearest")
    return np.asarray(1 - mass / np.maximum(usual, 4.0))


def measure_displacement(profile: RibProfile, way_mm: float) -> Displacement | None:
    """
    Measure how the stubs at a break lie to each other.

    Args:
        profile: the rib.
        way_mm: where the break is.

    Returns:
        The measures; None where a stub is too short.
    """
    zone_mm = damaged_zone_mm(profile, way_mm)
    main = fit_stubs(profile, way_mm, WINDOWS_MM[0], zone_mm)
    if main is None:
        return None
    others = [fit_stubs(profile, way_mm, window, zone_mm) for window in WINDOWS_MM[1:]]
    offsets = np.array([main.offset_mm, *(stubs.offset_mm for stubs in others if stubs is not None)])
    sd_mm = float(np.hypot(np.sqrt(offsets.var(axis=0).sum()), _LEAST_SD_MM))
    mean = np.median(offsets, axis=0)
    # the length of a vector with errors is too long on average
    offset_mm = float(np.sqrt(max(0.0, float(mean @ mean) - sd_mm**2)))
    along_mm, along_sd_mm = _gap_mm(profile, way_mm)
    direction = mean / max(float(np.linalg.norm(mean)), 1e-9)
    contacts = [_contact(profile, way_mm, main, length * direction) for length in (offset_mm, offset_mm + sd_mm)]
    before, after = (np.array([slope[0], slope[1], 1.0]) for slope in main.slopes)
    cosine = float(before @ after / np.linalg.norm(before) / np.linalg.norm(after))
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    contact = 0.0 if along_mm > _GAP_MM else contacts[0]
    return Displacement(
        offset_mm,
        sd_mm,
        along_mm,
        along_sd_mm,
        contact,
        abs(contacts[1] - contacts[0]),
        angle,
        CLASSES[0] if _may_be_none(offset_mm, sd_mm, contact) else displacement_class(contact),
    )


def _may_be_none(offset_mm: float, sd_mm: float, contact: float) -> bool:
    """Whether stubs that seem to be offset may as well lie in line."""
    return contact >= NO_CONTACT and offset_mm < _SURE_SDS * sd_mm


def _gap_mm(profile: RibProfile, way_mm: float) -> tuple[float, float]:
    """
    Measure how much of the rib's length lacks bone, by the bone of sections against that of the stubs; and its error.

    A blurred gap lacks as much bone in all as a sharp one.
    """
    ahead = profile.frame.way_mm - way_mm
    away = np.abs(ahead)
    beside = (away >= _BASELINE_MM[0]) & (away <= _BASELINE_MM[1]) & (profile.cortex_mm2 > 0)
    inside = away < _BASELINE_MM[0]
    if beside.sum() < 8:
        return 0.0, np.inf
    line = np.polynomial.polynomial.polyfit(ahead[beside], profile.cortex_mm2[beside], 1)
    usual = np.maximum(np.polynomial.polynomial.polyval(ahead, line), 4.0)
    share = 1 - profile.cortex_mm2 / usual
    width_mm = 2 * _BASELINE_MM[0]
    error = float(np.std(share[beside])) * width_mm / np.sqrt(beside.sum() * STEP_MM / 4.0)  # errors reach over 4 mm
    return float(share[inside].sum() * STEP_MM), error


def _contact(profile: RibProfile, way_mm: float, stubs: Stubs, offset_mm: NDArray[np.float64]) -> float:
    """Return the share of the stubs' mean section that faces the same section, moved by an offset."""
    ahead = profile.frame.way_mm - way_mm
    total, count = np.zeros((len(ACROSS_MM), len(ACROSS_MM))), 0
    for side, end, slope in zip((-1, 1), stubs.ends_mm, stubs.slopes):
        for section in np.flatnonzero((side * ahead >= 3.0) & (side * ahead <= 9.0)):
            middle = (end + slope * ahead[section]) / ACROSS_STEP_MM
            total += ndimage.shift(profile.bone[section], -middle, order=1)
            count += 1
    outline = ndimage.binary_fill_holes(total > 0.5 * max(count, 1)).astype(np.float32)
    # half a sample more on each side, as smooth edges have
    moved = ndimage.shift(outline, offset_mm / ACROSS_STEP_MM, order=1)
    return float(np.clip(np.minimum(outline, moved).sum() / max(float(outline.sum()), 1.0), 0.0, 1.0))
