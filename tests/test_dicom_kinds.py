"""DICOM as archives and scanners really write it: what is sound is read right, what is not is never read in part."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_scans import PATIENT, SPACING_MM, ras_affine, read, write_series
from monai.transforms import Compose, LoadImaged
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from scripts.data.datalist import load_datalist
from scripts.images.dicom_series import find_series
from scripts.images.file_checks import file_problems
from scripts.images.image_reader import CTReader
from scripts.transforms import CheckFilesd

SHAPE = (7, 6, 10)
OTHER = "1.2.826.0.1.3680043.8.498.9"


def volume(slices: int = SHAPE[2]) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, (*SHAPE[:2], slices)).astype(np.int16)


def loaded(folder: Path):
    """The one scan of a folder, listed, checked and read as a prediction does."""
    (item,) = load_datalist(folder, "all", labels=False, check=False)
    return Compose([CheckFilesd("image"), LoadImaged("image", reader=CTReader, image_only=True)])(item)["image"]


# ---- files that lack their preamble ----


def without_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def without_meta(path: Path) -> None:
    """Without the group 0002 as well, which says how the file is encoded."""
    content = path.read_bytes()
    path.write_bytes(content[144 + struct.unpack("<I", content[140:144])[0] :])


def implicit(path: Path) -> None:
    slice_ = read(path)
    slice_.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    slice_.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)


BARE = {
    "no preamble": [without_preamble],
    "no preamble and no meta": [without_meta],
    "implicit, no preamble": [implicit, without_preamble],
    "implicit, no preamble and no meta": [implicit, without_meta],
}


@pytest.mark.parametrize("steps", BARE.values(), ids=BARE)
@pytest.mark.parametrize("first", [0, 7], ids=["the whole series", "the last three slices"])
def test_slices_without_a_preamble_are_read(steps, first, tmp_path):
    for path in write_series(tmp_path / "study", volume())[first:]:
        for step in steps:
            step(path)
    image = loaded(tmp_path)
    assert np.array_equal(image.numpy(), volume())
    assert np.allclose(image.affine, ras_affine(), atol=1e-4)


NO_DICOM = {
    "zeros": bytes(400),
    "text": b"The report of this study, which is long enough to hold a header of DICOM and more. " * 9,
    "a table": b"scan,id\n1,2\n" * 40,
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(400),
    "zip": b"PK\x03\x04" + bytes(400),
    "a group that is no first one": struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 8) + b"Some^One" + bytes(300),
    "a length beyond the file": struct.pack("<HHI", 0x0008, 0x0005, 4_000_000) + bytes(300),
    "DICOM's first element, and nothing behind it": struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 10) + b"ISO_IR 100",
}


@pytest.mark.parametrize("content", NO_DICOM.values(), ids=NO_DICOM)
def test_other_files_are_not_taken_for_dicom(content, tmp_path):
    path = tmp_path / "IM0001"
    path.write_bytes(content)
    assert find_series([path]) == ([], [])


# ---- files among the slices that cannot be read ----

UNREADABLE = {
    "empty": b"",
    "cut in its header": 300,
    "zeros": bytes(2000),
    "an error page of the archive": b"<html><body>504 Gateway Time-out</body></html>",
    "no pixels left": 900,
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("number", [0, 4, 9], ids=["first", "middle", "last"])
def test_a_slice_that_cannot_be_read_is_the_fault_of_its_series(content, number, tmp_path):
    path = write_series(tmp_path / "study", volume())[number]
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    write_series(tmp_path / "other", volume(), series=OTHER)
    bad, good = load_datalist(tmp_path, "all", labels=False, check=False)[::-1]
    (problem,) = file_problems(bad["image"])
    # behind 900 bytes the header ends before it says how to make HU of the values
    assert ("no rescale slope" if content == 900 else "among its slices") in problem
    assert str(tmp_path / "study") in problem and not [v for v in PATIENT.values() if v in problem]
    assert file_problems(good["image"]) == []


def test_the_files_are_counted(tmp_path):
    for path in write_series(tmp_path / "study", volume())[5:]:
        path.write_bytes(b"")
    (item,) = load_datalist(tmp_path, "all", labels=False, check=False)
    (problem,) = file_problems(item["image"])
    assert "5 files among its slices cannot be read (empty, cut short or damaged)" in problem


def test_the_name_of_a_broken_slice_is_not_told_where_it_names_the_patient(tmp_path):
    for number, path in enumerate(write_series(tmp_path / "study", volume())):
        path = path.rename(path.with_name(f"Quuxington-{number}.dcm"))
    path.write_bytes(b"")
    (item,) = load_datalist(tmp_path, "all", labels=False, check=False)
    assert "a file among its slices" in file_problems(item["image"])[0]
    assert "Quux" not in file_problems(item["image"])[0].replace(str(tmp_path), "")


@pytest.mark.parametrize("name", ["README", "Thumbs.db", "report.pdf", "VERSION", "007.jpg", "LOCKFILE", "study.zip"])
def test_other_files_beside_the_slices_are_no_fault(name, tmp_path):
    write_series(tmp_path / "study", volume())
    (tmp_path / "study" / name).write_bytes(b"")
    assert np.array_equal(loaded(tmp_path).numpy(), volume())


# ---- what is sound ----


def set_text(tag: str, values: list[object]):
    """Give slices values in turn, as they are."""
    return lambda number, slice_: setattr(slice_, tag, values[number % len(values)])


def delete(tag: str):
    return lambda number, slice_: slice_.pop(tag, None)


def jitter(number, slice_):
    x, y, z = slice_.ImagePositionPatient
    slice_.ImagePositionPatient = [x + 0.001 * (number % 2), y, z]


def scientific(number, slice_):
    slice_.ImagePositionPatient = [f"{float(x):.6e}" for x in slice_.ImagePositionPatient]


SOUND = {
    "PixelSpacing as 0.8 and 0.80": set_text("PixelSpacing", [["0.8", "0.7"], ["0.80", "0.700"]]),
    "PixelSpacing 1e-6 apart": set_text("PixelSpacing", [[0.8, 0.7], [0.800001, 0.7]]),
    "ImageOrientationPatient as 1 and 1.0": set_text(
        "ImageOrientationPatient", [["1", "0", "0", "0", "1", "0"], ["1.0", "0.0", "-0.0", "0", "1.000000", "0"]]
    ),
    "RescaleSlope as 1 and 1.0": set_text("RescaleSlope", ["1", "1.0"]),
    "positions in scientific notation": scientific,
    "positions that jitter by a micrometer": jitter,
    "MONOCHROME1": set_text("PhotometricInterpretation", ["MONOCHROME1"]),
    "no SliceThickness": delete("SliceThickness"),
    "no InstanceNumber": delete("InstanceNumber"),
    "no ImageType": delete("ImageType"),
    "no SOPInstanceUID": delete("SOPInstanceUID"),
    "no PatientID": delete("PatientID"),
}


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_what_is_sound_is_read_right(change, tmp_path):
    write_series(tmp_path / "study", volume(), change=change)
    image = loaded(tmp_path)
    assert np.array_equal(image.numpy(), volume())
    assert np.allclose(image.affine, ras_affine(), atol=2e-3)


def deflated(path: Path) -> None:
    slice_ = read(path)
    slice_.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    slice_.save_as(path, enforce_file_format=True)


def big_endian(path: Path) -> None:
    slice_ = read(path)
    slice_.PixelData = slice_.pixel_array.astype(">i2").tobytes()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(path, slice_, implicit_vr=False, little_endian=False, force_encoding=True)


def one_byte_more(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("rewrite", [deflated, big_endian, implicit, one_byte_more])
def test_every_plain_encoding_is_read_right(rewrite, tmp_path):
    for path in write_series(tmp_path / "study", np.zeros((40, 30, 10), np.int16) + volume()[:1, :1]):
        rewrite(path)
    assert np.array_equal(loaded(tmp_path).numpy(), np.zeros((40, 30, 10)) + volume()[:1, :1])


@pytest.mark.parametrize("step_mm", [1.3333, 0.7, 2.46])
def test_positions_that_are_rounded_to_a_tenth_of_a_mm(step_mm, tmp_path):
    def rounded(number, slice_):
        slice_.ImagePositionPatient = [-20.0, -30.0, round(10 + step_mm * number, 1)]

    write_series(tmp_path / "study", volume(61), spacing_mm=(*SPACING_MM[:2], step_mm), change=rounded)
    image = loaded(tmp_path)
    assert np.array_equal(image.numpy(), volume(61))
    # of the first and the last slice, 60 apart, each is rounded by up to 0.05 mm
    assert image.affine[2, 2] == pytest.approx(step_mm, abs=0.1 / 60)


@pytest.mark.parametrize("off_mm", [0.3, -0.4])
def test_a_slice_that_is_really_off_its_place_is_refused(off_mm, tmp_path):
    def moved(number, slice_):
        if number == 20:
            slice_.ImagePositionPatient[2] += off_mm

    write_series(tmp_path / "study", volume(41), spacing_mm=(*SPACING_MM[:2], 1.25), change=moved)
    (item,) = load_datalist(tmp_path, "all", labels=False, check=False)
    assert "unevenly spaced" in file_problems(item["image"])[0]


def test_pixel_spacing_that_moves_the_far_corner_is_a_mixture(tmp_path):
    # 0.02 mm over 6 rows are 0.12 mm
    change = set_text("PixelSpacing", [[0.8, 0.7], [0.82, 0.7]])
    write_series(tmp_path / "study", volume(), change=change)
    (item,) = load_datalist(tmp_path, "all", labels=False, check=False)
    assert "different size are mixed" in file_problems(item["image"])[0]


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelPaddingValue": 63536},
        pytest.param({"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 63000}, id="a range"),
        pytest.param({}, id="not told of"),
    ],
)
def test_padding_that_was_stored_without_its_sign_is_air(tags, tmp_path):
    padded = volume()
    padded[0], padded[:, -1] = -1024, -1024

    def unsigned(number, slice_):
        stored = (padded[:, :, number].T.astype(int) + 1024).astype(np.uint16)
        stored[:, 0], stored[-1] = 63536, 63536  # -2000
        slice_.PixelRepresentation, slice_.PixelData = 0, stored.tobytes()
        for tag, value in tags.items():
            setattr(slice_, tag, value)

    write_series(tmp_path / "study", padded, change=unsigned)
    image = loaded(tmp_path).numpy()
    assert np.array_equal(image[1:, :-1], padded[1:, :-1])
    # -2000 less 1024 where the header does not tell that it is padding
    assert set(np.unique(image[[0]])) | set(np.unique(image[:, -1])) == {-1024.0 if tags else -3024.0}


# ---- what is doubtful ----


def notes_of(folder: Path) -> str:
    return str(loaded(folder).meta["file_notes"])


def test_slices_far_thinner_than_their_distance_are_noted(tmp_path):
    write_series(tmp_path / "study", volume(), change=set_text("SliceThickness", [1.0]))
    assert "1 mm thick and 5.00 mm apart" in notes_of(tmp_path)


def test_instance_numbers_in_steps_of_two_are_noted(tmp_path):
    write_series(tmp_path / "study", volume(), change=lambda n, slice_: setattr(slice_, "InstanceNumber", 1 + 2 * n))
    assert "run in steps of 2: were slices left out?" in notes_of(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(set_text("SliceThickness", [5.0]), id="as thick as their distance"),
        pytest.param(set_text("SliceThickness", [8.0]), id="overlapping"),
        pytest.param(set_text("SliceThickness", [4.0]), id="a small gap"),
        pytest.param(lambda n, slice_: setattr(slice_, "InstanceNumber", 90 - n), id="numbered downward"),
        pytest.param(lambda n, slice_: setattr(slice_, "InstanceNumber", (n * 7) % 31), id="numbered in no order"),
    ],
)
def test_usual_slices_are_not_noted(change, tmp_path):
    write_series(tmp_path / "study", volume(), change=change)
    assert notes_of(tmp_path) == ""


@pytest.mark.parametrize(
    "change, unique",
    [
        pytest.param(lambda n, slice_: None, True, id="each its own"),
        pytest.param(set_text("SOPInstanceUID", ["1.2.3"]), False, id="one for all"),
        pytest.param(set_text("SOPInstanceUID", ["1.2.3", "1.2.4", "1.2.5"]), False, id="three in turn"),
        pytest.param(delete("SOPInstanceUID"), False, id="none"),
    ],
)
def test_whether_slices_can_be_referred_to(change, unique, tmp_path):
    write_series(tmp_path / "study", volume(), change=change)
    (series,), _ = find_series(sorted((tmp_path / "study").iterdir()))
    assert series.has_unique_uids == unique and series.problem == ""
