"""Synthetic DICOM series, written by pydicom: what a scanner would write, and what goes wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

PATIENT = {"PatientName": "Quuxington^Zebediah", "PatientID": "PX-4711-0815", "PatientBirthDate": "19550607"}
SERIES, STUDY, FRAME = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
UPRIGHT = np.eye(3)
# columns: the patient directions (LPS) of rows, columns and slices; turned about two axes
OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) @ np.array(
    [[1.0, 0.0, 0.0], [0.0, 0.96, -0.28], [0.0, 0.28, 0.96]]
)
SPACING_MM = (0.7, 0.8, 5.0)  # between columns, between rows, between slices
ORIGIN_MM = (-20.0, -30.0, 10.0)  # LPS


def header(number: int, rows: int, columns: int, series: str = SERIES) -> FileDataset:
    """A CT slice without pixels and place."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_ = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    slice_.SeriesInstanceUID, slice_.StudyInstanceUID, slice_.FrameOfReferenceUID = series, STUDY, FRAME
    slice_.Modality, slice_.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    for tag, value in PATIENT.items():
        setattr(slice_, tag, value)
    slice_.PatientSex, slice_.StudyID, slice_.AccessionNumber = "O", "1", "ACC99321"
    slice_.StudyDate, slice_.StudyTime, slice_.ReferringPhysicianName = "20260102", "120000", ""
    slice_.SeriesNumber, slice_.InstanceNumber, slice_.AcquisitionNumber = 2, number + 1, 1
    slice_.PatientPosition = "HFS"
    slice_.Manufacturer, slice_.PositionReferenceIndicator, slice_.KVP = "Made up", "", 120
    slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = rows, columns, 1
    slice_.PhotometricInterpretation, slice_.PixelRepresentation = "MONOCHROME2", 1
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
    slice_.RescaleIntercept, slice_.RescaleSlope, slice_.RescaleType = -1024, 1, "HU"
    return slice_


def write_series(
    folder: Path,
    volume_hu: np.ndarray,
    directions: np.ndarray = UPRIGHT,
    series: str = SERIES,
    spacing_mm: Sequence[float] = SPACING_MM,
    change: Callable[[int, FileDataset], object] = lambda number, slice_: None,
) -> list[Path]:
    """
    Write a series whose file names run in no order.

    Args:
        folder: where.
        volume_hu: shape ``(columns, rows, slices)``, whole numbers of -1024 or more.
        directions: LPS directions of the three axes, as columns.
        series: its UID.
        spacing_mm: along the three axes.
        change: spoils a slice, given its number in order.

    Returns:
        The files from the first to the last slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns, rows, slices = volume_hu.shape
    names = np.random.default_rng(0).permutation(slices)
    paths = []
    for number in range(slices):
        slice_ = header(number, rows, columns, series)
        slice_.ImagePositionPatient = [
            round(float(x), 6) for x in ORIGIN_MM + directions[:, 2] * spacing_mm[2] * number
        ]
        slice_.ImageOrientationPatient = [float(x) for x in directions[:, :2].T.ravel()]
        slice_.PixelSpacing, slice_.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
        slice_.PixelData = (volume_hu[:, :, number].T + 1024).astype(np.int16).tobytes()
        change(number, slice_)
        paths.append(folder / f"{names[number]:03d}-{series[-3:]}.bin")
        slice_.save_as(paths[-1], enforce_file_format=True)
    return paths


def ras_affine(directions: np.ndarray = UPRIGHT, spacing_mm: Sequence[float] = SPACING_MM) -> np.ndarray:
    """Where voxel (column, row, slice) of such a series lies, RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = ORIGIN_MM
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def read(path: Path) -> pydicom.FileDataset:
    return pydicom.dcmread(path)


def spoil(slice_: pydicom.Dataset, keyword: str, value: bytes) -> None:
    """Give an attribute the very bytes of a value, past pydicom's checks."""
    tag = pydicom.tag.Tag(keyword)
    padded = value + b" " * (len(value) % 2)
    slice_[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
