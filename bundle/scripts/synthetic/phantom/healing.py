"""How a fracture of a rib looks as it heals: callus, sclerosis of its margins, and what stays of the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AGES", "Healing", "draw_age", "draw_healing"]

AGES = {
    "fresh": "a sharp line, no callus",
    "soft callus": "a haze of 80-200 HU around the break, the line open",
    "hard callus": "a cuff of woven bone of 300-700 HU that bridges the break",
    "remodeled": "cortex thicker and denser than before, the line nearly closed",
    "ununited": "an old line that stays open between rounded stubs with sclerotic margins of 500-900 HU",
}
_FRESH_SHARE = 0.5  # of the fractures with an age; the others share the rest alike
_USUAL_FRESH_SHARE = 0.75


@dataclass(frozen=True)
class Healing:
    """
    Signs of age of a fracture.

    Args:
        age: a key of ``AGES``.
        callus_mm: thickness of the cuff on the outside of the bone, at its middle.
        callus_hu: HU of the cuff.
        callus_half_mm: half of its length along the rib.
        lean: angle in radians to which the cuff is thicker, from the normal.
        texture: standard deviation of the cuff's HU, as a share of them.
        line_filled: share of the line that is closed by callus, in [0, 1].
        sclerosis_hu: HU that the bone beside the line rises to at least.
        sclerosis_mm: how far the sclerosis reaches from the line.
        rounding_mm: how far the edge of a stub lies behind its middle.
    """

    age: str
    callus_mm: float
    callus_hu: float
    callus_half_mm: float
    lean: float
    texture: float
    line_filled: float
    sclerosis_hu: float
    sclerosis_mm: float
    rounding_mm: float

    def cuff_mm(self, s: NDArray, u: NDArray, v: NDArray, centers_mm: Sequence[float]) -> NDArray:
        """Thickness of the cuff in mm at places in the frame of the rib, around each break; 0 where there is none."""
        apart = np.min([np.abs(s - center) for center in centers_mm], axis=0)
        spindle = np.clip(1 - (apart / self.callus_half_mm) ** 2, 0, 1)
        angle = np.arctan2(v, u)
        uneven = 1 + 0.35 * np.cos(angle - self.lean) + 0.15 * np.sin(3 * angle + 0.8 * s + self.lean)
        return self.callus_mm * spindle * uneven


def draw_age(code: int, subtle: bool, rng: np.random.Generator) -> str:
    """Draw a key of ``AGES``: half of the subtle fractures are fresh, three in four of the others; a buckle unites."""
    later = [age for age in AGES if age != "fresh" and not (code == 3 and age == "ununited")]
    if rng.random() < (_FRESH_SHARE if subtle else _USUAL_FRESH_SHARE):
        return "fresh"
    return str(rng.choice(later))


def draw_healing(age: str, rng: np.random.Generator) -> Healing | None:
    """
    Draw the signs of an age; ``None`` for a fresh fracture.

    References:
        Marsell and Einhorn (2011), Injury, doi:10.1016/j.injury.2011.03.031: soft callus, hard callus, remodeling.
    """
    lean = rng.uniform(-np.pi, np.pi)
    half = rng.uniform(6, 11)
    if age == "soft callus":
        thick, hu = rng.uniform(2, 4.5), rng.uniform(80, 200)
        return Healing(age, thick, hu, half, lean, 0.12, rng.uniform(0, 0.4), 0.0, 1.0, rng.uniform(0, 0.3))
    if age == "hard callus":
        thick, hu = rng.uniform(1.2, 3.5), rng.uniform(300, 700)
        filled, sclerosis = rng.uniform(0.5, 0.9), rng.uniform(300, 600)
        return Healing(age, thick, hu, half, lean, 0.2, filled, sclerosis, rng.uniform(2, 4), 0.0)
    if age == "remodeled":
        thick, hu = rng.uniform(0.6, 1.6), rng.uniform(550, 950)
        filled, sclerosis = rng.uniform(0.75, 0.95), rng.uniform(350, 650)
        return Healing(age, thick, hu, 1.2 * half, lean, 0.1, filled, sclerosis, rng.uniform(4, 8), 0.0)
    if age == "ununited":
        # half of them are hypertrophic: the stubs' ends are thicker, but not bridged
        thick = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 0.0
        hu, sclerosis = rng.uniform(400, 700), rng.uniform(500, 900)
        return Healing(age, thick, hu, 0.7 * half, lean, 0.1, 0.0, sclerosis, rng.uniform(1.5, 3), rng.uniform(0.4, 1))
    return None
