"""Handlers that MONAI lacks."""

from .checkpoints import CheckedCheckpointLoader
from .prediction import FROCReportHandler, ScanPictureHandler, ScanRecordsHandler
from .review import ReviewPageHandler, TrainingPageHandler
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
    "CheckedCheckpointLoader",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "MLFlowRunHandler",
    "ResumableCheckpointHandler",
    "ReviewPageHandler",
    "ScanPictureHandler",
    "ScanRecordsHandler",
    "SyncBuffersHandler",
    "TrainingPageHandler",
]
