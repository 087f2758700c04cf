"""Tests of scripts/commands/tune.py: choice and calibration counted on paper, and the command from files to files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, SPACING_MM, lps_affine, write_scan
from monai.bundle import ConfigParser

from scripts.commands._setting_tables import Setting, scan_table
from scripts.commands.tune import (
    Outcome,
    fit_calibration,
    grid_of_settings,
    list_scans,
    main,
    operating_score,
    outcome_of,
    ranked,
)
from scripts.transforms.candidates import CalibrateScoresd, CandidateScore

SETTING = Setting(0.5, 0.0, 0.0, 0.0, 0.0, CandidateScore.MEAN)


def outcome(average_recall: float, candidates: float, false: float = 0.0) -> Outcome:
    return Outcome(SETTING, 1.0, 0.0, average_recall, candidates, false)


@pytest.mark.parametrize(
    "outcomes, first",
    [
        pytest.param([outcome(0.6, 9), outcome(0.7, 9)], 1, id="the highest recall"),
        pytest.param([outcome(0.7, 9), outcome(0.7, 8)], 1, id="a tie: fewer candidates"),
        pytest.param([outcome(0.7004, 9), outcome(0.7001, 8)], 1, id="a tie to three digits"),
        pytest.param([outcome(0.7014, 9), outcome(0.7001, 8)], 0, id="no tie to three digits"),
    ],
)
def test_the_best_setting(outcomes: list[Outcome], first: int) -> None:
    assert ranked(outcomes)[0] is outcomes[first]


def test_the_grid_names_no_mean_that_drops_nothing() -> None:
    settings = grid_of_settings([0.9, 0.3], [0.0, 12.0])
    assert len(settings) == len(set(settings))
    means = {(s.probability_threshold, s.min_mean_probability) for s in settings if not s.faint_threshold}
    assert {mean for threshold, mean in means if threshold == 0.9} == {0.0, 0.93, 0.95, 0.97, 0.98, 0.99}
    assert (0.3, 0.4) in means and (0.3, 0.3) not in means
    assert any(s.min_mean_probability == 0.4 for s in settings if s.probability_threshold == 0.9), "0.4 is above 0.2"
    assert not any(s.faint_threshold for s in grid_of_settings([0.2], [0.0])), "none below 0.2"
    shares = {(s.probability_threshold, s.peak_share) for s in settings}
    assert shares == {(0.9, 0.0), (0.3, 0.0), (0.3, 0.5), (0.3, 0.8)}
    assert {(s.probability_threshold, s.faint_threshold) for s in settings} == {
        (0.9, 0.0),
        (0.9, 0.2),
        (0.3, 0.0),
        (0.3, 0.2),
    }
    assert {s.split_distance_mm for s in settings} == {0.0, 12.0} and {s.score for s in settings} == {*CandidateScore}


def test_calibrated_scores_are_the_shares_of_hits() -> None:
    # of 40 candidates with the score 0.9, 30 are hits; of 40 with 0.6, 10 are
    scores = np.repeat([0.9, 0.6], 40)
    is_hit = np.tile(np.arange(40), 2) < np.repeat([30, 10], 40)
    slope, intercept = fit_calibration(scores, is_hit)
    calibrated = CalibrateScoresd("s", slope, intercept)({"s": torch.tensor([0.9, 0.6])})["s"]
    assert calibrated.tolist() == pytest.approx([3 / 4, 1 / 4], abs=2e-3)


@pytest.mark.parametrize(
    "hits, misses", [pytest.param(9, 50, id="nine hits"), pytest.param(50, 9, id="nine misses"), (0, 0)]
)
def test_too_few_candidates_are_not_calibrated(hits: int, misses: int) -> None:
    assert fit_calibration(np.full(hits + misses, 0.5), np.arange(hits + misses) < hits) is None


@pytest.mark.parametrize(
    "hit_score, miss_score",
    [
        pytest.param(0.2, 0.9, id="misses score higher"),
        pytest.param(0.9, 0.2, id="scores that part them wholly"),
        pytest.param(1.0, 0.0, id="scores of 0 and 1"),
    ],
)
def test_the_slope_is_positive_and_finite(hit_score: float, miss_score: float) -> None:
    is_hit = np.arange(40) < 20
    slope, intercept = fit_calibration(np.where(is_hit, hit_score, miss_score), is_hit)
    assert 0 < slope < 20 and abs(intercept) < 20


def row_of_candidates(probabilities: list[float], fractures: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Single voxels of these probabilities with one between, and which of them (by index) are fractures."""
    volume = np.zeros((2 * len(probabilities), 1, 1), np.float32)
    volume[::2, 0, 0] = probabilities
    label = np.zeros(volume.shape, int)
    label[2 * np.array(fractures, int), 0, 0] = np.arange(1, len(fractures) + 1)
    return volume, label


def tables_of(*scans: tuple[list[float], list[int]]) -> list:
    return [scan_table(*row_of_candidates(*scan), lps_affine(), [SETTING]) for scan in scans]


def test_an_outcome_counted_by_hand() -> None:
    # one hit at 0.9 and a false one at 0.8, and a scan without a fracture that has 3 candidates
    tables = tables_of(([0.9, 0.8], [0]), ([0.7, 0.7, 0.7], []))
    result = outcome_of([tables], SETTING)
    # recall is 1 from 0 false positives on
    assert result == Outcome(SETTING, 1.0, 0.0, pytest.approx(1.0), 2.5, 3.0)


def test_sets_count_alike_and_the_worst_ones_false_candidates_count() -> None:
    found, missed = tables_of(([0.9], [0]), ([0.9], [])), tables_of(([0.4], [0]), ([0.4], []), ([0.4], []))
    result = outcome_of([found, missed], SETTING)
    assert result.average_recall == pytest.approx(1 / 2)
    assert result.candidates_per_scan == 2 / 5 and result.false_candidates_per_scan == 1.0


def test_where_all_scans_have_fractures_candidates_that_hit_none_are_false() -> None:
    tables = tables_of(([0.9, 0.8, 0.7], [1]), ([0.9], [0]))
    assert outcome_of([tables], SETTING).false_candidates_per_scan == 2 / 2


@pytest.mark.parametrize(
    "most, score",
    [
        pytest.param(3.0, 0.0, id="all"),
        pytest.param(2.0, 0.61, id="the least score above the third one"),
        pytest.param(0.0, 0.83, id="none"),
        pytest.param(-1.0, None, id="cannot be"),
    ],
)
def test_the_score_from_which_on_candidates_are_written(most: float, score: float | None) -> None:
    # 3 false candidates in the scan without a fracture; those of the other do not count
    tables = tables_of(([0.9, 0.8], [0]), ([0.605, 0.705, 0.825], []))
    plain = outcome_of([tables], SETTING, (1.0, 0.0))
    assert operating_score([tables], plain, most) == score


def test_what_is_less_likely_a_fracture_than_not_is_not_written_where_scores_are_calibrated() -> None:
    tables = tables_of(([0.9, 0.8], [0]), ([0.605], []))
    calibrated = outcome_of([tables], SETTING, (2.0, 0.0))
    assert operating_score([tables], calibrated, 2.0) == 0.5 and operating_score([tables], calibrated, 2.0, 0.3) == 0.3
    assert operating_score([tables], calibrated, 0.0) > 0.6


# Ten hits of scores in one step of 0.01, and ten misses below them in the same step, in one scan.
CROWDED = [0.9991 + 0.00004 * i for i in range(20)], list(range(10, 20))


def test_crowded_scores_are_spread() -> None:
    tables = tables_of(CROWDED, ([0.1], []))
    plain, fitted = outcome_of([tables], SETTING, (1.0, 0.0)), outcome_of([tables], SETTING)
    # all 20 pass every threshold up to 0.99: the curve is one point, 10 false positives in 2 scans, right of 4
    assert plain.average_recall == pytest.approx(1 / 5)
    assert fitted.slope != 1 and fitted.average_recall > 0.8


def test_a_calibration_that_would_lower_the_recall_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # most misses score higher than hits, so the fit's slope is the least one: it puts hits of 0.60 and misses of 0.58,
    # 3 and 5 false positives per scan, into one step, between which lies the recall at 4
    mixed = [0.9] * 30 + [0.6 + 0.01 * i for i in range(20)] + [0.58] * 20, list(range(30, 50))
    tables = tables_of(mixed, *[([0.1], [])] * 9)
    slope, _ = fit_calibration(*samples_of(tables))
    result = outcome_of([tables], SETTING)
    assert slope == 0.05 and (result.slope, result.intercept) == (1.0, 0.0)
    monkeypatch.setattr("scripts.commands.tune.CALIBRATION_COST", 1.0)
    assert outcome_of([tables], SETTING).slope == 0.05


def samples_of(tables: list) -> tuple[np.ndarray, np.ndarray]:
    labelings = [table.labelings[SETTING.labeling] for table in tables]
    scores = np.concatenate([labeling.scores[CandidateScore.MEAN] for labeling in labelings])
    hits = [next(iter(labeling.matches.values()))[1] > 0.2 for labeling in labelings]
    return scores, np.concatenate(hits)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """
    Three validation scans and their maps: each fracture at 0.95, and beside it a small and a faint false candidate.

    Fractures are cubes of 4 * 4 * 4 voxels of 0.703 mm3, 45 mm3; the false ones are 8 and 64 voxels.
    """
    folder = tmp_path_factory.mktemp("predicted")
    for number, fractures in ((421, 1), (422, 2), (423, 0)):
        write_scan(folder / "data", "val", number, fractures, shape=(32, 28, 24))
        label = nib.load(folder / "data" / "ribfrac-val-labels" / f"RibFrac{number}-label.nii.gz").get_fdata()
        probability = np.where(label > 0, 0.95, 0.0).astype(np.float32)
        probability[24:26, 20:22, 20:22], probability[26:30, 14:18, 2:6] = 0.97, 0.55
        (folder / "maps").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(probability, lps_affine()), folder / "maps" / f"RibFrac{number}.nii.gz")
    return folder / "maps", folder / "data"


# what this module's scans need, whatever the shipped defaults are
GRID = ["--probability_thresholds", "0.5", "0.9", "--split_distances_mm", "0", "--spine_margin_mm", "0"]


@pytest.fixture()
def small_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.commands.tune.MIN_VOLUMES_MM3", (1.0, 30.0))


@pytest.mark.usefixtures("small_volumes")
def test_the_command_writes_an_overlay_and_its_figures(
    predicted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    maps, data = predicted
    output = tmp_path / "my_tuned.yaml"
    main(["--probabilities_dir", str(maps), "--dataset_dir", str(data), "--output", str(output), *GRID])
    text, report = output.read_text(), json.loads(output.with_suffix(".json").read_text())
    chosen = yaml.safe_load(text)
    # at 0.9 the faint one goes, at 30 mm3 the small one of 8 * 0.703 mm3
    assert 8 * np.prod(SPACING_MM) < 30 < 64 * np.prod(SPACING_MM)
    assert (chosen["probability_threshold"], chosen["min_volume_mm3"]) in [(0.9, 30.0), (0.5, 30.0)]
    assert report["after"]["average_recall"] == pytest.approx(1.0) and report["after"]["candidates_per_scan"] == 1.0
    assert report["after"]["false_candidates_per_scan"] == 0.0
    assert chosen["min_score"] == report["after"]["min_score"] == 0.0
    assert report["after"]["sets"][0]["recall_at_min_score"] == pytest.approx(1.0)
    assert (report["sets"][0]["scans"], report["sets"][0]["fractures"]) == (3, 3)
    assert report["sets"][0]["scans_without_fractures"] == 1
    # three hits and no miss
    assert (chosen["score_slope"], chosen["score_intercept"]) == (1.0, 0.0)
    assert "3 hits and 0 misses are too few" in text and "3 hits and 0 misses" in capsys.readouterr().out
    assert f"--output {output}" in text and chosen["spine_margin_mm"] == 0.0


@pytest.mark.usefixtures("small_volumes")
def test_the_overlay_sets_what_the_config_has(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    maps, data = predicted
    output = tmp_path / "tuned.yaml"
    main(["--probabilities_dir", str(maps), "--dataset_dir", str(data), "--output", str(output), *GRID])
    config = ConfigParser(ConfigParser.load_config_files([str(BUNDLE_ROOT / "configs" / "inference.yaml")]))
    names = set(yaml.safe_load(output.read_text()))
    assert names <= set(config.config), "a misspelled override is added as a new id, silently"


@pytest.mark.slow
@pytest.mark.usefixtures("small_volumes")
def test_two_sets_in_two_processes(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    maps, data = map(str, predicted)
    output = tmp_path / "tuned.yaml"
    main(
        ["--probabilities_dir", maps, maps, "--dataset_dir", data, data, "--output", str(output), "--workers", "2"]
        + GRID
    )
    report = json.loads(output.with_suffix(".json").read_text())
    assert [its["scans"] for its in report["sets"]] == [3, 3]
    assert report["after"]["sets"][0] == report["after"]["sets"][1]


def test_no_score_within_the_limit_is_said(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    maps, data = map(str, predicted)
    output = tmp_path / "tuned.yaml"
    arguments = ["--max_candidates_per_scan", "-1", "--output", str(output), *GRID]
    main(["--probabilities_dir", maps, "--dataset_dir", data, *arguments])
    assert "No score stays within -1 false candidates per scan." in output.read_text()
    assert yaml.safe_load(output.read_text())["min_score"] == 0.99


@pytest.mark.parametrize(
    "changed, message",
    [
        pytest.param({"--dataset_dir": ["a", "b"]}, "names 1 folders, --dataset_dir 2", id="unpaired folders"),
        pytest.param({"--probabilities_dir": ["nowhere"]}, r"RibFrac421.nii.gz is missing: .*save_prob", id="no map"),
        pytest.param(
            {"--config_file": [str(BUNDLE_ROOT / "configs" / "evaluate.yaml")]},
            "name inference.yaml first",
            id="an overlay alone",
        ),
    ],
)
def test_wrong_arguments_end_with_a_message(
    predicted: tuple[Path, Path], changed: dict, message: str, capsys: pytest.CaptureFixture
) -> None:
    options = {"--probabilities_dir": [str(predicted[0])], "--dataset_dir": [str(predicted[1])]} | changed
    with pytest.raises(SystemExit) as stopped:
        main([word for option, values in options.items() for word in (option, *values)])
    assert stopped.value.code == 1
    assert re.search(message, capsys.readouterr().err)


def test_scans_with_their_maps(predicted: tuple[Path, Path]) -> None:
    items = list_scans(*predicted, "validation")
    assert [Path(item["pred"]).name for item in items] == [f"RibFrac{n}.nii.gz" for n in (421, 422, 423)]
    assert items[1]["label_codes"].keys() == {1, 2}
