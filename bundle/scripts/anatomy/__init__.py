"""Where the body, the spine, the ribs and the lungs lie in a scan, by plain image processing."""

from .body import block_mean, body_mask, checked_spacing, cut_body, cut_shares, front_mm, is_whole, width_and_depth_mm
from .components import connected_components, packed_components
from .midline import MidsagittalPlane, known_plane, midsagittal_plane
from .ribs import find_ribs
from .spine import find_canal, spine_mask
from .thorax import ChestPosition, chest_position, largest_extent_mm, thorax_axis

__all__ = [
    "ChestPosition",
    "MidsagittalPlane",
    "block_mean",
    "body_mask",
    "checked_spacing",
    "chest_position",
    "connected_components",
    "cut_body",
    "cut_shares",
    "find_canal",
    "find_ribs",
    "front_mm",
    "is_whole",
    "known_plane",
    "largest_extent_mm",
    "midsagittal_plane",
    "packed_components",
    "spine_mask",
    "thorax_axis",
    "width_and_depth_mm",
]
