"""Inferers that MONAI lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer

__all__ = ["AutocastInferer", "SlidingWindowProbabilityInferer"]


class SlidingWindowProbabilityInferer(SlidingWindowInferer):
    """
    Average the probabilities of overlapping windows.

    MONAI's ``SlidingWindowInferer`` averages what the network returns, here logits; the report averages
    probabilities, so the sigmoid goes inside. The last window of each axis is moved back to end with the scan, and
    a scan smaller than the window is padded with ``cval``: set it to the value of air in the scaled image.

    Args:
        args: as for ``SlidingWindowInferer``.
        kwargs: as for ``SlidingWindowInferer``.

    Inputs are ``(B, 1, H, W, D)``; the result has the same shape, with probabilities in [0, 1].

    References:
        Report of 2021, section 3.7: windows of 64³ at stride 32.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def probabilities(windows: torch.Tensor, *network_args: Any, **network_kwargs: Any) -> torch.Tensor:
            return network(windows, *network_args, **network_kwargs).float().sigmoid()

        return super().__call__(inputs, probabilities, *args, **kwargs)


class AutocastInferer(Inferer):
    """
    Run another inferer in bfloat16, on the device that holds the input.

    The engines' ``amp`` asks for CUDA's autocast and does nothing on a CPU. bfloat16 has the range of float32, so
    that training needs no scaling of gradients.

    Args:
        inferer: the inferer that does the work.
        enabled: ``False`` runs it as it is, in float32.
    """

    def __init__(self, inferer: Inferer, enabled: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            return self.inferer(inputs, network, *args, **kwargs)
