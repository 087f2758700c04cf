"""
Find the CT series in folders of DICOM files, by what their headers say, and put their slices in order.

File names tell nothing here. Headers are read by pydicom; ITK decodes the pixels (:mod:`scripts.image_readers`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pydicom
from monai.config import PathLike
from monai.utils import ensure_tuple
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from tqdm import tqdm

from scripts.header_privacy import quiet_headers

__all__ = ["DicomSeries", "DicomSlice", "find_series", "is_dicom", "read_series", "scan_names", "series_files"]

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
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
]
_IDENTITY_TAGS = ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber")
_LOCALIZERS = {"LOCALIZER", "SCOUT"}
# Renderings through the whole body: their values are no HU of a place.
_PROJECTIONS = {"MIP", "MINIP", "PROJECTION IMAGE", "VRT", "VOLREN", "SSD"}
# Shorter series watch a contrast medium arrive, or guide a needle: no rib is to be seen in full.
_MIN_EXTENT_MM = 40.0
_MAX_SIDE = 4096  # ultra-high-resolution CT has 2048; a damaged header has up to 65535, for which no memory is enough
# How far a slice may lie from where it should: far under a voxel, far over the rounding of a header
_MAX_SHIFT_MM = 0.1
_HASH_DIGITS = 10
_SECONDS_WITHOUT_PROGRESS = 3.0

_DAMAGED = "it is DICOM that is damaged, or cannot be read; export it again"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DicomSlice:
    """
    What the header of a slice says, as far as it matters: a thousandth of the file, for archives of a million.

    Args:
        file: its file.
        series: its Series Instance UID; empty where it was removed.
        passed_over: why it is no slice of a CT volume; empty where it may be one.
        identity: names, numbers and dates that tell who the patient is.
        uid: its SOP Instance UID; empty where it was removed.
        patient: the patient's number.
        examination: study and frame of reference.
        size: rows, columns and pixel spacing.
        has_hu: whether it tells how to make HU of its values.
        is_whole: whether its file is as long as its pixels, where they are not compressed.
        orientation: directions of rows and columns (LPS), six numbers; none where it is no slice of a volume.
        position: of its first pixel (LPS, mm), three numbers; likewise.
    """

    file: str
    series: str = ""
    passed_over: str = ""
    identity: tuple[str, ...] = ()
    uid: str = ""
    patient: str = ""
    examination: str = ""
    size: str = ""
    has_hu: bool = False
    is_whole: bool = False
    orientation: tuple[float, ...] = ()
    position: tuple[float, ...] = ()


@dataclass(frozen=True)
class DicomSeries:
    """
    The slices of a CT series, from the first to the last along their normal.

    Args:
        uid: its Series Instance UID; empty where it was removed from the headers.
        slices: its slices, in order.
        identity: names, numbers and dates in the headers that tell who the patient is, as they stand there.
    """

    uid: str
    slices: tuple[DicomSlice, ...]
    identity: frozenset[str]

    @property
    def files(self) -> list[Path]:
        """The slices' files, in order."""
        return [Path(one.file) for one in self.slices]

    @property
    def folder(self) -> Path:
        """The folder that holds all slices, in it or below it."""
        return Path(os.path.commonpath([path.parent for path in self.files]))

    @property
    def short_hash(self) -> str:
        """Ten hexadecimal digits that stay the same for the same series, and tell nothing of the patient."""
        return hashlib.sha256((self.uid or str(self.folder)).encode()).hexdigest()[:_HASH_DIGITS]

    @property
    def description(self) -> str:
        """Its folder, hash and number of files, for a message."""
        return f"{self.shown(self.folder)}: series {self.short_hash} of {len(self.slices)} files"

    @cached_property
    def problem(self) -> str:
        """What makes it no volume and what to do, a sentence without its stop; empty where nothing does."""
        return _problem_of_headers(self.slices) or _problem_of_positions(self)

    @cached_property
    def _secrets(self) -> set[str]:
        """The words of the patient's name, and the numbers that stand for the patient."""
        words = {word for value in self.identity for word in _words(value)} | {_plain(value) for value in self.identity}
        return {word for word in words if word}

    def names_patient(self, text: str) -> bool:
        """Tell whether a text holds a word of the patient's name, or one of the patient's numbers."""
        words = set(_words(text)) | set(re.findall(r"[a-z]+|\d+", _plain(text)))
        return any(word in words or (len(word) > 2 and word in _plain(text)) for word in self._secrets)

    def shown(self, path: Path) -> str:
        """Write a path for a message, without the folders that name the patient."""
        return str(Path(*("[patient]" if self.names_patient(part) else part for part in path.parts)))


def find_series(files: Iterable[Path]) -> tuple[list[DicomSeries], list[str]]:
    """
    Find the CT volumes among files of any kind.

    Files belong together that share a Series Instance UID, in whichever folders they lie, or that lie in one folder and
    have none. What is no volume of a chest is passed over, with a line in the log that gives the reason: other
    modalities, localizers, secondary captures, dose reports, segmentations, projections, multi-frame objects, series
    shorter than 40 mm, and files that are damaged.

    Args:
        files: paths; those that are no DICOM are passed over without a word.

    Returns:
        the series by their folders, broken ones too; and why others were passed over, a sentence each, in which no name
        or number of a patient stands.
    """
    groups: dict[tuple[str, Path | None, str], list[DicomSlice]] = defaultdict(list)
    everyone: set[str] = set()
    for path in tqdm(files, desc="look for DICOM", unit="file", leave=False, delay=_SECONDS_WITHOUT_PROGRESS):
        one = _read_slice(path)
        if one is not None:
            groups[one.series, None if one.series else path.parent, one.passed_over].append(one)
            everyone.update(one.identity)
    found, passed = [], []
    for (uid, _, reason), slices in groups.items():
        identity = {value for one in slices for value in one.identity}
        if reason and not identity:  # a damaged file does not tell whose it is, its folder may
            identity = everyone
        series = DicomSeries(uid, tuple(slices if reason else _in_order(slices)), frozenset(identity))
        reason = reason or ("" if _problem_of_headers(slices) else _why_too_short(series))
        if reason:
            passed.append(f"{series.description} is passed over: {reason}.")
            logger.info(passed[-1])
        else:
            found.append(series)
    return sorted(found, key=lambda series: (series.folder, series.uid)), passed


def read_series(image: PathLike | Sequence[PathLike]) -> DicomSeries:
    """
    Read the headers of one CT series.

    Args:
        image: a folder, in and below which it lies; or its slices.

    Raises:
        ValueError: when there is none, more than one, or a broken one.
    """
    if isinstance(image, str | os.PathLike):
        files, where = (path for path in sorted(Path(image).rglob("*")) if path.is_file()), f"{image}"
    else:
        files, where = (Path(path) for path in image), f"a list of {len(image)} files"
    found, passed = find_series(files)
    if len(found) != 1:
        reasons = " ".join(passed)
        raise ValueError(
            f"{where}: holds {len(found)} CT series, must hold one as a scan of its own. {reasons}".strip()
        )
    if found[0].problem:
        raise ValueError(f"{found[0].description}: {found[0].problem}.")
    return found[0]


def is_dicom(image: PathLike | Sequence[PathLike]) -> bool:
    """Tell a series, a folder or a list of slices, from a scan in one file."""
    paths = ensure_tuple(image)
    return len(paths) > 1 or Path(paths[0]).is_dir()


def series_files(image: PathLike | Sequence[PathLike]) -> list[Path]:
    """
    Return the slices of a series in order.

    Args:
        image: the slices in order; or a folder, see `read_series`.

    Raises:
        ValueError: when the folder does not hold one CT series.
    """
    paths = ensure_tuple(image)
    return [Path(path) for path in paths] if len(paths) > 1 else read_series(paths[0]).files


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


def _read_slice(path: Path) -> DicomSlice | None:
    """Read what matters of a header; None for what is no DICOM object, or a list of others (DICOMDIR)."""
    with quiet_headers():  # of a damaged header pydicom raises nearly anything
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            return None if _kind(header) == MediaStorageDirectoryStorage else _slice_of(header, path)
        except InvalidDicomError:
            return None
        except Exception:
            return DicomSlice(str(path), passed_over=_DAMAGED)


def _kind(header: pydicom.FileDataset) -> UID:
    """The SOP class, which some remove together with the patient's identity, but not from the file's beginning."""
    return UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))


def _slice_of(header: pydicom.FileDataset, path: Path) -> DicomSlice:
    """Keep what matters of a header; texts that all slices of a series share are kept once."""
    return DicomSlice(
        file=str(path),
        series=sys.intern(str(header.get("SeriesInstanceUID") or "")),
        passed_over=sys.intern(_why_passed_over(header)),
        identity=_identity_of(header),
        uid=str(header.get("SOPInstanceUID") or ""),
        patient=sys.intern(str(header.get("PatientID", ""))),
        examination=sys.intern(str([header.get(tag) for tag in ("FrameOfReferenceUID", "StudyInstanceUID")])),
        size=sys.intern(str([header.get(tag) for tag in ("Rows", "Columns", "PixelSpacing")])),
        has_hu=header.get("RescaleSlope") is not None and header.get("RescaleIntercept") is not None,
        is_whole=_is_whole(header, path),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        position=_numbers(header, "ImagePositionPatient", 3),
    )


def _identity_of(header: pydicom.FileDataset) -> tuple[str, ...]:
    """The values that tell who the patient is; none if the header says that they were removed."""
    if str(header.get("PatientIdentityRemoved", "")).strip().upper() == "YES":
        return ()
    return tuple(sys.intern(str(header[tag].value)) for tag in _IDENTITY_TAGS if header.get(tag))


def _is_whole(header: pydicom.FileDataset, path: Path) -> bool:
    """Tell whether a file is long enough for its pixels, before memory is taken for them."""
    if UID(str(header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))).is_compressed:
        return True
    bits = header.get("Rows", 0) * header.get("Columns", 0) * header.get("BitsAllocated", 16)
    return path.stat().st_size * 8 >= bits


def _numbers(header: pydicom.FileDataset, tag: str, count: int) -> tuple[float, ...]:
    """Read the numbers of a tag; none where they are not so many, or no numbers."""
    try:
        values = tuple(float(value) for value in header.get(tag) or ())
    except (TypeError, ValueError):
        return ()
    return values if len(values) == count and np.isfinite(values).all() else ()


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
    for tag, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if not _numbers(header, tag, count):
            return f"its {tag} is not {count} numbers, so it has no place in the patient"
    if max(header.get("Rows") or 0, header.get("Columns") or 0) > _MAX_SIDE:
        return f"its slices are wider than {_MAX_SIDE} pixels, as no CT's are"
    return ""


def _problem_of_headers(slices: Sequence[DicomSlice]) -> str:
    """Tell what makes slices of one UID no series, or nothing."""
    if len({one.patient for one in slices}) > 1:
        return (
            "slices of two patients are mixed under one Series Instance UID; separate them, and give each its own UID"
        )
    for kinds, what in (
        ({one.size for one in slices}, "slices of different size are mixed"),
        ({one.examination for one in slices}, "slices of two examinations are mixed"),
    ):
        if len(kinds) > 1:
            return (
                f"{what} under one Series Instance UID; move those of each into a folder of its own, with its own UID"
            )
    if not all(one.is_whole for one in slices):
        return "the file of a slice is cut short; export the series again"
    if not all(one.has_hu for one in slices):
        return "slices have no rescale slope and intercept, so their HU are unknown; export them again"
    orientations = np.array([one.orientation for one in slices])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        return "slices of different orientation are mixed under one Series Instance UID; give each its own UID"
    return ""


def _normal(one: DicomSlice) -> NDArray[np.float64]:
    row, column = np.reshape(one.orientation, (2, 3))
    return np.cross(row, column)


def _along_normal(slices: Sequence[DicomSlice]) -> NDArray[np.float64]:
    """Where slices lie along the normal of the first, mm."""
    return np.array([one.position for one in slices]) @ _normal(slices[0])


def _usual_step(along: NDArray[np.float64]) -> float:
    """The usual distance of two slices in order, mm; 0 where all lie at one place."""
    steps = np.diff(along)
    distinct = steps[steps > _MAX_SHIFT_MM]
    return float(np.median(distinct)) if len(distinct) else 0.0


def _in_order(slices: Sequence[DicomSlice]) -> list[DicomSlice]:
    return [slices[i] for i in np.argsort(_along_normal(slices), kind="stable")]


def _why_too_short(series: DicomSeries) -> str:
    along = _along_normal(series.slices)
    extent_mm = along[-1] - along[0] + _usual_step(along)
    return f"it reaches over {extent_mm:.0f} mm, less than {_MIN_EXTENT_MM:.0f}" if extent_mm < _MIN_EXTENT_MM else ""


def _problem_of_positions(series: DicomSeries) -> str:
    """Tell what is wrong with the places of slices in order, or nothing."""
    slices = series.slices
    positions = np.array([one.position for one in slices])
    along = _along_normal(slices)
    steps, step = np.diff(along), _usual_step(along)
    if (steps <= _MAX_SHIFT_MM).any():
        i = int(np.argmin(steps))
        if slices[i].uid and slices[i].uid == slices[i + 1].uid:
            return f"a slice is there twice, at {along[i]:.1f} mm along the normal; remove the copies"
        return (
            f"two slices lie at {along[i]:.1f} mm along the normal: two phases or reconstructions are mixed; give each "
            "its own Series Instance UID, or remove one"
        )
    uneven = np.abs(steps - step) > _MAX_SHIFT_MM
    if uneven.any():
        i = int(np.argmax(uneven))
        place = f"between {along[i]:.1f} and {along[i + 1]:.1f} mm along the normal, where {step:.2f} mm are usual"
        if steps[i] > 1.5 * step:
            return f"slices are missing {place}; export the series again, or as NIfTI resampled to even slices"
        return f"slices are unevenly spaced {place}; resample them to even ones, as NIfTI"
    shift = positions[-1] - positions[0] - (along[-1] - along[0]) * _normal(slices[0])
    if np.linalg.norm(shift) > _MAX_SHIFT_MM * max(1.0, 0.01 * len(slices)):
        degrees = np.degrees(np.arctan2(np.linalg.norm(shift), along[-1] - along[0]))
        return f"the gantry was tilted by {degrees:.1f} degrees; resample the series to an upright grid, as NIfTI"
    even = positions[0] + np.outer(np.arange(len(slices)), positions[-1] - positions[0]) / (len(slices) - 1)
    if np.abs(positions - even).max() > 10 * _MAX_SHIFT_MM:
        return "the slices do not lie on one straight line; resample them to an even grid, as NIfTI"
    return ""
