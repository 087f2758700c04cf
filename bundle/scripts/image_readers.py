"""A reader of scans: NIfTI files, and DICOM series as lists of slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ITKReader, NibabelReader
from monai.utils import ensure_tuple

from scripts.dicom_series import series_files

__all__ = ["ScanReader"]


class ScanReader(ITKReader):
    """
    Read a NIfTI file, or the slices of a DICOM series, as a volume.

    MONAI's ``ITKReader`` takes a list of files for channels, and of a folder with several series it reads the first,
    in an order and of a choice that no one is told. This takes the slices of one series in order, as
    ``load_datalist`` lists them, or a folder that holds one CT series. ITK decodes the pixels, compressed ones too
    (JPEG, JPEG-LS, JPEG 2000, RLE), and applies each slice's rescale slope and intercept: values are HU. The headers'
    tags do not reach the metadata, so no name or number of a patient does. NIfTI files are read by ``NibabelReader``.

    Args:
        kwargs: as for ``ITKReader``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.nifti_reader = NibabelReader()

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """
        Read the file, the slices or the folder.

        Returns:
            an image of nibabel or of ITK.

        Raises:
            ValueError: when a folder holds no CT series, several, or a broken one.
        """
        names = [str(name) for name in ensure_tuple(data)]
        if len(names) == 1 and names[0].endswith((".nii", ".nii.gz")):
            return self.nifti_reader.read(names[0])
        if len(names) == 1 and Path(names[0]).is_dir():
            names = series_files(Path(names[0]))
        # float, since slope and intercept may differ from slice to slice
        return itk.imread(names, itk.F, imageio=itk.GDCMImageIO.New(), **kwargs)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        """Return the array ``(H, W, D)`` and its metadata, with the affine to RAS mm."""
        if isinstance(img, nib.spatialimages.SpatialImage):
            return self.nifti_reader.get_data(img)
        return super().get_data(img)

    def _get_meta_dict(self, img: Any) -> dict:
        metadata = super()._get_meta_dict(img)
        return {key: value for key, value in metadata.items() if not re.fullmatch(r"[0-9a-fA-F]{4}\|.*", key)}
