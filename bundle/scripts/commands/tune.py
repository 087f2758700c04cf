"""
Choose the post-processing for a network's probabilities on annotated scans, and calibrate its scores.

    python -m scripts tune --probabilities_dir output/evaluation/probabilities --dataset_dir /data/ribfrac \\
      --output tuned.yaml

Every setting is scored by the challenge's rule (``scripts.metrics.froc``), from tables that
``scripts.commands._setting_tables`` makes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.bundle import ConfigParser
from scipy.optimize import minimize
from scipy.special import expit, logit
from tqdm import tqdm

from scripts.commands._setting_tables import ScanTable, Setting, measure_scan, scan_result
from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import CHALLENGE_THRESHOLDS, MIN_OVERLAP
from scripts.files.atomic_write import write_json, write_text
from scripts.metrics.froc import ScanResult, detection_scores
from scripts.transforms.candidates import SCORE_MARGIN, CandidateScore

__all__ = [
    "Outcome",
    "fit_calibration",
    "grid_of_settings",
    "list_scans",
    "main",
    "measure_sets",
    "operating_score",
    "outcome_of",
    "ranked",
    "tune",
]

THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
SPLIT_DISTANCES_MM = (0.0, 20.0)
PEAK_SHARES = (0.0, 0.1, 0.3, 0.5, 0.8)
FAINT_THRESHOLDS = (0.0, 0.2)
MIN_VOLUMES_MM3 = (50.0, 100.0, 200.0, 300.0, 500.0, 800.0, 1200.0)
MIN_MEANS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
# A fit needs about ten of the rarer outcome for each number beside the base rate:
# Peduzzi et al. (1996), doi:10.1016/S0895-4356(96)00236-3.
MIN_SAMPLES = 10
# So weak that it counts only where the scores of hits and misses do not overlap, and the slope would grow without end.
RIDGE = 0.01
MIN_SLOPE = 0.05
LIKELY = 0.5  # a candidate of this calibrated score is a fracture as likely as not
# What calibrated scores may cost in average recall, less than any set of scans tells apart: they mean something.
CALIBRATION_COST = 0.002
# Settings whose average recall agrees to this many digits tie: no set of scans tells them apart.
TIE_DIGITS = 3
HIGHEST_SCORE = round(float(CHALLENGE_THRESHOLDS[-1]), 2)
ROWS_SHOWN = 10
INFERENCE_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "inference.yaml"


class Outcome(NamedTuple):
    """
    What one setting gives on one or more sets of scans.

    Args:
        setting: the setting.
        slope: of the calibration of scores, ``scripts.transforms.CalibrateScoresd``.
        intercept: of it; 0 with slope 1 leaves scores as they are.
        average_recall: the challenge's, mean over the sets.
        candidates_per_scan: mean over all scans.
        false_candidates_per_scan: of whatever score; of each set the mean over the scans without fractures, or, where
            all have some, the mean number of candidates that hit none; the highest of the sets.
    """

    setting: Setting
    slope: float
    intercept: float
    average_recall: float
    candidates_per_scan: float
    false_candidates_per_scan: float


def grid_of_settings(
    thresholds: Sequence[float] = THRESHOLDS,
    split_distances_mm: Sequence[float] = SPLIT_DISTANCES_MM,
    peak_shares: Sequence[float] = PEAK_SHARES,
    faint_thresholds: Sequence[float] = FAINT_THRESHOLDS,
) -> list[Setting]:
    """
    List the settings to try.

    Args:
        thresholds: probability thresholds, in [0, 1).
        split_distances_mm: least distances of two peaks; 0 splits nothing.
        peak_shares: shares of its highest probability above which a component's pieces count apart; 0 parts nothing.
        faint_thresholds: thresholds of the components that count where they hold no candidate; 0 adds none.

    Returns:
        every combination with ``MIN_VOLUMES_MM3``, every score, and each of ``MIN_MEANS`` that is 0 or above the
        lowest threshold: others drop nothing either. Likewise a share that is 0 or above the threshold, since others
        part nothing, and a faint threshold below it.
    """
    return [
        Setting(threshold, distance_mm, share, volume_mm3, mean, score, faint)
        for threshold, distance_mm, share, faint, volume_mm3, mean, score in product(
            thresholds,
            split_distances_mm,
            peak_shares,
            faint_thresholds,
            MIN_VOLUMES_MM3,
            MIN_MEANS,
            CandidateScore,
        )
        if (mean == 0 or mean > (faint or threshold)) and (share == 0 or share > threshold) and faint < threshold
    ]


def fit_calibration(scores: np.ndarray, is_hit: np.ndarray) -> tuple[float, float] | None:
    """
    Fit the probability that a candidate is a hit to its score: logistic regression on the score's logit.

    Args:
        scores: scores in [0, 1], shape ``(candidates,)``.
        is_hit: whether each is a hit, bool, of the same shape.

    Returns:
        slope, at least ``MIN_SLOPE``, and intercept, to four digits; None with fewer than ``MIN_SAMPLES`` hits or
        misses.

    References:
        Platt (1999), Probabilistic outputs for support vector machines, in: Advances in Large Margin Classifiers.
    """
    if min(is_hit.sum(), (~is_hit).sum()) < MIN_SAMPLES:
        return None
    x = logit(np.clip(scores.astype(np.float64), SCORE_MARGIN, 1 - SCORE_MARGIN))

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        off = line - (1, 0)  # from the line that changes nothing
        z = line[0] * x + line[1]
        wrong = expit(z) - is_hit
        value = np.logaddexp(0, np.where(is_hit, -z, z)).sum() + RIDGE / 2 * off @ off
        return value, np.array([wrong @ x, wrong.sum()]) + RIDGE * off

    line = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(MIN_SLOPE, None), (None, None)]).x
    return round(float(line[0]), 4), round(float(line[1]), 4)


def outcome_of(
    sets: Sequence[Sequence[ScanTable]], setting: Setting, line: tuple[float, float] | None = None
) -> Outcome:
    """
    Score one setting.

    Args:
        sets: the tables of each set's scans.
        setting: a setting that the tables were made for.
        line: slope and intercept of the calibration; None fits them to these scans, and keeps them where they cost no
            more than ``CALIBRATION_COST`` of the average recall.

    Returns:
        what it gives.

    Raises:
        ValueError: when a set holds no scan.
    """
    if line is not None:
        return _outcome(sets, setting, *line)
    plain = _outcome(sets, setting, 1.0, 0.0)
    line = fit_calibration(*_samples([scan_result(table, setting) for table in chain.from_iterable(sets)]))
    calibrated = plain if line is None else _outcome(sets, setting, *line)
    return calibrated if calibrated.average_recall >= plain.average_recall - CALIBRATION_COST else plain


def _outcome(sets: Sequence[Sequence[ScanTable]], setting: Setting, slope: float, intercept: float) -> Outcome:
    results = [[scan_result(table, setting, slope, intercept) for table in tables] for tables in sets]
    return Outcome(
        setting,
        slope,
        intercept,
        float(np.mean([detection_scores(its)["average_recall"] for its in results])),
        float(np.mean([len(result.label_scores) for result in chain.from_iterable(results)])),
        max(map(_false_candidates, results)),
    )


def _samples(results: Sequence[ScanResult]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of all candidates, and which of them are hits."""
    scores = np.concatenate([result.label_scores for result in results])
    return scores, np.concatenate([result.best_overlap for result in results]) > MIN_OVERLAP


def _false_candidates(results: Sequence[ScanResult], min_score: float = 0.0) -> float:
    """Return candidates per scan without fractures, or, where all have some, candidates per scan that hit none."""
    empty = [(result.label_scores >= min_score).sum() for result in results if len(result.fracture_codes) == 0]
    misses = [((result.best_overlap <= MIN_OVERLAP) & (result.label_scores >= min_score)).sum() for result in results]
    return float(np.mean(empty or misses))


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """
    Order settings by average recall, those that tie by fewer candidates.

    Args:
        outcomes: what each setting gives.

    Returns:
        the settings, the best one first.
    """
    return sorted(outcomes, key=lambda o: (-round(o.average_recall, TIE_DIGITS), o.candidates_per_scan))


def operating_score(
    sets: Sequence[Sequence[ScanTable]], outcome: Outcome, max_candidates_per_scan: float, least: float = LIKELY
) -> float | None:
    """
    Choose the score below which candidates are not written.

    A few validation scans hold too few false candidates to tell how many other scans will have. So where scores are
    calibrated, what is less likely a fracture than not is not written either.

    Args:
        sets: the tables of each set's scans.
        outcome: the setting, with its calibration.
        max_candidates_per_scan: the most false candidates per scan, counted as ``false_candidates_per_scan``.
        least: the least score to choose, where scores are calibrated.

    Returns:
        the least of the challenge's thresholds 0, 0.01 ... 0.99 with so few in every set; None where 0.99 has more.
    """
    is_calibrated = (outcome.slope, outcome.intercept) != (1.0, 0.0)
    results = [
        [scan_result(table, outcome.setting, outcome.slope, outcome.intercept) for table in tables] for tables in sets
    ]
    for score in CHALLENGE_THRESHOLDS.round(2).tolist():
        if is_calibrated and score < least:
            continue
        if max(_false_candidates(its, score) for its in results) <= max_candidates_per_scan:
            return score
    return None


def list_scans(
    probabilities_dir: str | Path, dataset_dir: str | Path, section: str, assumed_orientation: str | None = None
) -> list[dict[str, Any]]:
    """
    List the annotated scans of one section, each with its map of probabilities.

    Args:
        probabilities_dir: folder of ``NAME.nii.gz``, as ``save_probabilities`` writes it.
        dataset_dir: the data set that was predicted, see :func:`scripts.data.load_datalist`.
        section: its section.
        assumed_orientation: of a file that tells none, as in the prediction.

    Returns:
        the items of the data list with the path of the map as ``pred``.

    Raises:
        FileNotFoundError: when a scan has no map.
    """
    items = load_datalist(dataset_dir, section, assumed_orientation=assumed_orientation)
    for item in items:
        path = Path(probabilities_dir) / f"{item['scan']}.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: predict {dataset_dir}, section {section}, with --save_probabilities true first."
            )
        item["pred"] = str(path)
    return items


_SETTING_NAMES = (
    "probability_threshold",
    "faint_threshold",
    "split_distance_mm",
    "peak_share",
    "min_volume_mm3",
    "min_mean_probability",
    "score",
    "score_slope",
    "score_intercept",
    "min_score",
    "hu_range",
    "spine_margin_mm",
    "assumed_orientation",
)


class _Present(NamedTuple):
    """The post-processing that a config has now."""

    setting: Setting
    line: tuple[float, float]
    min_score: float
    hu_range: Sequence[float]
    spine_margin_mm: float
    assumed_orientation: str | None


def _read_config(files: Sequence[str]) -> _Present:
    """Read the settings of a prediction."""
    try:
        config = ConfigParser(ConfigParser.load_config_files(list(files)))
        value = {name: config.get_parsed_content(name) for name in _SETTING_NAMES}
    except KeyError as error:
        raise ValueError(f"{', '.join(files)}: {error}; name inference.yaml first, then its overlays.") from error
    setting = Setting(
        float(value["probability_threshold"]),
        float(value["split_distance_mm"]),
        float(value["peak_share"]),
        float(value["min_volume_mm3"]),
        float(value["min_mean_probability"]),
        CandidateScore(value["score"]),
        float(value["faint_threshold"]),
    )
    line = float(value["score_slope"]), float(value["score_intercept"])
    return _Present(
        setting,
        line,
        float(value["min_score"]),
        value["hu_range"],
        float(value["spine_margin_mm"]),
        value["assumed_orientation"],
    )


def measure_sets(
    sets: Sequence[Sequence[dict[str, Any]]],
    settings: Sequence[Setting],
    hu_range: Sequence[float],
    spine_margin_mm: float,
    workers: int = 1,
    assumed_orientation: str | None = None,
) -> list[list[ScanTable]]:
    """
    Measure every scan at every setting.

    Args:
        sets: the scans of each set, as `list_scans` gives them.
        settings: what to measure.
        hu_range: HU that become -1 and 1, as in the prediction.
        spine_margin_mm: margin around the spine that is removed with it.
        workers: scans that are measured at the same time; each needs about 30 bytes per voxel.
        assumed_orientation: of a file that tells none, as in the prediction.

    Returns:
        the tables of each set's scans.
    """
    measure = partial(
        measure_scan,
        settings=settings,
        hu_range=hu_range,
        spine_margin_mm=spine_margin_mm,
        assumed_orientation=assumed_orientation,
    )
    items = list(chain.from_iterable(sets))
    progress = partial(tqdm, total=len(items), desc="measure scans", unit="scan")
    if workers == 1:
        tables = list(progress(map(measure, items)))
    else:
        # spawned: a fork would copy the locks of threads that torch has started
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            tables = list(progress(pool.map(measure, items)))
    in_order = iter(tables)
    return [[next(in_order) for _ in its] for its in sets]


def _figures(sets: Sequence[Sequence[ScanTable]], outcome: Outcome, min_score: float) -> dict[str, Any]:
    """Describe an outcome for ``tuned.json``, also at the score from which on candidates are written."""
    details = []
    for tables in sets:
        results = [scan_result(table, outcome.setting, outcome.slope, outcome.intercept) for table in tables]
        scores = detection_scores(results)
        details.append(
            {name: scores[name] for name in ("average_recall", "key_recall", "max_recall")}
            | {
                "candidates_per_scan": float(np.mean([len(result.label_scores) for result in results])),
                "false_candidates_per_scan": _false_candidates(results),
                "recall_at_min_score": scores["recall"][round(min_score * 100)],
                "false_candidates_per_scan_at_min_score": _false_candidates(results, min_score),
            }
        )
    return _row(outcome) | {"min_score": min_score, "sets": details}


def _row(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome.setting) | {k: v for k, v in outcome._asdict().items() if k != "setting"}


def _table(rows: Sequence[tuple[str, Outcome]]) -> str:
    """Format outcomes for the terminal."""
    lines = [
        f"{'':<8}{'threshold':>10}{'faint':>6}{'split mm':>9}{'peak':>6}{'mm3':>7}{'mean':>6}  {'score':<21}"
        f"{'slope':>8}{'intercept':>10}{'average':>9}{'cand.':>7}{'false':>7}"
    ]
    for name, outcome in rows:
        s = outcome.setting
        lines.append(
            f"{name:<8}{s.probability_threshold:>10g}{s.faint_threshold:>6g}{s.split_distance_mm:>9g}"
            f"{s.peak_share:>6g}{s.min_volume_mm3:>7g}"
            f"{s.min_mean_probability:>6g}  {s.score:<21}{outcome.slope:>8.3f}{outcome.intercept:>10.3f}"
            f"{outcome.average_recall:>9.3f}{outcome.candidates_per_scan:>7.1f}"
            f"{outcome.false_candidates_per_scan:>7.1f}"
        )
    return "\n".join(lines)


def _overlay(report: dict[str, Any], spine_margin_mm: float, name: str) -> str:
    """Write the chosen setting as an overlay for ``inference.yaml``."""
    after, before = report["after"], report["before"]
    lines = [
        "# Post-processing chosen on annotated scans: an overlay for inference.yaml. Chosen by:",
        f"#   {report['command']}",
        "# Run from the bundle's folder:",
        "#   python -m monai.bundle run inference "
        f"--config_file \"['configs/inference.yaml','{name}']\" --dataset_dir /data/scans",
        "# Measured on these scans themselves, so on the hopeful side:",
        *(
            f"# - {its['dataset_dir']} ({its['section']}): {its['scans']} scans, {its['scans_without_fractures']}"
            f" of them without a fracture, {its['fractures']} fractures in the others: average recall"
            f" {new['average_recall']:.3f}, before {old['average_recall']:.3f}; of those written, recall"
            f" {new['recall_at_min_score']:.3f} at {new['false_candidates_per_scan_at_min_score']:.1f} false a scan"
            for its, new, old in zip(report["sets"], after["sets"], before["sets"])
        ),
        *(f"# {note}" for note in report["notes"]),
        "",
        "# ---- settings ----",
        f"probability_threshold: {after['probability_threshold']}",
        f"faint_threshold: {after['faint_threshold']}",
        f"split_distance_mm: {after['split_distance_mm']}",
        f"peak_share: {after['peak_share']}",
        f"min_volume_mm3: {after['min_volume_mm3']}",
        f"min_mean_probability: {after['min_mean_probability']}",
        f"score: {after['score']}",
        f"score_slope: {after['slope']}  # of the score's logit",
        f"score_intercept: {after['intercept']}  # of the score's logit",
        f"min_score: {after['min_score']}  # candidates below are not written",
        f"spine_margin_mm: {spine_margin_mm}",
    ]
    return "\n".join(lines) + "\n"


def _notes(
    sets: Sequence[Sequence[ScanTable]], best: Outcome, min_score: float | None, max_candidates_per_scan: float
) -> list[str]:
    """Say what the reader of the result must know."""
    notes = []
    if min_score is None:
        notes.append(f"No score stays within {max_candidates_per_scan:g} false candidates per scan.")
    if any(all(table.fractures for table in tables) for tables in sets):
        notes.append("Where no scan is without fractures, false candidates are those that hit none, per scan.")
    _, is_hit = _samples([scan_result(table, best.setting) for table in chain.from_iterable(sets)])
    if min(is_hit.sum(), (~is_hit).sum()) < MIN_SAMPLES:
        notes.append(
            f"Scores stay as they are: {is_hit.sum()} hits and {(~is_hit).sum()} misses are too few to calibrate them,"
            f" {MIN_SAMPLES} of each are needed."
        )
    elif (best.slope, best.intercept) == (1, 0):
        notes.append("Scores stay as they are: calibrated ones would cost too much of the average recall.")
    return notes


def tune(options: argparse.Namespace, command: str) -> str:
    """
    Choose the post-processing as the command line asks for, and write it to ``options.output`` and, as JSON, beside it.

    Args:
        options: the command line's options.
        command: the command, for the record.

    Returns:
        the table of the best settings and the notes, for the terminal.

    Raises:
        FileNotFoundError: when a folder, a map of probabilities or a config is missing.
        ValueError: when files or settings do not fit each other.
    """
    maps, datasets = len(options.probabilities_dir), len(options.dataset_dir)
    if maps != datasets:
        raise ValueError(
            f"--probabilities_dir names {maps} folders, --dataset_dir {datasets}: name one data set for each folder of"
            " maps, in the same order."
        )
    present = _read_config(options.config_file)
    margin_mm = present.spine_margin_mm if options.spine_margin_mm is None else options.spine_margin_mm
    settings = grid_of_settings(
        options.probability_thresholds, options.split_distances_mm, options.peak_shares, options.faint_thresholds
    )
    axcodes = options.assumed_orientation or present.assumed_orientation
    scans = [
        list_scans(*pair, options.section, axcodes) for pair in zip(options.probabilities_dir, options.dataset_dir)
    ]
    sets = measure_sets(scans, [*settings, present.setting], present.hu_range, margin_mm, options.workers, axcodes)

    before = outcome_of(sets, present.setting, present.line)
    outcomes = [outcome_of(sets, setting) for setting in tqdm(settings, desc="try settings", unit="setting")]
    best = ranked(outcomes)
    min_score = operating_score(sets, best[0], options.max_candidates_per_scan, options.least_score)
    report = {
        "command": command,
        "max_candidates_per_scan": options.max_candidates_per_scan,
        "spine_margin_mm": margin_mm,
        "notes": _notes(sets, best[0], min_score, options.max_candidates_per_scan),
        "sets": [
            {
                "probabilities_dir": probabilities_dir,
                "dataset_dir": dataset_dir,
                "section": options.section,
                "scans": len(tables),
                "fractures": sum(table.fractures for table in tables),
                "scans_without_fractures": sum(table.fractures == 0 for table in tables),
            }
            for probabilities_dir, dataset_dir, tables in zip(options.probabilities_dir, options.dataset_dir, sets)
        ],
        "before": _figures(sets, before, present.min_score),
        "after": _figures(sets, best[0], HIGHEST_SCORE if min_score is None else min_score),
        "best": [_row(outcome) for outcome in best[:ROWS_SHOWN]],
    }
    output = Path(options.output)
    write_json(output.with_suffix(".json"), report, indent=2)
    write_text(output, _overlay(report, margin_mm, output.name))
    rows = [("before", before), *((str(place), outcome) for place, outcome in enumerate(best[:ROWS_SHOWN], start=1))]
    return "\n".join([_table(rows), *report["notes"], f"{output} and {output.with_suffix('.json')} written."])


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Choose the post-processing from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts tune",
        description="Choose the post-processing on annotated scans, and calibrate the scores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--probabilities_dir", nargs="+", required=True, help="folders of maps that --save_probabilities true wrote")
    add("--dataset_dir", nargs="+", required=True, help="the data sets that were predicted, in the same order")
    add("--section", default="validation", help="training, validation, test or all")
    add("--output", default="tuned.yaml", help="overlay to write; its figures go beside it, as .json")
    add("--config_file", nargs="+", default=[str(INFERENCE_CONFIG)], help="config of the prediction, and its overlays")
    add("--max_candidates_per_scan", type=float, default=2.0, help="most of those written, on average")
    add("--least_score", type=float, default=LIKELY, help="least min_score to choose, where scores are calibrated")
    add("--probability_thresholds", nargs="+", type=float, default=THRESHOLDS, help="thresholds to try")
    add("--split_distances_mm", nargs="+", type=float, default=SPLIT_DISTANCES_MM, help="distances to try; 0: no split")
    add("--peak_shares", nargs="+", type=float, default=PEAK_SHARES, help="shares to try; 0 parts nothing")
    add("--faint_thresholds", nargs="+", type=float, default=FAINT_THRESHOLDS, help="to try below; 0 adds nothing")
    add("--spine_margin_mm", type=float, help="margin around the spine; by default the config's")
    add("--assumed_orientation", help="of a file that tells none, such as LPS; by default the config's")
    add("--workers", type=int, default=1, help="scans to measure at the same time")
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts", "tune", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        print(tune(options, command))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
