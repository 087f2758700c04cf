"""Decode the slices of a DICOM series to HU, by ITK, and set right what it takes as the header has it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import itk
import numpy as np
import pydicom
from monai.config import PathLike
from numpy.typing import NDArray
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from skimage.segmentation import clear_border

from scripts.images.dicom_files import read_dicom
from scripts.images.header_privacy import quiet_headers
from scripts.images.volume_files import itk_names

__all__ = ["decode_slices"]

_AIR_HU = -1024.0
# The largest value of the extended CT scale, 12 bits times 10 less 10240, which scanners use for metal
_MAX_HU = 30710.0
_TAGS = [
    "PhotometricInterpretation",
    "PixelRepresentation",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
]
# What ITK needs of a slice that is written anew: no patient's data go to the disk
_KEPT_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "PixelData",
)


@dataclass(frozen=True)
class _Stored:
    """
    What a header says of the values that are stored.

    Args:
        slope: from stored values to HU.
        intercept: likewise.
        is_signed: whether stored values are signed.
        bits: of each.
        padding: least and largest stored value of pixels that show nothing of the patient; None without such.
        is_misread: whether ITK reads another file of the same pixels right, and not this one.
    """

    slope: float
    intercept: float
    is_signed: bool
    bits: int
    padding: tuple[float, float] | None
    is_misread: bool


def decode_slices(files: Sequence[PathLike]) -> itk.Image:
    """
    Decode a series, and apply each slice's rescale slope and intercept.

    ITK decodes what is compressed, too (JPEG, JPEG-LS, JPEG 2000, RLE). Three things it takes otherwise than they are
    meant:

    - it inverts MONOCHROME1, which tells how to show values (PS3.3 C.7.6.3.1.2), not what they are;
    - it does not read a file that begins with the meta information, without a preamble;
    - it makes HU of padding (PS3.3 C.7.5.1.1.2), the pixels outside the reconstruction, which show nothing. They become
      air, -1024 HU. Padding whose HU a tissue could have is taken for it only where it reaches the slice's edge.

    And values of 16 bits that are called unsigned, but would be beyond any CT's 30710 HU, are taken for the signed ones
    that they are (63536 for -2000).

    Args:
        files: the slices in order.

    Returns:
        the volume in HU, of float, since slope and intercept may differ from slice to slice.

    Raises:
        ValueError: when a slice cannot be decoded. It names no file: patients' names may stand there.
    """
    with ExitStack() as stack, quiet_headers():
        folder = Path(stack.enter_context(TemporaryDirectory()))
        names, stored = [], []
        for number, file in enumerate(files, start=1):
            try:
                stored.append(_stored(file))
                name = str(file)
                if stored[-1].is_misread:
                    name = _written_anew(file, folder / f"{number}.dcm")
            except Exception:  # pydicom raises nearly anything
                raise ValueError(_cannot_be_decoded(number, len(files))) from None
            names.append(name)
        image = _decoded_by_itk(stack.enter_context(itk_names(names)))
    values = itk.array_view_from_image(image)
    for slice_hu, one in zip(values if values.ndim > 2 else values[None], stored):
        _set_right(slice_hu, one)
    return image


def _decoded_by_itk(names: Sequence[str]) -> itk.Image:
    try:
        return _imread(names)
    except Exception:  # ITK raises several kinds; an UnboundLocalError where it knows no reader of a file
        for number, name in enumerate(names, start=1):
            try:
                _imread([name])
            except Exception:
                raise ValueError(_cannot_be_decoded(number, len(names))) from None
        raise


def _imread(names: Sequence[str]) -> itk.Image:
    return itk.imread(names, itk.F, imageio=itk.GDCMImageIO.New())


def _cannot_be_decoded(number: int, count: int) -> str:
    return f"slice {number} of {count}, by place, cannot be decoded: export the series again."


def _stored(file: PathLike) -> _Stored:
    header = read_dicom(file, stop_before_pixels=True, specific_tags=_TAGS)
    with open(file, "rb") as content:
        start = content.read(132)
    begins_with_meta = start[128:] != b"DICM" and bool(header.file_meta)
    photometric = str(header.get("PhotometricInterpretation", "")).strip()
    is_signed, bits = header.get("PixelRepresentation", 0) == 1, int(header.get("BitsAllocated", 16))
    return _Stored(
        slope=float(header.RescaleSlope),
        intercept=float(header.RescaleIntercept),
        is_signed=is_signed,
        bits=bits,
        padding=_padding(header, is_signed, bits),
        is_misread=begins_with_meta or photometric == "MONOCHROME1",
    )


def _padding(header: pydicom.Dataset, is_signed: bool, bits: int) -> tuple[float, float] | None:
    """The range of padding, as the pixels have it: a header may write it signed where they are not, and otherwise."""
    values = [header.get(tag) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not isinstance(values[0], int):
        return None
    ends = [_as_stored(value, is_signed, bits) for value in values if isinstance(value, int)]
    return min(ends), max(ends)


def _as_stored(value: int, is_signed: bool, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if is_signed and value >= 1 << (bits - 1) else value


def _written_anew(file: PathLike, path: Path) -> str:
    """Write the pixels of a slice, as they are, into another file, which ITK reads right; return its name."""
    whole = read_dicom(file)
    syntax = whole.file_meta.get("TransferSyntaxUID") or (
        ImplicitVRLittleEndian if whole.original_encoding[0] else ExplicitVRLittleEndian
    )
    kept = pydicom.Dataset()
    for tag in _KEPT_TAGS:
        if tag in whole:
            kept[tag] = whole[tag]
    kept.PhotometricInterpretation = "MONOCHROME2"
    kept.file_meta = pydicom.dataset.FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = syntax
    kept.file_meta.MediaStorageSOPClassUID = whole.get("SOPClassUID") or pydicom.uid.CTImageStorage
    kept.file_meta.MediaStorageSOPInstanceUID = whole.get("SOPInstanceUID") or pydicom.uid.generate_uid()
    dcmwrite(path, kept, enforce_file_format=True)
    return str(path)


def _set_right(slice_hu: NDArray[np.float32], stored: _Stored) -> None:
    """Make air of a slice's padding, and signed values of those that are only called unsigned; in place."""
    half_a_step = abs(stored.slope) / 2
    if stored.padding is not None:
        ends = sorted(stored.slope * value + stored.intercept for value in stored.padding)
        padding = (slice_hu > ends[0] - half_a_step) & (slice_hu < ends[1] + half_a_step)
        if ends[1] > _AIR_HU and ends[0] < _MAX_HU:
            padding &= ~clear_border(padding)
        slice_hu[padding] = _AIR_HU
    if not stored.is_signed and stored.bits == 16:
        beyond = slice_hu > _MAX_HU
        slice_hu[beyond] -= np.float32(stored.slope * (1 << 16))
