"""Volumes in files that are no DICOM: which formats are read, and where their headers say that the voxels lie."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

import itk
import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data.utils import orientation_ras_lps
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

__all__ = [
    "FORMATS",
    "VolumeHeader",
    "companion_files",
    "header_by_itk",
    "header_of_nifti",
    "is_nifti",
    "is_volume",
    "itk_names",
    "load_nifti",
    "read_by_itk",
    "scan_name",
    "volume_stem",
    "volume_suffix",
]

FORMATS = "NIfTI (.nii, .nii.gz, or .img with .hdr), NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd)"
_NIFTI = (".nii.gz", ".nii", ".img", ".hdr")
_NRRD = (".nrrd", ".nhdr")
_META_IMAGE = (".mha", ".mhd")
# Slicer writes segmentations so: they are no scans, and may have several axes
_NO_VOLUME = (".seg.nrrd", ".seg.nhdr")
# Spaces of NRRD that tell left from right, front from back and feet from head; ITK takes all others for LPS
_NRRD_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
_NEUTRAL = {"slope": r"\+?1(\.0*)?", "offset": r"[+-]?0(\.0*)?"}
_END_OF_META_IMAGE = re.compile(rb"^ElementDataFile[ \t]*=.*\n?", re.MULTILINE)
_NIFTI2_SIZE = 540  # of its header, in its first bytes
_HEADER_BYTES = 1 << 16
_BYTES_AT_A_TIME = 1 << 16  # of zlib: at most 1032 times as many once they are decompressed
_MAX_VOXEL_BYTES = 8


class VolumeHeader(NamedTuple):
    """
    What a header says of a volume.

    Args:
        shape: its axes.
        affine: voxels to mm in RAS, shape ``(4, 4)``; of one that has not three axes the identity.
        dtype: type of its values, for a message.
        is_number: whether each voxel has one number.
        no_orientation: why it does not tell where its axes run to, for a message; of the affine then only the size of
            the voxels has a meaning. Empty where it does.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: str
    is_number: bool
    no_orientation: str = ""


def volume_suffix(path: PathLike) -> str:
    """Return the suffix of a file in a format that is read, in lower case; empty for other files."""
    name = Path(path).name.lower()
    if name.endswith(_NO_VOLUME):
        return ""
    return next((suffix for suffix in (*_NIFTI, *_NRRD, *_META_IMAGE) if name.endswith(suffix)), "")


def is_volume(path: PathLike) -> bool:
    """Tell by its name whether a file holds a volume in a format that is read, whatever the case of its suffix."""
    return bool(volume_suffix(path))


def is_nifti(path: PathLike) -> bool:
    """Tell by its name whether a file is NIfTI, one file or a pair, which nibabel reads; ITK reads the others."""
    return volume_suffix(path) in _NIFTI


def volume_stem(path: PathLike) -> str:
    """Return the name of a file without such a suffix."""
    name = Path(path).name
    return name[: len(name) - len(volume_suffix(path))]


def scan_name(path: Path) -> str:
    """Name a scan after its file or folder: without the extension and RibFrac's ``-image``."""
    stem = volume_stem(path)
    return stem[: -len("-image")] or stem if stem.lower().endswith("-image") else stem


def companion_files(path: PathLike) -> list[Path]:
    """
    Return the files beside a volume's that hold a part of it, as far as they exist.

    Args:
        path: the file that stands for the volume: ``.img`` of a pair, ``.nhdr`` and ``.mhd`` with the voxels elsewhere.
    """
    path = Path(path)
    suffix = volume_suffix(path)
    if suffix in (".img", ".hdr"):
        other = "hdr" if suffix == ".img" else "img"
        stem = path.name[:-3]
        found = [path.with_name(stem + ending) for ending in (other, other.upper(), other.capitalize())]
    elif suffix in (".nhdr", ".mhd"):
        try:
            found = [path.parent / _data_file(path, _fields(path))]
        except (OSError, ValueError):  # who reads the volume says what is wrong with its header
            found = []
    else:
        found = []
    return [one for one in found if one.is_file()][:1]


def load_nifti(path: PathLike) -> SpatialImage:
    """
    Open a NIfTI file or pair as ``nibabel.load`` does, which takes a suffix in small letters or in capitals alone.

    Args:
        path: the file; of a pair either one.

    Raises:
        OSError, ValueError, ImageFileError, HeaderDataError: what nibabel raises where it is none, or not to be read.
    """
    path, suffix = Path(path), volume_suffix(path)
    if path.name.endswith((suffix, suffix.upper())):
        return cast(SpatialImage, nib.load(path))
    halves = [path, *companion_files(path)] if suffix in (".img", ".hdr") else [path, path]
    header, image = halves if suffix == ".hdr" else halves[::-1]
    with nib.openers.ImageOpener(os.fspath(header)) as file:
        is_nifti2 = file.read(4) in (_NIFTI2_SIZE.to_bytes(4, "little"), _NIFTI2_SIZE.to_bytes(4, "big"))
    if suffix in (".img", ".hdr"):
        kind = nib.Nifti2Pair if is_nifti2 else nib.Nifti1Pair
    else:
        kind = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
    return kind.from_file_map({"header": nib.FileHolder(os.fspath(header)), "image": nib.FileHolder(os.fspath(image))})


def header_of_nifti(image: SpatialImage) -> VolumeHeader:
    """
    Tell what a header says that nibabel has read.

    Args:
        image: what `load_nifti` gives; of a pair that is Analyze 7.5 nothing tells left from right.
    """
    is_nifti_header = isinstance(image, nib.nifti1.Nifti1Pair)
    reason = "" if is_nifti_header else "its header is that of Analyze 7.5, not of NIfTI"
    dtype = image.get_data_dtype()
    return VolumeHeader(tuple(image.shape), np.asarray(image.affine), str(dtype), dtype.kind in "iuf", reason)


def header_by_itk(path: PathLike) -> VolumeHeader:
    """
    Read the header of a NRRD or a MetaImage file; its voxels are not read.

    ITK skips what it does not know, and so takes a NRRD whose space tells no left and right for one in LPS. This
    tells so, and refuses headers that leave open how large the voxels are.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: when it does not exist.
        PermissionError: when it may not be read.
        ValueError: when its header cannot be read, or does not tell how large its voxels are, or what they mean.
    """
    if not is_volume(path):
        raise ValueError(f"{path}: is in no format that is read: write it as {FORMATS}.")
    fields = _fields(path)
    no_orientation = (_check_nrrd if volume_suffix(path) in _NRRD else _check_meta_image)(path, fields)
    data_file = Path(path).parent / _data_file(path, fields)
    if not data_file.is_file():
        raise ValueError(f"{path}: its voxels are to lie in {data_file.name}, which is not there: put it beside.")
    with itk_names([path]) as names:
        image_io = _image_io(path)
        image_io.SetFileName(names[0])
        try:
            image_io.ReadImageInformation()
        except RuntimeError as error:
            raise ValueError(f"{path}: its header cannot be read ({_last_line(error)}): write it again.") from error
    axes = range(image_io.GetNumberOfDimensions())
    affine = np.eye(4)
    if len(axes) == 3:
        affine[:3, :3] = np.transpose([image_io.GetDirection(axis) for axis in axes])
        affine[:3, :3] *= [image_io.GetSpacing(axis) for axis in axes]
        affine[:3, 3] = [image_io.GetOrigin(axis) for axis in axes]
    shape = tuple(image_io.GetDimensions(axis) for axis in axes)
    components = image_io.GetNumberOfComponents()
    dtype = image_io.GetComponentTypeAsString(image_io.GetComponentType()).replace("_", " ")
    dtype = dtype if components == 1 else f"{components} values of {dtype}"
    return VolumeHeader(shape, orientation_ras_lps(affine), dtype, components == 1, no_orientation)


def read_by_itk(path: PathLike) -> itk.Image:
    """
    Read a NRRD or a MetaImage file.

    Args:
        path: the file; `header_by_itk` finds nothing wrong with its header.

    Returns:
        The volume, of float: whole numbers are exact up to 2²⁴.

    Raises:
        ValueError: when it is damaged, cut short, or not to be decoded.
    """
    fields = _fields(path)
    if fields.get("compresseddata", "").lower() == "true":
        _check_zlib(Path(path), fields)
    with itk_names([path]) as names:
        try:
            return itk.imread(names[0], itk.F, imageio=_image_io(path))
        except RuntimeError as error:
            raise ValueError(
                f"{path}: cannot be read ({_last_line(error)}): is it cut short? Copy or write it again."
            ) from error


@contextmanager
def itk_names(paths: Sequence[PathLike]) -> Iterator[list[str]]:
    """
    Name files for ITK, whose Python takes names in UTF-8 alone, and some of whose readers small letters as suffix.

    Args:
        paths: the files.

    Yields:
        Their names; where one is no such name, those of links to them, which are removed again.
    """
    names = [os.fspath(path) for path in paths]
    if all(_is_utf8(name) and name.endswith(volume_suffix(name)) for name in names):
        yield names
        return
    with TemporaryDirectory() as folder:
        links = []
        for number, name in enumerate(names):
            links.append(os.path.join(folder, f"{number}{volume_suffix(name)}"))
            os.symlink(os.path.abspath(name), links[-1])
            for companion in companion_files(name):
                os.symlink(companion.absolute(), Path(folder, companion.name))
        yield links


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _image_io(path: PathLike) -> itk.ImageIOBase:
    return itk.NrrdImageIO.New() if volume_suffix(path) in _NRRD else itk.MetaImageIO.New()


def _fields(path: PathLike) -> dict[str, str]:
    """
    Return the fields of a header of text, by their names in lower case.

    Raises:
        ValueError: when it is no header of its kind.
    """
    with open(path, "rb") as file:
        text = file.read(_HEADER_BYTES)
    if volume_suffix(path) in _NRRD:
        if not text.startswith(b"NRRD"):
            raise ValueError(f"{path}: is no readable NRRD file (it does not begin with NRRD): copy it again.")
        lines = re.split(rb"\r?\n\r?\n", text, maxsplit=1)[0]
        found = re.findall(rb"^([^#:\n]+):(?!=)[ \t]*(.*?)\r?$", lines, re.MULTILINE)
    else:
        end = _END_OF_META_IMAGE.search(text)
        if end is None:
            raise ValueError(f"{path}: is no readable MetaImage file (it has no ElementDataFile): copy it again.")
        lines = text[: end.end()]
        found = re.findall(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)\r?$", lines, re.MULTILINE)
    return {name.decode("latin-1").strip().lower(): os.fsdecode(value.strip()) for name, value in found}


def _data_file(path: PathLike, fields: dict[str, str]) -> str:
    """
    Return the name of the file that holds the voxels, which may be this one.

    Raises:
        ValueError: when they lie in several files.
    """
    name = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile") or "LOCAL"
    if name.upper() == "LOCAL":
        return Path(path).name
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError(f"{path}: its voxels lie in several files: write it again as one.")
    return name


def _check_nrrd(path: PathLike, fields: dict[str, str]) -> str:
    """Tell why a header has no orientation, or nothing; raise ``ValueError`` when lengths are not in mm."""
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}
    if units:
        raise ValueError(f"{path}: its space units are {', '.join(sorted(units))}: write it again in mm.")
    space = fields.get("space", "")
    if "space directions" not in fields or not space:
        missing = "'space directions'" if space else "'space'"
        return f"its header has no {missing}"
    return "" if space.lower() in _NRRD_SPACES else f"its space is '{space}'"


def _check_meta_image(path: PathLike, fields: dict[str, str]) -> str:
    """Tell why a header has no orientation, or nothing; raise ``ValueError`` when sizes or values have no meaning."""
    if not fields.keys() & {"elementspacing", "elementsize"}:
        raise ValueError(f"{path}: its header has no ElementSpacing, so the size of its voxels is unknown: add it.")
    for name, neutral in _NEUTRAL.items():
        value = fields.get(f"elementtointensityfunction{name}")
        if value is not None and not re.fullmatch(neutral, value):
            raise ValueError(f"{path}: its values are to be scaled, which is not done here: write it again in HU.")
    has_axes = fields.keys() & {"transformmatrix", "rotation", "orientation"}
    return "" if has_axes else "its header has no TransformMatrix"


def _check_zlib(path: Path, fields: dict[str, str]) -> None:
    """Raise ``ValueError`` when compressed voxels are damaged: ITK says so on the screen, and returns some others."""
    data_file = path.parent / _data_file(path, fields)
    most = math.prod(header_by_itk(path).shape) * _MAX_VOXEL_BYTES
    decoder, count = zlib.decompressobj(wbits=47), 0  # zlib or gzip, whichever it is
    with data_file.open("rb") as file:
        if data_file.name == path.name:
            end = _END_OF_META_IMAGE.search(file.read(_HEADER_BYTES))
            file.seek(end.end() if end else 0)
        try:
            while not decoder.eof:
                chunk = file.read(_BYTES_AT_A_TIME)
                count += len(decoder.decompress(chunk))
                if count > most:
                    raise ValueError(f"{path}: holds far more data than its header says: write it again.")
                if not chunk:
                    raise ValueError(f"{path}: is cut short: copy it again.")
        except zlib.error as error:
            raise ValueError(f"{path}: is damaged ({error}): copy it again.") from error


def _last_line(error: Exception) -> str:
    """Return the last line of what ITK says, where the reason stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
