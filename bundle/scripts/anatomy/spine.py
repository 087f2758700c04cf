"""Find the vertebral column of a chest CT by plain image processing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from scripts.anatomy.body import (
    CUT_SHARE,
    MIN_HALF_BY_DEPTH,
    block_mean,
    body_mask,
    checked_spacing,
    cut_body,
    cut_shares,
    filled_in_planes,
    front_mm,
    is_whole,
    width_and_depth_mm,
)

__all__ = ["SURE_SCORE", "find_canal", "spine_mask"]

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
# When a path is surely the canal where the body is cut: slices that score above SURE_SCORE make up SURE_SHARE of the
# body's slices, or SURE_MM, the length of most thoracic columns, where a scan also shows head or legs. In six chests
# cut in 40 ways each, canals well in view had a share of 0.78 to 1, other paths (along a shoulder) one of 0 to 0.54.
SURE_SCORE = 0.1
SURE_SHARE = 0.7
SURE_MM = 250.0
# The canal lies behind the middle of the body; so far ahead of it where the front is cut off.
MAX_AHEAD_MM = 15.0


def spine_mask(
    image_hu: NDArray, spacing_mm: ArrayLike, scaled_from: tuple[float, float] | None = None
) -> NDArray[np.bool_]:
    """
    Mark the vertebral column: vertebral bodies, canal and processes, but no rib beyond its head.

    The vertebral canal is found first: soft tissue with bone on all four sides, as nothing else in the chest has it (an
    aorta with contrast medium is bright in the middle, table and arms have no such ring). It is followed through the
    slices by dynamic programming, as the path of highest total score whose steps are short. Bone around the path is
    marked as far as a vertebra reaches.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        spacing_mm: voxel size along each axis in mm.
        scaled_from: the HU that the scan was clipped to and scaled linearly from, to [-1, 1]; None: it is in HU.

    Returns:
        ``True`` on the column, shape ``(H, W, D)``; all ``False`` when there is no patient or no spine, and when the
        body is cut and no path surely follows a canal: the one of highest score may run along ribs.

    Raises:
        ValueError: when the image has not three axes or the spacing is not three positive numbers.
    """
    spacing = checked_spacing(image_hu, spacing_mm)
    coarse, factors = block_mean(image_hu, spacing, 3.0)
    if scaled_from is not None:
        low, high = scaled_from
        coarse = coarse * ((high - low) / 2) + (high + low) / 2
    spacing = spacing * factors
    body = body_mask(coarse, spacing)
    mask = np.zeros(coarse.shape, dtype=bool)
    if body.any():
        canal = find_canal(coarse, body, spacing)
        if canal.is_sure or is_whole(coarse, spacing):
            mask = _column_around(canal, coarse, body, spacing)
    for axis, factor in enumerate(factors):
        mask = mask.repeat(factor, axis=axis)
    return np.ascontiguousarray(mask[tuple(slice(size) for size in image_hu.shape)])


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


def find_canal(image_hu: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> _Canal:
    """Find the path through all slices that looks most like the vertebral canal; needs a body."""
    score = _canal_score(image_hu, body, spacing)
    path = _best_path(score + _place_prior(body, spacing), spacing)
    along = score[path[:, 0], path[:, 1], np.arange(len(path))]
    slices = np.flatnonzero(body.any(axis=(0, 1)))
    is_sure = np.count_nonzero(along > SURE_SCORE) >= min(SURE_SHARE * len(slices), SURE_MM / spacing[2])
    # a heart with contrast medium beside calcified cartilage can score as high, in a slab that the spine is not in
    ahead_mm = (path[:, 1] * spacing[1] - front_mm(body, spacing))[slices]
    is_sure &= np.median(ahead_mm) <= MAX_AHEAD_MM
    return _Canal(path, along, bool(is_sure) and not _is_near_flank(path, image_hu, spacing))


def _is_near_flank(path: NDArray[np.int_], image_hu: NDArray, spacing: NDArray[np.float64]) -> bool:
    """Whether a path runs so near a flank that is in view that it follows a shoulder or ribs."""
    body = cut_body(image_hu, spacing)
    if not body.any():
        return False
    columns = np.flatnonzero(body.any(axis=(1, 2)))
    beside_mm = np.abs(columns[[0, -1]] - np.median(path[:, 0])) * spacing[0]
    in_view = cut_shares(body)[0] <= CUT_SHARE
    return bool((beside_mm[in_view] < MIN_HALF_BY_DEPTH * width_and_depth_mm(body, spacing)[1]).any())


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
    front = front_mm(body, spacing)
    middle = np.median((body.sum(axis=1) * right[:, :, 0]).sum(axis=0)[filled] / area[filled])
    return -0.05 * (((right - middle) / 60.0) ** 2 + (np.maximum(0.0, anterior - front) / 15.0) ** 2)


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
    return filled_in_planes(mask) & reach
