"""Transforms that MONAI lacks, on arrays in RAS orientation."""

from .anatomy import LabelRibsd, MidsagittalPlaned, RemoveSpined, ThoraxAxisd
from .candidates import (
    CalibrateScoresd,
    CandidateScore,
    DescribeCandidatesd,
    FilterCandidatesd,
    FindCandidatesd,
    LabelCandidatesd,
    MatchCandidatesd,
)
from .description import DescribeFracturesd
from .images import CheckFilesd, CheckImaged, CropBodyd, QualityNotesd
from .implant import FindRibsd, RandImplantFracturesd
from .inversion import InvertCandidatesd, SeparateCandidatesd
from .labels import CheckLabeld, CropLabelSlicesd
from .naming import NameScand, scan_name_formatter
from .resampling import ResampleAlongAxes, SpacingOnlyd
from .rib_regions import PoolRegionsd, least_look
from .sampling import FindFracturesd, SymmetricROISamplerd
from .saving import SaveProbabilityd, SaveScand
from .straight_ribs import RandCropStraightRibsd, StraightenRibsd

__all__ = [
    "CalibrateScoresd",
    "CandidateScore",
    "CheckFilesd",
    "CheckImaged",
    "CheckLabeld",
    "CropBodyd",
    "CropLabelSlicesd",
    "DescribeCandidatesd",
    "DescribeFracturesd",
    "FilterCandidatesd",
    "FindCandidatesd",
    "FindFracturesd",
    "FindRibsd",
    "InvertCandidatesd",
    "LabelCandidatesd",
    "LabelRibsd",
    "MatchCandidatesd",
    "MidsagittalPlaned",
    "NameScand",
    "PoolRegionsd",
    "QualityNotesd",
    "RandCropStraightRibsd",
    "RandImplantFracturesd",
    "RemoveSpined",
    "ResampleAlongAxes",
    "SaveProbabilityd",
    "SaveScand",
    "SeparateCandidatesd",
    "SpacingOnlyd",
    "StraightenRibsd",
    "SymmetricROISamplerd",
    "ThoraxAxisd",
    "least_look",
    "scan_name_formatter",
]
