"""What the prediction of a set is worth: the challenge's scores, and every fracture and candidate with its fate."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.detection.findings import Finding, finding_at
from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import MIN_OVERLAP
from scripts.metrics.folders import load_pair
from scripts.metrics.froc import ScanResult, challenge_scores, score_scan
from scripts.synthetic.phantom.dataset import INFO_NAME

__all__ = ["PLACES", "measure_scan", "measure_set", "place_of"]

PLACES = ("joint", "rib", "cartilage", "off the ribs")
# A rib's first part, with the joints of its head and its tubercle and the transverse process beside it
JOINT_MM = 45.0
# Its front end, where cartilage begins; of a rib whose length is not known the end cannot be told
CARTILAGE_PERCENT = 92.0


def measure_set(
    data_list: Path, output_dir: Path, annotated: bool, findings: Mapping[str, Sequence[Finding]] | None = None
) -> dict[str, Any]:
    """
    Measure the prediction of all scans of a set.

    Args:
        data_list: the set's MONAI data list, its scans under ``test``.
        output_dir: ``fractures.csv``, and in ``predictions`` a mask of ids per scan, as a prediction leaves them.
        annotated: whether the scans have labels; without, every candidate is false that lies at no finding.
        findings: what was read in the body, by the name of the scan.

    Returns:
        ``scans``, a list of ``scan`` (its name), ``fractures`` and ``candidates`` (see `measure_scan`) and
        ``slice_mm``; and with labels ``scores``, see `scripts.metrics.froc.challenge_scores`. A candidate has ``place``
        too, one of `PLACES`, and ``finding``, the id of the one it lies at or None; of a fracture ``subtle`` and
        ``age`` are told as the data set has them. Candidates that hit no annotated fracture and lie at a real one are
        left out of the scores.

    Raises:
        FileNotFoundError: when a prediction is missing.
    """
    items = load_datalist(data_list, "test", labels=True)
    candidates = _read_candidates(output_dir / "fractures.csv")
    scans, results = [], []
    for item in tqdm(items, desc=f"measure {data_list.stem}", unit="scan"):
        name, label_path = item["scan"], Path(item["label"])
        mask_path = output_dir / "predictions" / f"{name}.nii.gz"
        if not mask_path.is_file():
            raise FileNotFoundError(f"{output_dir}: holds no prediction of {name}: remove the folder, predict again.")
        facts: dict[int, dict[str, Any]] = {}
        ignored: set[int] = set()
        for row in candidates[name]:
            center = [float(row[f"center_{axis}_mm"]) for axis in "xyz"]
            finding = finding_at(center, (findings or {}).get(name, []))
            facts[int(row["id"])] = {"place": place_of(row), "finding": finding.id if finding else None}
            ignored |= {int(row["id"])} if finding and finding.is_ignored else set()
        scores = {int(row["id"]): float(row["score"]) for row in candidates[name]}
        pred, label, affine = load_pair(mask_path, label_path)
        voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
        figures, result = measure_scan(pred, label, scores, item["label_codes"], voxel_mm3)
        if annotated and ignored:
            # a real fracture can lie within reach of an implanted one: what hits that one counts
            ignored -= {candidate["id"] for candidate in figures["candidates"] if candidate["is_hit"]}
            pred = np.where(np.isin(pred, list(ignored)), 0, pred)
            scores = {number: score for number, score in scores.items() if number not in ignored}
            figures, result = measure_scan(pred, label, scores, item["label_codes"], voxel_mm3)
        results.append(result)
        drawn = _as_drawn(label_path, name)
        for fracture in figures["fractures"]:
            fracture |= drawn.get(fracture["id"], {})
        for candidate in figures["candidates"]:
            candidate |= facts[candidate["id"]]
        scans.append({"scan": name, "slice_mm": float(np.linalg.norm(affine[:3, :3], axis=0).max()), **figures})
    return {"scans": scans, **({"scores": challenge_scores(results)} if annotated else {})}


def measure_scan(
    pred: NDArray, label: NDArray, scores: dict[int, float], label_codes: dict[int, int], voxel_mm3: float
) -> tuple[dict[str, Any], ScanResult]:
    """
    Tell the fate of every fracture and candidate of a scan, by the challenge's rule of a hit.

    Args:
        pred: ids of the candidates, shape ``(H, W, D)``, 0 is background.
        label: ids of the fractures, likewise.
        scores: score of each candidate by its id, in [0, 1].
        label_codes: type of each fracture by its id, 1 to 4 or -1.
        voxel_mm3: volume of a voxel.

    Returns:
        ``fractures``, a list of ``id``, ``code``, ``volume_mm3``, ``score`` of the best scored hit and ``dice`` with
        that candidate, both None where it was missed, and ``candidates``, a list of ``id``, ``score`` and ``is_hit``;
        and the scan's result.
    """
    result = score_scan(pred, label, scores, label_codes=label_codes)
    candidate_ids, fracture_ids = sorted(scores), sorted(label_codes)
    is_hit = result.best_overlap > MIN_OVERLAP
    fractures = []
    for index, fracture in enumerate(fracture_ids):
        hits = np.flatnonzero(is_hit & (result.best_fracture == index))
        found: dict[str, float | None] = {"score": None, "dice": None}
        inside = label == fracture
        if hits.size:
            best = hits[np.argmax(result.label_scores[hits])]
            candidate = pred == candidate_ids[best]
            shared, both = np.count_nonzero(inside & candidate), np.count_nonzero(inside) + np.count_nonzero(candidate)
            found = {"score": float(result.label_scores[best]), "dice": 2 * shared / both}
        volume_mm3 = float(np.count_nonzero(inside) * voxel_mm3)
        fractures.append({"id": fracture, "code": label_codes[fracture], "volume_mm3": volume_mm3, **found})
    candidates = [{"id": i, "score": scores[i], "is_hit": bool(hit)} for i, hit in zip(candidate_ids, is_hit)]
    return {"fractures": fractures, "candidates": candidates}, result


def place_of(row: Mapping[str, str]) -> str:
    """
    Tell where on a rib a candidate lies, by its row of ``fractures.csv``.

    Args:
        row: text by column.

    Returns:
        One of `PLACES`. A rib whose ends are not known has no joint and no cartilage.
    """
    if not row["rib_order"]:
        return "off the ribs"
    if row["rib_from_spine_mm"] and float(row["rib_from_spine_mm"]) <= JOINT_MM:
        return "joint"
    if row["rib_percent"] and float(row["rib_percent"]) >= CARTILAGE_PERCENT:
        return "cartilage"
    return "rib"


def _as_drawn(label_path: Path, scan: str) -> dict[int, dict[str, Any]]:
    """Return what the data set tells of each fracture of a scan: whether it is subtle, and its age."""
    info = label_path.parents[1] / INFO_NAME
    made = json.loads(info.read_text()).get("made", []) if info.is_file() else []
    return {
        fracture["label_id"]: {"subtle": fracture["subtle"], "age": fracture["age"]}
        for one in made
        if one["public_id"] == scan
        for fracture in one["fractures"]
    }


def _read_candidates(table: Path) -> dict[str, list[dict[str, str]]]:
    """Read the rows of the candidates of each scan; one without any has a row without an id."""
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist: predict the set again.")
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["id"]:
                rows[row["scan"]].append(row)
    return rows
