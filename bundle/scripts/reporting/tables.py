"""The tables of a prediction: what was found where, and what the challenge takes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields

from monai.config import PathLike

from scripts.anatomy.rib_cage import Rib
from scripts.candidates import TYPE_CODES, Candidate, ScanSummary
from scripts.description.rib_score import ChestFacts
from scripts.files.atomic_write import whole_file

__all__ = [
    "CHALLENGE_COLUMNS",
    "CHEST_COLUMNS",
    "FRACTURE_COLUMNS",
    "RIB_COLUMNS",
    "SCAN_COLUMNS",
    "chest_words",
    "displacement_words",
    "fracture_row",
    "rib_row",
    "rib_words",
    "scan_row",
    "type_words",
    "write_candidate_tables",
    "write_rib_table",
    "write_scan_table",
]

FRACTURE_COLUMNS = (
    "scan",
    "id",
    "score",
    "volume_mm3",
    "side",
    "center_x_mm",
    "center_y_mm",
    "center_z_mm",
    "center_i",
    "center_j",
    "center_k",
    "first_i",
    "first_j",
    "first_k",
    "last_i",
    "last_j",
    "last_k",
    "length_mm",
    "from_apex_mm",
    "level",
    "angle_degrees",
    "part",
    "rib",
    "rib_order",
    "rib_from_spine_mm",
    "rib_percent",
    "displacement",
    "offset_mm",
    "offset_sd_mm",
    "along_mm",
    "along_sd_mm",
    "contact_percent",
    "contact_sd_percent",
    "bend_degrees",
    "not_measurable",
    "type",
    "p_displaced",
    "p_nondisplaced",
    "p_buckle",
    "p_segmental",
    "segmental_with",
)
CHEST_COLUMNS = tuple(field.name for field in fields(ChestFacts))
SCAN_COLUMNS = (
    "scan",
    "status",
    "candidates",
    "at_operating_point",
    "right",
    "left",
    "highest_score",
    "many_fractures",
    "notes",
    *CHEST_COLUMNS,
)
RIB_COLUMNS = ("id", "side", "number", "order", "confidence", "length_mm", "starts_in_scan", "ends_in_scan")
CHALLENGE_COLUMNS = ("public_id", "label_id", "confidence", "label_code")
_BACKGROUND_CODE = 0


def fracture_row(candidate: Candidate) -> dict[str, str]:
    """
    Format a candidate as its row of ``fractures.csv``.

    Args:
        candidate: the candidate.

    Returns:
        Text by the columns but ``scan``, in their order; empty where something is not known.
    """
    row = {
        "id": str(candidate.id),
        "score": f"{candidate.score:.6f}",
        "volume_mm3": f"{candidate.volume_mm3:.1f}",
        "side": candidate.side,
    }
    row |= {f"center_{axis}_mm": f"{mm:.2f}" for axis, mm in zip("xyz", candidate.center_mm)}
    row |= {f"center_{axis}": f"{voxel:.1f}" for axis, voxel in zip("ijk", candidate.center_voxels)}
    row |= {f"first_{axis}": str(voxel) for axis, voxel in zip("ijk", candidate.first_voxel)}
    row |= {f"last_{axis}": str(voxel) for axis, voxel in zip("ijk", candidate.last_voxel)}
    return row | {
        "length_mm": f"{candidate.length_mm:.1f}",
        "from_apex_mm": "" if candidate.from_apex_mm is None else f"{candidate.from_apex_mm:.0f}",
        "level": candidate.level,
        "angle_degrees": "" if candidate.angle_degrees is None else f"{candidate.angle_degrees:.0f}",
        "part": candidate.part,
        "rib": candidate.rib,
        "rib_order": "" if candidate.rib_order is None else str(candidate.rib_order),
        "rib_from_spine_mm": "" if candidate.rib_from_spine_mm is None else f"{candidate.rib_from_spine_mm:.0f}",
        "rib_percent": "" if candidate.rib_percent is None else f"{candidate.rib_percent:.0f}",
        **_description(candidate),
    }


def _description(candidate: Candidate) -> dict[str, str]:
    """Format what was measured of a candidate."""

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    shares = candidate.type_probabilities or (None,) * len(TYPE_CODES)
    return {
        "displacement": candidate.displacement,
        "offset_mm": number(candidate.offset_mm, 1),
        "offset_sd_mm": number(candidate.offset_sd_mm, 1),
        "along_mm": number(candidate.along_mm, 1),
        "along_sd_mm": number(candidate.along_sd_mm, 1),
        "contact_percent": number(candidate.contact_percent, 0),
        "contact_sd_percent": number(candidate.contact_sd_percent, 0),
        "bend_degrees": number(candidate.bend_degrees, 0),
        "not_measurable": candidate.not_measurable,
        "type": candidate.type,
        **{f"p_{name}": number(share, 3) for name, share in zip(TYPE_CODES, shares)},
        "segmental_with": "" if candidate.segmental_with is None else str(candidate.segmental_with),
    }


def displacement_words(candidate: Candidate) -> str:
    """
    Tell how the stubs of a candidate lie to each other, in words.

    Args:
        candidate: the candidate.

    Returns:
        Such as ``offset by 3.2 ± 0.3 mm, gap of 1.4 mm, 61 % of contact, bend of 8°``; ``not measurable`` with the
        reason; empty where it was not asked for.
    """
    if candidate.displacement == "":
        return f"not measurable: {candidate.not_measurable}" if candidate.not_measurable else ""
    along_mm = candidate.along_mm or 0.0
    along = f"gap of {along_mm:.1f} mm" if along_mm >= 0 else f"overlap of {-along_mm:.1f} mm"
    return (
        f"{candidate.displacement}: {candidate.offset_mm:.1f} ± {candidate.offset_sd_mm:.1f} mm across, {along}, "
        f"{candidate.contact_percent:.0f} % of contact, bend of {candidate.bend_degrees:.0f}°"
    )


def type_words(candidate: Candidate) -> str:
    """Tell a candidate's type, such as ``buckle (81 %)``, and with which one it is segmental; empty where unknown."""
    if not candidate.type:
        return ""
    words = f"{candidate.type} ({100 * max(candidate.type_probabilities):.0f} %)"
    return words if candidate.segmental_with is None else f"{words}, segmental with C{candidate.segmental_with}"


def chest_words(chest: ChestFacts) -> dict[str, str]:
    """
    Format what the fractures of a scan are together.

    Args:
        chest: the facts.

    Returns:
        Text by the names of the facts: numbers, ``yes``, ``no`` and ``unknown``.
    """
    return {name: _fact(value) for name, value in asdict(chest).items()}


def _fact(value: bool | int | str | None) -> str:
    if value is None:
        return "unknown"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def rib_words(candidate: Candidate) -> str:
    """
    Tell on which rib a candidate lies, in words.

    Args:
        candidate: the candidate.

    Returns:
        Such as ``rib left 6, 84 mm from the spine (41 %)``; without what is not known, and empty on no rib.
    """
    if candidate.rib_order is None:
        return ""
    words = f"rib {candidate.rib}"
    if candidate.rib_number is None:
        words = f"rib of unknown number, {candidate.rib_order} from above on the {candidate.rib_side}"
    if candidate.rib_from_spine_mm is not None:
        words += f", {candidate.rib_from_spine_mm:.0f} mm from the spine"
    return words if candidate.rib_percent is None else f"{words} ({candidate.rib_percent:.0f} %)"


def scan_row(summary: ScanSummary) -> dict[str, str]:
    """
    Format the sum of a scan as its row of ``scans.csv``.

    Args:
        summary: the sum.

    Returns:
        Text by the columns but ``scan``, in their order; ``highest_score`` is empty without a candidate. A scan that
        failed has the reason in ``notes``, and no numbers.
    """
    if summary.failure:
        return dict.fromkeys(SCAN_COLUMNS[1:], "") | {"status": summary.status, "notes": summary.failure}
    return {
        "status": summary.status,
        "candidates": str(summary.candidates),
        "at_operating_point": str(summary.at_operating_point),
        "right": str(summary.right),
        "left": str(summary.left),
        "highest_score": "" if summary.highest_score is None else f"{summary.highest_score:.6f}",
        "many_fractures": "yes" if summary.many_fractures else "no",
        "notes": summary.notes,
        **(dict.fromkeys(CHEST_COLUMNS, "") if summary.chest is None else chest_words(summary.chest)),
    }


def write_scan_table(scans: Iterable[tuple[str, ScanSummary]], scans_csv: PathLike) -> None:
    """
    Write a table with a row for each scan.

    Args:
        scans: name of each scan, and the sum of its candidates; may be empty.
        scans_csv: the table.
    """
    with whole_file(scans_csv) as file, file.open("w", newline="", encoding="utf-8") as text:
        table = csv.DictWriter(text, SCAN_COLUMNS)
        table.writeheader()
        table.writerows({"scan": scan, **scan_row(summary)} for scan, summary in scans)


def rib_row(rib: Rib) -> dict[str, str]:
    """
    Format a rib as its row of a table.

    Args:
        rib: the rib.

    Returns:
        Text by the columns, in their order; the number is empty where it is not known.
    """
    return {
        "id": str(rib.id),
        "side": rib.side,
        "number": "" if rib.number is None else str(rib.number),
        "order": str(rib.order),
        "confidence": f"{rib.confidence:.2f}",
        "length_mm": f"{rib.length_mm:.1f}",
        "starts_in_scan": "yes" if rib.starts_in_scan else "no",
        "ends_in_scan": "yes" if rib.ends_in_scan else "no",
    }


def write_rib_table(ribs: Sequence[Rib], ribs_csv: PathLike) -> None:
    """
    Write a table with a row for each rib of a scan.

    Args:
        ribs: the ribs; may be empty.
        ribs_csv: the table.
    """
    with whole_file(ribs_csv) as file, file.open("w", newline="", encoding="utf-8") as text:
        table = csv.DictWriter(text, RIB_COLUMNS)
        table.writeheader()
        table.writerows(rib_row(rib) for rib in ribs)


def write_candidate_tables(
    scans: Iterable[tuple[str, Sequence[Candidate]]], fractures_csv: PathLike, challenge_csv: PathLike
) -> int:
    """
    Write the candidates of a run as a table for people and as the table that the challenge takes.

    Args:
        scans: name of each scan and its candidates; may be empty. They are written one by one, so that no more than one
            scan's candidates need be in memory.
        fractures_csv: table with a row for each candidate; a scan without any has one row, with its name alone.
        challenge_csv: ``public_id,label_id,confidence,label_code``, with a row 0 for the background of each scan.

    Returns:
        The number of scans.
    """
    count = 0
    with whole_file(fractures_csv) as people_file, whole_file(challenge_csv) as challenge_file:
        with (
            people_file.open("w", newline="", encoding="utf-8") as people_text,
            challenge_file.open("w", newline="", encoding="utf-8") as challenge_text,
        ):
            people, challenge = csv.writer(people_text), csv.writer(challenge_text)
            people.writerow(FRACTURE_COLUMNS)
            challenge.writerow(CHALLENGE_COLUMNS)
            for count, (scan, candidates) in enumerate(scans, start=1):
                rows: list[Mapping[str, str]] = [fracture_row(candidate) for candidate in candidates]
                for row in rows or [{}]:
                    people.writerow([scan if column == "scan" else row.get(column, "") for column in FRACTURE_COLUMNS])
                challenge.writerow((scan, 0, "0.0", _BACKGROUND_CODE))
                challenge.writerows(
                    (scan, row["id"], row["score"], candidate.type_code) for row, candidate in zip(rows, candidates)
                )
    return count
