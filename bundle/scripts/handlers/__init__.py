"""Handlers that MONAI lacks."""

from .checkpoints import CheckedCheckpointLoader
from .prediction import CandidateTablesHandler, FROCReportHandler, ScanPictureHandler
from .review import ReviewPageHandler
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
    "CheckedCheckpointLoader",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "ResumableCheckpointHandler",
    "ReviewPageHandler",
    "ScanPictureHandler",
]
