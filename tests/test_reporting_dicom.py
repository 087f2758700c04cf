"""Results as DICOM, read back: they lie where the candidates do, say what the table says, and refer to the series."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from conftest import prediction_run
from dicom_scans import FRAME, OBLIQUE, PATIENT, SERIES, STUDY, UPRIGHT, ras_affine, write_series
from highdicom.sr.coding import CodedConcept
from ignite.engine import Engine
from monai.data import MetaTensor
from pydicom.sr.codedict import codes

from scripts.candidates import describe_candidates, summarize
from scripts.handlers import DicomResultHandler
from scripts.reporting.dicom import Algorithm, candidate_report, candidate_segmentation, read_sources

SHAPE = (12, 10, 9)  # columns, rows, slices of 0.7 x 0.8 x 5 mm
ALGORITHM = Algorithm("rib_fractures", "1.2.3", "Some authors", "0123456789abcdef")
SCORES = torch.tensor([0.875, 0.25])


def candidates(directions=OBLIQUE):
    """Two candidates: 3 x 2 voxels of one slice, and a column of 4 slices, in a series of such a direction."""
    ids = torch.zeros(1, *SHAPE, dtype=torch.int32)
    ids[0, 2:5, 6:8, 3] = 1
    ids[0, 9, 1, 4:8] = 2
    return MetaTensor(ids, affine=torch.as_tensor(ras_affine(directions)), meta={"scan": "study-ct"})


def chest():
    """The chest's middle at the world's zero, its apex 100 mm above and its base 100 mm below it, RAS mm."""
    axis = np.zeros((34, 3))
    axis[:, 2] = np.linspace(100, -100, 34)
    return torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.as_tensor(axis)


def objects(folder, directions=OBLIQUE, pred=None, scores=SCORES, place=None, ribs=({}, {})):
    """The segmentation and the report of these candidates, in a series that is written to the folder."""
    pred = candidates(directions) if pred is None else pred
    sources, _ = read_sources(write_series(folder, np.zeros(SHAPE), directions))
    rows = describe_candidates(pred, scores, *(chest() if place is None else place))
    rows = [replace(row, **known) for row, known in zip(rows, ribs)]
    seg = candidate_segmentation(sources, pred[0].numpy(), pred.affine.numpy(), rows, ALGORITHM) if rows else None
    return seg, candidate_report(sources, seg, rows, summarize(rows, 0.5, 1), ALGORITHM), rows


def read_back(dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return pydicom.dcmread(path)


@pytest.mark.parametrize("directions", [UPRIGHT, OBLIQUE], ids=["upright", "oblique"])
def test_segments_lie_where_the_candidates_do(directions, tmp_path):
    seg, _, _ = objects(tmp_path / "ct", directions)
    stored = read_back(seg, tmp_path / "seg.dcm")
    shared = stored.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    found = {1: [], 2: []}
    for frame, groups in zip(stored.pixel_array, stored.PerFrameFunctionalGroupsSequence):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for j, i in np.argwhere(frame):
            found[number].append(corner + i * between_columns * row + j * between_rows * column)
    pred = candidates(directions)
    for number, count in ((1, 6), (2, 4)):
        voxels = np.argwhere(pred[0].numpy() == number)
        affine = ras_affine(directions)
        expected = (voxels @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)  # to LPS
        assert len(found[number]) == count
        np.testing.assert_allclose(sorted(map(tuple, found[number])), sorted(map(tuple, expected)), atol=1e-3)


def test_frames_refer_to_the_slices_that_they_cover(tmp_path):
    seg, _, _ = objects(tmp_path / "ct")
    stored = read_back(seg, tmp_path / "seg.dcm")
    slices = {}
    for groups in stored.PerFrameFunctionalGroupsSequence:
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        slices.setdefault(number, set()).add(int(source.rpartition(".")[2]) - 1)
    assert slices == {1: {3}, 2: {4, 5, 6, 7}}


def test_the_segmentation_tells_its_series_its_patient_and_its_algorithm(tmp_path):
    seg, _, _ = objects(tmp_path / "ct")
    stored = read_back(seg, tmp_path / "seg.dcm")
    assert (stored.StudyInstanceUID, stored.FrameOfReferenceUID) == (STUDY, FRAME)
    assert stored.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES != stored.SeriesInstanceUID
    assert (stored.PatientName, stored.PatientID) == (PATIENT["PatientName"], PATIENT["PatientID"])
    for segment, number in zip(stored.SegmentSequence, (1, 2)):
        assert (segment.SegmentNumber, segment.SegmentAlgorithmType) == (number, "AUTOMATIC")
        identification = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("rib_fractures", "1.2.3")
    assert (stored.SoftwareVersions, stored.DeviceSerialNumber) == ("1.2.3", "0123456789abcdef")


def test_a_segment_has_its_score_and_a_color(tmp_path):
    seg, _, _ = objects(tmp_path / "ct")
    segments = read_back(seg, tmp_path / "seg.dcm").SegmentSequence
    assert [segment.SegmentDescription for segment in segments] == [f"Score {score:.2f}" for score in SCORES]
    for segment in segments:
        color = hd.color.CIELabColor.from_dicom_value(list(segment.RecommendedDisplayCIELabValue)).to_rgb(clip=True)
        assert np.allclose(color, (0x56, 0xB4, 0xE9), atol=1)  # sky blue, as on the page


def groups_of(report, path):
    content = hd.sr.srread(read_back(report, path).filename).content
    return content, content.get_volumetric_roi_measurement_groups()


def values(group):
    return {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}


def test_the_report_says_what_the_table_says(tmp_path):
    seg, report, described = objects(tmp_path / "ct")
    _, groups = groups_of(report, tmp_path / "sr.dcm")
    assert len(groups) == 2
    for number, (group, candidate) in enumerate(zip(groups, described), start=1):
        assert values(group) == {
            "Certainty of Finding": (100 * SCORES[number - 1], "%"),
            "Volume": (candidate.volume_mm3, "mm3"),
            "Length": (candidate.length_mm, "mm"),
        }
        site = group.finding_sites[0]
        assert site.value == codes.SCT.Rib
        assert site.laterality.meaning.lower() == candidate.side
        assert site.topographical_modifier.meaning.lower() == candidate.part
        (level,) = group.get_qualitative_evaluations(codes.SCT.TopographicalModifier)
        assert {"Upper": "upper", "Mid": "middle", "Lower": "lower"}[level.value.meaning] == candidate.level
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == number
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID
    # by hand: 6 · 0.7 · 0.8 · 5 mm³, and √((2 · 0.7)² + 0.8²); 4 voxels, and 3 · 5 mm
    assert [candidate.volume_mm3 for candidate in described] == [16.8, 11.2]
    assert [candidate.length_mm for candidate in described] == [1.6, 15.0]


def test_the_report_tells_no_side_where_the_plane_is_unknown(tmp_path):
    plane, axis = chest()
    _, report, _ = objects(tmp_path / "ct", place=(torch.full_like(torch.as_tensor(plane), torch.nan), axis))
    for group in groups_of(report, tmp_path / "sr.dcm")[1]:
        (site,) = group.finding_sites
        assert (site.laterality, site.topographical_modifier) == (None, None)
        assert len(group.get_qualitative_evaluations(codes.SCT.TopographicalModifier)) == 0


FROM_SPINE = "Distance along the rib from the costovertebral joint"
SHARE = "Distance along the rib in per cent of its length"


def on_rib(side, number, mm=None, percent=None):
    place = {"rib_side": side, "rib_number": number, "rib_order": 3}
    return place | {"rib_from_spine_mm": mm, "rib_percent": percent}


@pytest.mark.parametrize(
    "rib, code, side, measured",
    [
        pytest.param({}, "113197003", "Right", {}, id="on none"),
        pytest.param(on_rib("right", 6, 84.0, 41.0), "59558009", "Right", {FROM_SPINE: 84, SHARE: 41}, id="right 6"),
        pytest.param(on_rib("left", 1, 0.0), "48535007", "Left", {FROM_SPINE: 0}, id="left 1, at the joint"),
        pytest.param(on_rib("left", None, 84.0), "113197003", "Left", {FROM_SPINE: 84}, id="no number"),
        pytest.param(on_rib("left", 13), "113197003", "Left", {}, id="a lumbar rib"),
    ],
)
def test_the_report_tells_the_rib(rib, code, side, measured, tmp_path):
    side_of_plane = {"side": "right"}
    _, report, _ = objects(tmp_path / "ct", ribs=(side_of_plane | rib, {}))
    first, second = groups_of(report, tmp_path / "sr.dcm")[1]
    (site,) = first.finding_sites
    assert (site.value.value, site.value.scheme_designator, site.laterality.meaning) == (code, "SCT", side)
    found = {name: number for name, (number, unit) in values(first).items() if name in (FROM_SPINE, SHARE)}
    assert found == measured
    assert {name: values(first)[name][1] for name in found} == {n: {FROM_SPINE: "mm", SHARE: "%"}[n] for n in found}
    assert second.finding_sites[0].value == codes.SCT.Rib


def check_digit(digits):
    """The last digit of a SNOMED CT identifier, by Verhoeff's scheme of the dihedral group of order 10."""

    def times(a, b):
        return (
            (a + b) % 5
            if a < 5 and b < 5
            else (5 + (a + b) % 5 if a < 5 else 5 + (a - b) % 5 if b < 5 else (a - b) % 5)
        )

    turn, check = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4], 0
    for place, digit in enumerate(reversed(digits), start=1):
        value = int(digit)
        for _ in range(place):
            value = turn[value]
        check = times(check, value)
    return next(str(last) for last in range(10) if times(check, last) == 0)


def test_each_rib_has_a_code_of_its_own_without_a_slip(tmp_path):
    assert check_digit("11319700") == "3" and check_digit("7270400") == "1"  # of a rib, and of a fracture
    found = []
    for number in range(1, 13):
        _, report, _ = objects(tmp_path / str(number), ribs=(on_rib("left", number), {}))
        first, _ = groups_of(report, tmp_path / "sr.dcm")[1]
        value = first.finding_sites[0].value
        assert check_digit(value.value[:-1]) == value.value[-1]
        found.append((value.value, value.meaning))
    assert len(set(found)) == 12 and found[0][1] == "First rib" and found[11] == ("43993008", "Twelfth rib")


@pytest.mark.parametrize("is_empty, count, many", [(False, 1, "Present"), (True, 0, "Absent")], ids=["some", "none"])
def test_the_report_counts_what_the_scan_holds(is_empty, count, many, tmp_path):
    pred, scores = candidates(), SCORES
    if is_empty:
        pred, scores = pred * 0, SCORES[:0]
    seg, report, _ = objects(tmp_path / "ct", pred=pred, scores=scores)
    content, groups = groups_of(report, tmp_path / "sr.dcm")
    assert (seg is None, len(groups)) == (is_empty, 0 if is_empty else 2)
    (scan,) = content.get_image_measurement_groups()
    assert values(scan) == {"Quantity": (count, "1")}
    (flag,) = scan.get_qualitative_evaluations(CodedConcept("many-fractures", "99RIBFRACTURE", "Many rib fractures"))
    assert flag.value.meaning == many


def test_a_single_candidate(tmp_path):
    pred = candidates()
    seg, report, _ = objects(tmp_path / "ct", pred=pred * (pred == 1), scores=SCORES[:1])
    _, (group,) = groups_of(report, tmp_path / "sr.dcm")
    assert group.referenced_segment[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID


def test_the_report_is_of_the_study_and_not_verified(tmp_path):
    _, report, _ = objects(tmp_path / "ct")
    stored = read_back(report, tmp_path / "sr.dcm")
    assert (stored.StudyInstanceUID, stored.PatientID) == (STUDY, PATIENT["PatientID"])
    assert stored.VerificationFlag == "UNVERIFIED"
    referenced = stored.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert SERIES in {series.SeriesInstanceUID for series in referenced}


@pytest.mark.parametrize(
    "spoil, message",
    [
        pytest.param(lambda ids, affine: (ids[:, :, 1:], affine), r"have the shape \(12, 10, 8\)", id="shape"),
        pytest.param(lambda ids, affine: (ids, affine + 0.2), "off the DICOM series", id="affine"),
        pytest.param(lambda ids, affine: (ids, affine @ np.diag([1, 1, -1, 1])), "80.0 mm off", id="turned"),
    ],
)
def test_candidates_of_another_grid_are_refused(spoil, message, tmp_path):
    pred = candidates(UPRIGHT)
    sources, _ = read_sources(write_series(tmp_path / "ct", np.zeros(SHAPE)))
    ids, affine = spoil(pred[0].numpy(), ras_affine())
    with pytest.raises(ValueError, match=message):
        candidate_segmentation(sources, ids, affine, describe_candidates(pred, SCORES), ALGORITHM)


def test_the_weights_tell_the_device(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps({"name": "n", "version": "v", "authors": "a"}))
    for name in ("one.pt", "two.pt"):
        (tmp_path / name).write_bytes(name.encode())
    one, again, two = (
        Algorithm.of_bundle(tmp_path / "metadata.json", tmp_path / f"{n}.pt") for n in ("one", "one", "two")
    )
    assert (one.name, one.version, one.manufacturer) == ("n", "v", "a")
    assert one.device_uid == again.device_uid != two.device_uid
    assert Algorithm.of_bundle(tmp_path / "metadata.json", None).serial_number == "part of the network"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of Debian's dicom3tools")
@pytest.mark.parametrize("is_empty", [False, True], ids=["candidates", "none"])
def test_an_independent_validator_finds_no_error(is_empty, tmp_path):
    pred, scores = (candidates() * 0, SCORES[:0]) if is_empty else (candidates(), SCORES)
    seg, report, _ = objects(tmp_path / "ct", pred=pred, scores=scores)
    for name, dataset in (("seg", seg), ("sr", report)):
        if dataset is not None:
            dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
            done = subprocess.run(["dciodvfy", tmp_path / f"{name}.dcm"], check=False, capture_output=True, text=True)
            errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
            assert errors == [], name


def converted(words):
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


needs_dcmqi = pytest.mark.skipif(shutil.which("tid1500reader") is None, reason="needs dcmqi: pip install dcmqi")


@needs_dcmqi
@pytest.mark.parametrize("directions", [UPRIGHT, OBLIQUE], ids=["upright", "oblique"])
def test_another_library_finds_the_segments_where_the_candidates_are(directions, tmp_path):
    seg, _, _ = objects(tmp_path / "ct", directions)
    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    source = ["--inputDICOM", tmp_path / "seg.dcm"]
    converted(["segimage2itkimage", *source, "--outputDirectory", tmp_path, "--outputType", "nii"])
    pred = candidates(directions)
    for number in (1, 2):
        volume = nib.load(tmp_path / f"{number}.nii.gz")
        found, expected = (
            nib.affines.apply_affine(affine, np.argwhere(ids))
            for affine, ids in (
                (volume.affine, np.asarray(volume.dataobj) == number),
                (pred.affine.numpy(), pred[0].numpy() == number),
            )
        )
        np.testing.assert_allclose(sorted(found.round(2).tolist()), sorted(expected.round(2).tolist()), atol=0.02)
    told = [its for (its,) in json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]]
    assert [(its["labelID"], its["SegmentLabel"], its["SegmentDescription"]) for its in told] == [
        (1, "Candidate 1", "Score 0.88"),
        (2, "Candidate 2", "Score 0.25"),
    ]
    assert {its["SegmentedPropertyTypeCodeSequence"]["CodeMeaning"] for its in told} == {"Fracture"}


@needs_dcmqi
def test_another_library_reads_the_report_by_its_template(tmp_path):
    seg, report, described = objects(tmp_path / "ct")
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    converted(["tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json"])
    told = json.loads((tmp_path / "sr.json").read_text())
    assert (told["CompletionFlag"], told["VerificationFlag"]) == ("COMPLETE", "UNVERIFIED")
    scan, *groups = told["Measurements"]
    assert [float(item["value"]) for item in scan["measurementItems"]] == [1]  # at the operating score, 0.5
    for group, candidate in zip(groups, described, strict=True):
        assert (group["ReferencedSegment"], group["segmentationSOPInstanceUID"]) == (candidate.id, seg.SOPInstanceUID)
        assert group["SourceSeriesForImageSegmentation"] == SERIES
        assert (group["FindingSite"]["CodeMeaning"], group["Laterality"]["CodeMeaning"]) == ("Rib", "Right")
        measured = {
            item["quantity"]["CodeMeaning"]: (float(item["value"]), item["units"]["CodeValue"])
            for item in group["measurementItems"]
        }
        assert measured == {
            "Certainty of Finding": (100 * candidate.score, "%"),
            "Volume": (candidate.volume_mm3, "mm3"),
            "Length": (candidate.length_mm, "mm"),
        }


def evaluator_of(pred, scores):
    def step(engine, number):
        return [{"pred": pred, "candidates": describe_candidates(pred, scores, *chest())}]

    return Engine(step)


def handler(folder, files):
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "n", "version": "v", "authors": "a"}))
    (folder / "model.pt").write_bytes(b"weights")
    items = [{"scan": "study-ct", "image": files}]
    return DicomResultHandler(prediction_run(folder, items, bundle_root=folder, checkpoint=folder / "model.pt"))


def test_the_handler_writes_both(tmp_path):
    files = [str(path) for path in write_series(tmp_path / "ct", np.zeros(SHAPE), OBLIQUE)]
    evaluator = evaluator_of(candidates(), SCORES)
    handler(tmp_path, files).attach(evaluator)
    evaluator.run([0])
    assert sorted(path.name for path in (tmp_path / "dicom").iterdir()) == ["study-ct.seg.dcm", "study-ct.sr.dcm"]
    assert pydicom.dcmread(tmp_path / "dicom" / "study-ct.seg.dcm").NumberOfFrames == 5
    evaluator = evaluator_of(candidates() * 0, SCORES[:0])
    handler(tmp_path, files).attach(evaluator)
    evaluator.run([0])
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["study-ct.sr.dcm"]  # no longer a segmentation


def test_the_handler_passes_over_what_is_no_dicom(tmp_path):
    evaluator = evaluator_of(candidates(), SCORES)
    handler(tmp_path, str(tmp_path / "scan.nii.gz")).attach(evaluator)
    evaluator.run([0])
    assert not (tmp_path / "dicom").exists()


def notes_of(evaluator, folder, files):
    """What the handler notes of the scan."""
    handler(folder, files).attach(evaluator)
    evaluator.run([0])
    return evaluator.state.output[0]["pred"].meta["notes"]


def test_a_series_that_nothing_can_refer_to_gets_a_note(tmp_path):
    def change(number, slice_):
        slice_.SeriesInstanceUID = ""

    files = [str(path) for path in write_series(tmp_path / "ct", np.zeros(SHAPE), OBLIQUE, change=change)]
    note = notes_of(evaluator_of(candidates(), SCORES), tmp_path, files)
    assert note == "No DICOM is written, since its headers have no valid SeriesInstanceUID to refer to."
    assert not (tmp_path / "dicom").exists()


def test_more_candidates_than_a_segmentation_holds_get_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.reporting.dicom.MAX_SEGMENTS", 1)
    files = [str(path) for path in write_series(tmp_path / "ct", np.zeros(SHAPE), OBLIQUE)]
    note = notes_of(evaluator_of(candidates(), SCORES), tmp_path, files)
    assert note == "No DICOM is written, which holds 1 candidates at most."
    assert not (tmp_path / "dicom").exists()


def test_the_report_holds_what_is_measured(tmp_path):
    known = {
        **{"rib_side": "left", "rib_number": 4, "rib_order": 4, "type": "displaced", "displacement": "offset"},
        **{"offset_mm": 3.2, "along_mm": -1.5, "contact_percent": 61, "bend_degrees": 8},
        "type_probabilities": (0.7, 0.1, 0.15, 0.05),
    }
    sources, _ = read_sources(write_series(tmp_path, np.zeros(SHAPE), OBLIQUE))
    pred = candidates(OBLIQUE)
    rows = [replace(row, **known) for row in describe_candidates(pred, SCORES, *chest())]
    seg = candidate_segmentation(sources, pred[0].numpy(), pred.affine.numpy(), rows, ALGORITHM)
    plain = str(candidate_report(sources, seg, rows, summarize(rows, 0.5, 1), ALGORITHM))
    told = str(candidate_report(sources, seg, rows, summarize(rows, 0.0, 1, described=True), ALGORITHM))
    for word in ("offset-kind", "t-displaced", "p-segmental", "gap", "contact", "bend"):
        assert f"'{word}'" in told
    # all on the fourth rib, on the left: no flail segment, and the number of every item is known
    assert "'rib-score'" in told and "'highest-rib'" in told and "'rib-score'" not in plain
