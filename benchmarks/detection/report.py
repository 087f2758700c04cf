"""The benchmark's results as JSON, as tables in Markdown and as curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.data import RECORD_NAME, TEST_SETS
from benchmarks.detection.recipes import BASES, CHANGES, find_recipe
from benchmarks.detection.run import FIGURES_NAME, RUN_NAME, rois_in_all, seconds_in_all
from benchmarks.markdown import table
from scripts.data.ribfrac import CLASS_NAMES, KEY_FALSE_POSITIVES

__all__ = ["collect", "summary", "tables"]

# Of a fracture's mask; RibFrac's mean is about 2.7 mL
SIZES_ML = {"< 1.5 mL": (0.0, 1.5), "1.5 to 3 mL": (1.5, 3.0), "> 3 mL": (3.0, np.inf)}
TITLES = {
    "synthetic_test": "Synthetic test scans",
    "implanted_test": "Fractures implanted into real CT, of one patient not trained on",
    "as_is_test": "Real scans as they are, neither trained nor tuned on",
    "as_is_seen": "Real scans as they are, trained or tuned on",
}


def summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """
    Sum up the prediction of a set.

    Args:
        figures: see `benchmarks.detection.measure`, with ``seconds_per_scan``, and ``min_score``, the operating point:
            the score below which the recipe writes no candidate where it does not evaluate.

    Returns:
        ``scans``, ``candidates_per_scan``, ``candidates`` by scan, ``false_per_scan`` and ``seconds_per_scan``; and
        where scans are annotated the challenge's detection scores with their 95 % intervals, ``curve``, the FROC curve
        (``fp`` and ``recall`` at the challenge's thresholds), ``dice`` of all voxels, and of what is found
        ``dice_of_hits``, ``by_type`` and ``by_size``: each fractures found and there are. Scores and ``dice`` are of
        all candidates, all others of those at the operating point.
    """
    scans, least = figures["scans"], figures["min_score"]
    written = {scan["scan"]: [c for c in scan["candidates"] if c["score"] >= least] for scan in scans}
    candidates = {name: len(its) for name, its in written.items()}
    false = sum(not candidate["is_hit"] for its in written.values() for candidate in its)
    result: dict[str, Any] = {
        "scans": len(scans),
        "candidates": candidates,
        "candidates_per_scan": sum(candidates.values()) / len(scans),
        "false_per_scan": false / len(scans),
        "seconds_per_scan": figures["seconds_per_scan"],
    }
    if "scores" not in figures:
        return result
    fractures = [fracture for scan in scans for fracture in scan["fractures"]]
    found = [fracture for fracture in fractures if fracture["score"] is not None and fracture["score"] >= least]
    detection, intervals = figures["scores"]["detection"], figures["scores"].get("bootstrap", {})
    hits = [fracture["dice"] for fracture in found]
    result |= {key: detection[key] for key in ("key_recall", "average_recall", "max_recall")}
    result |= {f"{key}_interval": intervals.get(key) for key in ("key_recall", "average_recall", "max_recall")}
    result |= {
        "curve": {key: np.round(detection[key], 4).tolist() for key in ("fp", "recall")},
        "fractures": len(fractures),
        "dice": figures["scores"]["segmentation"]["dice"],
        "dice_of_hits": float(np.mean(hits)) if hits else None,
        "by_type": {
            name.lower(): [sum(fracture["code"] == code for fracture in of) for of in (found, fractures)]
            for code, name in CLASS_NAMES.items()
        },
        "by_size": {
            name: [sum(low <= fracture["volume_mm3"] / 1000 < high for fracture in of) for of in (found, fractures)]
            for name, (low, high) in SIZES_ML.items()
        },
    }
    return result


def collect(data_dir: Path, output_dir: Path, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    Gather the results of all recipes that have any on a test set.

    Trainings take hours, so the results may come from several machines, one after the other.

    Args:
        data_dir: the benchmark's data.
        output_dir: folder of all results.
        earlier: what an earlier call returned: its recipes of which there is no result here stay.

    Returns:
        ``benchmark``, what the data are; ``recipes``, by name ``says``, ``base``, ``training`` (what `RUN_NAME` holds,
        None for a recipe without a training of its own) and ``sets``, by name as `summary` gives them.

    Raises:
        FileNotFoundError: when there are no data or no results.
        ValueError: when the earlier results are of other data.
    """
    record_path = data_dir / RECORD_NAME
    if not record_path.is_file():
        raise FileNotFoundError(f"{record_path} does not exist: make the data first, by the command 'data'.")
    record = json.loads(record_path.read_text())
    benchmark = {key: record[key] for key in ("version", "says", "names")}
    if earlier is not None and earlier["benchmark"] != benchmark:
        raise ValueError(f"the earlier results are of other data than {data_dir}: give another file.")
    recipes = dict(earlier["recipes"]) if earlier else {}
    for name in {path.parts[-3] for test in TEST_SETS for path in output_dir.glob(f"*/{test}/{FIGURES_NAME}")}:
        run_path = output_dir / name / RUN_NAME
        recipes[name] = {
            "says": find_recipe(name).says,
            "base": name.rpartition("+")[0] or None,
            "training": json.loads(run_path.read_text()) if run_path.is_file() else None,
            "sets": {
                test: summary(json.loads((output_dir / name / test / FIGURES_NAME).read_text()))
                for test in TEST_SETS
                if (output_dir / name / test / FIGURES_NAME).is_file()
            },
        }
    if not recipes:
        raise FileNotFoundError(f"{output_dir} holds no result: run the commands 'train' and 'predict' first.")
    return {"benchmark": benchmark, "recipes": {name: recipes[name] for name in sorted(recipes, key=_place)}}


def tables(results: Mapping[str, Any]) -> str:
    """
    Write results as Markdown.

    Args:
        results: see `collect`.
    """
    benchmark, recipes = results["benchmark"], results["recipes"]
    lines = [f"Version {benchmark['version']} of the benchmark. {benchmark['says']}", ""]
    for test, annotated in TEST_SETS.items():
        of_set = {name: recipe["sets"][test] for name, recipe in recipes.items() if test in recipe["sets"]}
        if of_set:
            lines += [f"### {TITLES[test]}", ""]
            lines += [*(_scores(of_set) if annotated else _candidates(of_set, benchmark["names"])), ""]
    trained = {name: recipe for name, recipe in recipes.items() if recipe["training"]}
    lines += ["### What was run", ""]
    lines += table(
        ["recipe", "what it is", "ROIs seen", "threads", "hours of training"],
        [
            [f"`{name}`", recipe["says"], *(_training(recipe["training"]) if name in trained else ["", "", ""])]
            for name, recipe in recipes.items()
        ],
    )
    return "\n".join(lines) + "\n"


def _place(name: str) -> tuple[int, list[int], str]:
    """Sort recipes as they are listed: a base, then its changes; others, by name, last."""
    base, *changes = name.split("+")
    known = [change.removeprefix("no_") for change in changes]
    order = [list(CHANGES).index(change) if change in CHANGES else len(CHANGES) for change in known]
    return list(BASES).index(base) if base in BASES else len(BASES), order, name


def _scores(of_set: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = next(iter(of_set.values()))
    rows, parts = [], []
    for name, scores in of_set.items():
        base = of_set.get(name.rpartition("+")[0])
        interval = scores["average_recall_interval"]
        average = f"**{scores['average_recall']:.3f}**"
        rows.append(
            [
                f"`{name}`",
                *(f"{recall:.3f}" for recall in scores["key_recall"]),
                average + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""),
                f"{scores['average_recall'] - base['average_recall']:+.3f}".replace("-", "−") if base else "",
                f"{scores['max_recall']:.3f}",
                f"{scores['false_per_scan']:.1f}",
                "" if scores["dice_of_hits"] is None else f"{scores['dice_of_hits']:.2f}",
                f"{scores['dice']:.2f}",
                f"{scores['seconds_per_scan']:.0f}",
            ]
        )
        groups = [*scores["by_type"].values(), *scores["by_size"].values()]
        parts.append([f"`{name}`", *(f"{found / of:.2f}" if of else "" for found, of in groups)])
    header = ["recipe", *(f"{key:g}" for key in KEY_FALSE_POSITIVES), "average (95 % interval)", "to its base"]
    header += ["maximum", "false a scan", "Dice of hits", "Dice", "s a scan"]
    sizes = [f"{name} ({of})" for name, (_, of) in (*first["by_type"].items(), *first["by_size"].items())]
    return [
        f"{first['scans']} scans, {first['fractures']} fractures. Recall at so many false positives a scan:",
        "",
        *table(header, rows),
        "",
        "Share found at the operating point, by type and by size (how many there are):",
        "",
        *table(["recipe", *sizes], parts),
    ]


def _candidates(of_set: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    scans = list(next(iter(of_set.values()))["candidates"])
    rows = [
        [
            f"`{name}`",
            *(str(scores["candidates"].get(scan, "")) for scan in scans),
            f"**{scores['candidates_per_scan']:.1f}**",
            f"{scores['seconds_per_scan']:.0f}",
        ]
        for name, scores in of_set.items()
    ]
    return [
        "Nobody has annotated a fracture in them; taken to have none, every candidate is false. Candidates:",
        "",
        *table(["recipe", *(names.get(scan, scan) for scan in scans), "mean", "s a scan"], rows),
    ]


def _training(training: Mapping[str, Any]) -> list[str]:
    return [f"{rois_in_all(training):,}", str(training["threads"]), f"{seconds_in_all(training) / 3600:.1f}"]
