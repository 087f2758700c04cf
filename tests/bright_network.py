"""A network whose answer can be told on paper: what is brighter than 520 HU is a fracture."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["BrightNetwork"]


class BrightNetwork(nn.Conv3d):
    """Take the settings of any network; the logit is 20 (x - 0.2), of HU that ``hu_range`` scales to -1 and 1."""

    def __init__(self, **_: object) -> None:
        super().__init__(1, 1, 1)
        with torch.no_grad():
            self.weight.fill_(20.0)
            self.bias.fill_(-4.0)
