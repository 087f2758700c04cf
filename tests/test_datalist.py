"""Data lists from every layout, and the one error that each broken layout gives."""

import gzip
import json
import logging
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_scans import PATIENT, write_series
from monai.transforms import LoadImaged

from scripts.commands.list_scans import main
from scripts.data.datalist import load_datalist
from scripts.images.file_checks import file_notes

# voxel axes to L, P, S, as in most of RibFrac; 0.7, 0.8 and 1.25 mm
LPS_AFFINE = np.array([[-0.7, 0, 0, 90.0], [0, -0.8, 0, 80.0], [0, 0, 1.25, -700.0], [0, 0, 0, 1]])
SHAPE = (6, 5, 4)
TABLE_HEAD = "public_id,label_id,label_code\n"


def write_volume(path: Path, array: np.ndarray | None = None, affine: np.ndarray = LPS_AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16) if array is None else array, affine), path)
    return path


def write_pair(images: Path, labels: Path, scan: str) -> None:
    write_volume(images / f"{scan}-image.nii.gz")
    write_volume(labels / f"{scan}-label.nii.gz")


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def scans_of(items: list[dict]) -> list[str]:
    return [item["scan"] for item in items]


@pytest.fixture
def ribfrac(tmp_path: Path) -> Path:
    """The archives as they unpack: 2 and 10 in Part1, 301 in Part2, 421 for validation, 501 without a label."""
    write_pair(tmp_path / "ribfrac-train-images-1/Part1", tmp_path / "ribfrac-train-labels-1/Part1", "RibFrac10")
    write_pair(tmp_path / "ribfrac-train-images-1/Part1", tmp_path / "ribfrac-train-labels-1/Part1", "RibFrac2")
    write_pair(tmp_path / "Part2", tmp_path / "ribfrac-train-labels-2", "RibFrac301")
    write_pair(tmp_path / "ribfrac-val-images", tmp_path / "ribfrac-val-labels", "RibFrac421")
    write_volume(tmp_path / "ribfrac-test-images/RibFrac501-image.nii.gz")
    write_text(tmp_path / "ribfrac-train-info-1.csv", TABLE_HEAD + "RibFrac2,0,0\nRibFrac2,1,3\nRibFrac2,2,-1\n")
    write_text(tmp_path / "tables/ribfrac-train-info-2.csv", TABLE_HEAD + "RibFrac301,0,0\nRibFrac10,0,0\n")
    write_text(tmp_path / "ribfrac-val-info.csv", "\ufeff" + TABLE_HEAD + "RibFrac421,0,0\nRibFrac421,1,4\n")
    return tmp_path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Six pairs in images/ and labels/ whose names tell no section."""
    for number in (1, 2, 3, 9, 10, 11):
        write_pair(tmp_path / "images", tmp_path / "labels", f"case{number}")
    return tmp_path


@pytest.mark.parametrize(
    "section, labels, scans",
    [
        pytest.param("training", True, ["RibFrac2", "RibFrac10", "RibFrac301"], id="both parts, in natural order"),
        pytest.param("validation", True, ["RibFrac421"], id="validation"),
        pytest.param("test", False, ["RibFrac501"], id="test, which has no labels"),
        pytest.param(
            "all", False, ["RibFrac2", "RibFrac10", "RibFrac301", "RibFrac421", "RibFrac501"], id="all images"
        ),
    ],
)
def test_ribfrac_folders(ribfrac: Path, section: str, labels: bool, scans: list[str]) -> None:
    assert scans_of(load_datalist(ribfrac, section, labels)) == scans


def test_item_joins_image_label_and_table(ribfrac: Path) -> None:
    assert load_datalist(ribfrac, "training")[0] == {
        "scan": "RibFrac2",
        "image": str(ribfrac / "ribfrac-train-images-1/Part1/RibFrac2-image.nii.gz"),
        "label": str(ribfrac / "ribfrac-train-labels-1/Part1/RibFrac2-label.nii.gz"),
        "label_codes": {1: 3, 2: -1},
    }


def test_scan_with_the_background_row_alone_has_an_empty_table(ribfrac: Path) -> None:
    assert load_datalist(ribfrac, "training")[1]["label_codes"] == {}


def test_byte_order_mark_of_a_table_is_passed_over(ribfrac: Path) -> None:
    assert load_datalist(ribfrac, "validation")[0]["label_codes"] == {1: 4}


def test_items_without_labels_hold_the_image_alone(ribfrac: Path) -> None:
    image = str(ribfrac / "ribfrac-val-images/RibFrac421-image.nii.gz")
    assert load_datalist(ribfrac, "validation", labels=False) == [{"scan": "RibFrac421", "image": image}]


def test_numbers_tell_the_section_where_folders_do_not(tmp_path: Path) -> None:
    for number in (420, 421, 500, 501):
        write_pair(tmp_path / "images", tmp_path / "labels", f"RibFrac{number}")
    sections = {section: scans_of(load_datalist(tmp_path, section)) for section in ("training", "validation", "test")}
    assert sections == {
        "training": ["RibFrac420"],
        "validation": ["RibFrac421", "RibFrac500"],
        "test": ["RibFrac501"],
    }


def test_folder_outranks_the_number(tmp_path: Path) -> None:
    write_pair(tmp_path / "test/images", tmp_path / "test/labels", "RibFrac1")
    assert scans_of(load_datalist(tmp_path, "test")) == ["RibFrac1"]


def test_section_folders_of_pairs(pairs: Path) -> None:
    (pairs / "training").mkdir()
    for kind in ("images", "labels"):
        (pairs / kind).rename(pairs / "training" / kind)
    write_pair(pairs / "validation/images", pairs / "validation/labels", "case4")
    assert len(load_datalist(pairs, "training")) == 6
    assert scans_of(load_datalist(pairs, "validation")) == ["case4"]


def test_name_of_the_folder_itself_tells_nothing(tmp_path: Path) -> None:
    root = tmp_path / "test"
    write_pair(root / "images", root / "labels", "RibFrac1")
    assert scans_of(load_datalist(root, "training")) == ["RibFrac1"]


@pytest.mark.parametrize(
    "section, scans",
    [
        pytest.param("validation", ["case1", "case11"], id="the first and the sixth of six"),
        pytest.param("training", ["case2", "case3", "case9", "case10"], id="the others"),
        pytest.param("all", ["case1", "case2", "case3", "case9", "case10", "case11"], id="all"),
    ],
)
def test_every_fifth_pair_is_for_validation(pairs: Path, section: str, scans: list[str]) -> None:
    items = load_datalist(pairs, section)
    assert scans_of(items) == scans
    assert not any("label_codes" in item for item in items)


def test_table_beside_pairs_is_read(pairs: Path) -> None:
    rows = "".join(f"case{number},0,0\ncase{number},1,2\n" for number in (1, 2, 3, 9, 10, 11))
    write_text(pairs / "info.csv", TABLE_HEAD + rows)
    assert [item["label_codes"] for item in load_datalist(pairs, "validation")] == [{1: 2}, {1: 2}]


def test_hidden_files_are_passed_over(pairs: Path) -> None:
    write_text(pairs / "images/._case1-image.nii.gz", "made by a Mac")
    write_text(pairs / "__MACOSX/images/case1-image.nii.gz", "made by a Mac")
    assert len(load_datalist(pairs, "all")) == 6


def test_linked_folders_are_followed(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("linked")
    (root / "scans").symlink_to(pairs)
    assert len(load_datalist(root, "all")) == 6


@pytest.mark.parametrize(
    "section, sections_named",
    [
        pytest.param("test", "training, validation", id="nothing for the test"),
        pytest.param("tset", "training, validation, test or all", id="misspelled section"),
    ],
)
def test_section_without_scans_names_those_there_are(pairs: Path, section: str, sections_named: str) -> None:
    with pytest.raises(ValueError, match=sections_named):
        load_datalist(pairs, section)


# ---- errors: each breaks the RibFrac folders in one way ----


def image_of(root: Path) -> Path:
    return root / "ribfrac-val-images/RibFrac421-image.nii.gz"


def label_of(root: Path) -> Path:
    return root / "ribfrac-val-labels/RibFrac421-label.nii.gz"


SHIFTED = LPS_AFFINE + np.array([[0, 0, 0, 0.2], [0] * 4, [0] * 4, [0] * 4])
# three steps of 0.04 mm shift the last slice by 0.12 mm, over a tenth of 0.7 mm
STRETCHED = LPS_AFFINE + np.array([[0] * 4, [0] * 4, [0, 0, 0.04, 0], [0] * 4])


def write_long_pair(ribfrac: Path) -> None:
    """Write an image and a label that begin at one place: 511 steps of 0.74 and 0.749 mm end 4.6 mm apart."""
    for path, side_mm in ((image_of(ribfrac), 0.74), (label_of(ribfrac), 0.749)):
        write_volume(path, np.zeros((512, 2, 2), np.int16), LPS_AFFINE @ np.diag([side_mm / 0.7, 1, 1, 1]))


def write_flat(path: Path) -> None:
    """Write a volume whose affine gives the slices no thickness."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.header.set_sform(LPS_AFFINE * np.array([1, 1, 0, 1]), code=1)
    nib.save(image, path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        pytest.param(lambda r: label_of(r).unlink(), "421-image.nii.gz: has no label", id="label missing"),
        pytest.param(lambda r: image_of(r).unlink(), "421-label.nii.gz: has no image", id="image missing"),
        pytest.param(
            lambda r: write_volume(label_of(r), np.zeros((6, 5, 3), np.int16)),
            "421-label.nii.gz: is not on the grid of its image, their shapes are 6 x 5 x 3 and 6 x 5 x 4",
            id="shapes differ",
        ),
        pytest.param(lambda r: write_volume(label_of(r), affine=SHIFTED), "up to 0.2 mm apart", id="origin differs"),
        pytest.param(lambda r: write_volume(label_of(r), affine=STRETCHED), "up to 0.1 mm apart", id="spacing differs"),
        pytest.param(
            write_long_pair, "421-label.nii.gz: .*corners lie up to 4.6 mm apart", id="0.74 and 0.749 mm, 512 voxels"
        ),
        pytest.param(
            lambda r: write_volume(image_of(r), np.zeros((6, 5), np.int16)),
            "421-image.nii.gz: has 2 axes",
            id="a slice",
        ),
        pytest.param(lambda r: write_flat(label_of(r)), "421-label.nii.gz: its affine", id="no thickness"),
        pytest.param(lambda r: write_text(image_of(r), "text"), "421-image.nii.gz: is no readable", id="is no gzip"),
        pytest.param(
            lambda r: image_of(r).write_bytes(gzip.compress(b"0" * 400)[:20]), "is no readable", id="file cut short"
        ),
        pytest.param(
            lambda r: write_volume(r / "more/val/RibFrac421-image.nii.gz"),
            "421-image.nii.gz: RibFrac421 is already at",
            id="scan twice",
        ),
        pytest.param(
            lambda r: label_of(r).rename(r / "ribfrac-train-labels-2/RibFrac421-label.nii.gz"),
            "the folders of RibFrac421 say both training and validation",
            id="image and label in two sections",
        ),
        pytest.param(
            lambda r: write_pair(r / "images", r / "labels", "patient7"),
            "patient7-image.nii.gz: no folder name says whether patient7",
            id="one scan without a section",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD),
            "RibFrac421 is in none of the tables",
            id="table without the scan",
        ),
        pytest.param(
            lambda r: [path.unlink() for path in r.rglob("*.csv")], "holds no table of fracture types", id="no table"
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", "id,code\nRibFrac421,0\n"),
            "ribfrac-val-info.csv: has the columns .*needs public_id,label_id,label_code",
            id="other columns",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", ""),
            "ribfrac-val-info.csv: has the columns",
            id="empty table",
        ),
        pytest.param(
            lambda r: (r / "ribfrac-val-info.csv").write_text(TABLE_HEAD, encoding="utf-16-le"),
            "ribfrac-val-info.csv: is no table, but holds bytes of 0",
            id="UTF-16 without its mark",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD + "RibFrac421,-1,2\n"),
            "line 2: id -1 with code 2",
            id="negative id",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD + "RibFrac421,1.5,2\n"),
            "line 2: label_id is '1.5', needs a whole number",
            id="fraction",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD + "RibFrac421,0,0\nRibFrac421,one,1\n"),
            "line 3: label_id is 'one', needs a whole number",
            id="id is no number",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD + "RibFrac421,1\n"),
            "line 2: has 2 columns, and no label_code",
            id="row cut short",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD + "RibFrac421,1,5\n"),
            "line 2: id 1 with code 5",
            id="unknown code",
        ),
        pytest.param(
            lambda r: write_text(r / "ribfrac-val-info.csv", TABLE_HEAD + "RibFrac421,1,1\nRibFrac421,1,2\n"),
            "line 3: RibFrac421 has the id 1 twice",
            id="id twice",
        ),
    ],
)
def test_broken_data_set_gives_one_error(ribfrac: Path, spoil: Callable[[Path], object], message: str) -> None:
    assert scans_of(load_datalist(ribfrac, "validation")) == ["RibFrac421"]
    spoil(ribfrac)
    with pytest.raises(ValueError, match=message):
        load_datalist(ribfrac, "validation")


def test_a_table_may_have_other_columns_and_an_old_encoding(ribfrac: Path) -> None:
    """Columns in another order, one more, with text of latin-1, as a spreadsheet may write it."""
    text = "comment,label_code,public_id,label_id\nmüde,0,RibFrac421,0\n,4,RibFrac421,1\n"
    (ribfrac / "ribfrac-val-info.csv").write_text(text, encoding="latin-1")
    assert load_datalist(ribfrac, "validation")[0]["label_codes"] == {1: 4}


def test_grids_within_a_tenth_of_a_voxel_are_one(ribfrac: Path) -> None:
    affine = LPS_AFFINE.copy()
    affine[0, 3] += 0.05
    write_volume(label_of(ribfrac), affine=affine)
    assert len(load_datalist(ribfrac, "validation")) == 1


def test_problems_are_told_together_up_to_ten(tmp_path: Path) -> None:
    for number in range(12):
        write_volume(tmp_path / f"images/case{number}-image.nii.gz")
    with pytest.raises(ValueError) as error:
        load_datalist(tmp_path, "all")
    lines = str(error.value).splitlines()
    assert "12 problems" in lines[0]
    assert len(lines) == 1 + 10


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: set dataset_dir"):
        load_datalist(tmp_path / "nowhere", "all")


@pytest.mark.parametrize(
    "labels, wanted", [pytest.param(True, "X-image.nii.gz", id="pairs"), pytest.param(False, "DICOM", id="scans")]
)
def test_empty_folder_says_what_was_looked_for(tmp_path: Path, labels: bool, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"holds no scan: .*{wanted}"):
        load_datalist(tmp_path, "all", labels)


# ---- MONAI data list ----


@pytest.fixture
def json_list(tmp_path: Path) -> Path:
    write_pair(tmp_path / "a", tmp_path / "b", "one")
    write_volume(tmp_path / "a/two.nii.gz")
    content = {
        "training": [{"image": "a/one-image.nii.gz", "label": "b/one-label.nii.gz", "label_codes": {"1": 2}}],
        "test": ["a/two.nii.gz"],
    }
    return write_text(tmp_path / "dataset.json", json.dumps(content))


@pytest.mark.parametrize("of_file", [pytest.param(True, id="the file"), pytest.param(False, id="its folder")])
def test_json_paths_are_relative_to_the_file(json_list: Path, of_file: bool) -> None:
    folder = json_list.parent
    assert load_datalist(json_list if of_file else folder, "training") == [
        {
            "scan": "one",
            "image": str(folder / "a/one-image.nii.gz"),
            "label": str(folder / "b/one-label.nii.gz"),
            "label_codes": {1: 2},
        }
    ]


def test_json_without_labels(json_list: Path) -> None:
    assert scans_of(load_datalist(json_list, "all", labels=False)) == ["one", "two"]


@pytest.mark.parametrize(
    "text, section, message",
    [
        pytest.param("{", "all", "dataset.json is not JSON", id="not JSON"),
        pytest.param("[]", "training", "lists no scans under 'training'", id="a bare list"),
        pytest.param('{"training": ["a/one-image.nii.gz"]}', "training", "no list of items", id="paths only"),
        pytest.param(
            '{"training": [{"label": "b/one-label.nii.gz"}]}', "training", "item 0 of 'training'", id="no image"
        ),
        pytest.param(
            '{"training": [{"image": "a/one-image.nii.gz", "label": "b/one-label.nii.gz", "label_codes": {"1": "x"}}]}',
            "training",
            "label_codes of item 0 of 'training' needs numbers",
            id="code is no number",
        ),
        pytest.param(
            '{"training": [{"image": ["a.nii", "b.nii"]}]}', "training", "item 0 of 'training'", id="two channels"
        ),
        pytest.param('{"training": [{"image": "a/one-image.nii.gz"}]}', "training", "has no label", id="no label"),
        pytest.param(
            '{"training": [{"image": "x.nii.gz", "label": "x"}]}', "training", "x.nii.gz: does not", id="no file"
        ),
        pytest.param('{"training": [{"image": "b", "label": "x"}]}', "training", "cannot have a label", id="DICOM"),
        pytest.param(
            '{"training": [{"image": "a/x.nii"}, {"image": "b/x.nii"}]}', "all", "x is already at", id="twice"
        ),
    ],
)
def test_broken_json_gives_one_error(json_list: Path, text: str, section: str, message: str) -> None:
    json_list.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_datalist(json_list, section)


# ---- scans without labels ----


def test_folder_of_nifti_and_dicom(tmp_path: Path) -> None:
    write_volume(tmp_path / "b/patient10.nii.gz")
    write_volume(tmp_path / "patient9.nii")
    write_volume(tmp_path / "patient9-label.nii.gz")
    write_text(tmp_path / "readme.txt", "no scan")
    write_text(tmp_path / "notes/LICENSE", "no scan")
    slices = write_series(tmp_path / "patient11/CT thorax", np.zeros((6, 5, 9)))
    items = load_datalist(tmp_path, "test", labels=False)
    assert items == [
        {"scan": "patient9", "image": str(tmp_path / "patient9.nii")},
        {"scan": "patient10", "image": str(tmp_path / "b/patient10.nii.gz")},
        {"scan": "patient11-CT thorax", "image": [str(path) for path in slices]},
    ]


def test_single_nifti_file(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "RibFrac7-image.nii.gz")
    assert load_datalist(path, "test", labels=False) == [{"scan": "RibFrac7", "image": str(path)}]


def test_single_dicom_folder(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "series", np.zeros((6, 5, 9)))
    items = load_datalist(tmp_path / "series", "all", labels=False)
    assert items == [{"scan": "series", "image": [str(path) for path in slices]}]


def test_json_of_a_dicom_folder(tmp_path: Path) -> None:
    """Left as it is: to list an archive, no file of it has to be opened."""
    write_series(tmp_path / "series", np.zeros((6, 5, 9)))
    path = write_text(tmp_path / "dataset.json", json.dumps({"test": ["series"]}))
    assert load_datalist(path, "test", labels=False) == [{"scan": "series", "image": str(tmp_path / "series")}]


def test_a_list_that_the_command_writes_is_the_folder_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_series(tmp_path / "in" / "a b", np.zeros((6, 5, 9)))
    write_volume(tmp_path / "in" / "x-image.nii.gz")
    main(["--dataset_dir", str(tmp_path / "in"), "--output", str(tmp_path / "list.json")])
    assert "lists 2 scans" in capsys.readouterr().out
    items = load_datalist(tmp_path / "in", "all", labels=False)
    assert scans_of(items) == ["a b", "x"]
    assert load_datalist(tmp_path / "list.json", "test", labels=False) == items


def test_the_command_ends_with_an_error_where_there_is_no_scan(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["--dataset_dir", str(tmp_path), "--output", str(tmp_path / "list.json")])
    assert "error: " in capsys.readouterr().err and not (tmp_path / "list.json").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", 3])
def test_a_name_that_no_file_can_have_is_refused(name: object, tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii.gz")
    path = write_text(tmp_path / "l.json", json.dumps({"test": [{"scan": name, "image": "x.nii.gz"}]}))
    with pytest.raises(ValueError, match="item 0 of 'test' needs as scan a name"):
        load_datalist(path, "test", labels=False)


def test_dicom_and_nifti_of_one_name(tmp_path: Path) -> None:
    write_series(tmp_path / "series", np.zeros((6, 5, 9)))
    write_volume(tmp_path / "series.nii.gz")
    with pytest.raises(ValueError, match="series is already at"):
        load_datalist(tmp_path, "all", labels=False)


def test_nifti_scale_and_offset_give_hu(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "scan.nii", np.full(SHAPE, 538, np.int16))
    with open(path, "r+b") as file:
        file.seek(112)  # scl_slope and scl_inter of the NIfTI-1 header
        file.write(struct.pack("<ff", 2.0, -1024.0))
    (item,) = load_datalist(path, "all", labels=False)
    np.testing.assert_array_equal(LoadImaged("image")(item)["image"].numpy(), 2 * 538 - 1024)


def test_words_in_the_names_of_other_folders_tell_no_section(tmp_path: Path) -> None:
    for folder in ("Val Kilmer", "train 7", "John"):
        write_volume(tmp_path / folder / f"{folder}.nii.gz")
    assert scans_of(load_datalist(tmp_path, "test", labels=False)) == ["John", "Val Kilmer", "train 7"]


# ---- what is doubtful ----


def mirrored(affine: np.ndarray) -> np.ndarray:
    return affine @ np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize(
    "qform, codes, notes",
    [
        pytest.param(LPS_AFFINE, (1, 1), [], id="they agree"),
        # the last corner, five voxels away, is off by less than 1 mm
        pytest.param(LPS_AFFINE + np.eye(4, k=3) * 0.9, (1, 1), [], id="less than a millimeter apart"),
        pytest.param(
            LPS_AFFINE + np.eye(4, k=3) * 3,
            (1, 1),
            ["its sform and its qform lie up to 3 mm apart; the sform is used."],
            id="3 mm apart",
        ),
        # 5 steps of 0.7 mm, to one side and to the other
        pytest.param(
            mirrored(LPS_AFFINE),
            (1, 1),
            [
                "its sform and its qform lie up to 7 mm apart; the sform is used. "
                "They disagree about which side is left."
            ],
            id="mirrored",
        ),
        pytest.param(mirrored(LPS_AFFINE), (1, 0), [], id="the qform says that it means nothing"),
        pytest.param(mirrored(LPS_AFFINE), (0, 1), [], id="the sform says that it means nothing"),
    ],
)
def test_sform_and_qform(qform: np.ndarray, codes: tuple[int, int], notes: list[str], tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), LPS_AFFINE)
    image.set_sform(LPS_AFFINE, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, tmp_path / "scan.nii.gz")
    assert file_notes(tmp_path / "scan.nii.gz") == notes
    read = LoadImaged("image", image_only=True)({"image": str(tmp_path / "scan.nii.gz")})["image"]
    np.testing.assert_allclose(read.affine, LPS_AFFINE if codes[0] else qform, atol=1e-4)


def write_no_rotation(path: Path, sform_code: int) -> Path:
    """Write a volume whose qform counts, and is no rotation."""
    write_volume(path)
    with open(path, "r+b") as file:
        file.seek(252)
        file.write(struct.pack("<h", 1))  # qform_code
        file.seek(256)
        file.write(struct.pack("<f", 2.0))  # quatern_b, of a quaternion of length 1
        file.seek(254)
        file.write(struct.pack("<h", sform_code))
    return path


def test_a_qform_that_is_no_rotation(tmp_path: Path) -> None:
    (note,) = file_notes(write_no_rotation(tmp_path / "scan.nii", sform_code=1))
    assert note.startswith("its qform cannot be read (") and note.endswith("; its sform is used.")


def test_of_dicom_nothing_is_told(tmp_path: Path) -> None:
    assert file_notes(tmp_path) == []


def test_a_header_of_too_many_voxels_is_refused(tmp_path: Path) -> None:
    """By the header alone: of the voxels nothing is read."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((1025, 1024, 1024))
    header.set_sform(LPS_AFFINE, 1)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: has 1025 x 1024 x 1024 voxels, over 1073741824"):
        load_datalist(path, "all", labels=False)


def test_a_name_is_never_empty(tmp_path: Path) -> None:
    write_volume(tmp_path / "-image.nii.gz")
    (scan,) = scans_of(load_datalist(tmp_path, "all", labels=False))
    assert re.fullmatch("_image-[0-9a-f]{8}", scan)


def test_a_file_without_a_place_is_named(tmp_path: Path) -> None:
    path = write_no_rotation(tmp_path / "scan.nii", sform_code=0)
    with pytest.raises(ValueError, match=r"scan\.nii: is no readable NIfTI file"):
        load_datalist(path, "all", labels=False)


# ---- suffixes and formats ----


def write_pair_of_files(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Pair(np.zeros(SHAPE, np.int16), LPS_AFFINE), path)
    return path


def in_capitals(path: Path) -> Path:
    return path.rename(path.with_name(path.name.upper()))


def listed(folder: Path) -> dict[str, str]:
    """The file of each scan, below the folder."""
    items = load_datalist(folder, "all", labels=False, check=False)
    return {item["scan"]: str(Path(item["image"]).relative_to(folder)) for item in items}


def test_every_format_is_listed_once(tmp_path: Path) -> None:
    in_capitals(write_volume(tmp_path / "b.nii.gz"))
    in_capitals(write_volume(tmp_path / "c.nii"))
    write_pair_of_files(tmp_path / "d.img")
    for name in ("e.nrrd", "f.nhdr", "f.raw.gz", "g.mha", "h.MHD", "h.zraw", "i.mhd", "i.RAW"):
        write_text(tmp_path / name, "")
    assert listed(tmp_path) == {
        **{"B": "B.NII.GZ", "C": "C.NII", "d": "d.img", "e": "e.nrrd"},
        **{"f": "f.nhdr", "g": "g.mha", "h": "h.MHD", "i": "i.mhd"},
    }
    assert load_datalist(tmp_path, "all", labels=False, check=False).ignored == []


def test_halves_and_voxels_without_a_header_are_ignored(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii")
    for name in ("disk.img", "photo.hdr", "b.raw", "c.seg.nrrd", "c.zraw"):
        write_text(tmp_path / name, "")
    assert listed(tmp_path) == {"a": "a.nii"}
    ignored = load_datalist(tmp_path, "all", labels=False).ignored
    assert [kind["suffix"] for kind in ignored] == [".hdr", ".img", ".raw", ".seg.nrrd", ".zraw"]


def test_a_single_pair_may_be_named_by_either_file(tmp_path: Path) -> None:
    write_pair_of_files(tmp_path / "x-image.img")
    for name in ("x-image.img", "x-image.hdr"):
        (item,) = load_datalist(tmp_path / name, "all", labels=False)
        assert item == {"scan": "x", "image": str(tmp_path / name)}


def test_pairs_of_image_and_label_in_other_formats_and_capitals(tmp_path: Path) -> None:
    in_capitals(write_volume(tmp_path / "images" / "A-image.nii.gz"))
    in_capitals(write_volume(tmp_path / "images" / "A-label.nii"))
    write_pair_of_files(tmp_path / "images" / "b-image.img")
    write_pair_of_files(tmp_path / "images" / "b-label.img")
    folder = tmp_path / "images"
    assert load_datalist(folder, "all") == [
        {"scan": "A", "image": str(folder / "A-IMAGE.NII.GZ"), "label": str(folder / "A-LABEL.NII")},
        {"scan": "b", "image": str(folder / "b-image.img"), "label": str(folder / "b-label.img")},
    ]
    assert listed(folder) == {"A": "A-IMAGE.NII.GZ", "b": "b-image.img"}


def test_a_half_of_a_pair_that_a_data_list_names_is_refused(tmp_path: Path) -> None:
    write_pair_of_files(tmp_path / "a.img").with_suffix(".hdr").unlink()
    path = write_text(tmp_path / "l.json", json.dumps({"test": ["a.img"]}))
    with pytest.raises(ValueError, match=r"a\.img: is no readable NIfTI file"):
        load_datalist(path, "test", labels=False)


def test_a_file_of_another_format_in_a_data_list_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "a.mgz", "")
    path = write_text(tmp_path / "l.json", json.dumps({"test": ["a.mgz"]}))
    with pytest.raises(ValueError, match=r"a\.mgz: is in no format that is read: write it as NIfTI"):
        load_datalist(path, "test", labels=False)


# ---- what is ignored ----


def test_what_is_ignored_is_counted_and_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_volume(tmp_path / "a.nii")
    write_volume(tmp_path / "a-label.nii")
    for name in ("x.zip", "sub/y.ZIP", "z.pdf", "t.csv", "t.json", ".hidden.zip", "Thumbs.db"):
        write_text(tmp_path / name, "")
    ignored = load_datalist(tmp_path, "all", labels=False).ignored
    assert ignored == [
        {"suffix": ".zip", "files": 2, "example": "sub/y.ZIP"},
        {"suffix": ".pdf", "files": 1, "example": "z.pdf"},
    ]
    assert caplog.messages == [
        "Files in no format that is read here are ignored: 2 .zip (such as sub/y.ZIP), 1 .pdf (such as z.pdf)."
    ]


def test_with_labels_volumes_of_other_names_are_ignored(tmp_path: Path) -> None:
    write_pair(tmp_path / "images", tmp_path / "labels", "a")
    write_volume(tmp_path / "images" / "b.nii.gz")
    assert load_datalist(tmp_path, "all").ignored == [{"suffix": ".nii.gz", "files": 1, "example": "images/b.nii.gz"}]


def test_slices_of_a_series_and_dicom_that_is_passed_over_are_not_ignored(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", np.zeros((6, 5, 9)))
    write_series(tmp_path / "short", np.zeros((6, 5, 2)), series="1.2.3")
    assert load_datalist(tmp_path, "all", labels=False).ignored == []


def test_an_example_beside_dicom_does_not_name_the_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "Quuxington Zebediah"
    write_series(folder / "ct", np.zeros((6, 5, 9)))
    write_text(folder / f"{PATIENT['PatientID']}.zip", "")
    ignored = load_datalist(tmp_path, "all", labels=False).ignored
    assert ignored == [{"suffix": ".zip", "files": 1, "example": "[patient]/[patient]"}]
    assert "Quuxington" not in caplog.text and "4711" not in caplog.text


def test_of_a_data_list_nothing_is_ignored(json_list: Path) -> None:
    write_text(json_list.parent / "x.zip", "")
    assert load_datalist(json_list, "all", labels=False).ignored == []


# ---- names, links, results ----


def test_scans_get_names_that_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gbk = os.fsdecode(b"a\xd6\xd0")
    for name in (gbk, "=SUM(1)", "good"):
        write_volume(tmp_path / f"{name}.nii")
    with caplog.at_level(logging.INFO):
        scans = scans_of(load_datalist(tmp_path, "all", labels=False))
    assert [re.sub("-[0-9a-f]{8}$", "", scan) for scan in scans] == ["_SUM(1)", "a__", "good"]
    assert f"The scan 'a\\xd6\\xd0' is called '{scans[1]}' in files and tables." in caplog.messages


def test_names_that_some_file_systems_take_for_one(tmp_path: Path) -> None:
    """Whatever section is asked for, and in a data list too."""
    for folder, name in (("train", "A-image"), ("val", "a-image")):
        write_volume(tmp_path / folder / f"{name}.nii.gz")
    everything = scans_of(load_datalist(tmp_path, "all", labels=False))
    assert len({scan.lower() for scan in everything}) == 2
    assert everything == [
        scans_of(load_datalist(tmp_path, part, labels=False))[0] for part in ("training", "validation")
    ]
    content = {"test": [{"scan": name, "image": "train/A-image.nii.gz"} for name in ("A", "a")]}
    path = write_text(tmp_path / "l.json", json.dumps(content))
    assert scans_of(load_datalist(path, "test", labels=False)) == everything


def test_capitals_do_not_hide_that_two_files_have_one_name(tmp_path: Path) -> None:
    in_capitals(write_volume(tmp_path / "b.nii.gz"))
    write_volume(tmp_path / "B.nii")
    with pytest.raises(ValueError, match="B is already at"):
        load_datalist(tmp_path, "all", labels=False)


def test_a_table_knows_a_scan_by_the_name_of_its_file(tmp_path: Path) -> None:
    write_pair(tmp_path / "images", tmp_path / "labels", "=1")
    write_text(tmp_path / "info.csv", TABLE_HEAD + "=1,0,0\n=1,1,2\n")
    (item,) = load_datalist(tmp_path, "all")
    assert item["scan"].startswith("_1-") and item["label_codes"] == {1: 2}


def test_deep_folders_give_a_series_a_name_that_fits(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a long name of a folder " * 4] * 6)
    write_series(folder, np.zeros((6, 5, 9)))
    (scan,) = scans_of(load_datalist(tmp_path, "all", labels=False))
    assert len(scan) == 200


def test_links_in_a_loop_and_results_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_volume(tmp_path / "a.nii")
    (tmp_path / "all").symlink_to(".")
    write_volume(tmp_path / "masks" / "a.nii.gz")
    assert scans_of(load_datalist(tmp_path, "all", labels=False, predictions_dir=tmp_path / "masks")) == ["a"]
    assert caplog.messages == ["Folders of results are no input, and left out: masks."]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"a\.nii: is a link to a file that does not exist: mend or remove it"):
        load_datalist(tmp_path, "all", labels=False)


def test_problems_are_told_in_letters_that_can_be_printed(tmp_path: Path) -> None:
    write_text(tmp_path / os.fsdecode(b"\xd6.nii"), "")
    with pytest.raises(ValueError, match=r"\\xd6\.nii: is no readable NIfTI file"):
        load_datalist(tmp_path, "all", labels=False)
