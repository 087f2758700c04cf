"""Handlers that MONAI lacks."""

from .prediction import FROCReportHandler, ScanPictureHandler, ScanRecordsHandler
from .tracking import MLFlowRunHandler
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
    "MLFlowRunHandler",
    "ResumableCheckpointHandler",
    "ScanPictureHandler",
    "ScanRecordsHandler",
    "SyncBuffersHandler",
]
