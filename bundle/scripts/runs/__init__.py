"""What belongs to a run: its settings, lock, records and summary."""

from .config import definition_hash, is_tracked, run_settings, running_parser, save_run_config
from .lock import FolderLock
from .prediction import PredictionRun, run_prediction
from .records import ScanRecords, join_tables, read_record, record_path, recorded_candidates
from .settings import is_path, is_text, read_command_line, refuse_stray_words, settings_given
from .summary import RunSummary, bundle_facts
from .training import run_training

__all__ = [
    "FolderLock",
    "PredictionRun",
    "RunSummary",
    "ScanRecords",
    "bundle_facts",
    "definition_hash",
    "is_path",
    "is_text",
    "is_tracked",
    "join_tables",
    "read_command_line",
    "read_record",
    "record_path",
    "recorded_candidates",
    "refuse_stray_words",
    "run_prediction",
    "run_settings",
    "run_training",
    "running_parser",
    "save_run_config",
    "settings_given",
]
