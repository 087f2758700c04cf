"""Scans as files: their formats, headers and grids, DICOM series, and the reader and the writer."""

from .dicom_files import looks_like_dicom, read_dicom
from .dicom_pixels import decode_slices
from .dicom_series import DicomSeries, DicomSlice, find_series, is_dicom, read_series, scan_names, series_files
from .file_checks import file_notes, file_problems
from .grids import corner_shift_mm, grid_difference, on_grid_of
from .header_privacy import header_fault, is_own, quiet_headers
from .headers import (
    assumed_affine,
    checked_axcodes,
    nifti_affine,
    orientation_note,
    orientation_problem,
    stated_affine,
    tells_orientation,
)
from .hounsfield import hu_problem
from .image_reader import CheckedNibabelReader, CTReader
from .image_writer import AtomicNibabelWriter
from .volume_files import (
    VolumeHeader,
    companion_files,
    header_by_itk,
    header_of_nifti,
    is_nifti,
    is_volume,
    itk_names,
    load_nifti,
    read_by_itk,
    scan_name,
    volume_stem,
    volume_suffix,
)

__all__ = [
    "AtomicNibabelWriter",
    "CTReader",
    "CheckedNibabelReader",
    "DicomSeries",
    "DicomSlice",
    "VolumeHeader",
    "assumed_affine",
    "checked_axcodes",
    "companion_files",
    "corner_shift_mm",
    "decode_slices",
    "file_notes",
    "file_problems",
    "find_series",
    "grid_difference",
    "header_by_itk",
    "header_fault",
    "header_of_nifti",
    "hu_problem",
    "is_dicom",
    "is_nifti",
    "is_own",
    "is_volume",
    "itk_names",
    "load_nifti",
    "looks_like_dicom",
    "nifti_affine",
    "on_grid_of",
    "orientation_note",
    "orientation_problem",
    "quiet_headers",
    "read_by_itk",
    "read_dicom",
    "read_series",
    "scan_name",
    "scan_names",
    "series_files",
    "stated_affine",
    "tells_orientation",
    "volume_stem",
    "volume_suffix",
]
