"""The second look along straightened ribs: blocks to train on, crops of them, and the probabilities of both looks."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import BEYOND_MM, BLOCK_STEP_MM, rib_blocks, sampled_ids, straight_ribs
from scripts.networks import StraightRibNet

__all__ = ["RandCropStraightRibsd", "RefineAlongRibsd", "StraightenRibsd"]

_logger = logging.getLogger(__name__)

BLOCK_WIDTH = 32  # values across a rib that the network sees: 25.6 mm, a rib and the tissue around it
_ROOM = 2  # more of them on each side where crops are moved
# An annotation counts on the rib that it comes so near to; with less of a section in it, it has ended
_CORE_MM = 8.0
_LEAST_OF_SECTION = 8
# Voxels so far from a centerline are looked at along no rib: half the height of a rib, and a displaced stub
REACH_MM = 14.0
# Below it nothing becomes a candidate, whatever the second look says
LEAST_PROBABILITY = 0.02
_LOGIT_MARGIN = 1e-6
_RIBS_AT_A_TIME = 8


class StraightenRibsd(MapTransform):
    """
    Cut the ribs of an annotated scan out, straightened, to train :class:`scripts.networks.StraightRibNet` on.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with RAS axes, shape ``(1, H, W, D)``; one key.
        label_key: key of the fracture ids, integer, of the same shape.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them.
        air_hu: value of what lies outside the scan.
        allow_missing_keys: do nothing when the data lacks the scan.

    Returns:
        The data with ``rib_blocks``, int16, shape ``(ribs, length, 36, 36)``, ``rib_positions``, see
        :class:`scripts.anatomy.straight_ribs.RibBlocks`, ``rib_lengths`` and ``rib_fractures``, the id of the fracture
        at each place or 0, int16, shape ``(ribs, length)``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        cage_key: str = "rib_cage",
        air_hu: float = -1024.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.cage_key = cage_key
        self.air_hu = air_hu

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image, label, cage = d[key], d[self.label_key], d[self.cage_key]
            affine = image.affine.cpu().numpy()
            width = BLOCK_WIDTH + 2 * _ROOM
            blocks = rib_blocks(image.array[0].astype(np.int16), affine, cage, width, self.air_hu)
            d["rib_blocks"] = blocks.values
            d["rib_positions"] = blocks.positions
            d["rib_lengths"] = blocks.lengths
            d["rib_fractures"] = self._fractures(np.asarray(label[0]).astype(np.int16), affine, cage, blocks.ways_mm)
        return d

    @staticmethod
    def _fractures(ids: NDArray, affine: NDArray[np.float64], cage: RibCage, ways_mm: NDArray) -> NDArray[np.int16]:
        """Tell the fracture at each place of each rib."""
        across = np.arange(-_CORE_MM, _CORE_MM + BLOCK_STEP_MM / 2, BLOCK_STEP_MM)
        is_core = np.hypot(across[:, None], across) <= _CORE_MM
        fractures = np.zeros((len(cage.ribs), len(ways_mm)), dtype=np.int16)
        for place, rib in enumerate(straight_ribs(cage)):
            sections = sampled_ids(ids, affine, rib.places_mm(ways_mm, across, across))[:, is_core]
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
            digest = sum(str(data.get(self.scan_key)).encode())
            self.set_random_state((self.seed + digest) % 2**32)
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


class RefineAlongRibsd(MapTransform):
    """
    Weigh a prediction's probabilities with those of the network that looks along the straightened ribs.

    In the logit, the result is the weighted mean of both. Voxels off the ribs and below a probability of 0.02 stay as
    they are; so does the whole prediction where no ribs were found, and where the network along the ribs is untrained,
    which is logged.

    Args:
        keys: key of the probabilities, shape ``(1, H, W, D)``, in [0, 1]; one key.
        network: a :class:`scripts.networks.StraightRibNet`, or a network that has one as ``straight_ribs``.
        weight: of the look along the ribs, in [0, 1]; 0 leaves it out.
        image_key: key of the scan, scaled to [-1, 1], a ``MetaTensor`` of the same shape with RAS axes.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them, where the data have them.
        allow_missing_keys: do nothing when the data lacks the probabilities.

    Raises:
        ValueError: when ``weight`` is not in [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: torch.nn.Module | None,
        weight: float = 0.5,
        image_key: str = "image",
        cage_key: str = "rib_cage",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of the look along the ribs must be in [0, 1], but is {weight}.")
        self.network = getattr(network, "straight_ribs", network)
        self.weight = weight
        self.image_key = image_key
        self.cage_key = cage_key
        self._is_told = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        cage = d.get(self.cage_key)
        if self.weight == 0 or cage is None or not cage.ribs:
            return d
        if not isinstance(self.network, StraightRibNet) or not self.network.is_trained:
            if not self._is_told:
                _logger.warning("The weights hold no network along the ribs: probabilities are those of the windows.")
                self._is_told = True
            return d
        for key in self.key_iterator(d):
            d[key] = self._refined(d[key], d[self.image_key], cage, self.network)
        return d

    def _refined(
        self, prediction: torch.Tensor, image: MetaTensor, cage: RibCage, network: StraightRibNet
    ) -> torch.Tensor:
        affine = image.affine.cpu().numpy()
        blocks = rib_blocks(image[0].cpu().numpy(), affine, cage, BLOCK_WIDTH, -1.0, StraightRibNet.STRIDE)
        logits = self._logits(network, blocks.values, blocks.positions)
        probability = prediction[0].cpu().numpy()
        voxels = np.argwhere(probability > LEAST_PROBABILITY)
        points, own = [], []
        for place, rib in enumerate(straight_ribs(cage)):
            points.append(np.column_stack([rib.points_mm, rib.way_mm]))
            own.append(np.full(len(rib.points_mm), place))
        on_ribs, rib_of = np.concatenate(points), np.concatenate(own)
        away, nearest = cKDTree(on_ribs[:, :3]).query(
            voxels @ affine[:3, :3].T + affine[:3, 3], distance_upper_bound=REACH_MM
        )
        is_near = np.isfinite(away)
        voxels, nearest = voxels[is_near], nearest[is_near]
        # the middle of a step of the network lies so far along the rib
        steps = ((on_ribs[nearest, 3] + BEYOND_MM) / BLOCK_STEP_MM + 0.5) / StraightRibNet.STRIDE - 0.5
        low = np.clip(np.floor(steps).astype(int), 0, logits.shape[1] - 1)
        high = np.minimum(low + 1, logits.shape[1] - 1)
        share = np.clip(steps - low, 0, 1)
        ribs = rib_of[nearest]
        along = (1 - share) * logits[ribs, low] + share * logits[ribs, high]
        seen = np.clip(probability[tuple(voxels.T)].astype(np.float64), _LOGIT_MARGIN, 1 - _LOGIT_MARGIN)
        both = (1 - self.weight) * np.log(seen / (1 - seen)) + self.weight * along
        refined = probability.copy()
        refined[tuple(voxels.T)] = 1 / (1 + np.exp(-both))
        result = prediction.clone()
        result[0] = torch.from_numpy(refined).to(prediction.device)
        return result

    @staticmethod
    def _logits(network: StraightRibNet, values: NDArray, positions: NDArray) -> NDArray[np.float64]:
        """Look along all ribs; logits of shape ``(ribs, steps)``."""
        device = next(network.parameters()).device
        was_training = network.training
        network.eval()
        parts = []
        with torch.no_grad():
            for first in range(0, len(values), _RIBS_AT_A_TIME):
                some = slice(first, first + _RIBS_AT_A_TIME)
                ribs = torch.from_numpy(values[some]).float()[:, None].to(device)
                parts.append(network(ribs, torch.from_numpy(positions[some]).to(device))[:, 0].float().cpu().numpy())
        network.train(was_training)
        return np.concatenate(parts).astype(np.float64)
