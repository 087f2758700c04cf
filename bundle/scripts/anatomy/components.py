"""Connected components of a mask, whatever its shape."""

from __future__ import annotations

import cc3d
import numpy as np
from monai.transforms.utils import generate_spatial_bounding_box

__all__ = ["connected_components"]


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
    start, end = generate_spatial_bounding_box(mask[None], select_fn=lambda foreground: foreground)
    box = tuple(slice(low, high) for low, high in zip(start, end))
    padded = np.zeros([high - low + 1 for low, high in zip(start, end)], dtype=bool)
    padded[:-1, :-1, :-1] = mask[box]
    numbers = cc3d.connected_components(padded, connectivity=26)
    components = np.zeros(mask.shape, dtype=numbers.dtype)
    components[box] = numbers[:-1, :-1, :-1]
    return components
