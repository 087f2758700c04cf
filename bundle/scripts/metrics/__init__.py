"""The RibFrac challenge's score: its rule, as a MONAI metric, and of folders of predictions."""

from .folders import score_folders
from .froc import ScanResult, challenge_scores, froc_curve, score_scan
from .ribfrac_froc import RibFracFROCMetric, annotated_and_predicted, scan_result

__all__ = [
    "RibFracFROCMetric",
    "ScanResult",
    "annotated_and_predicted",
    "challenge_scores",
    "froc_curve",
    "scan_result",
    "score_folders",
    "score_scan",
]
