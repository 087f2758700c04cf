"""Headers as anonymizers, scanners and archives leave them: what of them reaches the segmentation and the report."""

from __future__ import annotations

from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch
from dicom_scans import FRAME, PATIENT, SERIES, STUDY, ras_affine, spoil, write_series
from monai.data import MetaTensor
from pydicom.dataset import Dataset

from scripts.candidates import describe_candidates, summarize
from scripts.reporting.dicom import (
    Algorithm,
    candidate_report,
    candidate_segmentation,
    encoded,
    read_sources,
    reference_problem,
)

SHAPE = (12, 10, 9)  # columns, rows, slices of 0.7 x 0.8 x 5 mm
ALGORITHM = Algorithm("rib_fractures", "1.2.3", "Some authors", "0123456789abcdef")
TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
]


def written(folder, change, name=None):
    """
    The segmentation and the report on a series, as they are read back; and what is emptied.

    The slices are spoiled by a change; and by bytes in the place of the patient's name, which pydicom would not write.
    """
    files = write_series(folder / "ct", np.zeros(SHAPE), change=lambda number, slice_: change(slice_))
    if name is not None:
        for file in files:
            content, old = file.read_bytes(), PATIENT["PatientName"].encode()
            assert content.count(old) == 1
            file.write_bytes(content.replace(old, name.ljust(len(old))))
    ids = torch.zeros(1, *SHAPE, dtype=torch.int32)
    ids[0, 2:5, 6:8, 3] = 1
    pred = MetaTensor(ids, affine=torch.as_tensor(ras_affine()))
    sources, emptied = read_sources(files)
    assert reference_problem(sources) == ""
    rows = describe_candidates(pred, torch.tensor([0.875]))
    seg = candidate_segmentation(sources, ids[0].numpy(), ras_affine(), rows, ALGORITHM)
    report = candidate_report(sources, seg, rows, summarize(rows, 0.5, 1), ALGORITHM)
    return [pydicom.dcmread(BytesIO(encoded(one))) for one in (seg, report)], emptied


def without(*keywords):
    def change(slice_):
        for keyword in keywords:
            if keyword in slice_:
                del slice_[keyword]

    return change


def with_value(keyword, value):
    """Set a value past pydicom's checks; bytes are written as they are."""
    return lambda slice_: spoil(slice_, keyword, value)


@pytest.mark.parametrize("keyword", TYPE_2)
def test_what_may_be_empty_may_be_missing(keyword, tmp_path):
    objects, emptied = written(tmp_path, without(keyword))
    assert [(keyword in one, bool(one[keyword].value)) for one in objects] == [(True, False)] * 2
    assert emptied == []


def test_a_header_of_uids_and_place_alone_is_enough(tmp_path):
    kept = {"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"}
    kept |= {"Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Modality"}

    def change(slice_):
        without(*(element.keyword for element in slice_ if element.keyword not in kept))(slice_)

    (seg, report), _ = written(tmp_path, change)
    assert (seg.StudyInstanceUID, report.StudyInstanceUID, seg.FrameOfReferenceUID) == (STUDY, STUDY, FRAME)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES


@pytest.mark.parametrize(
    "change", [without("SliceThickness"), *(with_value("SliceThickness", v) for v in (b"", b"thin", b"0", b"-5"))]
)
def test_thickness_that_is_not_told_is_the_distance_of_the_slices(change, tmp_path):
    (seg, _), _ = written(tmp_path, change)
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 5.0


@pytest.mark.parametrize(
    "keyword, value, expected",
    [
        ("StudyTime", b"12:00:00", "120000"),
        ("StudyTime", b"12:30", "1230"),
        ("StudyTime", b"120000.12345678", "120000.123456"),
        ("StudyDate", b"2026.01.02", "20260102"),
        ("StudyDate", b"2026-01-02", "20260102"),
        ("PatientSex", b"male", "M"),
        ("PatientSex", b"f", "F"),
        ("PatientID", b"PX-1\r\n", "PX-1"),
        ("PatientAge", b"76Y", "076Y"),
        ("PatientWeight", b"70.500000000000000000", "70.5"),  # 16 characters at most
    ],
)
def test_a_value_is_repaired_where_one_thing_is_meant(keyword, value, expected, tmp_path):
    objects, emptied = written(tmp_path, with_value(keyword, value))
    assert [str(one[keyword].value) for one in objects] == [expected] * 2
    assert emptied == []


@pytest.mark.parametrize(
    "keyword, value",
    [
        ("PatientBirthDate", b"1950"),
        ("PatientBirthDate", b"19500230"),
        ("PatientBirthDate", b"02/03/1950"),
        ("StudyDate", b"20260102-20260103"),
        ("StudyTime", b"noon"),
        ("StudyTime", b"250000"),
        ("PatientSex", b"X"),
        ("StudyID", b"1" * 20),
        ("AccessionNumber", b"A" * 17),
        ("PatientID", b"PX\n4711"),
        ("PatientID", b"PX\\4711"),
        ("PatientID", b"9" * 65),
        ("PatientName", b"Quux" * 20),
        ("PatientName", b"Q^Z^a^b^c^d"),
        ("PatientName", b"M\xfcller^Jan"),  # Latin-1, where no character set is declared
        ("ReferringPhysicianName", b"a=b=c=d"),
    ],
)
def test_a_value_that_cannot_be_repaired_is_left_empty(keyword, value, tmp_path):
    objects, emptied = written(tmp_path, with_value(keyword, value))
    assert [one[keyword].value or "" for one in objects] == ["", ""]
    assert emptied == [keyword]


@pytest.mark.parametrize(
    "keyword, value",
    [
        ("PatientAge", b"76"),
        ("PatientWeight", b"heavy"),
        ("PatientSize", b"inf"),
        ("PatientIdentityRemoved", b"YES/NO?"),
        ("LastMenstrualDate", b"never"),
        ("StationName", b"S" * 17),
        ("AcquisitionNumber", b"99999999999"),
        ("KVP", b""),
        ("KVP", b"high"),
        ("SpacingBetweenSlices", b"wide"),
        ("PositionReferenceIndicator", b"x" * 65),
        ("AcquisitionDateTime", b"2026-01-02 12:00"),
        ("PregnancyStatus", b"\1\0\2\0"),  # two numbers
    ],
)
def test_other_values_are_left_out_where_they_do_not_conform(keyword, value, tmp_path):
    objects, emptied = written(tmp_path, with_value(keyword, value))
    assert [bool(one.get(keyword)) for one in objects] == [False, False]
    assert emptied == []


def test_a_sequence_with_a_value_that_does_not_conform_is_left_out(tmp_path):
    def change(slice_):
        good, bad = Dataset(), Dataset()
        good.CodeValue, good.CodingSchemeDesignator, good.CodeMeaning = "1", "99TEST", "One"
        slice_.ProcedureCodeSequence = [good]
        bad.PatientID = "PX-2"
        spoil(bad, "TypeOfPatientID", b"text?")
        slice_.OtherPatientIDsSequence = [bad]

    (seg, report), _ = written(tmp_path, change)
    for one in (seg, report):
        assert one.ProcedureCodeSequence[0].CodeMeaning == "One"
        assert "OtherPatientIDsSequence" not in one


def test_private_attributes_stay_behind(tmp_path):
    def change(slice_):
        slice_.add_new((0x0011, 0x0010), "LO", "ODD")
        slice_.add_new((0x0011, 0x1001), "UN", b"\xff\0\1")

    objects, _ = written(tmp_path, change)
    assert not any(element.tag.is_private for one in objects for element in one)


@pytest.mark.parametrize(
    "terms, name",
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO 2022 IR 100", "Müller^Jürgen"),
        ("ISO_IR 166", "ประชา^ไทย"),
    ],
)
def test_a_name_is_the_same_in_its_character_set(terms, name, tmp_path):
    def change(slice_):
        slice_.SpecificCharacterSet, slice_.PatientName = terms, name

    objects, emptied = written(tmp_path, change)
    assert [str(one.PatientName) for one in objects] == [name] * 2
    assert [one.SpecificCharacterSet for one in objects] == [terms] * 2
    assert emptied == []


@pytest.mark.parametrize("terms", [None, "ISO_IR 6", "ISO-IR 192", "NONSENSE", ["", "ISO 2022 IR 87"]])
def test_undeclared_utf_8_is_declared(terms, tmp_path):
    def change(slice_):
        if terms is not None:
            spoil(slice_, "SpecificCharacterSet", "\\".join([terms] if isinstance(terms, str) else terms).encode())

    objects, emptied = written(tmp_path, change, "Müller^Jürgen".encode())
    assert [str(one.PatientName) for one in objects] == ["Müller^Jürgen"] * 2
    assert [one.SpecificCharacterSet for one in objects] == ["ISO_IR 192"] * 2
    assert emptied == []


def test_bytes_that_are_no_text_of_the_declared_set_are_left_empty(tmp_path):
    def change(slice_):
        slice_.SpecificCharacterSet = "ISO_IR 192"

    objects, emptied = written(tmp_path, change, b"M\xfcller^J\xfcrgen")
    assert [str(one.PatientName) for one in objects] == ["", ""]
    assert emptied == ["PatientName"]


def test_the_mask_lies_where_it_does_in_a_good_series(tmp_path):
    odd = {"StudyTime": b"12:00:00", "PatientSex": b"X", "SliceThickness": b"thin", "StudyID": b"1" * 20}

    def change(slice_):
        for keyword, value in odd.items():
            spoil(slice_, keyword, value)

    (seg, _), _ = written(tmp_path, change)
    seg.save_as(tmp_path / "seg.dcm")
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume(segment_numbers=[1])
    voxels = np.argwhere(volume.array[..., 0] > 0)
    places = sorted(map(tuple, np.round(voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3], 3)))
    # by hand: columns 2 to 4 and rows 6 and 7 of slice 3, from (-20, -30, 10) in steps of 0.7, 0.8 and 5 mm
    expected = [(-20 + 0.7 * i, -30 + 0.8 * j, 25.0) for i in (2, 3, 4) for j in (6, 7)]
    np.testing.assert_allclose(places, sorted(expected), atol=1e-6)


@pytest.mark.parametrize("doubled", [1, 8], ids=["one pair", "all alike"])
def test_slices_that_share_a_uid_are_not_referred_to(doubled, tmp_path):
    def change(number, slice_):
        if number <= doubled:
            slice_.SOPInstanceUID = f"{SERIES}.77"

    sources, _ = read_sources(write_series(tmp_path, np.zeros(SHAPE), change=change))
    assert reference_problem(sources) == (
        f"its slices share SOP Instance UIDs ({9 - doubled} for 9 slices), so nothing can refer to one of them"
    )


@pytest.mark.parametrize("value", [b"", b"1.2.x", b"series 1", b"1.2." + b"3" * 64, b"..", b"1.2.\xff"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_uids_that_are_none_are_not_referred_to(keyword, value, tmp_path):
    files = write_series(tmp_path, np.zeros(SHAPE), change=lambda number, slice_: spoil(slice_, keyword, value))
    assert reference_problem(read_sources(files)[0]) == f"its headers have no valid {keyword} to refer to"


def test_a_single_slice_without_its_uid_is_enough(tmp_path):
    def change(number, slice_):
        if number == 5:
            del slice_.SOPInstanceUID

    problem = reference_problem(read_sources(write_series(tmp_path, np.zeros(SHAPE), change=change))[0])
    assert problem == "its headers have no valid SOPInstanceUID to refer to"


def test_a_uid_with_leading_zeros_is_referred_to_as_it_stands(tmp_path):
    (seg, report), _ = written(tmp_path, with_value("StudyInstanceUID", b"1.2.003.04"))
    assert (seg.StudyInstanceUID, report.StudyInstanceUID) == ("1.2.003.04", "1.2.003.04")


def test_a_class_that_stands_at_the_beginning_of_the_file_alone_is_taken(tmp_path):
    (seg, _), _ = written(tmp_path, without("SOPClassUID"))
    source = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert source.ReferencedSOPClassUID == pydicom.uid.CTImageStorage


def test_slightly_different_directions_and_spacings_are_those_of_the_first(tmp_path):
    def change(number, slice_):
        if number == 4:
            slice_.ImageOrientationPatient, slice_.PixelSpacing = [1, 0.0001, 0, 0, 1, 0], [0.800001, 0.7]

    sources, _ = read_sources(write_series(tmp_path, np.zeros(SHAPE), change=change))
    assert {tuple(source.ImageOrientationPatient) for source in sources} == {(1, 0, 0, 0, 1, 0)}
    assert {tuple(source.PixelSpacing) for source in sources} == {(0.8, 0.7)}
