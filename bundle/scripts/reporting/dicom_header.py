"""
The header of a DICOM slice as a new object may take it over: what does not conform is mended or left out.

Anonymizers remove attributes that the standard wants, and scanners and archives write values that it does not allow.
highdicom copies the attributes of patient and study into each new object, and fails where one is missing or cannot be
parsed. Here nothing fails: a value is taken over, repaired where only one thing can be meant, or left empty.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from copy import deepcopy
from datetime import date, time
from io import BytesIO

import numpy as np
import pydicom
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.config import RAISE, strict_reading
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import TEXT_VR_DELIMS, DSfloat, validate_value

__all__ = ["clean_header", "emptied_attributes"]

# What the patient and the general study module want, if only empty (PS3.3 C.7.1.1 and C.7.2.1)
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_ENCODED_VRS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")  # in the character set that the header declares
_ASCII_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR")
_NUMBER_VRS = ("FD", "FL", "SL", "SS", "UL", "US")
_PROSE_VRS = ("LT", "ST", "UR", "UT")  # hold one value, in which a backslash is a character
_DEFAULT_REPERTOIRES = ("", "ISO_IR 6", "ISO 2022 IR 6")  # ASCII, which pydicom takes for Latin-1
_UTF_8 = "ISO_IR 192"
_UID = re.compile(r"\d+(\.\d+)+")  # leading zeros too, which are common: none but the same text refers to a slice
_DATE = re.compile(r"(\d{4})([-./]?)(\d\d)\2(\d\d)")  # 20260102; of others with the year first the order is clear
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d+))?)?)?")
_AGE = re.compile(r"\d{1,3}[DWMY]")
_SEXES = {"MALE": "M", "FEMALE": "F", "OTHER": "O", "M": "M", "F": "F", "O": "O"}  # the standard has M, F and O
_MAX_IS = 2**31  # PS3.5, 6.2


def clean_header(header: Dataset) -> Dataset:
    """
    Copy what conforms to the standard of a header, and complete what new objects need of it.

    - What may be empty and must be there (``_TYPE_2``) is there.
    - A value that does not conform to its VR is repaired where only one thing can be meant (``12:00:00``, ``male``),
      and left out, or empty, elsewhere. A sequence with such a value is left out whole, and so are private attributes
      and bulk data.
    - Text is decoded by the character set that the header declares; if it cannot be, and is UTF-8, it is taken for
      that. The copy has the same character set where that holds all of its text, and UTF-8 elsewhere.

    Args:
        header: a data set as ``pydicom.dcmread`` gives it, none of whose values was used so far: they are still bytes.
            Call this in :func:`scripts.images.quiet_headers`.

    Returns:
        A data set of values that can be parsed and written, without the file's meta information.
    """
    terms = _character_sets(header)
    clean = _clean(header, terms, strict=False)
    for keyword in _TYPE_2:
        if keyword not in clean:
            setattr(clean, keyword, None)
    clean.SpecificCharacterSet = terms
    if not _holds_its_text(clean, terms):
        clean.SpecificCharacterSet = _UTF_8
    elif not any(terms):
        del clean.SpecificCharacterSet
    return clean


def emptied_attributes(header: Dataset, clean: Dataset) -> list[str]:
    """
    Name what tells the patient and the study, and is empty in a copy since its value does not conform.

    Args:
        header: as it was read.
        clean: as :func:`clean_header` made it of that.

    Returns:
        Keywords.
    """
    return [
        word for word in _TYPE_2 if word in header and _is_filled(header.get_item(word).value) and not clean[word].value
    ]


def _is_filled(value: object) -> bool:
    """Tell a value from nothing and from padding."""
    return bool(value.strip(b"\0 ")) if isinstance(value, bytes) else bool(value)


def _clean(header: Dataset, terms: Sequence[str], strict: bool) -> Dataset:
    """Copy the attributes that conform; if strict, raise ``ValueError`` where one does not."""
    clean = Dataset()
    for tag in header.keys():
        if tag.is_private or not dictionary_has_tag(tag) or tag == tag_for_keyword("SpecificCharacterSet"):
            continue
        try:
            element = _clean_element(header, tag, dictionary_VR(tag), terms)
        except Exception:  # of damaged values pydicom raises nearly anything
            if strict:
                raise ValueError("an attribute does not conform.") from None
            continue
        if element is not None:
            clean.add(element)
    return clean


def _clean_element(header: Dataset, tag: BaseTag, vr: str, terms: Sequence[str]) -> DataElement | None:
    """Return an attribute as it conforms, None if it is of no use; of one that cannot conform, raise an error."""
    if vr == "SQ":
        items = [_clean(item, _character_sets(item) or terms, strict=True) for item in header[tag].value]
        return DataElement(tag, vr, items)
    if vr in _NUMBER_VRS:
        return _counted(DataElement(tag, vr, header[tag].value))
    if vr not in (*_ENCODED_VRS, *_ASCII_VRS):
        return None
    text = _text(header.get_item(tag), vr, terms)
    values = [text] if vr in _PROSE_VRS else [value.strip() for value in text.split("\\")]
    if not any(values):
        return DataElement(tag, vr, None)
    checked = [_conforming(value, vr, keyword_for_tag(tag)) if value else value for value in values]
    return _counted(DataElement(tag, vr, checked[0] if len(checked) == 1 else checked))


def _counted(element: DataElement) -> DataElement:
    """Return an attribute that has as many values as it may have; raise ``ValueError`` of another one."""
    wanted = dictionary_VM(element.tag)
    if element.VM and wanted.isdigit() and element.VM != int(wanted):
        raise ValueError("has too few or too many values.")
    return element


def _text(element: DataElement | RawDataElement, vr: str, terms: Sequence[str]) -> str:
    """Decode the bytes of a value; raise ``ValueError`` where that is not possible without a guess."""
    value = element.value
    if not isinstance(element, RawDataElement):
        raise ValueError("has another VR than it must have.")
    raw = (value or b"").rstrip(b"\0 ")
    encodings = [_encodings(terms)] if vr in _ENCODED_VRS else [["ascii"]]
    if vr in _ENCODED_VRS:
        encodings.append(["utf-8"])
    for tried in filter(None, encodings):
        try:
            with strict_reading():
                text = decode_bytes(raw, tried, TEXT_VR_DELIMS)
        except (LookupError, ValueError):  # UnicodeError is a ValueError
            continue
        text = text if vr in _PROSE_VRS else text.strip()
        if not any(_is_control(letter, vr) for letter in text):
            return text
    raise ValueError("cannot be decoded.")


def _is_control(letter: str, vr: str) -> bool:
    allowed = "\t\n\f\r" if vr in ("LT", "ST", "UT") else ""
    return unicodedata.category(letter) == "Cc" and letter not in allowed


def _character_sets(header: Dataset) -> list[str]:
    """The terms of a header's SpecificCharacterSet; none where it has none, or what is no text."""
    element = header.get("SpecificCharacterSet") or []
    return [element] if isinstance(element, str) else [str(term or "") for term in element]


def _encodings(terms: Sequence[str]) -> list[str]:
    """Python's names of character sets; none where there is no such set. pydicom mends what is often misspelled."""
    try:
        with strict_reading():
            encodings = convert_encodings(list(terms))
    except LookupError:
        return []
    is_ascii = (terms[0] if terms else "") in _DEFAULT_REPERTOIRES
    return ["ascii", *encodings[1:]] if is_ascii else encodings


def _holds_its_text(clean: Dataset, terms: Sequence[str]) -> bool:
    """Tell whether terms are a character set of the standard in which a data set reads back as it was written."""
    if all(term in _DEFAULT_REPERTOIRES for term in terms):
        return all(text.isascii() for text in _texts(clean))
    if not all(term in python_encoding for term in terms):
        return False
    with warnings.catch_warnings(record=True) as complaints:  # of sets that do not go together
        warnings.simplefilter("always")
        convert_encodings(list(terms))
    if complaints:
        return False
    file = BytesIO()
    copy = deepcopy(clean)  # a name keeps the bytes that it is first written as
    pydicom.dcmwrite(file, copy, implicit_vr=False, little_endian=True, enforce_file_format=False)
    back = read_dataset(BytesIO(file.getvalue()), is_implicit_VR=False, is_little_endian=True)
    return _texts(_clean(back, terms, strict=False)) == _texts(clean)


def _texts(header: Dataset) -> list[str]:
    return [str(element.value or "") for element in header.iterall() if element.VR in _ENCODED_VRS]


def _conforming(value: str, vr: str, keyword: str) -> str:
    """Return a value as its VR allows it, repaired where only one thing can be meant; else raise ``ValueError``."""
    match vr:
        case "AS" if _AGE.fullmatch(value.upper()):
            value = value.upper().zfill(4)
        case "CS":
            value = value.upper() if keyword != "PatientSex" else _one_of(_SEXES, value.upper())
        case "DA":
            value = _date(value)
        case "DS":
            value = _decimal(value)
        case "IS" if not -_MAX_IS <= int(value) < _MAX_IS:
            raise ValueError("is out of range.")
        case "TM":
            value = _time(value)
        case "UI":
            if _UID.fullmatch(value) is None or len(value) > 64:
                raise ValueError("is no UID.")
            return value
        case "PN" if any(group.count("^") > 4 for group in value.split("=")):
            raise ValueError("has more than five components.")
    validate_value(vr, value, RAISE)
    return value


def _one_of(meanings: dict[str, str], value: str) -> str:
    if value not in meanings:
        raise ValueError("is none of the values that are allowed.")
    return meanings[value]


def _date(value: str) -> str:
    found = _DATE.fullmatch(value)
    if found is None:
        raise ValueError("is no date.")
    return date(int(found[1]), int(found[3]), int(found[4])).strftime("%Y%m%d")


def _time(value: str) -> str:
    found = _TIME.fullmatch(value)
    if found is None:
        raise ValueError("is no time.")
    hour, minute, second, fraction = found.groups()
    time(int(hour), int(minute or 0), min(int(second or 0), 59))  # a leap second is allowed
    if int(second or 0) > 60:
        raise ValueError("is no time.")
    return "".join([hour, minute or "", second or "", f".{fraction[:6]}" if fraction else ""])


def _decimal(value: str) -> str:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError("is no number.")
    return value if len(value) <= 16 else str(DSfloat(number, auto_format=True))
