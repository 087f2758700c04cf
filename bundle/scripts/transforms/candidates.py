"""From probabilities to scored candidates: the post-processing of the report, step by step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import StrEnum, convert_to_dst_type

from scripts.components import connected_components

__all__ = ["CandidateScore", "FilterCandidatesd", "LabelCandidatesd"]


class CandidateScore(StrEnum):
    """
    How a candidate's score is made from the probabilities p of its voxels and the threshold t.

    ``MEAN`` is the mean of p, the report's score; it lies in [t, 1], where the challenge's 100 thresholds
    distinguish few. ``MEAN_ABOVE_THRESHOLD`` is (mean of p - t) / (1 - t): the same order, spread over [0, 1].
    """

    MEAN = "mean"
    MEAN_ABOVE_THRESHOLD = "mean_above_threshold"


class LabelCandidatesd(MapTransform):
    """
    Turn a volume of probabilities into candidates: connected components with ids by falling score.

    MONAI's ``KeepLargestConnectedComponent`` and ``FillHoles`` label components too, but keep neither ids nor
    scores. Voxels touch by 26 neighbors.

    Args:
        keys: keys of the probabilities, shape ``(1, H, W, D)``, in [0, 1]; replaced by the ids 1..n, integers,
            0 is background.
        threshold: voxels whose probability is at or below it belong to no candidate.
        score: how a candidate's score is made, see :class:`CandidateScore`.
        score_key: key of the scores that are added, float32, shape ``(n,)``: that of candidate i stands at i - 1.
        mean_key: key of the candidates' mean probabilities, in [0, 1], in the same order.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when ``threshold`` is not in [0, 1), or the probabilities have more than one channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.64,
        score: CandidateScore | str = CandidateScore.MEAN_ABOVE_THRESHOLD,
        score_key: str = "label_scores",
        mean_key: str = "mean_probabilities",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= threshold < 1:
            raise ValueError(f"the probability threshold must be in [0, 1), but is {threshold}.")
        self.threshold = threshold
        self.score = CandidateScore(score)
        self.score_key = score_key
        self.mean_key = mean_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            probability = output[key]
            if probability.ndim != 4 or probability.shape[0] != 1:
                raise ValueError(f"'{key}' must have shape (1, H, W, D), but has {tuple(probability.shape)}.")
            values = probability[0].detach().cpu().numpy()
            components = connected_components(values > self.threshold)
            inside = components > 0
            ids, place = components[inside], values[inside].astype(np.float64)
            sizes = np.bincount(ids)[1:]
            means = np.bincount(ids, weights=place)[1:] / sizes
            scores = means
            if self.score == CandidateScore.MEAN_ABOVE_THRESHOLD:
                scores = (means - self.threshold) / (1 - self.threshold)
            order = np.argsort(-scores, kind="stable")
            output[key] = _renumbered(components, order, like=probability)
            output[self.score_key] = torch.as_tensor(scores[order], dtype=torch.float32)
            output[self.mean_key] = torch.as_tensor(means[order], dtype=torch.float32)
        return output


class FilterCandidatesd(MapTransform):
    """
    Drop candidates that are too small or too improbable, and number the others 1..n again.

    MONAI's ``RemoveSmallObjects`` is off by one with scikit-image 0.26 and knows no scores.

    Args:
        keys: keys of the candidates' ids as ``LabelCandidatesd`` gives them, shape ``(1, H, W, D)``.
        min_volume_mm3: candidates smaller than this go.
        min_mean_probability: candidates whose mean probability is lower than this go.
        score_key: key of the candidates' scores.
        mean_key: key of the candidates' mean probabilities.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when the ids carry no affine, so that their volume in mm³ is unknown.
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_volume_mm3: float,
        min_mean_probability: float,
        score_key: str = "label_scores",
        mean_key: str = "mean_probabilities",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.min_volume_mm3 = min_volume_mm3
        self.min_mean_probability = min_mean_probability
        self.score_key = score_key
        self.mean_key = mean_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            candidates = output[key]
            if not isinstance(candidates, MetaTensor):
                raise ValueError(f"'{key}' carries no affine: load it with MONAI's LoadImaged.")
            voxel_mm3 = float(np.prod(candidates.pixdim.tolist()))
            ids = candidates[0].cpu().numpy()
            volumes_mm3 = np.bincount(ids[ids > 0], minlength=len(output[self.score_key]) + 1)[1:] * voxel_mm3
            means = output[self.mean_key].numpy()
            kept = np.flatnonzero((volumes_mm3 >= self.min_volume_mm3) & (means >= self.min_mean_probability))
            output[key] = _renumbered(ids, kept, like=candidates)
            output[self.score_key] = output[self.score_key][kept]
            output[self.mean_key] = output[self.mean_key][kept]
        return output


def _renumbered(ids: np.ndarray, order: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """
    Number the components of a volume anew.

    Args:
        ids: components 1..n, shape ``(H, W, D)``.
        order: indices, from 0, of the components to keep; the first becomes 1, and so on.
        like: tensor of shape ``(1, H, W, D)`` whose metadata and device the result takes.

    Returns:
        int32 ids of shape ``(1, H, W, D)``.
    """
    new_ids = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.int32)
    new_ids[order + 1] = np.arange(1, len(order) + 1)
    return convert_to_dst_type(new_ids[ids][None], dst=like, dtype=torch.int32)[0]
