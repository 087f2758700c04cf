"""Where the body lies in a scan: block means, the patient without table and clothes, and which borders cut it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from scripts.anatomy.components import connected_components

__all__ = [
    "BODY_HU",
    "CUT_SHARE",
    "MAX_HALF_BY_DEPTH",
    "MIN_BODY_MM",
    "MIN_HALF_BY_DEPTH",
    "MIN_LUNG_ML",
    "block_mean",
    "body_mask",
    "checked_spacing",
    "cut_body",
    "cut_shares",
    "filled_in_planes",
    "front_mm",
    "is_whole",
    "lung_mask",
    "width_and_depth_mm",
]

# Fat is about -100 HU, lung below -500: everything above this is the patient, the table, or clothes.
BODY_HU = -150.0
# Lung, but for emphysema, is between these; air outside the body is below.
OUTSIDE_HU = -950.0
LUNG_HU = -500.0
# Less air than this in one piece is bowel or airway; a slab of 40 mm through the lungs holds more.
MIN_LUNG_ML = 100.0
# A narrower piece of tissue is no body.
MIN_BODY_MM = 100.0
# A border cuts the body where the body's extent there has so large a share of its greatest one.
CUT_SHARE = 0.3
# The width of a chest is 1.3 to 1.7 times its depth (12 scans). One narrower than this is cut, if by a round field of
# view; from the canal to a flank it is at least so far, and one half is at most so wide.
MIN_WIDTH_BY_DEPTH = 1.15
MIN_HALF_BY_DEPTH = 0.5
MAX_HALF_BY_DEPTH = 0.75


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


def checked_spacing(image: NDArray, spacing_mm: ArrayLike) -> NDArray[np.float64]:
    """
    Check that an image is a volume, and its spacing such of one.

    Args:
        image: of any type, shape ``(H, W, D)``.
        spacing_mm: mm per voxel along each axis.

    Returns:
        The spacing, shape ``(3,)``.

    Raises:
        ValueError: when the image has no voxel or other axes, or the spacing is not three positive numbers.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image must have three axes (H, W, D) and at least one voxel, got shape {image.shape}.")
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"spacing_mm must be three positive numbers, got {spacing_mm!r}.")
    return spacing


def block_mean(
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


def body_mask(image_hu: NDArray, spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the patient, lungs filled: the largest piece once table and clothes, thinner than 12 mm, are opened away."""
    tissue = filled_in_planes(image_hu > BODY_HU).view(np.uint8)
    reach = np.maximum(1, np.round(6.0 / spacing)).astype(int)
    square = (2 * reach[0] + 1, 2 * reach[1] + 1, 1)
    # an opening; axis after axis takes half the time of scipy's binary one
    tissue = ndimage.minimum_filter(tissue, square, mode="constant")
    tissue = ndimage.maximum_filter(tissue, square, mode="constant").view(bool)
    pieces, count = ndimage.label(tissue)
    if count == 0:
        return tissue
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def filled_in_planes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """
    Fill the holes of each axial plane, as ``scipy.ndimage.binary_fill_holes`` does of one, in a quarter of its time.

    Args:
        mask: shape ``(H, W, D)``.

    Returns:
        The mask, and what it encloses in a plane, likewise.
    """
    in_plane = np.pad(ndimage.generate_binary_structure(2, 1)[:, :, None], [(0, 0), (0, 0), (1, 1)])
    pieces, count = ndimage.label(~mask, in_plane)
    is_outside = np.zeros(count + 1, dtype=bool)
    is_outside[pieces[[0, -1]]] = True
    is_outside[pieces[:, [0, -1]]] = True
    is_outside[0] = False  # the mask itself
    return np.asarray(~is_outside[pieces])


def cut_body(image_hu: NDArray, spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
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
    return body_mask(closed, spacing)[1:-1, 1:-1]


def is_whole(image_hu: NDArray, spacing: NDArray[np.float64]) -> bool:
    """Whether both flanks of a body are in view, and not just where a round field of view ends."""
    body = cut_body(image_hu, spacing)
    if not body.any():
        return False
    width_mm, depth_mm = width_and_depth_mm(body, spacing)
    if (cut_shares(body)[0] > CUT_SHARE).any() or width_mm < MIN_WIDTH_BY_DEPTH * depth_mm:
        return False
    # where front or back is cut off as well, nothing closes the lung that a border cuts
    borders = image_hu[[0, -1]]
    lung = np.count_nonzero((borders > OUTSIDE_HU) & (borders < LUNG_HU), axis=(1, 2))
    return bool((lung <= CUT_SHARE * depth_mm / spacing[1] * image_hu.shape[2]).all())


def width_and_depth_mm(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the extent of the body along the first and the second axis; needs a body."""
    return np.array([np.ptp(np.flatnonzero(body.any(axis=axes))) for axes in ((1, 2), (0, 2))]) * spacing[:2]


def front_mm(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far ahead the body's middle lies in each slice, shape ``(D,)``, infinite without a body."""
    anterior = np.arange(body.shape[1])[None, :, None] * spacing[1]
    area = body.sum(axis=(0, 1))
    filled = area > 0
    front = np.full(body.shape[2], np.inf)
    front[filled] = (body.sum(axis=0) * anterior[0]).sum(axis=0)[filled] / area[filled]
    return front


def lung_mask(image_hu: NDArray, body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark air in the body in pieces of more than MIN_LUNG_ML."""
    numbers = connected_components(body & (image_hu < LUNG_HU))
    is_lung = np.bincount(numbers.ravel()) * spacing.prod() > 1000 * MIN_LUNG_ML
    is_lung[0] = False
    return np.asarray(is_lung[numbers])
