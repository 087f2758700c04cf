"""The challenge's scores as files and as text."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from scripts.candidates import counted
from scripts.data.ribfrac import CHALLENGE_THRESHOLDS, KEY_FALSE_POSITIVES
from scripts.files.atomic_write import whole_file, write_json
from scripts.reporting.figures import froc_picture

__all__ = ["METRICS_FILES", "NO_INTERVAL", "metrics_table", "write_metrics"]

METRICS_FILES = ("metrics.json", "froc.csv", "froc.png")
_COUNTED = ("scan", "fracture", "candidate")
NO_INTERVAL = "No 95 % interval: these scans are too few, or too much alike, to tell how others would differ."


def write_metrics(details: dict[str, Any], output_dir: str | Path, name: str = "metrics.json") -> None:
    """
    Write the scores, and beside them the FROC curve as ``froc.csv`` and ``froc.png``.

    Each file appears under its name only when it is complete.

    Args:
        details: see `challenge_scores`.
        output_dir: folder, made where missing.
        name: name of the JSON file.
    """
    output_dir = Path(output_dir)
    curve = details.get("detection_exact_thresholds", details["detection"])
    thresholds = curve.get("thresholds", np.round(CHALLENGE_THRESHOLDS, 2).tolist())
    write_json(output_dir / name, details)
    with whole_file(output_dir / "froc.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["threshold", "fp_per_scan", "recall"])
        writer.writerows(zip(thresholds, curve["fp"], curve["recall"]))
    froc_picture(details, output_dir / "froc.png")


def metrics_table(details: dict[str, Any]) -> str:
    """Return the scores as text for people."""
    detection, intervals = details["detection"], details.get("bootstrap")
    counts, classification = details["counts"], details["classification"]
    rows: list[tuple[str, str, int | None]]
    rows = [(f"recall at {key:g} FP", "key_recall", i) for i, key in enumerate(KEY_FALSE_POSITIVES)]
    rows += [("average recall", "average_recall", None), ("maximum recall", "max_recall", None)]
    exact = details.get("detection_exact_thresholds")
    words = [counted(counts[f"{noun}s"], noun) for noun in _COUNTED]
    lines = [f"{', '.join(words)} of any score", "", "Detection"]
    lines.append(f"{'':<24}{'recall':>8}" + ("   95 % interval" if intervals else "") + ("   exact" if exact else ""))
    for title, key, index in rows:
        value, limits, at_exact = (
            (part[key] if index is None else part[key][index]) if part else None
            for part in (detection, intervals, exact)
        )
        line = f"{title:<24}{value:8.4f}"
        line += f"  {limits[0]:.4f}-{limits[1]:.4f}" if limits else ""
        lines.append(line + (f"  {at_exact:.4f}" if exact else ""))
    lines.append(f"{'FP at maximum recall':<24}{detection['average_fp_at_max_recall']:8.4f}")
    if "bootstrap" in details and not intervals:
        lines.append(NO_INTERVAL)
    lines += ["", *_classification_lines(classification), "", "Segmentation"]
    lines += [f"{key:<24}{value:8.4f}" for key, value in details["segmentation"].items()]
    return "\n".join(lines)


def _classification_lines(classification: dict[str, Any]) -> list[str]:
    """Write the table of types, or that no candidate has one."""
    matrix = classification["confusion_matrix"]
    if not any(map(any, matrix["values"][:-1])):  # the last row is of fractures that are missed
        return ["Classification: left out, since no candidate has a type"]
    lines = ["Classification (rows: candidates, columns: fractures)"]
    lines.append(f"{'':<14}" + "".join(f"{column:>14}" for column in matrix["columns"]))
    for title, values in zip(matrix["rows"], matrix["values"]):
        lines.append(f"{title:<14}" + "".join(f"{value:>14.0f}" for value in values))
    for key in ("macro_average_F1", "target_aware_F1", "prediction_aware_F1"):
        lines.append(f"{key.replace('_', ' '):<24}{classification[key]:8.4f}")
    return lines
