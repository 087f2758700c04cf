"""Handlers that MONAI lacks."""

from .checkpoints import CheckedCheckpointLoader
from .dicom import DicomResultHandler
from .results import FROCReportHandler, ScanPictureHandler, ScanRecordsHandler
from .review import ReviewPageHandler, TrainingPageHandler, TrainingReportHandler
from .rib_files import RibCageHandler
from .tracking import MLFlowRunHandler
from .training import (
    AverageWeightsHandler,
    CurveHistory,
    CurvesHandler,
    EarlyStopOnBestEpochHandler,
    ErrorLineHandler,
    NoFractureHandler,
    ResumableCheckpointHandler,
    SyncBuffersHandler,
    TrainingLogHandler,
)

__all__ = [
    "AverageWeightsHandler",
    "CheckedCheckpointLoader",
    "CurveHistory",
    "CurvesHandler",
    "DicomResultHandler",
    "EarlyStopOnBestEpochHandler",
    "ErrorLineHandler",
    "FROCReportHandler",
    "MLFlowRunHandler",
    "NoFractureHandler",
    "ResumableCheckpointHandler",
    "ReviewPageHandler",
    "RibCageHandler",
    "ScanPictureHandler",
    "ScanRecordsHandler",
    "SyncBuffersHandler",
    "TrainingLogHandler",
    "TrainingPageHandler",
    "TrainingReportHandler",
]
