"""What the search for ribs works on: a copy of the scan in equal steps, its bone, and where the chest's wall lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

from scripts.anatomy.body import block_mean, body_mask, is_whole, lung_mask
from scripts.anatomy.bone import METAL_HU, with_marrow
from scripts.anatomy.spine import find_canal

__all__ = ["ChestFrame", "chest_frame"]

# A rib is 5 to 10 mm thick: three voxels or more.
GRID_MM = 1.5
CANAL_MM = 3.0
CANAL_SMOOTHING_MM = 10.0
# At GRID_MM costal cartilage reaches 130 HU, the cortex of an old rib in slices of 5 mm 160 HU.
NOISE_VOXELS = 0.3
NO_BONE_HU = 120.0
BONE_HU = 140.0
SURE_BONE_HU = 220.0
# In the chest's wall the 90th percentile above 90 HU was 440 to 610 HU in 6 chest CT, 200 to 280 HU in phantoms with
# osteopenia: the limits above fall with it.
SOFT_TISSUE_HU = 90.0
DENSE_HU = 380.0
LEAST_DENSITY = 0.6
WEAK_NOISE_VOXELS = 0.8
# Marrow that bone encloses in a sagittal, coronal or axial plane: an axial section along a rib holds up to 8 x 70 mm;
# in the other planes neighboring ribs with the spine between enclose little more than a rib's section.
MAX_MARROW_MM2 = (120.0, 120.0, 600.0)
# No rib holds a cube of this size; kidney, spleen and heart with contrast medium, vertebra and manubrium do.
SOLID_MM = 13.0
SOLID_HU = 110.0
SOLID_SMOOTHING_MM = 2.2
SOLID_OUTSIDE_MM = 1.0  # a rib and the scapula on it can hold the cube, outside of the lungs' hull
METAL_MARGIN_MM = 3.0
MIN_HULL_VOXELS = 5  # along both axes of a slice, for a hull that is no line
# A rib's section lies up to 8 mm outside the hull of the lungs; scapula and clavicle count little, so that the bone
# that is nearer wins, but not nothing: where a tumor or an effusion fills a lung, its hull is too small.
WALL_MM = 8.0
OUTSIDE_MM = 18.0
INSIDE_MM = 5.0
DEEP_MM = 11.0
LEAST_WEIGHT = 0.35
LEAST_DEEP_WEIGHT = 0.15


@dataclass(frozen=True)
class ChestFrame:
    """
    A chest in voxels of about 1.5 mm; places in mm are counted from the middle of the first voxel, RAS axes.

    Args:
        step: voxel size in mm, shape ``(3,)``.
        first: where the middle of the first voxel lies in the scan's own array, mm, shape ``(3,)``.
        hu: HU, float32, shape ``(H, W, D)``.
        bone: bone with the marrow that it encloses, bool.
        weight: how much a voxel looks like a rib's, in [0, 1]: bone near the wall of the chest; float32.
        outside_mm: distance from the lungs' hull, 0 inside, float32.
        canal: right and anterior place of the vertebral canal in each slice, mm, shape ``(D, 2)``.
        lung_tops_mm: height of the tip of the left and of the right lung; NaN without one.
        lung_bases_mm: height of the lowest slice of each lung.
    """

    step: NDArray[np.float64]
    first: NDArray[np.float64]
    hu: NDArray[np.float32]
    bone: NDArray[np.bool_]
    weight: NDArray[np.float32]
    outside_mm: NDArray[np.float32]
    canal: NDArray[np.float64]
    lung_tops_mm: tuple[float, float]
    lung_bases_mm: tuple[float, float]

    @property
    def top_mm(self) -> float:
        """Height of the uppermost slice."""
        return float((self.hu.shape[2] - 1) * self.step[2])

    def from_canal(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far to the right and ahead of the canal points lie, mm, shape ``(n, 2)``."""
        heights = np.arange(len(self.canal)) * self.step[2]
        canal = np.stack([np.interp(points[:, 2], heights, self.canal[:, axis]) for axis in (0, 1)], axis=1)
        return points[:, :2] - canal

    def outside_at(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the distance from the lungs' hull at the voxels nearest to points, shape ``(n,)``."""
        voxels = np.clip(np.rint(points / self.step).astype(int), 0, np.array(self.hu.shape) - 1)
        return self.outside_mm[tuple(voxels.T)]

    def inside(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which points lie in the scan, shape ``(n,)``."""
        voxels = points / self.step
        return np.asarray(((voxels >= 0) & (voxels <= np.array(self.hu.shape) - 1)).all(axis=1))


def chest_frame(image_hu: NDArray, spacing: NDArray[np.float64]) -> ChestFrame | str:
    """
    Prepare the search for ribs.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        spacing: voxel size in mm, shape ``(3,)``.

    Returns:
        The frame, or why there is none: a sentence without a period.
    """
    coarse, factors = block_mean(image_hu, spacing, CANAL_MM)
    coarse = np.maximum(coarse, -1024.0)
    step = spacing * factors
    body = body_mask(coarse, step)
    if not body.any():
        return "no body was found"
    canal = find_canal(coarse, body, step)
    if not (canal.is_sure or is_whole(coarse, step)):
        return "the vertebral canal was not found, from which ribs are followed"
    hull, mirrored, tops, bases = _lung_hull(coarse, body, canal.path, step)
    if not hull.any():
        return "no lungs were found"
    origin = (factors - 1) * spacing / 2

    fine, first, fine_step = _even_grid(image_hu, spacing)
    heights = np.arange(fine.shape[2]) * fine_step[2] + first[2]
    coarse_heights = np.arange(coarse.shape[2]) * step[2] + origin[2]
    smooth = ndimage.gaussian_filter1d(canal.path * step[:2], CANAL_SMOOTHING_MM / step[2], axis=0, mode="nearest")
    center = np.stack([np.interp(heights, coarse_heights, smooth[:, axis]) for axis in (0, 1)], axis=1)
    # ribs below the lungs lie below their hull: the chest is wider there than the lungs
    wall = np.flip(np.logical_or.accumulate(np.flip(hull | mirrored, 2), 2), 2)
    places = [
        (np.arange(n) * to + first[i] - origin[i]) / step[i] for i, (n, to) in enumerate(zip(fine.shape, fine_step))
    ]
    outside, inside = (_interpolated(edt.edt(mask, anisotropy=tuple(step)), places) for mask in (~wall, hull))
    share = _bone_density(fine, outside)
    soft = ndimage.gaussian_filter(fine, NOISE_VOXELS if share == 1.0 else WEAK_NOISE_VOXELS)
    bone = with_marrow(soft > share * BONE_HU, fine_step, MAX_MARROW_MM2)
    weight = np.clip((soft - share * NO_BONE_HU) / (share * (SURE_BONE_HU - NO_BONE_HU)), 0.0, 1.0)
    weight[bone] = 1.0
    weight[_solid(fine, fine_step) & (outside < SOLID_OUTSIDE_MM)] = 0.0
    weight[_near_metal(fine, fine_step)] = 0.0
    weight *= np.clip(1.0 - (outside - WALL_MM) / (OUTSIDE_MM - WALL_MM), LEAST_WEIGHT, 1.0)
    weight *= np.clip(1.0 - (inside - INSIDE_MM) / (DEEP_MM - INSIDE_MM), LEAST_DEEP_WEIGHT, 1.0)
    return ChestFrame(
        step=fine_step,
        first=first,
        hu=fine,
        bone=bone,
        weight=weight.astype(np.float32),
        outside_mm=outside,
        canal=center - first[:2],
        lung_tops_mm=(tops[0] + origin[2] - first[2], tops[1] + origin[2] - first[2]),
        lung_bases_mm=(bases[0] + origin[2] - first[2], bases[1] + origin[2] - first[2]),
    )


def _even_grid(
    image_hu: NDArray, spacing: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Average to about GRID_MM, interpolate thick slices; return the copy, its first voxel's place and its step."""
    fine, factors = block_mean(image_hu, spacing, GRID_MM)
    fine = np.maximum(fine, -1024.0)
    step = spacing * factors
    first = (factors - 1) * spacing / 2
    depth = fine.shape[2]
    if step[2] > 1.3 * GRID_MM and depth > 1:
        places = np.linspace(0, depth - 1, round((depth - 1) * step[2] / GRID_MM) + 1)
        fine = _interpolated(fine, [np.arange(float(fine.shape[0])), np.arange(float(fine.shape[1])), places])
        step = np.array([step[0], step[1], step[2] * places[1]])
    return fine, first, step


def _interpolated(volume: NDArray[np.float32], places: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Interpolate linearly at the grid of these voxel places along the three axes; the border goes on outside."""
    for axis, at in reversed(list(enumerate(places))):
        if len(at) == volume.shape[axis] and np.array_equal(at, np.arange(len(at))):
            continue
        inside = np.clip(at, 0, volume.shape[axis] - 1)
        low = np.minimum(inside.astype(int), max(volume.shape[axis] - 2, 0))
        high = np.minimum(low + 1, volume.shape[axis] - 1)
        share = (inside - low).astype(np.float32)
        result = np.empty([len(at) if i == axis else n for i, n in enumerate(volume.shape)], dtype=np.float32)
        planes, of_result = np.moveaxis(volume, axis, 0), np.moveaxis(result, axis, 0)
        for i, (below, above) in enumerate(zip(low, high)):  # a plane at a time stays in the processor's cache
            of_result[i] = (planes[above] - planes[below]) * share[i] + planes[below]
        volume = result
    return volume


def _lung_hull(
    coarse: NDArray, body: NDArray[np.bool_], path: NDArray[np.int_], step: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[float], list[float]]:
    """
    Mark the convex hull of both lungs in every axial slice; return it, its mirror image, and each lung's tip and base.

    Where a tumor or an effusion fills one lung, the mirrored other one shows where the wall is.
    """
    lungs = lung_mask(coarse, body, step)
    lateral = (np.arange(lungs.shape[0])[:, None] - path[:, 0]) * step[0]
    tops, bases = [], []
    for side in (-1, 1):
        # the airways lie nearer to the middle
        rows = (lungs & (side * lateral > 15.0)[:, None, :]).sum(axis=(0, 1)) * step[0] * step[1]
        levels = np.flatnonzero(rows > 100.0)
        tops.append(float(levels[-1] * step[2]) if len(levels) else np.nan)
        bases.append(float(levels[0] * step[2]) if len(levels) else np.nan)
    hull, mirrored = np.zeros_like(lungs), np.zeros_like(lungs)
    for k in np.flatnonzero(lungs.any(axis=(0, 1))):
        plane = lungs[:, :, k]
        places = np.argwhere(plane)
        thick = all(np.count_nonzero(plane.any(axis=axis)) >= MIN_HULL_VOXELS for axis in (0, 1))
        is_line = np.linalg.matrix_rank(places - places[0]) < 2
        hull[:, :, k] = convex_hull_image(plane, offset_coordinates=False) if thick and not is_line else plane
        sources = 2 * path[k, 0] - np.arange(len(plane))
        known = (sources >= 0) & (sources < len(plane))
        mirrored[known, :, k] = hull[sources[known], :, k]
    return hull, mirrored & body, tops, bases


def _bone_density(fine: NDArray[np.float32], outside: NDArray[np.float32]) -> float:
    """Return how dense the bone in the chest's wall is, as a share of that of most patients, in [LEAST_DENSITY, 1]."""
    wall = fine[(outside > 0.0) & (outside < WALL_MM)]
    wall = wall[wall > SOFT_TISSUE_HU]
    return float(np.clip(np.percentile(wall, 90.0) / DENSE_HU, LEAST_DENSITY, 1.0)) if wall.size else 1.0


def _near_metal(fine: NDArray[np.float32], step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark metal and veins full of contrast medium, with the blur around them."""
    size = tuple(2 * np.ceil(METAL_MARGIN_MM / step).astype(int) + 1)
    return np.asarray(ndimage.maximum_filter((fine > METAL_HU).astype(np.uint8), size)) > 0


def _solid(fine: NDArray[np.float32], step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark where a cube of SOLID_MM fits into what is dense."""
    dense = ndimage.gaussian_filter(fine, SOLID_SMOOTHING_MM / step) > SOLID_HU
    size = tuple(np.maximum(1, np.round(SOLID_MM / step)).astype(int))
    return np.asarray(ndimage.maximum_filter(ndimage.minimum_filter(dense.astype(np.uint8), size), size)) > 0
