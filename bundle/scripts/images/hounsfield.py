"""Whether the values of a scan can be Hounsfield units, and which of them a picture of bone shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["AIR_HU", "BONE_HU", "BONE_WINDOW_HU", "hu_problem"]

AIR_HU, BONE_HU = -500.0, 300.0  # a chest CT has voxels below the one and above the other
# Shown as black and white in every picture of bone: the default range of what the network sees.
BONE_WINDOW_HU = (-200.0, 1000.0)
# Only dense bone and metal lie above this: at most 0.6 % of the five real scans that were tried. Where the offset of
# -1024 is missing, all soft tissue does, a third of a scan or more.
DENSE_HU = 800.0
MAX_DENSE_SHARE = 0.1
_STEPS = (4, 4, 2)  # a share of one in ten needs not every voxel


def hu_problem(values: NDArray) -> str:
    """
    Tell whether the offset of a CT's stored values was left out, so that water is some 1000 in place of 0.

    Neither a scan that was cut off at 0 or -200 HU nor one without any air has that much above 800 HU; so nothing that
    is in HU is taken for it.

    Args:
        values: of a scan, shape ``(H, W, D)``.

    Returns:
        what is wrong and what to do; empty where the values can be HU.
    """
    share = float(np.mean(values[tuple(slice(None, None, step) for step in _STEPS)] > DENSE_HU))
    if share <= MAX_DENSE_SHARE:
        return ""
    return (
        f"{share:.0%} of the voxels are above {DENSE_HU:g}, in HU about 1 % are: the offset (mostly -1024) seems to be "
        "missing; write it again in HU, or with the offset in the header (scl_inter of NIfTI)"
    )
