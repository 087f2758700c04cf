"""The benchmark's results as JSON, as tables in Markdown and as curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.data import RECORD_NAME, TEST_SETS
from benchmarks.detection.findings import Finding, findings_of, read_findings
from benchmarks.detection.measure import PLACES
from benchmarks.detection.recipes import BASES, CHANGES, find_recipe
from benchmarks.detection.run import FIGURES_NAME, RUN_NAME, rois_in_all, seconds_in_all
from benchmarks.markdown import table
from scripts.data.ribfrac import CLASS_NAMES, KEY_FALSE_POSITIVES

__all__ = ["collect", "summary", "tables"]

# Distance of a scan's slices
SLICES_MM = {"<= 1.5 mm": (0.0, 1.5), "to 2.5 mm": (1.5, 2.5), "> 2.5 mm": (2.5, np.inf)}
TITLES = {
    "synthetic_test": "Synthetic scans",
    "usual_test": "Usual fractures, implanted into real CT",
    "subtle_test": "Subtle and healing fractures, implanted into the same real CT",
    "as_is_test": "The same real CT as it is",
}


def summary(figures: Mapping[str, Any], findings: Mapping[str, Sequence[Finding]] | None = None) -> dict[str, Any]:
    """
    Sum up the prediction of a set.

    Args:
        figures: see `benchmarks.detection.measure`, with ``min_score``, the operating point:
            the score below which the recipe writes no candidate where it does not evaluate.
        findings: what was read in the body, by the name of the scan; for scans as they are.

    Returns:
        ``scans`` and ``false_per_scan``; and where scans are annotated the challenge's detection
        scores with their 95 % intervals, ``curve``, the FROC curve (``fp`` and ``recall`` at the challenge's
        thresholds), of what is found ``dice_of_hits``, and ``groups``, by type, age and slice distance: each fractures
        found and there are. Where they are not, ``false``, the false candidates of each scan, ``false_by_place``,
        ``false_scores``, the score above which so many a scan as the challenge's points are left, and
        ``real_fractures``: sure ones found, sure ones there are, and doubtful ones marked. Scores are of all
        candidates, all others of those at the operating point.
    """
    scans, least = figures["scans"], figures["min_score"]
    annotated = "scores" in figures
    false = {
        scan["scan"]: [
            candidate
            for candidate in scan["candidates"]
            if not candidate["is_hit"] and not _at_fracture(candidate, (findings or {}).get(scan["scan"], []))
        ]
        for scan in scans
    }
    written = {name: [candidate for candidate in its if candidate["score"] >= least] for name, its in false.items()}
    result: dict[str, Any] = {
        "scans": len(scans),
        "false_per_scan": sum(map(len, written.values())) / len(scans),
    }
    if not annotated:
        scores = sorted((candidate["score"] for its in false.values() for candidate in its), reverse=True)
        allowed = [int(points * len(scans)) for points in KEY_FALSE_POSITIVES]
        return result | {
            "false": {name: len(its) for name, its in written.items()},
            "false_by_place": {
                place: sum(candidate["place"] == place for its in written.values() for candidate in its)
                for place in PLACES
            },
            "false_scores": [scores[count] if count < len(scores) else 0.0 for count in allowed],
            "real_fractures": _real_fractures(scans, findings or {}, least),
        }
    fractures = [{**fracture, "slice_mm": scan["slice_mm"]} for scan in scans for fracture in scan["fractures"]]
    found = [fracture for fracture in fractures if fracture["score"] is not None and fracture["score"] >= least]
    detection, intervals = figures["scores"]["detection"], figures["scores"].get("bootstrap") or {}
    hits = [fracture["dice"] for fracture in found]
    result |= {key: detection[key] for key in ("key_recall", "average_recall", "max_recall")}
    result |= {f"{key}_interval": intervals.get(key) for key in ("key_recall", "average_recall", "max_recall")}
    return result | {
        "curve": {key: np.round(detection[key], 4).tolist() for key in ("fp", "recall")},
        "fractures": len(fractures),
        "dice_of_hits": float(np.mean(hits)) if hits else None,
        "groups": _groups(found, fractures),
    }


def _at_fracture(candidate: Mapping[str, Any], findings: Sequence[Finding]) -> bool:
    """Whether a candidate lies at what was read as a fracture, or as a doubtful one."""
    return any(finding.id == candidate["finding"] and finding.is_ignored for finding in findings)


def _real_fractures(
    scans: Sequence[Mapping[str, Any]], findings: Mapping[str, Sequence[Finding]], least: float
) -> dict[str, int]:
    """Count the real fractures of all scans, and those with a candidate at the operating point."""
    counts = {"sure_found": 0, "sure": 0, "doubtful_marked": 0, "doubtful": 0}
    for scan in scans:
        marked = {candidate["finding"] for candidate in scan["candidates"] if candidate["score"] >= least}
        for finding in findings.get(scan["scan"], []):
            if finding.is_ignored:
                counts["sure" if finding.sure else "doubtful"] += 1
                counts["sure_found" if finding.sure else "doubtful_marked"] += finding.id in marked
    return counts


def _groups(found: Sequence[Mapping[str, Any]], fractures: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Count the fractures found and those there are in each group that has any."""
    tests: dict[str, Callable[[Mapping[str, Any]], bool]] = {}
    for code, name in CLASS_NAMES.items():
        tests[name.lower()] = lambda fracture, code=code: fracture["code"] == code
    for age in sorted({fracture["age"] for fracture in fractures if "age" in fracture}):
        tests[age] = lambda fracture, age=age: fracture.get("age") == age
    for name, (low, high) in SLICES_MM.items():
        tests[name] = lambda fracture, low=low, high=high: low < fracture["slice_mm"] <= high
    groups = {name: [sum(map(test, of)) for of in (found, fractures)] for name, test in tests.items()}
    return {name: counts for name, counts in groups.items() if counts[1]}


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
    benchmark = {key: record[key] for key in ("version", "bodies", "body_of")}
    body_of = record["body_of"]
    known = read_findings()
    findings = {scan: findings_of(scan, body_of, known) for scan in body_of}
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
                test: summary(json.loads((output_dir / name / test / FIGURES_NAME).read_text()), findings)
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
    lines = [f"Version {benchmark['version']} of the benchmark. {_bodies(benchmark['bodies'])}", ""]
    for test, annotated in TEST_SETS.items():
        of_set = {name: recipe["sets"][test] for name, recipe in recipes.items() if test in recipe["sets"]}
        if of_set:
            lines += [f"### {TITLES[test]}", ""]
            lines += [*(_scores(of_set) if annotated else _false(of_set, benchmark["body_of"])), ""]
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


def _bodies(bodies: Mapping[str, Sequence[str]]) -> str:
    """Tell in a sentence which patients are in which section."""
    return (
        "Patients: " + "; ".join(f"{section} {', '.join(names) or 'none'}" for section, names in bodies.items()) + "."
    )


def _scores(of_set: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = next(iter(of_set.values()))
    rows, parts = [], []
    for name, scores in of_set.items():
        interval = scores["average_recall_interval"]
        average = f"**{scores['average_recall']:.3f}**"
        rows.append(
            [
                f"`{name}`",
                *(f"{recall:.3f}" for recall in scores["key_recall"]),
                average + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""),
                f"{scores['max_recall']:.3f}",
                f"{scores['false_per_scan']:.1f}",
                "" if scores["dice_of_hits"] is None else f"{scores['dice_of_hits']:.2f}",
            ]
        )
        parts.append([f"`{name}`", *(f"{found / of:.2f}" for found, of in scores["groups"].values())])
    header = ["recipe", *(f"{key:g}" for key in KEY_FALSE_POSITIVES), "average (95 % interval)"]
    header += ["maximum", "false a scan", "Dice of hits"]
    return [
        f"{first['scans']} scans, {first['fractures']} fractures. Recall at so many false positives a scan:",
        "",
        *table(header, rows),
        "",
        "Share found at the operating point, by type, age and slice distance (how many there are):",
        "",
        *table(["recipe", *(f"{name} ({of})" for name, (_, of) in first["groups"].items())], parts),
    ]


def _false(of_set: Mapping[str, Mapping[str, Any]], body_of: Mapping[str, str]) -> list[str]:
    scans = list(next(iter(of_set.values()))["false"])
    rows, parts = [], []
    for name, of in of_set.items():
        real = of["real_fractures"]
        rows.append(
            [
                f"`{name}`",
                *(str(of["false"].get(scan, "")) for scan in scans),
                f"**{of['false_per_scan']:.1f}**",
                f"{real['sure_found']} of {real['sure']}",
                f"{real['doubtful_marked']} of {real['doubtful']}",
            ]
        )
        parts.append([f"`{name}`", *map(str, of["false_by_place"].values()), *(f"{s:.2f}" for s in of["false_scores"])])
    header = ["recipe", *(body_of.get(scan, scan) for scan in scans), "mean"]
    return [
        "False candidates at the operating point. What the developers read as a fracture, or a doubtful one, is not "
        "counted:",
        "",
        *table([*header, "real ones found", "doubtful ones marked"], rows),
        "",
        "False candidates of all scans by place, and the score above which so many false ones a scan are left:",
        "",
        *table(["recipe", *PLACES, *(f"{key:g}" for key in KEY_FALSE_POSITIVES)], parts),
    ]


def _training(training: Mapping[str, Any]) -> list[str]:
    return [f"{rois_in_all(training):,}", str(training["threads"]), f"{seconds_in_all(training) / 3600:.1f}"]
