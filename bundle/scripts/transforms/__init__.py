"""Transforms that MONAI lacks, on arrays in RAS orientation."""

from .anatomy import MidsagittalPlaned, RemoveSpined, ThoraxAxisd
from .candidates import CalibrateScoresd, CandidateScore, FilterCandidatesd, LabelCandidatesd
from .images import CheckImaged, CropBodyd
from .implant import FindRibsd, RandImplantFracturesd
from .labels import CheckLabeld, CropLabelSlicesd
from .naming import NameScand, scan_name_formatter
from .sampling import FindFracturesd, SymmetricROISamplerd

__all__ = [
    "CalibrateScoresd",
    "CandidateScore",
    "CheckImaged",
    "CheckLabeld",
    "CropBodyd",
    "CropLabelSlicesd",
    "FilterCandidatesd",
    "FindFracturesd",
    "FindRibsd",
    "LabelCandidatesd",
    "MidsagittalPlaned",
    "NameScand",
    "RandImplantFracturesd",
    "RemoveSpined",
    "SymmetricROISamplerd",
    "ThoraxAxisd",
    "scan_name_formatter",
]
