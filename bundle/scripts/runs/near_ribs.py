"""Where the windows of a prediction are worth their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.engines import PrepareBatch, default_prepare_batch
from numpy.typing import NDArray

from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import RibBlocks
from scripts.engines import choose_bfloat16
from scripts.networks import StraightRibNet
from scripts.transforms.straight_ribs import can_look, look_along_ribs

__all__ = ["PrepareBatchNearRibs"]

_HALF_RIB_MM = 7.0  # from a rib's centerline to its edge


class PrepareBatchNearRibs(PrepareBatch):
    """
    Hand an inferer, beside a batch of scans, where in them a fracture can be.

    That is near the ribs, and wherever one of them may have been missed, see
    :meth:`scripts.anatomy.rib_cage.RibCage.surroundings`. With a network along the ribs, its look comes before that of
    the windows, and only what is near the places that it may take for a fracture counts. Its logits are kept in the
    batch, for :class:`scripts.transforms.PoolRegionsd`.

    Args:
        distance_mm: how far from a rib is near; None: a fracture can be anywhere.
        min_probability: of a fracture along the ribs, in [0, 1]; 0: all places on the ribs count.
        network: a :class:`scripts.networks.StraightRibNet`, or a network that has one as ``straight_ribs``; without
            one, or one that is untrained, all places on the ribs count.
        hu_range: HU that are scaled to -1 and 1, as in training.
        amp: ``True`` looks along the ribs in bfloat16, ``False`` in float32, ``auto`` in bfloat16 where the device
            computes it fast.
        image_key: key of the scans, ``MetaTensor`` of shape ``(B, 1, H, W, D)``.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them, where the data have them.
        blocks_key: key of the same, straightened, as ``StraightenRibsd`` stores them, where the data have them.

    When called as MONAI's engines do it, it returns the scans, the labels where there are any, no positional argument,
    and ``near``, bool of the scans' shape. Without ribs all of it is True.

    Raises:
        ValueError: when the distance is below 0, or the probability not in [0, 1].
    """

    def __init__(
        self,
        distance_mm: float | None = 15.0,
        min_probability: float = 0.0,
        network: Any = None,
        hu_range: Sequence[float] = (-200.0, 1000.0),
        amp: bool | str = "auto",
        image_key: str = "image",
        cage_key: str = "rib_cage",
        blocks_key: str = "rib_blocks",
    ) -> None:
        if distance_mm is not None and not distance_mm >= 0:
            raise ValueError(f"distance_mm is {distance_mm}: distances are 0 or above, and null looks at no ribs.")
        if not 0 <= min_probability <= 1:
            raise ValueError(f"min_probability is {min_probability}: give a probability, 0 to 1.")
        self.distance_mm = distance_mm
        self.min_probability = min_probability
        self.network = getattr(network, "straight_ribs", network)
        self.hu_range = hu_range
        self.amp = amp
        self.image_key = image_key
        self.cage_key = cage_key
        self.blocks_key = blocks_key

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        image, label = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        near = []
        for place, scan in enumerate(batchdata[self.image_key]):
            # objects of a batch lie in arrays without axes
            cage, blocks = (
                batchdata[key][place][()] if key in batchdata else None for key in (self.cage_key, self.blocks_key)
            )
            if can_look(self.network) and blocks is not None and blocks.ribs:
                blocks = replace(blocks, logits=self._look(self.network, blocks))
                batchdata[self.blocks_key][place][()] = blocks
            near.append(self._near(scan, cage, blocks))
        return (
            image,
            label,
            (),
            {"near": torch.from_numpy(np.stack(near)[:, None]).to(device, non_blocking=non_blocking)},
        )

    def _look(self, network: StraightRibNet, blocks: RibBlocks) -> NDArray[np.float64]:
        bfloat16 = choose_bfloat16(self.amp, next(network.parameters()).device)
        return look_along_ribs(network, blocks, self.hu_range, bfloat16)

    def _near(self, scan: Any, cage: RibCage | None, blocks: RibBlocks | None) -> NDArray[np.bool_]:
        if cage is None or self.distance_mm is None:
            return np.ones(tuple(scan.shape[1:]), dtype=bool)
        distance_mm, places_mm = self.distance_mm, None
        if blocks is not None and blocks.logits is not None and self.min_probability > 0:
            least = np.log(self.min_probability) - np.log1p(-self.min_probability)
            distance_mm, places_mm = distance_mm + _HALF_RIB_MM, blocks.places_mm(least)
        return cage.surroundings(scan.affine.cpu().numpy(), scan.shape[1:], distance_mm, places_mm)
