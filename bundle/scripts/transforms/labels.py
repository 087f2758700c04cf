"""Check an annotation as it is loaded, and keep the slices that it marks."""

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, Cropd, MapTransform
from monai.utils import convert_to_dst_type

from scripts.data.label_classes import instances_of_classes
from scripts.data.ribfrac import ID_ROUNDING

# LoadImaged reads as float32, which holds no odd number above: two ids would become one
_HIGHEST_ID = 2**24 - 1

__all__ = ["CheckLabeld", "CropLabelSlicesd"]


class CheckLabeld(MapTransform):
    """
    Check that a label volume holds fracture ids, and the same ids as its table, and make it an integer volume.

    ``LoadImaged`` makes every volume float32 and believes what it holds. A label that was resampled linearly, or that
    belongs to another table, would train and score without a word. What is within 0.001 of a whole number is that
    number, see :func:`scripts.metrics.froc.integer_ids`. A label of classes, as nnU-Net has it, becomes one of ids, see
    :func:`scripts.data.label_classes.instances_of_classes`.

    Args:
        keys: keys of the label volumes: fracture ids as any number type, shape ``(1, H, W, D)``, 0 is background.
        codes_key: key of the scan's ``{fracture id: class code}``; without it the ids are not compared to a table. Of a
            label of classes it is written.
        classes_key: key of ``{value: class code}`` of a label of classes; without it values are ids.
        allow_missing_keys: skip keys that the data lacks.

    Returns:
        The data with the volumes as ``torch.uint8``, ``int16`` or ``int32``, the first that holds all ids.

    Raises:
        ValueError: when a value is negative, no whole number or above 16,777,215, an id has no row in the table, a row
            no voxels, or a value no class.

    Example:
        >>> data = {"label": torch.tensor([[[[0.0, 1.0, 2.0]]]]), "label_codes": {1: 3, 2: -1}}
        >>> CheckLabeld("label")(data)["label"]
        tensor([[[[0, 1, 2]]]], dtype=torch.uint8)
    """

    def __init__(
        self,
        keys: KeysCollection,
        codes_key: str = "label_codes",
        classes_key: str = "label_classes",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.codes_key = codes_key
        self.classes_key = classes_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            name = _name(d[key], key)
            d[key], present = self._to_ids(d[key], name)
            if self.classes_key in d:
                ids, d[self.codes_key] = instances_of_classes(np.asarray(d[key][0]), d[self.classes_key], name)
                d[key], present = self._to_ids(convert_to_dst_type(ids[None], d[key], dtype=torch.int32)[0], name)
            if self.codes_key not in d:
                continue
            rows = set(d[self.codes_key])
            if present - rows:
                raise ValueError(
                    f"{name}: the ids {sorted(present - rows)} have no row in the scan's table: "
                    "add them to the table, or clear them in the volume."
                )
            if rows - present:
                raise ValueError(
                    f"{name}: the ids {sorted(rows - present)} of the scan's table have no voxels: "
                    "mark them in the volume, or take their rows out."
                )
        return d

    @staticmethod
    def _to_ids(label: torch.Tensor, name: str) -> tuple[torch.Tensor, set[int]]:
        """Convert a volume to the smallest integer type, and list the fracture ids in it."""
        values = np.asarray(label)
        lowest, highest = values.min(), values.max()
        if lowest < -ID_ROUNDING:
            raise ValueError(f"{name}: holds the negative value {lowest:g}; a label holds fracture ids 0, 1, 2 ...")
        if _HIGHEST_ID < highest < np.inf:
            raise ValueError(f"{name}: holds the value {highest:.0f}; ids go up to {_HIGHEST_ID}: renumber them.")
        dtype = next((t for t in (torch.uint8, torch.int16) if np.rint(highest) <= torch.iinfo(t).max), torch.int32)
        ids = label.to(dtype)
        marked = np.asarray(ids)  # numpy compares the two types in a fifth of torch's time
        if not np.array_equal(marked, values):  # a slope in the header may have made 1 into 1.0000001
            ids = label.round().to(dtype)
            marked = np.asarray(ids)
        if not np.array_equal(marked, values) and not (np.abs(marked - values) <= ID_ROUNDING).all():
            raise ValueError(
                f"{name}: holds values that are not whole numbers; a label holds fracture ids 0, 1, 2 ... "
                "(was it resampled with interpolation?)"
            )
        return ids, set(np.unique(marked[marked > 0]).tolist())


class CropLabelSlicesd(Cropd):
    """
    Keep the axial slices from the first to the last that holds a fracture; keep a scan without fractures whole.

    ``CropForegroundd`` crops all three axes, and makes a volume of size 0 of a scan without fractures. As in other
    crops of MONAI the affine follows, and the crop can be inverted.

    Args:
        keys: keys of the volumes to crop, shape ``(C, H, W, D)``, with slices along the last axis.
        label_key: key of the label volume, shape ``(1, H, W, D)``, 0 is background.
        margin_voxels: slices to keep beyond the first and the last; the scan's ends limit them.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when the label's affine says that its last axis does not run along the body.

    Example:
        >>> label = torch.tensor([[[[0, 0, 1, 0, 2, 0]]]])
        >>> CropLabelSlicesd("label")({"label": label})["label"]
        tensor([[[[1, 0, 2]]]])

    References:
        The report of 2021, section 3.1, first step.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        margin_voxels: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, cropper=Crop(), allow_missing_keys=allow_missing_keys)
        self.label_key = label_key
        self.margin_voxels = margin_voxels

    @property
    def requires_current_data(self) -> bool:
        """Tell a lazy ``Compose`` that the label's voxels decide the crop."""
        return True

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        start, end = self._range(d[self.label_key])
        for key in self.key_iterator(d):
            d[key] = self.cropper(d[key], slices=(slice(None), slice(None), slice(start, end)), lazy=lazy)
        return d

    def _range(self, label: torch.Tensor) -> tuple[int, int]:
        """Tell the first slice to keep, and the one after the last."""
        if isinstance(label, MetaTensor) and nib.aff2axcodes(label.affine.numpy())[2] not in ("S", "I"):
            raise ValueError(
                f"{_name(label, self.label_key)}: the last axis does not run along the body: "
                "put Orientationd(axcodes='RAS') before CropLabelSlicesd."
            )
        marked = torch.as_tensor(label).flatten(0, -2).amax(dim=0).nonzero()
        if len(marked) == 0:
            return 0, label.shape[-1]
        first, last = int(marked[0]), int(marked[-1])
        return max(first - self.margin_voxels, 0), min(last + 1 + self.margin_voxels, label.shape[-1])


def _name(volume: torch.Tensor, key: Hashable) -> str:
    """Name the file that a volume comes from, or its key."""
    return str(volume.meta.get("filename_or_obj", key) if isinstance(volume, MetaTensor) else key)
