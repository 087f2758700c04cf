"""
Measure how displacement and type of fractures are told, on synthetic fractures whose truth is known.

    python benchmarks/description.py --phantoms 12 --json output/description.json
    python benchmarks/description.py --implanted data/benchmark/usual_test --results_dir output/usual_test

Fractures are measured where they are annotated; with ``--results_dir`` what a prediction tells of those it found is
compared instead.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.markdown import table  # noqa: E402
from scripts.candidates import TYPE_CODES  # noqa: E402
from scripts.commands.fit_types import annotated_fractures, loading, preparation  # noqa: E402
from scripts.data.datalist import load_datalist  # noqa: E402
from scripts.data.ribfrac import CLASS_NAMES, MIN_OVERLAP  # noqa: E402
from scripts.description.displacement import CLASSES, displacement_class  # noqa: E402
from scripts.description.fracture_type import SHIPPED_MODEL, TypeModel  # noqa: E402
from scripts.description.measure import NOT_MEASURABLE, Measured  # noqa: E402
from scripts.metrics.folders import load_pair  # noqa: E402
from scripts.metrics.froc import instance_overlaps  # noqa: E402
from scripts.synthetic.phantom import make_phantom  # noqa: E402
from scripts.synthetic.phantom.dataset import INFO_NAME, make_scan  # noqa: E402

__all__ = ["Row", "figures", "main"]


@dataclass(frozen=True)
class Row:
    """
    A fracture: what was drawn, and what was measured.

    Args:
        scan: its scan.
        code: RibFrac's code of its type.
        offset_mm: as drawn.
        gap_mm: likewise.
        contact: likewise.
        reason: why it is not measurable; empty where it is.
        found_offset_mm: as measured; None where it was not.
        found_sd_mm: likewise.
        found_along_mm: likewise.
        found_contact: likewise.
        found_kind: class of the displacement, likewise.
        found_code: the most probable type; -1 where there is none.
        seconds: that measuring took; None where it was read.
    """

    scan: str
    code: int
    offset_mm: float
    gap_mm: float
    contact: float
    reason: str
    found_offset_mm: float | None
    found_sd_mm: float | None
    found_along_mm: float | None
    found_contact: float | None
    found_kind: str
    found_code: int
    seconds: float | None


def _drawn(truth: Mapping[str, Any]) -> tuple[int, float, float, float]:
    """What a row holds of a fracture as it was drawn."""
    return truth["code"], truth["offset_mm"], truth["gap_mm"], truth["contact"]


def _row(scan: str, truth: Mapping[str, Any], measured: Measured, model: TypeModel, seconds: float) -> Row:
    one = measured.displacement
    shares = {} if measured.features is None else model.probabilities(measured.features)
    return Row(
        scan,
        *_drawn(truth),
        NOT_MEASURABLE[measured.reason] if measured.reason else "",
        None if one is None else one.offset_mm,
        None if one is None else one.offset_sd_mm,
        None if one is None else one.along_mm,
        None if one is None else one.contact,
        "" if one is None else one.kind,
        max(shares, key=lambda code: shares[code]) if shares else -1,
        seconds,
    )


def _measured_rows(
    scan: str, image: MetaTensor, ids: MetaTensor, cage: Any, truths: Mapping[int, Mapping[str, Any]], model: TypeModel
) -> list[Row]:
    """Measure instances whose truth is known, by their ids."""
    start = time.perf_counter()
    found = {one.label_id: one for one in annotated_fractures(image, ids, {}, cage)}
    seconds = (time.perf_counter() - start) / max(len(found), 1)
    return [_row(scan, truths[i], found[i].measured, model, seconds) for i in truths if i in found]


def phantom_rows(count: int, seed: int, model: TypeModel, subtle: float) -> Iterator[Row]:
    """Measure the fractures of synthetic scans."""
    prepare = preparation()
    for number in tqdm(range(count), desc="phantoms", unit="scan"):
        made = make_phantom((seed, number), "slab", subtle=subtle)
        label = MetaTensor(made.label[None].astype(np.int32), affine=made.affine)
        data: Any = prepare({"image": MetaTensor(made.image[None].astype(np.float32), affine=made.affine)})
        truths = {one.label_id: asdict(one) for one in made.fractures}
        yield from _measured_rows(f"phantom {number}", data["image"], label, data["rib_cage"], truths, model)


def implanted_rows(folder: Path, section: str, model: TypeModel) -> Iterator[Row]:
    """Measure implanted fractures where they are annotated."""
    load = loading()
    for item, truths in _drawn_scans(folder, section):
        data: Any = load(item)
        yield from _measured_rows(item["scan"], data["image"], data["label"], data["rib_cage"], truths, model)


def predicted_rows(folder: Path, section: str, results_dir: Path) -> Iterator[Row]:
    """Read what a prediction tells of the fractures that it found and described."""
    with open(results_dir / "fractures.csv", newline="", encoding="utf-8") as file:
        told = {(row["scan"], int(row["id"])): row for row in csv.DictReader(file) if _is_described(row)}
    for item, truths in _drawn_scans(folder, section):
        scan = item["scan"]
        pred, label, _ = load_pair(results_dir / "predictions" / f"{scan}.nii.gz", Path(item["label"]))
        overlaps = instance_overlaps(pred, label)
        best: dict[int, tuple[float, int]] = {}
        for candidate, shares in zip(overlaps.candidate_ids, overlaps.overlap):
            for fracture, share in zip(overlaps.fracture_ids, shares):
                if (scan, candidate) in told and share > max(MIN_OVERLAP, best.get(fracture, (0.0, 0))[0]):
                    best[fracture] = (share, candidate)
        yield from (_told_row(scan, truths[fracture], told[scan, best[fracture][1]]) for fracture in sorted(best))


def _is_described(row: Mapping[str, str]) -> bool:
    return bool(row["displacement"] or row["not_measurable"])


def _told_row(scan: str, truth: Mapping[str, Any], row: Mapping[str, str]) -> Row:
    measured = row["displacement"] in CLASSES

    def number(column: str, scale: float = 1.0) -> float | None:
        return float(row[column]) * scale if measured else None

    return Row(
        scan,
        *_drawn(truth),
        row["not_measurable"],
        number("offset_mm"),
        number("offset_sd_mm"),
        number("along_mm"),
        number("contact_percent", 0.01),
        row["displacement"] if measured else "",
        TYPE_CODES["segmental" if row["segmental_with"] else row["type"]] if row["type"] else -1,
        None,
    )


def _drawn_scans(folder: Path, section: str) -> Iterator[tuple[dict[str, Any], dict[int, dict[str, Any]]]]:
    """Yield the scans of a data set, each with what was drawn or implanted, by the fractures' ids."""
    info = json.loads((folder / INFO_NAME).read_text(encoding="utf-8"))
    items = load_datalist(folder, section)
    if "made" in info:
        made = {scan["public_id"]: {one["label_id"]: one for one in scan["fractures"]} for scan in info["made"]}
        items = [item for item in items if made.get(item["scan"])]
    for index, item in enumerate(tqdm(items, unit="scan")):
        if "made" in info:
            yield item, made[item["scan"]]
        else:  # a synthetic scan is made once more
            fractures = make_scan(info, section, index).fractures
            yield item, {one.label_id: asdict(one) for one in fractures}


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """
    Sum up.

    Args:
        rows: the fractures.

    Returns:
        Numbers of fractures, and why some were not measured; median and 90th percentile of the error of the offset of
        displaced fractures, of gap and contact of all; the share whose class is right; confusion, F1 of each type and
        macro F1, where a fracture without a type is wrong; seconds a fracture, 0 where they were read.
    """
    measured = [row for row in rows if row.found_offset_mm is not None]
    moved = [row for row in measured if row.code == 1]
    confusion = np.zeros((4, 5), dtype=int)
    for row in rows:
        confusion[row.code - 1, row.found_code - 1 if row.found_code > 0 else 4] += 1
    right = np.diag(confusion[:, :4])
    f1 = 2 * right / np.maximum(confusion.sum(axis=1) + confusion[:, :4].sum(axis=0), 1)
    kinds = np.zeros((3, 3), dtype=int)
    for row in measured:
        kinds[CLASSES.index(displacement_class(row.contact)), CLASSES.index(row.found_kind)] += 1
    return {
        "fractures": len(rows),
        "measured": len(measured),
        "not_measured": dict(Counter(row.reason for row in rows if row.reason)),
        "offset_error_mm": _errors([row.found_offset_mm - row.offset_mm for row in moved]),  # type: ignore[operator]
        "along_error_mm": _errors([row.found_along_mm - row.gap_mm for row in measured]),  # type: ignore[operator]
        "contact_error": _errors([row.found_contact - row.contact for row in measured]),  # type: ignore[operator]
        "class_right": float(np.trace(kinds) / max(kinds.sum(), 1)),
        "classes": kinds.tolist(),
        "types": confusion.tolist(),
        "f1": f1.round(3).tolist(),
        "macro_f1": float(f1.mean()),
        "seconds": float(np.mean([row.seconds or 0.0 for row in rows])) if rows else 0.0,
    }


def _errors(errors: Sequence[float]) -> list[float]:
    """Median and 90th percentile of absolute errors."""
    return np.percentile(np.abs(errors), [50, 90]).round(3).tolist() if len(errors) else []


def _report(name: str, numbers: Mapping[str, Any]) -> str:
    def pair(values: Sequence[float]) -> str:
        return " / ".join(f"{value:.2f}" for value in values)

    rows = [
        ["fractures, measured", f"{numbers['fractures']}, {numbers['measured']}"],
        ["offset of displaced ones off by, median / 90 %, mm", pair(numbers["offset_error_mm"])],
        ["along off by, mm", pair(numbers["along_error_mm"])],
        ["contact off by", pair(numbers["contact_error"])],
        ["class right", f"{numbers['class_right']:.3f}"],
        ["macro F1 of types", f"{numbers['macro_f1']:.3f}"],
        *([f"F1 {title.lower()}", f"{f1:.2f}"] for title, f1 in zip(CLASS_NAMES.values(), numbers["f1"])),
        *([["seconds a fracture", f"{numbers['seconds']:.2f}"]] if numbers["seconds"] else []),
    ]
    lines = [*table([name, ""], rows), ""]
    lines += [f"not measured: {numbers['not_measured']}", f"classes (rows drawn): {numbers['classes']}"]
    return "\n".join([*lines, f"types (rows drawn, last column without a type): {numbers['types']}"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure from the command line; ``--help`` explains the arguments."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip().splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--phantoms", type=int, default=0, help="synthetic scans to make and measure")
    add("--seed", type=int, default=2026, help="of the synthetic scans")
    add("--subtle", type=float, default=0.0, help="share of subtle fractures in the synthetic scans")
    add(
        "--implanted",
        action="append",
        default=[],
        help="folder that python -m scripts implant or phantom made; again for more",
    )
    add("--section", default="test", help="of these folders")
    add("--results_dir", help="output folder of a prediction of them, whose fractures.csv is compared instead")
    add("--model", default=str(SHIPPED_MODEL), help="of the types, as python -m scripts fit_types writes it")
    add("--json", help="file for all figures and rows")
    options = parser.parse_args(arguments)
    model, results = TypeModel.read(options.model), {}
    if options.phantoms:
        results["phantoms"] = list(phantom_rows(options.phantoms, options.seed, model, options.subtle))
    for folder in options.implanted:
        path = Path(folder)
        results[path.name] = list(
            predicted_rows(path, options.section, Path(options.results_dir))
            if options.results_dir
            else implanted_rows(path, options.section, model)
        )
    for name, rows in results.items():
        print(_report(name, figures(rows)), end="\n\n")
    if options.json:
        content = {name: {**figures(rows), "rows": [asdict(row) for row in rows]} for name, rows in results.items()}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
