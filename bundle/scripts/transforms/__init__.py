"""Transforms that MONAI lacks, on arrays in RAS orientation."""

from .anatomy import MidsagittalPlaned, RemoveSpined
from .candidates import CandidateScore, FilterCandidatesd, LabelCandidatesd
from .images import CheckImaged
from .labels import CheckLabeld, CropLabelSlicesd
from .naming import NameScand, scan_name_formatter
from .sampling import SymmetricROISamplerd

__all__ = [
    "CandidateScore",
    "CheckImaged",
    "CheckLabeld",
    "CropLabelSlicesd",
    "FilterCandidatesd",
    "LabelCandidatesd",
    "MidsagittalPlaned",
    "NameScand",
    "RemoveSpined",
    "SymmetricROISamplerd",
    "scan_name_formatter",
]
