"""The network of the 2021 report: a residual 3D U-Net with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution, ResidualUnit, UpSample
from monai.utils import ensure_tuple_rep
from torch import nn
from torch.nn import functional

__all__ = ["ResUNet"]


class ResUNet(nn.Module):
    """
    Segment a volume with a residual 3D U-Net that is supervised at every decoder level.

    MONAI's ``UNet`` has residual units but no deep supervision and no pooling; its ``DynUNet`` has deep
    supervision, but returns the heads stacked into one tensor and refuses sizes that do not divide.

    Each level is one residual unit of two 3×3×3 convolutions (convolution, normalization, dropout, activation).
    Levels are joined by 2×2×2 max pooling on the way down and by 2×2×2 transposed convolutions on the way up,
    where the skip connection is concatenated. A 1×1×1 convolution gives the logits; each decoder level below the
    last has one of its own, upsampled trilinearly to the input's size.

    With the default channels, one input and one output channel the network has 5,735,894 parameters and needs
    about 30 GFLOP for a 64×64×64 window. Most of that goes into the level at full resolution, for an outline finer
    than finding a fracture takes: with ``stem_stride`` 2 a first convolution puts each 2×2×2 block of voxels into
    the channels of one, and the levels begin there; nothing of the image is lost. With channels 32, 64, 128, 256
    such a network has about as many parameters and is several times as fast (``benchmarks/network.py`` measures it).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the logits.
        channels: channels of the levels from full resolution down; each level halves the resolution.
        act: activation, as MONAI names it.
        norm: normalization, as MONAI names it; the report does not say which it used. Batch normalization makes a
            prediction independent of the window's size and of what else the window holds.
        dropout: probability of dropping a value; 0 for none.
        stem_stride: voxels along each axis that the first convolution joins into one; 1 has no such convolution.
        upsample_mode: ``"deconv"``, transposed convolutions, or ``"nontrainable"``, a 1×1×1 convolution and the
            nearest neighbor, which on a CPU takes a fifth of their time.

    Inputs are ``(B, in_channels, H, W, D)`` of any size, in this bundle scaled from HU to [-1, 1]; sizes that
    ``stem_stride * 2 ** (len(channels) - 1)`` does not divide are padded inside, by repeating the border, and cropped
    again.

    Returns:
        In evaluation (and in TorchScript always) logits of shape ``(B, out_channels, H, W, D)``. In training a list
        of logits of that same shape, one per decoder level, full resolution first: L4, L3, L2, L1 of the report.

    Raises:
        ValueError: when there are fewer than two levels.

    References:
        Report of 2021, section 3.3; Çiçek et al. (2016), "3D U-Net", Fig. 2; He et al. (2016), residual units.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        act: str | tuple = "PRELU",
        norm: str | tuple = "BATCH",
        dropout: float = 0.0,
        stem_stride: Sequence[int] | int = 1,
        upsample_mode: str = "deconv",
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"ResUNet needs at least two levels, but channels is {tuple(channels)}.")

        def residual_unit(inputs: int, outputs: int) -> ResidualUnit:
            return ResidualUnit(3, inputs, outputs, subunits=2, act=act, norm=norm, dropout=dropout or None)

        stride = ensure_tuple_rep(stem_stride, 3)
        self.divisors = [step * 2 ** (len(channels) - 1) for step in stride]
        widths = list(channels)
        self.has_stem = max(stride) > 1
        self.stem: nn.Module = nn.Identity()
        if self.has_stem:
            self.stem = Convolution(
                3, in_channels, widths[0], strides=stride, kernel_size=stride, padding=0, conv_only=True
            )
        inputs = [widths[0] if self.has_stem else in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(residual_unit(a, b) for a, b in zip(inputs, widths))
        self.pool = nn.MaxPool3d(2)
        upward = list(zip(widths[:0:-1], widths[-2::-1]))
        self.upsamplers = nn.ModuleList(
            UpSample(3, a, b, mode=upsample_mode, interp_mode="nearest", align_corners=None) for a, b in upward
        )
        self.decoder = nn.ModuleList(residual_unit(2 * b, b) for _, b in upward)
        self.heads = nn.ModuleList(nn.Conv3d(b, out_channels, kernel_size=1) for _, b in upward)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width, depth = x.shape[2], x.shape[3], x.shape[4]
        pads: list[int] = []
        for extent, divisor in zip([depth, width, height], self.divisors[::-1]):
            pads.extend([0, (divisor - extent % divisor) % divisor])
        # by 0 too, so that an export, which follows one input's way through here, takes inputs of any size
        x = functional.pad(x, pads, mode="replicate")
        full_size = [x.shape[2], x.shape[3], x.shape[4]]
        x = self.stem(x)

        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            if level > 0:
                x = self.pool(x)
            x = block(x)
            skips.append(x)
        skips.pop()

        decoded: list[torch.Tensor] = []
        for upsample, block in zip(self.upsamplers, self.decoder):
            x = block(torch.cat([skips.pop(), upsample(x)], dim=1))
            decoded.append(x)

        logits = self.heads[-1](x)
        if self.has_stem:
            logits = functional.interpolate(logits, size=full_size, mode="trilinear")
        logits = logits[:, :, :height, :width, :depth]
        if self.training and not torch.jit.is_scripting():
            return self._supervised(logits, decoded, full_size)
        return logits

    @torch.jit.unused
    def _supervised(self, logits: torch.Tensor, decoded: list[torch.Tensor], full_size: list[int]) -> Any:
        """Return the logits and, behind them, those of the coarser decoder levels at full size, finest first."""
        height, width, depth = logits.shape[2:]
        outputs = [logits]
        for head, features in zip(self.heads[-2::-1], decoded[-2::-1]):
            upsampled = functional.interpolate(head(features), size=full_size, mode="trilinear")
            outputs.append(upsampled[:, :, :height, :width, :depth])
        return outputs
