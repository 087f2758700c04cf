"""nnU-Net's layout: its folders, its splits, and what its dataset.json says of the labels' values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_datalist import SHAPE, scans_of, write_text, write_volume

from scripts.commands.inspect import inspect_dataset
from scripts.commands.mine import mine
from scripts.data.datalist import list_scans, load_datalist
from scripts.data.label_classes import instances_of_classes
from scripts.transforms import CheckLabeld

VERSION_2: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "fracture": 1},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}
VERSION_1: dict[str, Any] = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "fracture"},
    "training": [{"image": "./imagesTr/case1.nii.gz", "label": "./labelsTr/case1.nii.gz"}],
}
TWO_TYPES = {"background": 0, "displaced fracture": 1, "Non-displaced": 2}


def three_pieces() -> np.ndarray:
    """Two pieces of value 1, and one of value 2 that touches the second of them."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[0, 0, 0] = label[3, 3, 1] = 1
    label[4, 4, 2] = 2
    return label


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    """Six cases to train on, and one without a label to test on."""
    for number in (1, 2, 3, 9, 10, 11):
        write_volume(tmp_path / f"imagesTr/case{number}_0000.nii.gz")
        write_volume(tmp_path / f"labelsTr/case{number}.nii.gz", np.minimum(three_pieces(), 1))
    write_volume(tmp_path / "imagesTs/case_77_0000.nii.gz")
    describe(tmp_path, VERSION_2)
    return tmp_path


def describe(folder: Path, content: dict[str, Any]) -> None:
    write_text(folder / "dataset.json", json.dumps(content))


@pytest.mark.parametrize("of_file", [False, True], ids=["the folder", "its dataset.json"])
@pytest.mark.parametrize("content", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def test_an_item_has_its_files_and_the_classes_of_its_label(nnunet: Path, content: dict, of_file: bool) -> None:
    describe(nnunet, content)
    assert load_datalist(nnunet / "dataset.json" if of_file else nnunet, "validation")[0] == {
        "scan": "case1",
        "image": str(nnunet / "imagesTr/case1_0000.nii.gz"),
        "label": str(nnunet / "labelsTr/case1.nii.gz"),
        "label_classes": {1: -1},
    }


@pytest.mark.parametrize(
    "section, labels, scans",
    [
        pytest.param("training", True, ["case2", "case3", "case9", "case10"], id="four of five are for training"),
        pytest.param("validation", True, ["case1", "case11"], id="every fifth, as elsewhere, is for validation"),
        pytest.param("test", False, ["case_77"], id="imagesTs is the test"),
        pytest.param("all", True, ["case1", "case2", "case3", "case9", "case10", "case11"], id="annotated ones"),
        pytest.param("training", False, ["case2", "case3", "case9", "case10"], id="to predict, labels are no scans"),
    ],
)
def test_sections(nnunet: Path, section: str, labels: bool, scans: list[str]) -> None:
    assert scans_of(load_datalist(nnunet, section, labels)) == scans


def test_labels_of_test_scans_are_read_where_they_are(nnunet: Path) -> None:
    write_volume(nnunet / "labelsTs/case_77.nii.gz")
    assert scans_of(load_datalist(nnunet, "test")) == ["case_77"]


def test_images_alone_need_no_description(nnunet: Path) -> None:
    (nnunet / "dataset.json").unlink()
    assert scans_of(load_datalist(nnunet, "test", labels=False)) == ["case_77"]


def test_lists_of_images_without_a_channel_stay_a_data_list(tmp_path: Path) -> None:
    write_volume(tmp_path / "imagesTr/case1.nii.gz")
    write_volume(tmp_path / "labelsTr/case1.nii.gz")
    describe(tmp_path, VERSION_1)
    assert [sorted(item) for item in load_datalist(tmp_path, "training")] == [["image", "label", "scan"]]


def test_the_first_fold_of_the_splits_tells_the_sections(nnunet: Path) -> None:
    fold = {"train": ["case1", "case2", "case3", "case9"], "val": ["case10", "case11"]}
    write_text(nnunet / "splits_final.json", json.dumps([fold, {"train": [], "val": []}]))
    assert scans_of(load_datalist(nnunet, "validation")) == ["case10", "case11"]


@pytest.mark.parametrize(
    "splits, message",
    [
        pytest.param("[]", "has no lists of names", id="no fold"),
        pytest.param('[{"train": ["case1"], "val": 3}]', "has no lists of names", id="no list"),
        pytest.param('[{"train": ["case1"], "val": ["case1"]}]', "has case1 in 'train' and in 'val'", id="in both"),
        pytest.param('[{"train": ["case1", "case2"], "val": ["case3"]}]', "case9 is in imagesTr, but not", id="none"),
        pytest.param(
            '[{"train": ["case1", "case2", "case3", "case4"], "val": ["case9", "case10", "case11"]}]',
            "case4 is not in imagesTr",
            id="a case that is not there",
        ),
    ],
)
def test_splits_that_do_not_fit_are_refused(nnunet: Path, splits: str, message: str) -> None:
    write_text(nnunet / "splits_final.json", splits)
    with pytest.raises(ValueError, match=f"splits_final.json: .*{message}"):
        load_datalist(nnunet, "training")


@pytest.mark.parametrize(
    "labels, classes",
    [
        pytest.param({"background": 0, "lesion": 1}, {1: -1}, id="one value, whatever its name"),
        pytest.param({"background": 0, "buckle": 1}, {1: 3}, id="one type"),
        pytest.param(TWO_TYPES, {1: 1, 2: 2}, id="types"),
        pytest.param({"0": "background", "1": "segmental", "2": "unknown"}, {1: 4, 2: -1}, id="types, version 1"),
        pytest.param({"background": 0, "fracture_1": 1, "fracture_2": 2}, None, id="ids"),
        pytest.param({"0": "0", "1": "1", "2": "2", "3": "3"}, None, id="ids, by their number alone"),
    ],
)
def test_names_tell_what_values_mean(nnunet: Path, labels: dict, classes: dict | None) -> None:
    describe(nnunet, VERSION_2 | {"labels": labels})
    assert load_datalist(nnunet, "training")[0].get("label_classes") == classes


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param({"channel_names": {"0": "T1"}}, "its channels are .*T1.*a scan has one, in HU", id="no CT"),
        pytest.param({"channel_names": {"0": "CT", "1": "PET"}}, "its channels are .*PET", id="two channels"),
        pytest.param({"labels": {"background": 0, "rib": 1, "fracture": 2}}, "its labels are rib, fracture", id="ribs"),
        pytest.param({"labels": {"background": 0, "whole": [1, 2]}}, "its labels are .*whole", id="regions"),
        pytest.param({"labels": {"background": 0}}, "its labels are .*background", id="no fracture"),
        pytest.param({"labels": None}, "its labels are None", id="no labels"),
    ],
)
def test_another_task_is_refused(nnunet: Path, change: dict, message: str) -> None:
    describe(nnunet, VERSION_2 | change)
    with pytest.raises(ValueError, match=f"dataset.json: {message}"):
        load_datalist(nnunet, "training")


def test_labels_need_a_description(nnunet: Path) -> None:
    (nnunet / "dataset.json").unlink()
    with pytest.raises(ValueError, match="dataset.json does not exist: it says what the labels' values mean"):
        load_datalist(nnunet, "training")


@pytest.mark.parametrize(
    "added, removed, message",
    [
        pytest.param("imagesTr/case1_0001.nii.gz", None, "case1_0000.nii.gz: case1 has 2 channels", id="two channels"),
        pytest.param("imagesTr/case1_0000.nrrd", None, "case1 is already at", id="one case in two files"),
        pytest.param("imagesTr/case4.nii.gz", None, "case4.nii.gz: has no channel in its name", id="no channel"),
        pytest.param(None, "labelsTr/case2.nii.gz", "has no label labelsTr/case2.nii.gz", id="no label"),
        pytest.param(None, "imagesTr/case2_0000.nii.gz", "has no image imagesTr/case2_0000.nii.gz", id="no image"),
    ],
)
def test_files_that_do_not_fit_are_one_error(
    nnunet: Path, added: str | None, removed: str | None, message: str
) -> None:
    if added:
        write_text(nnunet / added, "")
    if removed:
        (nnunet / removed).unlink()
    with pytest.raises(ValueError, match=message) as error:
        load_datalist(nnunet, "all")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_case_says_where_it_looked(tmp_path: Path) -> None:
    describe(tmp_path, VERSION_2)
    with pytest.raises(ValueError, match="looked in imagesTr and imagesTs for CASE_0000.nii.gz"):
        list_scans(tmp_path, "all")


def test_each_piece_of_a_value_is_a_fracture() -> None:
    ids, codes = instances_of_classes(three_pieces(), {1: 3, 2: -1}, "x.nii.gz")
    assert [ids[0, 0, 0], ids[3, 3, 1], ids[4, 4, 2], (ids > 0).sum()] == [1, 2, 3, 3]
    assert codes == {1: 3, 2: 3, 3: -1}


def test_a_label_of_zeros_has_no_fracture() -> None:
    ids, codes = instances_of_classes(np.zeros(SHAPE, dtype=np.uint8), {1: -1}, "x.nii.gz")
    assert (ids.max(), codes) == (0, {})


def test_the_transform_makes_ids_and_their_table() -> None:
    label = torch.from_numpy(three_pieces()[None].astype(np.float32))
    data = CheckLabeld("label")({"label": label, "label_classes": {1: 1, 2: 2}})
    assert data["label"].dtype == torch.uint8
    assert data["label"][0, 3, 3, 1] == 2
    assert data["label_codes"] == {1: 1, 2: 1, 3: 2}


def test_a_value_without_a_name_is_refused() -> None:
    label = torch.from_numpy(three_pieces()[None])
    with pytest.raises(ValueError, match=r"label: holds the values \[2\], which dataset.json does not name"):
        CheckLabeld("label")({"label": label, "label_classes": {1: -1}})


def test_inspection_counts_the_pieces(nnunet: Path) -> None:
    write_volume(nnunet / "labelsTr/case1.nii.gz", three_pieces())
    scans, _ = inspect_dataset(nnunet, "validation", True, nnunet / "page.html")
    assert [len(facts.fractures) for facts in scans] == [0, 2]  # as 1, the last two pieces touch
    assert any("holds the values [2]" in problem for problem in scans[0].problems)
    assert {fracture.type for fracture in scans[1].fractures} == {"Unknown"}


def test_mining_lists_the_pieces_that_were_missed(nnunet: Path) -> None:
    write_volume(nnunet / "out/case1.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    assert len(mine(nnunet / "out", nnunet, "validation")["case1"]["missed"]) == 2
