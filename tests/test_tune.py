"""Tests of scripts/commands/tune.py: scans scored as a prediction would be, and the command from files to files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, SPACING_MM, lps_affine, write_scan
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Orientationd
from scipy import ndimage

from scripts.commands.tune import list_scans, main, prepare_scan, prepared_scan_result
from scripts.metrics.froc import ScanResult, score_scan
from scripts.transforms import FindCandidatesd, InvertCandidatesd, RemoveSpined

INFERENCE = BUNDLE_ROOT / "configs" / "inference.yaml"
# toward the head, to the right, to the back: no axis where RAS has it, unequal spacing
TURNED = np.array([[0, 0.75, 0, -20], [0, 0, -1.5, 30], [1.25, 0, 0, 4], [0, 0, 0, 1.0]])
SETTINGS: dict[str, Any] = {
    "postprocess": True,
    "spine_margin_mm": 0.0,
    "threshold": 0.5,
    "low_threshold": 0.0,
    "min_volume_mm3": 1.0,
    "min_mean_probability": 0.0,
    "max_rib_mm": None,
    "split_distance_mm": 0.0,
    "peak_share": 0.0,
    "score": "mean",
    "score_slope": 1.0,
    "score_intercept": 0.0,
    "min_score": 0.0,
}
HU_RANGE = (-200.0, 1000.0)


# ---- one scan ----


def write_item(folder: Path, affine: np.ndarray, **volumes: np.ndarray) -> dict[str, str]:
    paths = {key: str(folder / f"{key}.nii.gz") for key in volumes}
    for key, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, affine), paths[key])
    return paths


def scan_result(item: dict[str, str], folder: Path, lowest: float = 0.4, **changed: Any) -> ScanResult:
    prepare_scan(item, folder / "scan.npz", SETTINGS | changed, HU_RANGE, lowest)
    return prepared_scan_result(folder / "scan.npz", SETTINGS | changed)


@pytest.fixture()
def item(tmp_path: Path) -> dict[str, str]:
    """One scan of air and bone as files, its map of probabilities, and a label of one fracture."""
    shape = (12, 10, 8)
    image, label, pred = np.full(shape, -1000, np.int16), np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    image[2:6, 2:6, 2:6], label[2:6, 2:6, 2:6], pred[2:6, 2:6, 2:5] = 700, 1, 0.75
    return write_item(tmp_path, TURNED, image=image, label=label, pred=pred)


def test_a_scan_of_files(item: dict[str, str], tmp_path: Path) -> None:
    result = scan_result(item, tmp_path)
    # 4 * 4 * 3 of 4 * 4 * 4 voxels
    assert result.best_overlap.tolist() == pytest.approx([3 / 4])
    assert result.label_scores.tolist() == [0.75]


@pytest.mark.parametrize(
    "key, candidates, fractures",
    [pytest.param("pred", 0, 1, id="a miss"), pytest.param("label", 1, 0, id="no fracture")],
)
def test_nothing_predicted_or_annotated(
    item: dict[str, str], tmp_path: Path, key: str, candidates: int, fractures: int
) -> None:
    nib.save(nib.Nifti1Image(np.zeros((12, 10, 8), np.float32), TURNED), item[key])
    result = scan_result(item, tmp_path)
    assert (len(result.label_scores), len(result.fracture_codes)) == (candidates, fractures)
    assert result.best_fracture.tolist() == [-1] * candidates and result.best_overlap.tolist() == [0] * candidates


def test_nothing_predicted_and_annotated(item: dict[str, str], tmp_path: Path) -> None:
    for key in ("pred", "label"):
        nib.save(nib.Nifti1Image(np.zeros((12, 10, 8), np.float32), TURNED), item[key])
    result = scan_result(item, tmp_path)
    assert len(result.label_scores) == len(result.fracture_codes) == 0


def by_score(result: ScanResult) -> list[tuple[float, int, float]]:
    return sorted(zip(result.label_scores, result.best_fracture, result.best_overlap))


def whole_scan_result(probability: np.ndarray, label: np.ndarray, settings: dict[str, Any]) -> ScanResult:
    """Find candidates in the whole scan, turn them back to its own axes, and score them, as a prediction does."""
    turn = Orientationd("image", axcodes="RAS", labels=None)
    data = turn({"image": MetaTensor(torch.from_numpy(probability)[None], affine=torch.from_numpy(TURNED))})
    data = FindCandidatesd("pred", settings).find(data | {"pred": data["image"]})
    data = InvertCandidatesd("pred", orig_keys="image", transform=turn)(data)
    return score_scan(data["pred"][0].numpy(), label, dict(enumerate(data["label_scores"].tolist(), start=1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_part_that_is_kept_scores_as_the_whole_scan(tmp_path: Path, seed: int) -> None:
    # blurred noise in the middle of a scan, and fractures half on it, so that candidates and fractures touch
    rng = np.random.default_rng(seed)
    noise = np.pad(ndimage.gaussian_filter(rng.normal(size=(24, 30, 22)), (1.2, 2.0, 1.0)), 6)
    other = np.pad(ndimage.gaussian_filter(rng.normal(size=(24, 30, 22)), 1.5), 6)
    probability = (1 / (1 + np.exp(2.0 - 3 * noise / noise.std()))).astype(np.float32)
    label = ndimage.label(0.5 * noise / noise.std() + other / other.std() > 1.5)[0].astype(np.uint8)
    image = np.full(label.shape, -1000, np.int16)
    item = write_item(tmp_path, TURNED, image=image, label=label, pred=probability)
    found = set()
    for changed in (
        {"threshold": 0.5, "score": "max"},
        {"threshold": 0.9, "score": "max", "low_threshold": 0.4, "min_volume_mm3": 60.0},
        {"threshold": 0.5, "split_distance_mm": 5.0, "score": "mean_above_threshold"},
        {"threshold": 0.5, "peak_share": 0.9, "min_mean_probability": 0.8},
    ):
        part = scan_result(item, tmp_path, **changed)
        whole = whole_scan_result(probability, label, SETTINGS | changed)
        np.testing.assert_allclose(by_score(part), by_score(whole), rtol=1e-6, atol=1e-9)
        assert len(part.fracture_codes) == len(whole.fracture_codes) == label.max()
        found.add(tuple(by_score(part)))
        assert part.best_overlap.any()
    assert len(found) == 4, "the settings differ in what they find"


def test_what_candidates_do_not_need_is_not_kept(tmp_path: Path) -> None:
    shape = (60, 10, 10)
    pred, label = np.full(shape, 0.3, np.float32), np.zeros(shape, np.uint8)
    pred[30:32], label[50] = 0.9, 1
    item = write_item(tmp_path, np.diag([1.0, 1.0, 1.0, 1.0]), image=np.zeros(shape, np.int16), label=label, pred=pred)
    prepare_scan(item, tmp_path / "scan.npz", SETTINGS, HU_RANGE, 0.3)
    with np.load(tmp_path / "scan.npz") as saved:
        kept, marked = saved["probability"], saved["label"]
    # the local mean is over 5 voxels: two to each side of the two voxels of 0.9; and one plane of a fracture
    assert (kept == np.float32(0.9)).sum() == 2 * 100 and (kept == np.float32(0.3)).sum() == 4 * 100
    assert (marked > 0).sum() == 100
    assert kept.size < 3 * 700, "of 6000 voxels"


def test_the_spine_is_removed_as_in_a_prediction(
    item: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spine_of_all(transform: RemoveSpined, image: MetaTensor) -> np.ndarray:
        seen.append((transform.margin_mm, transform.hu_range, float(image.max()), nib.aff2axcodes(image.affine)))
        return np.ones(image.shape[1:], dtype=bool)

    monkeypatch.setattr(RemoveSpined, "_spine", spine_of_all)
    assert len(scan_result(item, tmp_path, spine_margin_mm=3.0).label_scores) == 0
    # once, when the scan is prepared; 700 HU lie 3/4 up from -200 to 1000 HU: half way from 0 to 1
    assert seen == [(3.0, (-200.0, 1000.0), pytest.approx(0.5), ("R", "A", "S"))]


@pytest.mark.parametrize(
    "key, change, message",
    [
        pytest.param("pred", lambda v: v[:-1], "pred.nii.gz is not on the grid of .*label.nii.gz", id="another shape"),
        pytest.param("pred", lambda v: v * 2, r"pred.nii.gz holds values outside \[0, 1\]", id="no probabilities"),
        pytest.param("pred", lambda v: v * np.nan, r"outside \[0, 1\]", id="not a number"),
        pytest.param("label", lambda v: v * 0.5, "label.nii.gz: .*not whole numbers", id="a label of halves"),
        pytest.param("image", lambda v: v[:-1], "pred has shape", id="an image of another shape"),
    ],
)
def test_wrong_files_are_named(item: dict[str, str], tmp_path: Path, key: str, change: Any, message: str) -> None:
    volume = nib.load(item[key]).get_fdata()
    nib.save(nib.Nifti1Image(change(volume).astype(np.float32), TURNED), item[key])
    with pytest.raises(ValueError, match=message):
        scan_result(item, tmp_path)


def test_a_map_of_a_spacing_a_little_larger_is_refused_with_its_shift(tmp_path: Path) -> None:
    shape, item = (512, 2, 2), {}
    for key, side_mm in (("image", 0.74), ("label", 0.74), ("pred", 0.749)):
        volume = np.zeros(shape, np.float32 if key == "pred" else np.int16)
        item |= write_item(tmp_path, np.diag([-side_mm, -0.8, 1.25, 1]), **{key: volume})
    # 511 steps of 0.74 and 0.749 mm end 4.6 mm apart
    with pytest.raises(ValueError, match="pred.nii.gz is not on the grid of .*corners lie up to 4.6 mm apart"):
        scan_result(item, tmp_path)


def test_a_map_of_another_place_is_refused(item: dict[str, str], tmp_path: Path) -> None:
    moved = TURNED.copy()
    moved[0, 3] += 1
    nib.save(nib.Nifti1Image(nib.load(item["pred"]).get_fdata().astype(np.float32), moved), item["pred"])
    with pytest.raises(ValueError, match="not on the grid"):
        scan_result(item, tmp_path)


# ---- the command ----


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """
    Three validation scans and their maps: each fracture at 0.95, and beside it a small and a weak false candidate.

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
GRID = ["--thresholds", "0.5", "0.9", "--split_distances_mm", "0", "--min_volumes_mm3", "1", "30"]
GRID += ["--spine_margin_mm", "0"]


def test_the_command_writes_an_overlay_and_its_figures(
    predicted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    maps, data = predicted
    output = tmp_path / "my_tuned.yaml"
    main(["--probabilities_dir", str(maps), "--dataset_dir", str(data), "--output", str(output), *GRID])
    text, report = output.read_text(), json.loads(output.with_suffix(".json").read_text())
    chosen = yaml.safe_load(text)
    # 800 mm3 drop all. At 30 mm3 the small one of 8 * 0.703 mm3 goes. All else ties: the weak one, which the low
    # threshold adds, scores less than the fractures. So it is as before
    assert 8 * np.prod(SPACING_MM) < 30 < 64 * np.prod(SPACING_MM)
    present = ConfigParser.load_config_files([str(INFERENCE)])["candidates"]
    assert chosen["candidates::min_volume_mm3"] == 30.0
    for name in (
        "threshold",
        "low_threshold",
        "min_mean_probability",
        "split_distance_mm",
        "peak_share",
        "score",
    ):
        assert chosen[f"candidates::{name}"] == present[name]
    assert (
        report["before"]["average_recall"] == pytest.approx(0.0, abs=1e-6)
        and report["before"]["candidates_per_scan"] == 0.0
    )
    # one of each scan is the weak one
    assert report["after"]["average_recall"] == pytest.approx(1.0) and report["after"]["candidates_per_scan"] == 2.0
    assert report["after"]["false_candidates_per_scan"] == 1.0
    assert chosen["candidates::min_score"] == report["after"]["min_score"] == 0.0
    assert report["after"]["sets"][0]["recall_at_min_score"] == pytest.approx(1.0)
    assert (report["sets"][0]["scans"], report["sets"][0]["fractures"]) == (3, 3)
    assert report["sets"][0]["scans_without_fractures"] == 1
    assert len(report["best"]) == 10 < report["settings_tried"] and f"best of {report['settings_tried']}" in text
    # three hits and three misses
    assert (chosen["candidates::score_slope"], chosen["candidates::score_intercept"]) == (1.0, 0.0)
    told = capsys.readouterr().out
    assert "3 hits and 3 misses are too few" in text and "3 hits and 3 misses" in told
    assert "# Too few fractures to choose by: 3 in a set, of which one is 0.33 of the recall." in text
    assert "Too few fractures to choose by" in told
    assert f"--output {output}" in text and chosen["candidates::spine_margin_mm"] == 0.0


@pytest.fixture(scope="module")
def tuned(predicted: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlay of a run whose limit of false candidates no score keeps."""
    maps, data = map(str, predicted)
    output = tmp_path_factory.mktemp("tuned") / "tuned.yaml"
    arguments = ["--max_candidates_per_scan", "-1", "--output", str(output), *GRID]
    main(["--probabilities_dir", maps, "--dataset_dir", data, *arguments])
    return output


def test_no_score_within_the_limit_is_said(tuned: Path) -> None:
    assert "No score stays within -1 false candidates per scan." in tuned.read_text()
    assert yaml.safe_load(tuned.read_text())["candidates::min_score"] == 0.99


def test_the_overlay_sets_what_the_config_has(tuned: Path) -> None:
    config, chosen = ConfigParser.load_config_files([str(INFERENCE)]), yaml.safe_load(tuned.read_text())
    names = {f"candidates::{name}" for name in config["candidates"]}
    assert set(chosen) < names, "a misspelled override is added as a new id, silently"
    # what the command neither chooses nor takes from its options is not set
    left = {"candidates::operating_score", "candidates::many_fractures", "candidates::max_rib_mm"}
    assert names - set(chosen) == left


@pytest.mark.parametrize("place", [1, 2])
def test_the_overlay_stands_in_front_of_or_behind_evaluate_yaml(tuned: Path, place: int) -> None:
    files = [str(INFERENCE), str(INFERENCE.with_name("evaluate.yaml"))]
    files.insert(place, str(tuned))
    config = ConfigParser(ConfigParser.load_config_files(files))
    assert config.get_parsed_content("candidates")["min_volume_mm3"] == 30.0
    assert config.get_parsed_content("candidates")["min_score"] == 0.99
    assert config.get_parsed_content("outputs::min_score") == 0.0


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "changed, message",
    [
        pytest.param({"--dataset_dir": ["a", "b"]}, "names 1 folders, --dataset_dir 2", id="unpaired folders"),
        pytest.param(
            {"--probabilities_dir": ["nowhere"]}, r"RibFrac421.nii.gz is missing: .*outputs#prob", id="no map"
        ),
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


def test_scans_without_a_fracture_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_scan(tmp_path / "data", "val", 421, fractures=0, shape=(16, 14, 12))
    label = nib.load(tmp_path / "data" / "ribfrac-val-labels" / "RibFrac421-label.nii.gz")
    (tmp_path / "maps").mkdir()
    zeros = nib.Nifti1Image(np.zeros(label.shape, np.float32), label.affine)
    nib.save(zeros, tmp_path / "maps" / "RibFrac421.nii.gz")
    with pytest.raises(SystemExit):
        main(["--probabilities_dir", str(tmp_path / "maps"), "--dataset_dir", str(tmp_path / "data"), *GRID])
    assert "data, section validation, have no fracture to choose by" in capsys.readouterr().err


def test_scans_with_their_maps(predicted: tuple[Path, Path]) -> None:
    items = list_scans(*predicted, "validation")
    assert [Path(item["pred"]).name for item in items] == [f"RibFrac{n}.nii.gz" for n in (421, 422, 423)]
    assert items[1]["label_codes"].keys() == {1, 2}
