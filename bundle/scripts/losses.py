"""Losses that MONAI lacks."""

from __future__ import annotations

import torch
from monai.losses import DeepSupervisionLoss, TverskyLoss
from torch import nn
from torch.nn.modules.loss import _Loss

__all__ = ["FadingDeepSupervisionLoss", "MaskedBCELoss", "TverskyCELoss"]


class TverskyCELoss(_Loss):
    """
    Add binary cross-entropy to the Tversky loss, so that patches without a fracture teach too.

    The Tversky loss of a patch without foreground is nearly constant, 1 whatever the network says, and has next to
    no gradient; cross-entropy has one at every voxel. MONAI combines cross-entropy with Dice (``DiceCELoss``), not
    with Tversky. The Tversky part counts over the whole batch (``batch=True``), so that a patch without a fracture
    adds its false positives to those of the others.

    Args:
        alpha: weight of false positives in the Tversky index.
        beta: weight of false negatives.

    Inputs are logits and a label in {0, 1}, both of shape ``(B, 1, H, W, D)``; the result is a scalar.

    Raises:
        ValueError: when the two shapes differ.

    References:
        Salehi et al. (2017), "Tversky loss function for image segmentation using 3D fully convolutional networks".
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7) -> None:
        super().__init__()
        self.tversky = TverskyLoss(sigmoid=True, alpha=alpha, beta=beta, batch=True)
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if input.shape != target.shape:
            raise ValueError(f"the logits have shape {tuple(input.shape)}, but the label has {tuple(target.shape)}.")
        return self.tversky(input, target) + self.cross_entropy(input, target.to(input.dtype))


class MaskedBCELoss(_Loss):
    """
    Average binary cross-entropy over the places whose label is known.

    MONAI's ``MaskedLoss`` masks by a tensor of its own, which neither its trainer nor its metrics hand over; here the
    label tells.

    Inputs are logits and a label of the same shape: 1, 0, or below 0 where it is not known. The result is a scalar, 0
    where nothing is known.

    Raises:
        ValueError: when the two shapes differ.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if input.shape != target.shape:
            raise ValueError(f"the logits have shape {tuple(input.shape)}, but the label has {tuple(target.shape)}.")
        is_known = (target >= 0).to(input.dtype)
        known = target.clamp(0, 1).to(input.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(input, known, is_known, reduction="sum")
        return loss / is_known.sum().clamp(min=1)


class FadingDeepSupervisionLoss(DeepSupervisionLoss):
    """
    Add up the loss of each of a network's outputs, with a weight for the coarser ones that can fade out.

    This is the report's L = L4 + a (L1 + L2 + L3). MONAI's ``DeepSupervisionLoss`` wants a list of weights, so that the
    number of outputs must be known beforehand, and takes no outputs stacked into one tensor, as its ``DynUNet`` returns
    them. Here what the network returns tells how many there are: one or several.

    Args:
        loss: of one output.
        weight: of each output but the first, which is the one at full resolution, and has weight 1.

    Inputs are logits ``(B, 1, H, W, D)``, or several of them, as a list or stacked along a second axis, and a label of
    ``(B, 1, H, W, D)``; a label is resized to an output that is smaller. The result is a scalar.
    """

    def __init__(self, loss: _Loss, weight: float) -> None:
        super().__init__(loss)
        self.weight = weight

    def set_weight(self, weight: float) -> None:
        """Set the weight; give this to MONAI's ``ParamSchedulerHandler`` as ``parameter_setter``."""
        self.weight = weight

    def get_weights(self, levels: int = 1) -> list[float]:
        return [1.0] + [self.weight] * (levels - 1)

    def forward(self, input: None | torch.Tensor | list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if isinstance(input, torch.Tensor) and input.ndim > target.ndim:
            input = list(input.unbind(1))
        return super().forward(input, target)
