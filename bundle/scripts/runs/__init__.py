"""What belongs to a run: its settings, lock, records and summary."""

from .archive_run import run_archive
from .archive_scans import ArchiveScans
from .config import definition_hash
from .evaluator import SkippingEvaluator
from .lock import FolderLock
from .near_ribs import PrepareBatchNearRibs
from .prediction import PredictionRun, run_prediction
from .records import ScanRecords
from .settings import read_command_line
from .training import run_training

__all__ = [
    "ArchiveScans",
    "FolderLock",
    "PrepareBatchNearRibs",
    "PredictionRun",
    "ScanRecords",
    "SkippingEvaluator",
    "definition_hash",
    "read_command_line",
    "run_archive",
    "run_prediction",
    "run_training",
]
