"""Where the body, the spine, the ribs and the lungs lie in a scan, by plain image processing."""

from .midline import midsagittal_plane
from .rib_finding import find_rib_cage
from .spine import spine_mask
from .thorax import ChestPosition, thorax_axis

__all__ = ["ChestPosition", "find_rib_cage", "midsagittal_plane", "spine_mask", "thorax_axis"]
