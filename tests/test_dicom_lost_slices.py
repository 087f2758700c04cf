"""Files among a series' slices that cannot be read are its fault; what merely lies beside them is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_scans import PATIENT, write_series

from scripts.images.dicom_files import looks_like_dicom, read_dicom
from scripts.images.dicom_series import find_series, read_series

OTHER = "1.2.826.0.1.3680043.8.498.77"
LOST = "among its slices cannot be read"


def stack(folder: Path, series: str = "1.2.3", name: str = "IM{:04d}", slices: int = 10, **kwargs) -> list[Path]:
    """A series whose files have names that count from 1."""
    files = write_series(folder, np.full((6, 5, slices), 40), series=series, **kwargs)
    return [path.rename(folder / name.format(number)) for number, path in enumerate(files, start=1)]


def found(root: Path):
    return find_series(sorted(path for path in root.rglob("*") if path.is_file()))[0]


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:450])


def cut_in_meta(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def no_place(path: Path) -> None:
    slice_ = pydicom.dcmread(path)
    del slice_.ImagePositionPatient
    slice_.save_as(path)


def no_modality(path: Path) -> None:
    slice_ = pydicom.dcmread(path)
    del slice_.Modality
    slice_.save_as(path)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\0" * 4096), id="zeros"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:100]), id="cut in the preamble"),
        pytest.param(cut_in_meta, id="cut in the meta information"),
        pytest.param(cut_in_header, id="cut in the header"),
        pytest.param(no_place, id="no place"),
        pytest.param(no_modality, id="no modality"),
    ],
)
@pytest.mark.parametrize("where", [slice(0, 1), slice(-2, None)], ids=["first", "last two"])
def test_unreadable_slices_at_an_end_are_the_series_fault(spoil, where, tmp_path):
    for path in (lost := stack(tmp_path)[where]):
        spoil(path)
    (series,) = found(tmp_path)
    assert series.problem.startswith("a file " if len(lost) == 1 else "2 files ") and LOST in series.problem
    assert set(lost) <= set(series.files)
    assert not any(value in series.problem for value in PATIENT.values())
    with pytest.raises(ValueError, match=LOST):  # as a run checks what the listing found
        read_series(series.files)


@pytest.mark.parametrize(
    "name, lost",
    [
        pytest.param("IM{:04d}.dcm", "IM0011.dcm", id="numbers"),
        pytest.param("{}", "11", id="numbers alone"),
        pytest.param("1.2.840.{}.55", "1.2.840.11.55", id="UIDs"),
        pytest.param("ABC{:05X}", "ABC0000B", id="hexadecimal"),
        pytest.param("IM{:04d}", "last.DCM", id="a suffix of DICOM"),
    ],
)
def test_an_empty_file_with_a_name_like_the_slices(name, lost, tmp_path):
    stack(tmp_path, name=name)
    (tmp_path / lost).touch()
    assert LOST in found(tmp_path)[0].problem


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7 text", b"\xff\xd8\xff\xe0\0\x10JFIF" + b"\0" * 400])
@pytest.mark.parametrize(
    "name", ["Thumbs.db", "README", "report.pdf", "VERSION", "IM0003.jpg", "desktop.ini", "LOCKFILE", "index.html"]
)
def test_what_lies_beside_the_slices_is_no_fault(name, content, tmp_path):
    stack(tmp_path)
    (tmp_path / name).write_bytes(content)
    (series,) = found(tmp_path)
    assert not series.problem and len(series.files) == 10


def test_of_two_series_in_a_folder_that_one_is_at_fault_whose_slice_is_lost(tmp_path):
    stack(tmp_path, series="1.2.3", name="IM{:04d}")
    stack(tmp_path, series=OTHER, name="IM1{:03d}")[4].write_bytes(b"")
    assert {series.uid: LOST in series.problem for series in found(tmp_path)} == {"1.2.3": False, OTHER: True}


def test_an_empty_file_in_another_folder_is_no_fault(tmp_path):
    stack(tmp_path / "ct")
    (tmp_path / "IM0011").touch()
    assert not found(tmp_path)[0].problem


def test_without_a_preamble_a_whole_study_is_found(tmp_path):
    for path in stack(tmp_path):
        path.write_bytes(path.read_bytes()[132:])
    (series,) = found(tmp_path)
    assert len(series.slices) == 10 and not series.problem


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x08\0\x05\0", id="the start of an element"),
        pytest.param(b"\x08\0" * 300, id="a group again and again"),
        pytest.param(b'{"a": 1}' * 40, id="JSON"),
        pytest.param(b"a,b,c\n1,2,3\n" * 40, id="CSV"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)) * 3, id="JPEG"),
        pytest.param(b"\x08\0" + np.random.default_rng(1).bytes(900), id="random behind a group"),
        pytest.param(b"PK\x03\x04" + bytes(500), id="ZIP"),
    ],
)
def test_other_files_do_not_look_like_dicom(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    assert not looks_like_dicom(tmp_path / "a")
    with pytest.raises(pydicom.errors.InvalidDicomError):
        read_dicom(tmp_path / "a")


def test_random_bytes_do_not_look_like_dicom(tmp_path):
    random = np.random.default_rng(2)
    for number in range(200):
        (tmp_path / str(number)).write_bytes(random.bytes(600))
    assert not [name for name in os.listdir(tmp_path) if looks_like_dicom(tmp_path / name)]


def test_slices_far_thinner_than_their_distance_are_noted(tmp_path):
    stack(tmp_path, change=lambda n, s: setattr(s, "SliceThickness", 2.5))  # 5 mm apart
    (series,) = found(tmp_path)
    assert not series.problem and series.notes == [
        "its slices are 2.5 mm thick and 5.00 mm apart, so that a fracture may lie between them: were some left out?"
    ]


def test_instance_numbers_that_run_in_steps_of_two_are_noted(tmp_path):
    stack(tmp_path, change=lambda n, s: setattr(s, "InstanceNumber", 40 - 2 * n))
    assert found(tmp_path)[0].notes == ["its InstanceNumbers run in steps of 2: were slices left out?"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda n, s: None, id="thickness as distance"),
        pytest.param(lambda n, s: setattr(s, "SliceThickness", 3.5), id="somewhat thinner"),
        pytest.param(lambda n, s: setattr(s, "SliceThickness", 7.5), id="overlapping"),
        pytest.param(lambda n, s: setattr(s, "SliceThickness", 0), id="thickness of 0"),
        pytest.param(lambda n, s: setattr(s, "InstanceNumber", 1), id="one number"),
        pytest.param(lambda n, s: setattr(s, "InstanceNumber", (n * 7) % 10), id="numbers in no order"),
    ],
)
def test_usual_series_have_no_note(change, tmp_path):
    stack(tmp_path, change=change)
    assert not found(tmp_path)[0].notes


def test_uids_that_are_not_unique_are_told_and_no_problem(tmp_path):
    stack(tmp_path / "a")
    stack(tmp_path / "b", series=OTHER, change=lambda n, s: setattr(s, "SOPInstanceUID", "1.2.3.4"))
    assert [(one.problem, one.has_unique_uids) for one in found(tmp_path)] == [("", True), ("", False)]


@pytest.mark.parametrize("step_mm", [1.2, 0.6], ids=["longer", "shorter"])
def test_uneven_slices_are_refused_though_rounded(step_mm, tmp_path):
    """Positions in tenths of a millimeter that no rounding of even slices gives."""
    z = np.cumsum([10.0, *[0.9] * 30, step_mm, *[0.9] * 29])

    def change(number, slice_):
        slice_.ImagePositionPatient = [0, 0, f"{z[number]:.1f}"]

    stack(tmp_path, slices=61, change=change)
    assert "unevenly spaced" in found(tmp_path)[0].problem
