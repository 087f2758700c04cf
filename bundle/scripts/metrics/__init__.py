"""The RibFrac challenge's score: its rule, as a MONAI metric, and of folders of predictions."""

from .calibration import calibrated_scores, fit_calibration
from .folders import Instances, load_instances, load_pair, score_folders
from .froc import (
    InstanceOverlaps,
    ScanResult,
    bootstrap_intervals,
    challenge_scores,
    classification_scores,
    detection_scores,
    froc_curve,
    instance_overlaps,
    recall_at,
    score_scan,
    segmentation_scores,
)
from .ribfrac_froc import RibFracFROCMetric, annotated_and_predicted, scan_result
from .tuning import Outcome, Setting, coordinate_search, operating_score, outcome_of, ranked

__all__ = [
    "InstanceOverlaps",
    "Instances",
    "Outcome",
    "RibFracFROCMetric",
    "ScanResult",
    "Setting",
    "annotated_and_predicted",
    "bootstrap_intervals",
    "calibrated_scores",
    "challenge_scores",
    "classification_scores",
    "coordinate_search",
    "detection_scores",
    "fit_calibration",
    "froc_curve",
    "instance_overlaps",
    "load_instances",
    "load_pair",
    "operating_score",
    "outcome_of",
    "ranked",
    "recall_at",
    "scan_result",
    "score_folders",
    "score_scan",
    "segmentation_scores",
]
