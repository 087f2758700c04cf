"""
Find the CT series in folders of DICOM files, by what their headers say, and put their slices in order.

File names tell nothing here. Headers are read by pydicom; ITK decodes the pixels (:mod:`scripts.images.image_reader`).
"""

from __future__ import annotations

import bisect
import hashlib
import logging
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from scripts.files.scan_names import natural_order
from scripts.images.dicom_files import read_dicom
from scripts.images.header_privacy import quiet_headers

__all__ = [
    "DicomSeries",
    "DicomSlice",
    "HeaderReader",
    "find_series",
    "is_dicom",
    "is_hidden_name",
    "read_series",
    "read_slices",
    "scan_names",
    "series_files",
    "series_of",
]

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
    "SliceThickness",
    "Rows",
    "Columns",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
]
_IDENTITY_TAGS = ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber")
_HIDDEN = "ct-"  # begins the name of a scan whose folder names the patient
_LOCALIZERS = {"LOCALIZER", "SCOUT"}
# Renderings through the whole body: their values are no HU of a place.
_PROJECTIONS = {"MIP", "MINIP", "PROJECTION IMAGE", "VRT", "VOLREN", "SSD"}
# Shorter series watch a contrast medium arrive, or guide a needle: no rib is to be seen in full.
_MIN_EXTENT_MM = 40.0
_MAX_SIDE = 4096  # ultra-high-resolution CT has 2048; a damaged header has up to 65535, for which no memory is enough
# How far a slice, or a pixel of it, may lie from where it should: far under a voxel; positions that were rounded to
# 0.1 mm lie within
_MAX_SHIFT_MM = 0.1
_ROUNDING = 1e-6  # of numbers that were computed, not written
# Slices this much thinner than their distance leave gaps; 1 mm at each 1.5 mm is usual
_MIN_THICKNESS_OF_STEP = 0.6
_HASH_DIGITS = 10
_SECONDS_WITHOUT_PROGRESS = 3.0

_DAMAGED = "it is DICOM that is damaged, or cannot be read; export it again"
_NO_DICOM = "it is no DICOM"
# A name with one of these says that its file is DICOM
_DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".ima"}

logger = logging.getLogger(__name__)

_Key = tuple[str, Path | None, str]  # series; folder, where it has no UID; why it is skipped


@dataclass(frozen=True, slots=True)
class DicomSlice:
    """
    What the header of a slice says, as far as it matters: a thousandth of the file, for archives of a million.

    Args:
        file: its file.
        series: its Series Instance UID; empty where it was removed.
        skipped: why it is no slice of a CT volume; empty where it may be one.
        identity: names, numbers and dates that tell who the patient is.
        uid: its SOP Instance UID; empty where it was removed.
        patient: the patient's number.
        examination: study and frame of reference.
        claims_ct: whether it says that it is a slice of a CT, whatever it lacks.
        shape: rows and columns.
        spacing_mm: between rows, and between columns; none where it is no slice of a volume.
        thickness_mm: its SliceThickness; none where it is no number.
        number: its InstanceNumber; likewise.
        has_hu: whether it tells how to make HU of its values.
        is_whole: whether its file is as long as its pixels, where they are not compressed.
        orientation: directions of rows and columns (LPS), six numbers; none where it is no slice of a volume.
        position: of its first pixel (LPS, mm), three numbers; likewise.
    """

    file: str
    series: str = ""
    skipped: str = ""
    identity: tuple[str, ...] = ()
    uid: str = ""
    patient: str = ""
    examination: str = ""
    claims_ct: bool = False
    shape: tuple[int, int] = (0, 0)
    spacing_mm: tuple[float, ...] = ()
    thickness_mm: tuple[float, ...] = ()
    number: tuple[float, ...] = ()
    has_hu: bool = False
    is_whole: bool = False
    orientation: tuple[float, ...] = ()
    position: tuple[float, ...] = ()

    @property
    def is_dicom(self) -> bool:
        """Whether its file is DICOM of any kind, even if damaged."""
        return self.skipped != _NO_DICOM


HeaderReader = Callable[[Iterable[Path]], Iterable[DicomSlice | None]]


@dataclass(frozen=True)
class DicomSeries:
    """
    The slices of a CT series, from the first to the last along their normal.

    Args:
        uid: its Series Instance UID; empty where it was removed from the headers.
        slices: its slices, in order.
        identity: names, numbers and dates in the headers that tell who the patient is, as they stand there.
        unreadable: files among those of its slices that cannot be read, so that slices of it may be missing.
    """

    uid: str
    slices: tuple[DicomSlice, ...]
    identity: frozenset[str]
    unreadable: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The slices' files, in order; and behind them the unreadable ones, so that whoever reads them meets these."""
        return [Path(file) for file in (*(one.file for one in self.slices), *self.unreadable)]

    @property
    def has_unique_uids(self) -> bool:
        """Whether each slice has a SOP Instance UID of its own, by which an object can refer to it."""
        uids = {one.uid for one in self.slices}
        return "" not in uids and len(uids) == len(self.slices)

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
        return f"{self.shown(self.folder)}: series {self.short_hash} of {len(self.files)} files"

    @cached_property
    def problem(self) -> str:
        """What makes it no volume and what to do, a sentence without its stop; empty where nothing does."""
        return _problem_of_files(self) or _problem_of_headers(self.slices) or _problem_of_positions(self)

    @cached_property
    def notes(self) -> list[str]:
        """What is doubtful about it and may be right, sentences that name nothing; of a series without a problem."""
        return _notes(self.slices)

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


def read_slices(files: Iterable[Path]) -> Iterator[DicomSlice | None]:
    """
    Read what matters of headers, one after the other.

    Args:
        files: files of any kind.

    Yields:
        What each file says; None for a list of other files (DICOMDIR).
    """
    with quiet_headers():  # once for all files, of which an archive has millions
        for path in tqdm(files, desc="look for DICOM", unit="file", leave=False, delay=_SECONDS_WITHOUT_PROGRESS):
            yield _read_slice(path)


def find_series(files: Iterable[Path], read_headers: HeaderReader = read_slices) -> tuple[list[DicomSeries], list[str]]:
    """
    Find the CT volumes among files of any kind.

    Files belong together that share a Series Instance UID, in whichever folders they lie, or that lie in one folder and
    have none. What is no volume of a chest is skipped, with a line in the log that gives the reason: other
    modalities, localizers, secondary captures, dose reports, segmentations, projections, multi-frame objects, series
    shorter than 40 mm, and damaged files beside no series.

    A file that cannot be read is the fault of the series among whose slices it lies, see `DicomSeries.unreadable`: one
    whose header names the series; or damaged DICOM in the folder; or a file there that is no DICOM, such as an empty
    one, and has a name like the slices' (``IM0045`` beside ``IM0044``) or a suffix of DICOM. Without a header, the
    slices before and behind it by name tell which series that is.

    Args:
        files: paths; others that are no DICOM are skipped without a word, see
            :func:`scripts.images.looks_like_dicom`.
        read_headers: reads what the files say, in their order.

    Returns:
        The series by their folders, broken ones too; and why others were skipped, a sentence each, in which no name
        or number of a patient stands.
    """
    found, passed = series_of(one for one in read_headers(files) if one is not None)
    for line in passed:
        logger.info(line)
    return found, passed


def series_of(headers: Iterable[DicomSlice]) -> tuple[list[DicomSeries], list[str]]:
    """
    Find the CT volumes among files whose headers were read, see :func:`find_series`.

    Args:
        headers: what the files say.

    Returns:
        As of :func:`find_series`.
    """
    groups: dict[_Key, list[DicomSlice]] = defaultdict(list)
    everyone: set[str] = set()
    for one in headers:
        groups[one.series, None if one.series else Path(one.file).parent, one.skipped].append(one)
        everyone.update(one.identity)
    unreadable = _unreadable_of(groups)
    blamed = {file for files_ in unreadable.values() for file in files_}
    found, passed = [], []
    for key, slices in groups.items():
        uid, _, reason = key
        if reason:
            slices = [one for one in slices if one.file not in blamed]
        if reason == _NO_DICOM or not slices:
            continue
        identity = {value for one in slices for value in one.identity}
        if reason and not identity:  # a damaged file does not tell whose it is, its folder may
            identity = everyone
        series = DicomSeries(
            uid,
            tuple(slices if reason else _in_order(slices)),
            frozenset(identity),
            tuple(sorted(unreadable.get(key, ()))),
        )
        if not reason and not series.unreadable and not _problem_of_headers(slices):
            reason = _why_too_short(series)
        if reason:
            passed.append(f"{series.description} is skipped: {reason}.")
        else:
            found.append(series)
    return sorted(found, key=lambda series: (series.folder, series.uid)), passed


def _unreadable_of(groups: Mapping[_Key, Sequence[DicomSlice]]) -> dict[_Key, set[str]]:
    """Tell which files that cannot be read, or lack what a slice has, are the fault of which series."""
    blamed: dict[_Key, set[str]] = defaultdict(set)
    beside: dict[Path, list[DicomSlice]] = defaultdict(list)
    for (uid, _, reason), slices in groups.items():
        series = groups.get((uid, None, ""), ()) if uid else ()
        for one in slices if reason else ():
            has_place = bool(one.position and one.orientation)  # a page of text has none, and another shape
            if series and one.claims_ct and (has_place or one.shape in ((0, 0), series[0].shape)):
                blamed[uid, None, ""].add(one.file)
            elif reason in (_DAMAGED, _NO_DICOM):
                beside[Path(one.file).parent].append(one)
    if not beside:
        return blamed
    readable: dict[Path, list[tuple[list[str | int], str, _Key]]] = defaultdict(list)
    for key, slices in groups.items():
        for one in slices if key[2] not in (_DAMAGED, _NO_DICOM) else ():
            path = Path(one.file)
            if path.parent in beside:
                readable[path.parent].append((natural_order(path.name), path.name, key))
    for folder, files in beside.items():
        neighbors = sorted(readable[folder], key=lambda neighbor: neighbor[0])
        order, shapes = [name for name, _, _ in neighbors], {_shape_of_name(name) for _, name, _ in neighbors}
        for one in files:
            name = Path(one.file).name
            if one.skipped == _DAMAGED or _is_named_as_slice(name, shapes):
                place = bisect.bisect(order, natural_order(name))
                for _, _, key in neighbors[max(place - 1, 0) : place + 1]:
                    if not key[2]:
                        blamed[key].add(one.file)
    return blamed


def _shape_of_name(name: str) -> str:
    """What the names of a series' slices share: all but the digits, or that it is a number in hexadecimal digits."""
    stem, suffix = os.path.splitext(name.casefold())
    if re.fullmatch(r"[0-9a-f]{6,}", stem) and not suffix:
        return f"{len(stem)} hexadecimal digits"
    return re.sub(r"[0-9]+", "0", name.casefold())


def _is_named_as_slice(name: str, shapes: set[str]) -> bool:
    shape = _shape_of_name(name)
    numbered = any(letter.isdecimal() for letter in shape)
    return (numbered and shape in shapes) or os.path.splitext(name.casefold())[1] in _DICOM_SUFFIXES


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
        image: its slices; or a folder, see `read_series`.

    Raises:
        ValueError: when that is not one CT series.
    """
    paths = ensure_tuple(image)
    return read_series(paths if len(paths) > 1 else paths[0]).files


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
    folders = Counter(one.folder for one in series)
    names = []
    for one in series:
        parts = one.folder.relative_to(root).parts or (one.folder.resolve().name,)
        name = "-".join(parts)
        if one.names_patient(name):
            name = f"{_HIDDEN}{one.short_hash}"
        elif folders[one.folder] > 1:
            name = f"{name}-{one.short_hash}"
        names.append(name)
    return names


def is_hidden_name(scan: str) -> bool:
    """Tell whether a scan's name is one that :func:`scan_names` gives where a folder names the patient."""
    return re.fullmatch(rf"{_HIDDEN}[0-9a-f]{{{_HASH_DIGITS}}}(-[0-9a-f]{{8}})?", scan) is not None


def _plain(text: str) -> str:
    """Keep the letters and digits of a text, in lower case and without accents."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def _words(text: str) -> list[str]:
    return [_plain(word) for word in re.split(r"[^\w]|_", text) if _plain(word)]


def _read_slice(path: Path) -> DicomSlice | None:
    """Read what matters of a header; None for a list of other files (DICOMDIR)."""
    try:
        header = read_dicom(path, stop_before_pixels=True, specific_tags=_TAGS)
        return None if _kind(header) == MediaStorageDirectoryStorage else _slice_of(header, path)
    except InvalidDicomError:
        return DicomSlice(str(path), skipped=_NO_DICOM)
    except Exception:  # of a damaged header pydicom raises nearly anything
        return DicomSlice(str(path), skipped=_DAMAGED)


def _kind(header: pydicom.FileDataset) -> UID:
    """The SOP class, which some remove together with the patient's identity, but not from the file's beginning."""
    return UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))


def _slice_of(header: pydicom.FileDataset, path: Path) -> DicomSlice:
    """Keep what matters of a header; texts that all slices of a series share are kept once."""
    return DicomSlice(
        file=str(path),
        series=sys.intern(str(header.get("SeriesInstanceUID") or "")),
        skipped=sys.intern(_why_passed_over(header)),
        identity=_identity_of(header),
        uid=str(header.get("SOPInstanceUID") or ""),
        patient=sys.intern(str(header.get("PatientID", ""))),
        examination=sys.intern(str([header.get(tag) for tag in ("FrameOfReferenceUID", "StudyInstanceUID")])),
        claims_ct=_claims_ct(header),
        shape=(int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        spacing_mm=_numbers(header, "PixelSpacing", 2),
        thickness_mm=_numbers(header, "SliceThickness", 1),
        number=_numbers(header, "InstanceNumber", 1),
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
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)))
    if syntax.is_compressed or syntax.is_deflated:  # what is cut off of a deflated file fails as its header is read
        return True
    bits = header.get("Rows", 0) * header.get("Columns", 0) * header.get("BitsAllocated", 16)
    return path.stat().st_size * 8 >= bits


def _numbers(header: pydicom.FileDataset, tag: str, count: int) -> tuple[float, ...]:
    """Read the numbers of a tag; none where they are not so many, or no numbers."""
    try:
        value = header.get(tag)
        values = tuple(float(one) for one in (() if value is None else ensure_tuple(value)))
    except (TypeError, ValueError):
        return ()
    return values if len(values) == count and np.isfinite(values).all() else ()


def _why_passed_over(header: pydicom.FileDataset) -> str:
    """Tell why a file is no slice of a CT volume, or nothing."""
    kind, modality = _kind(header), header.get("Modality")
    image_type = _image_type(header)
    if _claims_ct(header) and not (header.get("Rows") and header.get("Columns")):
        return _DAMAGED
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


def _claims_ct(header: pydicom.FileDataset) -> bool:
    """Tell whether a header is that of a CT's slice, as far as it goes; one that says nothing is cut off."""
    kind, modality = _kind(header), header.get("Modality")
    is_slice = kind in ("", CTImageStorage) and modality in (None, "", "CT")
    return is_slice and not _image_type(header) & (_LOCALIZERS | _PROJECTIONS)


def _image_type(header: pydicom.FileDataset) -> set[str]:
    return {str(value).upper() for value in ensure_tuple(header.get("ImageType") or ())}


def _problem_of_files(series: DicomSeries) -> str:
    """Tell how many files among the slices cannot be read, or nothing."""
    count = len(series.unreadable)
    if not count:
        return ""
    files = "a file" if count == 1 else f"{count} files"
    return f"{files} among its slices cannot be read (empty, cut short or damaged); export the series again"


def _notes(slices: Sequence[DicomSlice]) -> list[str]:
    """Tell what speaks for slices that were left out evenly."""
    notes = []
    step = _usual_step(_along_normal(slices))
    thickness = [one.thickness_mm[0] for one in slices if one.thickness_mm and one.thickness_mm[0] > 0]
    if thickness and (usual := float(np.median(thickness))) < _MIN_THICKNESS_OF_STEP * step:
        notes.append(
            f"its slices are {usual:g} mm thick and {step:.2f} mm apart, so that a fracture may lie between them: "
            "were some left out?"
        )
    numbers = np.array([one.number[0] for one in slices if one.number])
    if len(numbers) == len(slices) and (steps := np.unique(np.abs(np.diff(numbers)))).min() > 1:
        if len(steps) == 1:
            notes.append(f"its InstanceNumbers run in steps of {steps[0]:g}: were slices left out?")
    return notes


def _problem_of_headers(slices: Sequence[DicomSlice]) -> str:
    """Tell what makes slices of one UID no series, or nothing."""
    if len({one.patient for one in slices}) > 1:
        return (
            "slices of two patients are mixed under one Series Instance UID; separate them, and give each its own UID"
        )
    for kinds, what in (
        (_sizes(slices), "slices of different size are mixed"),
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


def _sizes(slices: Sequence[DicomSlice]) -> set[tuple[int, ...]]:
    """The slices' shapes, and whether the far corners of their pixels lie apart for unequal spacing."""
    spacings = np.array([one.spacing_mm for one in slices])
    apart_mm = np.abs(spacings - spacings[0]).max(axis=1) * max(slices[0].shape)
    return {(*one.shape, int(shift > _MAX_SHIFT_MM)) for one, shift in zip(slices, apart_mm)}


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
    max_shift_mm = _max_shift_mm(positions, _normal(slices[0]))
    if (steps <= _MAX_SHIFT_MM).any():
        i = int(np.argmin(steps))
        if slices[i].uid and slices[i].uid == slices[i + 1].uid:
            return f"a slice is there twice, at {along[i]:.1f} mm along the normal; remove the copies"
        return (
            f"two slices lie at {along[i]:.1f} mm along the normal: two phases or reconstructions are mixed; give each "
            "its own Series Instance UID, or remove one"
        )
    # rounded positions are apart by one of two steps: the mean lies between them
    uneven = np.minimum(np.abs(steps - step), np.abs(steps - steps.mean())) > max_shift_mm
    if uneven.any():
        i = int(np.argmax(np.where(uneven, np.abs(steps - step), 0)))
        place = f"between {along[i]:.1f} and {along[i + 1]:.1f} mm along the normal, where {step:.2f} mm are usual"
        if steps[i] > 1.5 * step:
            return f"slices are missing {place}; export the series again, or as NIfTI resampled to even slices"
        return f"slices are unevenly spaced {place}; resample them to even ones, as NIfTI"
    shift = positions[-1] - positions[0] - (along[-1] - along[0]) * _normal(slices[0])
    if np.linalg.norm(shift) > max_shift_mm * max(1.0, 0.01 * len(slices)):
        degrees = np.degrees(np.arctan2(np.linalg.norm(shift), along[-1] - along[0]))
        return f"the gantry was tilted by {degrees:.1f} degrees; resample the series to an upright grid, as NIfTI"
    even = positions[0] + np.outer(np.arange(len(slices)), positions[-1] - positions[0]) / (len(slices) - 1)
    if np.abs(positions - even).max() > 10 * _MAX_SHIFT_MM:
        return "the slices do not lie on one straight line; resample them to an even grid, as NIfTI"
    return ""


def _max_shift_mm(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """How far a slice may lie from its place, mm; more for an oblique stack whose coordinates are rounded to 0.1 mm."""
    is_rounded = np.abs(positions - np.round(positions, 1)).max() < _ROUNDING
    return _MAX_SHIFT_MM * (float(np.abs(normal).sum()) if is_rounded else 1.0) + _ROUNDING
