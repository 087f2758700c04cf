"""What a run came to, for programs: also where scans were bad, were done before, or were all bad."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE_ROOT, ending_of, prediction_run, write_scan
from test_configs import SMALL_PREDICTION, rows, workflow

from scripts.data.dataloader import SkippedScan

SCANS = (501, 502, 503)
SETTINGS = SMALL_PREDICTION | {
    "candidates::many_fractures": 1,
    "candidates::operating_score": 0.4,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in SCANS:
        write_scan(tmp_path / "data", "test", number, fractures=1, shape=(20, 18, 16))
    return tmp_path / "data"


def cut(data: Path, *numbers: int) -> None:
    for number in numbers:
        path = data / "ribfrac-test-images" / f"RibFrac{number}-image.nii.gz"
        path.write_bytes(path.read_bytes()[:200])


def run(data: Path, folder: Path, model: Path, *overlays: str, **settings: Any) -> str:
    """Run; returns what the run ends with, which is nothing where all is well."""
    settings |= {"dataset_dir": str(data), "output_dir": str(folder), "checkpoint": str(model)}
    if overlays:
        settings |= {"bootstrap": 0, "run_id": "evaluating"}
    return ending_of(workflow("inference.yaml", *overlays, **SETTINGS | settings))


def summary(folder: Path, name: str = "summary.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_the_log_ends_with_how_to_tell_scans_apart_whose_folders_name_patients(tmp_path, caplog):
    name = "ct-6dadc91b85"
    prediction = prediction_run(tmp_path, [{"scan": name, "image": "a.nii.gz"}])
    with caplog.at_level("INFO"), pytest.raises(ValueError, match="is cut short"):
        prediction.predict(lambda: [SkippedScan(name, "is cut short")])
    assert caplog.messages[-1].startswith("Scans called ct-... lie in folders that name patients (1 of 1).")


def test_of_a_prediction(data, tmp_path, model):
    cut(data, 502)
    (data / "study.zip").touch()
    assert "1 of 3 scans failed, the others are done" in run(data, tmp_path, model)
    told = summary(tmp_path)
    table = rows(tmp_path / "scans.csv")
    (bad,) = told["skipped_scans"]
    assert bad["scan"] == "RibFrac502" and "RibFrac502-image.nii.gz" in bad["reason"]
    assert [row["scan"] for row in table] == [f"RibFrac{number}" for number in SCANS]
    cut_row = table.pop(1)  # no number of it is known
    assert {name: text for name, text in cut_row.items() if text} == {
        "scan": "RibFrac502",
        "status": "failed",
        "notes": bad["reason"],
    }
    assert all(int(row["candidates"]) > 0 and row["status"] == "doubtful" for row in table)  # of so few voxels
    assert [status["status"] for status in told["statuses"]] == ["doubtful", "failed", "doubtful"]
    assert told["statuses"][1] == {"scan": "RibFrac502", "status": "failed", "notes": bad["reason"]}
    assert [row["scan"] for row in rows(tmp_path / "fractures.csv")] == ["RibFrac501", "RibFrac503"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="failed"' in page and bad["reason"].split(" (")[0] in page
    assert told["scans"] == {"all": 3, "done_before": 0, "predicted": 2, "skipped": 1}
    assert told["candidates"] == {
        "all": sum(int(row["candidates"]) for row in table),
        "at_operating_point": sum(int(row["at_operating_point"]) for row in table),
    }
    assert told["scans_with_many_fractures"] == sum(row["many_fractures"] == "yes" for row in table)
    metadata = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text())
    assert (told["bundle"], told["version"]) == (metadata["name"], metadata["version"])
    assert told["weights"] == model.name
    assert told["weights_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert told["settings"]["candidates"]["threshold"] == SETTINGS["candidates::threshold"]
    assert told["ignored"] == [{"suffix": ".zip", "files": 1, "example": "study.zip"}]
    assert (told["shard"], told["shards"], told["froc"]) == (0, 1, None)
    assert (tmp_path / "summary.json").stat().st_size < 4000


def test_of_a_prediction_that_goes_on(data, tmp_path, model):
    run(data, tmp_path, model)
    first = summary(tmp_path)
    (tmp_path / "predictions" / "RibFrac502.nii.gz").unlink()
    assert run(data, tmp_path, model, resume=True) == ""
    again = summary(tmp_path)
    assert again["scans"] == {"all": 3, "done_before": 2, "predicted": 1, "skipped": 0}
    assert again["candidates"] == first["candidates"] and first["candidates"]["all"] > 0


def test_another_data_set_into_the_same_folder_is_refused_in_one_sentence(data, tmp_path, model):
    folder = tmp_path / "prediction"
    run(data, folder, model)
    kept = (folder / "config.yaml").read_bytes()
    write_scan(tmp_path / "other", "test", 600, fractures=1, shape=(20, 18, 16))
    (tmp_path / "prediction-2").mkdir()
    mask = folder / "predictions" / "RibFrac501.nii.gz"
    assert (
        f"{mask} is a prediction of another run, on a scan that this one does not have: give this run a folder of its "
        f"own, as by --output_dir {folder}-3, or remove {folder / 'predictions'}."
    ) in run(tmp_path / "other", folder, model)
    assert (folder / "config.yaml").read_bytes() == kept and (folder / "scans.csv").is_file()


def test_a_scan_that_failed_is_tried_again_by_a_run_that_goes_on(data, tmp_path, model):
    path = data / "ribfrac-test-images" / "RibFrac502-image.nii.gz"
    whole = path.read_bytes()
    cut(data, 502)
    run(data, tmp_path, model)
    path.write_bytes(whole)
    assert run(data, tmp_path, model, resume=True) == ""
    assert summary(tmp_path)["scans"] == {"all": 3, "done_before": 2, "predicted": 1, "skipped": 0}
    assert {row["status"] for row in rows(tmp_path / "scans.csv")} == {"doubtful"}
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("done earlier") > 0


def test_each_shard_has_its_own(data, tmp_path, model):
    for shard in (0, 1):
        run(data, tmp_path, model, shard=shard, shards=2)
    assert [summary(tmp_path, f"summary-{shard}.json")["scans"]["all"] for shard in (0, 1)] == [2, 1]


def test_of_an_evaluation(data, tmp_path, model):
    assert run(data, tmp_path, model, "evaluate.yaml") == ""
    froc, metrics = summary(tmp_path)["froc"], json.loads((tmp_path / "metrics.json").read_text())
    assert froc["scans"] == froc["fractures"] == 3
    assert froc["average_recall"] == metrics["detection"]["average_recall"]
    assert list(froc["recall_at_fp_per_scan"].values()) == metrics["detection"]["key_recall"]
    assert list(froc["recall_at_fp_per_scan"]) == ["0.5", "1.0", "2.0", "4.0", "8.0"]


def test_an_evaluation_leaves_no_scan_out(data, tmp_path, model):
    error = run(data, tmp_path, model, "evaluate.yaml", resume=True)
    assert error.startswith("resume is true, but the score would be of the scans that are left alone: ")


@pytest.mark.parametrize("overlays", [(), ("evaluate.yaml",)], ids=["prediction", "evaluation"])
def test_where_all_scans_are_bad(overlays, data, tmp_path, model):
    run(data, tmp_path, model, *overlays)
    assert (tmp_path / "metrics.json").exists() == bool(overlays)
    cut(data, *SCANS)
    error = run(data, tmp_path, model, *overlays)
    assert error.startswith("3 of 3 scans failed, and there are no others:\nRibFrac501: ")
    assert [error.count(f"\nRibFrac{number}: ") for number in SCANS] == [1, 1, 1]
    told = summary(tmp_path)
    assert [bad["scan"] for bad in told["skipped_scans"]] == [f"RibFrac{number}" for number in SCANS]
    assert told["froc"] is None and told["candidates"]["all"] == 0
    assert not (tmp_path / "metrics.json").exists() and not (tmp_path / "froc.png").exists()  # of the run before
    assert rows(tmp_path / "fractures.csv") == []


def test_a_run_that_fails_otherwise_leaves_none_of_an_earlier_one(data, tmp_path, model):
    run(data, tmp_path, model)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no weights")
    assert run(data, tmp_path, broken) != ""
    assert not (tmp_path / "summary.json").exists()
