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

__all__ = ["MidsagittalPlane", "cut_shares", "known_plane", "midsagittal_plane", "spine_mask"]

# Fat is about -100 HU, lung below -500: everything above this is the patient, the table, or clothes.
BODY_HU = -150.0
# Lung, but for emphysema, is between these; air outside the body is below.
OUTSIDE_HU = -950.0
LUNG_HU = -500.0

# The vertebral canal as a template in the axial plane, mm: soft tissue with bone at each of these (right, anterior)
# offsets from its center, which are the pedicles, the vertebral body and the spinous process's root.
CANAL_WALLS_MM = ((14.0, 0.0), (-14.0, 0.0), (0.0, 20.0), (0.0, -15.0))
# The reach of a vertebra around the center of its canal, mm: half width and depth of the body with the transverse
# processes, half width and depth of the spinous process. From the vertebra masks of two scans (T1 to L3): they hold
# 99 % of the vertebrae, and rib heads begin where they end.
COLUMN_HALF_WIDTH_MM = 30.0
PEDICLE_ANTERIOR_MM = 10.0
COLUMN_ANTERIOR_MM = 58.0
COLUMN_POSTERIOR_MM = 32.0
SPINOUS_HALF_WIDTH_MM = 13.0
SPINOUS_POSTERIOR_MM = 65.0
# A narrower piece of tissue is no body.
MIN_BODY_MM = 100.0
# When a path is surely the canal where the body is cut: slices that score above SURE_SCORE make up SURE_SHARE of the
# body's slices, or SURE_MM, the length of most thoracic columns, where a scan also shows head or legs. In six chests
# cut in 40 ways each, canals well in view had a share of 0.78 to 1, other paths (along a shoulder) one of 0 to 0.54.
SURE_SCORE = 0.1
SURE_SHARE = 0.7
SURE_MM = 250.0
# The canal lies behind the middle of the body; so far ahead of it where the front is cut off.
MAX_AHEAD_MM = 15.0
# A border cuts the body where the body's extent there has so large a share of its greatest one.
CUT_SHARE = 0.3
# The width of a chest is 1.3 to 1.7 times its depth (12 scans). One narrower than this is cut, if by a round field of
# view; from the canal to a flank it is at least so far, and one half is at most so wide.
MIN_WIDTH_BY_DEPTH = 1.15
MIN_HALF_BY_DEPTH = 0.5
MAX_HALF_BY_DEPTH = 0.75
# Where so much of both halves is in view beside the canal, mm, they mirror well about the right plane alone.
MIN_HALF_MM = 90.0
# So far may that plane pass beside the canal, mm.
MAX_BESIDE_CANAL_MM = 15.0


def spine_mask(image_hu: NDArray, spacing_mm: ArrayLike) -> NDArray[np.bool_]:
    """
    Mark the vertebral column: vertebral bodies, canal and processes, but no rib beyond its head.

    The vertebral canal is found first: soft tissue with bone on all four sides, as nothing else in the chest has it (an
    aorta with contrast medium is bright in the middle, table and arms have no such ring). It is followed through the
    slices by dynamic programming, as the path of highest total score whose steps are short. Bone around the path is
    marked as far as a vertebra reaches.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        spacing_mm: voxel size along each axis in mm.

    Returns:
        ``True`` on the column, shape ``(H, W, D)``; all ``False`` when there is no patient or no spine, and when the
        body is cut and no path surely follows a canal: the one of highest score may run along ribs.

    Raises:
        ValueError: when the image has not three axes or the spacing is not three positive numbers.
    """
    spacing = _checked_spacing(image_hu, spacing_mm)
    coarse, factors = _block_mean(image_hu, spacing, 3.0)
    spacing = spacing * factors
    body = _body_mask(coarse, spacing)
    mask = np.zeros(coarse.shape, dtype=bool)
    if body.any():
        canal = _find_canal(coarse, body, spacing)
        if canal.is_sure or _is_whole(coarse, spacing):
            mask = _column_around(canal, coarse, body, spacing)
    for axis, factor in enumerate(factors):
        mask = mask.repeat(factor, axis=axis)
    return np.ascontiguousarray(mask[tuple(slice(size) for size in image_hu.shape)])


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


def cut_shares(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """
    Tell how much of a thing the borders across, before and behind cut.

    Args:
        mask: marks the thing, shape ``(H, W, D)``; gaps do not matter, as lungs leave them that a border opens.

    Returns:
        of the first and last slice along the first two axes, the thing's extent there as a share of its greatest one,
        summed over the axial slices, in [0, 1], shape ``(2, 2)``; 0 where there is nothing.
    """
    shares = np.zeros((2, 2))
    for axis in range(2):
        across = 1 - axis
        last = mask.shape[across] - np.flip(mask, across).argmax(axis=across)
        extents = np.where(mask.any(axis=across), last - mask.argmax(axis=across), 0).sum(axis=1)
        shares[axis] = extents[[0, -1]] / max(1, extents.max())
    return shares


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
    spacing = _checked_spacing(image_hu, spacing_mm)
    coarse, factors = _block_mean(image_hu, spacing, 4.0)
    first_center = (factors - 1) * spacing / 2  # of the first block, which lies not at voxel (0, 0, 0)
    step = spacing * factors
    body = _body_mask(coarse, step)
    columns = np.flatnonzero(body.any(axis=(1, 2)))
    if len(columns) == 0 or np.ptp(columns) * step[0] < MIN_BODY_MM:
        return None
    if _is_whole(coarse, step):
        return _mirror_plane(coarse, body, step, first_center)
    canal = _canal_points(image_hu, spacing)
    if canal is not None:
        borders = first_center[0] + columns[[0, -1]] * step[0]
        return _plane_at_canal(canal, borders, _mirror_plane(coarse, body, step, first_center))
    cut_body = _cut_body(coarse, step)
    width_mm, depth_mm = _width_and_depth_mm(cut_body, step)
    is_cut = cut_shares(cut_body) > CUT_SHARE
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
    coarse, factors = _block_mean(image_hu, spacing, 3.0)
    step = spacing * factors
    body = _body_mask(coarse, step)
    if not body.any():
        return None
    canal = _find_canal(coarse, body, step)
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


def _checked_spacing(image: NDArray, spacing_mm: ArrayLike) -> NDArray[np.float64]:
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image must have three axes (H, W, D) and at least one voxel, got shape {image.shape}.")
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"spacing_mm must be three positive numbers, got {spacing_mm!r}.")
    return spacing


def _block_mean(
    image: NDArray, spacing: NDArray[np.float64], target_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Average blocks of voxels of about ``target_mm`` a side; return the copy and the voxels a block has per axis."""
    factors = np.maximum(1, np.round(target_mm / spacing)).astype(int)
    shape = -(-np.array(image.shape) // factors)
    padding = [(0, int(n * f - size)) for n, f, size in zip(shape[1:], factors[1:], image.shape[1:])]
    coarse = np.empty(shape, dtype=np.float32)
    for i in range(shape[0]):
        # one slab at a time: no second copy of the whole scan
        slab = image[i * factors[0] : (i + 1) * factors[0]].mean(axis=0, dtype=np.float32)
        slab = np.pad(slab, padding, mode="edge")
        coarse[i] = slab.reshape(shape[1], factors[1], shape[2], factors[2]).mean(axis=(1, 3))
    return coarse, factors


def _body_mask(image_hu: NDArray, spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the patient, lungs filled: the largest piece once table and clothes, thinner than 12 mm, are opened away."""
    tissue = image_hu > BODY_HU
    for k in range(tissue.shape[2]):
        tissue[:, :, k] = ndimage.binary_fill_holes(tissue[:, :, k])
    reach = np.maximum(1, np.round(6.0 / spacing)).astype(int)
    tissue = ndimage.binary_opening(tissue, np.ones((2 * reach[0] + 1, 2 * reach[1] + 1, 1), dtype=bool))
    pieces, count = ndimage.label(tissue)
    if count == 0:
        return tissue
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


@dataclass(frozen=True)
class _Canal:
    """
    The path that looks most like the vertebral canal.

    Args:
        path: its voxel in each slice of a coarse copy, shape ``(D, 2)``.
        along: its score in each slice, shape ``(D,)``.
        is_sure: whether it surely follows a canal.
    """

    path: NDArray[np.int_]
    along: NDArray[np.float64]
    is_sure: bool


def _find_canal(image_hu: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> _Canal:
    """Find the path through all slices that looks most like the vertebral canal; needs a body."""
    score = _canal_score(image_hu, body, spacing)
    path = _best_path(score + _place_prior(body, spacing), spacing)
    along = score[path[:, 0], path[:, 1], np.arange(len(path))]
    slices = np.flatnonzero(body.any(axis=(0, 1)))
    is_sure = np.count_nonzero(along > SURE_SCORE) >= min(SURE_SHARE * len(slices), SURE_MM / spacing[2])
    # a heart with contrast medium beside calcified cartilage can score as high, in a slab that the spine is not in
    ahead_mm = (path[:, 1] * spacing[1] - _front_mm(body, spacing))[slices]
    is_sure &= np.median(ahead_mm) <= MAX_AHEAD_MM
    return _Canal(path, along, bool(is_sure) and not _is_near_flank(path, image_hu, spacing))


def _is_near_flank(path: NDArray[np.int_], image_hu: NDArray, spacing: NDArray[np.float64]) -> bool:
    """Whether a path runs so near a flank that is in view that it follows a shoulder or ribs."""
    body = _cut_body(image_hu, spacing)
    if not body.any():
        return False
    columns = np.flatnonzero(body.any(axis=(1, 2)))
    beside_mm = np.abs(columns[[0, -1]] - np.median(path[:, 0])) * spacing[0]
    in_view = cut_shares(body)[0] <= CUT_SHARE
    return bool((beside_mm[in_view] < MIN_HALF_BY_DEPTH * _width_and_depth_mm(body, spacing)[1]).any())


def _cut_body(image_hu: NDArray, spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the patient, lungs filled, also those that a border across, before or behind cuts open."""
    closed = image_hu
    for axis in range(2):
        ends = np.moveaxis(closed, axis, 0)[[0, -1]]
        tissue = ends > BODY_HU
        before, behind = (np.logical_or.accumulate(side, axis=1) for side in (tissue, tissue[:, ::-1]))
        is_lid = before & behind[:, ::-1] & (ends > OUTSIDE_HU)
        lids = np.moveaxis(np.where(is_lid, 0.0, -1000.0).astype(image_hu.dtype), 0, axis)
        first, last = np.split(lids, 2, axis=axis)
        closed = np.concatenate([first, closed, last], axis=axis)
    return _body_mask(closed, spacing)[1:-1, 1:-1]


def _is_whole(image_hu: NDArray, spacing: NDArray[np.float64]) -> bool:
    """Whether both flanks of a body are in view, and not just where a round field of view ends."""
    body = _cut_body(image_hu, spacing)
    if not body.any():
        return False
    width_mm, depth_mm = _width_and_depth_mm(body, spacing)
    if (cut_shares(body)[0] > CUT_SHARE).any() or width_mm < MIN_WIDTH_BY_DEPTH * depth_mm:
        return False
    # where front or back is cut off as well, nothing closes the lung that a border cuts
    borders = image_hu[[0, -1]]
    lung = np.count_nonzero((borders > OUTSIDE_HU) & (borders < LUNG_HU), axis=(1, 2))
    return bool((lung <= CUT_SHARE * depth_mm / spacing[1] * image_hu.shape[2]).all())


def _width_and_depth_mm(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the extent of the body along the first and the second axis; needs a body."""
    return np.array([np.ptp(np.flatnonzero(body.any(axis=axes))) for axes in ((1, 2), (0, 2))]) * spacing[:2]


def _canal_score(image_hu: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray:
    """Score every voxel as the canal's center, about 0.2 in a canal, below 0.05 elsewhere; -1 outside the body."""
    # from 80 HU, the marrow of an old patient, to 330 HU, dense bone
    bone = np.clip((image_hu - 80.0) / 250.0, 0.0, 1.0)
    # 10 mm along the column reaches over a disk to the next vertebra's arch
    bone = ndimage.gaussian_filter(bone, np.array([5.0, 5.0, 10.0]) / spacing, mode="constant", truncate=3.0)
    steps = np.round(np.array(CANAL_WALLS_MM) / spacing[:2]).astype(int)
    margin = int(np.abs(steps).max())
    height, width, _ = bone.shape
    padded = np.pad(bone, [(margin, margin), (margin, margin), (0, 0)])
    walls = np.stack([padded[margin + i :, margin + j :][:height, :width] for i, j in steps])
    darker = walls.mean(axis=0) - bone
    # the weakest wall counts most; a solid block has no canal, however bright
    score = np.minimum(walls.min(axis=0) + 0.25 * walls.mean(axis=0) - bone, 2.0 * darker)
    return np.where(body, score, -1.0)


def _place_prior(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray:
    """Penalize places far from the body's middle, and in front of it: 0.05 at 60 mm to the side or 15 mm in front."""
    right = np.arange(body.shape[0])[:, None, None] * spacing[0]
    anterior = np.arange(body.shape[1])[None, :, None] * spacing[1]
    area = body.sum(axis=(0, 1))
    filled = area > 0
    front = _front_mm(body, spacing)
    middle = np.median((body.sum(axis=1) * right[:, :, 0]).sum(axis=0)[filled] / area[filled])
    return -0.05 * (((right - middle) / 60.0) ** 2 + (np.maximum(0.0, anterior - front) / 15.0) ** 2)


def _front_mm(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far ahead the body's middle lies in each slice, shape ``(D,)``, infinite without a body."""
    anterior = np.arange(body.shape[1])[None, :, None] * spacing[1]
    area = body.sum(axis=(0, 1))
    filled = area > 0
    front = np.full(body.shape[2], np.inf)
    front[filled] = (body.sum(axis=0) * anterior[0]).sum(axis=0)[filled] / area[filled]
    return front


def _best_path(score: NDArray, spacing: NDArray[np.float64]) -> NDArray[np.int_]:
    """
    Find the voxel per slice whose scores sum highest, less a cost for steps, by dynamic programming.

    Returns:
        in-plane voxel of the path per slice, shape ``(D, 2)``.
    """
    height, width, depth = score.shape
    # a column leans 45 degrees at most
    reach = max(1, int(np.ceil(spacing[2] / spacing[:2].min())))
    steps = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    # half a canal's score, 0.1, for a step of 45 degrees over 15 mm
    costs = [0.1 * ((i * spacing[0]) ** 2 + (j * spacing[1]) ** 2) / spacing[2] / 15.0 for i, j in steps]
    total = score[:, :, 0]
    chosen = np.zeros((depth, height, width), dtype=np.uint16)
    for k in range(1, depth):
        padded = np.pad(total, reach, constant_values=-np.inf)
        moved = [padded[reach + i :, reach + j :][:height, :width] - cost for (i, j), cost in zip(steps, costs)]
        options = np.stack(moved)
        chosen[k] = options.argmax(axis=0)
        total = options.max(axis=0) + score[:, :, k]
    path = np.zeros((depth, 2), dtype=int)
    path[-1] = np.unravel_index(total.argmax(), total.shape)
    for k in range(depth - 1, 0, -1):
        path[k - 1] = path[k] + steps[chosen[k][tuple(path[k])]]
    return path


def _column_around(
    canal: _Canal, image_hu: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Mark the bone within a vertebra's reach of the path, with what it encloses, where the path follows a canal."""
    height, width, _ = image_hu.shape
    path = canal.path
    followed = ndimage.gaussian_filter1d(canal.along, 10.0 / spacing[2], mode="nearest") > 0.02
    lateral = np.abs(np.arange(height)[:, None, None] - path[:, 0]) * spacing[0]
    anterior = (np.arange(width)[None, :, None] - path[:, 1]) * spacing[1]
    # in front of the pedicles an ellipse, which leaves most of the aorta out
    depth_of_body = np.maximum(0.0, anterior - PEDICLE_ANTERIOR_MM) / (COLUMN_ANTERIOR_MM - PEDICLE_ANTERIOR_MM)
    reach = (lateral / COLUMN_HALF_WIDTH_MM) ** 2 + depth_of_body**2 <= 1
    reach &= anterior >= -COLUMN_POSTERIOR_MM
    reach |= (lateral <= SPINOUS_HALF_WIDTH_MM) & (anterior >= -SPINOUS_POSTERIOR_MM) & (anterior <= 0)
    reach &= body & followed
    bone = reach & (image_hu > 130.0)
    radius = np.maximum(1, np.round(6.0 / spacing)).astype(int)
    # padded, since closing erodes at the border
    padded = np.pad(bone, [(r, r) for r in radius[:2]] + [(0, 0)])
    closed = ndimage.binary_closing(padded, np.ones((2 * radius[0] + 1, 2 * radius[1] + 1, 1), dtype=bool))
    mask = closed[radius[0] : radius[0] + height, radius[1] : radius[1] + width]
    for k in np.flatnonzero(followed):
        mask[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
    return mask & reach


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
