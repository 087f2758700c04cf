"""Tests of scripts/commands/_setting_tables.py: the quick way against the plain one, and overlaps counted on paper."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation
from scipy import ndimage

from scripts.commands._setting_tables import Setting, measure_scan, scan_result, scan_table
from scripts.metrics.froc import ScanResult, score_scan
from scripts.transforms import CandidateScore, FilterCandidatesd, LabelCandidatesd, RemoveSpined
from scripts.transforms.candidates import CalibrateScoresd

# toward the head, to the right, to the back: no axis where RAS has it, unequal spacing
TURNED = np.array([[0, 0.75, 0, -20], [0, 0, -1.5, 30], [1.25, 0, 0, 4], [0, 0, 0, 1.0]])


def plain_way(
    probability: np.ndarray, label: np.ndarray, affine: np.ndarray, setting: Setting, line: tuple[float, float]
) -> ScanResult:
    """Label, filter, calibrate, turn back to the scan's own axes, and score, as a prediction does."""
    pred = MetaTensor(torch.from_numpy(probability)[None], affine=torch.as_tensor(affine))
    steps = Compose(
        [
            LabelCandidatesd(
                "pred",
                setting.probability_threshold,
                setting.score,
                setting.split_distance_mm,
                setting.peak_share,
                setting.faint_threshold,
                setting.min_volume_mm3,
            ),
            FilterCandidatesd("pred", setting.min_volume_mm3, setting.min_mean_probability),
            CalibrateScoresd("label_scores", *line),
        ]
    )
    to_ras = Orientation(axcodes="RAS", labels=None)
    data = steps({"pred": to_ras(pred)})
    own = to_ras.inverse(data["pred"].to(torch.float32))[0].numpy().astype(int)
    return score_scan(own, label, dict(enumerate(data["label_scores"].tolist(), start=1)))


def by_score(result: ScanResult) -> list[tuple[float, int, float]]:
    return sorted(zip(result.label_scores, result.best_fracture, result.best_overlap))


def cloudy_scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blurred noise with fractures half on it, so that candidates and fractures touch in many ways."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(24, 30, 22)), (1.2, 2.0, 1.0))
    probability = (1 / (1 + np.exp(-2.5 * noise / noise.std()))).astype(np.float32)
    other = ndimage.gaussian_filter(rng.normal(size=noise.shape), 1.5)
    pieces, _ = ndimage.label(0.5 * noise / noise.std() + other / other.std() > 1.5)
    return probability, pieces


GRID = [
    Setting(*values)
    for values in product(
        (0.5, 0.8, 0.9), (0.0, 5.0), (0.0, 0.9), (1.0, 20.0, 60.0, 150.0), (0.0, 0.85, 0.93), CandidateScore, (0.0, 0.4)
    )
]


@pytest.mark.parametrize(
    "affine", [pytest.param(lps_affine(), id="LPS", marks=pytest.mark.slow), pytest.param(TURNED, id="turned axes")]
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_tables_score_is_that_of_the_plain_way(seed: int, affine: np.ndarray) -> None:
    probability, label = cloudy_scan(seed)
    to_ras = Orientation(axcodes="RAS", labels=None)
    ras = [to_ras(MetaTensor(torch.from_numpy(v)[None], affine=torch.as_tensor(affine))) for v in (probability, label)]
    table = scan_table(ras[0].numpy()[0], ras[1].numpy()[0].astype(int), affine, GRID)
    hits, splits, faint = set(), 0, 0
    for number, setting in enumerate(GRID):
        line = (1.0, 0.0) if number % 2 else (0.7, -0.4)
        quick = scan_result(table, setting, *line)
        plain = plain_way(probability, label, affine, setting, line)
        np.testing.assert_allclose(by_score(quick), by_score(plain), rtol=1e-6, atol=1e-9)
        assert np.array_equal(quick.fracture_codes, plain.fracture_codes)
        voxels = "candidate_voxels", "fracture_voxels", "shared_voxels"
        assert [getattr(quick, name) for name in voxels] == [getattr(plain, name) for name in voxels]
        hits.add(tuple(sorted(quick.best_overlap)))
        if setting.split_distance_mm and setting.min_volume_mm3 == 1.0:
            whole = scan_result(table, replace(setting, split_distance_mm=0.0, min_mean_probability=0.0))
            splits += len(quick.label_scores) > len(whole.label_scores)
        if setting.faint_threshold:
            faint += by_score(quick) != by_score(scan_result(table, replace(setting, faint_threshold=0.0)))
    assert len(hits) > 15 and splits > 0 and faint > 0, "the settings differ in what they find"


def line_of(values: str) -> np.ndarray:
    """A row of voxels, a digit each, as a volume ``(n, 1, 1)``."""
    return np.array([int(value) for value in values])[:, None, None]


@pytest.mark.parametrize(
    "min_mean, overlaps",
    [
        # the union is 10 voxels long; 2 and 3 of them are shared
        pytest.param(0.0, [2 / 10, 3 / 10], id="both are in one union"),
        # without the left one the union is 8 long
        pytest.param(0.8, [3 / 8], id="the union shrinks where one goes"),
        pytest.param(0.95, [], id="none is left"),
    ],
)
def test_a_candidate_that_goes_changes_its_neighbors_overlap(min_mean: float, overlaps: list[float]) -> None:
    probability = (line_of("7777009999") / 10).astype(np.float32)
    label = line_of("0011111110")
    settings = [Setting(0.5, 0.0, 0.0, 1.0, mean, CandidateScore.MEAN) for mean in (0.0, 0.8, 0.95)]
    table = scan_table(probability, label, np.diag([2.0, 1.0, 1.0, 1.0]), settings)
    chosen = next(setting for setting in settings if setting.min_mean_probability == min_mean)
    result = scan_result(table, chosen)
    assert result.best_overlap.tolist() == pytest.approx(overlaps, abs=1e-7)
    assert result.best_fracture.tolist() == [0] * len(overlaps)


@pytest.mark.parametrize(
    "probability, label, candidates, fractures",
    [
        pytest.param("0000", "0000", 0, 0, id="nothing at all"),
        pytest.param("0000", "0110", 0, 1, id="nothing predicted"),
        pytest.param("0990", "0000", 1, 0, id="nothing annotated"),
        pytest.param("9900", "0002", 1, 1, id="one miss"),
    ],
)
def test_empty_scans(probability: str, label: str, candidates: int, fractures: int) -> None:
    setting = Setting(0.5, 10.0, 0.0, 1.0, 0.0, CandidateScore.MAX)
    table = scan_table((line_of(probability) / 10).astype(np.float32), line_of(label), np.eye(4), [setting])
    result = scan_result(table, setting)
    assert (len(result.label_scores), len(result.fracture_codes)) == (candidates, fractures)
    assert result.best_fracture.tolist() == [-1] * candidates and result.best_overlap.tolist() == [0] * candidates


def test_a_candidate_of_just_the_least_volume_stays() -> None:
    # voxels of 2 mm3; the smaller one has 2 of them
    probability = (line_of("9900099900") / 10).astype(np.float32)
    settings = [Setting(0.5, 0.0, 0.0, volume, 0.0, CandidateScore.MEAN) for volume in (4.0, 4.1)]
    table = scan_table(probability, line_of("0000000000"), np.diag([2.0, 1.0, 1.0, 1.0]), settings)
    assert [len(scan_result(table, setting).label_scores) for setting in settings] == [2, 1]


@pytest.fixture()
def item(tmp_path: Path) -> dict[str, str]:
    """One scan of air and bone as files, its map of probabilities, and a label of one fracture."""
    shape = (12, 10, 8)
    volumes = {"image": np.full(shape, -1000, np.int16), "label": np.zeros(shape, np.uint8)}
    volumes["pred"] = np.zeros(shape, np.float32)
    volumes["image"][2:6, 2:6, 2:6], volumes["label"][2:6, 2:6, 2:6], volumes["pred"][2:6, 2:6, 2:5] = 700, 1, 0.75
    paths = {key: str(tmp_path / f"{key}.nii.gz") for key in volumes}
    for key, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, TURNED), paths[key])
    return paths


SETTING = Setting(0.5, 0.0, 0.0, 1.0, 0.0, CandidateScore.MEAN)


def test_a_scan_of_files(item: dict[str, str]) -> None:
    result = scan_result(measure_scan(item, [SETTING], (-200.0, 1000.0), 0.0), SETTING)
    # 4 * 4 * 3 of 4 * 4 * 4 voxels
    assert result.best_overlap.tolist() == pytest.approx([3 / 4])
    assert result.label_scores.tolist() == [0.75]


def test_the_spine_is_removed_as_in_a_prediction(item: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spine_of_all(transform: RemoveSpined, image: MetaTensor) -> torch.Tensor:
        seen.append((transform.margin_mm, transform.hu_range, float(image.max()), nib.aff2axcodes(image.affine)))
        return torch.ones(image.shape, dtype=torch.bool)

    monkeypatch.setattr(RemoveSpined, "_spine", spine_of_all)
    result = scan_result(measure_scan(item, [SETTING], (-200.0, 1000.0), 3.0), SETTING)
    assert len(result.label_scores) == 0
    # 700 HU lie 3/4 up from -200 to 1000 HU: half way from 0 to 1
    assert seen == [(3.0, (-200.0, 1000.0), pytest.approx(0.5), ("R", "A", "S"))]


@pytest.mark.parametrize(
    "key, change, message",
    [
        pytest.param("pred", lambda v: v[:-1], "pred.nii.gz is not on the grid of .*label.nii.gz", id="another shape"),
        pytest.param("pred", lambda v: v * 2, r"pred.nii.gz holds values outside \[0, 1\]", id="no probabilities"),
        pytest.param("pred", lambda v: v * np.nan, r"outside \[0, 1\]", id="not a number"),
        pytest.param("label", lambda v: v * 0.5, "label.nii.gz: .*not whole numbers", id="a label of halves"),
    ],
)
def test_wrong_files_are_named(item: dict[str, str], key: str, change, message: str) -> None:
    volume = nib.load(item[key]).get_fdata()
    nib.save(nib.Nifti1Image(change(volume).astype(np.float32), TURNED), item[key])
    with pytest.raises(ValueError, match=message):
        measure_scan(item, [SETTING], (-200.0, 1000.0), 0.0)


def test_a_map_of_a_spacing_a_little_larger_is_refused_with_its_shift(tmp_path: Path) -> None:
    shape, item = (512, 2, 2), {}
    for key, side_mm in (("image", 0.74), ("label", 0.74), ("pred", 0.749)):
        item[key] = str(tmp_path / f"{key}.nii.gz")
        volume = np.zeros(shape, np.float32 if key == "pred" else np.int16)
        nib.save(nib.Nifti1Image(volume, np.diag([-side_mm, -0.8, 1.25, 1])), item[key])
    # 511 steps of 0.74 and 0.749 mm end 4.6 mm apart
    with pytest.raises(ValueError, match="pred.nii.gz is not on the grid of .*corners lie up to 4.6 mm apart"):
        measure_scan(item, [SETTING], (-200.0, 1000.0), 0.0)


def test_a_map_of_another_place_is_refused(item: dict[str, str]) -> None:
    moved = TURNED.copy()
    moved[0, 3] += 1
    nib.save(nib.Nifti1Image(nib.load(item["pred"]).get_fdata().astype(np.float32), moved), item["pred"])
    with pytest.raises(ValueError, match="not on the grid"):
        measure_scan(item, [SETTING], (-200.0, 1000.0), 0.0)
