"""NRRD, MetaImage and pairs: read where they say where the voxels lie, and refused by name where they do not."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import dicom_scans
import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_scans import OBLIQUE, write_series
from monai.transforms import LoadImage

from scripts.images.file_checks import file_notes, file_problems
from scripts.images.image_reader import CTReader
from scripts.images.volume_files import companion_files, is_nifti, is_volume, volume_stem

SPACING_MM = (0.7, 0.8, 1.25)
ORIGIN_MM = (12.0, -7.0, 30.0)  # LPS
GBK = os.fsdecode(b"a\xd6\xd0")
# LPS directions of the three axes, as columns
DIRECTIONS = {
    "upright": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "exchanged and mirrored": np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": OBLIQUE,
}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def volume() -> np.ndarray:
    """No two voxels alike, and values below 0."""
    return np.arange(-100, 7 * 6 * 5 - 100, dtype=np.int16).reshape(7, 6, 5)


def affine_of(directions: np.ndarray) -> np.ndarray:
    """Where the voxels lie, RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ directions * SPACING_MM
    affine[:3, 3] = LPS_TO_RAS @ ORIGIN_MM
    return affine


def vector(values: Sequence[float]) -> str:
    return f"({','.join(f'{value:.17g}' for value in values)})"


def nrrd(
    volume: np.ndarray,
    directions: np.ndarray = np.eye(3),
    space: str = "left-posterior-superior",
    encoding: str = "raw",
    lines: str = "",
    data_file: str = "",
    spacing_mm: Sequence[float] = SPACING_MM,
    origin_mm: Sequence[float] = ORIGIN_MM,
) -> bytes:
    """A NRRD, written by its definition; the directions are those in its own space."""
    axes = " ".join(vector(axis) for axis in (directions * spacing_mm).T)
    head = f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: {' '.join(map(str, volume.shape))}\n"
    head += f"space directions: {axes}\nspace origin: {vector(origin_mm)}\nendian: little\n{lines}"
    head += f"encoding: {encoding}\n" + (f"data file: {data_file}\n" if data_file else "\n")
    voxels = volume.astype("<i2").tobytes(order="F")
    return head.encode() + (b"" if data_file else gzip.compress(voxels) if encoding == "gzip" else voxels)


def by_itk(path: Path, volume: np.ndarray, directions: np.ndarray, compression: bool = False) -> None:
    image = itk.image_from_array(np.ascontiguousarray(volume.T))
    image.SetSpacing(SPACING_MM)
    image.SetOrigin(ORIGIN_MM)
    image.SetDirection(itk.matrix_from_array(directions))
    itk.imwrite(image, str(path), compression=compression)


def write(path: Path, volume: np.ndarray, directions: np.ndarray = np.eye(3)) -> Path:
    """Write a volume in the format of the suffix."""
    suffix = path.name.lower().split(".", 1)[1]
    if suffix == "img":
        nib.save(nib.Nifti1Pair(volume, affine_of(directions)), path)
    elif suffix.startswith("nii"):
        nib.save(nib.Nifti1Image(volume, affine_of(directions)), path)
    else:
        by_itk(path, volume, directions, compression="z" in path.stem)
    return path


def read(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    image = LoadImage(CTReader, image_only=True)(path)
    return image.numpy(), np.asarray(image.affine)


def problem(path: Path) -> str:
    """The one problem that the header has, which reading has too."""
    (told,) = file_problems(str(path))
    assert str(path) in told
    return told


# ---- what is read right ----


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.img", "a.nrrd", "z.nrrd", "a.nhdr", "a.mha", "z.mha", "a.mhd", "z.mhd"]
)
def test_each_format_gives_the_same_voxels_at_the_same_place(
    name: str, directions: np.ndarray, volume: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / name, volume, directions)
    assert file_problems(str(path)) == [] and file_notes(path) == []
    voxels, affine = read(path)
    np.testing.assert_array_equal(voxels, volume)
    np.testing.assert_allclose(affine, affine_of(directions), atol=1e-5)
    assert voxels.flags.c_contiguous


@pytest.mark.parametrize("directions", [DIRECTIONS["flipped"], DIRECTIONS["oblique"]], ids=["flipped", "oblique"])
def test_an_image_as_dicom_and_in_a_file(directions: np.ndarray, volume: np.ndarray, tmp_path: Path) -> None:
    """The same place by the rules of NRRD and by those of DICOM."""
    slices = write_series(tmp_path / "dicom", np.tile(volume, 3), directions)
    image = LoadImage(CTReader, image_only=True)([str(path) for path in slices])
    path = tmp_path / "a.nrrd"
    path.write_bytes(
        nrrd(np.tile(volume, 3), directions, spacing_mm=dicom_scans.SPACING_MM, origin_mm=dicom_scans.ORIGIN_MM)
    )
    voxels, affine = read(path)
    np.testing.assert_array_equal(voxels, image.numpy())
    np.testing.assert_allclose(affine, np.asarray(image.affine), atol=1e-4)


@pytest.mark.parametrize(
    "space, to_ras",
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("Left-Anterior-Superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_the_space_of_a_nrrd_counts(
    space: str, to_ras: tuple[int, int, int], encoding: str, volume: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd(volume, OBLIQUE, space, encoding))
    voxels, affine = read(path)
    expected = np.eye(4)
    expected[:3, :3] = np.diag(to_ras) @ OBLIQUE * SPACING_MM
    expected[:3, 3] = np.diag(to_ras) @ ORIGIN_MM
    np.testing.assert_array_equal(voxels, volume)
    np.testing.assert_allclose(affine, expected, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["A.NII", "A.NII.GZ", "A.Nii.gz", "A.nii.GZ", "A.Nii", "A.Img", "A.NRRD", "A.MHA", "A.IMG", "A.MHD", "A.NHDR"],
)
def test_suffixes_in_capitals(name: str, volume: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / name.lower(), volume, OBLIQUE)
    path.rename(tmp_path / name)
    if name.lower() == "a.img":
        (tmp_path / "a.hdr").rename(tmp_path / {"A.IMG": "A.HDR", "A.Img": "A.Hdr"}[name])
    assert file_problems(str(tmp_path / name)) == []
    voxels, affine = read(tmp_path / name)
    np.testing.assert_array_equal(voxels, volume)
    np.testing.assert_allclose(affine, affine_of(OBLIQUE), atol=1e-5)


def test_a_pair_by_its_header(volume: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "a.img", volume)
    np.testing.assert_array_equal(read(tmp_path / "a.hdr")[0], volume)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.img", "x.nrrd", "x.mha", "x.mhd"])
def test_names_that_are_no_utf8(name: str, volume: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / GBK
    folder.mkdir()
    write(tmp_path / name, volume)
    for path in tmp_path.glob("x.*"):
        path.rename(folder / path.name)
    np.testing.assert_array_equal(read(str(folder / name))[0], volume)


def test_a_series_in_a_folder_whose_name_is_no_utf8(volume: np.ndarray, tmp_path: Path) -> None:
    slices = write_series(tmp_path / GBK, np.tile(volume, 3))
    np.testing.assert_array_equal(read([str(path) for path in slices])[0], np.tile(volume, 3))  # type: ignore[arg-type]


def test_fields_of_a_header_do_not_reach_the_metadata(volume: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd(volume, lines="PatientName:=Quuxington^Zebediah\n"))
    write(tmp_path / "a.mha", volume)
    mha = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(mha.replace(b"NDims", b"PatientName = Quuxington^Zebediah\nNDims", 1))
    for file in (path, tmp_path / "a.mha"):
        assert "Quuxington" not in str(LoadImage(CTReader, image_only=True)(file).meta)


# ---- what is refused ----


def changed(name: str, old: str, new: str) -> Callable[[Path, np.ndarray], Path]:
    """A file whose header says something else."""

    def make(folder: Path, volume: np.ndarray) -> Path:
        path = folder / name
        path.write_bytes(nrrd(volume)) if name.endswith("nrrd") else write(path, volume)
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))
        return path

    return make


def analyze(folder: Path, volume: np.ndarray) -> Path:
    nib.save(nib.AnalyzeImage(volume, affine_of(np.eye(3))), folder / "a.img")
    return folder / "a.img"


MATRIX = "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
REFUSED = {
    "no space": (changed("a.nrrd", "space: left-posterior-superior\n", "space dimension: 3\n"), "has no 'space'"),
    "no directions": (changed("a.nrrd", "space directions:", "# directions:"), "has no 'space directions'"),
    "a scanner's space": (changed("a.nrrd", "left-posterior-superior", "scanner-xyz"), "its space is 'scanner-xyz'"),
    "a space of hands": (changed("a.nrrd", "left-posterior-superior", "3D-right-handed"), "is '3D-right-handed'"),
    "cm": (changed("a.nrrd", "endian", 'space units: "cm" "cm" "cm"\nendian'), "space units are cm: write it again"),
    "several files": (
        changed("a.nrrd", "encoding: raw\n", "encoding: raw\ndata file: x%02d.raw 1 5 1\n"),
        "in several",
    ),
    "no NRRD": (changed("a.nrrd", "NRRD0004", "text0004"), "is no readable NRRD file"),
    "four axes": (
        changed("a.nrrd", "dimension: 3", "dimension: 4\n#"),
        "a.nrrd: ",
    ),
    "Analyze": (analyze, "its header is that of Analyze 7.5, not of NIfTI"),
    "no matrix": (changed("a.mha", MATRIX, ""), "its header has no TransformMatrix"),
    "no spacing": (changed("a.mha", "ElementSpacing", "ElementNothing"), "has no ElementSpacing"),
    "flat": (changed("a.mha", MATRIX, "TransformMatrix = 1 0 0 0 1 0 0 0 0\n"), "a.mha: "),
    "a slope": (changed("a.mha", "NDims", "ElementToIntensityFunctionSlope = 2\nNDims"), "values are to be scaled"),
    "an offset": (changed("a.mha", "NDims", "ElementToIntensityFunctionOffset = -1024\nNDims"), "are to be scaled"),
    "voxels of colors": (changed("a.mha", "ElementType", "ElementNumberOfChannels = 3\nElementType"), "3 values of"),
    "no voxels": (changed("a.mhd", "a.raw", "b.raw"), "its voxels are to lie in b.raw, which is not there"),
    "no MetaImage": (changed("a.mhd", "ElementDataFile", "ElementNothing"), "is no readable MetaImage file"),
    "far too many voxels": (changed("a.mha", "DimSize = 7 6 5", "DimSize = 9999 9999 9999"), "for which no memory"),
    "a spacing in meters": (changed("a.mha", "ElementSpacing = 0.", "ElementSpacing = 0.000"), "are no CT's"),
}


@pytest.mark.parametrize("make, message", REFUSED.values(), ids=REFUSED)
def test_a_header_that_leaves_something_open_is_refused_by_name(
    make: Callable[[Path, np.ndarray], Path], message: str, volume: np.ndarray, tmp_path: Path
) -> None:
    assert message in problem(make(tmp_path, volume))


@pytest.mark.parametrize("kind", ["no space", "no directions", "a scanner's space", "Analyze", "no matrix"])
def test_what_tells_no_orientation_is_refused_unless_it_is_stated(
    kind: str, volume: np.ndarray, tmp_path: Path
) -> None:
    path = REFUSED[kind][0](tmp_path, volume)
    assert "states no orientation" in problem(path) and "by the setting assumed_orientation" in problem(path)
    reader = CTReader()
    with pytest.raises(ValueError, match="states no orientation"):
        reader.get_data(reader.read(path))

    assert file_problems(str(path), None, "PIR") == []
    image = LoadImage(CTReader(assumed_orientation="PIR"), image_only=True)(path)
    assert np.array_equal(image.numpy(), volume)
    # toward the back, down and to the right; what of the size the header tells is kept
    sizes = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    if kind != "no directions":
        assert sizes == pytest.approx(SPACING_MM)
    expected = np.zeros((4, 4))
    expected[1, 0], expected[2, 1], expected[0, 2], expected[3, 3] = -sizes[0], -sizes[1], sizes[2], 1
    assert np.asarray(image.affine) == pytest.approx(expected)
    assert image.meta["assumed_orientation"] == "PIR"


def test_neutral_scaling_is_none(volume: np.ndarray, tmp_path: Path) -> None:
    make = changed(
        "a.mha", "NDims", "ElementToIntensityFunctionSlope = 1.0\nElementToIntensityFunctionOffset = 0\nNDims"
    )
    np.testing.assert_array_equal(read(make(tmp_path, volume))[0], volume)


@pytest.mark.parametrize("name", ["a.nrrd", "z.nrrd", "a.mha", "z.mha", "a.mhd", "z.mhd", "a.img"])
def test_a_file_cut_short_is_refused(name: str, volume: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / name, volume)
    data = next(iter(companion_files(path)), path) if path.suffix == ".mhd" else path
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(ValueError, match=name.replace(".", r"\.") + r".* cut short"):
        reader = CTReader()
        reader.get_data(reader.read(path))


@pytest.mark.parametrize("name", ["z.nrrd", "z.mha", "z.mhd"])
def test_a_changed_byte_of_compressed_voxels_is_refused(name: str, volume: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / name, volume)
    data = next(iter(companion_files(path)), path) if path.suffix == ".mhd" else path
    content = bytearray(data.read_bytes())
    content[-30] ^= 0x10
    data.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        CTReader().read(path)


# ---- names ----


@pytest.mark.parametrize(
    "name, stem, nifti",
    [
        ("B.NII.GZ", "B", True),
        ("a.b.nii", "a.b", True),
        ("x.hdr", "x", True),
        ("x.Mha", "x", False),
        ("x.nhdr", "x", False),
    ],
)
def test_suffixes(name: str, stem: str, nifti: bool) -> None:
    assert is_volume(name) and volume_stem(name) == stem and is_nifti(name) == nifti


@pytest.mark.parametrize("name", ["x.seg.nrrd", "x.raw", "x.img.gz", "x.nii.bz2", "nii", "x.zip", "x"])
def test_others_are_no_volumes(name: str) -> None:
    assert not is_volume(name) and volume_stem(name) == name


def test_a_volume_and_what_lies_beside_it(volume: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.img", "b.mhd", "c.nhdr", "d.mha", "e.nii.gz"):
        write(tmp_path / name, volume)
    beside = {path.name: [one.name for one in companion_files(path)] for path in tmp_path.iterdir()}
    assert beside["a.img"] == ["a.hdr"] and beside["b.mhd"] == ["b.raw"] and beside["c.nhdr"] == ["c.raw"]
    assert beside["d.mha"] == beside["e.nii.gz"] == []
