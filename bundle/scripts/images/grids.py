"""Compare the grids of two volumes, and bring masks from one grid to another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from numpy.typing import ArrayLike

__all__ = ["corner_shift_mm", "grid_difference", "on_grid_of"]

# Far under a voxel, and far over the rounding of a header: a quaternion of float32 moves a corner by some 1e-4 mm.
_MAX_SHIFT_VOXELS = 0.1


def corner_shift_mm(affine: ArrayLike, other: ArrayLike, shape: Sequence[int]) -> float:
    """
    Tell how far two affines put a voxel apart at most.

    The shift is linear in the voxel's place, so it is largest at a corner; at which one depends on the signs.

    Args:
        affine: voxels to mm, shape ``(4, 4)``.
        other: likewise.
        shape: of the volume, ``(H, W, D)``.

    Returns:
        The distance in mm between the two places of the center of a corner's voxel, the largest of the eight.
    """
    shift = (np.asarray(affine, dtype=np.float64) - np.asarray(other, dtype=np.float64))[:3]
    corners = np.array([(*corner, 1) for corner in product(*((0, extent - 1) for extent in shape))])
    return float(np.linalg.norm(corners @ shift.T, axis=1).max())


def grid_difference(
    shape: Sequence[int], affine: ArrayLike, other_shape: Sequence[int], other_affine: ArrayLike
) -> str | None:
    """
    Tell how two grids differ.

    Args:
        shape: of the first volume, ``(H, W, D)``.
        affine: its affine, voxels to mm, shape ``(4, 4)``.
        other_shape: of the second volume.
        other_affine: its affine.

    Returns:
        How, with both shapes or the largest shift of a corner in mm; None where both are one grid: shapes are equal,
        and no corner is shifted by more than a tenth of the smallest side of a voxel.
    """
    if tuple(shape) != tuple(other_shape):
        return f"their shapes are {_sides(shape)} and {_sides(other_shape)}"
    shift_mm = corner_shift_mm(affine, other_affine, shape)
    sides_mm = [voxel_sizes(np.asarray(one, dtype=np.float64)).min() for one in (affine, other_affine)]
    if shift_mm <= _MAX_SHIFT_VOXELS * min(sides_mm):
        return None
    return f"their corners lie up to {shift_mm:.{1 if shift_mm >= 0.1 else 3}f} mm apart"


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(str(int(extent)) for extent in shape)


def on_grid_of(image: MetaTensor, mask: MetaTensor) -> np.ndarray:
    """
    Bring a mask from the scan's own grid to that of its image, in RAS orientation, cropped and perhaps resampled.

    Args:
        image: shape ``(1, H, W, D)``.
        mask: ids of shape ``(1, H', W', D')``.

    Returns:
        The ids nearest to the image's voxels, shape ``(H, W, D)``.
    """
    affine = np.asarray(mask.affine, dtype=float)
    to_ras = nib.orientations.io_orientation(affine)
    # a view, where MONAI's Orientation copies the volume
    ids = nib.orientations.apply_orientation(mask.as_tensor()[0].cpu().numpy(), to_ras)
    own = affine @ nib.orientations.inv_ornt_aff(to_ras, mask.shape[1:])
    to_ids = np.linalg.inv(own) @ np.asarray(image.affine)
    places = [
        np.rint(to_ids[axis, axis] * np.arange(extent) + to_ids[axis, 3]).astype(int).clip(0, ids.shape[axis] - 1)
        for axis, extent in enumerate(image.shape[1:])
    ]
    if all((np.diff(place) == 1).all() for place in places):  # not resampled: a view takes no time
        return ids[tuple(slice(place[0], place[-1] + 1) for place in places)]
    return ids[np.ix_(*places)]
