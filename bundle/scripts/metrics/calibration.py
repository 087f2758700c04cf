"""Calibrate candidates' scores: what moves them, and the fit to hits and misses."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

__all__ = ["MIN_SAMPLES", "calibrated_scores", "fit_calibration"]

# Scores are kept this far from 0 and 1, where the logit is infinite; float32 still tells 1 - 1e-6 from 1.
_SCORE_MARGIN = 1e-6
# A fit needs about ten of the rarer outcome for each number beside the base rate:
# Peduzzi et al. (1996), doi:10.1016/S0895-4356(96)00236-3.
MIN_SAMPLES = 10
# So weak that it counts only where the scores of hits and misses do not overlap, and the slope would grow without end.
_RIDGE = 0.01
_MIN_SLOPE = 0.05


def calibrated_scores(scores: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """
    Move scores by a straight line in their logit: ``sigmoid(slope * logit(score) + intercept)``.

    Args:
        scores: scores in [0, 1]; 0 and 1 count as 1e-6 away from it.
        slope: above 0, so that the order is kept.
        intercept: above 0 raises scores, below 0 lowers them.

    Returns:
        scores in (0, 1), float64, of the same shape.

    References:
        Platt (1999), Probabilistic outputs for support vector machines, in: Advances in Large Margin Classifiers.
    """
    return expit(slope * _finite_logit(scores) + intercept)


def fit_calibration(scores: np.ndarray, is_hit: np.ndarray) -> tuple[float, float] | None:
    """
    Fit the probability that a candidate is a hit to its score: logistic regression on the score's logit.

    Args:
        scores: scores in [0, 1], shape ``(candidates,)``.
        is_hit: whether each is a hit, bool, of the same shape.

    Returns:
        slope, at least 0.05, and intercept, to four digits; None with fewer than ``MIN_SAMPLES`` hits or misses.

    References:
        See :func:`calibrated_scores`.
    """
    if min(is_hit.sum(), (~is_hit).sum()) < MIN_SAMPLES:
        return None
    x = _finite_logit(scores)

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        off = line - (1, 0)  # from the line that changes nothing
        z = line[0] * x + line[1]
        wrong = expit(z) - is_hit
        value = np.logaddexp(0, np.where(is_hit, -z, z)).sum() + _RIDGE / 2 * off @ off
        return value, np.array([wrong @ x, wrong.sum()]) + _RIDGE * off

    bounds = [(_MIN_SLOPE, None), (None, None)]
    line = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return round(float(line[0]), 4), round(float(line[1]), 4)


def _finite_logit(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(np.asarray(scores, dtype=np.float64), _SCORE_MARGIN, 1 - _SCORE_MARGIN))
