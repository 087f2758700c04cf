"""Transforms that know where the body's midline, the vertebral column and the ribs are."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import str2bool
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.data._utils.collate import default_collate_fn_map

from scripts.anatomy.components import foreground_box, moved, widened
from scripts.anatomy.midline import midsagittal_plane
from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.rib_finding import find_rib_cage
from scripts.anatomy.spine import spine_mask
from scripts.anatomy.thorax import thorax_axis

__all__ = ["LabelRibsd", "MidsagittalPlaned", "RemoveSpined", "ThoraxAxisd"]


class _OfOneScan(MapTransform):
    """A transform that stores one thing beside the scan, and so takes one key."""

    stored: str  # what that is, for a message

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"{type(self).__name__} writes one {self.stored} and takes one key, got {self.keys}.")


class MidsagittalPlaned(_OfOneScan):
    """
    Store the patient's mid-sagittal plane beside the scan, in world coordinates.

    What is stored is ``(nx, ny, nz, d)``, a float64 array of shape ``(4,)``: the plane of all points ``x`` in mm with
    ``n @ x == d``, in the world frame of the scan's affine (x to the patient's right, y anterior, z superior). ``n``
    has length 1 and points to the right, so a point is on the patient's right where ``n @ x > d``, and
    ``x - 2 * (n @ x - d) * n`` is its mirror image. It stays true when the scan is cropped, resampled or reoriented.
    Where the field of view is so narrow that the plane is doubtful, and where there is no body, it is NaN. Where one
    half of the body is in view alone, it is the border that cuts the body, see
    :func:`scripts.anatomy.midsagittal_plane`. It is no tensor, since MONAI Deploy hands the network every tensor of the
    data.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with any affine, shape ``(1, H, W, D)``; one key.
        plane_key: key to store the plane under.
        allow_missing_keys: do nothing when the data lacks the scan.

    Raises:
        ValueError: when there is more than one key, or the scan is not a ``MetaTensor`` of that shape.
    """

    stored = "plane"

    def __init__(
        self, keys: KeysCollection, plane_key: str = "midsagittal_plane", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane_key = plane_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the plane added."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = _checked_volume(d[key], key)
            d[self.plane_key] = _world_plane(image.array[0], image.affine.cpu().numpy())
        return d


class ThoraxAxisd(_OfOneScan):
    """
    Store the lungs' apex and base and the chest's middle beside the scan, in world coordinates.

    With the mid-sagittal plane they tell where in the chest a candidate lies, see :mod:`scripts.anatomy.thorax`. The
    stored array holds points in RAS mm, float64, shape ``(34, 3)``: the apex, 32 centers from above to below, the base;
    NaN where the scan does not show them.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with any affine, shape ``(1, H, W, D)``; one key.
        plane_key: key of the plane, as ``MidsagittalPlaned`` stores it.
        axis_key: key to store the points under.
        allow_missing_keys: do nothing when the data lacks the scan.

    Raises:
        ValueError: when there is more than one key, or the scan is not a ``MetaTensor`` of that shape.
    """

    stored = "axis"

    def __init__(
        self,
        keys: KeysCollection,
        plane_key: str = "midsagittal_plane",
        axis_key: str = "thorax_axis",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane_key = plane_key
        self.axis_key = axis_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the points added."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = _checked_volume(d[key], key)
            turned, to_world, spacing_mm = _in_ras(image.array[0], image.affine.cpu().numpy())
            d[self.axis_key] = thorax_axis(turned, spacing_mm, to_world, d[self.plane_key])
        return d


class LabelRibsd(_OfOneScan):
    """
    Store the ribs beside the scan: the number, the centerline and the voxels of each.

    What is stored is a :class:`scripts.anatomy.rib_cage.RibCage`, in world coordinates as the plane of
    :class:`MidsagittalPlaned`. It is no tensor, but goes through a batch and back as one does: collated by PyTorch, it
    is a list of an item for each scan, which MONAI's ``decollate_batch`` parts.

    Args:
        keys: key of the scan in HU, a ``MetaTensor`` with any affine, shape ``(1, H, W, D)``; one key.
        cage_key: key to store the ribs under.
        enabled: False looks for no ribs, and stores nothing.
        allow_missing_keys: do nothing when the data lacks the scan.

    Raises:
        ValueError: when there is more than one key, or the scan is not a ``MetaTensor`` of that shape.
    """

    stored = "rib cage"

    def __init__(
        self,
        keys: KeysCollection,
        cage_key: str = "rib_cage",
        enabled: bool | str = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cage_key = cage_key
        self.enabled = str2bool(enabled)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the ribs added."""
        d = dict(data)
        if not self.enabled:
            return d
        for key in self.key_iterator(d):
            image = _checked_volume(d[key], key)
            turned, to_world, spacing_mm = _in_ras(image.array[0], image.affine.cpu().numpy())
            d[self.cage_key] = find_rib_cage(turned, spacing_mm, to_world)
        return d


class RemoveSpined(MapTransform):
    """
    Set predicted probabilities to 0 on the vertebral column of the scan.

    A network that knows ribs marks vertebrae too; the column is found by :py:func:`scripts.anatomy.midline.spine_mask`.
    A margin also takes the rim of false candidates just outside of it. A scan without a spine passes unchanged.

    Args:
        keys: keys of the predicted probabilities, shape ``(1, H, W, D)``.
        image_key: key of the scan they were predicted from, a ``MetaTensor`` of the same shape with RAS axes
            (``Orientationd(axcodes="RAS")``).
        hu_range: the HU that the scan was clipped to and scaled linearly from, to [-1, 1].
        margin_mm: voxels whose centers lie at most this far from one of the column's are removed too.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when ``margin_mm`` is below 0, the scan is no ``MetaTensor``, its axes are not RAS, or a prediction
            differs from it in shape.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        hu_range: tuple[float, float] = (-200.0, 1000.0),
        margin_mm: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not margin_mm >= 0:
            raise ValueError(f"margin_mm is {margin_mm}: 0 adds none, margins are above it.")
        self.image_key = image_key
        self.hu_range = hu_range
        self.margin_mm = margin_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the predictions changed; the arrays given stay as they are."""
        d = dict(data)
        image = _checked_volume(d[self.image_key], self.image_key)
        spine, spacing_mm = self._spine(image), image.pixdim.cpu().numpy()
        for key in self.key_iterator(d):
            if d[key].shape != image.shape:
                raise ValueError(f"{key} has shape {tuple(d[key].shape)}, {self.image_key} has {tuple(image.shape)}.")
            d[key] = self._removed(d[key], spine, spacing_mm)
        return d

    def _spine(self, image: MetaTensor) -> NDArray[np.bool_]:
        axcodes = nib.aff2axcodes(image.affine.cpu().numpy())
        if axcodes != ("R", "A", "S"):
            raise ValueError(
                f"{self.image_key} has axes {''.join(axcodes)}, RemoveSpined needs RAS: "
                'put Orientationd(axcodes="RAS") before it.'
            )
        return spine_mask(image.array[0], image.pixdim.cpu().numpy(), self.hu_range)

    def _removed(
        self, prediction: torch.Tensor, spine: NDArray[np.bool_], spacing_mm: NDArray[np.float64]
    ) -> torch.Tensor:
        """Remove the spine, of shape ``(H, W, D)``, with its margin."""
        reach = np.floor(self.margin_mm / spacing_mm).astype(int)
        around = widened(foreground_box(spine), reach, spine.shape)
        box = moved(
            foreground_box((prediction[0][around] > 0).cpu().numpy()), around
        )  # there is nothing else to remove
        wide = widened(box, reach, spine.shape)
        near = spine[wide]
        if not near.any():
            return prediction
        if self.margin_mm > 0:
            near = ndimage.distance_transform_edt(~near, sampling=spacing_mm) <= self.margin_mm
        inner = tuple(slice(own.start - all_of.start, own.stop - all_of.start) for own, all_of in zip(box, wide))
        result = prediction.clone()
        result[0][box] = result[0][box].masked_fill(torch.from_numpy(near[inner]).to(result.device), 0)
        return result


def _checked_volume(image: Any, key: Hashable) -> MetaTensor:
    if not isinstance(image, MetaTensor) or image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(
            f"{key} must be a MetaTensor of shape (1, H, W, D), got {type(image).__name__} of shape "
            f"{tuple(getattr(image, 'shape', ()))}: load it with LoadImaged and EnsureChannelFirstd."
        )
    return image


def _in_ras(image: NDArray, affine: NDArray) -> tuple[NDArray, NDArray[np.float64], NDArray[np.float64]]:
    """Turn an array of any orientation to the nearest to RAS; return it, its affine, and its spacing in mm."""
    orientation = nib.io_orientation(affine)
    to_world = affine @ nib.orientations.inv_ornt_aff(orientation, image.shape)
    return nib.apply_orientation(image, orientation), to_world, np.linalg.norm(to_world[:3, :3], axis=0)


def _world_plane(image_hu: NDArray, affine: NDArray) -> NDArray[np.float64]:
    """Find the plane of an array of any orientation; return ``(nx, ny, nz, d)`` in the affine's world, mm, or NaN."""
    turned, to_world, spacing_mm = _in_ras(image_hu, affine)
    plane = midsagittal_plane(turned, spacing_mm)
    if plane is None:
        return np.full(4, np.nan)
    # with p = spacing * index and x = rotation @ p + origin, n @ p == d is (rotation^-T n) @ x == d + ...
    normal = np.linalg.solve((to_world[:3, :3] / spacing_mm).T, plane.normal)
    length = np.linalg.norm(normal)
    return np.append(normal, plane.offset_mm + normal @ to_world[:3, 3]) / length


def collated_as_list(cages: Sequence[RibCage], *, collate_fn_map: Any = None) -> list[NDArray[np.object_]]:
    """Collate rib cages; MONAI takes an array without axes apart by its ``item``, and refuses what it does not know."""
    batch = [np.empty((), dtype=object) for _ in cages]
    for place, cage in zip(batch, cages):
        place[()] = cage
    return batch


default_collate_fn_map[RibCage] = collated_as_list  # where PyTorch's default_collate has types of one's own named
