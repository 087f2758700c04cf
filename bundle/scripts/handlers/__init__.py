"""Handlers that MONAI lacks."""

from .prediction import CandidateTablesHandler, FROCReportHandler, ScanPictureHandler
from .training import CurveHistory, CurvesHandler, EarlyStopOnBestEpochHandler, ResumableCheckpointHandler

__all__ = [
    "CandidateTablesHandler",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "ResumableCheckpointHandler",
    "ScanPictureHandler",
]
