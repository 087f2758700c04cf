"""
Choose the post-processing for a network's probabilities on annotated scans, and calibrate its scores.

    python -m scripts tune --probabilities_dir output/evaluation/probabilities --dataset_dir /data/ribfrac \\
      --output tuned.yaml

Every setting that is tried makes candidates by the transforms of a prediction, and is scored by the challenge's rule.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged
from scipy import ndimage
from tqdm import tqdm

from scripts.anatomy.components import connected_components, packed_components
from scripts.commands._parsers import CHOICES, parser_of
from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import CHALLENGE_THRESHOLDS
from scripts.files.atomic_write import write_json, write_text
from scripts.images.grids import grid_difference
from scripts.images.image_reader import CTReader
from scripts.metrics.calibration import MIN_SAMPLES
from scripts.metrics.froc import ScanResult, detection_scores, score_scan
from scripts.metrics.tuning import (
    Outcome,
    ScanSets,
    Setting,
    calibrated_sets,
    coordinate_search,
    false_candidates,
    operating_score,
    outcome_of,
    ranked,
    scores_and_hits,
)
from scripts.transforms.candidates import LOCAL_MEAN_MM, FindCandidatesd
from scripts.transforms.labels import CheckLabeld

__all__ = ["list_scans", "main", "prepare_scan", "prepared_scan_result", "tune"]

MOST_SETTINGS = 300  # that are tried
FEW_FRACTURES = 30  # of which the recall has a standard error of up to 0.09
HIGHEST_SCORE = round(float(CHALLENGE_THRESHOLDS[-1]), 2)
ROWS_SHOWN = 10
_ROUNDING = 1e-4  # of a map that was resampled to the scan's own grid


def list_scans(
    probabilities_dir: str | Path, dataset_dir: str | Path, section: str, assumed_orientation: str | None = None
) -> list[dict[str, Any]]:
    """
    List the annotated scans of one section, each with its map of probabilities.

    Args:
        probabilities_dir: folder of ``NAME.nii.gz``, as ``outputs#probabilities`` writes it.
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
                f"{path} is missing: predict {dataset_dir}, section {section}, with --outputs#probabilities true first."
            )
        item["pred"] = str(path)
    return items


class _Present(NamedTuple):
    """What a config says: its group ``candidates``, and how its scans are read."""

    candidates: dict[str, Any]
    hu_range: tuple[float, float]
    assumed_orientation: str | None

    @property
    def setting(self) -> Setting:
        return Setting(**{field.name: self.candidates[field.name] for field in fields(Setting)})


def _read_config(files: Sequence[str]) -> _Present:
    """Read the settings of a prediction."""
    try:
        config = ConfigParser(ConfigParser.load_config_files(list(files)))
        present = _Present(*(config.get_parsed_content(name) for name in _Present._fields))
        present.candidates["postprocess"] = True
        FindCandidatesd("pred", present.candidates, present.hu_range)  # raises where a value is missing or wrong
        return present
    except KeyError as error:
        raise ValueError(f"{', '.join(files)}: {error}; name inference.yaml first, then its overlays.") from error


def _plain_setting(values: Mapping[str, Sequence[Any]]) -> Setting:
    """Return the setting of the middle threshold, and of the first, plainest of all other values."""
    thresholds = values["threshold"]
    return Setting(
        **{name: tried[0] for name, tried in values.items()} | {"threshold": thresholds[len(thresholds) // 2]}
    )


def prepare_scan(
    item: Mapping[str, Any],
    path: Path,
    candidates: Mapping[str, Any],
    hu_range: tuple[float, float],
    lowest: float,
    assumed_orientation: str | None = None,
) -> None:
    """
    Read one scan, remove its spine, and save what candidates are made of: a few percent of it.

    Voxels that can be in a candidate, with as much around them as a local mean takes in, and those of fractures form
    connected components. Nothing that makes candidates or matches them reaches from one to another, so these are moved
    close together: a scan that is a tenth as large is scored ten times as fast.

    Args:
        item: paths of the ``image``, of its ``label`` and of its map of probabilities ``pred``, with the spine left
            in, all on one grid, and ``label_codes`` where there is a table.
        path: the file to write, ``.npz``.
        candidates: the config's group, whose spine margin counts.
        hu_range: HU that become -1 and 1, as in the prediction.
        lowest: no candidate that will be made has voxels at or below it.
        assumed_orientation: of a file that tells none, as in the prediction.

    Raises:
        ValueError: when the map is not on the label's grid, or holds other values than probabilities.
    """
    keys = ("image", "label", "pred")
    # one after another: Compose would hide the message of an error
    reader = CTReader(assumed_orientation)
    data: Mapping[Any, Any] = LoadImaged(keys, reader, image_only=True)(item)  # type: ignore[arg-type]
    data = CheckLabeld("label")(EnsureChannelFirstd(keys)(data))
    own_affine = data["label"].affine.numpy()
    pred, label = data["pred"], data["label"]
    if difference := grid_difference(pred.shape[1:], pred.affine, label.shape[1:], own_affine):
        raise ValueError(f"{item['pred']} is not on the grid of {item['label']}, {difference}: predict it again.")
    if not (pred.min() >= -_ROUNDING and pred.max() <= 1 + _ROUNDING):
        raise ValueError(f"{item['pred']} holds values outside [0, 1]: a map of probabilities is needed.")
    data["pred"] = pred.clamp(0, 1)
    data = Orientationd(keys, axcodes="RAS", labels=None)(data)
    data = ScaleIntensityRanged("image", hu_range[0], hu_range[1], -1.0, 1.0, clip=True)(data)
    data = FindCandidatesd("pred", candidates, hu_range).remove_spine(data)

    probability, marks = data["pred"].numpy()[0], data["label"].numpy()[0]
    reach = (LOCAL_MEAN_MM / 2 / data["pred"].pixdim.numpy()).astype(int)
    is_near = ndimage.maximum_filter(probability > lowest, 2 * reach + 1)
    probability, marks = packed_components(
        connected_components(is_near | (marks > 0)), np.where(is_near, probability, 0), marks
    )
    to_own = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(own_affine))
    np.savez_compressed(
        path,
        probability=probability,
        affine=data["pred"].affine.numpy(),
        label=nib.apply_orientation(marks, to_own),
        to_own=to_own,
    )


def prepared_scan_result(path: Path, candidates: Mapping[str, Any]) -> ScanResult:
    """
    Make the candidates of a scan and match them with its fractures, on the scan's own axes.

    Args:
        path: the file that `prepare_scan` wrote.
        candidates: settings as in the config's group.

    Returns:
        what the scan adds to the score.
    """
    with np.load(path) as saved:
        scan = dict(saved)
    pred = MetaTensor(torch.from_numpy(scan["probability"])[None], affine=torch.from_numpy(scan["affine"]))
    found = FindCandidatesd("pred", candidates).find({"pred": pred})
    ids = nib.apply_orientation(found["pred"].numpy()[0], scan["to_own"])
    return score_scan(ids, scan["label"], dict(enumerate(found["label_scores"].tolist(), start=1)))


class _PreparedScans:
    """
    All scans of all sets, prepared in a folder.

    Args:
        sets: the scans of each set, as `list_scans` gives them.
        folder: where to keep them.
        present: the config.
        lowest: see `prepare_scan`.
        pool: processes to work in; this one where None.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[dict[str, Any]]],
        folder: Path,
        present: _Present,
        lowest: float,
        pool: ProcessPoolExecutor | None,
    ) -> None:
        self._map = map if pool is None else pool.map
        self._candidates = present.candidates
        self._sizes = [len(items) for items in sets]
        items = list(chain.from_iterable(sets))
        self._paths = [folder / f"{number}.npz" for number in range(len(items))]
        _, hu_range, axcodes = present
        prepare = partial(
            prepare_scan,
            candidates=present.candidates,
            hu_range=hu_range,
            lowest=lowest,
            assumed_orientation=axcodes,
        )
        list(tqdm(self._map(prepare, items, self._paths), total=len(items), desc="prepare scans", unit="scan"))

    def results(self, setting: Setting) -> ScanSets:
        """Return what a setting gives on each scan of each set, all candidates, with scores that are not calibrated."""
        changed = asdict(setting) | {"score_slope": 1.0, "score_intercept": 0.0, "min_score": 0.0}
        results = self._map(partial(prepared_scan_result, candidates=self._candidates | changed), self._paths)
        return [[next(results) for _ in range(size)] for size in self._sizes]


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Start processes to work in, or none where there is one worker."""
    if workers == 1:
        yield None
    else:
        # spawned: a fork would copy the locks of threads that torch has started
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool


def _figures(sets: ScanSets, outcome: Outcome, min_score: float) -> dict[str, Any]:
    """Describe an outcome for ``tuned.json``, also at the score from which on candidates are written."""
    details = []
    for results in calibrated_sets(sets, outcome.slope, outcome.intercept):
        scores = detection_scores(results)
        details.append(
            {name: scores[name] for name in ("average_recall", "key_recall", "max_recall")}
            | {
                "candidates_per_scan": float(np.mean([len(result.label_scores) for result in results])),
                "false_candidates_per_scan": false_candidates(results),
                "recall_at_min_score": scores["recall"][round(min_score * 100)],
                "false_candidates_per_scan_at_min_score": false_candidates(results, min_score),
            }
        )
    return _row(outcome) | {"min_score": min_score, "sets": details}


def _row(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome.setting) | {k: v for k, v in outcome._asdict().items() if k != "setting"}


def _table(rows: Sequence[tuple[str, Outcome]]) -> str:
    """Format outcomes for the terminal."""
    lines = [
        f"{'':<8}{'threshold':>10}{'low':>6}{'split mm':>9}{'peak':>6}{'mm3':>7}{'mean':>6}  {'score':<21}"
        f"{'slope':>8}{'intercept':>10}{'average':>9}{'cand.':>7}{'false':>7}"
    ]
    for name, outcome in rows:
        s = outcome.setting
        lines.append(
            f"{name:<8}{s.threshold:>10g}{s.low_threshold:>6g}{s.split_distance_mm:>9g}"
            f"{s.peak_share:>6g}{s.min_volume_mm3:>7g}"
            f"{s.min_mean_probability:>6g}  {s.score:<21}{outcome.slope:>8.3f}{outcome.intercept:>10.3f}"
            f"{outcome.average_recall:>9.3f}{outcome.candidates_per_scan:>7.1f}"
            f"{outcome.false_candidates_per_scan:>7.1f}"
        )
    return "\n".join(lines)


def _overlay(report: dict[str, Any], name: str) -> str:
    """Write the chosen setting as an overlay for ``inference.yaml``."""
    after, before = report["after"], report["before"]
    chosen = {field.name: after[field.name] for field in fields(Setting)} | {
        "postprocess": "true",
        "spine_margin_mm": report["spine_margin_mm"],
        "score_slope": after["slope"],
        "score_intercept": after["intercept"],
        "min_score": after["min_score"],
    }
    lines = [
        "# Post-processing chosen on annotated scans: an overlay for inference.yaml. Chosen by:",
        f"#   {report['command']}",
        "# Run from the bundle's folder:",
        "#   python -m monai.bundle run inference "
        f"--config_file \"['configs/inference.yaml','{name}']\" --dataset_dir /data/scans",
        f"# The best of {report['settings_tried']} settings, on these scans themselves, so on the hopeful side:",
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
        *(f"candidates::{name}: {value}" for name, value in chosen.items()),
    ]
    return "\n".join(lines) + "\n"


def _fractures(results: Sequence[ScanResult]) -> int:
    return sum(len(result.fracture_codes) for result in results)


def _notes(sets: ScanSets, best: Outcome, min_score: float | None, max_candidates_per_scan: float) -> list[str]:
    """Say what the reader of the result must know."""
    notes = []
    counts = [count for count in map(_fractures, sets) if count > 0]  # a set of scans without fractures may be one
    if (count := min(counts)) < FEW_FRACTURES:
        of_one = "is all of the recall" if count == 1 else f"is {1 / count:.2f} of the recall"
        notes.append(
            f"Too few fractures to choose by: {count} in a set, of which one {of_one}. Chance may have chosen these"
            f" settings; take at least {FEW_FRACTURES} fractures, or keep the present settings."
        )
    if min_score is None:
        notes.append(f"No score stays within {max_candidates_per_scan:g} false candidates per scan.")
    if any(all(len(result.fracture_codes) for result in results) for results in sets):
        notes.append("Where no scan is without fractures, false candidates are those that hit none, per scan.")
    _, is_hit = scores_and_hits(sets)
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
        ValueError: when files or settings do not fit each other, or no data set has a fracture.
    """
    maps, datasets = len(options.probabilities_dir), len(options.dataset_dir)
    if maps != datasets:
        raise ValueError(
            f"--probabilities_dir names {maps} folders, --dataset_dir {datasets}: name one data set for each folder of"
            " maps, in the same order."
        )
    present = _read_config(options.config_file)
    if options.spine_margin_mm is not None:
        present.candidates["spine_margin_mm"] = options.spine_margin_mm
    present = present._replace(assumed_orientation=options.assumed_orientation or present.assumed_orientation)
    scans = [
        list_scans(*pair, options.section, present.assumed_orientation)
        for pair in zip(options.probabilities_dir, options.dataset_dir)
    ]
    start, present_line = present.setting, (present.candidates["score_slope"], present.candidates["score_intercept"])
    values = {name: getattr(options, option) for option, (name, _) in CHOICES.items()}
    lowest = min(filter(None, (*values["threshold"], *values["low_threshold"], start.threshold, start.low_threshold)))

    with TemporaryDirectory() as folder, _processes(options.workers) as pool:
        prepared = _PreparedScans(scans, Path(folder), present, lowest, pool)
        if not any(map(_fractures, prepared.results(start))):
            raise ValueError(
                f"{' and '.join(options.dataset_dir)}, section {options.section}, have no fracture to choose by: name "
                "annotated scans with fractures."
            )
        with tqdm(total=MOST_SETTINGS, desc="try settings, at most", unit="setting") as progress:

            def score(setting: Setting) -> Outcome:
                progress.update()
                return outcome_of(setting, prepared.results(setting))

            outcomes = coordinate_search(score, [start, _plain_setting(values)], values, MOST_SETTINGS)
        best = ranked(outcomes)
        results_before, results = prepared.results(start), prepared.results(best[0].setting)

    before = outcome_of(start, results_before, present_line)
    min_score = operating_score(results, best[0], options.max_candidates_per_scan, options.least_score)
    report = {
        "command": command,
        "max_candidates_per_scan": options.max_candidates_per_scan,
        "spine_margin_mm": present.candidates["spine_margin_mm"],
        "settings_tried": len(outcomes),
        "notes": _notes(results, best[0], min_score, options.max_candidates_per_scan),
        "sets": [
            {
                "probabilities_dir": probabilities_dir,
                "dataset_dir": dataset_dir,
                "section": options.section,
                "scans": len(of_set),
                "fractures": _fractures(of_set),
                "scans_without_fractures": sum(len(result.fracture_codes) == 0 for result in of_set),
            }
            for probabilities_dir, dataset_dir, of_set in zip(options.probabilities_dir, options.dataset_dir, results)
        ],
        "before": _figures(results_before, before, present.candidates["min_score"]),
        "after": _figures(results, best[0], HIGHEST_SCORE if min_score is None else min_score),
        "best": [_row(outcome) for outcome in best[:ROWS_SHOWN]],
    }
    output = Path(options.output)
    write_json(output.with_suffix(".json"), report, indent=2)
    write_text(output, _overlay(report, output.name))
    rows = [("before", before), *((str(place), outcome) for place, outcome in enumerate(best[:ROWS_SHOWN], start=1))]
    return "\n".join([_table(rows), *report["notes"], f"{output} and {output.with_suffix('.json')} written."])


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Choose the post-processing from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("tune")
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts", "tune", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        print(tune(options, command))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
