"""
Find the CT series in folders of DICOM files, by what their headers say, and put their slices in order.

File names tell nothing here. Headers are read by pydicom; ITK decodes the pixels (:mod:`scripts.image_readers`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, MediaStorageDirectoryStorage

__all__ = ["DicomSeries", "find_series", "scan_names", "series_files"]

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "AccessionNumber",
    "PatientIdentityRemoved",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "RescaleSlope",
    "RescaleIntercept",
]
_IDENTITY_TAGS = ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber")
_LOCALIZERS = {"LOCALIZER", "SCOUT"}
# Renderings through the whole body: their values are no HU of a place.
_PROJECTIONS = {"MIP", "MINIP", "PROJECTION IMAGE", "VRT", "VOLREN", "SSD"}
# Shorter series watch a contrast medium arrive, or guide a needle: no rib is to be seen in full.
_MIN_EXTENT_MM = 40.0
# How far a slice may lie from where it should: far under a voxel, far over the rounding of a header
_MAX_SHIFT_MM = 0.1
_HASH_DIGITS = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomSeries:
    """
    The slices of a CT series, from the first to the last along their normal.

    Args:
        uid: its Series Instance UID; empty where it was removed from the headers.
        headers: the slices' headers, without pixels, in order; each has its file as ``filename``.
    """

    uid: str
    headers: tuple[pydicom.FileDataset, ...]

    @property
    def files(self) -> list[Path]:
        """The slices' files, in order."""
        return [Path(str(header.filename)) for header in self.headers]

    @property
    def folder(self) -> Path:
        """The folder that holds all slices, in it or below it."""
        return Path(os.path.commonpath([path.parent for path in self.files]))

    @property
    def short_hash(self) -> str:
        """Ten hexadecimal digits that stay the same for the same series, and tell nothing of the patient."""
        return hashlib.sha256((self.uid or str(self.folder)).encode()).hexdigest()[:_HASH_DIGITS]

    @cached_property
    def identity(self) -> set[str]:
        """The words of the patient's name, and the numbers that stand for the patient; none if they were removed."""
        values = {
            str(header.get(tag) or "")
            for header in self.headers
            if str(header.get("PatientIdentityRemoved", "")).strip().upper() != "YES"
            for tag in _IDENTITY_TAGS
        }
        words = {word for value in values for word in _words(value)} | {_plain(value) for value in values}
        return {word for word in words if word}

    def names_patient(self, text: str) -> bool:
        """Tell whether a text holds a word of the patient's name, or one of the patient's numbers."""
        words = set(_words(text)) | set(re.findall(r"[a-z]+|\d+", _plain(text)))
        return any(word in words or (len(word) > 2 and word in _plain(text)) for word in self.identity)

    def shown(self, path: Path) -> str:
        """Write a path for a message, without the folders that name the patient."""
        return str(Path(*("[patient]" if self.names_patient(part) else part for part in path.parts)))


def find_series(files: Iterable[Path]) -> tuple[list[DicomSeries], list[str], list[str]]:
    """
    Find the CT volumes among files of any kind.

    Files belong together that share a Series Instance UID, in whichever folders they lie, or that lie in one folder and
    have none. What is no volume of a chest
    is passed over, with a line in the log that gives the reason: other modalities, localizers, secondary captures, dose
    reports, segmentations, projections, multi-frame objects, and series shorter than 40 mm. What could be one, but is
    broken, is a problem.

    Args:
        files: paths; those that are no DICOM are passed over without a word.

    Returns:
        the series without a problem, by their folders; the problems, a sentence each, which name the folder, what is
        wrong and what to do; and why other series were passed over. No sentence holds the patient's name or number.
    """
    groups: dict[tuple[str, Path | None, str], list[pydicom.FileDataset]] = defaultdict(list)
    for path in files:
        header = _read_header(path)
        if header is not None:
            uid = str(header.get("SeriesInstanceUID") or "")
            groups[uid, None if uid else path.parent, _why_passed_over(header)].append(header)
    found, problems, passed = [], [], []
    for (uid, _, reason), headers in groups.items():
        series = DicomSeries(uid, tuple(headers))
        problem = ""
        if not reason:
            problem = _problem_of_headers(headers)
        if not reason and not problem:
            series = DicomSeries(uid, tuple(_in_order(headers)))
            reason, problem = _check_positions(series)
        where = f"{series.shown(series.folder)}: series {series.short_hash} of {len(headers)} files"
        if reason:
            passed.append(f"{where} is passed over: {reason}.")
            logger.info(passed[-1])
        elif problem:
            problems.append(f"{where}: {problem}.")
        else:
            found.append(series)
    return sorted(found, key=lambda series: (series.folder, series.uid)), problems, passed


def series_files(folder: Path) -> list[str]:
    """
    Return the slices of the one CT series in a folder and below it, in order.

    Raises:
        ValueError: when there is none, more than one, or a broken one.
    """
    found, problems, passed = find_series(sorted(path for path in folder.rglob("*") if path.is_file()))
    if problems:
        raise ValueError(problems[0])
    if len(found) != 1:
        reasons = " ".join(passed)
        raise ValueError(
            f"{folder}: holds {len(found)} CT series, must hold one as a scan of its own. {reasons}".strip()
        )
    return [str(path) for path in found[0].files]


def scan_names(series: Sequence[DicomSeries], root: Path) -> list[str]:
    """
    Name scans after their folders below a root, without telling who the patient is.

    Args:
        series: as :func:`find_series` gives them.
        root: the folder that all lie in; its own name is taken for a series that lies in no folder below it.

    Returns:
        A name for each: the folders joined by ``-``; with the series' hash behind it where several share a folder; and
        ``ct-`` and the hash alone where a folder names the patient.
    """
    folders = [one.folder for one in series]
    names = []
    for one in series:
        parts = one.folder.relative_to(root).parts or (one.folder.resolve().name,)
        name = "-".join(parts)
        if one.names_patient(name):
            name = f"ct-{one.short_hash}"
        elif folders.count(one.folder) > 1:
            name = f"{name}-{one.short_hash}"
        names.append(name)
    return names


def _plain(text: str) -> str:
    """Keep the letters and digits of a text, in lower case and without accents."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def _words(text: str) -> list[str]:
    return [_plain(word) for word in re.split(r"[^\w]|_", text) if _plain(word)]


def _read_header(path: Path) -> pydicom.FileDataset | None:
    """Read the tags that matter; None for what is no DICOM object, or a list of others (DICOMDIR)."""
    with disable_value_validation():  # its warnings repeat the values
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        except (InvalidDicomError, EOFError, OSError):
            return None
    return None if _kind(header) == MediaStorageDirectoryStorage else header


def _kind(header: pydicom.FileDataset) -> UID:
    """The SOP class, which some remove together with the patient's identity, but not from the file's beginning."""
    return UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))


def _why_passed_over(header: pydicom.FileDataset) -> str:
    """Tell why a file is no slice of a CT volume, or nothing."""
    kind, modality = _kind(header), header.get("Modality")
    image_type = {str(value).upper() for value in header.get("ImageType") or []}
    if modality != "CT":
        return f"its modality is {modality}, not CT"
    if kind == EnhancedCTImageStorage:
        return "it is multi-frame (Enhanced) CT, which is not read: convert it to NIfTI"
    if kind != CTImageStorage:
        return f"it holds no CT slices, but {kind.name}"
    if image_type & _LOCALIZERS:
        return "it is a localizer"
    if image_type & _PROJECTIONS:
        return f"it is a projection ({', '.join(sorted(image_type & _PROJECTIONS))})"
    missing = [
        tag for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing") if not header.get(tag)
    ]
    return f"it has no {missing[0]}, so no place in the patient" if missing else ""


def _problem_of_headers(headers: Sequence[pydicom.FileDataset]) -> str:
    """Tell what makes slices of one UID no series, or nothing."""
    if len({str(header.get("PatientID", "")) for header in headers}) > 1:
        return (
            "slices of two patients are mixed under one Series Instance UID; separate them, and give each its own UID"
        )
    for tags, what in (
        (("Rows", "Columns", "PixelSpacing"), "slices of different size are mixed"),
        (("FrameOfReferenceUID", "StudyInstanceUID"), "slices of two examinations are mixed"),
    ):
        if len({str([header.get(tag) for tag in tags]) for header in headers}) > 1:
            return (
                f"{what} under one Series Instance UID; move those of each into a folder of its own, with its own UID"
            )
    if any(header.get("RescaleSlope") is None or header.get("RescaleIntercept") is None for header in headers):
        return "slices have no rescale slope and intercept, so their HU are unknown; export them again"
    orientations = _numbers(headers, "ImageOrientationPatient")
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        return "slices of different orientation are mixed under one Series Instance UID; give each its own UID"
    return ""


def _numbers(headers: Sequence[pydicom.FileDataset], tag: str) -> NDArray[np.float64]:
    return np.array([[float(value) for value in header[tag].value] for header in headers])


def _normal(header: pydicom.FileDataset) -> NDArray[np.float64]:
    row, column = _numbers([header], "ImageOrientationPatient").reshape(2, 3)
    return np.cross(row, column)


def _in_order(headers: Sequence[pydicom.FileDataset]) -> list[pydicom.FileDataset]:
    along = _numbers(headers, "ImagePositionPatient") @ _normal(headers[0])
    return [headers[i] for i in np.argsort(along, kind="stable")]


def _check_positions(series: DicomSeries) -> tuple[str, str]:
    """Tell why a series in order is passed over, or what is wrong with its slices' places; or nothing of both."""
    headers = series.headers
    positions = _numbers(headers, "ImagePositionPatient")
    normal = _normal(headers[0])
    along = positions @ normal
    steps = np.diff(along)
    distinct = steps[steps > _MAX_SHIFT_MM]
    step = float(np.median(distinct)) if len(distinct) else 0.0
    if along[-1] - along[0] + step < _MIN_EXTENT_MM:
        return f"it reaches over {along[-1] - along[0] + step:.0f} mm, less than {_MIN_EXTENT_MM:.0f}", ""
    if len(distinct) < len(steps):
        i = int(np.argmin(steps))
        if headers[i].get("SOPInstanceUID") and headers[i].SOPInstanceUID == headers[i + 1].get("SOPInstanceUID"):
            return "", f"a slice is there twice, at {along[i]:.1f} mm along the normal; remove the copies"
        return "", (
            f"two slices lie at {along[i]:.1f} mm along the normal: two phases or reconstructions are mixed; give each "
            "its own Series Instance UID, or remove one"
        )
    uneven = np.abs(steps - step) > _MAX_SHIFT_MM
    if uneven.any():
        i = int(np.argmax(uneven))
        place = f"between {along[i]:.1f} and {along[i + 1]:.1f} mm along the normal, where {step:.2f} mm are usual"
        if steps[i] > 1.5 * step:
            return "", f"slices are missing {place}; export the series again, or as NIfTI resampled to even slices"
        return "", f"slices are unevenly spaced {place}; resample them to even ones, as NIfTI"
    shift = positions[-1] - positions[0] - (along[-1] - along[0]) * normal
    if np.linalg.norm(shift) > _MAX_SHIFT_MM * max(1.0, 0.01 * len(headers)):
        degrees = np.degrees(np.arctan2(np.linalg.norm(shift), along[-1] - along[0]))
        return "", f"the gantry was tilted by {degrees:.1f} degrees; resample the series to an upright grid, as NIfTI"
    even = positions[0] + np.outer(np.arange(len(headers)), positions[-1] - positions[0]) / (len(headers) - 1)
    if np.abs(positions - even).max() > 10 * _MAX_SHIFT_MM:
        return "", "the slices do not lie on one straight line; resample them to an even grid, as NIfTI"
    return "", ""
