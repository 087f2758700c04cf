"""The look along straightened ribs: blocks to look at and to train on, and crops of them."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import str2bool
from numpy.typing import NDArray
from torch.utils.data._utils.collate import default_collate_fn_map

from scripts.anatomy.straight_ribs import BLOCK_STEP_MM, RibBlocks, rib_blocks, sampled_ids
from scripts.networks import StraightRibNet
from scripts.transforms.anatomy import collated_as_list

__all__ = ["RandCropStraightRibsd", "StraightenRibsd", "can_look", "look_along_ribs"]

BLOCK_WIDTH = 32  # values across a rib that the network sees: 25.6 mm, a rib and the tissue around it
_ROOM = 2  # more of them on each side where crops are moved
# An annotation counts on the rib that it comes so near to; with less of a section in it, it has ended
_CORE_MM = 8.0
_LEAST_OF_SECTION = 8
_RIBS_AT_A_TIME = 8


class StraightenRibsd(MapTransform):
    """
    Cut the ribs of a scan out, straightened, as :class:`scripts.networks.StraightRibNet` sees them.

    Put it before a scan is resampled: what is interpolated once keeps more.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with RAS axes, shape ``(1, H, W, D)``; one key.
        label_key: key of the fracture ids, integer, of the same shape, in a training; None in a prediction.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them.
        blocks_key: key of the result.
        air_hu: value of what lies outside the scan.
        enabled: False cuts nothing out; so does a scan without ``cage_key``.
        allow_missing_keys: do nothing when the data lacks the scan.

    Returns:
        The data with :class:`scripts.anatomy.straight_ribs.RibBlocks` of 32 values across, int16. With a label they are
        plain arrays, which can be kept on disk: ``rib_blocks``, of 36 values across, so that crops can be moved,
        ``rib_positions``, ``rib_lengths``, and ``rib_fractures``, the id of the fracture at each place or 0, int16,
        shape ``(ribs, length)``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str | None = None,
        cage_key: str = "rib_cage",
        blocks_key: str = "rib_blocks",
        air_hu: float = -1024.0,
        enabled: bool | str = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.cage_key = cage_key
        self.blocks_key = blocks_key
        self.air_hu = air_hu
        self.enabled = str2bool(enabled)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if not self.enabled or self.cage_key not in d:
            return d
        for key in self.key_iterator(d):
            image, cage = d[key], d[self.cage_key]
            affine = image.affine.cpu().numpy()
            width = BLOCK_WIDTH if self.label_key is None else BLOCK_WIDTH + 2 * _ROOM
            hu = image.array[0].clip(-1024, 3071).astype(np.int16)
            blocks = rib_blocks(hu, affine, cage, width, self.air_hu, StraightRibNet.STRIDE)
            if self.label_key is None:
                d[self.blocks_key] = blocks
                continue
            d[self.blocks_key] = blocks.values
            d["rib_positions"] = blocks.positions
            d["rib_lengths"] = blocks.lengths
            label = np.asarray(d[self.label_key][0]).astype(np.int16)
            d["rib_fractures"] = self._fractures(label, affine, blocks)
        return d

    @staticmethod
    def _fractures(ids: NDArray, affine: NDArray[np.float64], blocks: RibBlocks) -> NDArray[np.int16]:
        """Tell the fracture at each place of each rib."""
        across = np.arange(-_CORE_MM, _CORE_MM + BLOCK_STEP_MM / 2, BLOCK_STEP_MM)
        is_core = np.hypot(across[:, None], across) <= _CORE_MM
        fractures = np.zeros((len(blocks.ribs), len(blocks.ways_mm)), dtype=np.int16)
        for place, rib in enumerate(blocks.ribs):
            sections = sampled_ids(ids, affine, rib.places_mm(blocks.ways_mm, across, across))[:, is_core]
            for fracture in np.unique(sections[sections > 0]):
                fractures[place, (sections == fracture).sum(axis=1) >= _LEAST_OF_SECTION] = fracture
        return fractures


class RandCropStraightRibsd(Randomizable, MapTransform):
    """
    Cut pieces out of the blocks of a scan's ribs.

    Args:
        keys: key of the blocks, as ``StraightenRibsd`` gives them; one key. Positions, lengths and fractures are looked
            for under its names.
        num_samples: pieces a scan.
        length: of a piece, a multiple of 8; 192 values are 154 mm.
        broken_share: share in [0, 1] of the pieces that lie at a fracture, as far as the scan has any.
        unknown_share: share in [0, 1] of the pieces whose place on the rib is not told, so that a network can do
            without it.
        seed: with a seed, each scan always gives the same pieces; for validation.
        scan_key: key of the scan's name, which tells the scans apart under ``seed``.
        allow_missing_keys: do nothing when the data lacks the blocks.

    Returns:
        A list of ``num_samples`` dictionaries with ``image``, HU, float32, ``(1, length, 32, 32)``, ``position``,
        ``(3, length)``, and ``label``, ``(1, length / 8)``: 1 where a fracture covers more than half of the places, 0
        where none covers any, and -1 in between and beyond the rib's ends. A scan without ribs gives pieces of air
        whose label is -1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_samples: int = 12,
        length: int = 192,
        broken_share: float = 0.5,
        unknown_share: float = 0.2,
        air_hu: float = -1024.0,
        seed: int | None = None,
        scan_key: str = "scan",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        for name, share in (("broken_share", broken_share), ("unknown_share", unknown_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], but is {share}.")
        if length <= 0 or length % StraightRibNet.STRIDE:
            raise ValueError(f"length is {length}: give a multiple of {StraightRibNet.STRIDE}.")
        self.num_samples = num_samples
        self.length = length
        self.broken_share = broken_share
        self.unknown_share = unknown_share
        self.air_hu = air_hu
        self.seed = seed
        self.scan_key = scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        if self.seed is not None:
            self.set_random_state((self.seed + zlib.crc32(str(data.get(self.scan_key)).encode())) % 2**32)
        fractures = np.asarray(data["rib_fractures"])
        broken = np.argwhere(fractures > 0)
        return [self._piece(data, fractures, broken) for _ in range(self.num_samples)]

    def _piece(self, data: Mapping[Hashable, Any], fractures: NDArray, broken: NDArray) -> dict[Hashable, Any]:
        blocks, lengths = data[self.first_key(dict(data))], np.asarray(data["rib_lengths"])
        image = np.full((self.length, BLOCK_WIDTH, BLOCK_WIDTH), self.air_hu, dtype=np.float32)
        position = np.zeros((3, self.length), dtype=np.float32)
        covered = np.full(self.length, np.nan)
        if len(lengths):
            if len(broken) and self.R.rand() < self.broken_share:
                rib, middle = broken[self.R.randint(len(broken))]
                middle += self.R.randint(-self.length // 2 + 8, self.length // 2 - 7)
            else:
                rib = self.R.randint(len(lengths))
                middle = self.R.randint(lengths[rib])
            first = int(np.clip(middle - self.length // 2, -8, max(-8, lengths[rib] - self.length + 8)))
            low, high = max(first, 0), min(first + self.length, int(lengths[rib]))
            up, out = self.R.randint(0, 2 * _ROOM + 1, size=2)
            inside, part = slice(low - first, high - first), slice(low, high)
            image[inside] = np.asarray(
                blocks[int(rib), part, up : up + BLOCK_WIDTH, out : out + BLOCK_WIDTH], dtype=np.float32
            )
            if self.R.rand() >= self.unknown_share:
                position[:, inside] = np.asarray(data["rib_positions"][int(rib), :, part])
            covered[inside] = fractures[int(rib), part] > 0
        shares = covered.reshape(-1, StraightRibNet.STRIDE).mean(axis=1)
        label = np.select([shares == 0, shares > 0.5], [0.0, 1.0], default=-1.0)
        return {
            "image": torch.from_numpy(image)[None],
            "position": torch.from_numpy(position),
            "label": torch.from_numpy(label.astype(np.float32))[None],
        }


def can_look(network: Any) -> TypeGuard[StraightRibNet]:
    """Tell whether something is a network along the ribs, and trained."""
    return isinstance(network, StraightRibNet) and network.is_trained


def look_along_ribs(
    network: StraightRibNet, blocks: RibBlocks, hu_range: Sequence[float], bfloat16: bool = False
) -> NDArray[np.float64]:
    """
    Look along all ribs of a scan.

    Args:
        network: the network, in any mode and on any device.
        blocks: the ribs, in HU.
        hu_range: HU that are scaled to -1 and 1, as in training.
        bfloat16: compute in bfloat16.

    Returns:
        Logits that a fracture lies there, shape ``(ribs, length / 8)``.
    """
    low_hu, high_hu = hu_range
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    parts = []
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
        for first in range(0, len(blocks.values), _RIBS_AT_A_TIME):
            some = slice(first, first + _RIBS_AT_A_TIME)
            values = torch.from_numpy(blocks.values[some]).float()[:, None].to(device)
            scaled = ((values - low_hu) * (2 / (high_hu - low_hu)) - 1).clamp(-1, 1)
            positions = torch.from_numpy(blocks.positions[some]).to(device)
            parts.append(network(scaled, positions)[:, 0].float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(parts).astype(np.float64)


default_collate_fn_map[RibBlocks] = collated_as_list
