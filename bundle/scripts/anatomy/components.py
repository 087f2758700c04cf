"""Connected components of a mask, whatever its shape, where they lie, and volumes of nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

__all__ = ["Box", "connected_components", "foreground_box", "instance_boxes", "moved", "packed_components", "widened"]

Box = tuple[slice, slice, slice]


def foreground_box(volume: NDArray) -> Box:
    """
    Return the box that holds all voxels that are not 0, of no voxels where there is none.

    Args:
        volume: numbers or bool, shape ``(H, W, D)``.
    """
    box: list[slice] = []
    for axis in range(3):
        planes = np.flatnonzero(volume[tuple(box)].any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(int(planes[0]), int(planes[-1]) + 1) if planes.size else slice(0, 0))
    return box[0], box[1], box[2]


def instance_boxes(ids: NDArray, count: int = 0) -> list[Box | None]:
    """
    Return the box of each instance, as ``scipy.ndimage.find_objects``, which searches the whole volume slowly.

    Args:
        ids: integers, 0 is background, shape ``(H, W, D)``.
        count: of the ids 1 to n that are asked for; 0 asks for all.

    Returns:
        The boxes in the order of the ids from 1 on; None for an id that no voxel has.
    """
    around = foreground_box(ids)
    boxes = ndimage.find_objects(ids[around], count) if ids[around].size else [None] * count
    return [None if box is None else moved(box, around) for box in boxes]


def moved(box: Box, around: Box) -> Box:
    """Return a box in a part of a volume as a box of the volume; ``around`` is the part."""
    sides = [slice(side.start + part.start, side.stop + part.start) for side, part in zip(box, around)]
    return sides[0], sides[1], sides[2]


def widened(box: Box, margin: ArrayLike, shape: Sequence[int]) -> Box:
    """
    Widen a box on both sides of each axis, as far as a volume goes.

    Args:
        box: the box.
        margin: voxels along each axis, integers, shape ``(3,)``, or one number for all.
        shape: of the volume.
    """
    sides = [
        slice(max(side.start - int(more), 0), min(side.stop + int(more), size))
        for side, more, size in zip(box, np.broadcast_to(margin, 3), shape)
    ]
    return sides[0], sides[1], sides[2]


def connected_components(mask: np.ndarray) -> np.ndarray:
    """
    Number the connected components of a mask; voxels touch by 26 neighbors.

    ``cc3d.connected_components`` is ten times as fast as scikit-image's ``label``, on which MONAI builds, but reserves
    one number per 8 voxels. An axis of odd length, such as a single slice, can hold more pieces than that, and cc3d
    then fails with "maximum length exception". One empty voxel more at the end of each axis is enough: at most one
    piece begins in each block of 2×2×2 voxels, and so many blocks fit in. Only the box that holds the foreground is
    searched.

    Args:
        mask: bool, shape ``(H, W, D)``.

    Returns:
        1 to n in each of the n components, in the C order of their first voxels, 0 elsewhere; unsigned integers,
        shape ``(H, W, D)``.
    """
    box = foreground_box(mask)
    padded = np.zeros([side.stop - side.start + 1 for side in box], dtype=bool)
    padded[:-1, :-1, :-1] = mask[box]
    numbers = cc3d.connected_components(padded, connectivity=26)
    components = np.zeros(mask.shape, dtype=numbers.dtype)
    components[box] = numbers[:-1, :-1, :-1]
    return components


def packed_components(components: np.ndarray, *volumes: np.ndarray) -> list[np.ndarray]:
    """
    Move connected components close together, so that little is left of volumes that are empty elsewhere.

    Args:
        components: their numbers, as :func:`connected_components` gives them, shape ``(H, W, D)``.
        volumes: of the same shape.

    Returns:
        the volumes with the components alone, each as it was and apart from the others, 0 elsewhere, shape
        ``(I, J, K)``; one voxel where there is none.
    """
    boxes = ndimage.find_objects(components.astype(np.int32))
    sizes = np.array([[side.stop - side.start for side in box] for box in boxes], dtype=int).reshape(-1, 3)
    places, shape = _places(sizes)
    packed = [np.zeros(shape, dtype=volume.dtype) for volume in volumes]
    for number, (box, place, size) in enumerate(zip(boxes, places, sizes), start=1):
        inside = components[box] == number
        there = tuple(slice(start, start + width) for start, width in zip(place, size))
        for volume, target in zip(volumes, packed):
            target[there] = np.where(inside, volume[box], 0)
    return packed


def _places(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Place boxes side by side: in rows along the second axis, rows in layers along the third, and these along the first.

    Args:
        sizes: of the boxes, shape ``(n, 3)``.

    Returns:
        the first voxel of each, with an empty voxel at least between any two, likewise, and the shape that holds all.
    """
    places = np.zeros_like(sizes)
    limit = sizes.max(axis=0, initial=1)
    layer, row, column, layer_depth, row_depth = 0, 0, 0, 0, 0
    for box in np.lexsort((-sizes[:, 1], -sizes[:, 2], -sizes[:, 0])):  # of much the same size beside each other
        depth, width, height = sizes[box] + 1
        if column + width > limit[1] + 1:
            row, column, row_depth = row + row_depth, 0, 0
        if row + height > limit[2] + 1:
            layer, row, column, layer_depth, row_depth = layer + layer_depth, 0, 0, 0, 0
        places[box] = layer, column, row
        column += width
        layer_depth, row_depth = max(layer_depth, depth), max(row_depth, height)
    return places, np.array([max(layer + layer_depth, 1), *limit[1:]])
