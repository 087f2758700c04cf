"""Check an image before and after it is loaded, and crop it to the patient."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import CropForegroundd, MapTransform
from monai.utils import convert_to_numpy

from scripts.anatomy.midline import known_plane
from scripts.images.file_checks import file_notes, file_problems
from scripts.images.headers import checked_axcodes, orientation_note
from scripts.images.hounsfield import BONE_HU, hu_problem

__all__ = ["CheckFilesd", "CheckImaged", "CropBodyd", "QualityNotesd"]


class CheckFilesd(MapTransform):
    """
    Check the headers of a scan's files before they are loaded.

    ``LoadImaged`` reads what the readers can, and says little of what they cannot: a volume of four axes, a label on
    another grid, a DICOM series with a slice missing pass, or fail deep inside.

    Args:
        keys: key of the image, a path, or the list of a DICOM series' slices; one key. A volume in memory passes.
        label_key: key of its annotation's path, where the data have one.
        assumed_orientation: of a NIfTI file that tells none, see :func:`scripts.data.datalist.file_problems`.
        allow_missing_keys: do nothing when the data lack the image.

    Raises:
        ValueError: when ``assumed_orientation`` is no orientation; when a file is missing, unreadable, or no scan, or
            the two do not fit each other.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        assumed_orientation: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.assumed_orientation = checked_axcodes(assumed_orientation)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        checked = dict(data)
        for key in self.key_iterator(checked):
            image, label = checked[key], checked.get(self.label_key)
            if isinstance(image, os.PathLike):
                image = str(image)
            problems = file_problems(image, label, self.assumed_orientation) if isinstance(image, str | list) else []
            if problems:
                raise ValueError(problems[0])
        return checked


class CheckImaged(MapTransform):
    """
    Check that an image holds numbers alone, and that they can be HU.

    One voxel that is not a number makes the network's whole window one, and its fractures vanish without a word.
    MONAI has transforms that replace such voxels, and none that refuses them. Where the offset of the stored values is
    missing, all soft tissue looks like bone, and what is predicted has no meaning, see
    :func:`scripts.images.hu_problem`.

    Args:
        keys: keys of the images, shape ``(1, H, W, D)``, with metadata as ``LoadImaged`` gives it.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when an image has another number of channels or axes, or a voxel is infinite or not a number, or
            they are no HU.
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
            # a sum is finite where all voxels are, and takes far less time
            wrong = 0 if torch.isfinite(image.sum()) else int((~torch.isfinite(image)).sum())
            if wrong:
                raise ValueError(
                    f"{name}: {wrong} voxels are infinite or not numbers; write it again with air (-1024 HU) there."
                )
            if problem := hu_problem(convert_to_numpy(image[0])):
                raise ValueError(f"{name}: {problem}.")
        return checked


class CropBodyd(CropForegroundd):
    """
    Crop volumes to the box around the patient, and what lies on the table with him.

    Half of a scan is air, whose windows cost a prediction as much as others. MONAI's ``CropForegroundd`` makes a volume
    of size 0 of a scan without foreground. The affine follows, and the crop can be inverted.

    Args:
        keys: keys of the volumes to crop, shape ``(1, H, W, D)``.
        image_key: key of the scan in HU, of that shape too.
        body_hu: voxels above it are kept; air is about -1000 HU and lung -850, fat -100.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when no voxel of the scan is above ``body_hu``.

    Example:
        >>> data = {"image": torch.tensor([[[[-1000.0, 40.0, -900.0, 60.0, -1000.0]]]])}
        >>> CropBodyd("image")(data)["image"]
        metatensor([[[[  40., -900.,   60.]]]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        body_hu: float = -500.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            source_key=image_key,
            select_fn=self._is_body,
            allow_smaller=True,
            start_coord_key=None,
            end_coord_key=None,
            allow_missing_keys=allow_missing_keys,
        )
        self.body_hu = body_hu

    def _is_body(self, image_hu: torch.Tensor) -> torch.Tensor:
        return image_hu > self.body_hu

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        cropped = super().__call__(data, lazy=lazy)
        if not cropped[self.source_key].numel():
            name = getattr(data[self.source_key], "meta", {}).get("filename_or_obj", self.source_key)
            raise ValueError(f"{name}: no voxel above {self.body_hu:g} HU: is this a CT in Hounsfield units?")
        return {key: value.contiguous() if key in self.keys else value for key, value in cropped.items()}


class QualityNotesd(MapTransform):
    """
    Write what is doubtful about a scan into its metadata, from where it reaches the prediction.

    Such a scan is predicted, since it may be right: its header says two things about where it lies, or nothing about
    where its axes run to, it shows no bone, no lungs, or so little of the chest that sides, levels, parts or ribs
    are not known, or slices seem to be left out. MONAI has no place for what a user should know of one scan and need
    not stop for.

    Args:
        keys: keys of the scans in HU, shape ``(1, H, W, D)``, with metadata as ``LoadImaged`` gives it; the text is put
            under ``"notes"``, empty where nothing is doubtful.
        plane_key: key of the mid-sagittal plane, as ``MidsagittalPlaned`` stores it.
        axis_key: key of the lungs' points, as ``ThoraxAxisd`` stores them.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them; without it nothing is said of them.
        allow_missing_keys: skip keys that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        plane_key: str = "midsagittal_plane",
        axis_key: str = "thorax_axis",
        cage_key: str = "rib_cage",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane_key = plane_key
        self.axis_key = axis_key
        self.cage_key = cage_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        noted = dict(data)
        for key in self.key_iterator(noted):
            image = noted[key]
            path = Path(str(image.meta.get("filename_or_obj", "")))
            notes = [image.meta["file_notes"]] if image.meta.get("file_notes") else []  # of a DICOM series
            notes += file_notes(path) if path.is_file() else []
            if axcodes := image.meta.get("assumed_orientation"):
                notes.append(orientation_note(axcodes))
            if image.max() < BONE_HU:
                notes.append(f"no voxel above {BONE_HU:g} HU, so no bone: is it in HU?")
            is_unknown = np.isnan(noted[self.axis_key])
            if is_unknown.all():
                notes.append("no lungs found: is it a chest CT?")
            if known_plane(noted[self.plane_key]) is None:
                notes.append(
                    "the midline is not surely in view, so sides, levels and parts are left empty: "
                    "is the field of view narrow?"
                )
            elif is_unknown.any(axis=1).all() and not is_unknown.all():
                notes.append("the field of view cuts the lungs, so levels and parts are left empty.")
            if self.cage_key in noted:
                notes += [f"{note}." for note in noted[self.cage_key].notes]
            image.meta["notes"] = " ".join(notes)
        return noted
