"""Training and predicting a recipe, each step as its own run of the bundle, and each skipped where it is done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from benchmarks.detection.data import RECORD_NAME, TEST_SETS, TRAINING_LIST, VALIDATION_SETS
from benchmarks.detection.findings import FINDINGS_PATH, Finding, finding_at, findings_of, read_findings
from benchmarks.detection.measure import measure_set
from benchmarks.detection.recipes import BUNDLE_DIR, SHIPPED_WEIGHTS, Recipe, find_recipe, write_overlay
from scripts.commands.mine import mine
from scripts.data.datalist import load_datalist
from scripts.engines import default_device, has_fast_bfloat16
from scripts.files.atomic_write import write_json

__all__ = ["FIGURES_NAME", "RUN_NAME", "WORKERS", "epochs_for", "predict", "rois_in_all", "seconds_in_all", "train"]

RUN_NAME = "run.json"  # what a training took
PREDICTION_NAME = "predicted_by.json"  # what a set was predicted by
FIGURES_NAME = "figures.json"  # what a set's prediction is worth; written last
# The same for all recipes but those that change them: the speed, not what a training learns from an ROI.
TRAINING_SETTINGS = {"amp": has_fast_bfloat16(default_device())}
WORKERS = 2  # processes that load the ROIs of a training; more where a GPU waits for them
# OpenVINO is the fastest engine of a CPU, and finds the same as torch
PREDICTION_SETTINGS = {
    "amp": "auto",
    "engine": "openvino" if default_device().type == "cpu" else "torch",
    "num_workers": 1,
    "outputs::pictures": False,
    "outputs::review_page": False,
}
# The real training scans as they are, in a third of the windows. What is nearly a candidate counts too
MINING_SETTINGS = {
    **PREDICTION_SETTINGS,
    "section": "training",
    "windows::overlap": 0.25,
    "large_windows::roi_size": None,
    "rib_weight": 0.0,  # what the windows' network says alone is wrong is what it learns from
    "candidates::threshold": 0.2,
    "candidates::min_volume_mm3": 1200.0,
    "candidates::min_mean_probability": 0.0,
    "candidates::peak_share": 0.3,
    "candidates::min_score": 0.0,
}
# Of the values that tune tries by default those that were chosen for one recipe or another, or lie between them
TUNING_ARGUMENTS = (
    *("--thresholds", "0.05", "0.1", "0.2", "0.3", "0.5", "0.7"),
    *("--peak_shares", "0.0", "0.8", "--split_distances_mm", "0"),
)
# What the windows' probabilities depend on, beside the scan and the weights
_OF_WINDOWS = ("windows", "large_windows", "bone", "hu_range", "flips", "engine", "amp")
_SECONDS_BETWEEN_NOTES = 20.0  # a killed run loses no more of its time than this


def epochs_for(rois: int, scans: int, rois_per_scan: int) -> int:
    """Return how many epochs show a network about so many ROIs: the nearest whole number, at least 1."""
    return max(1, round(rois / (scans * rois_per_scan)))


def rois_in_all(record: Mapping[str, Any]) -> int:
    """Return how many ROIs the weights of a training have seen, with those of what it went on from."""
    return record["rois"] + record.get("rois_before", 0)


def seconds_in_all(record: Mapping[str, Any]) -> float:
    """Return how long a training took, with its mining and what it went on from."""
    return sum(record.get(part, 0.0) for part in ("seconds_before", "seconds_mining", "seconds"))


def train(
    data_dir: Path,
    name: str,
    output_dir: Path,
    rois: int | None = None,
    threads: int | None = None,
    workers: int = WORKERS,
) -> Path:
    """
    Train a recipe on the benchmark's training scans; go on where an earlier call was stopped.

    There is no early stop, so that all recipes see as many ROIs.

    Args:
        data_dir: the benchmark's data.
        name: the recipe; one that only changes the prediction has no training, that of its base is run.
        output_dir: folder of all results; the training lies in a folder named after the recipe.
        rois: ROIs to show to the network, as nearly as whole epochs can; the recipe's own number when None.
        threads: threads to compute with; likewise.
        workers: processes that load ROIs.

    Returns:
        The weights to predict with.

    Raises:
        FileNotFoundError: when the data are missing, or the weights that it goes on from.
        ValueError: when the recipe is unknown, its training was begun with another number of epochs, or it fails.
    """
    recipe = find_recipe(find_recipe(name).trained_as)
    if recipe.shipped or recipe.given:
        raise ValueError(f"'{name}' has weights that are given: nothing is to be trained, run the command 'predict'.")
    data_list = data_dir / TRAINING_LIST
    if not data_list.is_file():
        raise FileNotFoundError(f"{data_list} does not exist: make the data first, by the command 'data'.")
    folder = output_dir / recipe.name
    weights = folder / "models" / recipe.weights
    record_path = folder / RUN_NAME
    record = _read_record(record_path)
    scans = len(load_datalist(data_list, "training"))
    rois_per_scan = int(_value(recipe.per_scan, recipe.train_configs, recipe.train_settings))
    epochs = epochs_for(rois or recipe.rois, scans, rois_per_scan)
    if record.get("epochs", epochs) != epochs:
        raise ValueError(
            f"{record_path}: '{recipe.name}' was trained for {record['epochs']} epochs, now {epochs} are asked for: "
            f"give {record['rois']} ROIs again, or another output_dir."
        )
    if record.get("finished"):
        return weights
    threads = threads or recipe.threads
    record |= {"recipe": recipe.name, "says": recipe.says, "scans": scans, "rois_per_scan": rois_per_scan}
    record |= {"epochs": epochs, "rois": epochs * scans * rois_per_scan, "threads": threads, "finished": False}
    record |= {"commit": _commit()}
    settings: dict[str, Any] = {
        "num_workers": workers,
        "dataset_dir": str(data_list.resolve()),
        "cache_dir": str((data_dir / "cache").resolve()),
        "output_dir": str(folder.resolve()),
        "max_epochs": epochs,
        "patience_epochs": epochs,
        "compile": recipe.compiled,
        "resume": True,
    }
    if recipe.goes_on_from is not None:
        before, pretrained = _trained(recipe.goes_on_from, output_dir)
        record |= {"goes_on_from": recipe.goes_on_from, "rois_before": rois_in_all(before)}
        record |= {"seconds_before": seconds_in_all(before)}
        settings |= {"pretrained": str(pretrained.resolve())}
    if recipe.mines:
        hard_examples, seconds_mining = _mine(recipe, data_dir, pretrained, folder, threads)
        record |= {"seconds_mining": record.get("seconds_mining", seconds_mining)}
        settings |= {"hard_examples::file": str(hard_examples.resolve())}
    settings = {**TRAINING_SETTINGS, **recipe.train_settings, **settings}
    overlay = write_overlay(settings, folder / "train_overlay.yaml")
    seconds_before = record.get("seconds", 0.0)

    def note(seconds: float) -> None:
        write_json(record_path, {**record, "seconds": seconds_before + seconds})

    seconds = _run_bundle("training", [*recipe.train_configs, overlay], threads, folder / "training.log", note)
    write_json(record_path, {**record, "seconds": seconds_before + seconds, "finished": True})
    return weights


def predict(
    data_dir: Path, name: str, output_dir: Path, sets: Sequence[str] | None = None, threads: int | None = None
) -> None:
    """
    Predict sets with a recipe and measure what it found; what is done by the same settings and weights is skipped.

    Where the real findings have changed since, a prediction is measured again.

    Args:
        data_dir: the benchmark's data.
        name: the recipe; its training must be finished.
        output_dir: folder of all results; a set lies in the recipe's folder.
        sets: names of sets; all test sets that there are when None.
        threads: threads to compute with; the recipe's own number when None.

    Raises:
        FileNotFoundError: when the weights or a set's list are missing.
        ValueError: when the recipe or a set is unknown, or a prediction fails.
    """
    recipe = find_recipe(name)
    weights = SHIPPED_WEIGHTS
    if not recipe.shipped:
        weights = _trained(recipe.trained_as, output_dir)[1]
    if recipe.tuned_on is not None:
        tuned = _tune(data_dir, recipe.tuned_on, output_dir, output_dir / recipe.name, threads)
        recipe = replace(recipe, inference_configs=(*recipe.inference_configs, tuned))
    known = {**TEST_SETS, **VALIDATION_SETS}
    for set_name in sets or [test for test in TEST_SETS if (data_dir / f"{test}.json").is_file()]:
        if set_name not in known:
            raise ValueError(f"there is no set '{set_name}': choose from {', '.join(known)}.")
        data_list, folder = data_dir / f"{set_name}.json", output_dir / recipe.name / set_name
        if not data_list.is_file():
            raise FileNotFoundError(f"{data_list} does not exist: make the data first, by the command 'data'.")
        made_by, measured_by = _made_by(recipe, weights), hashlib.sha256(FINDINGS_PATH.read_bytes()).hexdigest()
        if _read_record(folder / PREDICTION_NAME) != made_by:
            shutil.rmtree(folder, ignore_errors=True)  # what other settings or a stopped run left
            _predict_set(recipe, data_list, known[set_name], weights, folder, threads or recipe.threads)
            write_json(folder / PREDICTION_NAME, made_by)
        if _read_record(folder / FIGURES_NAME).get("measured_by") != measured_by:
            body_of = _read_record(data_dir / RECORD_NAME).get("body_of", {})
            findings = {scan: findings_of(scan, body_of, read_findings()) for scan in body_of}
            figures = measure_set(data_list, folder, known[set_name], findings)
            figures["measured_by"] = measured_by
            figures["min_score"] = float(
                _value("candidates::min_score", recipe.inference_configs, recipe.inference_settings)
            )
            write_json(folder / FIGURES_NAME, figures)


def _predict_set(recipe: Recipe, data_list: Path, annotated: bool, weights: Path, folder: Path, threads: int) -> None:
    """Predict one set."""
    first, *overlays = recipe.inference_configs
    settings = {
        "outputs::probabilities": data_list.stem in VALIDATION_SETS,  # to tune on
        "outputs::min_score": 0.0,
        "dataset_dir": str(data_list.resolve()),
        "section": "test",
        "output_dir": str(folder.resolve()),
        "checkpoint": str(weights.resolve()),
    }
    settings = {**PREDICTION_SETTINGS, **recipe.inference_settings, **settings}
    inferer = _raw("inferer", recipe.inference_configs, settings)
    made_with = {name: _value(name, recipe.inference_configs, settings) for name in _OF_WINDOWS}
    settings["inferer"] = {
        "_target_": "benchmarks.detection.cached_inferer.CachedInferer",
        "inferer": inferer,
        "cache_dir": str((folder.parents[1] / "windows").resolve()),
        "settings": json.dumps(made_with, default=str),
    }
    overlay = write_overlay(settings, folder / "inference_overlay.yaml")
    evaluate = [first.with_name("evaluate.yaml")] if annotated else []
    run_id = "evaluating" if annotated else "inference"
    configs = [first, *evaluate, *overlays, overlay]
    _run_bundle(run_id, configs, threads, folder / "prediction.log")


def _tune(data_dir: Path, name: str, output_dir: Path, folder: Path, threads: int | None) -> Path:
    """Choose the post-processing on a recipe's prediction of the validation sets; return the overlay that sets it."""
    sets = [test for test in VALIDATION_SETS if (data_dir / f"{test}.json").is_file()]
    predict(data_dir, name, output_dir, sets, threads)
    predicted = [output_dir / name / test for test in sets]
    overlay, record_path = folder / "tuned.yaml", folder / "tuned_on.json"
    made_by = [_read_record(path / PREDICTION_NAME) for path in predicted]
    if _read_record(record_path).get("made_by") != made_by:
        recipe = find_recipe(name)
        settings = write_overlay(recipe.inference_settings, folder / "untuned_overlay.yaml")
        arguments = ["--section", "test", "--output", overlay, "--workers", "2", *TUNING_ARGUMENTS]
        arguments += ["--probabilities_dir", *(path / "probabilities" for path in predicted)]
        arguments += ["--dataset_dir", *(data_dir / f"{test}.json" for test in sets)]
        arguments += ["--config_file", *recipe.inference_configs, settings]
        _run(["-m", "scripts", "tune", *map(_absolute, arguments)], threads or recipe.threads, folder / "tuning.log")
        write_json(record_path, {"made_by": made_by})
    return overlay


def _absolute(argument: str | Path) -> str:
    return str(argument.resolve() if isinstance(argument, Path) else argument)


def _mine(recipe: Recipe, data_dir: Path, weights: Path, folder: Path, threads: int) -> tuple[Path, float]:
    """
    Predict the real training scans as they are with the weights so far, unless that is done.

    Returns:
        The hard examples and the seconds it took. What is marked falsely in a body counts for all of its scans. A place
        that was read as a fracture, or a doubtful one, does not count.
    """
    start = time.monotonic()
    hard_examples, predictions = folder / "hard_examples.json", folder / "mining"
    if not hard_examples.is_file():
        shutil.rmtree(predictions, ignore_errors=True)  # what a stopped run left
        items = load_datalist(data_dir / TRAINING_LIST, "training")
        record = _read_record(data_dir / RECORD_NAME)
        body_of = record["body_of"]
        as_is = [item for item in items if item["scan"] in record["as_is"]]
        known, false_mm = read_findings(), {}
        if as_is:
            write_json(folder / "mining.json", {"training": as_is})
            settings = {
                **MINING_SETTINGS,
                "dataset_dir": str((folder / "mining.json").resolve()),
                "output_dir": str(predictions.resolve()),
                "checkpoint": str(weights.resolve()),
            }
            overlay = write_overlay({**recipe.inference_settings, **settings}, folder / "mining_overlay.yaml")
            configs = [*recipe.inference_configs, overlay]
            _run_bundle("inference", configs, threads, folder / "mining.log")
            places = mine(predictions / "predictions", folder / "mining.json")
            for scan, of_scan in places.items():
                findings = findings_of(scan, body_of, known)
                false_mm[body_of[scan]] = [place for place in of_scan["false_mm"] if not _is_ignored(place, findings)]
        scans = [item["scan"] for item in items]
        write_json(
            hard_examples, {scan: {"false_mm": false_mm.get(body_of.get(scan, ""), []), "missed": []} for scan in scans}
        )
    return hard_examples, time.monotonic() - start


def _is_ignored(place_mm: Sequence[float], findings: Sequence[Finding]) -> bool:
    """Whether a place in RAS mm lies at what was read as a fracture, or a doubtful one."""
    finding = finding_at((-place_mm[0], -place_mm[1], place_mm[2]), findings)
    return finding is not None and finding.is_ignored


def _trained(name: str, output_dir: Path) -> tuple[dict[str, Any], Path]:
    """Return what a finished training took, and its weights; of weights that are given, that they took nothing."""
    recipe = find_recipe(name)
    weights = output_dir / recipe.name / "models" / recipe.weights
    if recipe.given:
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} does not exist: put the weights of {recipe.name} there.")
        return {"rois": 0, "seconds": 0.0}, weights
    record = _read_record(output_dir / name / RUN_NAME)
    if not record.get("finished"):
        raise FileNotFoundError(f"{output_dir / name} has no weights yet: run the command 'train' with '{name}'.")
    return record, weights


def _made_by(recipe: Recipe, weights: Path) -> dict[str, str]:
    """Tell what a prediction depends on: the recipe's configs and settings, and the weights."""
    texts = [path.read_text(encoding="utf-8") for path in recipe.inference_configs]
    settings = json.dumps([texts, dict(recipe.inference_settings)])
    return {
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def _value(name: str, configs: Sequence[Path], settings: Mapping[str, Any]) -> Any:
    """Return the value of a setting of configs in which others are set."""
    parser = ConfigParser()
    parser.read_config([str(config) for config in configs])
    parser.update(dict(settings))
    return parser.get_parsed_content(name)


def _raw(name: str, configs: Sequence[Path], settings: Mapping[str, Any]) -> Any:
    """Return a part of configs in which others are set, as it is written."""
    parser = ConfigParser()
    parser.read_config([str(config) for config in configs])
    parser.update(dict(settings))
    return parser[name]


def _run_bundle(
    run_id: str, configs: Sequence[Path], threads: int, log: Path, note: Callable[[float], None] = lambda seconds: None
) -> float:
    """
    Run the bundle in a process of its own, see `_run`.

    Args:
        run_id: ``training``, ``evaluating`` or ``inference``.
        configs: config and overlays, in their order.
    """
    files = str([str(config.resolve()) for config in configs])
    return _run(["-m", "monai.bundle", "run", run_id, "--config_file", files], threads, log, note)


def _run(
    arguments: Sequence[str], threads: int, log: Path, note: Callable[[float], None] = lambda seconds: None
) -> float:
    """
    Run Python in the bundle's folder, in a process of its own.

    Args:
        arguments: of the interpreter.
        threads: threads to compute with.
        log: file that the run's output is appended to.
        note: called now and then with the seconds so far.

    Returns:
        Seconds that the run took.

    Raises:
        ValueError: when the run fails.
    """
    command = [sys.executable, *arguments]
    paths = [str(BUNDLE_DIR.parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # of what an overlay names
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    start = time.monotonic()
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=BUNDLE_DIR, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                try:
                    process.wait(_SECONDS_BETWEEN_NOTES)
                except subprocess.TimeoutExpired:
                    note(time.monotonic() - start)
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
    seconds = time.monotonic() - start
    if process.returncode:
        raise ValueError(f"{log}: the run of '{' '.join(arguments[1:4])}' failed, see the end of that file.")
    return seconds


def _commit() -> str | None:
    """Name the state of the code; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, cwd=BUNDLE_DIR, capture_output=True, text=True).stdout.strip() or None


def _read_record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
