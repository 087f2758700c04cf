"""Candidates as DICOM objects that refer to the series they were found in: a segmentation and a structured report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import highdicom as hd
import numpy as np
from highdicom import sr
from highdicom.sr.coding import CodedConcept
from monai.config import PathLike
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DSfloat

from scripts.candidates import TYPE_CODES, Candidate, ScanSummary
from scripts.files.file_digest import file_sha256
from scripts.images.dicom_files import read_dicom
from scripts.images.header_privacy import quiet_headers
from scripts.reporting.dicom_header import clean_header, emptied_attributes
from scripts.reporting.figures import CANDIDATE_COLOR

__all__ = [
    "MAX_SEGMENTS",
    "Algorithm",
    "candidate_report",
    "candidate_segmentation",
    "encoded",
    "read_sources",
    "reference_problem",
]

# SNOMED CT and LOINC as in the DICOM standard's context groups; the level of a candidate and the flag are not in them.
_FRACTURE = CodedConcept("72704001", "SCT", "Fracture")
_CT_CHEST = CodedConcept("24627-2", "LN", "CT Chest")
_SIDES = {"right": codes.SCT.Right, "left": codes.SCT.Left}
_PARTS = {"anterior": codes.SCT.Anterior, "lateral": codes.SCT.Lateral, "posterior": codes.SCT.Posterior}
_LEVELS = {
    "upper": CodedConcept("261183002", "SCT", "Upper"),
    "middle": CodedConcept("255562008", "SCT", "Mid"),
    "lower": CodedConcept("261122009", "SCT", "Lower"),
}
# Bone structure of first rib (body structure) and so on, with shorter names: the codes of the structure set names in
# HL7's CodeX Radiation Therapy (after AAPM's TG-263), which are also those of TotalSegmentator's classes in 3D Slicer.
_RIBS = {
    1: CodedConcept("48535007", "SCT", "First rib"),
    2: CodedConcept("78247007", "SCT", "Second rib"),
    3: CodedConcept("25888004", "SCT", "Third rib"),
    4: CodedConcept("25523003", "SCT", "Fourth rib"),
    5: CodedConcept("15339008", "SCT", "Fifth rib"),
    6: CodedConcept("59558009", "SCT", "Sixth rib"),
    7: CodedConcept("24915002", "SCT", "Seventh rib"),
    8: CodedConcept("5953002", "SCT", "Eighth rib"),
    9: CodedConcept("22565002", "SCT", "Ninth rib"),
    10: CodedConcept("77644006", "SCT", "Tenth rib"),
    11: CodedConcept("58830002", "SCT", "Eleventh rib"),
    12: CodedConcept("43993008", "SCT", "Twelfth rib"),
}
_PRIVATE_SCHEME = "99RIBFRACTURE"
_FROM_SPINE = CodedConcept("rib-distance", _PRIVATE_SCHEME, "Distance along the rib from the costovertebral joint")
_RIB_SHARE = CodedConcept("rib-share", _PRIVATE_SCHEME, "Distance along the rib in per cent of its length")
_OFFSET = CodedConcept("offset", _PRIVATE_SCHEME, "Distance of the fragments' axes across the rib")
_ALONG = CodedConcept("gap", _PRIVATE_SCHEME, "Gap between the fragments along the rib; negative: overlap")
_CONTACT = CodedConcept("contact", _PRIVATE_SCHEME, "Share of the section that faces the other fragment")
_BEND = CodedConcept("bend", _PRIVATE_SCHEME, "Angle between the fragments' axes")
_DISPLACEMENT = CodedConcept("displacement", _PRIVATE_SCHEME, "Displacement of the fragments")
_DISPLACEMENTS = {
    "undisplaced": CodedConcept("undisplaced", _PRIVATE_SCHEME, "Undisplaced: more than 90 % of contact"),
    "offset": CodedConcept("offset-kind", _PRIVATE_SCHEME, "Offset: 90 % of contact or less"),
    "displaced": CodedConcept("displaced", _PRIVATE_SCHEME, "Displaced: without contact"),
}
_TYPE = CodedConcept("type", _PRIVATE_SCHEME, "Type of the fracture as in RibFrac")
_TYPES = {name: CodedConcept(f"t-{name}", _PRIVATE_SCHEME, name.capitalize()) for name in TYPE_CODES}
_TYPE_SHARES = [CodedConcept(f"p-{name}", _PRIVATE_SCHEME, f"Probability of the type {name}") for name in TYPE_CODES]
_CHEST_COUNTS = {
    "ribs_right": CodedConcept("ribs-right", _PRIVATE_SCHEME, "Fractured ribs on the right"),
    "ribs_left": CodedConcept("ribs-left", _PRIVATE_SCHEME, "Fractured ribs on the left"),
    "rib_score": CodedConcept("rib-score", _PRIVATE_SCHEME, "RibScore"),
}
_CHEST_FACTS = {
    "flail_right": CodedConcept("flail-right", _PRIVATE_SCHEME, "Flail segment on the right"),
    "flail_left": CodedConcept("flail-left", _PRIVATE_SCHEME, "Flail segment on the left"),
    "six_fractures": CodedConcept("six-fractures", _PRIVATE_SCHEME, "Six rib fractures or more"),
    "bilateral": CodedConcept("bilateral", _PRIVATE_SCHEME, "Rib fractures on both sides"),
    "flail_chest": CodedConcept("flail-chest", _PRIVATE_SCHEME, "Flail segment on either side"),
    "three_displaced": CodedConcept("three-displaced", _PRIVATE_SCHEME, "Three displaced fractures or more"),
    "first_rib": CodedConcept("first-rib", _PRIVATE_SCHEME, "Fracture of a first rib"),
    "three_areas": CodedConcept("three-areas", _PRIVATE_SCHEME, "Anterior, lateral and posterior fractures"),
}
_EXTREMES = {
    "highest_rib": CodedConcept("highest-rib", _PRIVATE_SCHEME, "Highest fractured rib"),
    "lowest_rib": CodedConcept("lowest-rib", _PRIVATE_SCHEME, "Lowest fractured rib"),
}
_DEGREE = CodedConcept("deg", "UCUM", "degree")
_CUBIC_MILLIMETER = CodedConcept("mm3", "UCUM", "cubic millimeter")
_MILLIMETER = CodedConcept("mm", "UCUM", "millimeter")
_PERCENT = CodedConcept("%", "UCUM", "percent")
_NO_UNIT = CodedConcept("1", "UCUM", "no units")
_RESEARCH = "For research only, not for diagnosis"
_SEG_NUMBER, _SR_NUMBER = 9001, 9002  # far above what scanners count to
_NEEDED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_PLACE = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_NO_FILE = "part of the network"  # the weights, as of TensorRT's
_MAX_SHIFT_MM = 0.1
MAX_SEGMENTS = 65535  # segments have numbers of 16 bits

_Made = TypeVar("_Made", bound=Dataset)


@dataclass(frozen=True)
class Algorithm:
    """
    Who found the candidates.

    Args:
        name: of the bundle.
        version: of the bundle.
        manufacturer: its authors.
        serial_number: sixteen hexadecimal digits that tell the weights, or that these are part of the network.
    """

    name: str
    version: str
    manufacturer: str
    serial_number: str

    @classmethod
    def of_bundle(cls, metadata: PathLike, checkpoint: PathLike | None) -> Algorithm:
        """Read name, version and authors from a bundle's ``metadata.json``, and sum up the weights by their SHA-256."""
        content = json.loads(Path(metadata).read_text(encoding="utf-8"))
        digest = None if checkpoint is None else file_sha256(checkpoint)
        serial_number = digest[:16] if digest else _NO_FILE
        return cls(content["name"], content["version"], content["authors"], serial_number)

    @property
    def equipment(self) -> dict[str, Any]:
        """The attributes of an object that tell what made it, as highdicom calls them."""
        return {
            "manufacturer": self.manufacturer,
            "manufacturer_model_name": self.name,
            "software_versions": self.version,
            "device_serial_number": self.serial_number,
        }

    @property
    def device_uid(self) -> UID:
        """A UID that is the same for the same bundle, version and weights."""
        return generate_uid(prefix="2.25.", entropy_srcs=[self.name, self.version, self.serial_number])


def read_sources(files: Sequence[PathLike]) -> tuple[list[Dataset], list[str]]:
    """
    Read what new objects take over of a series: of the first slice its header, of the others UIDs and place.

    Args:
        files: the slices, in order.

    Returns:
        A data set for each slice, completed and mended by :func:`scripts.reporting.clean_header`; they all have the
        first one's orientation and spacing, since a volume has one of each, and the distance of the slices where their
        thickness is not told. And keywords of what tells the patient and the study and had to be left empty.
    """
    sources, emptied = [], []
    with quiet_headers():
        for number, file in enumerate(files):
            wanted = None if number == 0 else [*_NEEDED_UIDS, *_PLACE]
            header = read_dicom(file, stop_before_pixels=True, specific_tags=wanted)
            clean = clean_header(header)
            if not clean.get("SOPClassUID"):  # some remove it, but not from the beginning of the file
                clean.SOPClassUID = header.file_meta.get("MediaStorageSOPClassUID")
            emptied += emptied_attributes(header, clean) if number == 0 else []
            sources.append(clean)
        _complete_place(sources)
    return sources, emptied


def _complete_place(sources: Sequence[Dataset]) -> None:
    """Give all slices the first one's orientation and spacing, and a thickness."""
    first, last = sources[0], sources[-1]
    if not _number(first.get("SliceThickness")) > 0 and len(sources) > 1:
        extent = np.subtract(last.ImagePositionPatient, first.ImagePositionPatient, dtype=float)
        first.SliceThickness = DSfloat(float(np.linalg.norm(extent)) / (len(sources) - 1), auto_format=True)
    if "SpacingBetweenSlices" in first:  # highdicom measures it where it is not told
        del first.SpacingBetweenSlices
    for source in sources:
        source.ImageOrientationPatient = first.ImageOrientationPatient
        source.PixelSpacing = first.PixelSpacing


def _number(value: Any) -> float:
    return float(value) if value else 0.0


def reference_problem(sources: Sequence[Dataset]) -> str:
    """
    Tell why no object can refer to the slices of a series.

    Args:
        sources: as :func:`read_sources` gives them.

    Returns:
        The end of a sentence; empty where nothing keeps one from it.
    """
    missing = [tag for tag in _NEEDED_UIDS if not all(source.get(tag) for source in sources)]
    if missing:
        return f"its headers have no valid {' and no valid '.join(missing)} to refer to"
    distinct = len({source.SOPInstanceUID for source in sources})
    if distinct < len(sources):
        shared = f"its slices share SOP Instance UIDs ({distinct} for {len(sources)} slices)"
        return f"{shared}, so nothing can refer to one of them"
    return ""


def candidate_segmentation(
    sources: Sequence[Dataset],
    ids: NDArray,
    affine: NDArray,
    candidates: Sequence[Candidate],
    algorithm: Algorithm,
) -> hd.seg.Segmentation:
    """
    Make a DICOM segmentation, a segment for each candidate, on the slices of the series.

    Args:
        sources: the slices' headers, in order.
        ids: candidates 1 to n, integers, shape ``(columns, rows, slices)``; n at least 1.
        affine: voxels to RAS mm, shape ``(4, 4)``.
        candidates: the candidates 1 to n.
        algorithm: what found them.

    Returns:
        the object; the segment's number is the candidate's id.

    Raises:
        ValueError: when the ids do not lie on the slices' grid.
    """
    _check_grid(sources, ids, affine)
    identification = hd.AlgorithmIdentificationSequence(
        algorithm.name, codes.DCM.ArtificialIntelligence, algorithm.version, source=algorithm.manufacturer
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=candidate.id,
            segment_label=f"Candidate {candidate.id}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=_FRACTURE,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
            tracking_uid=hd.UID(),
            tracking_id=f"Candidate {candidate.id}",
            anatomic_regions=[codes.SCT.Rib],
            display_color=hd.color.CIELabColor.from_string(CANDIDATE_COLOR),
        )
        for candidate in candidates
    ]
    for segment, candidate in zip(segments, candidates):
        segment.SegmentDescription = f"Score {candidate.score:.2f}"  # highdicom has no argument for it
    with quiet_headers():
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            # frames of rows of columns
            pixel_array=np.ascontiguousarray(ids.transpose(2, 1, 0)).astype(np.uint16),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=_SEG_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            **algorithm.equipment,
            content_label="RIB_FRACTURES",
            content_description=_RESEARCH,
            series_description="Rib fracture candidates",
            specific_character_set=None,  # highdicom knows some sets alone
        )
        return _in_character_set_of(sources[0], segmentation)


def candidate_report(
    sources: Sequence[Dataset],
    segmentation: hd.seg.Segmentation | None,
    candidates: Sequence[Candidate],
    summary: ScanSummary,
    algorithm: Algorithm,
) -> sr.Comprehensive3DSR:
    """
    Make a structured report (TID 1500): a group of measurements for the scan, and one for each candidate.

    Args:
        sources: the slices' headers, in order.
        segmentation: of the candidates; None without any.
        candidates: the candidates 1 to n.
        summary: the sum of the scan.
        algorithm: what found them.

    Returns:
        the object: complete, not verified.
    """
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=algorithm.device_uid,
        name=algorithm.name,
        manufacturer_name=algorithm.manufacturer,
        model_name=algorithm.name,
        serial_number=algorithm.serial_number,
    )
    identification = sr.AlgorithmIdentification(
        algorithm.name,
        algorithm.version,
        parameters=[_RESEARCH],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=algorithm.manufacturer,
    )
    groups: list[Any] = [_scan_group(sources, summary, identification)]
    if segmentation is not None:
        groups += [_candidate_group(segmentation, candidate, identification) for candidate in candidates]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=_CT_CHEST,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    with quiet_headers():
        report = sr.Comprehensive3DSR(
            evidence=[*sources, *([] if segmentation is None else [segmentation])],
            content=content,
            series_instance_uid=hd.UID(),
            series_number=_SR_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            **algorithm.equipment,
            is_complete=True,
            is_verified=False,
            series_description="Rib fracture candidates",
            specific_character_set=None,
        )
        return _in_character_set_of(sources[0], report)


def _in_character_set_of(source: Dataset, made: _Made) -> _Made:
    """Have the text of an object, of which all that is not English was taken over from the source, written as there."""
    if "SpecificCharacterSet" in source:
        made.SpecificCharacterSet = source.SpecificCharacterSet
    return made


def encoded(dataset: Dataset) -> bytes:
    """Return an object as the content of a DICOM file."""
    file = BytesIO()
    with quiet_headers():
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _scan_group(
    sources: Sequence[Dataset], summary: ScanSummary, identification: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    """How many candidates there are at the operating point, and whether they are many."""
    many = CodedConcept("many-fractures", _PRIVATE_SCHEME, "Many rib fractures")
    chest = {} if summary.chest is None else asdict(summary.chest)
    present = {True: codes.SCT.Present, False: codes.SCT.Absent}
    counts = [(name, chest[key]) for key, name in _CHEST_COUNTS.items() if chest.get(key) is not None]
    facts = [(name, present[chest[key]]) for key, name in _CHEST_FACTS.items() if chest.get(key) is not None]
    facts += [(name, _RIBS[int(chest[key])]) for key, name in _EXTREMES.items() if _is_number(chest.get(key))]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier="Scan"),
        finding_type=_FRACTURE,
        finding_sites=[sr.FindingSite(codes.SCT.Rib)],
        algorithm_id=identification,
        measurements=[
            sr.Measurement(codes.SCT.Quantity, summary.at_operating_point, _NO_UNIT),
            *(sr.Measurement(name, value, _NO_UNIT) for name, value in counts),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(many, codes.SCT.Present if summary.many_fractures else codes.SCT.Absent),
            *(sr.QualitativeEvaluation(name, value) for name, value in facts),
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
            for source in (sources[0], sources[-1])
        ],
    )


def _is_number(rib: str | None) -> bool:
    """Whether a rib has a number that there is a code for: none has a cervical or a lumbar one."""
    return rib is not None and rib.isdigit() and int(rib) in _RIBS


def _candidate_group(
    segmentation: hd.seg.Segmentation, candidate: Candidate, identification: sr.AlgorithmIdentification
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Score, volume, length and place of a candidate, in the chest and on its rib."""
    segment = segmentation.get_segment_description(candidate.id)
    source = sr.SourceSeriesForSegmentation(segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID)
    measurements = [
        (codes.DCM.CertaintyOfFinding, round(100 * candidate.score, 2), _PERCENT),
        (codes.SCT.Volume, candidate.volume_mm3, _CUBIC_MILLIMETER),
        (codes.SCT.Length, candidate.length_mm, _MILLIMETER),
        (_FROM_SPINE, candidate.rib_from_spine_mm, _MILLIMETER),
        (_RIB_SHARE, candidate.rib_percent, _PERCENT),
        (_OFFSET, candidate.offset_mm, _MILLIMETER),
        (_ALONG, candidate.along_mm, _MILLIMETER),
        (_CONTACT, candidate.contact_percent, _PERCENT),
        (_BEND, candidate.bend_degrees, _DEGREE),
    ]
    shares = zip(_TYPE_SHARES, candidate.type_probabilities)
    measurements += [(name, round(100 * share, 1), _PERCENT) for name, share in shares]
    words = [
        (codes.SCT.TopographicalModifier, _LEVELS.get(candidate.level)),
        (_DISPLACEMENT, _DISPLACEMENTS.get(candidate.displacement)),
        (_TYPE, _TYPES.get(candidate.type)),
    ]
    evaluations = [sr.QualitativeEvaluation(name, value) for name, value in words if value is not None]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.tracking_id),
        # from_segmentation fails where there is one segment alone (highdicom 0.28)
        referenced_segment=sr.ReferencedSegment(
            segmentation.SOPClassUID, segmentation.SOPInstanceUID, candidate.id, source_series=source
        ),
        finding_type=_FRACTURE,
        finding_sites=[_site(candidate)],
        algorithm_id=identification,
        measurements=[sr.Measurement(name, value, unit) for name, value, unit in measurements if value is not None],
        qualitative_evaluations=evaluations or None,
    )


def _site(candidate: Candidate) -> sr.FindingSite:
    """The rib, as far as it is known, with its side, and the part of the chest wall."""
    rib = codes.SCT.Rib if candidate.rib_number is None else _RIBS.get(candidate.rib_number, codes.SCT.Rib)
    return sr.FindingSite(rib, _SIDES.get(candidate.rib_side or candidate.side), _PARTS.get(candidate.part))


def _check_grid(sources: Sequence[Dataset], ids: NDArray, affine: NDArray) -> None:
    """Raise an error when voxels do not lie where the slices' pixels do."""
    first, last = sources[0], sources[-1]
    shape = (first.Columns, first.Rows, len(sources))
    if ids.shape != shape:
        raise ValueError(f"the candidates have the shape {ids.shape}, the DICOM series {shape}: predict it again.")
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    steps = np.array([row * first.PixelSpacing[1], column * first.PixelSpacing[0]])
    corners = np.array([[0, 0, 0], [shape[0] - 1, shape[1] - 1, 0], [0, 0, shape[2] - 1]], dtype=float)
    places = [np.array(source.ImagePositionPatient, dtype=float) for source in (first, first, last)]
    wanted = np.array([place + corner[:2] @ steps for place, corner in zip(places, corners)])
    found = (corners @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)
    shift_mm = float(np.abs(wanted - found).max())
    if shift_mm > _MAX_SHIFT_MM:
        raise ValueError(f"the candidates lie up to {shift_mm:.1f} mm off the DICOM series: predict it again.")
