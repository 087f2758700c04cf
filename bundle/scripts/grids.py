"""Bring masks from one grid to another."""

from __future__ import annotations

from typing import cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientation

__all__ = ["on_grid_of"]


def on_grid_of(image: MetaTensor, mask: MetaTensor) -> np.ndarray:
    """
    Bring a mask from the scan's own grid to that of its image, in RAS orientation, cropped and perhaps resampled.

    Args:
        image: shape ``(1, H, W, D)``.
        mask: ids of shape ``(1, H', W', D')``.

    Returns:
        The ids nearest to the image's voxels, shape ``(H, W, D)``.
    """
    turned = cast(MetaTensor, Orientation(axcodes="RAS", labels=None)(mask))
    ids = turned[0].cpu().numpy()
    to_ids = np.linalg.inv(np.asarray(turned.affine)) @ np.asarray(image.affine)
    places = [
        np.rint(to_ids[axis, axis] * np.arange(extent) + to_ids[axis, 3]).astype(int).clip(0, ids.shape[axis] - 1)
        for axis, extent in enumerate(image.shape[1:])
    ]
    if all((np.diff(place) == 1).all() for place in places):  # not resampled: a view takes no time
        return ids[tuple(slice(place[0], place[-1] + 1) for place in places)]
    return ids[np.ix_(*places)]
