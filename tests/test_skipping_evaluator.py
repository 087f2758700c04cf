"""A scan that cannot be predicted is skipped, and the others are done."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ending_of, write_scan
from ignite.engine import Events
from monai.data import Dataset
from monai.transforms import Lambdad
from test_configs import SMALL_PREDICTION, rows, workflow

from scripts.data.dataloader import SkippingDataLoader
from scripts.runs import SkippingEvaluator
from scripts.transforms import FindCandidatesd

SCANS = ("a", "b", "c")
FAILURES = {
    "an error that should not happen": (
        IndexError("list index out of range"),
        r"it cannot be predicted \(IndexError\)",
    ),
    "too little memory": (torch.OutOfMemoryError("tried to allocate"), "too little memory to predict it"),
}


class Failing:
    """Raise an error at the second of three calls, and tell which there were."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, value: Any) -> Any:
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return value


def run(place: str, error: Exception) -> tuple[SkippingDataLoader, list[str]]:
    """Run an evaluator that fails at a place; returns its loader, and the scans that reached the last handler."""
    failing, nothing = Failing(error), lambda value: value
    network = torch.nn.Identity()
    if place == "network":
        network.forward = failing  # type: ignore[method-assign]
    loader = SkippingDataLoader(Dataset([{"scan": scan, "image": torch.zeros(1, 2, 2, 2)} for scan in SCANS]))
    evaluator = SkippingEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        postprocessing=Lambdad("pred", failing if place == "postprocessing" else nothing),
    )
    done: list[str] = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: (failing if place == "handler" else nothing)(engine)
    )
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: done.extend(item["scan"] for item in engine.state.batch)
    )
    evaluator.run()
    return loader, done


@pytest.mark.parametrize("error, reason", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("place", ["network", "postprocessing", "handler"])
def test_the_others_are_done(place, error, reason, caplog):
    with caplog.at_level(logging.ERROR):
        loader, done = run(place, error)
    assert done == ["a", "c"]
    assert [skipped.scan for skipped in loader.skipped] == ["b"]
    with pytest.raises(ValueError, match=rf"1 of 3 scans failed, the others are done:\nb: .*{reason}"):
        loader.raise_skipped()
    assert caplog.messages[-1].startswith("b is skipped: ")
    assert ("test_skipping_evaluator.py" in caplog.text) == isinstance(error, IndexError)  # where it was raised


@pytest.mark.parametrize("place", ["network", "postprocessing", "handler"])
def test_what_the_others_would_meet_too_ends_the_run(place):
    with pytest.raises((OSError, RuntimeError)):
        run(place, OSError(errno.ENOSPC, "No space left on device"))


def test_of_a_prediction(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run has written of the scan that fails now is removed."""
    for number in (501, 502, 503):
        write_scan(tmp_path / "data", "test", number, fractures=1, shape=(20, 18, 16))
    settings = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "checkpoint": str(model)}
    assert ending_of(workflow("inference.yaml", **SMALL_PREDICTION | settings)) == ""
    (tmp_path / "out" / "dicom").mkdir(exist_ok=True)
    (tmp_path / "out" / "dicom" / "RibFrac502.sr.dcm").touch()
    whole = set(files_of("RibFrac501", tmp_path / "out"))
    find, failing = FindCandidatesd.__call__, Failing(IndexError("list index out of range"))
    monkeypatch.setattr(FindCandidatesd, "__call__", lambda self, data: find(self, failing(data)))
    said = ending_of(workflow("inference.yaml", **SMALL_PREDICTION | settings))
    assert "1 of 3 scans failed, the others are done:\nRibFrac502: it cannot be predicted (IndexError)" in said
    assert [(row["scan"], row["status"] == "failed") for row in rows(tmp_path / "out" / "scans.csv")] == [
        ("RibFrac501", False),
        ("RibFrac502", True),
        ("RibFrac503", False),
    ]
    assert files_of("RibFrac502", tmp_path / "out") == ["records/RibFrac502.json"]
    assert set(files_of("RibFrac501", tmp_path / "out")) == whole
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scans"] == {"all": 3, "done_before": 0, "predicted": 2, "skipped": 1}
    assert "RibFrac502" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def files_of(scan: str, folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"{scan}*"))
