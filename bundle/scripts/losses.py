"""Losses that MONAI lacks, and the hook that lets its scheduler fade out deep supervision."""

from __future__ import annotations

import torch
from monai.losses import DeepSupervisionLoss, TverskyLoss
from torch import nn
from torch.nn.modules.loss import _Loss

__all__ = ["MaskedBCELoss", "TverskyCELoss", "DeepSupervisionWeight"]


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


class DeepSupervisionWeight:
    """
    Set the weight a of the report's L = L4 + a (L1 + L2 + L3) in MONAI's ``DeepSupervisionLoss``.

    Give it to MONAI's ``ParamSchedulerHandler`` as ``parameter_setter``: that handler sets one number, the loss wants
    a list of weights, one for each of the network's outputs.

    Args:
        loss: the loss whose weights are set, one for each of the network's outputs in training; the first, at full
            resolution, keeps weight 1.

    Raises:
        ValueError: when the loss has no weights: MONAI would make its own for as many outputs as there are.
    """

    def __init__(self, loss: DeepSupervisionLoss) -> None:
        if not loss.weights:
            raise ValueError("give DeepSupervisionLoss its weights, one for each of the network's outputs.")
        self.loss = loss
        self.outputs = len(loss.weights)

    def __call__(self, weight: float) -> None:
        self.loss.weights = [1.0] + [weight] * (self.outputs - 1)
