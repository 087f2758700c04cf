"""A reader of CT scans for ``LoadImaged``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import itk
import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from monai.config import PathLike
from monai.data import ITKReader, NibabelReader
from monai.data.image_reader import ImageReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple

from scripts.files.memory_order import in_c_order
from scripts.images.dicom_pixels import decode_slices
from scripts.images.dicom_series import DicomSeries, is_dicom, read_series
from scripts.images.headers import assumed_affine, checked_axcodes, nifti_affine, orientation_problem, tells_orientation
from scripts.images.volume_files import header_by_itk, is_nifti, is_volume, load_nifti, read_by_itk

__all__ = ["CheckedNibabelReader", "CTReader"]

_BYTES_AT_A_TIME = 1 << 20
# What MONAI's ITKReader says itself; the rest is from the file
_KEPT_META = ("affine", "original_affine", "space", "spacing", "spatial_shape", "original_channel_dim")


class CheckedNibabelReader(NibabelReader):
    """
    Read a NIfTI file, or a pair of them, to its end, and lay its voxels out as torch wants them.

    nibabel stops before the checksum at the end of a ``.gz`` file, so that one whose bytes have changed gives wrong
    voxels without a word. MONAI's conversion of its arrays, in which the first axis runs fastest, takes longer than
    reading them.

    Args:
        assumed_orientation: where the axes of a file run to that does not tell it, such as LPS, see
            :func:`scripts.images.checked_axcodes`; the metadata then have it under this name. None refuses such a
            file.
        kwargs: as for ``NibabelReader``.

    Raises:
        ValueError: when a file is cut short, holds far more data than its header says, differs from its checksum, or
            states no orientation, as a pair in Analyze's format, and none is stated.
    """

    def __init__(self, assumed_orientation: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.assumed_orientation = checked_axcodes(assumed_orientation)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return all(is_nifti(path) for path in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Open a file; its voxels are not read before they are asked for."""
        (path,) = self.filenames = ensure_tuple(data)
        return correct_nifti_header_if_necessary(load_nifti(path))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        volume, meta = super().get_data(img)
        if not tells_orientation(ensure_tuple(img)[0]):
            meta["assumed_orientation"] = self.assumed_orientation
        return volume, meta

    def _get_affine(self, img: Any) -> np.ndarray:
        return nifti_affine(img, img.get_filename(), self.assumed_orientation)

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
        return in_c_order(np.asanyarray(image.dataobj))


def _decompressed(path: Path, needed: int) -> bytes:
    """
    Return at most the bytes needed, and read on to the checksum; memory does not grow with what lies between.

    As much again may lie there; some megabytes can hold a terabyte of zeros, which would be read for hours.
    """
    behind = 0
    try:
        with igzip.open(path) as file:
            content = file.read(needed)
            while more := file.read(_BYTES_AT_A_TIME):
                behind += len(more)
                if behind > needed + _BYTES_AT_A_TIME:
                    raise ValueError(f"{path}: holds far more data than its header says: write it again.")
    except (OSError, EOFError, isal_zlib.error) as error:  # type: ignore[misc]  # isal's types take it for no exception
        raise ValueError(f"{path}: is damaged ({error}): copy it again.") from error
    return content


class CTReader(ImageReader):
    """
    Read a scan of any kind: NIfTI by `CheckedNibabelReader`, NRRD, MetaImage or a DICOM series by ITK.

    MONAI's ``ITKReader`` takes a list of files for channels, and of a folder with several series it reads the first, in
    an order and of a choice that no one is told. This takes the slices of one series in order, as ``load_datalist``
    lists them, or a folder that holds one CT series; see :func:`scripts.images.decode_slices`. The headers' tags
    do not reach the metadata, so no name or number of a patient does; what is doubtful about a series does, as
    ``"file_notes"``. Nor do the fields of a NRRD or a MetaImage file, which may come from DICOM.

    Args:
        assumed_orientation: of a file that tells none, see `CheckedNibabelReader`.

    Raises:
        ValueError: when a file is damaged, or states no orientation and none is stated, a folder holds no CT series,
            several, or a broken one, or a slice cannot be decoded. It names no slice by its file: patients' names may
            stand there.
    """

    def __init__(self, assumed_orientation: str | None = None) -> None:
        super().__init__()
        self._itk, self._nifti = ITKReader(), CheckedNibabelReader(assumed_orientation)
        self.assumed_orientation = checked_axcodes(assumed_orientation)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return is_dicom(filename) or is_volume(ensure_tuple(filename)[0])

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Open a file, a list of slices, or a folder with them; DICOM is not read before its data are asked for."""
        if is_dicom(data):
            return _DicomFiles(ensure_tuple(data))
        path = ensure_tuple(data)[0]
        if is_nifti(path):
            return self._nifti.read(path)
        missing = header_by_itk(path).no_orientation
        if missing and self.assumed_orientation is None:
            raise ValueError(orientation_problem(path, missing))
        return _Volume(read_by_itk(path), self.assumed_orientation if missing else None)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        """Return the volume in HU, shape ``(H, W, D)``, and its metadata, with the affine to RAS mm."""
        if isinstance(img, nib.spatialimages.SpatialImage):
            return self._nifti.get_data(img)
        volume, meta = self._itk.get_data(img.decoded())
        kept = {key: value for key, value in meta.items() if key in _KEPT_META}
        if isinstance(img, _DicomFiles):
            kept["file_notes"] = " ".join(img.series.notes)
        elif img.assumed_orientation:
            kept["assumed_orientation"] = img.assumed_orientation
        return in_c_order(volume), kept


class _Volume(NamedTuple):
    """A volume that ITK has read, and the orientation that is assumed of it; None where its file tells it."""

    image: itk.Image
    assumed_orientation: str | None

    def decoded(self) -> itk.Image:
        """Return the volume, on the axes that are assumed."""
        if self.assumed_orientation:
            spacing_mm = np.array(self.image.GetSpacing())
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ assumed_affine(spacing_mm, self.assumed_orientation)  # LPS
            self.image.SetDirection(itk.matrix_from_array(affine[:3, :3] / spacing_mm))
            self.image.SetOrigin([0.0, 0.0, 0.0])
        return self.image


class _DicomFiles:
    """A DICOM series: its slices, or the folder that holds it alone."""

    def __init__(self, paths: Sequence[PathLike]) -> None:
        self.paths = paths

    @cached_property
    def series(self) -> DicomSeries:
        """Its headers; read when the data are asked for, since ``LoadImage`` logs the files' names where that fails."""
        return read_series(self.paths if len(self.paths) > 1 else self.paths[0])

    def decoded(self) -> itk.Image:
        """Return the volume in HU."""
        return decode_slices(self.series.files)
