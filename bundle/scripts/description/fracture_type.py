"""
The type of a fracture, from measures of its rib: displaced, nondisplaced, buckle or segmental.

The measures are few, so that a few small networks of one hidden layer are enough; their weights are a JSON file.
``python -m scripts fit_types`` fits them to any data set with RibFrac's type codes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from scripts.data.ribfrac import CLASS_NAMES
from scripts.description.displacement import Displacement, missing_share
from scripts.description.rib_profile import ACROSS_MM, ACROSS_STEP_MM, MUSCLE_HU, STEP_MM, RibProfile

__all__ = ["FEATURES", "SHIPPED_MODEL", "TypeModel", "fit_type_model", "fracture_features", "segmental_pairs"]

SHIPPED_MODEL = Path(__file__).with_name("fracture_types.json")
_MEMBERS = 5
_HIDDEN = 16
_STEPS = 300
_MOST_SCALED = 4.0  # standard deviations to which a measure is cut
_NEAR_MM = 4.0
_BUMP_MM = 6.0
_BESIDE_MM = (7.0, 16.0)
_SECOND_MM = (10.0, 45.0)  # the second break of a segmental fracture, from the first one
_STEP_MM = 2.0
_THIN_MM = 3.0  # a dip that is no wider is a line, and no marrow that is less dense
_RAY_MM = 2.5  # a cortex is looked for so far to both sides of the middle
PIECE_MM = (10.0, 60.0)  # the challenge's rule for the free piece of a segmental fracture
FEATURES = (
    "offset_mm",
    "offset_sd_mm",
    "contact",
    "along_mm",
    "angle_degrees",
    "extent_mm",
    "missing_cortex",
    "missing_area",
    "more_cortex",
    "more_area",
    "step_mm",
    "wide_mm",
    "missing_outer",
    "missing_inner",
    "missing_upper",
    "missing_lower",
    "bump_outer_mm",
    "bump_inner_mm",
    "bump_upper_mm",
    "bump_lower_mm",
    "second_missing",
    "second_step_mm",
    "second_more",
    "offset_after_jump",
    "cut_outer",
    "cut_inner",
    "cut_upper",
    "cut_lower",
    "thin_dip",
    "clear_dip",
    "clear_second",
    "clear_step",
    "clear_second_step",
)


def fracture_features(
    profile: RibProfile, way_mm: float, extent_mm: float, displacement: Displacement
) -> dict[str, float]:
    """
    Measure what tells the type of a fracture.

    Args:
        profile: the rib.
        way_mm: where the break is.
        extent_mm: length of the candidate along the rib.
        displacement: as measured at the break.

    Returns:
        The measures by their names, all of ``FEATURES``.
    """
    ahead = profile.frame.way_mm - way_mm
    away = np.abs(ahead)
    near, bump = away <= _NEAR_MM, away <= _BUMP_MM
    missing = missing_share(profile)
    area = _against_beside(profile.area_mm2, ahead)
    cortex = _against_beside(profile.cortex_mm2, ahead)
    step = _steps(profile)
    halves = {
        "outer": profile.bone[:, :, len(ACROSS_MM) // 2 :],
        "inner": profile.bone[:, :, : len(ACROSS_MM) // 2],
        "upper": profile.bone[:, len(ACROSS_MM) // 2 :],
        "lower": profile.bone[:, : len(ACROSS_MM) // 2],
    }
    values = {
        "offset_mm": displacement.offset_mm,
        "offset_sd_mm": displacement.offset_sd_mm,
        "contact": displacement.contact,
        "along_mm": float(np.clip(displacement.along_mm, -10.0, 10.0)),
        "angle_degrees": displacement.angle_degrees,
        "extent_mm": extent_mm,
        "missing_cortex": _highest(missing, near),
        "missing_area": _highest(-area, near),
        "more_cortex": _highest(cortex, bump),
        "more_area": _highest(area, bump),
        "step_mm": _highest(step, near),
        "wide_mm": float((area[away <= 14.0] > 0.1).sum() * STEP_MM),
    }
    for name in ("outer", "inner", "upper", "lower"):
        mass = halves[name].sum(axis=(1, 2)) * ACROSS_STEP_MM**2
        values[f"missing_{name}"] = _highest(-_against_beside(mass, ahead), near)
    for name, edge in _edges(profile).items():
        values[f"bump_{name}_mm"] = _highest(edge - _line_beside(edge, ahead), bump)
    second = (away >= _SECOND_MM[0]) & (away <= _SECOND_MM[1])
    values["second_missing"] = _highest(missing, second)
    values["second_step_mm"] = _highest(step, second)
    values["second_more"] = _highest(-missing, second)
    for name, peaks in _cortices(profile).items():
        values[f"cut_{name}"] = _highest(-_against_beside(peaks, ahead), near)
    thin = missing_share(profile, _THIN_MM)
    values["thin_dip"] = _highest(thin, near)
    usual = (away >= _NEAR_MM) & (away <= _SECOND_MM[1])
    for name, line in (("dip", thin), ("step", step)):
        noise = max(0.01, float(np.nanmedian(np.abs(line[usual])))) if np.isfinite(line[usual]).any() else 1.0
        values[f"clear_{name}"] = min(_highest(line, near) / noise, 30.0)
        values["clear_second" + ("" if name == "dip" else "_step")] = min(_highest(line, second) / noise, 30.0)
    values["offset_after_jump"] = displacement.offset_mm * values["step_mm"]
    return {name: float(values[name]) for name in FEATURES}


def _highest(values: NDArray, where: NDArray[np.bool_]) -> float:
    """Return the highest known value, from 0 on."""
    chosen = values[where & np.isfinite(values)]
    return max(0.0, float(chosen.max())) if len(chosen) else 0.0


def _line_beside(values: NDArray, ahead_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw a straight line through what lies beside a break."""
    away = np.abs(ahead_mm)
    beside = (away >= _BESIDE_MM[0]) & (away <= _BESIDE_MM[1]) & np.isfinite(values)
    if beside.sum() < 8:
        return np.full(len(values), np.nan)
    line = np.polynomial.polynomial.polyfit(ahead_mm[beside], values[beside], 1)
    return np.asarray(np.polynomial.polynomial.polyval(ahead_mm, line))


def _against_beside(values: NDArray, ahead_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by which share values are above those beside a break, within -1 and 3."""
    return np.clip(values / np.maximum(_line_beside(values, ahead_mm), 4.0) - 1, -1.0, 3.0)


def _steps(profile: RibProfile) -> NDArray[np.float64]:
    """Return how far the sections' middle moves over 2 mm, against its course over the 8 mm around."""
    half = round(_STEP_MM / 2 / STEP_MM)
    centers = profile.centers_mm
    moved = np.full(centers.shape, np.nan)
    moved[half:-half] = centers[2 * half :] - centers[: -2 * half]
    usual = ndimage.median_filter(np.nan_to_num(moved), (2 * round(6.0 / STEP_MM) + 1, 1), mode="nearest")
    return np.asarray(np.linalg.norm(moved - usual, axis=1))


def _cortices(profile: RibProfile) -> dict[str, NDArray[np.float64]]:
    """Return the density of the cortex on each of the four sides in each section, HU above muscle."""
    hu = np.maximum(np.nan_to_num(profile.hu, nan=MUSCLE_HU) - MUSCLE_HU, 0.0) * (profile.bone > 0.1)
    centers = np.nan_to_num(profile.centers_mm)
    beside = [np.abs(ACROSS_MM - centers[:, [axis]]) <= _RAY_MM for axis in (0, 1)]  # (n, up), (n, outward)
    along_out, along_up = hu * beside[0][:, :, None], hu * beside[1][:, None]
    above = [ACROSS_MM > centers[:, [axis]] for axis in (0, 1)]
    peaks = {
        "outer": (along_out * above[1][:, None]).max(axis=(1, 2)),
        "inner": (along_out * ~above[1][:, None]).max(axis=(1, 2)),
        "upper": (along_up * above[0][:, :, None]).max(axis=(1, 2)),
        "lower": (along_up * ~above[0][:, :, None]).max(axis=(1, 2)),
    }
    return {name: ndimage.gaussian_filter1d(values.astype(float), 1.0) for name, values in peaks.items()}


def _edges(profile: RibProfile) -> dict[str, NDArray[np.float64]]:
    """Return how far the bone reaches to its four sides in each section, NaN without bone."""
    widths = {"upper": profile.bone.max(axis=2), "outer": profile.bone.max(axis=1)}
    edges = {}
    for (name, opposite), values in zip((("upper", "lower"), ("outer", "inner")), widths.values()):
        inside = values > 0.5
        first, last = inside.argmax(axis=1), len(ACROSS_MM) - 1 - inside[:, ::-1].argmax(axis=1)
        known = inside.any(axis=1)
        smooth = ndimage.gaussian_filter1d
        edges[name] = np.where(known, smooth(ACROSS_MM[last], 1.0), np.nan)
        edges[opposite] = np.where(known, -smooth(ACROSS_MM[first], 1.0), np.nan)
    return edges


@dataclass(frozen=True)
class TypeModel:
    """
    A few small networks of one hidden layer, whose mean tells the type of a fracture.

    Args:
        features: names of the measures.
        mean: of each on the data it was fitted to.
        scale: likewise, the standard deviation.
        members: weights and biases of both layers of each network: shapes ``(measures, hidden)``, ``(hidden,)``,
            ``(hidden, classes)`` and ``(classes,)``.
        classes: RibFrac's codes.
        source: what it was fitted to, in words.
    """

    features: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    members: tuple[tuple[NDArray[np.float64], ...], ...]
    classes: tuple[int, ...]
    source: str

    def probabilities(self, features: Mapping[str, float]) -> dict[int, float]:
        """
        Tell how likely each type is.

        Args:
            features: measures by their names, as :func:`fracture_features` gives them.

        Returns:
            Probability by RibFrac's code; they add up to 1.
        """
        row = np.array([features[name] for name in self.features])
        values = np.clip((row - self.mean) / self.scale, -_MOST_SCALED, _MOST_SCALED)
        shares = np.zeros(len(self.classes))
        for weights, bias, last_weights, last_bias in self.members:
            logits = np.maximum(values @ weights + bias, 0.0) @ last_weights + last_bias
            likely = np.exp(logits - logits.max())
            shares += likely / likely.sum() / len(self.members)
        return dict(zip(self.classes, shares.tolist()))

    def write(self, path: str | Path) -> None:
        """Write the model as JSON."""
        content = {
            "source": self.source,
            "classes": list(self.classes),
            "features": list(self.features),
            "mean": self.mean.round(4).tolist(),
            "scale": self.scale.round(4).tolist(),
            "members": [[part.round(4).tolist() for part in member] for member in self.members],
        }
        Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> TypeModel:
        """
        Read a model.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is of other measures or classes than this program's.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if tuple(content["features"]) != FEATURES or tuple(content["classes"]) != tuple(CLASS_NAMES):
            raise ValueError(f"{path}: is of other measures or types than this program's; fit it again.")
        mean, scale = np.array(content["mean"]), np.array(content["scale"])
        members = tuple(tuple(np.array(part) for part in member) for member in content["members"])
        return cls(FEATURES, mean, scale, members, tuple(CLASS_NAMES), content["source"])


def fit_type_model(
    features: Sequence[Mapping[str, float]],
    codes: Sequence[int],
    source: str,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> TypeModel:
    """
    Fit the model; a type that is rare counts more.

    Args:
        features: measures of each fracture.
        codes: RibFrac's code of each, 1 to 4; fractures of unknown type (-1) are left out.
        source: what they are, in words.
        weights: how much each counts; alike where None.
        seed: of the fit; the same one gives the same model.

    Returns:
        The model.

    Raises:
        ValueError: when a type has no fracture.
    """
    known = [i for i, code in enumerate(codes) if code in CLASS_NAMES]
    target = torch.tensor([list(CLASS_NAMES).index(codes[i]) for i in known], dtype=torch.long)
    counts = torch.bincount(target, minlength=len(CLASS_NAMES))
    if (counts == 0).any():
        lacking = ", ".join(name for name, count in zip(CLASS_NAMES.values(), counts) if count == 0)
        raise ValueError(f"no fracture is of the type {lacking}: give a data set with all four types.")
    values = np.array([[features[i][name] for name in FEATURES] for i in known])
    mean, scale = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-3)
    inputs = torch.from_numpy(np.clip((values - mean) / scale, -_MOST_SCALED, _MOST_SCALED)).float()
    share = torch.ones(len(known)) if weights is None else torch.tensor([weights[i] for i in known]).float()
    share = share / share.sum()
    rarity = (len(target) / len(counts) / counts).sqrt().float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        members = tuple(_fitted_member(inputs, target, share, rarity) for _ in range(_MEMBERS))
    return TypeModel(FEATURES, mean, scale, members, tuple(CLASS_NAMES), source)


def _fitted_member(
    inputs: torch.Tensor, target: torch.Tensor, share: torch.Tensor, rarity: torch.Tensor
) -> tuple[NDArray[np.float64], ...]:
    """Fit one network, with noise and dropout against learning single fractures by heart."""
    first, last = torch.nn.Linear(inputs.shape[1], _HIDDEN), torch.nn.Linear(_HIDDEN, len(rarity))
    network = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Dropout(0.3), last)
    loss = torch.nn.CrossEntropyLoss(weight=rarity, label_smoothing=0.05, reduction="none")
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        noisy = inputs + 0.1 * torch.randn_like(inputs)
        (loss(network(noisy), target) * share).sum().backward()
        optimizer.step()
    parts = (first.weight.T, first.bias, last.weight.T, last.bias)
    return tuple(part.detach().double().numpy() for part in parts)


def segmental_pairs(breaks: Sequence[tuple[int, int, float, str]]) -> dict[int, int]:
    """
    Find pairs of breaks that make one segmental fracture by the challenge's rule.

    Two breaks on one rib that are 10 to 60 mm apart leave a free piece, where each goes through the rib: a buckle does
    not. A break is in one pair at most, that with its nearest neighbor.

    Args:
        breaks: id, id of the rib, way along it in mm, and type of each.

    Returns:
        By the id of each break of a pair the id of the other one.
    """
    through = sorted((way, number, rib) for number, rib, way, kind in breaks if kind not in ("", "buckle"))
    near = sorted(
        (high[0] - low[0], low[1], high[1])
        for place, low in enumerate(through)
        for high in through[place + 1 :]
        if low[2] == high[2] and PIECE_MM[0] <= high[0] - low[0] <= PIECE_MM[1]
    )
    pairs: dict[int, int] = {}
    for _, one, other in near:
        if one not in pairs and other not in pairs:
            pairs |= {one: other, other: one}
    return pairs
