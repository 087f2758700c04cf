"""Give an image the name under which its prediction is saved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from scripts.files.scan_files import subfolder_of
from scripts.files.scan_names import safe_name
from scripts.images.volume_files import scan_name

__all__ = ["NameScand", "scan_name_formatter", "scan_path_formatter"]


class NameScand(MapTransform):
    """
    Write the scan's name into the image's metadata, from where it reaches the prediction.

    MONAI names a prediction after the image's file. The challenge wants ``RibFrac501`` for
    ``RibFrac501-image.nii.gz``, and two DICOM series may lie in folders of one name.

    Args:
        keys: keys of the images, with metadata as ``LoadImaged`` gives it; the name is put under ``"scan"``.
        scan_key: key of the scan's name, as ``load_datalist`` gives it. Where the data lack it (in MONAI Label, say)
            the name is that of the file or folder without ``-image`` and the extension, made safe.
        allow_missing_keys: skip keys that the data lacks.
    """

    def __init__(self, keys: KeysCollection, scan_key: str = "scan", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scan_key = scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        named = dict(data)
        for key in self.key_iterator(named):
            metadata = named[key].meta
            of_file = safe_name(scan_name(Path(str(metadata.get("filename_or_obj", key)))))
            metadata["scan"] = str(named.get(self.scan_key, of_file))
        return named


def scan_name_formatter(metadata: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    """
    Name a prediction after its scan: the ``output_name_formatter`` of MONAI's ``SaveImage``.

    Args:
        metadata: the prediction's metadata, with the name that :class:`NameScand` put there.
        saver: the transform that saves, unused.

    Returns:
        The keyword arguments of ``FolderLayout.filename``. The extension is for that method to cut off, which would
        otherwise take a name's last dot for one.
    """
    return {"subject": f"{metadata['scan']}.nii.gz"}


def scan_path_formatter(metadata: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    """
    Name a prediction as :func:`scan_name_formatter` does, in one of 256 folders.

    Args:
        metadata: as there.
        saver: likewise.

    Returns:
        As there.
    """
    return {"subject": f"{subfolder_of(metadata['scan'])}/{metadata['scan']}.nii.gz"}
