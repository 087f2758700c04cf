"""Check the files of a scan by their headers, before anything is read in full."""

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from scripts.images.dicom_series import is_dicom, read_series
from scripts.images.grids import corner_shift_mm, grid_difference
from scripts.images.headers import checked_axcodes, nifti_affine, stated_affine, tells_orientation
from scripts.images.volume_files import header_by_itk, header_of_nifti, is_nifti, load_nifti

__all__ = ["file_notes", "file_problems"]

# How far the sform and the qform of a header may lie apart: about a voxel
_MAX_FORMS_SHIFT_MM = 1.0
# Smaller or larger sides of a voxel are a mistake in the header, such as meters or a pixel's number
_VOXEL_MM = (0.05, 50.0)
# Units of length in xyzt_units, beside 2 for mm and 0 for unknown, and the bits that hold them: nifti1.h
_OTHER_UNITS = {1: "meters", 3: "micrometers"}
_SPACE_UNITS = 7
# 1024 x 1024 x 1024; a CT of 2 m in slices of 1 mm has half of that. A small compressed file may ask for far more
_MAX_VOXELS = 2**30
# What nibabel and gzip raise for a file that is cut short or is something else, or whose qform is no rotation
_UNREADABLE = (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error)


def file_problems(
    image: str | Sequence[str], label: str | None = None, assumed_orientation: str | None = None
) -> list[str]:
    """
    Tell what is wrong with the files of a scan, by their headers.

    Args:
        image: a file in a format of :mod:`scripts.images.volume_files`; or a DICOM series, as a list of its slices or
            the folder that holds it alone.
        label: the file of its annotation, on the image's grid; None where there is none.
        assumed_orientation: where the axes run to of a file that does not tell it, such as LPS, see
            :func:`scripts.images.checked_axcodes`; None: such a file is refused. Where one of image and label tells
            it and the other does not, they are refused in any case: nothing says that they lie on one grid.

    Returns:
        Messages that name the file and what to do; none where all is well.

    Raises:
        ValueError: when ``assumed_orientation`` is no orientation.
    """
    axcodes = checked_axcodes(assumed_orientation)
    if is_dicom(image) and label is not None:
        return [f"{label}: a DICOM series cannot have a label here: convert the series to NIfTI."]
    try:
        if is_dicom(image):
            read_series(image)
            return []
        of_image = _read_header(cast(str, image), axcodes)
        if label is None:
            return []
        of_label = _read_header(label, axcodes)
    except ValueError as error:
        return [str(error)]
    if of_image.tells_orientation != of_label.tells_orientation:
        silent, other = (label, "image") if of_image.tells_orientation else (image, "label")
        return [f"{silent}: states no orientation, and its {other} does: give it the {other}'s header."]
    if difference := grid_difference(of_label.shape, of_label.affine, of_image.shape, of_image.affine):
        return [f"{label}: is not on the grid of its image, {difference}: give the label of this image."]
    return []


def file_notes(image: str | os.PathLike[str]) -> list[str]:
    """
    Tell what is doubtful about the header of a scan's file, and may be right.

    A NIfTI header can say twice where the voxels lie, by its sform and its qform. nibabel, and so MONAI, takes the
    sform where there is one; other programs may take the other. It can give lengths in other units than mm, which
    nibabel skips.

    Args:
        image: a file; of one that is no NIfTI nothing is told.

    Returns:
        Messages that do not name the file.
    """
    if not is_nifti(image):
        return []
    scan = cast(nib.nifti1.Nifti1Image, load_nifti(image))
    notes = []
    if unit := _unit_beside_mm(scan):
        notes.append(f"its header gives lengths in {unit}; they are taken as mm.")
    try:
        sform, qform = scan.get_sform(coded=True)[0], scan.get_qform(coded=True)[0]
    except ValueError as error:
        return [*notes, f"its qform cannot be read ({error}); its sform is used."]
    if sform is None or qform is None:
        return notes
    shift_mm = corner_shift_mm(sform, qform, scan.shape)
    if shift_mm <= _MAX_FORMS_SHIFT_MM:
        return notes
    mirrored = np.linalg.det(sform) * np.linalg.det(qform) < 0
    sides = " They disagree about which side is left." if mirrored else ""
    return [*notes, f"its sform and its qform lie up to {shift_mm:.0f} mm apart; the sform is used.{sides}"]


def _unit_beside_mm(image: nib.Nifti1Pair) -> str | None:
    """Tell the unit of length of a NIfTI header, where it is another than mm."""
    return _OTHER_UNITS.get(int(image.header["xyzt_units"]) & _SPACE_UNITS)


class _Header(NamedTuple):
    """What the header of a file tells: its shape, its affine or the one assumed, and whether it tells that."""

    shape: tuple[int, ...]
    affine: np.ndarray
    tells_orientation: bool


def _read_header(path: str, axcodes: str | None) -> _Header:
    """Read the header of a file; ``ValueError`` when it holds no volume, or lies nowhere."""
    if Path(path).is_symlink() and not Path(path).exists():
        raise ValueError(f"{path}: is a link to a file that does not exist: mend or remove it.")
    try:
        with open(path, "rb"):  # nibabel does not say that it may not
            pass
        nifti = _by_nibabel(path) if is_nifti(path) else None
        image = header_by_itk(path) if nifti is None else header_of_nifti(nifti)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: does not exist.") from error
    except PermissionError as error:
        raise ValueError(f"{path}: may not be read ({error.strerror}): ask for the right to read it.") from error
    if len(image.shape) != 3:
        raise ValueError(f"{path}: has {len(image.shape)} axes {image.shape}, a CT scan has 3.")
    if min(image.shape) < 1:
        raise ValueError(f"{path}: has the shape {image.shape}, so no voxel: write it again.")
    if math.prod(image.shape) > _MAX_VOXELS:
        sides = " x ".join(map(str, image.shape))
        raise ValueError(f"{path}: has {sides} voxels, over {_MAX_VOXELS}, for which no memory is taken: crop it.")
    if not image.is_number:
        raise ValueError(f"{path}: holds {image.dtype}, not one number a voxel: write it again in HU.")
    affine = (
        stated_affine(path, image.affine, image.no_orientation, axcodes)
        if nifti is None
        else nifti_affine(nifti, path, axcodes)
    )
    if not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
        raise ValueError(f"{path}: its affine has no inverse, so the size and place of its voxels are unknown.")
    sides_mm = nib.affines.voxel_sizes(affine)
    if not (_VOXEL_MM[0] <= sides_mm.min() and sides_mm.max() <= _VOXEL_MM[1]):
        sides = " x ".join(f"{side:g}" for side in sides_mm)
        unit = _unit_beside_mm(nifti) if isinstance(nifti, nib.Nifti1Pair) else None
        said = f" (its header says {unit}, which most programs skip)" if unit else ""
        raise ValueError(f"{path}: its voxels of {sides} mm are no CT's{said}: correct the spacing in the header.")
    return _Header(image.shape, affine, tells_orientation(nifti) if nifti is not None else not image.no_orientation)


def _by_nibabel(path: str) -> SpatialImage:
    """Open a NIfTI file or pair."""
    try:
        return load_nifti(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: is no readable NIfTI file ({error}): copy it again.") from error
