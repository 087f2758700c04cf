"""
Find pieces of ribs in a chest CT by plain image processing, where it is sure that they are ribs.

It serves to choose places on ribs in scans that nobody segmented, so a marked piece that is no rib does harm, and a rib
that is missed does little: heads, front ends, first ribs, ribs below the lungs and ribs that touch another bone are
left out. Arrays are ``(H, W, D)`` with axes toward the patient's right, anterior and superior (RAS). Values are HU. No
trained weights are needed.
"""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.morphology import convex_hull_image

from scripts.anatomy.body import block_mean, body_mask, checked_spacing, lung_mask
from scripts.anatomy.bone import METAL_HU, with_marrow
from scripts.anatomy.components import connected_components
from scripts.anatomy.midline import MidsagittalPlane, midsagittal_plane
from scripts.anatomy.spine import spine_mask

__all__ = ["find_ribs"]

# The search runs on a copy of about this voxel size, where a cortex of 1 mm beside fat still exceeds BONE_HU.
COARSE_MM = 1.5
BONE_HU = 180.0
METAL_MARGIN_MM = 6.0
# Marrow that bone encloses in a plane: an axial section along a rib holds up to 8 x 70 mm, the cage far more.
MAX_MARROW_MM2 = (600.0, 600.0, 600.0)
# Where ribs lie from the hull of both lungs: they dent it by a few mm, and their outer cortex is up to 12 mm outside.
INSIDE_HULL_MM = 4.0
OUTSIDE_HULL_MM = 12.0
# The inner cortex of a rib nearly touches the pleura; scapula and clavicle do not come so near.
PLEURA_MM = 6.0
SPINE_MARGIN_MM = 10.0
# Angle about the cavity's middle from straight ahead: sternum, cartilage and inner clavicle lie within.
FRONT_DEGREES = 50.0
# Near the lungs' tips subclavian veins with contrast medium cross the first ribs: only what lies behind is taken.
APEX_MM = 35.0
APEX_FRONT_DEGREES = 90.0
# Limits for a tube cut across every BAND_MM: ribs are 4-10 mm thick and 8-16 mm high.
BAND_MM = 6.0
MIN_SECTION_MM2 = 30.0
MAX_SECTION_MM2 = 350.0
MAX_SECTION_SPREAD_MM = 8.0
# A rib's radius of curvature is over 30 mm; a path that runs from one rib to its neighbor turns more sharply.
TURN_BANDS = 3
MAX_TURN_DEGREES = 50.0
MIN_LENGTH_MM = 40.0
# Where thick slices leave a cortex open, the marrow of a piece, 8 mm thick, is closed from both sides.
CLOSING_MM = 4.0


def find_ribs(image_hu: NDArray, spacing_mm: ArrayLike, spine: NDArray[np.bool_] | None = None) -> NDArray[np.int16]:
    """
    Mark pieces of ribs, each a connected solid tube of one rib at least 40 mm long, marrow included.

    Candidates are bone close around the hull of both lungs, away from the vertebral column and the front of the chest.
    Every candidate is cut across, every 6 mm of the way from its one end, into sections. Sections too small, too large
    or too wide for a rib, those away from the pleura, and those where paths branch or turn sharply are dropped, which
    parts ribs that touch; what still hangs together over 40 mm is a piece.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        spacing_mm: voxel size along each axis in mm.
        spine: what :func:`scripts.anatomy.midline.spine_mask` marks in this scan; found here where it is not given.

    Returns:
        1 to n in the n pieces, 0 elsewhere, shape ``(H, W, D)``; all 0 where there are no lungs or no such bone, or
        where the scan does not show surely where the mid-sagittal plane lies. A rib may give several pieces or none.

    Raises:
        ValueError: when the image has not three axes, the spacing is not three positive numbers, or the spine has
            another shape than the image.
    """
    spacing = checked_spacing(image_hu, spacing_mm)
    if spine is not None and spine.shape != image_hu.shape:
        raise ValueError(f"spine must have the image's shape {image_hu.shape}, got {spine.shape}.")
    coarse, factors = block_mean(image_hu, spacing, COARSE_MM)
    step = spacing * factors
    hull = _lung_hull(coarse, step)
    if not hull.any():
        return np.zeros(image_hu.shape, dtype=np.int16)
    outside_mm = ndimage.distance_transform_edt(~hull, sampling=step)
    candidates = with_marrow(coarse > BONE_HU, step, MAX_MARROW_MM2) & (outside_mm <= OUTSIDE_HULL_MM)
    candidates &= ndimage.distance_transform_edt(hull, sampling=step) <= INSIDE_HULL_MM
    plane = midsagittal_plane(image_hu, spacing)
    if plane is None:
        return np.zeros(image_hu.shape, dtype=np.int16)
    candidates &= ~_front(hull, plane, step)
    candidates &= ~_within(coarse > METAL_HU, METAL_MARGIN_MM, step)
    column = block_mean(spine_mask(image_hu, spacing) if spine is None else spine, spacing, COARSE_MM)[0] >= 0.5
    candidates &= ~_within(column, SPINE_MARGIN_MM, step)
    return _at_full_size(_tubes(candidates, outside_mm, step), image_hu, spacing, factors)


def _lung_hull(coarse: NDArray, step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the convex hull of both lungs in every axial slice: lungs, mediastinum, and the domes under the lungs."""
    hull = lung_mask(coarse, body_mask(coarse, step), step)
    for k in np.flatnonzero(hull.any(axis=(0, 1))):
        hull[:, :, k] = convex_hull_image(hull[:, :, k])
    return hull


def _within(mask: NDArray[np.bool_], distance_mm: float, step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark what lies within a distance of a mask."""
    return ndimage.distance_transform_edt(~mask, sampling=step) <= distance_mm if mask.any() else mask


def _closed(mask: NDArray[np.bool_], radius_mm: float, step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Close gaps in a mask up to twice the radius wide."""
    margins = [(margin, margin) for margin in np.ceil(radius_mm / step).astype(int) + 1]
    grown = _within(np.pad(mask, margins), radius_mm, step)
    closed = ~_within(~grown, radius_mm, step)
    return closed[tuple(slice(low, -high) for low, high in margins)]


def _front(hull: NDArray[np.bool_], plane: MidsagittalPlane, step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the sector in front of the hull's middle, wider near the lungs' tips."""
    i, j, k = (np.arange(size) * length for size, length in zip(hull.shape, step))
    x, y, _ = plane.normal
    lateral = np.abs(x * i[:, None, None] + y * j[:, None] + plane.normal[2] * k - plane.offset_mm)
    anterior = x * j - y * i[:, None]
    area = hull.sum(axis=(0, 1))
    middle = np.tensordot(anterior, hull, axes=2) / np.maximum(area, 1)
    is_apex = k > k[area > 0].max() - APEX_MM
    degrees = np.degrees(np.arctan2(lateral, anterior[:, :, None] - middle))
    return degrees < np.where(is_apex, APEX_FRONT_DEGREES, FRONT_DEGREES)


def _tubes(
    candidates: NDArray[np.bool_], outside_mm: NDArray[np.float64], step: NDArray[np.float64]
) -> NDArray[np.int16]:
    """Number the pieces of candidates that are tubes of a rib's size."""
    width_mm = max(BAND_MM, 1.5 * float(np.linalg.norm(step)))  # a band parts what lies on its two sides
    numbers = connected_components(candidates)
    pieces = np.zeros(candidates.shape, dtype=np.int16)
    count = 0
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        mask = numbers[box] == number
        if mask.sum() * step.prod() < MIN_SECTION_MM2 * MIN_LENGTH_MM:
            continue
        sections = _sections(mask, width_mm, step)
        centers, is_rib = _rib_sections(sections, outside_mm[box], width_mm, step)
        for path in _paths(sections, is_rib):
            for run in _straight_runs(path, centers):
                length_mm = np.linalg.norm(np.diff(centers[run], axis=0), axis=1).sum() + width_mm
                if length_mm >= MIN_LENGTH_MM:
                    count += 1
                    pieces[box][np.isin(sections, run)] = count
    return pieces


def _sections(mask: NDArray[np.bool_], width_mm: float, step: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number the connected parts of bands of equal way through the mask from its farthest end, 0 outside the mask."""
    ways = MCP_Geometric(np.where(mask, 1.0, -1.0), sampling=tuple(step))
    start = np.argwhere(mask)[0]
    for _ in range(2):  # what is farthest from anywhere is an end
        way_mm = np.where(mask, ways.find_costs([start])[0], -1.0)
        start = np.array(np.unravel_index(way_mm.argmax(), mask.shape))
    is_odd = way_mm // width_mm % 2 == 1
    even, odd = (connected_components(mask & part).astype(np.int64) for part in (~is_odd, is_odd))
    return even + np.where(odd > 0, odd + even.max(), 0)


def _rib_sections(
    sections: NDArray[np.int64], outside_mm: NDArray[np.float64], width_mm: float, step: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the center of each section in mm, and whether it can be a rib's; number 0 is the background."""
    boxes = ndimage.find_objects(sections)
    centers = np.zeros((len(boxes) + 1, 3))
    is_rib = np.zeros(len(boxes) + 1, dtype=bool)
    for number, box in enumerate(boxes, start=1):
        inside = sections[box] == number
        points = (np.argwhere(inside) + [part.start for part in box]) * step
        centers[number] = points.mean(axis=0)
        area_mm2 = len(points) * step.prod() / width_mm
        if MIN_SECTION_MM2 <= area_mm2 <= MAX_SECTION_MM2 and outside_mm[box][inside].min() <= PLEURA_MM:
            spread_mm = np.sqrt(np.linalg.eigvalsh(np.cov(points.T))[-1])
            is_rib[number] = spread_mm <= MAX_SECTION_SPREAD_MM
    return centers, is_rib


def _paths(sections: NDArray[np.int64], is_rib: NDArray[np.bool_]) -> list[list[int]]:
    """Order the sections that follow one another without a branch, from end to end; rings have no end and are lost."""
    edges = [edge for edge in cc3d.region_graph(sections.astype(np.uint32), connectivity=26) if is_rib[[*edge]].all()]
    degree = np.bincount(np.array(edges, dtype=int).ravel(), minlength=len(is_rib))
    neighbors: dict[int, list[int]] = {}
    for a, b in edges:
        if max(degree[a], degree[b]) <= 2:
            neighbors.setdefault(a, []).append(b)
            neighbors.setdefault(b, []).append(a)
    paths = []
    ends = sorted(section for section, others in neighbors.items() if len(others) == 1)
    walked: set[int] = set()
    for end in ends:
        if end not in walked:
            path = [end, neighbors[end][0]]
            while len(others := [other for other in neighbors[path[-1]] if other != path[-2]]) == 1:
                path += others
            walked.update(path)
            paths.append(path)
    return paths


def _straight_runs(path: list[int], centers: NDArray[np.float64]) -> list[list[int]]:
    """Cut a path where it turns more sharply than a rib."""
    points = centers[path]
    runs: list[list[int]] = [[]]
    for i, section in enumerate(path):
        before, after = (
            points[i] - points[max(0, i - TURN_BANDS)],
            points[min(len(path) - 1, i + TURN_BANDS)] - points[i],
        )
        if 0 < i < len(path) - 1:
            cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
            if cosine < np.cos(np.radians(MAX_TURN_DEGREES)):
                runs.append([])
                continue
        runs[-1].append(section)
    return [run for run in runs if run]


def _at_full_size(
    pieces: NDArray[np.int16], image_hu: NDArray, spacing: NDArray[np.float64], factors: NDArray[np.int_]
) -> NDArray[np.int16]:
    """Give pieces the scan's own grid, and at their surface its own bone; the largest connected part of each stays."""
    found = np.zeros(image_hu.shape, dtype=np.int16)
    step = spacing * factors
    count = 0
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        fine_box = tuple(slice(part.start * factor, part.stop * factor) for part, factor in zip(box, factors))
        scan = image_hu[fine_box]
        piece = _closed(pieces[box] == number, CLOSING_MM, step)
        core = ndimage.binary_erosion(piece)
        for axis, factor in enumerate(factors):
            piece, core = (np.take(a.repeat(factor, axis), range(scan.shape[axis]), axis) for a in (piece, core))
        # a margin, or marrow that reaches the box would count as open
        bone = np.pad(core | piece & (scan > BONE_HU), 1)
        parts = connected_components(with_marrow(bone, spacing, MAX_MARROW_MM2)[1:-1, 1:-1, 1:-1] & piece)
        if parts.any():
            count += 1
            found[fine_box][parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])] = count
    return found
