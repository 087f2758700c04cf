"""The tables of a prediction: what was found where, and what the challenge takes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
import torch
from monai.config import PathLike
from monai.data import MetaTensor
from numpy.typing import NDArray

from scripts.anatomy.midline import known_plane
from scripts.anatomy.thorax import chest_position, largest_extent_mm
from scripts.files.atomic_write import whole_file

__all__ = [
    "CHALLENGE_COLUMNS",
    "FRACTURE_COLUMNS",
    "SCAN_COLUMNS",
    "candidate_rows",
    "scan_row",
    "write_candidate_tables",
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
)
SCAN_COLUMNS = ("scan", "candidates", "at_operating_point", "right", "left", "highest_score", "many_fractures", "notes")
CHALLENGE_COLUMNS = ("public_id", "label_id", "confidence", "label_code")
_BACKGROUND_CODE = 0
# The network tells no types. -1 is RibFrac's code of a fracture of unknown type.
_UNKNOWN_TYPE_CODE = -1


def candidate_rows(
    pred: MetaTensor,
    label_scores: Sequence[float] | torch.Tensor,
    midsagittal_plane: torch.Tensor | None = None,
    thorax_axis: torch.Tensor | None = None,
) -> list[dict[str, Any]]:
    """
    Describe the candidates of one scan, one row each, by the columns of ``fractures.csv`` but ``scan``.

    Args:
        pred: ids 1..n on the scan's own grid, integers, shape ``(1, H, W, D)``, with the scan's affine (RAS mm).
        label_scores: scores in [0, 1] of the candidates 1..n.
        midsagittal_plane: the plane n·x = d in RAS mm as ``(nx, ny, nz, d)``, n to the patient's right; without it, or
            where it is NaN since the scan does not show it, the side stays empty, and the place in the chest.
        thorax_axis: points of the chest as :func:`scripts.anatomy.thorax_axis` gives them; without it the place in the
            chest stays empty.

    Returns:
        For each candidate its id and score; ``volume_mm3``; ``side`` (right or left of the patient); the center of
        mass ``center_*_mm`` in patient coordinates as DICOM has them (LPS, mm) and ``center_ijk`` in voxels of the
        scan, from 0; ``first_ijk`` and ``last_ijk``, the first and last voxel of its bounding box; ``length_mm``, its
        largest extent; and of its center ``from_apex_mm``, ``level``, ``angle_degrees`` and ``part``, see
        :class:`scripts.anatomy.ChestPosition`.
    """
    affine = np.asarray(pred.affine, dtype=float)
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    ids = pred[0].cpu().numpy()
    ids = ids.view(np.uint32) if ids.dtype == np.int32 else ids.astype(np.uint32)  # a view takes no time
    statistics = cc3d.statistics(ids)
    plane = known_plane(midsagittal_plane)
    rows = []
    for candidate, score in enumerate(label_scores, start=1):
        center = statistics["centroids"][candidate]
        x_ras, y_ras, z_ras = affine[:3, :3] @ center + affine[:3, 3]
        side = ""
        if plane is not None:
            *normal, offset = plane
            side = "right" if np.dot(normal, (x_ras, y_ras, z_ras)) > offset else "left"
        row = {
            "id": candidate,
            "score": f"{float(score):.6f}",
            "volume_mm3": f"{statistics['voxel_counts'][candidate] * voxel_mm3:.1f}",
            "side": side,
            "center_x_mm": f"{-x_ras:.2f}",
            "center_y_mm": f"{-y_ras:.2f}",
            "center_z_mm": f"{z_ras:.2f}",
        }
        for axis, center_voxel, box in zip("ijk", center, statistics["bounding_boxes"][candidate]):
            row[f"center_{axis}"] = f"{center_voxel:.1f}"
            row[f"first_{axis}"] = box.start
            row[f"last_{axis}"] = box.stop - 1
        inside = ids[statistics["bounding_boxes"][candidate]] == candidate
        row["length_mm"] = f"{largest_extent_mm(inside, affine):.1f}"
        row |= _place((x_ras, y_ras, z_ras), plane, thorax_axis)
        rows.append(row)
    return rows


def _place(
    center_mm: Sequence[float], plane: NDArray[np.float64] | None, thorax_axis: torch.Tensor | None
) -> dict[str, str]:
    """Describe where in the chest a point in RAS mm lies; what is not known stays empty."""
    if plane is None or thorax_axis is None:
        return {"from_apex_mm": "", "level": "", "angle_degrees": "", "part": ""}
    place = chest_position(center_mm, plane, np.asarray(thorax_axis))
    return {
        "from_apex_mm": "" if np.isnan(place.from_apex_mm) else f"{place.from_apex_mm:.0f}",
        "level": place.level,
        "angle_degrees": "" if np.isnan(place.angle_degrees) else f"{place.angle_degrees:.0f}",
        "part": place.part,
    }


def scan_row(candidates: Sequence[Mapping[str, Any]], operating_score: float, many_fractures: int) -> dict[str, Any]:
    """
    Sum up the candidates of one scan, by the columns of ``scans.csv`` but ``scan`` and ``notes``.

    Args:
        candidates: rows as :func:`candidate_rows` gives them.
        operating_score: the operating point: candidates of this score or more count.
        many_fractures: so many that count, or more, raise the flag.

    Returns:
        ``candidates``, all of them; ``at_operating_point``, those that count, of them ``right`` and ``left``, where
        those of unknown side are in neither; ``highest_score``, empty without any; ``many_fractures``, ``yes`` or
        ``no``.
    """
    counted = [row for row in candidates if float(row["score"]) >= operating_score]
    return {
        "candidates": len(candidates),
        "at_operating_point": len(counted),
        "right": sum(row["side"] == "right" for row in counted),
        "left": sum(row["side"] == "left" for row in counted),
        "highest_score": max((row["score"] for row in candidates), key=float, default=""),
        "many_fractures": "yes" if len(counted) >= many_fractures else "no",
    }


def write_scan_table(scans: Iterable[tuple[str, Mapping[str, Any]]], scans_csv: PathLike) -> None:
    """
    Write a table with a row for each scan.

    Args:
        scans: name of each scan, and what :func:`scan_row` gives of it and ``notes``; may be empty.
        scans_csv: the table.
    """
    with whole_file(scans_csv) as file, file.open("w", newline="", encoding="utf-8") as text:
        table = csv.DictWriter(text, SCAN_COLUMNS)
        table.writeheader()
        table.writerows({"scan": scan, **row} for scan, row in scans)


def write_candidate_tables(
    scans: Iterable[tuple[str, Sequence[Mapping[str, Any]]]], fractures_csv: PathLike, challenge_csv: PathLike
) -> int:
    """
    Write the candidates of a run as a table for people and as the table that the challenge takes.

    Args:
        scans: name of each scan and its rows, as :func:`candidate_rows` gives them; may be empty. They are written one
            by one, so that no more than one scan's rows need be in memory.
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
                for row in candidates or [{}]:
                    people.writerow([scan if column == "scan" else row.get(column, "") for column in FRACTURE_COLUMNS])
                challenge.writerow((scan, 0, "0.0", _BACKGROUND_CODE))
                challenge.writerows((scan, row["id"], row["score"], _UNKNOWN_TYPE_CODE) for row in candidates)
    return count
