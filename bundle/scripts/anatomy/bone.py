"""What bone has in common wherever it is sought: the marrow within it, and what is too bright to be bone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["METAL_HU", "with_marrow"]

# The densest rib of a thin-slice scan reaches 1550 HU in voxels of 1.5 mm; contrast medium in a vein, wires and leads
# more.
METAL_HU = 1700.0


def with_marrow(
    bone: NDArray[np.bool_], step: NDArray[np.float64], max_mm2: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """
    Add to bone the marrow that it encloses in a plane.

    Args:
        bone: shape ``(H, W, D)``.
        step: voxel size in mm, shape ``(3,)``.
        max_mm2: the largest area that counts as marrow in a sagittal, coronal and axial plane.

    Returns:
        Bone and marrow, shape ``(H, W, D)``.
    """
    filled = bone.copy()
    for axis in range(3):
        max_voxels = max_mm2[axis] * step[axis] / step.prod()
        planes, filled_planes = np.moveaxis(bone, axis, 0), np.moveaxis(filled, axis, 0)
        for i in np.flatnonzero(planes.any(axis=(1, 2))):
            holes, _ = ndimage.label(~planes[i])
            is_marrow = np.bincount(holes.ravel()) <= max_voxels
            is_marrow[0] = False
            filled_planes[i] |= is_marrow[holes]
    return filled
