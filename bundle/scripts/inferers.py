"""Inferers that MONAI lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer

__all__ = ["AutocastInferer", "FlipAveragingInferer", "SlidingWindowProbabilityInferer"]


class SlidingWindowProbabilityInferer(SlidingWindowInferer):
    """
    Average the probabilities of overlapping windows.

    MONAI's ``SlidingWindowInferer`` averages what the network returns, here logits; the report averages
    probabilities, so the sigmoid goes inside. The last window of each axis is moved back to end with the scan, and
    a scan smaller than the window is padded with ``cval``: set it to the value of air in the scaled image.

    A rib fracture needs a rib: windows that hold next to no bone, half of a chest CT, are not shown to the network, and
    count as probability 0.

    Args:
        args: as for ``SlidingWindowInferer``.
        bone_level: voxels of the input above this are bone, in the scaled range.
        min_bone_voxels: a window with fewer of them is skipped; 0 skips none.
        kwargs: as for ``SlidingWindowInferer``.

    Inputs are ``(B, 1, H, W, D)``; the result has the same shape, with probabilities in [0, 1].

    References:
        Report of 2021, section 3.7: windows of 64³ at stride 32.
    """

    def __init__(self, *args: Any, bone_level: float = 0.0, min_bone_voxels: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bone_level = bone_level
        self.min_bone_voxels = min_bone_voxels

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def probabilities(windows: torch.Tensor, *network_args: Any, **network_kwargs: Any) -> torch.Tensor:
            has_bone = (windows > self.bone_level).flatten(1).sum(1) >= self.min_bone_voxels
            result = torch.zeros(windows.shape, dtype=torch.float32, device=windows.device)
            if has_bone.any():
                result[has_bone] = network(windows[has_bone], *network_args, **network_kwargs).float().sigmoid()
            return result

        return super().__call__(inputs, probabilities, *args, **kwargs)


class FlipAveragingInferer(Inferer):
    """
    Average the predictions of a scan and of its mirror images.

    MONAI's ``TestTimeAugmentation`` draws its augmentations at random and needs a data set of its own; this runs in
    the place of any inferer, and gives the same result each time.

    Args:
        inferer: the inferer that does the work.
        flips: spatial axes to flip, one list for each further prediction; 0 is left-right in RAS orientation. With
            ``[[0]]`` two predictions are averaged, with ``[]`` there is one.

    Inputs are ``(B, C, H, W, D)``; the result is what the inferer returns, a tensor of that same spatial shape.
    """

    def __init__(self, inferer: Inferer, flips: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.inferer = inferer
        self.flips = [[axis + 2 for axis in axes] for axes in flips]

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        total = self.inferer(inputs, network, *args, **kwargs)
        for axes in self.flips:
            total = total + self.inferer(inputs.flip(axes), network, *args, **kwargs).flip(axes)
        return total / (1 + len(self.flips))


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
