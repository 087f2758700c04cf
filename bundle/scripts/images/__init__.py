"""Scans as files: their formats, headers and grids, DICOM series, and the reader and the writer."""

from .dicom_files import looks_like_dicom
from .dicom_pixels import decode_slices
from .header_privacy import quiet_headers
from .headers import assumed_affine, checked_axcodes
from .hounsfield import hu_problem
from .image_reader import CTReader
from .image_writer import AtomicNibabelWriter

__all__ = [
    "AtomicNibabelWriter",
    "CTReader",
    "assumed_affine",
    "checked_axcodes",
    "decode_slices",
    "hu_problem",
    "looks_like_dicom",
    "quiet_headers",
]
