"""The same command gives the same bytes, and a prediction does not depend on how it is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_configs import predict, rows, stored, train

pytestmark = pytest.mark.processor

SHOWN = {"outputs::probabilities": True, "outputs::pictures": True}


@pytest.fixture(scope="module")
def prediction(ribfrac_dir: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two scans, with probabilities and pictures."""
    return predict(ribfrac_dir, tmp_path_factory.mktemp("prediction"), model, **SHOWN)


def test_a_prediction_once_more_gives_the_same_bytes(
    prediction: Path, ribfrac_dir: Path, model: Path, tmp_path: Path
) -> None:
    predict(ribfrac_dir, tmp_path, model, **SHOWN)
    for name in ("fractures.csv", "scans.csv", "predictions/ribfrac-pred.csv"):
        assert (tmp_path / name).read_bytes() == (prediction / name).read_bytes()
    for kind in ("predictions", "probabilities", "pictures"):
        files = sorted(path.name for path in (prediction / kind).glob("RibFrac*"))
        assert len(files) == 2
        for name in files:
            assert (tmp_path / kind / name).read_bytes() == (prediction / kind / name).read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"windows::batch_size": 1}, id="one window at a time", marks=pytest.mark.slow),
        pytest.param({"windows::batch_size": 7}, id="seven windows at a time"),
        pytest.param({"num_workers": 2}, id="two processes that load"),
    ],
)
def test_a_prediction_does_not_depend_on_batches_and_workers(
    settings: dict[str, Any], prediction: Path, ribfrac_dir: Path, model: Path, tmp_path: Path
) -> None:
    predict(ribfrac_dir, tmp_path, model, **settings | {"outputs::probabilities": True})
    for scan in ("RibFrac501", "RibFrac502"):
        same_scan(tmp_path, scan, prediction, scan)


def test_a_prediction_does_not_depend_on_other_scans_and_their_order(
    prediction: Path, ribfrac_dir: Path, model: Path, tmp_path: Path
) -> None:
    """Under another name the first scan is the last, and the other one is not there."""
    images = ribfrac_dir / "ribfrac-test-images"
    (tmp_path / "scans").mkdir()
    shutil.copy(images / "RibFrac501-image.nii.gz", tmp_path / "scans" / "z.nii.gz")
    shutil.copy(ribfrac_dir / "ribfrac-train-images" / "RibFrac1-image.nii.gz", tmp_path / "scans" / "a.nii.gz")
    out = predict(tmp_path / "scans", tmp_path / "out", model, **{"outputs::probabilities": True})
    same_scan(out, "z", prediction, "RibFrac501")


def same_scan(folder: Path, scan: str, reference: Path, reference_scan: str) -> None:
    """Compare what two predictions say of one scan: probabilities to 1e-5, and the same candidates."""
    ours, theirs = (
        stored(path)[0]
        for path in (
            folder / "probabilities" / f"{scan}.nii.gz",
            reference / "probabilities" / f"{reference_scan}.nii.gz",
        )
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    masks = [
        stored(path)[0]
        for path in (folder / "predictions" / f"{scan}.nii.gz", reference / "predictions" / f"{reference_scan}.nii.gz")
    ]
    assert np.array_equal(*masks) and masks[0].any()
    scores = [
        [float(row["score"]) for row in rows(where / "fractures.csv") if row["scan"] == name]
        for where, name in ((folder, scan), (reference, reference_scan))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=2e-5)


def last_weights(dataset_dir: Path, output_dir: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Train for two steps and return the weights of the last."""
    return torch.load(train(dataset_dir, output_dir, **settings) / "final.pt", weights_only=True)


@pytest.mark.slow
def test_a_training_once_more_gives_the_same_weights(ribfrac_dir: Path, tmp_path: Path) -> None:
    first, again, other = (
        last_weights(ribfrac_dir, tmp_path / name, seed=seed)
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    curves = [(tmp_path / name / "curves.csv").read_bytes() for name in ("first", "again")]
    assert curves[0] == curves[1]
