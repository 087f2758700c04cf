"""The RibFrac challenge's score: its rule, as a MONAI metric, and of folders of predictions."""

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
from .ribfrac_froc import RibFracFROCMetric, annotated_and_predicted

__all__ = [
    "InstanceOverlaps",
    "Instances",
    "RibFracFROCMetric",
    "ScanResult",
    "annotated_and_predicted",
    "bootstrap_intervals",
    "challenge_scores",
    "classification_scores",
    "detection_scores",
    "froc_curve",
    "instance_overlaps",
    "load_instances",
    "load_pair",
    "recall_at",
    "score_folders",
    "score_scan",
    "segmentation_scores",
]
