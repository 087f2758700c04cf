"""What the prediction of a set is worth: the challenge's scores, and every fracture and candidate with its fate."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import MIN_OVERLAP
from scripts.metrics.folders import load_pair
from scripts.metrics.froc import ScanResult, challenge_scores, score_scan

__all__ = ["measure_scan", "measure_set"]


def measure_set(data_list: Path, predictions_dir: Path, annotated: bool) -> dict[str, Any]:
    """
    Measure the prediction of all scans of a set.

    Args:
        data_list: the set's MONAI data list, its scans under ``test``.
        predictions_dir: a mask of ids per scan and ``ribfrac-pred.csv``, as a prediction leaves them.
        annotated: whether the scans have labels; without, every candidate is false.

    Returns:
        ``scans``, a list of ``scan`` (its name), ``fractures`` and ``candidates`` (see `measure_scan`); and with labels
        ``scores``, see `scripts.metrics.froc.challenge_scores`.

    Raises:
        FileNotFoundError: when a prediction is missing.
    """
    items = load_datalist(data_list, "test", labels=annotated)
    scores = _read_scores(predictions_dir / "ribfrac-pred.csv")
    scans, results = [], []
    for item in tqdm(items, desc=f"measure {data_list.stem}", unit="scan"):
        name = item["scan"]
        if name not in scores:
            raise FileNotFoundError(
                f"{predictions_dir}: holds no prediction of {name}: remove the folder, predict again."
            )
        if annotated:
            pred, label, affine = load_pair(predictions_dir / f"{name}.nii.gz", Path(item["label"]))
            voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
            figures, result = measure_scan(pred, label, scores[name], item["label_codes"], voxel_mm3)
            results.append(result)
        else:
            figures = {
                "fractures": [],
                "candidates": [{"id": i, "score": s, "is_hit": False} for i, s in scores[name].items()],
            }
        scans.append({"scan": name, **figures})
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


def _read_scores(table: Path) -> dict[str, dict[int, float]]:
    """Read the scores of the candidates of each scan; a scan without any has its background row."""
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist: predict the set again.")
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            of_scan = scores[row["public_id"]]
            if int(row["label_id"]):
                of_scan[int(row["label_id"])] = float(row["confidence"])
    return dict(scores)
