"""A review of a prediction as labels to train on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_scans import UPRIGHT, ras_affine, write_series
from test_view import SCORES, save, synthetic_run, volume_of

from scripts.candidates import Candidate
from scripts.commands.labels_from_review import label_reviewed, main
from scripts.data.datalist import load_datalist
from scripts.data.hard_examples import add_hard_examples
from scripts.data.verdicts import REVIEW_COLUMNS, read_verdicts
from scripts.reporting.tables import fracture_row, write_candidate_tables
from scripts.runs.records import read_record, record_path, recorded_candidates


def candidates_of(run: Path) -> list[Candidate]:
    record = read_record(record_path(run, "A"))
    assert record is not None
    return recorded_candidates(record)


def review_of(candidates: list[Candidate], verdicts: dict[int, str]) -> dict[str, Any]:
    """What the page exports: the score as a float, the place as its table has it."""
    items = []
    for candidate in candidates:
        row = fracture_row(candidate)
        place = {column: float(row[column]) for column in REVIEW_COLUMNS[2:5]}
        items.append({"scan": "A", "id": candidate.id, **place, "score": candidate.score, "comment": "so, it \n seems"})
        items[-1]["verdict"] = verdicts.get(candidate.id, "")
    return {"format": "rib fracture review 1", "page": "", "candidates": items}


def write_review(path: Path, content: dict[str, Any]) -> Path:
    """Write a review as JSON or, by its name, as CSV."""
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
        return path
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, REVIEW_COLUMNS)
        table.writeheader()
        table.writerows(content["candidates"])
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The prediction of a scan with the candidates 1, 2 and 3, 1 and 3 on a bone, with its table."""
    output = synthetic_run(tmp_path, labels=False)
    tables = output / "fractures.csv", output / "predictions" / "ribfrac-pred.csv"
    write_candidate_tables([("A", candidates_of(output))], *tables)
    return output


def made(run: Path, review: Path, **more: str) -> Path:
    folder = run.parent / "reviewed"
    label_reviewed(review, run / "predictions", run.parent / "data" / "images", folder, **more)
    return folder


@pytest.mark.parametrize("name", ["review.json", "review.csv"])
def test_accepted_candidates_become_fractures_and_rejected_ones_hard_examples(run: Path, name: str) -> None:
    verdicts = {1: "accepted", 2: "rejected", 3: "doubtful"}
    review = write_review(run / name, review_of(candidates_of(run), verdicts))
    folder = made(run, review)
    (item,) = load_datalist(folder, "training")
    assert (item["scan"], item["label_codes"]) == ("A", {1: -1})
    image, label = nib.load(item["image"]), nib.load(item["label"])
    assert Path(item["image"]).resolve() == (run.parent / "data" / "images" / "A-image.nii.gz").resolve()
    pred = nib.load(run / "predictions" / "A.nii.gz")
    assert np.array_equal(label.get_fdata(), np.where(pred.get_fdata() == 1, 1, 0))
    assert np.allclose(label.affine, image.affine, atol=1e-4)
    (hard,) = add_hard_examples([{"scan": "A"}], folder / "ribfrac-train-hard-examples.json")
    # candidate 2 fills voxels 9 to 13, 19 to 23 and 5 to 9 of 0.75 x 0.8 x 1.25 mm, from -20, 5 and 130 mm
    expected = [[-20 + 11 * 0.75, 5 + 21 * 0.8, 130 + 7 * 1.25]]
    assert hard["hard_examples"]["false_mm"] == pytest.approx(np.array(expected), abs=0.06)
    assert list(hard["hard_examples"]["missed"]) == []


def test_the_command_tells_what_it_made_and_leaves_scans_out_that_are_not_reviewed_to_their_end(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = review_of(candidates_of(run), dict.fromkeys((1, 2, 3), "rejected"))
    content["candidates"].append({**content["candidates"][0], "scan": "B", "verdict": ""})
    review = write_review(run / "review.json", content)
    words = ["--review", str(review), "--predictions_dir", str(run / "predictions"), "--section", "validation"]
    words += ["--dataset_dir", str(run.parent / "data" / "images"), "--output_dir", str(run.parent / "reviewed")]
    main(words)
    out = capsys.readouterr().out
    assert "0 fractures in 1 scans, 3 hard examples, 0 doubtful" in out and "have no verdict: B" in out
    (item,) = load_datalist(run.parent / "reviewed", "validation")
    assert not nib.load(item["label"]).get_fdata().any()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1 and "holds scans already" in capsys.readouterr().err


def test_a_dicom_series_is_written_as_nifti(tmp_path: Path) -> None:
    pred = np.zeros((24, 20, 10), np.uint8)
    pred[6:10, 8:12, 2] = 1
    write_series(tmp_path / "data" / "A", np.where(pred, 700, -500), UPRIGHT)
    affine = ras_affine(UPRIGHT)
    (item,) = load_datalist(tmp_path / "data", "all", labels=False)
    masks = tmp_path / "predictions"
    masks.mkdir()
    nib.save(nib.Nifti1Image(pred, affine), masks / f"{item['scan']}.nii.gz")
    x, y, z = (affine @ [7.5, 9.5, 2, 1])[:3]
    row = {"scan": item["scan"], "id": 1, "center_x_mm": -x, "center_y_mm": -y, "center_z_mm": z, "score": 0.5}
    content = {"format": "rib fracture review 1", "candidates": [{**row, "verdict": "accepted", "comment": ""}]}
    (masks / "ribfrac-pred.csv").write_text(
        f"public_id,label_id,confidence,label_code\n{item['scan']},0,0.0,0\n{item['scan']},1,0.500000,-1\n"
    )
    review = write_review(tmp_path / "review.json", content)
    label_reviewed(review, masks, tmp_path / "data", tmp_path / "reviewed")
    (labeled,) = load_datalist(tmp_path / "reviewed", "training")
    written = nib.load(labeled["image"])
    assert np.allclose(written.affine, nib.load(labeled["label"]).affine, atol=1e-4)
    assert np.array_equal(written.get_fdata(), np.where(nib.load(labeled["label"]).get_fdata() > 0, 700, -500))


def changed(column: str, value: object):
    """A review whose first candidate differs in one thing."""

    def change(content: dict) -> None:
        content["candidates"][0][column] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param(
            changed("score", SCORES[0] - 0.01), "candidate 1 of .* is another one, 0.0 mm", id="another score"
        ),
        pytest.param(
            changed("center_x_mm", 0), "candidate 1: candidate 1 of .*A.nii.gz is another one", id="another place"
        ),
        pytest.param(changed("id", 9), "has no candidate 9: give the predictions that were reviewed", id="no such id"),
        pytest.param(changed("id", 2), "candidate 2: has candidate 2 of A again", id="an id twice"),
        pytest.param(changed("scan", "Z"), "has no scan Z of", id="no such scan"),
        pytest.param(changed("verdict", "maybe"), "candidate 1: verdict is 'maybe'", id="no such verdict"),
        pytest.param(changed("verdict", ""), "leaves candidates of every scan without a verdict", id="not to the end"),
        pytest.param(lambda c: c.update(format="x"), "is no review as the page exports it", id="another format"),
        pytest.param(lambda c: c.update(candidates=[]), "lists no candidate", id="empty"),
    ],
)
def test_a_review_that_does_not_fit_is_refused_before_anything_is_written(run: Path, change, message: str) -> None:
    content = review_of(candidates_of(run), dict.fromkeys((1, 2, 3), "accepted"))
    change(content)
    with pytest.raises(ValueError, match=message):
        made(run, write_review(run / "review.json", content))
    assert not (run.parent / "reviewed").exists()


def test_missing_files_are_named(run: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.json does not exist: export it from the review page"):
        made(run, run / "none.json")
    review = write_review(run / "review.json", review_of(candidates_of(run), dict.fromkeys((1, 2, 3), "accepted")))
    (run / "predictions" / "ribfrac-pred.csv").rename(run / "away.csv")
    with pytest.raises(FileNotFoundError, match="ribfrac-pred.csv does not exist: .*scripts join"):
        made(run, review)
    (run / "away.csv").rename(run / "predictions" / "ribfrac-pred.csv")
    (run / "predictions" / "A.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="A.nii.gz does not exist: give the predictions that"):
        made(run, review)


def test_a_review_reads_the_same_from_both_files(run: Path) -> None:
    content = review_of(candidates_of(run), {1: "accepted", 2: "doubtful"})
    both = [read_verdicts(write_review(run / name, content))["A"] for name in ("review.json", "review.csv")]
    assert [one._replace(where="") for one in both[0]] == [one._replace(where="") for one in both[1]]
    assert [one.verdict for one in both[0]] == ["accepted", "doubtful", ""]


def test_another_mask_of_the_same_scores_is_refused(run: Path) -> None:
    review = write_review(run / "review.json", review_of(candidates_of(run), dict.fromkeys((1, 2, 3), "accepted")))
    save(run / "predictions" / "A.nii.gz", volume_of({1: np.s_[5:8, 5:8, 5:8]}.items()), "LPS")
    with pytest.raises(ValueError, match="give the predictions that were reviewed"):
        made(run, review)
