"""
Describe why a scan could not be loaded, without telling who the patient is.

MONAI, ITK and pydicom name the files of a DICOM series, or repeat values of its headers, in the text of exceptions.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence

from monai.config import PathLike

from scripts.errors import causes
from scripts.images.dicom_series import is_dicom
from scripts.images.header_privacy import is_own

__all__ = ["loading_fault", "where_raised"]


def loading_fault(error: BaseException, image: PathLike | Sequence[PathLike]) -> str:
    """
    Describe why a scan could not be loaded.

    Args:
        error: as a reader, a transform, or ``Compose`` around them, raised it.
        image: the scan's file; or a DICOM series, as the list of its slices or the folder that holds it.

    Returns:
        Of a file, the text of the error that names it, or of the first one, with the file's name. Of a DICOM series,
        the text of the first error if this package raised it: it names no patient. The text of any other may, by the
        names of files and folders or by a value, so its type stands for it.
    """
    if is_dicom(image):
        error = causes(error)[-1]
        return str(error) if is_own(error) else f"its DICOM series cannot be loaded ({type(error).__name__})"
    name = str(image if isinstance(image, str | os.PathLike) else image[0])
    chain = causes(error)
    error = next((one for one in chain if name in str(one)), chain[-1])
    text = str(error) or type(error).__name__
    return text if name in text else f"{name}: {text}"


def where_raised(error: BaseException) -> str:
    """List the types of an exception and of its causes with the lines of code they came through, without any text."""
    return "".join(
        f"{type(one).__name__}\n{''.join(traceback.format_tb(one.__traceback__))}" for one in reversed(causes(error))
    )
