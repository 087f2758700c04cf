"""What a NIfTI header tells of a volume's place in space, and the axes that a user states where it tells none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import nibabel as nib
import numpy as np
from monai.config import PathLike
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

__all__ = [
    "assumed_affine",
    "checked_axcodes",
    "nifti_affine",
    "orientation_note",
    "orientation_problem",
    "stated_affine",
    "tells_orientation",
]

_CODES_MEANING = "its sform_code and qform_code are 0"
_ANALYZE_MEANING = "its header is that of Analyze 7.5, not of NIfTI"


def checked_axcodes(assumed_orientation: str | None) -> str | None:
    """
    Check the setting ``assumed_orientation``.

    Args:
        assumed_orientation: where the axes of a file without orientation run to, a letter each: ``R`` right or ``L``
            left, ``A`` front or ``P`` back, ``S`` up or ``I`` down, of the patient; None: such a file is refused.

    Returns:
        The letters in upper case; None for None.

    Raises:
        ValueError: when these are no three letters, one of each pair.
    """
    if assumed_orientation is None:
        return None
    axcodes = str(assumed_orientation).upper()
    if sorted(axcodes.translate(str.maketrans("LPI", "RAS"))) != ["A", "R", "S"]:
        raise ValueError(
            f"assumed_orientation is '{assumed_orientation}': give where the three axes run to, such as LPS "
            "(to the left, to the back, up), or null."
        )
    return axcodes


def assumed_affine(spacing_mm: Sequence[float] | NDArray, axcodes: str) -> NDArray[np.float64]:
    """
    Make the affine of a volume whose file tells the size of its voxels, and not where its axes run to.

    Args:
        spacing_mm: size of a voxel along each axis, shape ``(3,)``.
        axcodes: where the axes run to, see :func:`checked_axcodes`.

    Returns:
        Voxels to mm in RAS, with the center of voxel (0, 0, 0) at 0, shape ``(4, 4)``.
    """
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (world_axis, sign) in enumerate(nib.orientations.axcodes2ornt(axcodes)):
        affine[int(world_axis), axis] = sign * spacing_mm[axis]
    return affine


def orientation_problem(path: PathLike, why: str) -> str:
    """
    Say that a file states no orientation, and what to do.

    Args:
        path: the file.
        why: what it lacks, such as "it has no space directions".
    """
    return (
        f"{path}: states no orientation ({why}), and programs disagree on where its axes run to: write the orientation "
        "into its header, or state it, such as LPS, by the setting assumed_orientation."
    )


def orientation_note(axcodes: str) -> str:
    """Say, as a note, that a file's orientation was assumed."""
    return f"its header states no orientation; {axcodes} is assumed, and where that is wrong, so are sides and places."


def tells_orientation(image: SpatialImage) -> bool:
    """
    Tell whether an image's header says where its axes run to.

    A NIfTI file does by its sform_code and qform_code, an Analyze 7.5 pair does not.
    """
    if not isinstance(image, nib.Nifti1Pair):  # of which Nifti1Image and Nifti2Image are kinds
        return not isinstance(image, nib.AnalyzeImage)
    return bool(image.header["sform_code"] or image.header["qform_code"])


def nifti_affine(image: SpatialImage, path: PathLike, assumed_orientation: str | None = None) -> NDArray[np.float64]:
    """
    Return the affine of a NIfTI file, from its sform, else its qform, else the axes that the user states.

    nibabel invents an affine where both codes are 0, with the first axis to the left; the standard says nothing of
    directions there, and other readers take others. Where the qform counts or none, the voxels' sizes are those of
    ``pixdim``, which must then be positive: nibabel takes the size without its sign, and 1 mm for 0, others 1 mm for
    both.

    Args:
        image: what nibabel read, of shape ``(H, W, D)``.
        path: its file.
        assumed_orientation: see :func:`checked_axcodes`.

    Returns:
        Voxels to mm in RAS, shape ``(4, 4)``; it may have no inverse where the header is wrong.

    Raises:
        ValueError: when the file states no orientation and none is stated, or tells no size of its voxels.
    """
    affine = np.array(image.affine, dtype=np.float64)
    if not isinstance(image, nib.Nifti1Pair):
        return stated_affine(path, affine, "" if tells_orientation(image) else _ANALYZE_MEANING, assumed_orientation)
    if image.header["sform_code"]:
        return affine
    sides_mm = _stored_pixdim(image)
    if not (np.isfinite(sides_mm).all() and (sides_mm > 0).all()):
        sides = " x ".join(f"{side:g}" for side in sides_mm)
        raise ValueError(f"{path}: its pixdim is {sides}, no size of a voxel in mm: correct the spacing in the header.")
    if tells_orientation(image):
        return affine
    if assumed_orientation is None:
        raise ValueError(orientation_problem(path, _CODES_MEANING))
    return assumed_affine(sides_mm, assumed_orientation)


def stated_affine(
    path: PathLike, affine: NDArray, missing: str, assumed_orientation: str | None
) -> NDArray[np.float64]:
    """
    Return the affine of a header, or, where it states no orientation, of the axes that the user states.

    Args:
        path: the file.
        affine: voxels to mm in RAS, shape ``(4, 4)``; without an orientation only the voxels' size counts.
        missing: what the header lacks, for a message; empty where it tells the orientation.
        assumed_orientation: see :func:`checked_axcodes`.

    Raises:
        ValueError: when the header states no orientation and none is stated.
    """
    if not missing:
        return affine
    if assumed_orientation is None:
        raise ValueError(orientation_problem(path, missing))
    return assumed_affine(nib.affines.voxel_sizes(affine), assumed_orientation)


def _stored_pixdim(image: nib.Nifti1Pair) -> NDArray[np.float64]:
    """Return the voxels' sizes as the file has them: nibabel corrects them as it reads."""
    holder = image.file_map["header" if "header" in image.file_map else "image"]
    with holder.get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    return cast(NDArray[np.float64], np.asarray(header["pixdim"][1:4], dtype=np.float64))
