"""Find the ribs of training scans, and implant fractures into them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray

from scripts.anatomy.rib_finding import find_rib_mask
from scripts.synthetic.implant import implant_fractures
from scripts.transforms.sampling import BOXES_KEY

__all__ = ["FindRibsd", "RandImplantFracturesd"]


class FindRibsd(MapTransform):
    """
    Add the ribs that :py:func:`scripts.anatomy.rib_finding.find_rib_mask` finds, for ``RandImplantFracturesd``.

    It takes some ten seconds a scan and draws nothing at random, so a data set that keeps scans keeps its result.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with RAS axes, shape ``(1, H, W, D)``.
        ribs_key: key of the ribs' ids that are added, uint8, shape ``(1, H, W, D)``, 0 is background.
        allow_missing_keys: do nothing when the data lacks the scan.

    Raises:
        ValueError: when the scan is no ``MetaTensor`` of that shape with RAS axes.
    """

    def __init__(self, keys: KeysCollection, ribs_key: str = "ribs", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ribs_key = ribs_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = _checked_scan(d[key], key, self)
            d[self.ribs_key] = torch.from_numpy(find_rib_mask(image.array[0], image.pixdim.cpu().numpy()))[None]
        return d


class RandImplantFracturesd(RandomizableTransform, MapTransform):
    """
    Implant fractures into the ribs of a scan, at least 30 mm away from those that are annotated.

    The image is warped as by :py:func:`scripts.synthetic.implant.implant_fractures`. The label gets new ids, from the
    highest one on, and so does the table of types where the data has one. A scan in which no rib has room passes
    unchanged. Put it before the values are scaled, and before the ROIs are cut: it looks at whole ribs.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with RAS axes, shape ``(1, H, W, D)``; one key.
        label_key: key of the fracture ids, integer, shape ``(1, H, W, D)``, 0 is background.
        prob: probability that a scan gets fractures.
        fractures: least and most fractures a scan.
        ribs_key: key of the ribs' ids, shape ``(1, H, W, D)``; where the data lacks it, the ribs are searched.
        codes_key: key of the scan's ``{fracture id: class code}``.
        allow_missing_keys: do nothing when the data lacks the scan.
        subtle: share of fractures that are subtle, 0 to 1.

    Raises:
        ValueError: when there is more than one key, ``fractures`` is no range from 1, ``subtle`` is no share, the scan
            is no ``MetaTensor`` of that shape with RAS axes, or label or ribs differ from it in shape.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        prob: float = 0.5,
        fractures: tuple[int, int] = (1, 4),
        ribs_key: str = "ribs",
        codes_key: str = "label_codes",
        allow_missing_keys: bool = False,
        subtle: float = 0.0,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) != 1:
            raise ValueError(f"RandImplantFracturesd changes one scan and takes one key, got {self.keys}.")
        if not 1 <= fractures[0] <= fractures[1] <= 100:
            raise ValueError(f"fractures is {fractures[0]} to {fractures[1]}; give a range within 1 to 100.")
        if not 0 <= subtle <= 1:
            raise ValueError(f"subtle is {subtle}; it is a share, 0 to 1.")
        self.subtle = subtle
        self.label_key = label_key
        self.fractures = (fractures[0], fractures[1])
        self.ribs_key = ribs_key
        self.codes_key = codes_key
        self._count, self._seed = 0, 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether the scan gets fractures, how many, and the seed of all about them."""
        super().randomize(None)
        self._count = int(self.R.randint(self.fractures[0], self.fractures[1] + 1))
        self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with image, label and table changed; the arrays given stay as they are."""
        d = dict(data)
        self.randomize()
        if not self._do_transform:
            return d
        for key in self.key_iterator(d):
            image, label = _checked_scan(d[key], key, self), d[self.label_key]
            ribs = self._ribs(d, image)
            for name, volume in ((self.label_key, label), (self.ribs_key, ribs)):
                if tuple(volume.shape) != tuple(image.shape):
                    raise ValueError(f"{name} has shape {tuple(volume.shape)}, {key} has {tuple(image.shape)}.")
            annotated = np.asarray(label)[0]
            made = implant_fractures(
                image.array[0],
                ribs[0],
                image.pixdim.cpu().numpy(),
                self._count,
                np.random.default_rng(self._seed),
                avoid=annotated > 0,
                subtle=self.subtle,
            )
            if not made.fractures:
                continue
            highest = int(annotated.max())
            added = torch.from_numpy(made.label)[None].to(label.device)
            holds_all = label.is_floating_point() or highest + len(made.fractures) <= torch.iinfo(label.dtype).max
            label = label.clone() if holds_all else label.to(torch.int16)
            label[added > 0] = added[added > 0].to(label.dtype) + highest
            d[self.label_key] = label
            d[key] = image.clone()
            d[key].copy_(torch.from_numpy(made.image_hu)[None])
            d.pop(BOXES_KEY, None)  # of the fractures before
            if self.codes_key in d:
                new_codes = {highest + label_id: code for label_id, code in made.label_codes.items()}
                d[self.codes_key] = {**d[self.codes_key], **new_codes}
        return d

    def _ribs(self, data: Mapping[Hashable, Any], image: MetaTensor) -> NDArray:
        if self.ribs_key in data:
            return np.asarray(data[self.ribs_key]).astype(np.int32)
        return find_rib_mask(image.array[0], image.pixdim.cpu().numpy())[None]


def _checked_scan(image: Any, key: Hashable, transform: MapTransform) -> MetaTensor:
    if not isinstance(image, MetaTensor) or image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(
            f"{key} must be a MetaTensor of shape (1, H, W, D), got {type(image).__name__} of shape "
            f"{tuple(getattr(image, 'shape', ()))}: load it with LoadImaged and EnsureChannelFirstd."
        )
    axcodes = nib.aff2axcodes(image.affine.cpu().numpy())
    if axcodes != ("R", "A", "S"):
        raise ValueError(
            f"{key} has axes {''.join(axcodes)}, {type(transform).__name__} needs RAS: put "
            "Orientationd(axcodes='RAS') before it."
        )
    return image
