"""Check an image as it is loaded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform

__all__ = ["CheckImaged"]


class CheckImaged(MapTransform):
    """
    Check that an image holds numbers alone.

    One voxel that is not a number makes the network's whole window one, and its fractures vanish without a word.
    MONAI has transforms that replace such voxels, and none that refuses them.

    Args:
        keys: keys of the images, shape ``(1, H, W, D)``, with metadata as ``LoadImaged`` gives it.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when an image has another number of channels or axes, or a voxel is infinite or not a number.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        checked = dict(data)
        for key in self.key_iterator(checked):
            image = checked[key]
            name = image.meta.get("filename_or_obj", key)
            if image.ndim != 4 or image.shape[0] != 1:
                raise ValueError(
                    f"{name}: a CT scan has one channel and three axes, but this has {tuple(image.shape)}."
                )
            wrong = int((~torch.isfinite(image)).sum())
            if wrong:
                raise ValueError(
                    f"{name}: {wrong} voxels are infinite or not numbers; write it again with air (-1024 HU) there."
                )
        return checked
