"""Handlers that MONAI lacks."""

from .checkpoints import CheckedCheckpointLoader
from .prediction import FROCReportHandler, ScanPictureHandler, ScanRecordsHandler
from .review import ReviewPageHandler, TrainingPageHandler
from .training import (
    AverageWeightsHandler,
    CurveHistory,
    CurvesHandler,
    EarlyStopOnBestEpochHandler,
    ResumableCheckpointHandler,
)

__all__ = [
    "AverageWeightsHandler",
    "CheckedCheckpointLoader",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "ResumableCheckpointHandler",
    "ReviewPageHandler",
    "ScanPictureHandler",
    "ScanRecordsHandler",
    "TrainingPageHandler",
]
