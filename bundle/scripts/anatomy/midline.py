"""
Find the vertebral column and the mid-sagittal plane of a chest CT by plain image processing.

Both work on a coarse copy of the scan and take no trained weights. Arrays are ``(H, W, D)`` with axes toward the
patient's right, anterior and superior (RAS), so left and right mean the patient's. Values are HU; a scan that was
clipped to [-200, 1000] HU gives nearly the same result, since no threshold here lies below ``BODY_HU``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize

from scripts.anatomy.body import (
    CUT_SHARE,
    MAX_HALF_BY_DEPTH,
    MIN_BODY_MM,
    block_mean,
    body_mask,
    checked_spacing,
    cut_body,
    cut_shares,
    is_whole,
    width_and_depth_mm,
)
from scripts.anatomy.spine import SURE_SCORE, find_canal

__all__ = ["MidsagittalPlane", "known_plane", "midsagittal_plane"]


# Where so much of both halves is in view beside the canal, mm, they mirror well about the right plane alone.
MIN_HALF_MM = 90.0
# So far may that plane pass beside the canal, mm.
MAX_BESIDE_CANAL_MM = 15.0


@dataclass(frozen=True)
class MidsagittalPlane:
    """
    The plane that divides a body into left and right: all points ``x`` with ``normal @ x == offset_mm``.

    Points are in mm in the array's own frame: voxel ``(i, j, k)`` lies at ``(i, j, k) * spacing_mm``.

    Args:
        normal: unit vector toward the patient's right, shape ``(3,)``.
        offset_mm: signed distance of the plane from voxel ``(0, 0, 0)`` along the normal.
    """

    normal: NDArray[np.float64]
    offset_mm: float


def known_plane(plane: ArrayLike | None) -> NDArray[np.float64] | None:
    """
    Take a plane as ``MidsagittalPlaned`` stores it.

    Args:
        plane: ``(nx, ny, nz, d)``, NaN where the scan does not show surely where it lies; or None.

    Returns:
        the plane, float64, shape ``(4,)``; None where it is not known.
    """
    known = None if plane is None else np.asarray(plane, dtype=float)
    return None if known is None or np.isnan(known).any() else known


def midsagittal_plane(image_hu: NDArray, spacing_mm: ArrayLike) -> MidsagittalPlane | None:
    """
    Find the mid-sagittal plane, where the scan surely shows on which side of it each part of the body lies.

    Where both flanks are in view, it is the plane across which the patient's bones and outline mirror best. The
    agreement of the scan with its mirror image is maximized over the plane's offset and its rotations about the
    patient's superior and anterior axes, each up to about 25 degrees. Large bright things that have no partner (heart
    and aorta with contrast medium) are left out by a top-hat filter. The scan must not be scaled.

    A narrower field of view can mirror well about a wrong plane. It is believed where it passes the vertebral canal and
    much of both halves is in view. Else the plane is sagittal, through the canal, leaning with it. Where no canal is in
    view, but front, back and one flank, one half of the body is in view alone: the plane is the border that cuts it.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        spacing_mm: voxel size along each axis in mm.

    Returns:
        the plane; a border of the array where one half of the body is in view alone; None where it is doubtful, or
        when there is no body, or one under 100 mm across.

    Raises:
        ValueError: when the image has not three axes or the spacing is not three positive numbers.
    """
    spacing = checked_spacing(image_hu, spacing_mm)
    coarse, factors = block_mean(image_hu, spacing, 4.0)
    first_center = (factors - 1) * spacing / 2  # of the first block, which lies not at voxel (0, 0, 0)
    step = spacing * factors
    body = body_mask(coarse, step)
    columns = np.flatnonzero(body.any(axis=(1, 2)))
    if len(columns) == 0 or np.ptp(columns) * step[0] < MIN_BODY_MM:
        return None
    if is_whole(coarse, step):
        return _mirror_plane(coarse, body, step, first_center)
    canal = _canal_points(image_hu, spacing)
    if canal is not None:
        borders = first_center[0] + columns[[0, -1]] * step[0]
        return _plane_at_canal(canal, borders, _mirror_plane(coarse, body, step, first_center))
    body_in_view = cut_body(coarse, step)
    width_mm, depth_mm = width_and_depth_mm(body_in_view, step)
    is_cut = cut_shares(body_in_view) > CUT_SHARE
    if is_cut[0].sum() == 1 and not is_cut[1].any() and width_mm <= MAX_HALF_BY_DEPTH * depth_mm:
        # half a voxel outside, so that no voxel lies on it
        offset = -0.5 if is_cut[0, 0] else image_hu.shape[0] - 0.5
        return MidsagittalPlane(np.array([1.0, 0.0, 0.0]), float(offset * spacing[0]))
    return None


def _mirror_plane(
    coarse: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64], first_center: NDArray[np.float64]
) -> MidsagittalPlane:
    """Find the plane across which a coarse copy mirrors best, in the frame of the array it was made from."""
    center = np.array(ndimage.center_of_mass(body)) * spacing
    thin = _thin_bone(coarse, body, spacing)
    # blurred first, so that a rib meets its partner from afar, and not its partner's neighbor
    broad = _disagreement(_symmetry_feature(thin, body, 12.0, spacing), spacing, center, 6000)
    fine = _disagreement(_symmetry_feature(thin, body, 5.0, spacing), spacing, center, 30000)
    starts = product(np.arange(-40.0, 41.0, 10.0), np.radians([-16, -8, 0, 8, 16]), np.radians([-8, 0, 8]))
    plane = _refine(fine, _refine(broad, np.array(min(starts, key=broad))))
    normal = _normal(plane[1], plane[2])
    return MidsagittalPlane(normal, float(plane[0] + normal @ (center + first_center)))


def _canal_points(image_hu: NDArray, spacing: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the canal's centers in mm where a path surely follows one, shape ``(n, 3)``, or None."""
    coarse, factors = block_mean(image_hu, spacing, 3.0)
    step = spacing * factors
    body = body_mask(coarse, step)
    if not body.any():
        return None
    canal = find_canal(coarse, body, step)
    if not canal.is_sure:
        return None
    levels = np.flatnonzero(canal.along > SURE_SCORE)
    return np.column_stack([canal.path[levels], levels]) * step + (factors - 1) * spacing / 2


def _plane_at_canal(
    canal_mm: NDArray[np.float64], borders_mm: NDArray[np.float64], mirror: MidsagittalPlane
) -> MidsagittalPlane:
    """Take the mirror plane where it passes the canal and both halves are in view, else a sagittal one at the canal."""
    right_mm = np.median(canal_mm[:, 0])
    beside_mm = np.median(np.abs(canal_mm @ mirror.normal - mirror.offset_mm))
    if np.abs(borders_mm - right_mm).min() >= MIN_HALF_MM and beside_mm <= MAX_BESIDE_CANAL_MM:
        return mirror
    slope = np.polyfit(canal_mm[:, 2], canal_mm[:, 0], 1)[0] if len(canal_mm) > 1 else 0.0
    normal = np.array([1.0, 0.0, -slope]) / np.hypot(1.0, slope)
    return MidsagittalPlane(normal, float(np.median(canal_mm @ normal)))


def _thin_bone(image_hu: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray:
    """Weigh bone thinner than 16 mm, in [0, 1]: ribs and arches, but no heart or aorta with contrast medium."""
    bone = np.clip((image_hu - 100.0) / 300.0, 0.0, 1.0) * body
    return ndimage.white_tophat(bone, size=tuple(np.maximum(1, np.round(16.0 / spacing)).astype(int)))


def _symmetry_feature(
    thin_bone: NDArray, body: NDArray[np.bool_], blur_mm: float, spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Blur thin bone, and add a little of the body: without it, ribs that meet the wrong ribs can agree best."""
    outline = ndimage.gaussian_filter(body.astype(np.float64), 8.0 / spacing, mode="constant")
    return ndimage.gaussian_filter(thin_bone, blur_mm / spacing, mode="constant") + 0.03 * outline


def _normal(yaw: float, roll: float) -> NDArray[np.float64]:
    """Turn the unit vector to the right about the superior and the anterior axis, radians."""
    return np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])


def _disagreement(
    feature: NDArray, spacing: NDArray[np.float64], center: NDArray, count: int
) -> Callable[[ArrayLike], float]:
    """Make the function of a plane (offset from the center in mm, yaw, roll) that is least where the mirror agrees."""
    rng = np.random.default_rng(0)
    # points with the feature as their density stand for all voxels
    drawn = rng.choice(feature.size, size=count, p=feature.ravel() / feature.sum())
    voxels = np.stack(np.unravel_index(drawn, feature.shape), axis=1)
    # off the grid, or planes that map grid to grid would agree best for being interpolated least
    points = (voxels + rng.uniform(-0.5, 0.5, voxels.shape)) * spacing - center

    def disagreement(plane: ArrayLike) -> float:
        offset, yaw, roll = np.asarray(plane)
        normal = _normal(yaw, roll)
        mirrored = (points - 2 * np.outer(points @ normal - offset, normal) + center) / spacing
        return -float(ndimage.map_coordinates(feature, mirrored.T, order=1, mode="constant").mean())

    return disagreement


def _refine(disagreement: Callable[[ArrayLike], float], plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Go down from a plane to the next minimum."""
    simplex = plane + np.array([[0, 0, 0], [6.0, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 2e-6, "maxfev": 100}
    return optimize.minimize(disagreement, plane, method="Nelder-Mead", options=options).x
