"""The network of the 2021 report, a residual 3D U-Net with deep supervision, and one that looks along the ribs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution, ResidualUnit, UpSample
from monai.utils import ensure_tuple_rep
from torch import nn
from torch.nn import functional

__all__ = ["ResUNet", "StraightRibNet"]


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
        straight_ribs: whether it carries a :class:`StraightRibNet` too, as ``straight_ribs``, so that one file has the
            weights of both. ``forward`` does not use it, and its parameters want no gradient, so that a training leaves
            it as it is. Weights without it can be loaded: it is untrained then.

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
        straight_ribs: bool = False,
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
        if straight_ribs:
            self.straight_ribs = StraightRibNet().requires_grad_(False)
            self.register_load_state_dict_pre_hook(_allow_weights_without_ribs)

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


def _allow_weights_without_ribs(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give weights that lack the network along the ribs an untrained one; torch hands over a copy of the dictionary."""
    start = f"{prefix}straight_ribs."
    if not any(name.startswith(start) for name in weights):
        weights.update({start + name: value for name, value in StraightRibNet().state_dict().items()})


class StraightRibNet(nn.Module):
    """
    Tell where along straightened ribs a fracture lies.

    Straightened, all ribs look alike, so that what is normal at a place on a rib, such as a joint or the end at the
    cartilage, is soon learned; and the ribs are a fortieth of a scan. Three residual units of two 3×3×3 convolutions,
    with pooling between them, see the block around a rib; the highest and the mean of each feature over the section
    and the place on the rib go into two convolutions along the rib.

    Args:
        channels: channels of the three units.
        positions: numbers that tell the place on the rib, see :class:`scripts.anatomy.straight_ribs.RibBlocks`.
        dropout: probability of dropping a feature of a section in training.

    Inputs are blocks of ribs scaled to [-1, 1], ``(B, 1, L, W, W)`` with values 0.8 mm apart, and positions,
    ``(B, positions, L)``; L and W are multiples of ``STRIDE``, 8.

    Returns:
        Logits ``(B, 1, L / 8)`` that a fracture lies at each 6.4 mm of the rib. Before it was trained, all are 0.
    """

    STRIDE = 8

    def __init__(self, channels: Sequence[int] = (24, 48, 64), positions: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        widths = list(channels)

        def unit(inputs: int, outputs: int) -> ResidualUnit:
            return ResidualUnit(3, inputs, outputs, subunits=2, act="LEAKYRELU", norm="BATCH")

        self.blocks = nn.Sequential(
            Convolution(3, 1, widths[0], strides=2, kernel_size=4, padding=1, act="LEAKYRELU", norm="BATCH"),
            unit(widths[0], widths[0]),
            nn.MaxPool3d(2),
            unit(widths[0], widths[1]),
            nn.MaxPool3d(2),
            unit(widths[1], widths[2]),
        )
        self.pool_positions = nn.AvgPool1d(self.STRIDE)
        self.along = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv1d(2 * widths[2] + positions, 96, kernel_size=5, padding=2),
            nn.LeakyReLU(),
            nn.Conv1d(96, 64, kernel_size=5, padding=2),
            nn.LeakyReLU(),
        )
        self.head = nn.Conv1d(64, 1, kernel_size=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    @property
    def is_trained(self) -> bool:
        """Whether the logits are others than 0."""
        return bool(self.head.weight.any())

    def forward(self, ribs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        features = self.blocks(ribs)
        sections = torch.cat([features.amax(dim=(3, 4)), features.mean(dim=(3, 4))], dim=1)
        return self.head(self.along(torch.cat([sections, self.pool_positions(positions)], dim=1)))
