"""
Keep what DICOM headers tell of a patient out of the log.

pydicom and highdicom repeat a value that they complain about: in warnings, in their log and in the text of exceptions.
"""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

__all__ = ["header_fault", "is_own", "quiet_headers"]

_LIBRARIES = ("pydicom", "highdicom")
_TAG = re.compile(r"\(([0-9a-fA-F]{4}), ?([0-9a-fA-F]{4})\)")


@contextmanager
def quiet_headers() -> Iterator[None]:
    """
    Silence pydicom and highdicom, whose log and warnings show values of headers.

    Their checks of values are off as well: what is read is judged by this package.
    """
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    with disable_value_validation(), warnings.catch_warnings(action="ignore"):
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def header_fault(error: BaseException) -> str:
    """
    Describe an exception that a header caused, without the values in it.

    Args:
        error: as pydicom, highdicom or this package raised it.

    Returns:
        The text of this package's own. Of others the type, and the attribute with its VR where that can be told:
        ``ValueError, PatientBirthDate (DA)``.
    """
    if is_own(error):
        return str(error)
    keyword = getattr(error, "name", None)  # of an AttributeError
    if not isinstance(keyword, str) or tag_for_keyword(keyword) is None:
        found = _TAG.search(str(error))
        keyword = keyword_for_tag(int(found[1] + found[2], 16)) if found else ""
    return type(error).__name__ + (f", {keyword} ({dictionary_VR(keyword)})" if keyword else "")


def is_own(error: BaseException) -> bool:
    """Tell whether a line of this package raised an exception: its text names no patient, and no value of a header."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("scripts.")
