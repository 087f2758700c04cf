"""A reader of CT scans for ``LoadImaged``."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ITKReader, NibabelReader
from monai.data.image_reader import ImageReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple

from scripts.dicom_series import is_dicom, series_files
from scripts.volume_files import (
    header_by_itk,
    header_of_nifti,
    is_nifti,
    is_volume,
    itk_names,
    load_nifti,
    read_by_itk,
    require_orientation,
)

__all__ = ["CheckedNibabelReader", "CTReader"]

_BYTES_AT_A_TIME = 1 << 20
# What MONAI's ITKReader says itself; the rest is from the file
_KEPT_META = ("affine", "original_affine", "space", "spacing", "spatial_shape", "original_channel_dim")
_SLICES_AT_A_TIME = 16  # measured on 512 x 512 x 357 voxels: four times as fast as all at once


class CheckedNibabelReader(NibabelReader):
    """
    Read a NIfTI file, or a pair of them, to its end, and lay its voxels out as torch wants them.

    nibabel stops before the checksum at the end of a ``.gz`` file, so that one whose bytes have changed gives wrong
    voxels without a word. MONAI's conversion of its arrays, in which the first axis runs fastest, takes longer than
    reading them.

    Args:
        kwargs: as for ``NibabelReader``.

    Raises:
        ValueError: when a file is cut short, holds far more than its header tells of, or differs from its checksum, or
            a pair is Analyze, which tells no left from right.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return all(is_nifti(path) for path in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Open a file; its voxels are not read before they are asked for."""
        (path,) = self.filenames = ensure_tuple(data)
        image = load_nifti(path)
        require_orientation(path, header_of_nifti(image))
        return correct_nifti_header_if_necessary(image)

    def _get_array_data(self, img: Any, filename: PathLike) -> np.ndarray:
        path = Path(img.file_map["image"].filename or filename)  # of a pair not the header's
        needed = int(img.dataobj.offset) + math.prod(img.shape) * img.get_data_dtype().itemsize
        if path.suffix.lower() == ".gz":
            content = _decompressed(path, needed)
            present, image = len(content), type(img).from_bytes(content)
        else:
            present, image = path.stat().st_size, img
        if present < needed:
            raise ValueError(f"{path}: is cut short: holds {present} of {needed} bytes: copy it again.")
        return _in_c_order(np.asanyarray(image.dataobj))


def _decompressed(path: Path, needed: int) -> bytes:
    """
    Return at most the bytes needed, and read on to the checksum; memory does not grow with what lies between.

    As much again may lie there; some megabytes can hold a terabyte of zeros, which would be read for hours.
    """
    behind = 0
    try:
        with gzip.open(path) as file:
            content = file.read(needed)
            while more := file.read(_BYTES_AT_A_TIME):
                behind += len(more)
                if behind > needed + _BYTES_AT_A_TIME:
                    raise ValueError(f"{path}: holds far more than its header tells of: write it again.")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is damaged ({error}): copy it again.") from error
    return content


class CTReader(ImageReader):
    """
    Read a scan of any kind: NIfTI by `CheckedNibabelReader`, NRRD, MetaImage or a DICOM series by ITK.

    MONAI's ``ITKReader`` takes a list of files for channels, and of a folder with several series it reads the first, in
    an order and of a choice that no one is told. This takes the slices of one series in order, as ``load_datalist``
    lists them, or a folder that holds one CT series. ITK decodes the pixels, compressed ones too (JPEG, JPEG-LS,
    JPEG 2000, RLE), and applies each slice's rescale slope and intercept: values are HU. The headers' tags do not reach
    the metadata, so no name or number of a patient does; nor do the fields of a NRRD or a MetaImage file, which may
    come from DICOM.

    Raises:
        ValueError: when a file is damaged or leaves open where its voxels lie, a folder holds no CT series, several, or
            a broken one, or a slice cannot be decoded. It names no slice by its file: patients' names may stand there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._itk, self._nifti = ITKReader(), CheckedNibabelReader()

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return is_dicom(filename) or is_volume(ensure_tuple(filename)[0])

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Open a file, a list of slices, or a folder with them; DICOM is not read before its data are asked for."""
        if is_dicom(data):
            return _DicomFiles(ensure_tuple(data))
        path = ensure_tuple(data)[0]
        if is_nifti(path):
            return self._nifti.read(path)
        require_orientation(path, header_by_itk(path))
        return read_by_itk(path)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        """Return the volume in HU, shape ``(H, W, D)``, and its metadata, with the affine to RAS mm."""
        if isinstance(img, nib.spatialimages.SpatialImage):
            return self._nifti.get_data(img)
        volume, meta = self._itk.get_data(img.decoded() if isinstance(img, _DicomFiles) else img)
        return _in_c_order(volume), {key: value for key, value in meta.items() if key in _KEPT_META}


class _DicomFiles:
    """A DICOM series: its slices in order, or the folder that holds it alone."""

    def __init__(self, paths: Sequence[PathLike]) -> None:
        self.paths = paths

    def decoded(self) -> itk.Image:
        """Return the volume; of float, since slope and intercept may differ from slice to slice."""
        with itk_names(series_files(self.paths)) as names:
            return self._decoded(names)

    def _decoded(self, names: Sequence[str]) -> itk.Image:
        try:
            return _decoded(names)
        except Exception:  # ITK raises several kinds; an UnboundLocalError where it knows no reader of a file
            for number, name in enumerate(names, start=1):
                try:
                    _decoded([name])
                except Exception:
                    broken = f"slice {number} of {len(names)}, by place, cannot be decoded: export the series again."
                    raise ValueError(broken) from None
            raise


def _decoded(names: Sequence[str]) -> itk.Image:
    return itk.imread(names, itk.F, imageio=itk.GDCMImageIO.New())


def _in_c_order(volume: np.ndarray) -> np.ndarray:
    """Copy a volume whose first axis runs fastest, some slices at a time; return others as they are."""
    if volume.ndim != 3 or volume.flags.c_contiguous or not volume.flags.f_contiguous:
        return volume
    copy = np.empty(volume.shape, volume.dtype)
    for start in range(0, volume.shape[2], _SLICES_AT_A_TIME):
        slices = np.s_[..., start : start + _SLICES_AT_A_TIME]
        copy[slices] = volume[slices]
    return copy
