"""What NIfTI headers tell of a volume's place, and what is assumed, refused or noted where they tell nothing."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine
from monai.transforms import LoadImage, SaveImage

from scripts.commands.mine import mine
from scripts.commands.tune import prepare_scan
from scripts.data.datalist import load_datalist
from scripts.data.scan_facts import scan_facts
from scripts.images.file_checks import file_notes, file_problems
from scripts.images.headers import assumed_affine, checked_axcodes
from scripts.images.image_reader import CTReader
from scripts.metrics.folders import load_pair
from scripts.transforms import CheckFilesd, QualityNotesd

SHAPE, SPACING_MM = (6, 5, 4), (0.7, 0.8, 1.25)
# Places in a header of NIfTI-1, nifti1.h: bytes from the start, and the type stored there
FIELDS = {
    "qfac": (76, "f"),
    "pixdim_1": (80, "f"),
    "pixdim_2": (84, "f"),
    "pixdim_3": (88, "f"),
    "xyzt_units": (123, "B"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "srow_x": (280, "4f"),
    "srow_y": (296, "4f"),
    "srow_z": (312, "4f"),
}
REFUSED = r"bare\.nii: states no orientation \(its sform_code and qform_code are 0\).*assumed_orientation"


def write(path: Path, volume: np.ndarray | None = None, **fields: Any) -> str:
    """Write a scan to the left, to the back, up; then change fields of its header as they lie in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = np.arange(120, dtype=np.int16).reshape(SHAPE) if volume is None else volume
    image = nib.Nifti1Image(volume, lps_affine(SPACING_MM))
    image.set_qform(lps_affine(SPACING_MM), 1)
    content = bytearray(image.to_bytes())
    for name, value in fields.items():
        place, kind = FIELDS[name]
        struct.pack_into(f"<{kind}", content, place, *np.atleast_1d(value).tolist())
    path.write_bytes(content)
    return str(path)


def write_bare(path: Path, volume: np.ndarray | None = None, **fields: Any) -> str:
    return write(path, volume, sform_code=0, qform_code=0, **fields)


def test_the_assumed_axes_make_the_affine() -> None:
    expected = {
        "RAS": [[0.7, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 1.25, 0], [0, 0, 0, 1]],
        "LPS": [[-0.7, 0, 0, 0], [0, -0.8, 0, 0], [0, 0, 1.25, 0], [0, 0, 0, 1]],
        # the first axis runs to the front, the second down, the third to the left
        "AIL": [[0, 0, -1.25, 0], [0.7, 0, 0, 0], [0, -0.8, 0, 0], [0, 0, 0, 1]],
    }
    for axcodes, affine in expected.items():
        np.testing.assert_array_equal(assumed_affine(SPACING_MM, axcodes), affine)


@pytest.mark.parametrize("value, axcodes", [(None, None), ("LPS", "LPS"), ("ras", "RAS"), ("ASL", "ASL")])
def test_orientations_that_can_be_stated(value: str | None, axcodes: str | None) -> None:
    assert checked_axcodes(value) == axcodes


@pytest.mark.parametrize("value", ["", "LP", "LPSS", "LRS", "LLS", "XYZ", "LPS ", True, 3, ["L", "P", "S"]])
def test_what_is_no_orientation_is_refused(value: Any) -> None:
    for use in (checked_axcodes, CTReader, lambda axcodes: CheckFilesd("image", assumed_orientation=axcodes)):
        with pytest.raises(ValueError, match=f"assumed_orientation is '{re.escape(str(value))}': give"):
            use(value)


# ---- a file that states no orientation is refused on every way in ----


def test_a_prediction_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        CheckFilesd("image")({"image": write_bare(tmp_path / "bare.nii")})


def test_the_reader_refuses_it(tmp_path: Path) -> None:
    """MONAI's loader tries other readers where one cannot open a file: none of them may read it."""
    with pytest.raises(ValueError, match=REFUSED):
        LoadImage(CTReader, image_only=True)(write_bare(tmp_path / "bare.nii"))


def test_a_training_refuses_it_at_its_start(tmp_path: Path) -> None:
    for kind in ("image", "label"):
        write_bare(tmp_path / f"{kind}s" / f"one-{kind}.nii", np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match=r"one-image\.nii: states no orientation"):
        load_datalist(tmp_path, "all")
    assert len(load_datalist(tmp_path, "all", assumed_orientation="LPS")) == 1


def test_mining_takes_the_stated_axes(tmp_path: Path) -> None:
    pred, label = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    pred[5, 4, 2] = 1
    write_bare(tmp_path / "images" / "one-image.nii", label)
    write_bare(tmp_path / "labels" / "one-label.nii", label)
    nib.save(nib.Nifti1Image(pred, assumed_affine(SPACING_MM, "LPS")), tmp_path / "one.nii.gz")
    with pytest.raises(ValueError, match="states no orientation"):
        mine(tmp_path, tmp_path, "all")
    # 5 steps of 0.7 mm to the left, 4 of 0.8 mm to the back, 2 of 1.25 mm up
    assert mine(tmp_path, tmp_path, "all", "LPS") == {"one": {"false_mm": [[-3.5, -3.2, 2.5]], "missed": []}}


def test_tuning_refuses_it(tmp_path: Path) -> None:
    item = {key: write_bare(tmp_path / "bare.nii") for key in ("image", "label", "pred")}
    with pytest.raises(ValueError, match=REFUSED):
        prepare_scan(item, tmp_path / "scan.npz", {}, (-200.0, 1000.0), 0.0)


# ---- with the axes stated, it is read with them ----


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_stated_axes_are_those_of_the_volume(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bare{suffix}"
    bare = nib.load(write_bare(tmp_path / "made.nii"))
    nib.save(bare, path)
    read = LoadImage(CTReader("LPS"), image_only=True)(path)
    np.testing.assert_array_equal(read.affine, assumed_affine(np.float32(SPACING_MM), "LPS"))
    np.testing.assert_array_equal(read.meta["original_affine"], read.affine)
    np.testing.assert_array_equal(read.numpy(), np.asarray(bare.dataobj))
    assert read.meta["assumed_orientation"] == "LPS"


def test_a_file_that_tells_its_orientation_keeps_it(tmp_path: Path) -> None:
    read = LoadImage(CTReader("RAS"), image_only=True)(write(tmp_path / "scan.nii"))
    np.testing.assert_allclose(read.affine, lps_affine(SPACING_MM), atol=1e-6)
    assert "assumed_orientation" not in read.meta


def test_a_mask_has_the_stated_axes_in_its_header(tmp_path: Path) -> None:
    read = LoadImage(CTReader("LPS"), image_only=True, ensure_channel_first=True)(write_bare(tmp_path / "bare.nii"))
    SaveImage(tmp_path, "mask", separate_folder=False, print_log=False, writer="NibabelWriter")(read)
    mask = nib.load(tmp_path / "bare_mask.nii.gz")
    assert int(mask.header["sform_code"]) > 0 and nib.aff2axcodes(mask.affine) == ("L", "P", "S")


def test_a_note_says_that_the_axes_are_assumed(tmp_path: Path) -> None:
    read = LoadImage(CTReader("LPS"), image_only=True)(write_bare(tmp_path / "bare.nii"))
    data = {"image": read, "thorax_axis": np.zeros((2, 3)), "midsagittal_plane": np.array([1.0, 0, 0, 0])}
    assert (
        QualityNotesd("image")(data)["image"]
        .meta["notes"]
        .startswith("its header states no orientation; LPS is assumed")
    )


def test_an_inspection_tells_the_assumed_axes(tmp_path: Path) -> None:
    facts, _, _ = scan_facts({"scan": "bare", "image": write_bare(tmp_path / "bare.nii")}, "LPS")
    assert facts.orientation == "LPS" and any("LPS is assumed" in note for note in facts.notes)


# ---- pairs ----


@pytest.mark.parametrize("assumed", [None, "LPS"])
def test_an_image_and_a_label_of_which_one_tells_are_refused(assumed: str | None, tmp_path: Path) -> None:
    told, bare = write(tmp_path / "told.nii"), write_bare(tmp_path / "bare.nii")
    for image, label in ((told, bare), (bare, told)):
        (problem,) = file_problems(image, label, assumed)
        assert problem.startswith(f"{bare}: states no orientation")


def test_an_image_and_a_label_of_which_none_tells_share_the_stated_axes(tmp_path: Path) -> None:
    image, label = (write_bare(tmp_path / name) for name in ("image.nii", "label.nii"))
    assert file_problems(image, label, "LPS") == []
    wider = write_bare(tmp_path / "wider.nii", pixdim_1=0.75)
    assert "apart" in file_problems(image, wider, "LPS")[0]  # 5 steps of 0.05 mm


def test_volumes_of_which_none_tells_are_scored_where_shape_and_spacing_agree(tmp_path: Path) -> None:
    pred, label = (Path(write_bare(tmp_path / name)) for name in ("pred.nii", "label.nii"))
    load_pair(pred, label)
    wider = Path(write_bare(tmp_path / "wider.nii", pixdim_1=0.75))
    with pytest.raises(ValueError, match="wider.nii is not on the grid of .*label.nii"):
        load_pair(wider, label)


def test_volumes_of_which_one_tells_are_scored_with_the_stated_axes_alone(tmp_path: Path) -> None:
    label, pred = Path(write_bare(tmp_path / "bare.nii")), tmp_path / "pred.nii"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), assumed_affine(SPACING_MM, "LPS")), pred)
    for pair in ((pred, label), (label, pred)):
        with pytest.raises(ValueError, match=r"bare\.nii: states no orientation .*pred\.nii states one"):
            load_pair(*pair)
        load_pair(*pair, "LPS")
        with pytest.raises(ValueError, match=r"is not on the grid of .* apart"):
            load_pair(*pair, "RAS")


# ---- sizes, forms and units ----


@pytest.mark.parametrize("sides", [(0.7, 0, 1.25), (-0.7, 0.8, 1.25), (0.7, 0.8, np.nan), (np.inf, 0.8, 1.25)])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1)])
def test_voxels_without_a_size_are_refused_where_it_counts(
    sides: tuple[float, ...], codes: tuple[int, int], tmp_path: Path
) -> None:
    """nibabel reads a side of 0 as 1 mm, and of -0.7 as 0.7 mm."""
    pixdim = dict(zip(("pixdim_1", "pixdim_2", "pixdim_3"), sides))
    path = write(tmp_path / "scan.nii", sform_code=codes[0], qform_code=codes[1], **pixdim)
    (problem,) = file_problems(path, None, "LPS")
    assert problem.startswith(f"{path}: its pixdim is ")


def test_a_size_of_0_does_not_count_beside_an_sform(tmp_path: Path) -> None:
    assert file_problems(write(tmp_path / "scan.nii", pixdim_2=0)) == []


def test_a_qfac_of_0_is_1_as_the_standard_has_it(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii", sform_code=0, qfac=0)
    assert file_problems(path) == []
    np.testing.assert_allclose(LoadImage(CTReader, image_only=True)(path).affine, lps_affine(SPACING_MM), atol=1e-5)


def test_an_empty_sform_that_counts_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii", srow_x=np.zeros(4), srow_y=np.zeros(4), srow_z=np.zeros(4))
    (problem,) = file_problems(path)
    assert problem.startswith(f"{path}: its affine has no inverse")


@pytest.mark.parametrize(
    "units, notes",
    [
        pytest.param(2, [], id="millimeters"),
        pytest.param(0, [], id="unknown"),
        pytest.param(10, [], id="millimeters and seconds"),
        pytest.param(1, ["its header gives lengths in meters; they are taken as mm."], id="meters"),
        pytest.param(11, ["its header gives lengths in micrometers; they are taken as mm."], id="micrometers, seconds"),
    ],
)
def test_other_units_than_mm_are_noted(units: int, notes: list[str], tmp_path: Path) -> None:
    assert file_notes(write(tmp_path / "scan.nii", xyzt_units=units)) == notes


def test_lengths_that_are_meters_are_refused_with_their_unit(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), lps_affine(np.array(SPACING_MM) / 1000))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "scan.nii")
    (problem,) = file_problems(str(tmp_path / "scan.nii"))
    assert "its voxels of 0.0007 x 0.0008 x 0.00125 mm are no CT's (its header says meters" in problem
