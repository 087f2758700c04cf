"""DICOM series found by their headers: what is a scan, what is skipped, what is refused, and where voxels lie."""

from __future__ import annotations

import locale
import os
from functools import partial
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_scans import OBLIQUE, ORIGIN_MM, PATIENT, SERIES, SPACING_MM, UPRIGHT, ras_affine, write_series
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from pydicom.uid import (
    EnhancedCTImageStorage,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from scripts.data.datalist import load_datalist
from scripts.data.dataset import files_hashing
from scripts.images.dicom_series import find_series, is_hidden_name
from scripts.images.image_reader import CTReader

OTHER = "1.2.826.0.1.3680043.8.498.77"
READER = "scripts.images.image_reader.CTReader"


def volume(slices=10, columns=6, rows=5):
    """Whole HU from -1000 to 999, at random."""
    return np.random.default_rng(3).integers(-1000, 1000, (columns, rows, slices))


def loaded(image):
    return LoadImaged("image", image_only=True, reader=READER)({"image": image})["image"]


def scans(root):
    return load_datalist(root, "all", labels=False)


@pytest.mark.parametrize("directions", [UPRIGHT, OBLIQUE], ids=["upright", "oblique"])
def test_slices_are_sorted_by_position_and_lie_where_the_headers_say(directions, tmp_path):
    files = write_series(tmp_path / "ct", volume(), directions)
    (item,) = scans(tmp_path)
    assert item["image"] == [str(path) for path in files]
    assert [path.name for path in files] != sorted(path.name for path in files)
    image = loaded(item["image"])
    np.testing.assert_array_equal(image.numpy(), volume())
    np.testing.assert_allclose(image.affine.numpy(), ras_affine(directions), atol=1e-4)


@pytest.mark.parametrize("directions", [UPRIGHT, OBLIQUE], ids=["upright", "oblique"])
def test_dicom_and_nifti_of_one_scan_give_the_same_voxels_at_the_same_places(directions, tmp_path):
    write_series(tmp_path / "ct", volume(), directions)
    (item,) = scans(tmp_path)
    nib.save(nib.Nifti1Image(volume().astype(np.int16), ras_affine(directions)), tmp_path / "same.nii.gz")
    turn = Compose([EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None)])
    dicom, nifti = (turn({"image": loaded(image)})["image"] for image in (item["image"], str(tmp_path / "same.nii.gz")))
    np.testing.assert_array_equal(dicom.numpy(), nifti.numpy())
    np.testing.assert_allclose(dicom.affine.numpy(), nifti.affine.numpy(), atol=1e-4)


def test_slices_that_run_downward_are_turned(tmp_path):
    """Instance numbers from head to foot, as many scanners have them: the order is that of the positions."""
    files = write_series(tmp_path / "ct", volume(), change=lambda n, s: setattr(s, "InstanceNumber", 10 - n))
    assert scans(tmp_path)[0]["image"] == [str(path) for path in files]


def test_slope_and_intercept_of_each_slice(tmp_path):
    def change(number, slice_):
        slice_.RescaleSlope, slice_.RescaleIntercept = 1 + 0.5 * (number % 2), -1000

    write_series(tmp_path / "ct", volume(), change=change)
    image = loaded(scans(tmp_path)[0]["image"]).numpy()
    np.testing.assert_allclose(image[..., 0], (volume()[..., 0] + 1024) - 1000)
    np.testing.assert_allclose(image[..., 1], 1.5 * (volume()[..., 1] + 1024) - 1000)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_compressed_by_pydicom(syntax, tmp_path):
    large = volume(columns=64, rows=48)  # GDCM cannot read tiny compressed images
    write_series(tmp_path / "ct", large, change=lambda n, s: s.compress(syntax, generate_instance_uid=False))
    np.testing.assert_array_equal(loaded(scans(tmp_path)[0]["image"]).numpy(), large)


@pytest.mark.parametrize(
    "compressor, syntax", [pytest.param("JPEG2000", b"4.90", id="JPEG 2000"), pytest.param("JPEG", b"4.70", id="JPEG")]
)
def test_compressed_by_itk(compressor, syntax, tmp_path, request):
    """Lossless; pydicom needs a package more for these."""
    large = volume(columns=64, rows=48)
    request.addfinalizer(partial(locale.setlocale, locale.LC_ALL, locale.setlocale(locale.LC_ALL)))  # ITK sets "C"
    (tmp_path / "compressed").mkdir()
    for number, path in enumerate(write_series(tmp_path / "plain", large)):
        reader_io, writer_io = itk.GDCMImageIO.New(), itk.GDCMImageIO.New(KeepOriginalUID=True)
        image = itk.imread(str(path), itk.SS, imageio=reader_io)
        writer_io.SetMetaDataDictionary(reader_io.GetMetaDataDictionary())
        writer_io.SetCompressor(compressor)
        itk.imwrite(image, str(tmp_path / "compressed" / f"{9 - number}"), imageio=writer_io, compression=True)
    (item,) = scans(tmp_path / "compressed")
    assert b"1.2.840.10008.1.2." + syntax in Path(item["image"][0]).read_bytes()
    np.testing.assert_array_equal(loaded(item["image"]).numpy(), large)


def test_no_tag_of_the_header_reaches_the_metadata(tmp_path):
    write_series(tmp_path / "ct", volume())
    metadata = str(loaded(scans(tmp_path)[0]["image"]).meta)
    assert not [value for value in PATIENT.values() if value in metadata]


# ---- what is a scan, and its name ----


def test_series_are_found_by_their_tags_wherever_the_files_lie(tmp_path):
    """Two series in one folder, a third in folders of at most four files."""
    write_series(tmp_path / "study", volume())
    write_series(tmp_path / "study", volume(), series=OTHER)
    for number, path in enumerate(write_series(tmp_path / "new", volume(), series=f"{OTHER}.1")):
        folder = tmp_path / "cd" / f"part {number // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{number % 4}")
    found, _ = find_series(path for path in tmp_path.rglob("*") if path.is_file())
    hashes = {series.uid: series.short_hash for series in found}
    assert {item["scan"] for item in scans(tmp_path)} == {"cd", f"study-{hashes[SERIES]}", f"study-{hashes[OTHER]}"}
    assert all(len(item["image"]) == 10 for item in scans(tmp_path))


def test_the_hash_of_a_series_is_its_own_and_stays(tmp_path):
    write_series(tmp_path / "a", volume())
    (series,), _ = find_series((tmp_path / "a").iterdir())
    # printf 1.2.826.0.1.3680043.8.498.1 | sha256sum
    assert series.short_hash == "6dadc91b85"


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("Quuxington Zebediah/CT thorax", id="name"),
        pytest.param("ZEBEDIAH_2026/ct", id="first name in capitals"),
        pytest.param("PX47110815", id="number, without dashes"),
        pytest.param("px-4711-0815/ct", id="number"),
        pytest.param("1955-06-07", id="day of birth"),
    ],
)
def test_folders_that_name_the_patient_name_no_scan(folder, tmp_path):
    write_series(tmp_path / folder, volume())
    (item,) = scans(tmp_path)
    assert item["scan"] == "ct-6dadc91b85" and is_hidden_name(item["scan"])


def test_pseudonyms_may_name_a_scan(tmp_path):
    write_series(tmp_path / "PX-4711-0815", volume(), change=lambda n, s: setattr(s, "PatientIdentityRemoved", "YES"))
    assert scans(tmp_path)[0]["scan"] == "PX-4711-0815"
    assert not is_hidden_name("PX-4711-0815") and not is_hidden_name("ct-1")


def test_a_folder_whose_uids_were_removed_is_one_series(tmp_path):
    for folder in ("a", "b"):
        write_series(tmp_path / folder, volume(), change=set_tags(SeriesInstanceUID="", SOPClassUID=""))
    assert [(item["scan"], len(item["image"])) for item in scans(tmp_path)] == [("a", 10), ("b", 10)]


def set_tags(**tags):
    def change(number, slice_):
        for tag, value in tags.items():
            setattr(slice_, tag, value)

    return change


@pytest.mark.parametrize(
    "change, reason",
    [
        pytest.param(set_tags(Modality="PT"), "its modality is PT, not CT", id="another modality"),
        pytest.param(
            set_tags(Modality="SR", SOPClassUID=XRayRadiationDoseSRStorage), "modality is SR", id="dose report"
        ),
        pytest.param(set_tags(Modality="SEG", SOPClassUID=SegmentationStorage), "modality is SEG", id="segmentation"),
        pytest.param(set_tags(SOPClassUID=SecondaryCaptureImageStorage), "Secondary Capture", id="secondary capture"),
        pytest.param(set_tags(SOPClassUID=EnhancedCTImageStorage), "multi-frame", id="multi-frame"),
        pytest.param(set_tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer", id="localizer"),
        pytest.param(set_tags(ImageType=["DERIVED", "SECONDARY", "MIP"]), "projection", id="MIP"),
        pytest.param(
            lambda n, s: delattr(s, "ImagePositionPatient"), "its ImagePositionPatient is not 3 numbers", id="no place"
        ),
        pytest.param(
            set_tags(ImagePositionPatient=[1, 2]), "its ImagePositionPatient is not 3 numbers", id="two numbers"
        ),
        pytest.param(set_tags(ImagePositionPatient=list(ORIGIN_MM)), "reaches over 0 mm", id="one place: bolus"),
    ],
)
def test_what_is_passed_over_is_logged_with_the_reason(change, reason, tmp_path, caplog):
    write_series(tmp_path / "study", volume())
    write_series(tmp_path / "study" / PATIENT["PatientID"], volume(), series=OTHER, change=change)
    with caplog.at_level("INFO"):
        assert [item["scan"] for item in scans(tmp_path)] == ["study"]
    (message,) = [record.getMessage() for record in caplog.records if record.name == "scripts.images.dicom_series"]
    assert reason in message and "of 10 files is skipped" in message
    assert not [value for value in PATIENT.values() if value in message]
    assert "study/[patient]: series" in message


def test_a_damaged_file_is_told_of_without_the_name_of_any_patient(tmp_path, caplog):
    files = write_series(tmp_path / "Quuxington", volume(9), change=set_tags(SpecificCharacterSet="ISO_IR 100"))
    files[8].write_bytes(files[8].read_bytes().replace(b"ISO_IR", b"\0SO_IR"))  # pydicom raises a ValueError
    with caplog.at_level("INFO"), pytest.raises(
        ValueError, match=r"/\[patient\]: series \w+ of 9 files: a file among its slices"
    ):
        scans(tmp_path)
    assert "Quux" not in caplog.text


def test_a_short_series_is_passed_over(tmp_path):
    write_series(tmp_path / "short", volume(7))  # 7 · 5 mm
    write_series(tmp_path / "long enough", volume(8), series=OTHER)
    assert [item["scan"] for item in scans(tmp_path)] == ["long enough"]


def test_localizers_within_a_series_are_left_out(tmp_path):
    def change(number, slice_):
        if number == 0:
            slice_.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    files = write_series(tmp_path / "ct", volume(), change=change)
    assert scans(tmp_path)[0]["image"] == [str(path) for path in files[1:]]


def test_a_folder_of_nothing_but_other_dicom_tells_why(tmp_path):
    write_series(tmp_path / "mr", volume(), change=set_tags(Modality="MR"))
    with pytest.raises(ValueError, match=r"holds no scan, but DICOM that is none:\n.*/mr: .*modality is MR, not CT"):
        scans(tmp_path)


# ---- what is refused ----


def move(number_moved, x=0.0, y=0.0, z=0.0):
    def change(number, slice_):
        if number_moved in (number, None):
            old = [float(value) for value in slice_.ImagePositionPatient]
            slice_.ImagePositionPatient = [o + d for o, d in zip(old, (x, y, z))]

    return change


def tilt(number, slice_):
    slice_.ImagePositionPatient = [ORIGIN_MM[0], ORIGIN_MM[1] + 0.875 * number, ORIGIN_MM[2] + 5 * number]


def at(number_changed, **tags):
    return lambda number, slice_: set_tags(**tags)(number, slice_) if number == number_changed else None


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param(move(3, z=1.0), r"unevenly spaced between 25.0 and 26.0 mm|unevenly spaced", id="uneven"),
        pytest.param(move(3, z=-5.0), "two slices lie at 20.0 mm along the normal: two phases", id="two at a place"),
        pytest.param(tilt, "gantry was tilted by 9.9 degrees", id="tilted gantry"),  # atan(0.875 / 5)
        pytest.param(at(2, PatientID="another"), "two patients are mixed", id="two patients"),
        pytest.param(at(2, FrameOfReferenceUID="1.2.3"), "two examinations are mixed", id="two frames of reference"),
        pytest.param(at(2, PixelSpacing=[0.9, 0.9]), "different size are mixed", id="two pixel spacings"),
        pytest.param(
            at(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "different orientation are mixed", id="two planes"
        ),
        pytest.param(set_tags(Rows=4096), "the file of a slice is cut short", id="cut short"),
        pytest.param(lambda n, s: delattr(s, "RescaleSlope"), "HU are unknown", id="no slope"),
        pytest.param(move(5, x=3.0), "not lie on one straight line", id="a slice aside"),
    ],
)
def test_a_broken_series_gives_an_error_that_names_the_folder(change, message, tmp_path):
    write_series(tmp_path / "good", volume(), series=OTHER)
    write_series(tmp_path / "bad", volume(), change=change)
    with pytest.raises(ValueError, match=rf"{tmp_path}/bad: series \w+ of 10 files: .*{message}"):
        scans(tmp_path)


def test_missing_slices(tmp_path):
    files = write_series(tmp_path / "bad", volume(12))
    files[4].unlink()
    with pytest.raises(ValueError, match="slices are missing between 25.0 and 35.0 mm along the normal, where 5.00 mm"):
        scans(tmp_path)


def test_copies_of_a_slice(tmp_path):
    files = write_series(tmp_path / "bad", volume())
    (tmp_path / "bad" / "copy").write_bytes(files[0].read_bytes())
    with pytest.raises(ValueError, match="a slice is there twice, at 10.0 mm along the normal; remove the copies"):
        scans(tmp_path)


def test_an_error_does_not_name_the_patient(tmp_path):
    write_series(tmp_path / "Quuxington" / "ct", volume(), change=move(3, z=1.0))
    with pytest.raises(ValueError) as error:
        scans(tmp_path)
    assert f"{tmp_path}/[patient]/ct: series 6dadc91b85" in str(error.value)


def test_an_error_names_neither_of_two_patients(tmp_path):
    write_series(tmp_path / "Miller", volume(), change=at(2, PatientName="Miller^Ann", PatientID="another"))
    with pytest.raises(ValueError) as error:
        scans(tmp_path)
    assert f"{tmp_path}/[patient]: series" in str(error.value)


@pytest.mark.parametrize("series, found", [pytest.param([], 0, id="none"), pytest.param([SERIES, OTHER], 2, id="two")])
def test_a_folder_given_to_the_reader_holds_one_series(series, found, tmp_path):
    for uid in series:
        write_series(tmp_path, volume(), series=uid)
    with pytest.raises(ValueError, match=f"holds {found} CT series, must hold one"):
        CTReader().get_data(CTReader().read(str(tmp_path)))


def test_a_folder_given_to_the_reader(tmp_path):
    write_series(tmp_path / "ct", volume())
    np.testing.assert_array_equal(loaded(str(tmp_path / "ct")).numpy(), volume())


def test_a_nifti_file_goes_through_the_reader_as_through_monais(tmp_path):
    path = str(tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(volume().astype(np.int16), ras_affine(OBLIQUE)), path)
    image, stock = loaded(path), LoadImaged("image", image_only=True)({"image": path})["image"]
    np.testing.assert_array_equal(image.numpy(), stock.numpy())
    np.testing.assert_array_equal(image.affine.numpy(), stock.affine.numpy())


@pytest.mark.parametrize("number", [1, 4, 10])
def test_a_slice_that_cannot_be_decoded_is_told_by_its_number(number, tmp_path):
    broken = (files := write_series(tmp_path / "Quuxington", volume(columns=64, rows=48)))[number - 1]
    slice_ = pydicom.dcmread(broken)
    slice_.compress(RLELossless, generate_instance_uid=False)
    slice_.save_as(broken)
    broken.write_bytes(broken.read_bytes()[:-2000])
    with pytest.raises(
        ValueError, match=f"^slice {number} of 10, by place, cannot be decoded: export the series again.$"
    ):
        CTReader().get_data(CTReader().read([str(path) for path in files]))


def test_a_change_of_any_slice_changes_the_hash_of_its_item(tmp_path):
    """So a prediction, or what is kept of it, is taken for that of the same files alone."""
    files = write_series(tmp_path, volume())
    item = {"scan": "a", "image": [str(path) for path in files]}
    before = files_hashing(item)
    assert files_hashing(item) == before
    os.utime(files[7], (1, 1))
    assert files_hashing(item) != before


def test_spacing_of_the_series(tmp_path):
    write_series(tmp_path / "ct", volume(), OBLIQUE)
    np.testing.assert_allclose(loaded(scans(tmp_path)[0]["image"]).pixdim.numpy(), SPACING_MM, atol=1e-5)
