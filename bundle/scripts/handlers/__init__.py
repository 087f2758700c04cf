"""Handlers that MONAI lacks."""

from .prediction import CandidateTablesHandler, FROCReportHandler, ScanPictureHandler
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
    "CandidateTablesHandler",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "FROCReportHandler",
    "ResumableCheckpointHandler",
    "ReviewPageHandler",
    "ScanPictureHandler",
    "TrainingPageHandler",
]
