"""Transforms that MONAI lacks, on arrays in RAS orientation."""

from .anatomy import MidsagittalPlaned, RemoveSpined, ThoraxAxisd
from .candidates import CalibrateScoresd, CandidateScore, DescribeCandidatesd, FilterCandidatesd, LabelCandidatesd
from .images import CheckFilesd, CheckImaged, CropBodyd, NoteDoubtsd, SpacingOnlyd
from .implant import FindRibsd, RandImplantFracturesd
from .inversion import InvertCandidatesd
from .labels import CheckLabeld, CropLabelSlicesd
from .naming import NameScand, scan_name_formatter
from .sampling import FindFracturesd, SymmetricROISamplerd

__all__ = [
    "CalibrateScoresd",
    "CandidateScore",
    "CheckFilesd",
    "CheckImaged",
    "CheckLabeld",
    "CropBodyd",
    "DescribeCandidatesd",
    "CropLabelSlicesd",
    "FilterCandidatesd",
    "FindFracturesd",
    "FindRibsd",
    "InvertCandidatesd",
    "LabelCandidatesd",
    "MidsagittalPlaned",
    "NameScand",
    "NoteDoubtsd",
    "RandImplantFracturesd",
    "RemoveSpined",
    "SpacingOnlyd",
    "SymmetricROISamplerd",
    "ThoraxAxisd",
    "scan_name_formatter",
]
