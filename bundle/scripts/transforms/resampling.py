"""Resample volumes along their axes, several times as fast as on a grid of points."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import DtypeLike, KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Spacingd, SpatialResample
from monai.transforms.inverse import TraceableTransform
from monai.utils import TraceKeys, convert_to_tensor, get_equivalent_dtype, get_torch_dtype_from_string

__all__ = ["ResampleAlongAxes", "SpacingOnlyd"]

_MODES = ("bilinear", "nearest")
_TOLERANCE_VOXELS = 1e-3  # of a place that the axes alone give


class ResampleAlongAxes(SpatialResample):
    """
    Resample a volume as MONAI's ``SpatialResample`` does, axis by axis where the new grid has the axes of the old one.

    Linear interpolation of a 3-D grid with the same axes is one interpolation along each, so the values are those of
    MONAI but for rounding; a place halfway between two voxels may take the other one by ``nearest``. MONAI gathers the
    eight neighbors of each voxel, and takes several times as long: ``benchmarks/resampling.py`` times both.

    Where the axes differ, and for other modes, paddings and lazy resampling, MONAI's own way is taken.

    Args:
        kwargs: those of ``monai.transforms.SpatialResample``.
    """

    def __call__(
        self,
        img: torch.Tensor,
        dst_affine: torch.Tensor | None = None,
        spatial_size: Sequence[int] | torch.Tensor | int | None = None,
        mode: str | int | None = None,
        padding_mode: str | None = None,
        align_corners: bool | None = None,
        dtype: DtypeLike = None,
        lazy: bool | None = None,
    ) -> torch.Tensor:
        mode = self.mode if mode is None else mode
        padding_mode = self.padding_mode if padding_mode is None else padding_mode
        align_corners = self.align_corners if align_corners is None else align_corners
        size = [] if spatial_size is None or isinstance(spatial_size, int) else [int(n) for n in spatial_size]
        along = None
        if mode in _MODES and padding_mode == "border" and not (self.lazy if lazy is None else lazy):
            along = _along_axes(img, dst_affine, size)
        if along is None:
            return super().__call__(img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)
        steps, starts, to_source = along
        computed_in = get_equivalent_dtype(dtype or self.dtype or img.dtype, torch.Tensor)
        img = cast(MetaTensor, convert_to_tensor(img, track_meta=get_track_meta()))
        meta = TraceableTransform.track_transform_meta(
            img,
            sp_size=torch.tensor(size),
            affine=to_source,
            extra_info={  # what the inverse of SpatialResample reads
                "dtype": str(computed_in).removeprefix("torch."),
                "mode": str(mode),
                "padding_mode": str(padding_mode),
                "align_corners": TraceKeys.NONE if align_corners is None else align_corners,
                "src_affine": img.affine,
            },
            orig_size=tuple(img.shape[1:]),
            transform_info=self.get_transform_info(),
            lazy=False,
        )
        values = img.as_tensor().to(computed_in)
        for axis in sorted(range(3), key=lambda axis: size[axis] / img.shape[axis + 1]):  # the smallest volumes first
            is_kept = max(abs(starts[axis]), abs(steps[axis] - 1) * size[axis]) < _TOLERANCE_VOXELS
            if not is_kept or size[axis] != img.shape[axis + 1]:
                values = _resample_axis(values, axis + 1, size[axis], steps[axis], starts[axis], mode == "nearest")
        return MetaTensor(values.to(torch.float32)).copy_meta_from(meta)

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Resample a volume back to the grid from which it came, as ``SpatialResample`` does."""
        transform = self.pop_transform(data)
        made = transform[TraceKeys.EXTRA_INFO]
        corners = made["align_corners"]
        dtype = get_torch_dtype_from_string(made["dtype"])
        with self.trace_transform(False):
            return self(
                data,
                dst_affine=made["src_affine"],
                spatial_size=transform[TraceKeys.ORIG_SIZE],
                mode=made["mode"],
                padding_mode=made["padding_mode"],
                align_corners=False if corners == TraceKeys.NONE else corners,
                dtype=dtype,  # type: ignore[arg-type]  # MONAI takes both
            )


class SpacingOnlyd(Spacingd):
    """
    Resample volumes as ``Spacingd`` does, faster, and leave all other entries alone.

    Of a NIfTI file's data MONAI's ``Spacingd`` takes every entry whose key begins with that of the volume and ``_`` for
    its metadata, and fails where that is no dictionary, such as ``image_path``, which MONAI Label puts there.

    Args:
        keys: keys of the volumes.
        pixdim: voxel size along each axis in mm, see ``Spacingd``; None leaves volumes as they are.
        kwargs: those of ``monai.transforms.Spacingd``.

    Example:
        >>> volume = MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": "a.nii.gz"})
        >>> data = {"image": volume, "image_path": "a.nii.gz"}
        >>> SpacingOnlyd("image", pixdim=(2, 1, 1))(data)["image"].shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float] | None, **kwargs: Any) -> None:
        self.is_off = pixdim is None
        super().__init__(keys, pixdim or (1.0, 1.0, 1.0), **kwargs)
        slow = self.spacing_transform.sp_resample
        self.spacing_transform.sp_resample = ResampleAlongAxes(
            slow.mode, slow.padding_mode, slow.align_corners, slow.dtype, slow.lazy
        )

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        if self.is_off:
            return dict(data)
        volumes = {key: data[key] for key in self.key_iterator(dict(data))}
        return {**data, **super().__call__(volumes, lazy=lazy)}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample volumes back, as ``Spacingd`` does."""
        return dict(data) if self.is_off else super().inverse(data)


def _along_axes(
    volume: torch.Tensor, dst_affine: torch.Tensor | None, size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, torch.Tensor] | None:
    """
    Return the step and start along each axis, in voxels of a volume, of a grid whose axes are those of the volume.

    None where they are not, where the volume is not of three axes or has pending transforms, or where nothing changes.
    """
    if not isinstance(volume, MetaTensor) or volume.pending_operations or volume.ndim != 4 or len(size) != 3:
        return None
    if dst_affine is None or min(size) < 1:
        return None
    to_source = np.linalg.solve(np.asarray(volume.affine, dtype=float), np.asarray(dst_affine, dtype=float))
    steps, starts = np.diag(to_source)[:3].copy(), to_source[:3, 3].copy()
    off_axes = np.abs(to_source[:3, :3] - np.diag(steps)) @ np.array(size)
    unchanged = np.allclose(to_source, np.eye(4), atol=_TOLERANCE_VOXELS) and tuple(size) == tuple(volume.shape[1:])
    if unchanged or off_axes.max() > _TOLERANCE_VOXELS:
        return None
    return steps, starts, torch.as_tensor(to_source)


def _resample_axis(
    values: torch.Tensor, axis: int, size: int, step: float, start: float, nearest: bool
) -> torch.Tensor:
    """
    Interpolate along one axis; what lies beyond the border takes its value.

    Args:
        values: shape ``(C, H, W, D)``, floating point.
        axis: 1 to 3.
        size: places along the axis.
        step: from one place to the next, in voxels.
        start: the first place, in voxels.
        nearest: take the nearest voxel's value.
    """
    last = values.shape[axis] - 1
    places = (start + step * torch.arange(size, dtype=torch.float64, device=values.device)).clamp(0, last)
    below = (places.round() if nearest else places.floor()).long()
    above = below if nearest else (below + 1).clamp(max=last)
    share = torch.zeros_like(places) if nearest else places - below
    if axis == 3:  # a product of matrices, since picking single voxels along the last axis is ten times as slow
        weights = torch.zeros(last + 1, size, dtype=values.dtype, device=values.device)
        column = torch.arange(size, device=values.device)
        weights[below, column] += (1 - share).to(values.dtype)
        weights[above, column] += share.to(values.dtype)
        return values @ weights
    shape = [1] * values.ndim
    shape[axis] = size
    lower = values.index_select(axis, below)
    if nearest:
        return lower
    return lower.lerp(values.index_select(axis, above), share.to(values.dtype).view(shape))
