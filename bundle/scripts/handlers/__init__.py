"""Handlers that MONAI lacks."""

from .dicom import DicomResultHandler
from .prediction import CandidateTablesHandler, FROCReportHandler, ScanPictureHandler
from .training import (
    AverageWeightsHandler,
    CurveHistory,
    CurvesHandler,
    EarlyStopOnBestEpochHandler,
    ResumableCheckpointHandler,
)

__all__ = [
    "AverageWeightsHandler",
    "CandidateTablesHandler",
    "CurveHistory",
    "CurvesHandler",
    "DicomResultHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "ResumableCheckpointHandler",
    "ScanPictureHandler",
]
