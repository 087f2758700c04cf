"""Bring candidates from the grid on which they were found to the scan's own."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, InvertibleTransform, MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage

from scripts.anatomy.components import foreground_box, instance_boxes
from scripts.transforms.candidates import renumbered

__all__ = ["InvertCandidatesd", "SeparateCandidatesd"]

_logger = logging.getLogger(__name__)


class InvertCandidatesd(Invertd):
    """
    Bring candidates back to the scan's own grid, and lose none without a word.

    MONAI's ``Invertd`` gives each voxel of the scan the id nearest to its center. Where a scan's voxels are larger than
    those of the prediction, as in thick slices, a small candidate may lie between all centers, and its id is gone while
    its score stays. A finding must not vanish for that: it then gets the voxels of the scan that are nearest to its
    own, as far as no other candidate has them. Where others have them all, it is dropped with its score, and the ids
    are numbered 1..n again. Either is told in the log.

    Args:
        keys: key of the candidates' ids 1..n, shape ``(1, H, W, D)``, with the affine of their grid; one key. Its
            volume becomes one of the scan's own shape, int32.
        transform: what was applied to the scan before the prediction.
        orig_keys: key of the scan that it was applied to.
        score_key: key of the candidates' scores, shape ``(n,)``.
        mean_key: key of the candidates' mean probabilities, likewise.
        allow_missing_keys: skip keys that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform,
        orig_keys: KeysCollection | None = None,
        score_key: str = "label_scores",
        mean_key: str = "mean_probabilities",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, transform, orig_keys, allow_missing_keys=allow_missing_keys)
        self.score_key = score_key
        self.mean_key = mean_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = {
            key: (data[key][0].cpu().numpy(), np.asarray(data[key].affine)) for key in self.key_iterator(dict(data))
        }
        output = super().__call__(data)
        for key, (before, affine) in found.items():
            inverted = cast(MetaTensor, output[key].to(torch.int32))
            output[key] = inverted
            ids = inverted[0].cpu().numpy()
            lost = _lost(ids, len(output[self.score_key]))
            if not lost:
                continue
            to_own = np.linalg.inv(np.asarray(inverted.affine)) @ affine
            scan = inverted.meta.get("scan", key)
            dropped = [candidate for candidate in lost if not _mark(ids, before, candidate, to_own)]
            for candidate in lost:
                done = "dropped: others have its place" if candidate in dropped else "marked by the nearest ones"
                score = float(output[self.score_key][candidate - 1])
                _logger.warning(
                    f"{scan}: a candidate of score {score:.2f} lies between the scan's voxels; it is {done}."
                )
            kept = np.setdiff1d(np.arange(len(output[self.score_key])), np.array(dropped, dtype=int) - 1)
            around = foreground_box(ids)
            output[key] = renumbered(ids[around], kept, around, like=inverted)
            output[self.score_key] = output[self.score_key][kept]
            output[self.mean_key] = output[self.mean_key][kept]
        return output


class SeparateCandidatesd(MapTransform):
    """
    Keep candidates from touching each other.

    In the challenge's rule, all masks that touch make one union, in which a fracture's share gets small. Candidates
    that are apart on the grid on which they were found can touch on a scan's coarser one. There, the one of the higher
    id, which is that of the lower score, loses the voxels that touch the other; one that would lose them all stays.

    Args:
        keys: key of the candidates' ids 1..n by falling score, integer, shape ``(1, H, W, D)``.
        allow_missing_keys: skip keys that the data lacks.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            ids = output[key][0].cpu().numpy().copy()
            for number, box in enumerate(instance_boxes(ids), start=1):
                if box is None:
                    continue
                around = ids[tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)]
                own, others = around == number, (around > 0) & (around < number)
                touching = own & ndimage.binary_dilation(others, np.ones((3, 3, 3), dtype=bool))
                if (own & ~touching).any():
                    around[touching] = 0
            output[key] = convert_to_dst_type(ids[None], dst=output[key])[0]
        return output


def _lost(ids: np.ndarray, candidates: int) -> list[int]:
    """List which of the ids 1..n a volume lacks."""
    boxes = instance_boxes(ids, candidates) if candidates else []
    return [number for number, box in enumerate(boxes, start=1) if box is None]


def _mark(ids: np.ndarray, before: np.ndarray, candidate: int, to_own: np.ndarray) -> bool:
    """
    Give a candidate the voxels nearest to its own that no other one has; tell whether there is any.

    Args:
        ids: volume on the scan's own grid, changed in place, shape ``(H, W, D)``.
        before: ids on the grid of the prediction.
        candidate: its id.
        to_own: from voxels of that grid to those of the scan's, shape ``(4, 4)``.
    """
    own = np.argwhere(before == candidate) @ to_own[:3, :3].T + to_own[:3, 3]
    places = np.unique(np.rint(own).astype(int).clip(0, np.array(ids.shape) - 1), axis=0)
    free = tuple(places[ids[tuple(places.T)] == 0].T)
    ids[free] = candidate
    return len(free[0]) > 0
