"""Inferers that MONAI lacks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer
from monai.utils import BlendMode, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep
from torch import nn
from tqdm import tqdm

from scripts.engines import (
    Engine,
    OpenVINONetwork,
    UnconvertedNetworkError,
    choose_bfloat16,
    choose_engine,
    has_fast_bfloat16,
)

__all__ = [
    "AutocastInferer",
    "EngineInferer",
    "FlipAveragingInferer",
    "RibFractureInferer",
    "SlidingWindowProbabilityInferer",
    "TwoPassInferer",
    "box_sums",
    "warm_up",
]

_logger = logging.getLogger(__name__)


class SlidingWindowProbabilityInferer(Inferer):
    """
    Average the probabilities of overlapping windows, and show the network only those that can hold a rib fracture.

    MONAI's ``SlidingWindowInferer`` averages what the network returns, here logits; the report averages
    probabilities. It also has no way to skip windows, and a rib fracture needs a rib: those that hold next to no
    bone, half of a chest CT, are not shown to the network, and count as probability 0. Windows that hold bone in their
    margin alone are not shown either, and do not count: their neighbors have that bone closer to the middle. Beyond its
    own margin a window next to such ones fades. Which ones is known before the first window is computed, so all
    batches but the last are full. Places and weights are those of ``SlidingWindowInferer``: the last window of each
    axis is moved back to end with the scan, and a scan smaller than a window is padded evenly.

    Args:
        roi_size: voxels of a window along each axis, or one number for all.
        sw_batch_size: windows that the network is given at a time; halved where the device has no memory for them.
        overlap: of neighboring windows, in [0, 1), along each axis, or one number for all.
        mode: ``constant``, each window counts alike, or ``gaussian``, more toward its middle.
        cval: what pads a scan smaller than a window: the value of air in the scaled image.
        progress: show a bar of the windows' batches.
        bone_level: voxels of the input above this are bone, in the scaled range.
        min_bone_voxels: a window with fewer of them, within its margin, is skipped; 0 skips none.
        bone_margin: in [0, 1]; at 1 a margin is half of what a window shares with its neighbor, so that all bone lies
            within the margin of some window; at 0 there is none, as always at the scan's ends.

    Inputs are ``(B, 1, H, W, D)``; the result is float32 of the same shape, on the same device, with probabilities in
    [0, 1]. With ``near``, bool of the inputs' shape, such as near the ribs, only bone within it counts. With ``where``,
    likewise, windows that hold none of it are skipped as well, and count as probability 0.

    Raises:
        ValueError: when an overlap is not in [0, 1), ``bone_margin`` not in [0, 1], or the input has another number of
            channels or axes.
        torch.OutOfMemoryError: when the device has no memory for a single window.

    References:
        Report of 2021, section 3.7: windows of 64³ at stride 32.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: BlendMode | str = BlendMode.CONSTANT,
        cval: float = 0.0,
        progress: bool = False,
        bone_level: float = 0.0,
        min_bone_voxels: int = 0,
        bone_margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.roi_size = ensure_tuple_rep(roi_size, 3)
        self.sw_batch_size = sw_batch_size
        self.overlap = ensure_tuple_rep(overlap, 3)
        if not all(0 <= share < 1 for share in self.overlap):
            raise ValueError(f"overlap must be in [0, 1), but is {overlap}.")
        self.mode = BlendMode(mode)
        self.cval = cval
        self.progress = progress
        self.bone_level = bone_level
        self.min_bone_voxels = min_bone_voxels
        if not 0 <= bone_margin <= 1:
            raise ValueError(f"bone_margin must be in [0, 1], but is {bone_margin}.")
        self.bone_margin = bone_margin

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable,
        *args: Any,
        near: torch.Tensor | None = None,
        where: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if inputs.ndim != 5 or inputs.shape[1] != 1:
            raise ValueError(f"the input must have shape (B, 1, H, W, D), but has {tuple(inputs.shape)}.")
        missing = [max(side - size, 0) for side, size in zip(self.roi_size, inputs.shape[2:])]
        before = [voxels // 2 for voxels in missing]
        padding = [voxels for low, all_of in zip(before, missing) for voxels in (low, all_of - low)]
        scans = convert_to_tensor(inputs, track_meta=False)
        bones = scans > self.bone_level if near is None else (scans > self.bone_level) & near
        if any(missing):
            padding = [*padding[4:], *padding[2:4], *padding[:2]]  # F.pad begins with the last axis
            scans = F.pad(scans, padding, value=self.cval)
            bones = F.pad(bones, padding, value=self.cval > self.bone_level)
            where = None if where is None else F.pad(where, padding, value=False)
        wheres: Iterable[torch.Tensor | None] = itertools.repeat(None) if where is None else where[:, 0]
        result = torch.cat(
            [
                self._average(scan[None], bone, of_scan, network, *args, **kwargs)
                for scan, bone, of_scan in zip(scans, bones[:, 0], wheres)
            ]
        )
        for axis, (low, size) in enumerate(zip(before, inputs.shape[2:]), start=2):
            result = result.narrow(axis, low, size)
        return convert_to_dst_type(result, inputs, dtype=torch.float32)[0]

    def _average(
        self,
        scan: torch.Tensor,
        bone: torch.Tensor,
        where: torch.Tensor | None,
        network: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Predict one scan of shape ``(1, 1, H, W, D)``, which is at least as large as a window.

        Windows that hold too little of ``bone``, or none of ``where``, bool of shape ``(H, W, D)``, are skipped.
        """
        starts = [self._starts(axis, size) for axis, size in enumerate(scan.shape[2:])]
        has_bone, is_near = self._bone(bone, starts)
        weights = compute_importance_map(self.roi_size, self.mode, device=scan.device)
        counts = has_bone | ~is_near
        weight_of_all = _sum_on_grid(weights, starts, scan.shape[2:])
        weight = weight_of_all.clone()
        for place in self._places(starts, ~counts):
            weight[place] -= weights
        # within its margin a window has an eighth of all weight or more; beyond it, where those that would have seen a
        # voxel better do not count, what it says there fades
        torch.maximum(weight, weight_of_all.div_(8), out=weight)
        del weight_of_all
        total = torch.zeros_like(weight)
        is_shown = has_bone if where is None else has_bone & self._holds(where, starts)
        shown = self._places(starts, is_shown)
        hidden = {} if self.progress else {"disable": True}  # TQDM_DISABLE counts where nothing is given
        with tqdm(total=len(shown), desc="windows", unit="window", **hidden) as bar:
            done = 0
            while done < len(shown):
                batch = shown[done : done + self.sw_batch_size]
                windows = torch.cat([scan[place] for place in batch])
                try:
                    probabilities = network(windows, *args, **kwargs).float().sigmoid()[:, 0] * weights
                except torch.OutOfMemoryError as error:
                    self._take_fewer_windows(error)
                    continue
                for place, probability in zip(batch, probabilities):
                    total[place] += probability
                done += len(batch)
                bar.update(len(batch))
        return total.div_(weight).clamp_(max=1)[None, None]  # rounding of the weights may lift a mean of ones

    def _take_fewer_windows(self, error: torch.OutOfMemoryError) -> None:
        """Halve the windows at a time, for this scan and those that follow; raise the error where it is one already."""
        if self.sw_batch_size == 1:
            raise torch.OutOfMemoryError(
                "the device has no memory for a single window: give smaller ones (windows#roi_size), or --device cpu."
            ) from error
        self.sw_batch_size //= 2
        _logger.warning(f"The device is short of memory: from now on {self.sw_batch_size} windows at a time.")
        torch.cuda.empty_cache()  # does nothing on a CPU

    def _places(self, starts: Sequence[Sequence[int]], is_chosen: torch.Tensor) -> list[tuple[Any, ...]]:
        """List where chosen windows lie, as indices; those of a chest are few of its grid's."""
        numbers = np.unravel_index(is_chosen.nonzero()[:, 0].cpu().numpy(), [len(of_axis) for of_axis in starts])
        corners = zip(*(np.asarray(of_axis)[own].tolist() for of_axis, own in zip(starts, numbers)))
        return [
            (..., *(slice(start, start + side) for start, side in zip(corner, self.roi_size))) for corner in corners
        ]

    def _bone(self, bone: torch.Tensor, starts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell which windows hold enough bone, bool, ``(windows,)``: within their margin, and at all."""
        inner = [self._inner(axis, of_axis, size) for axis, (of_axis, size) in enumerate(zip(starts, bone.shape))]
        within = box_sums(bone, inner).flatten() >= self.min_bone_voxels
        return within, self._holds(bone, starts, self.min_bone_voxels)

    def _holds(self, mask: torch.Tensor, starts: Sequence[Sequence[int]], voxels: int = 1) -> torch.Tensor:
        """Tell which windows hold so many voxels of a mask, bool, ``(windows,)``."""
        whole = [[(start, start + side) for start in of_axis] for of_axis, side in zip(starts, self.roi_size)]
        return box_sums(mask, whole).flatten() >= voxels

    def _starts(self, axis: int, size: int) -> list[int]:
        """List where the windows start along an axis."""
        side = self.roi_size[axis]
        stride = max(int(side * (1 - self.overlap[axis])), 1)
        return sorted({min(start, size - side) for start in range(0, size - side + stride, stride)})

    def _inner(self, axis: int, starts: Sequence[int], size: int) -> list[tuple[int, int]]:
        """List the ranges of the windows along an axis in which bone counts."""
        side = self.roi_size[axis]
        margin = int(side * self.overlap[axis] / 2 * self.bone_margin)
        return [
            (start + margin if start > 0 else 0, start + side - margin if start + side < size else size)
            for start in starts
        ]


def _sum_on_grid(patch: torch.Tensor, starts: Sequence[Sequence[int]], shape: Sequence[int]) -> torch.Tensor:
    """Add up one patch at all places of a grid, axis after axis; the places cover the volume of ``shape``."""
    for axis, (of_axis, size) in enumerate(zip(starts, shape)):
        side = patch.shape[axis]
        summed = patch.new_zeros([*patch.shape[:axis], size, *patch.shape[axis + 1 :]])
        for start in of_axis:
            summed.narrow(axis, start, side).add_(patch)
        patch = summed
    return patch


def box_sums(mask: torch.Tensor, ranges: Sequence[Sequence[tuple[int, int]]]) -> torch.Tensor:
    """
    Count the marked voxels of boxes on a grid, axis after axis, so that no voxel is read more often than boxes overlap
    along the first axis.

    Args:
        mask: bool, shape ``(H, W, D)``.
        ranges: of the boxes along each axis: first voxel, and the one after the last.

    Returns:
        int32, shape ``(len(ranges[0]), len(ranges[1]), len(ranges[2]))``.
    """
    sums = mask
    for axis, of_axis in enumerate(ranges):
        sums = torch.stack(
            [sums.narrow(axis, start, end - start).sum(axis, dtype=torch.int32) for start, end in of_axis], dim=axis
        )
    return sums


class FlipAveragingInferer(Inferer):
    """
    Average the predictions of a scan and of its mirror images.

    MONAI's ``TestTimeAugmentation`` draws its augmentations at random and needs a data set of its own; this runs in
    the place of any inferer, and gives the same result each time.

    Args:
        inferer: the inferer that does the work.
        flips: spatial axes to flip, one list for each further prediction; 0 is left-right in RAS orientation. With
            ``[[0]]`` two predictions are averaged, with ``[]`` there is one.

    Inputs are ``(B, C, H, W, D)``; the result is what the inferer returns, a tensor of that same spatial shape. Tensors
    that are handed on by keyword are flipped with the scan.
    """

    def __init__(self, inferer: Inferer, flips: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.inferer = inferer
        self.flips = [[axis + 2 for axis in axes] for axes in flips]

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        total = self.inferer(inputs, network, *args, **kwargs)
        for axes in self.flips:
            flipped = {name: of.flip(axes) if isinstance(of, torch.Tensor) else of for name, of in kwargs.items()}
            total = total + self.inferer(inputs.flip(axes), network, *args, **flipped).flip(axes)
        return total / (1 + len(self.flips))


class TwoPassInferer(Inferer):
    """
    Predict a scan in two passes, the second only where the first found anything, and average both.

    Such as a first pass in large windows with little overlap, and a second in smaller ones with more. Where the mean is
    above ``(1 + refine_above) / 2``, it is the same as if the second pass were everywhere, since the first has more
    than ``refine_above`` there.

    Args:
        inferer: the second pass; its windows in which the first found nothing are skipped, and count as probability 0.
        first: the first pass; None: there is none, and the other one is everywhere.
        refine_above: probability of the first pass above which the second follows; at 0 it is everywhere.

    Inputs are ``(B, 1, H, W, D)``; the result is float32 of the same shape, with probabilities in [0, 1].
    """

    def __init__(
        self, inferer: SlidingWindowProbabilityInferer, first: Inferer | None = None, refine_above: float = 0.1
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.first = first
        self.refine_above = refine_above

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.first is None:
            return self.inferer(inputs, network, *args, **kwargs)
        found = self.first(inputs, network, *args, **kwargs)
        where = convert_to_tensor(found > self.refine_above, track_meta=False) if self.refine_above > 0 else None
        return (found + self.inferer(inputs, network, *args, where=where, **kwargs)) / 2


class AutocastInferer(Inferer):
    """
    Run another inferer in bfloat16 or float32, on the device that holds the input.

    The engines' ``amp`` asks for CUDA's autocast and does nothing on a CPU. bfloat16 has the range of float32, so
    that training needs no scaling of gradients.

    Args:
        inferer: the inferer that does the work.
        amp: ``True`` computes in bfloat16, ``False`` in float32, ``auto`` in bfloat16 where the device does so fast.
    """

    def __init__(self, inferer: Inferer, amp: bool | str = "auto") -> None:
        super().__init__()
        self.inferer = inferer
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        enabled = choose_bfloat16(self.amp, inputs.device)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=enabled):
            return self.inferer(inputs, network, *args, **kwargs)


class EngineInferer(Inferer):
    """
    Run another inferer with the network on the fastest engine that the device has, in the precision that suits it.

    The network is compiled once, at the first scan, and again when its weights have changed. What is chosen is logged.
    A scan for which a GPU has no memory is predicted on the CPU, with a warning; the next one is tried on the GPU
    again.

    Args:
        inferer: the inferer that does the work; it must call the network with one tensor.
        engine: ``auto``, ``torch`` or ``openvino``, see :class:`scripts.engines.Engine`.
        amp: ``True`` computes in bfloat16, ``False`` in float32, ``auto`` in bfloat16 where the device does so fast.
            OpenVINO computes in bfloat16 only where the CPU does so fast, and otherwise in float32.

    Raises:
        ValueError: when there is no such engine, or it cannot compute on the device of the input.
        ImportError: when it is not installed.
        UnconvertedNetworkError: when OpenVINO is asked for and cannot compute the network; with ``auto``, torch
            computes it, with a warning.
        torch.OutOfMemoryError: when the GPU has no memory and the network cannot leave it, as one of TensorRT.
    """

    def __init__(self, inferer: Inferer, engine: Engine | str = Engine.AUTO, amp: bool | str = "auto") -> None:
        super().__init__()
        self.inferer = inferer
        self.engine = Engine(engine)
        self.amp = amp
        self._network: OpenVINONetwork | None = None
        self._logged: set[str] = set()

    def warm_up(self, network: Any, device: torch.device | str, roi_size: Sequence[int]) -> None:
        """
        Compile the network where that takes seconds, as by OpenVINO, before the first scan is there.

        Args:
            network: as in the calls to follow, with its weights.
            device: of their inputs.
            roi_size: voxels of a window along each axis.
        """
        if choose_engine(self.engine, torch.device(device)) == Engine.OPENVINO:
            with suppress(UnconvertedNetworkError):  # the first scan tells it
                self._compiled(network)(torch.zeros(1, 1, *roi_size))

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._predict(inputs, network, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            if inputs.device.type == "cpu" or not _can_move(network):
                raise
            reason = " ".join(str(error).split())
        # behind the handler, whose error holds what lies on the GPU
        _logger.warning(
            f"{inputs.device} has no memory for this scan, which the CPU predicts instead: that takes longer ({reason})"
        )
        return self._predict_on_cpu(inputs, network, *args, **kwargs)

    def _predict_on_cpu(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Predict with the network moved to the CPU, and move it and what it finds back."""
        device = inputs.device
        torch.cuda.empty_cache()
        try:
            found = self._predict(inputs.to("cpu"), network.to("cpu"), *args, **kwargs)
        finally:
            network.to(device)
        return found.to(device)

    def _predict(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        engine = choose_engine(self.engine, inputs.device)
        bfloat16 = choose_bfloat16(self.amp, inputs.device)
        if engine == Engine.OPENVINO:
            bfloat16 = self._compiled(network).bfloat16
        self._log(f"The network is computed by {engine} on {inputs.device} in {'bfloat16' if bfloat16 else 'float32'}.")
        if engine == Engine.OPENVINO:
            try:
                return self.inferer(inputs, self._compiled(network), *args, **kwargs)
            except UnconvertedNetworkError as error:
                if self.engine != Engine.AUTO:
                    raise
                _logger.warning(f"{error} Torch computes it instead.")
                self.engine = Engine.TORCH
                return self._predict(inputs, network, *args, **kwargs)
        return AutocastInferer(self.inferer, bfloat16)(inputs, network, *args, **kwargs)

    def _compiled(self, network: nn.Module) -> OpenVINONetwork:
        """Return the network for OpenVINO, which compiles it at its first call."""
        if self._network is None or self._network.network is not network:
            device = torch.device("cpu")
            bfloat16 = choose_bfloat16(self.amp, device) and has_fast_bfloat16(device)  # OpenVINO does not emulate it
            self._network = OpenVINONetwork(network, bfloat16)
        return self._network

    def _log(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            _logger.info(message)


class RibFractureInferer(EngineInferer):
    """
    Predict a scan as ``inference.yaml`` does: in one or two passes of windows, on the fastest engine.

    It is an :class:`EngineInferer` of a :class:`FlipAveragingInferer` of a :class:`TwoPassInferer` of
    :class:`SlidingWindowProbabilityInferer`, with the groups of settings that a config has.

    Args:
        windows: ``roi_size``, ``overlap``, ``mode`` and ``batch_size`` of the windows, see ``roi_size``, ``overlap``,
            ``mode`` and ``sw_batch_size`` of :class:`SlidingWindowProbabilityInferer`.
        large_windows: ``roi_size`` and ``overlap`` of a first pass, and ``refine_above`` of :class:`TwoPassInferer`. It
            is given an eighth as many windows at a time. None, or ``roi_size: None``: there is no first pass.
        bone: ``hu`` above which a voxel is bone, and ``min_voxels`` and ``margin``, see ``min_bone_voxels`` and
            ``bone_margin`` of :class:`SlidingWindowProbabilityInferer`. None skips no window.
        hu_range: HU that were scaled to -1 and 1.
        flips: see :class:`FlipAveragingInferer`.
        engine: see :class:`EngineInferer`.
        amp: likewise.
        progress: show a bar of the windows' batches.

    Inputs are ``(B, 1, H, W, D)``, scaled; the result is float32 of the same shape, with probabilities in [0, 1]. With
    ``near``, bool of the inputs' shape, as :class:`scripts.runs.PrepareBatchNearRibs` gives it, windows that hold
    no bone within it are skipped.
    """

    def __init__(
        self,
        windows: Mapping[str, Any],
        large_windows: Mapping[str, Any] | None = None,
        bone: Mapping[str, Any] | None = None,
        hu_range: Sequence[float] = (-200.0, 1000.0),
        flips: Sequence[Sequence[int]] = (),
        engine: Engine | str = Engine.AUTO,
        amp: bool | str = "auto",
        progress: bool = True,
    ) -> None:
        low_hu, high_hu = hu_range
        bone = bone or {"hu": high_hu, "min_voxels": 0, "margin": 0.0}
        shared = {
            "mode": windows["mode"],
            "cval": -1.0,  # air, in the scaled range
            "progress": progress,
            "bone_level": 2 * (bone["hu"] - low_hu) / (high_hu - low_hu) - 1,
            "min_bone_voxels": bone["min_voxels"],
            "bone_margin": bone["margin"],
        }
        first = None
        if large_windows is not None and large_windows["roi_size"] is not None:
            first = SlidingWindowProbabilityInferer(
                large_windows["roi_size"], max(windows["batch_size"] // 8, 1), large_windows["overlap"], **shared
            )
        second = SlidingWindowProbabilityInferer(
            windows["roi_size"], windows["batch_size"], windows["overlap"], **shared
        )
        refine_above = 0.0 if large_windows is None else large_windows["refine_above"]
        super().__init__(FlipAveragingInferer(TwoPassInferer(second, first, refine_above), flips), engine, amp)


def warm_up(inferer: Inferer, network: Any, device: torch.device | str, roi_size: Sequence[int]) -> None:
    """Let an :class:`EngineInferer` compile the network, see there; any other inferer has nothing to compile."""
    if isinstance(inferer, EngineInferer):
        inferer.warm_up(network, device, roi_size)


def _can_move(network: Any) -> bool:
    """Tell whether a network can go to another device; what was compiled for one, such as by TensorRT, cannot."""
    return isinstance(network, nn.Module) and not isinstance(network, torch.jit.ScriptModule)
