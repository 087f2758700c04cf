"""What a run leaves for people: tables, figures, DICOM and pages."""

from .dicom_header import clean_header

__all__ = ["clean_header"]
