"""The report's sampling of regions of interest (ROIs)."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import BorderPad, MapTransform, Randomizable, SpatialCrop
from monai.utils import ensure_tuple_rep, str2bool
from scipy import ndimage

from scripts.anatomy.midline import known_plane
from scripts.data.hard_examples import HARD_KEY

__all__ = ["BOXES_KEY", "FindFracturesd", "SymmetricROISamplerd"]

BOXES_KEY = "fracture_boxes"
BONE_HU = 250.0  # as windows of a prediction have it
_LOOKS_FOR_BONE = 1024  # voxels a scan; a chest CT is a twentieth bone, so dozens of them are


class FindFracturesd(MapTransform):
    """
    Note where the fractures lie, once, so that ``SymmetricROISamplerd`` need not read the whole label each time.

    Args:
        keys: key of the instance ids (integers, 0 is background), shape ``(1, H, W, D)``; one key.
        boxes_key: key of the result, an array of shape ``(N, 7)``: id, first voxel, and the voxel behind the last one.
        allow_missing_keys: do nothing when the data lacks the label.
    """

    def __init__(self, keys: KeysCollection, boxes_key: str = BOXES_KEY, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.boxes_key = boxes_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            ids = np.asarray(d[key][0].cpu())
            ids = ids if np.issubdtype(ids.dtype, np.integer) else ids.astype(np.int32)
            boxes = [
                [i, *(axis.start for axis in box), *(axis.stop for axis in box)]
                for i, box in enumerate(ndimage.find_objects(ids), 1)
                if box is not None
            ]
            d[self.boxes_key] = np.array(boxes, dtype=np.int64).reshape(-1, 7)
        return d


class _Places(NamedTuple):
    """
    Where the ROIs of a scan may lie; centers in voxels.

    Args:
        fractures: centers of the fractures, shape ``(N, 3)``.
        mirrors: centers of the mirrored ROIs that hold no fracture, shape ``(M, 3)``.
        shape: of the scan, in voxels.
        image: in HU, shape ``(H, W, D)``, where some ROIs are to lie on bone.
        missed: those of ``fractures`` that an earlier network missed.
        false: centers of its false positives, shape ``(F, 3)``.
    """

    fractures: np.ndarray
    mirrors: np.ndarray
    shape: np.ndarray
    image: torch.Tensor | None
    missed: np.ndarray
    false: np.ndarray


class SymmetricROISamplerd(Randomizable, MapTransform):
    """
    Cut ROIs around each fracture, at the mirrored places on the other side, and at random.

    Ribs are symmetric and fractures seldom are, so the mirrored place shows the same anatomy without a fracture.
    MONAI's samplers know neither instances nor the body's symmetry. The ROIs of a scan are drawn from

    - a *positive* ROI for each fracture: each instance id, even where two fractures touch or one has several
      pieces, at the middle of its bounding box, moved by up to ``max_shift_voxels`` along each axis;
    - its *mirrored* ROI, at the place mirrored about the mid-sagittal plane; left out where any fracture lies in it,
      and where the scan does not show surely where the plane lies;
    - as many *random* ROIs as positive ones, at least ``border_voxels`` from the border (at the middle of an axis
      that is too short for that); a share of them lies on *bone* instead, wherever it is: vertebrae, scapulae,
      sternum and calcified cartilage are what a network takes for a fracture, and few places at random show them.
      Both kinds may hold a fracture;
    - a *hard* ROI for each false positive of an earlier network, as ``python -m scripts mine`` lists them, moved like a
      positive one.

    ``num_samples`` of them are taken without repetition; where there are fewer, the rest are positives and random
    ROIs drawn anew. A scan without fractures gives random ROIs alone. Where hard examples of a scan are known, a share
    of the negatives lies on its false positives, and a share of the positives on the fractures that were missed. What
    lies outside the scan is filled with ``fill_values``, so sample before the image is scaled and let the fill be the
    value of air.

    Args:
        keys: keys of the volumes to cut, shape ``(C, H, W, D)``, all of one shape, in RAS orientation.
        label_key: key of the instance ids (integers, 0 is background), shape ``(1, H, W, D)``.
        roi_size: size of the ROIs in voxels.
        num_samples: number of ROIs a scan.
        positive_share: share of positive ROIs in [0, 1], as far as there are fractures; ``None`` draws from all
            ROIs alike, as the report does.
        mirrored: whether there are mirrored ROIs.
        plane_key: key of the mid-sagittal plane, as ``MidsagittalPlaned`` stores it; ``None`` mirrors about the
            middle of the array, as the report does.
        border_voxels: least distance of a random ROI's center from the border of the volume.
        bone_share: share in [0, 1] of the random ROIs whose center is bone; where none is met they stay random.
        image_key: key of the image in HU, in which bone is looked for.
        max_shift_voxels: greatest shift of a positive ROI from its fracture, and of a hard one from its place, along
            each axis; one number for all axes, or one for each.
        hard_key: key of a scan's hard examples, as ``scripts.data.add_hard_examples`` adds them; a scan may lack it.
        hard_share: share in [0, 1] of the negative ROIs that lie on false positives, and of the positive ones that lie
            on missed fractures, as far as there are any.
        fill_values: what lies outside the scan, for each of ``keys``: air in HU for an image, 0 for a label.
        seed: with a seed, each scan always gives the same ROIs, whatever was sampled before; for validation.
        scan_key: key of the scan's name, which tells the scans apart under ``seed``.
        allow_missing_keys: skip keys that the data lacks.

    Returns:
        A list of ``num_samples`` dictionaries. Each has a new key ``"roi_kind"``: ``"positive"``, ``"mirrored"``,
        ``"random"``, ``"bone"`` or ``"hard"``.

    Raises:
        ValueError: when ``positive_share``, ``bone_share`` or ``hard_share`` is not in [0, 1], ``max_shift_voxels`` is
            not less than half the ROI, or the volumes differ in shape.

    References:
        Report of 2021, section 3.2.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        roi_size: Sequence[int] | int = 64,
        num_samples: int = 16,
        positive_share: float | None = None,
        mirrored: bool | str = True,
        plane_key: str | None = "midsagittal_plane",
        border_voxels: int = 32,
        bone_share: float = 0.0,
        image_key: str = "image",
        max_shift_voxels: Sequence[int] | int = 0,
        hard_key: str = HARD_KEY,
        hard_share: float = 0.0,
        fill_values: Sequence[float] | float = (-1024.0, 0.0),
        seed: int | None = None,
        scan_key: str = "scan",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if positive_share is not None and not 0 <= positive_share <= 1:
            raise ValueError(f"positive_share must be in [0, 1] or null, but is {positive_share}.")
        for name, share in (("bone_share", bone_share), ("hard_share", hard_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], but is {share}.")
        self.label_key = label_key
        self.roi_size = np.array(ensure_tuple_rep(roi_size, 3))
        self.max_shift_voxels = np.array(ensure_tuple_rep(max_shift_voxels, 3))
        if np.any(self.max_shift_voxels >= self.roi_size // 2):
            raise ValueError(
                f"max_shift_voxels is {max_shift_voxels}: the middle of a fracture would leave its ROI of "
                f"{tuple(self.roi_size.tolist())} voxels."
            )
        self.num_samples = num_samples
        self.positive_share = positive_share
        self.mirrored = str2bool(mirrored)
        self.plane_key = plane_key
        self.border_voxels = border_voxels
        self.bone_share = bone_share
        self.image_key = image_key
        self.hard_key = hard_key
        self.hard_share = hard_share
        self.fill_values = ensure_tuple_rep(fill_values, len(self.keys))
        self.seed = seed
        self.scan_key = scan_key
        self.centers: list[tuple[str, np.ndarray]] = []

    def randomize(self, data: _Places) -> None:
        """
        Draw the kinds and centers of the ROIs of one scan.

        Args:
            data: where they may lie.
        """
        fractures, mirrors, shape, image = data[:4]
        positives = [("positive", center) for center in fractures]
        negatives = [("mirrored", center) for center in mirrors]
        negatives += [("random", None)] * len(fractures)
        if self.positive_share is None:
            pool = positives + negatives
            chosen = [pool[i] for i in self.R.permutation(len(pool))[: self.num_samples]]
        else:
            wanted = round(self.positive_share * self.num_samples) if positives else 0
            chosen = [positives[i] for i in self.R.permutation(len(positives))[:wanted]]
            chosen += [positives[self.R.randint(len(positives))] for _ in range(wanted - len(chosen))]
            room = self.num_samples - wanted
            chosen += [negatives[i] for i in self.R.permutation(len(negatives))[:room]]
        while len(chosen) < self.num_samples:
            repeat = self.positive_share is None and positives and self.R.rand() < 0.5
            chosen.append(positives[self.R.randint(len(positives))] if repeat else ("random", None))
        if image is not None:
            bone = self._bone_places(image)
            chosen = [self._perhaps_on_bone(kind, center, bone) for kind, center in chosen]
        if self.hard_share > 0:
            chosen = [self._perhaps_hard(kind, center, data) for kind, center in chosen]
        self.centers = [(kind, self._placed(kind, center, shape)) for kind, center in chosen]

    def _bone_places(self, image: torch.Tensor) -> np.ndarray:
        """Look at voxels anywhere in the scan, and return those that are bone, shape ``(n, 3)``."""
        places = np.stack([self.R.randint(extent, size=_LOOKS_FOR_BONE) for extent in image.shape], axis=1)
        return places[np.asarray(image[tuple(places.T)]) > BONE_HU]

    def _perhaps_on_bone(self, kind: str, center: np.ndarray | None, bone: np.ndarray) -> tuple[str, np.ndarray | None]:
        if kind != "random" or len(bone) == 0 or self.R.rand() >= self.bone_share:
            return kind, center
        return "bone", bone[self.R.randint(len(bone))]

    def _perhaps_hard(self, kind: str, center: np.ndarray | None, data: _Places) -> tuple[str, np.ndarray | None]:
        hard_kind, places = ("positive", data.missed) if kind == "positive" else ("hard", data.false)
        if len(places) == 0 or self.R.rand() >= self.hard_share:
            return kind, center
        return hard_kind, places[self.R.randint(len(places))]

    def _placed(self, kind: str, center: np.ndarray | None, shape: np.ndarray) -> np.ndarray:
        if center is None:
            low = np.minimum(self.border_voxels, shape // 2)
            high = np.maximum(shape - self.border_voxels, low + 1)
            return self.R.randint(low, high)
        if kind in ("positive", "hard") and self.max_shift_voxels.any():
            return center + self.R.randint(-self.max_shift_voxels, self.max_shift_voxels + 1)
        return center

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        label = data[self.label_key]
        shape = np.array(label.shape[1:])
        for key in self.key_iterator(data):
            if data[key].shape[1:] != label.shape[1:]:
                raise ValueError(
                    f"{data.get(self.scan_key, 'scan')}: '{key}' has shape {tuple(data[key].shape[1:])}, "
                    f"but '{self.label_key}' has {tuple(shape)}."
                )
        boxes = data[BOXES_KEY] if BOXES_KEY in data else FindFracturesd(self.label_key)(data)[BOXES_KEY]
        fractures = (boxes[:, 1:4] + boxes[:, 4:]) // 2
        mirrors = self._mirrored_centers(data, fractures, boxes, shape) if self.mirrored else fractures[:0]
        if self.seed is not None:
            self.set_random_state((self.seed + zlib.crc32(str(data.get(self.scan_key)).encode())) % 2**32)
        image = data[self.image_key][0] if self.bone_share > 0 else None
        missed = false = fractures[:0]
        if self.hard_share > 0 and self.hard_key in data:
            hard = data[self.hard_key]
            missed = fractures[np.isin(boxes[:, 0], hard["missed"])]
            false = self._to_voxels(np.reshape(hard["false_mm"], (-1, 3)), data)
            false = false[np.all((false >= 0) & (false < shape), axis=1)]
        self.randomize(_Places(fractures, mirrors, shape, image, missed, false))
        return [self._cut(data, kind, center) for kind, center in self.centers]

    def _mirrored_centers(
        self, data: Mapping[Hashable, Any], fractures: np.ndarray, boxes: np.ndarray, shape: np.ndarray
    ) -> np.ndarray:
        """Mirror the fractures' centers, in voxels, and keep those whose ROI lies in the scan and holds no fracture."""
        if self.plane_key is None:
            mirrors = fractures.copy()
            mirrors[:, 0] = shape[0] - 1 - fractures[:, 0]
        else:
            affine = np.asarray(data[self.label_key].affine, dtype=float)
            plane = known_plane(data[self.plane_key])
            if plane is None:
                return fractures[:0]
            *normal, offset = plane
            world = fractures @ affine[:3, :3].T + affine[:3, 3]
            world -= 2 * (world @ normal - offset)[:, None] * np.array(normal)
            mirrors = self._to_voxels(world, data)
        label = data[self.label_key][0]
        kept = [
            center
            for center in mirrors
            if np.all((center >= 0) & (center < shape)) and not self._holds_any(label, boxes, center)
        ]
        return np.array(kept, dtype=int).reshape(-1, 3)

    def _to_voxels(self, world: np.ndarray, data: Mapping[Hashable, Any]) -> np.ndarray:
        """Return the voxels at places in mm (RAS), both of shape ``(N, 3)``."""
        affine = np.asarray(data[self.label_key].affine, dtype=float)
        return np.rint((world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)

    def _holds_any(self, label: torch.Tensor, boxes: np.ndarray, center: np.ndarray) -> bool:
        """Tell whether the ROI at a center holds a voxel of a fracture; reads the label in their boxes alone."""
        start = center - self.roi_size // 2
        shared = zip(np.maximum(boxes[:, 1:4], start), np.minimum(boxes[:, 4:], start + self.roi_size))
        return any(
            bool((label[tuple(slice(a, b) for a, b in zip(first, last))] != 0).any())
            for first, last in shared
            if np.all(first < last)
        )

    def _cut(self, data: Mapping[Hashable, Any], kind: str, center: np.ndarray) -> dict[Hashable, Any]:
        start = center - self.roi_size // 2
        end = start + self.roi_size
        roi = {key: value for key, value in data.items() if key not in self.keys}
        for key, fill in self.key_iterator(data, self.fill_values):
            shape = np.array(data[key].shape[1:])
            cut = SpatialCrop(roi_start=start.clip(0, shape), roi_end=end.clip(0, shape))(data[key])
            outside = np.stack([(-start).clip(0), (end - shape).clip(0)], axis=1)
            if outside.any():
                cut = BorderPad(outside.ravel().tolist(), mode="constant", value=fill)(cut)
            roi[key] = cut.clone()
        roi["roi_kind"] = kind
        return roi
