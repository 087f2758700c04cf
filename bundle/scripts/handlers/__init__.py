"""Handlers that MONAI lacks."""

from .prediction import FROCReportHandler, ScanPictureHandler, ScanRecordsHandler
from .training import (
    AverageWeightsHandler,
    CurveHistory,
    CurvesHandler,
    EarlyStopOnBestEpochHandler,
    ResumableCheckpointHandler,
    SyncBuffersHandler,
)

__all__ = [
    "AverageWeightsHandler",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "ResumableCheckpointHandler",
    "ScanPictureHandler",
    "ScanRecordsHandler",
    "SyncBuffersHandler",
]
