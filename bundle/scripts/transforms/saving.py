"""Save what was predicted of a scan under the scan's name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, PathLike
from monai.transforms import Invertd, InvertibleTransform, MapTransform, SaveImaged
from monai.utils import str2bool

from scripts.images.image_writer import AtomicNibabelWriter
from scripts.transforms.naming import scan_name_formatter, scan_path_formatter

__all__ = ["SaveProbabilityd", "SaveScand"]


class SaveScand(SaveImaged):
    """
    Save volumes as ``<scan>.nii.gz``, whole or not at all.

    ``SaveImaged`` names a file after that of the image, and leaves half of it where a run is killed.

    Args:
        keys: keys of the volumes, shape ``(1, H, W, D)``, whose metadata tell the scan's name (:class:`NameScand`).
        output_dir: folder of the files.
        output_dtype: type of the voxels; None: the smallest that holds the ids.
        subfolders: write into 256 folders in that one, see :mod:`scripts.files.scan_files`.
        allow_missing_keys: skip keys that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        output_dtype: Any = None,
        subfolders: bool | str = False,
        allow_missing_keys: bool = False,
    ) -> None:
        is_inside = str2bool(subfolders)
        super().__init__(
            keys,
            output_dir=str(output_dir),
            output_postfix="",
            output_dtype=output_dtype,
            separate_folder=False,
            data_root_dir="." if is_inside else "",  # a folder in a name counts only below one
            print_log=False,
            writer=AtomicNibabelWriter,
            output_name_formatter=scan_path_formatter if is_inside else scan_name_formatter,
            allow_missing_keys=allow_missing_keys,
        )


class SaveProbabilityd(MapTransform):
    """
    Save probabilities on the scan's own grid, and leave the data as they are.

    MONAI would copy, invert, save and delete them in four transforms, which a switch would have to reach.

    Args:
        keys: keys of the probabilities, shape ``(1, H, W, D)``.
        orig_keys: key of the image that they were predicted from.
        transform: what prepared that image, to be inverted.
        output_dir: folder of the ``<scan>.nii.gz``, float32.
        enabled: False saves nothing.
        allow_missing_keys: skip keys that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_keys: str,
        transform: InvertibleTransform,
        output_dir: PathLike,
        enabled: bool | str = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.enabled = str2bool(enabled)
        # nearest, as candidates are: the probabilities of two regions do not mix at their border
        self.invert = Invertd(self.keys, transform, orig_keys, nearest_interp=True)
        self.save = SaveScand(self.keys, output_dir, output_dtype=torch.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.enabled:
            copied = {**data, **{key: data[key].clone() for key in self.key_iterator(dict(data))}}
            self.save(self.invert(copied))
        return dict(data)
