"""The transform that describes fractures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection, PathLike
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import str2bool
from numpy.typing import NDArray

from scripts.anatomy.components import instance_boxes
from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import RibBlocks, StraightRib, straight_ribs
from scripts.candidates import Candidate, instance_points_mm
from scripts.data.ribfrac import CLASS_NAMES
from scripts.description.chest_part import axillary_lines
from scripts.description.fracture_type import SHIPPED_MODEL, TypeModel, segmental_pairs
from scripts.description.measure import NOT_MEASURABLE, Measured, measure_fracture

__all__ = ["DescribeFracturesd"]

_AROUND_MM = 75.0  # of the scan that is read around a candidate: its half length, and 56 mm along the rib
_MOST_DIGITS = 3


class DescribeFracturesd(MapTransform):
    """
    Measure the displacement of each candidate, tell its type, and its part by the axillary lines.

    Candidates whose displacement is not measurable say why. A candidate with a type gets RibFrac's code of it, too, for
    the challenge's classification.

    Args:
        keys: key of the candidates' ids 1..n on the scan's own grid, shape ``(1, H, W, D)``, with its affine; one key.
        image_key: key of the scan that was predicted, scaled from ``hu_range`` to [-1, 1], a ``MetaTensor`` with any
            affine, shape ``(1, H, W, D)``.
        hu_range: HU that were scaled to -1 and 1.
        min_score: candidates of a lower score are left as they are.
        model: file of a :class:`scripts.description.fracture_type.TypeModel`; the shipped one where None.
        enabled: False describes none.
        plane_key: key of the mid-sagittal plane, as ``MidsagittalPlaned`` stores it, where the data have one.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them, where the data have them.
        blocks_key: key of the same, straightened, as ``StraightenRibsd`` stores them; where the data lack them, they
            are straightened here.
        candidates_key: key of the candidates, as ``DescribeCandidatesd`` stores them; they are replaced.
        codes_key: key of the list of RibFrac's type codes that is added, in the order of the ids, -1 for unknown.
        allow_missing_keys: do nothing when the data lack the ids.

    Raises:
        FileNotFoundError: when there is no such model.
        ValueError: when the model is of another program.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        hu_range: Sequence[float] = (-200.0, 1000.0),
        min_score: float = 0.0,
        model: PathLike | None = None,
        enabled: bool | str = True,
        plane_key: str = "midsagittal_plane",
        cage_key: str = "rib_cage",
        blocks_key: str = "rib_blocks",
        candidates_key: str = "candidates",
        codes_key: str = "pred_codes",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.low_hu, self.high_hu = hu_range
        self.min_score = min_score
        self.enabled = str2bool(enabled)
        self.model = TypeModel.read(SHIPPED_MODEL if model is None else Path(model)) if self.enabled else None
        self.plane_key = plane_key
        self.cage_key = cage_key
        self.blocks_key = blocks_key
        self.candidates_key = candidates_key
        self.codes_key = codes_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output: dict[Any, Any] = dict(data)
        if self.model is None:
            return output
        for key in self.key_iterator(output):
            candidates = self._described(output[key], output, self.model)
            output[self.candidates_key] = candidates
            output[self.codes_key] = [candidate.type_code for candidate in candidates]
        return output

    def _described(self, pred: MetaTensor, data: Mapping[Any, Any], model: TypeModel) -> list[Candidate]:
        candidates, cage = data[self.candidates_key], data.get(self.cage_key)
        blocks: RibBlocks | None = data.get(self.blocks_key)
        ribs = blocks.ribs if blocks is not None else () if cage is None else straight_ribs(cage)
        straight = {rib.rib.id: rib for rib in ribs}
        lines = axillary_lines(list(straight.values()), data.get(self.plane_key, np.full(4, np.nan)))
        ids, affine = pred[0].cpu().numpy(), np.asarray(pred.affine, dtype=float)
        described, breaks = [], []
        for candidate, box in zip(candidates, instance_boxes(ids, len(candidates))):
            if candidate.score >= self.min_score and box is not None:
                rib = straight.get(candidate.rib_id or 0)
                measured = self._measured(ids[box] == candidate.id, box, affine, data[self.image_key], rib, cage)
                if candidate.rib_side in lines:
                    left, back, up = candidate.center_mm
                    candidate = replace(candidate, part=lines[candidate.rib_side].part((-left, -back, up)))
                candidate = with_measures(candidate, measured, model)
                if measured.way_mm is not None and candidate.rib_id is not None:
                    breaks.append((candidate.id, candidate.rib_id, measured.way_mm, candidate.type))
            described.append(candidate)
        pairs = segmental_pairs(breaks)
        return [replace(one, segmental_with=pairs[one.id]) if one.id in pairs else one for one in described]

    def _measured(
        self,
        mask: NDArray[np.bool_],
        box: tuple[slice, ...],
        affine: NDArray[np.float64],
        image: MetaTensor,
        rib: StraightRib | None,
        cage: RibCage | None,
    ) -> Measured:
        """Measure a candidate on its rib, in HU of the scan around it."""
        if rib is None or cage is None:
            return Measured(reason="off" if cage is not None and cage.ribs else "ribs")
        points = instance_points_mm(mask, box, affine)
        own = np.asarray(image.affine, dtype=float)
        spacing = np.linalg.norm(own[:3, :3], axis=0)
        center = np.linalg.solve(own, [*points.mean(axis=0), 1.0])[:3]
        shape = image.shape[1:]
        low = np.clip(np.floor(center - _AROUND_MM / spacing), 0, np.array(shape) - 1).astype(int)
        high = np.clip(np.ceil(center + _AROUND_MM / spacing) + 1, 1, shape).astype(int)
        around = tuple(slice(int(a), int(b)) for a, b in zip(low, high))
        part = image.as_tensor()[0][around].float().cpu().numpy()
        hu = part * ((self.high_hu - self.low_hu) / 2)
        hu += (self.high_hu + self.low_hu) / 2
        moved = own.copy()
        moved[:3, 3] += own[:3, :3] @ low
        slice_mm = float(np.linalg.norm(affine[:3, :3], axis=0).max())
        return measure_fracture(hu, moved, rib, points, slice_mm, cage.metal_mm)


def with_measures(candidate: Candidate, measured: Measured, model: TypeModel) -> Candidate:
    """
    Add what was measured to a candidate, rounded as tables show it.

    Args:
        candidate: the candidate.
        measured: what was measured.
        model: tells the type.

    Returns:
        The candidate, with its displacement or why it was not measurable, and its type where that is known.
    """
    one = measured.displacement
    if one is None:
        candidate = replace(candidate, not_measurable=NOT_MEASURABLE[measured.reason])
    else:
        candidate = replace(
            candidate,
            displacement=one.kind,
            offset_mm=round(one.offset_mm, 1),
            offset_sd_mm=round(one.offset_sd_mm, 1),
            along_mm=round(one.along_mm, 1),
            along_sd_mm=round(one.along_sd_mm, 1),
            contact_percent=round(100 * one.contact),
            contact_sd_percent=round(100 * one.contact_sd),
            bend_degrees=round(one.angle_degrees),
        )
    if measured.features is None:
        return candidate
    shares = model.probabilities(measured.features)
    likely = max(shares, key=lambda code: shares[code])
    probabilities = tuple(round(share, _MOST_DIGITS) for share in shares.values())
    return replace(candidate, type=CLASS_NAMES[likely].lower(), type_probabilities=probabilities)
