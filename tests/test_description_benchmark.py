"""The benchmark of what is told of fractures, where it reads a prediction's table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks import description
from scripts.reporting.tables import FRACTURE_COLUMNS
from scripts.synthetic.phantom import generate_phantoms

SCAN = "RibFrac501"
BOXES = {1: 4, 2: 12, 3: 20, 4: 28}  # first voxel of each fracture along the first axis


def truth(number: int, code: int, offset_mm: float, contact: float) -> dict[str, Any]:
    return {"label_id": number, "code": code, "offset_mm": offset_mm, "gap_mm": 1.0, "contact": contact}


def write_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), path)


def told(number: int, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(FRACTURE_COLUMNS, ""), "scan": SCAN, "id": number, **values}


def measured(number: int, kind: str, offset_mm: float, percent: int, type_name: str, **more: Any) -> dict[str, Any]:
    values = {"offset_mm": offset_mm, "offset_sd_mm": 0.2, "along_mm": 1.5, "contact_percent": percent}
    return told(number, displacement=kind, type=type_name, **values, **more)


def test_a_predictions_table_is_compared_with_what_was_implanted(tmp_path: Path) -> None:
    folder, results = tmp_path / "implanted", tmp_path / "results"
    label, pred = np.zeros((2, 40, 8, 8), dtype=int)
    for number, first in BOXES.items():
        label[first : first + 6, 1:7, 1:7] = number
        pred[first : first + (6 if number < 4 else 1), 1:7, 1:7] = number  # too little of the last one
    pred[12][pred[12] == 2], pred[13], pred[14:18][pred[14:18] == 2] = 5, 0, 6  # two parts of the second one
    write_mask(folder / "ribfrac-test-images" / f"{SCAN}-image.nii.gz", label)
    write_mask(folder / "ribfrac-test-labels" / f"{SCAN}-label.nii.gz", label)
    truths = [truth(1, 1, 5.0, 0.3), truth(2, 4, 2.0, 0.6), truth(3, 2, 0.0, 1.0), truth(4, 3, 0.0, 1.0)]
    (folder / "ribfrac-test-info.csv").write_text(
        "public_id,label_id,label_code\n" + "".join(f"{SCAN},{one['label_id']},{one['code']}\n" for one in truths)
    )
    (folder / "dataset-info.json").write_text(json.dumps({"made": [{"public_id": SCAN, "fractures": truths}]}))
    write_mask(results / "predictions" / f"{SCAN}.nii.gz", pred)
    rows = [
        measured(1, "offset", 4.4, 35, "displaced"),
        told(3, not_measurable="a stub is too short"),
        measured(4, "undisplaced", 0.1, 97, "buckle"),
        told(5),  # below the operating point: nothing is told of it
        measured(6, "offset", 2.5, 55, "displaced", segmental_with=7),
    ]
    with open(results / "fractures.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, FRACTURE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)

    found = list(description.predicted_rows(folder, "test", results))
    assert [(row.code, row.found_code) for row in found] == [(1, 1), (4, 4), (2, -1)]  # a pair is segmental
    assert [row.found_offset_mm for row in found] == [4.4, 2.5, None]
    assert found[2].reason == "a stub is too short" and found[1].found_contact == 0.55
    numbers = description.figures(found)
    assert (numbers["fractures"], numbers["measured"], numbers["class_right"]) == (3, 2, 1.0)
    assert numbers["types"] == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0] * 5, [0, 0, 0, 1, 0]]
    assert abs(numbers["offset_error_mm"][0] - 0.6) < 1e-9


def test_what_was_drawn_into_synthetic_scans_is_known_again(tmp_path: Path) -> None:
    folder = tmp_path / "phantoms"
    generate_phantoms(folder, 0, 0, 2, seed=3, size="slab", spacing=(1.6, 1.6, 3.0), workers=1)
    scans = list(description._drawn_scans(folder, "test"))
    assert len(scans) == 2 and any(truths for _, truths in scans)
    for item, truths in scans:
        assert {number: truth["code"] for number, truth in truths.items()} == item["label_codes"]
        assert all(truth["offset_mm"] >= 0 for truth in truths.values())
