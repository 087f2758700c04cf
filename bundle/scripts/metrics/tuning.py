"""
Choose the post-processing by the challenge's score: a search over settings, and the score from which on one writes.

It knows numbers alone; what a setting does to a scan is told by whoever scores it (``scripts.commands.tune``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from scripts.data.ribfrac import CHALLENGE_THRESHOLDS, MIN_OVERLAP
from scripts.metrics.calibration import calibrated_scores, fit_calibration
from scripts.metrics.froc import ScanResult, detection_scores

__all__ = [
    "LIKELY",
    "Outcome",
    "ScanSets",
    "Setting",
    "calibrated_sets",
    "coordinate_search",
    "false_candidates",
    "operating_score",
    "outcome_of",
    "ranked",
    "scores_and_hits",
]

LIKELY = 0.5  # a candidate of this calibrated score is a fracture as likely as not
# What calibrated scores may cost in average recall, less than any set of scans tells apart: they mean something.
CALIBRATION_COST = 0.002
# Settings whose average recall agrees to this many digits tie: no set of scans tells them apart, so the present stays.
TIE_DIGITS = 3

ScanSets = Sequence[Sequence[ScanResult]]  # what each scan of each set of scans adds to the score


@dataclass(frozen=True)
class Setting:
    """
    The post-processing of one prediction, under the names of the group ``candidates`` of ``configs/inference.yaml``.

    Args:
        threshold: voxels whose probability is at or below it belong to no candidate.
        low_threshold: a component above it that holds no candidate is one too; 0 adds none.
        min_volume_mm3: smaller candidates are dropped.
        min_mean_probability: candidates of a lower mean probability are dropped.
        split_distance_mm: least distance of two peaks that split a component; 0 splits nothing.
        peak_share: a component becomes its pieces above this share of its highest probability; 0 parts nothing.
        score: how a candidate's score is made.
    """

    threshold: float
    low_threshold: float
    min_volume_mm3: float
    min_mean_probability: float
    split_distance_mm: float
    peak_share: float
    score: str

    @property
    def plain(self) -> Setting:
        """The same post-processing, with 0 in place of every value that changes nothing."""
        low = self.low_threshold if self.low_threshold < self.threshold else 0.0
        lowest = low or self.threshold
        return replace(
            self,
            low_threshold=low,
            min_mean_probability=self.min_mean_probability if self.min_mean_probability > lowest else 0.0,
            peak_share=self.peak_share if self.peak_share > self.threshold else 0.0,
        )


class Outcome(NamedTuple):
    """
    What one setting gives on one or more sets of scans.

    Args:
        setting: the setting.
        slope: of the calibration of scores, :func:`scripts.metrics.calibration.calibrated_scores`.
        intercept: of it; 0 with slope 1 leaves scores as they are.
        average_recall: the challenge's, mean over the sets.
        candidates_per_scan: mean over all scans.
        false_candidates_per_scan: of whatever score, of the set that has most; see :func:`false_candidates`.
    """

    setting: Setting
    slope: float
    intercept: float
    average_recall: float
    candidates_per_scan: float
    false_candidates_per_scan: float


def outcome_of(setting: Setting, sets: ScanSets, line: tuple[float, float] | None = None) -> Outcome:
    """
    Score one setting.

    Args:
        setting: the setting.
        sets: what it gives on each scan of each set, with scores that are not calibrated.
        line: slope and intercept of the calibration; None fits them to these scans, and keeps them where they cost no
            more than ``CALIBRATION_COST`` of the average recall.

    Returns:
        what it gives.

    Raises:
        ValueError: when a set holds no scan.
    """
    if line is not None:
        return _outcome(setting, sets, *line)
    plain = _outcome(setting, sets, 1.0, 0.0)
    line = fit_calibration(*scores_and_hits(sets))
    calibrated = plain if line is None else _outcome(setting, sets, *line)
    return calibrated if calibrated.average_recall >= plain.average_recall - CALIBRATION_COST else plain


def _outcome(setting: Setting, sets: ScanSets, slope: float, intercept: float) -> Outcome:
    sets = calibrated_sets(sets, slope, intercept)
    return Outcome(
        setting,
        slope,
        intercept,
        float(np.mean([detection_scores(results)["average_recall"] for results in sets])),
        float(np.mean([len(result.label_scores) for result in chain.from_iterable(sets)])),
        max(map(false_candidates, sets)),
    )


def calibrated_sets(sets: ScanSets, slope: float, intercept: float) -> ScanSets:
    """Calibrate the scores of all candidates, in float32 as a prediction does; slope 1 and intercept 0 change none."""
    if (slope, intercept) == (1, 0):
        return sets
    return [
        [
            replace(result, label_scores=calibrated_scores(result.label_scores, slope, intercept).astype(np.float32))
            for result in results
        ]
        for results in sets
    ]


def scores_and_hits(sets: ScanSets) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of all candidates of all sets, and which of them are hits."""
    results = list(chain.from_iterable(sets))
    scores = np.concatenate([result.label_scores for result in results])
    return scores, np.concatenate([result.best_overlap for result in results]) > MIN_OVERLAP


def false_candidates(results: Sequence[ScanResult], min_score: float = 0.0) -> float:
    """
    Count false candidates per scan.

    Args:
        results: of the scans of one set.
        min_score: candidates of a lower score do not count.

    Returns:
        the mean number of candidates of the scans without fractures; where all have some, the mean number of
        candidates that hit none.
    """
    empty = [(result.label_scores >= min_score).sum() for result in results if len(result.fracture_codes) == 0]
    misses = [((result.best_overlap <= MIN_OVERLAP) & (result.label_scores >= min_score)).sum() for result in results]
    return float(np.mean(empty or misses))


def _rank(outcome: Outcome, present: Setting) -> tuple[float, float, float]:
    """Order by average recall, outcomes that tie by fewer changes, then by fewer candidates; the lowest is best."""
    kept, changed = asdict(present.plain), asdict(outcome.setting.plain)
    changes = sum(changed[name] != value for name, value in kept.items())
    return -round(outcome.average_recall, TIE_DIGITS), changes, outcome.candidates_per_scan


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """
    Order settings by average recall, those that tie by fewer changes of the present one, then by fewer candidates.

    Args:
        outcomes: what each setting gives, that of the present one first.

    Returns:
        the settings, the best one first; of those alike in all, the order stays.
    """
    return sorted(outcomes, key=lambda outcome: _rank(outcome, outcomes[0].setting))


def coordinate_search(
    score: Callable[[Setting], Outcome],
    starts: Sequence[Setting],
    values: Mapping[str, Sequence[Any]],
    most: int,
) -> list[Outcome]:
    """
    Search for the best setting by changing one value at a time, as long as that helps.

    Args:
        score: tells what a setting gives; it is asked once for each that differs in what it does.
        starts: settings to begin with, one after another: the present one, which stays unless another ranks higher (see
            :func:`ranked`), then others, since a search can end where only two changes at once would help.
        values: what to try for each of the setting's names, in this order; that of the present one is tried as well.
        most: settings to score at most.

    Returns:
        what each setting gives that was scored, in the order of the search; the present one comes first.
    """
    known: dict[Setting, Outcome] = {}

    def rank(setting: Setting) -> tuple[float, float, float]:
        if setting.plain not in known:
            if len(known) >= most:
                return (np.inf, np.inf, np.inf)
            known[setting.plain] = score(setting.plain)
        return _rank(known[setting.plain], starts[0])

    for best in starts:
        before = None
        while best != before:
            before = best
            for name, tried in values.items():
                for value in dict.fromkeys([*tried, getattr(starts[0], name)]):
                    best = min(best, replace(best, **{name: value}), key=rank)  # of two alike the first
    return list(known.values())


def operating_score(
    sets: ScanSets, outcome: Outcome, max_candidates_per_scan: float, least: float = LIKELY
) -> float | None:
    """
    Choose the score below which candidates are not written.

    A few validation scans hold too few false candidates to tell how many other scans will have. So where scores are
    calibrated, what is less likely a fracture than not is not written either.

    Args:
        sets: what the setting gives on each scan of each set, with scores that are not calibrated.
        outcome: the setting's, with its calibration.
        max_candidates_per_scan: the most false candidates per scan in any set, see :func:`false_candidates`.
        least: the least score to choose, where scores are calibrated.

    Returns:
        the least of the challenge's thresholds 0, 0.01 ... 0.99 with so few in every set; None where 0.99 has more.
    """
    is_calibrated = (outcome.slope, outcome.intercept) != (1.0, 0.0)
    sets = calibrated_sets(sets, outcome.slope, outcome.intercept)
    for score in CHALLENGE_THRESHOLDS.round(2).tolist():
        if is_calibrated and score < least:
            continue
        if max(false_candidates(results, score) for results in sets) <= max_candidates_per_scan:
            return score
    return None
