"""
Read DICOM files, with and without the preamble that the standard asks of a file.

Some archives and older exports write the bare data set, or the file's meta information without the 128 bytes and the
``DICM`` before it. pydicom refuses such a file unless it is forced, and forced it takes any bytes for DICOM.
"""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from monai.config import PathLike
from pydicom.datadict import dictionary_has_tag
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

__all__ = ["looks_like_dicom", "read_dicom"]

_PREFIX = b"DICM"
_PREAMBLE_BYTES = 128
_META_GROUP, _FIRST_GROUP = 0x0002, 0x0008  # what a file, or a data set alone, begins with (PS3.10, PS3.3)
_LOOKED_AT_BYTES = 4096
_ELEMENTS = 3  # text, pictures and random bytes do not hold as many in a row
_UNDEFINED_LENGTH = 0xFFFFFFFF
_VRS = {str(vr).encode() for vr in VR if len(str(vr)) == 2}
_LONG_VRS = {str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32}


def read_dicom(path: PathLike, **kwargs: Any) -> pydicom.FileDataset:
    """
    Read a DICOM file, with or without a preamble.

    Args:
        path: the file.
        kwargs: as for ``pydicom.dcmread``.

    Raises:
        InvalidDicomError: when it is no DICOM.
    """
    try:
        return pydicom.dcmread(path, **kwargs)
    except InvalidDicomError:
        content = Path(path).read_bytes() if looks_like_dicom(path) else b""
    if not content:
        raise InvalidDicomError("no DICOM: neither a preamble nor elements of a data set")
    if content[:2] == struct.pack("<H", _META_GROUP):
        content = bytes(_PREAMBLE_BYTES) + _PREFIX + content
    elif content.startswith(_PREFIX):
        content = bytes(_PREAMBLE_BYTES) + content
    return pydicom.dcmread(BytesIO(content), force=True, **kwargs)


def looks_like_dicom(path: PathLike) -> bool:
    """
    Tell whether a file begins as DICOM does, by its first 4 KB.

    That is a preamble; or, without one, ascending elements of the standard, little endian with explicit or implicit VR,
    which fit into the file. What cannot be opened does not.
    """
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            start = file.read(_LOOKED_AT_BYTES)
    except OSError:
        return False
    if start[_PREAMBLE_BYTES:].startswith(_PREFIX):
        return True
    skipped = len(_PREFIX) if start.startswith(_PREFIX) else 0
    return _begins_with_elements(start[skipped:], size - skipped)


def _begins_with_elements(start: bytes, size: int) -> bool:
    """Tell whether bytes, the start of a file of that size, are elements of a data set."""
    place, count, last = 0, 0, -1
    while count < _ELEMENTS and place + 12 <= len(start):
        group, element, vr = struct.unpack_from("<HH2s", start, place)
        tag = group << 16 | element
        if count == 0 and group not in (_META_GROUP, _FIRST_GROUP):
            return False
        if tag <= last or not (element == 0 or group % 2 or dictionary_has_tag(tag)):
            return False
        if vr in _LONG_VRS:
            head, (length,) = 12, struct.unpack_from("<I", start, place + 8)
        elif vr in _VRS:
            head, (length,) = 8, struct.unpack_from("<H", start, place + 6)
        else:
            head, (length,) = 8, struct.unpack_from("<I", start, place + 4)
        if length == _UNDEFINED_LENGTH:  # a sequence, whose end is not looked for
            return count > 0
        if place + head + length > size:
            return False
        place, count, last = place + head + length, count + 1, tag
    return count == _ELEMENTS
