"""What DICOM files of other notations hold: the HU that were written, at the places that were written."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_scans import SPACING_MM, ras_affine, write_series
from monai.transforms import LoadImage
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from scripts.data.datalist import load_datalist
from scripts.images.hounsfield import hu_problem
from scripts.images.image_reader import CTReader

AIR_HU = -1024


def volume(slices: int = 10, columns: int = 18, rows: int = 15) -> np.ndarray:
    """Whole HU from -1000 to 599, at random: no slice is like its mirror image or its negative."""
    return np.random.default_rng(5).integers(-1000, 600, (columns, rows, slices))


def read_back(folder: Path):
    """The one scan of a folder, as a prediction finds and loads it."""
    (item,) = load_datalist(folder, "all", labels=False)
    return LoadImage(CTReader, image_only=True)(item["image"])


def rewrite(path: Path, syntax: str, implicit: bool = False) -> None:
    slice_ = pydicom.dcmread(path)
    slice_.file_meta.TransferSyntaxUID = syntax
    slice_.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=True)


def meta_bytes(content: bytes) -> int:
    """Where the data set begins: the group's length stands behind the preamble, DICM and 8 bytes."""
    return 144 + struct.unpack("<I", content[140:144])[0]


def without_meta(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[meta_bytes(content) :])


def without_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def without_zeros(path: Path) -> None:
    path.write_bytes(path.read_bytes()[128:])


def implicit(path: Path) -> None:
    rewrite(path, ImplicitVRLittleEndian, implicit=True)


def implicit_without_meta(path: Path) -> None:
    implicit(path)
    without_meta(path)


def implicit_without_preamble(path: Path) -> None:
    implicit(path)
    without_preamble(path)


def deflated(path: Path) -> None:
    rewrite(path, DeflatedExplicitVRLittleEndian)


def big_endian(path: Path) -> None:
    """pydicom does not turn the bytes of a data set that was read, so a new one is made of it."""
    slice_ = pydicom.dcmread(path)
    swapped = pydicom.Dataset()
    for element in slice_:
        swapped.add(element)
    swapped.PixelData = slice_.pixel_array.astype(">i2").tobytes()
    swapped.file_meta = slice_.file_meta
    swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(path, swapped, enforce_file_format=True)


def trailing_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0\0")


@pytest.mark.parametrize(
    "spoil",
    [
        without_meta,
        without_preamble,
        without_zeros,
        implicit,
        implicit_without_meta,
        implicit_without_preamble,
        deflated,
        big_endian,
        trailing_bytes,
    ],
)
def test_a_file_of_any_notation_gives_the_hu_that_were_written(spoil, tmp_path):
    for path in write_series(tmp_path / "ct", volume()):
        spoil(path)
    image = read_back(tmp_path)
    np.testing.assert_array_equal(image.numpy(), volume())
    np.testing.assert_allclose(image.affine.numpy(), ras_affine(), atol=1e-4)


@pytest.mark.parametrize("spoil", [without_meta, without_preamble, deflated])
def test_notations_may_be_mixed_in_a_stack(spoil, tmp_path):
    for path in write_series(tmp_path / "ct", volume())[-4:]:
        spoil(path)
    np.testing.assert_array_equal(read_back(tmp_path).numpy(), volume())


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless], ids=["plain", "RLE", "JPEG-LS"])
def test_monochrome1_tells_how_values_are_shown_and_not_what_they_are(syntax, tmp_path):
    def change(number, slice_):
        slice_.PhotometricInterpretation = "MONOCHROME1"
        if syntax:
            slice_.compress(syntax, generate_instance_uid=False)

    large = volume(columns=64, rows=48)
    write_series(tmp_path / "ct", large, change=change)
    np.testing.assert_array_equal(read_back(tmp_path).numpy(), large)


def test_monochrome1_without_meta_information(tmp_path):
    files = write_series(
        tmp_path / "ct", volume(), change=lambda n, s: setattr(s, "PhotometricInterpretation", "MONOCHROME1")
    )
    for path in files:
        without_preamble(path)
    np.testing.assert_array_equal(read_back(tmp_path).numpy(), volume())


def padded(number, slice_, stored: int, is_signed: bool, tag: int | None, range_limit: int | None = None) -> None:
    """Write a stored value into the first three rows, and what the header says of it."""
    pixels = slice_.pixel_array.astype(np.int32)
    pixels[:3] = stored
    slice_.PixelData = (pixels & 0xFFFF).astype("<u2").tobytes()
    slice_.PixelRepresentation = int(is_signed)
    for keyword, value in (("PixelPaddingValue", tag), ("PixelPaddingRangeLimit", range_limit)):
        if value is not None:
            slice_.add_new(keyword, "US" if value >= 0 else "SS", value)


@pytest.mark.parametrize(
    "stored, is_signed, tag, limit, wanted_hu",
    [
        pytest.param(-2000, True, -2000, None, AIR_HU, id="as it should be"),
        pytest.param(-2000, True, 63536, None, AIR_HU, id="signed pixels, unsigned tag"),
        pytest.param(-2000, False, 63536, None, AIR_HU, id="unsigned pixels and tag"),
        pytest.param(-2000, False, -2000, None, AIR_HU, id="unsigned pixels, signed tag"),
        pytest.param(-32768, False, 32768, None, AIR_HU, id="the least signed value"),
        pytest.param(65535, False, 65535, None, AIR_HU, id="the largest unsigned value"),
        pytest.param(-1990, True, -2000, -1980, AIR_HU, id="a range"),
        pytest.param(4000, True, 4000, None, AIR_HU, id="a value of bone at the edge"),
        pytest.param(-2000, False, None, None, -2000 - 1024, id="unsigned pixels, no tag"),
    ],
)
def test_padding_is_air(stored, is_signed, tag, limit, wanted_hu, tmp_path):
    write_series(tmp_path / "ct", volume(), change=lambda n, s: padded(n, s, stored, is_signed, tag, limit))
    image = read_back(tmp_path).numpy()
    np.testing.assert_array_equal(image[:, :3], wanted_hu)
    np.testing.assert_array_equal(image[:, 3:], volume()[:, 3:])
    assert not hu_problem(image)


def test_a_tissue_with_the_value_of_padding_stays(tmp_path):
    """Stored 0 is padding, and is 0 HU: what touches no edge is water."""
    water = np.full((18, 15, 10), 40)
    water[5:9, 5:9], water[:, 0] = 0, 0

    def change(number, slice_):
        slice_.RescaleIntercept, slice_.PixelPaddingValue = 0, 0
        slice_.PixelData = water[:, :, number].T.astype("<i2").tobytes()

    write_series(tmp_path / "ct", water, change=change)
    image = read_back(tmp_path).numpy()
    assert (image[5:9, 5:9] == 0).all() and (image[:, 0] == AIR_HU).all()


def test_metal_of_unsigned_values_stays(tmp_path):
    """Stored 31734 is 30710 HU, the top of the extended scale; 40000 by a slope of 0.1 is 2976 HU."""

    def change(number, slice_):
        slice_.PixelRepresentation = 0
        pixels = (volume()[:, :, number].T + 1024).astype("<u2")
        if number == 0:
            pixels[1, 2] = 31734
        else:
            slice_.RescaleSlope, pixels[1, 2] = 0.1, 40000
        slice_.PixelData = pixels.tobytes()

    write_series(tmp_path / "ct", volume(), change=change)
    image = read_back(tmp_path).numpy()
    assert image[2, 1, 0] == 30710 and image[2, 1, 1] == pytest.approx(2976)


def at(positions, **tags):
    def change(number, slice_):
        slice_.ImagePositionPatient = [*slice_.ImagePositionPatient[:2], positions[number]]

    return change


def test_positions_rounded_to_a_tenth_of_a_millimeter(tmp_path):
    """The spacing is that from the first to the last slice, not of the first two (1.3)."""
    z = [f"{10 + 4 / 3 * number:.1f}" for number in range(46)]  # 10.0 to 70.0
    write_series(tmp_path / "ct", volume(46), spacing_mm=(*SPACING_MM[:2], 4 / 3), change=at(z))
    image = read_back(tmp_path)
    np.testing.assert_array_equal(image.numpy(), volume(46))
    np.testing.assert_allclose(image.affine.numpy(), ras_affine(spacing_mm=(*SPACING_MM[:2], 4 / 3)), atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda n, s: setattr(s, "PixelSpacing", ["0.80", "0.70"] if n % 2 else ["0.8", "0.7"]), id="zeros"
        ),
        pytest.param(lambda n, s: setattr(s, "PixelSpacing", [0.8 + n * 1e-6, 0.7]), id="a millionth"),
        pytest.param(
            lambda n, s: setattr(
                s, "ImageOrientationPatient", ["1.0", "0", "-0.0", "0", "1e0", "0"] if n % 2 else [1, 0, 0, 0, 1, 0]
            ),
            id="orientation",
        ),
        pytest.param(
            lambda n, s: setattr(s, "ImagePositionPatient", ["-2.0e+01", "-30.000000", f"{10 + 5 * n:e}"]),
            id="exponents",
        ),
        pytest.param(
            lambda n, s: setattr(s, "ImagePositionPatient", [-20 + 1e-3 * (n % 2), -30 - 1e-3 * (n % 3), 10 + 5 * n]),
            id="a thousandth aside",
        ),
        pytest.param(lambda n, s: setattr(s, "RescaleSlope", "1.0" if n % 2 else "1"), id="slope"),
        pytest.param(lambda n, s: setattr(s, "ImageType", "ORIGINAL"), id="image type of one value"),
        pytest.param(lambda n, s: delattr(s, "ImageType"), id="no image type"),
        pytest.param(lambda n, s: delattr(s, "InstanceNumber"), id="no number"),
        pytest.param(lambda n, s: delattr(s, "SliceThickness"), id="no thickness"),
        pytest.param(lambda n, s: delattr(s, "SOPInstanceUID"), id="no UID"),
        pytest.param(lambda n, s: setattr(s, "SOPInstanceUID", "1.2.3"), id="one UID for all"),
    ],
)
def test_numbers_are_compared_as_numbers_and_what_is_not_needed_may_lack(change, tmp_path):
    for path in write_series(tmp_path / "ct", volume()):
        slice_ = pydicom.dcmread(path)
        change(slice_.InstanceNumber - 1, slice_)
        slice_.save_as(path)
    image = read_back(tmp_path)
    np.testing.assert_array_equal(image.numpy(), volume())
    np.testing.assert_allclose(image.affine.numpy(), ras_affine(), atol=2e-3)


def test_a_deflated_file_that_is_cut_short_is_refused(tmp_path):
    files = write_series(tmp_path / "ct", volume())
    for path in files:
        deflated(path)
    files[-1].write_bytes(files[-1].read_bytes()[:-40])
    with pytest.raises(zlib.error):
        pydicom.dcmread(files[-1])
    with pytest.raises(ValueError, match="a file among its slices cannot be read"):
        read_back(tmp_path)
