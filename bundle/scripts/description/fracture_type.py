"""
The type of a fracture, from measures of its rib: displaced, nondisplaced, buckle or segmental.

The measures are few and in units of their own, so that a linear model is enough: multinomial logistic regression, whose
weights are a small JSON file. ``python -m scripts fit_types`` fits it to any data set with RibFrac's type codes.
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
from scripts.description.rib_profile import ACROSS_MM, ACROSS_STEP_MM, STEP_MM, RibProfile

__all__ = ["FEATURES", "SHIPPED_MODEL", "TypeModel", "fit_type_model", "fracture_features", "segmental_pairs"]

SHIPPED_MODEL = Path(__file__).with_name("fracture_types.json")
_NEAR_MM = 4.0
_BUMP_MM = 6.0
_BESIDE_MM = (7.0, 16.0)
_SECOND_MM = (10.0, 45.0)  # the second break of a segmental fracture, from the first one
_STEP_MM = 2.0
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
    Multinomial logistic regression of the type of a fracture.

    Args:
        features: names of the measures.
        mean: of each on the data it was fitted to.
        scale: likewise, the standard deviation.
        weights: shape ``(measures, classes)``.
        bias: of each class.
        classes: RibFrac's codes.
        source: what it was fitted to, in words.
    """

    features: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
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
        values = np.clip((np.array([features[name] for name in self.features]) - self.mean) / self.scale, -4.0, 4.0)
        logits = values @ self.weights + self.bias
        shares = np.exp(logits - logits.max())
        return dict(zip(self.classes, (shares / shares.sum()).tolist()))

    def write(self, path: str | Path) -> None:
        """Write the model as JSON."""
        content = {
            "source": self.source,
            "classes": list(self.classes),
            "bias": np.round(self.bias, 5).tolist(),
            "features": {
                name: {"mean": round(mean, 5), "scale": round(scale, 5), "weights": np.round(weights, 5).tolist()}
                for name, mean, scale, weights in zip(
                    self.features, self.mean.tolist(), self.scale.tolist(), self.weights
                )
            },
        }
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> TypeModel:
        """
        Read a model.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is of other measures or classes than this program's.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        features = tuple(content["features"])
        if not set(features) <= set(FEATURES) or tuple(content["classes"]) != tuple(CLASS_NAMES):
            raise ValueError(f"{path}: is of other measures or types than this program's; fit it again.")
        columns = content["features"].values()
        mean, scale, weights = (np.array([one[key] for one in columns]) for key in ("mean", "scale", "weights"))
        return cls(features, mean, scale, weights, np.array(content["bias"]), tuple(CLASS_NAMES), content["source"])


def fit_type_model(
    features: Sequence[Mapping[str, float]], codes: Sequence[int], source: str, decay: float = 0.01
) -> TypeModel:
    """
    Fit the model; each type counts alike, however many fractures it has.

    Args:
        features: measures of each fracture.
        codes: RibFrac's code of each, 1 to 4; fractures of unknown type (-1) are left out.
        source: what they are, in words.
        decay: weight of the squared weights.

    Returns:
        The model.

    Raises:
        ValueError: when a type has no fracture.
    """
    known = [i for i, code in enumerate(codes) if code in CLASS_NAMES]
    target = np.array([list(CLASS_NAMES).index(codes[i]) for i in known], dtype=np.int64)
    counts = np.bincount(target, minlength=len(CLASS_NAMES))
    if (counts == 0).any():
        lacking = ", ".join(name for name, count in zip(CLASS_NAMES.values(), counts) if count == 0)
        raise ValueError(f"no fracture is of the type {lacking}: give a data set with all four types.")
    values = np.array([[features[i][name] for name in FEATURES] for i in known])
    mean, scale = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-3)
    inputs = torch.from_numpy(np.clip((values - mean) / scale, -4.0, 4.0))
    share = torch.from_numpy(len(target) / len(counts) / counts[target])
    weights = torch.zeros(len(FEATURES), len(counts), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        each = torch.nn.functional.cross_entropy(inputs @ weights + bias, torch.from_numpy(target), reduction="none")
        loss = (share * each).mean() + decay * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return TypeModel(FEATURES, mean, scale, weights.detach().numpy(), bias.detach().numpy(), tuple(CLASS_NAMES), source)


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
