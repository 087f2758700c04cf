"""Which files of a folder are listed: each once, and none that a run has written."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.files.folder_files import files_below

# As a run saves it: settings first, among others, and expressions as they stand
PREDICTION_CONFIG = (
    "imports:\n- $import os\nbundle_root: .\noutput_dir: /out\npredictions_dir: $str(Path(@output_dir))\n"
)
TRAINING_CONFIG = "imports:\n- $import os\nbundle_root: .\nckpt_dir: $str(Path(@output_dir) / 'models')\n"


def write(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(folder: Path, paths: Sequence[Path]) -> list[str]:
    return [str(path.relative_to(folder)) for path in paths]


def listed(folder: Path, **arguments: Path) -> list[str]:
    return names(folder, files_below(folder, **arguments).files)


# ---- links ----


def test_links_in_a_loop(tmp_path: Path) -> None:
    root = tmp_path / "studies" / "data"
    write(root, "a/x.nii", "b/y.nii")
    (root / "latest").symlink_to(".")
    (root / "all").symlink_to("..")
    (root / "a" / "b").symlink_to("../b")
    (root / "b" / "a").symlink_to("../a")
    (root / "everything").symlink_to("/")
    assert listed(root) == ["a/x.nii", "b/y.nii"]


def test_a_link_is_followed_once_to_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "other", "deep/x.nii")
    (tmp_path / "data").mkdir()
    for name in ("1", "2"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "other")
    (tmp_path / "data" / "0").symlink_to(tmp_path / "other" / "deep")
    assert listed(tmp_path / "data") == ["0/x.nii"]


def test_a_folder_goes_by_its_own_path_and_not_by_a_links(tmp_path: Path) -> None:
    write(tmp_path, "z/x.nii")
    (tmp_path / "a").symlink_to("z")
    assert listed(tmp_path) == ["z/x.nii"]


def test_the_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real", "x.nii")
    (tmp_path / "link").symlink_to("real")
    assert files_below(tmp_path / "link").files == [tmp_path / "link" / "x.nii"]


def test_links_to_files_are_listed_also_broken_ones(tmp_path: Path) -> None:
    write(tmp_path, "real.nii")
    (tmp_path / "file.nii").symlink_to("real.nii")
    (tmp_path / "broken.nii").symlink_to("nowhere.nii")
    (tmp_path / "self.nii").symlink_to("self.nii")
    assert listed(tmp_path) == ["broken.nii", "file.nii", "real.nii", "self.nii"]


def test_what_is_neither_file_nor_folder_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be read for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.nii")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket.nii")
    Path("link.nii").symlink_to("pipe.nii")
    assert listed(tmp_path) == []


def test_hidden_files_and_folders_of_systems_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, ".x.nii", ".git/x.nii", "__MACOSX/x.nii", "$RECYCLE.BIN/x.nii", "x.nii")
    assert listed(tmp_path) == ["x.nii"]


def test_a_folder_that_may_not_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "closed/x.nii", "y.nii")
    scandir = os.scandir

    def as_nobody(folder: Path) -> object:
        if folder.name == "closed":
            raise PermissionError
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", as_nobody)
    found = files_below(tmp_path)
    assert names(tmp_path, found.files) == ["y.nii"] and found.unreadable == [tmp_path / "closed"]


# ---- results of runs ----


@pytest.fixture
def prediction(tmp_path: Path) -> Path:
    """A data set with the folder of a prediction in it."""
    write(tmp_path, "a.nii")
    out = tmp_path / "runs" / "out"
    write(out, "config.yaml", text=PREDICTION_CONFIG)
    write(
        out,
        "predictions/a.nii.gz",
        "probabilities/a.nii.gz",
        "ribs/a.nii.gz",
        "records/a.json",
        "pictures/a.png",
        "views/a.html",
    )
    write(out, "dicom/a.seg.dcm", "dicom/a.sr.dcm", "report.html", "report-1.html", "summary.json", "mlruns.db")
    return tmp_path


def test_of_a_prediction_nothing_is_listed(prediction: Path) -> None:
    found = files_below(prediction)
    assert names(prediction, found.files) == ["a.nii"]
    assert sorted(names(prediction, found.results)) == [
        "runs/out/predictions",
        "runs/out/probabilities",
        "runs/out/ribs",
    ]


def test_also_of_one_that_was_killed_before_its_first_record(tmp_path: Path) -> None:
    write(tmp_path / "out", "config.yaml", text=PREDICTION_CONFIG)
    write(tmp_path, "out/predictions/a.nii.gz", "a.nii")
    assert listed(tmp_path) == ["a.nii"]


def test_scans_beside_the_results_of_a_run_are_listed(prediction: Path) -> None:
    """As where output_dir is a folder of scans."""
    write(prediction / "runs" / "out", "b.nii", "dicom/IM0001.dcm", "ct/c.nii", "pictures/d.nii")
    inside = ["b.nii", "ct/c.nii", "dicom/IM0001.dcm", "pictures/d.nii"]
    assert listed(prediction / "runs" / "out") == inside
    assert listed(prediction) == ["a.nii", *(f"runs/out/{name}" for name in inside)]


def test_of_a_training_nothing_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "out", "config.yaml", text=TRAINING_CONFIG)
    write(tmp_path / "out", "models/model.pt", "tensorboard/events.out.tfevents.1.host", "training.html", "curves.png")
    assert listed(tmp_path) == []


def test_a_config_of_another_program_marks_nothing(tmp_path: Path) -> None:
    write(tmp_path, "config.yaml", text="model: unet\noutput_dir: predictions_dir\n")
    write(tmp_path, "predictions/a.nii.gz")
    assert listed(tmp_path) == ["config.yaml", "predictions/a.nii.gz"]


def test_a_folder_of_masks_elsewhere_is_told_by_its_table(tmp_path: Path) -> None:
    write(tmp_path, "masks/a.nii.gz", "masks/ribfrac-pred.csv", "a.nii")
    assert listed(tmp_path) == ["a.nii"]


def test_the_runs_own_folder_of_masks_is_left_out_also_without_a_table(tmp_path: Path) -> None:
    write(tmp_path, "masks/a.nii.gz", "a.nii")
    assert listed(tmp_path, predictions_dir=tmp_path / "masks") == ["a.nii"]
    (tmp_path / "link").symlink_to("masks")
    assert listed(tmp_path, predictions_dir=tmp_path / "link") == ["a.nii"]


def test_a_link_to_masks_is_not_followed(prediction: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "latest").symlink_to(prediction / "runs" / "out" / "probabilities")
    assert listed(other) == []


@pytest.mark.parametrize("folder", ["predictions", "probabilities", "ribs"])
def test_a_folder_of_masks_that_is_named_is_listed(folder: str, prediction: Path) -> None:
    masks = prediction / "runs" / "out" / folder
    write(masks, "ribfrac-pred.csv")
    assert "a.nii.gz" in listed(masks)
    assert "a.nii.gz" in listed(masks, predictions_dir=masks)
