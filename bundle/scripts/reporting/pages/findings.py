"""What a review page lists: candidates, fractures that none of them hits, and how the scores count them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from monai.data import MetaTensor

from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import StraightRib, straight_ribs
from scripts.candidates import Candidate, describe_candidates
from scripts.data.ribfrac import CLASS_NAMES, MIN_OVERLAP, UNKNOWN_CLASS
from scripts.metrics.froc import ScanResult
from scripts.reporting.pages.rib_views import along_rib_view
from scripts.reporting.pages.views import Scan, View, centered_views
from scripts.reporting.tables import displacement_words, fracture_row, rib_words, type_words

__all__ = [
    "Counts",
    "Finding",
    "Outcome",
    "counts_at",
    "fracture_type",
    "known_ids",
    "match_outcomes",
    "outcome_at",
    "scan_findings",
]

Outcome = Literal["candidate", "hit", "again", "false", "missed"]
MAX_PICTURES = 30  # of a scan: a threshold of 0 may bring hundreds of candidates, whose pictures nobody looks at
# Columns of fractures.csv that have a place of their own on the page.
_SHOWN_APART = ("id", "score", "side", "volume_mm3")


@dataclass(frozen=True)
class Finding:
    """
    A candidate, or a fracture that no candidate hits, whatever its score.

    Args:
        name: ``C1`` for candidate 1, ``F1`` for fracture 1.
        scan: name of its scan.
        outcome: ``candidate`` where nothing is annotated; ``hit``: the best scored candidate on its fracture;
            ``again``: another one on it; ``false``: a candidate on no fracture; ``missed``: a fracture without one.
        score: of a candidate, in [0, 1]; ``None`` of a fracture.
        fracture: name of the fracture that it hits or is; empty where there is none.
        fracture_type: type of that fracture.
        side: ``right`` or ``left`` of the patient; empty where it is not known.
        level_mm: how far it lies below the uppermost slice.
        volume_mm3: its volume.
        more: further columns of its row in ``fractures.csv``.
        views: pictures of it.
        rib: on which rib it lies, in words; empty where that is not known.
        stubs: how its stubs lie to each other, or why that was not measurable, in words; empty where it was not asked.
        kind: its predicted type, in words; empty where that is not known.
    """

    name: str
    scan: str
    outcome: Outcome
    score: float | None
    fracture: str
    fracture_type: str
    side: str
    level_mm: float
    volume_mm3: float
    more: dict[str, str]
    views: list[View] = field(default_factory=list)
    rib: str = ""
    stubs: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Counts:
    """
    What a threshold leaves of a run.

    Args:
        candidates: candidates whose score is not below it.
        scans: scans that have such a candidate.
        found: fractures that are found, and
        missed: those that are not; both 0 where nothing is annotated.
        false_positives: candidates on no fracture.
    """

    candidates: int
    scans: int
    found: int
    missed: int
    false_positives: int


def outcome_at(outcome: Outcome, score: float | None, threshold: float) -> Outcome | None:
    """
    Tell what a finding is at a threshold of the score.

    Args:
        outcome: what it is without a threshold.
        score: its score; ``None`` of a fracture that no candidate hits.
        threshold: candidates with a lower score do not count.

    Returns:
        Its outcome; a fracture whose best candidate does not count is ``missed``; ``None`` where nothing is left.
    """
    if score is None or score >= threshold:
        return outcome
    return "missed" if outcome == "hit" else None


def counts_at(findings: Sequence[Finding], threshold: float) -> Counts:
    """Count what a threshold leaves of the findings of a run, by the rule of :func:`scripts.metrics.froc_curve`."""
    outcomes = [(finding, outcome_at(finding.outcome, finding.score, threshold)) for finding in findings]
    kept = [finding for finding, outcome in outcomes if outcome not in (None, "missed")]
    return Counts(
        candidates=len(kept),
        scans=len({finding.scan for finding in kept}),
        found=sum(outcome == "hit" for _, outcome in outcomes),
        missed=sum(outcome == "missed" for _, outcome in outcomes),
        false_positives=sum(outcome == "false" for _, outcome in outcomes),
    )


def fracture_type(code: int) -> str:
    """Return the name of a fracture's class code."""
    return "Unknown" if code == UNKNOWN_CLASS else CLASS_NAMES[code]


def scan_findings(
    name: str,
    scan: Scan,
    candidates: Sequence[Candidate],
    annotation: tuple[MetaTensor, ScanResult] | None = None,
    midsagittal_plane: torch.Tensor | None = None,
    thorax_axis: torch.Tensor | None = None,
    rib_cage: RibCage | None = None,
) -> list[Finding]:
    """
    List what there is to review in a scan.

    Args:
        name: the scan's.
        scan: the scan with its instances, which pictures are drawn of.
        candidates: as :func:`scripts.candidates.describe_candidates` gives them.
        annotation: where there is one the ids of the fractures on the scan's own grid, shape ``(1, H, W, D)``, and how
            the candidates match them, as :func:`scripts.metrics.scan_result` gives it.
        midsagittal_plane: to describe fractures that were missed, see :func:`scripts.candidates.describe_candidates`.
        thorax_axis: likewise, see :func:`scripts.candidates.describe_candidates`.
        rib_cage: likewise; and what lies on a rib gets a view along it.

    Returns:
        The candidates by falling score, then the fractures that none of them hits.
    """
    ribs = {} if rib_cage is None else {straight.rib.id: straight for straight in straight_ribs(rib_cage)}
    scores = [candidate.score for candidate in candidates]
    by_score = sorted(range(len(scores)), key=lambda i: -scores[i])
    matches: dict[int, tuple[Outcome, int]] = {}
    fractures: list[tuple[str, str]] = []
    if annotation is not None:
        label, result = annotation
        fracture_ids = known_ids(result)
        fractures = [(f"F{i}", fracture_type(int(code))) for i, code in zip(fracture_ids, result.fracture_codes)]
        matches = match_outcomes(result, by_score)
    findings = []
    for place, number in enumerate(by_score):
        outcome, fracture = matches.get(number, ("candidate", -1))
        of_fracture = fractures[fracture] if fracture >= 0 else ("", "")
        candidate = candidates[number]
        views = _views(scan, "candidate", number + 1, candidate, ribs) if place < MAX_PICTURES else []
        score = candidate.score
        findings.append(_finding(f"C{number + 1}", name, scan, candidate, outcome, score, of_fracture, views))
    if annotation is not None:
        hit = {fracture for outcome, fracture in matches.values() if outcome == "hit"}
        missed = [i for i in range(len(fractures)) if i not in hit]
        chest = (midsagittal_plane, thorax_axis, rib_cage)
        described = _described(label, fracture_ids, *chest) if missed else []
        for number in missed:
            its, of_fracture = described[number], fractures[number]
            views = _views(scan, "fracture", fracture_ids[number], its, ribs)
            findings.append(_finding(of_fracture[0], name, scan, its, "missed", None, of_fracture, views))
    return findings


def known_ids(result: ScanResult) -> list[int]:
    """Return the ids of a scan's fractures; raise ``ValueError`` where the result does not tell them."""
    if result.fracture_ids is None:
        raise ValueError("the result has no fracture ids: give what scripts.metrics.scan_result returns.")
    return [int(i) for i in result.fracture_ids]


def match_outcomes(result: ScanResult, by_score: Sequence[int]) -> dict[int, tuple[Outcome, int]]:
    """
    Tell what each candidate is.

    Args:
        result: how candidates match fractures.
        by_score: indices of the candidates by falling score.

    Returns:
        By the index of each candidate its outcome, and the index of the fracture that it hits, -1 where it hits none.
    """
    matches: dict[int, tuple[Outcome, int]] = {}
    taken = set()
    for number in by_score:
        fracture = int(result.best_fracture[number])
        if not result.best_overlap[number] > MIN_OVERLAP:
            matches[number] = ("false", -1)
        else:
            matches[number] = ("again" if fracture in taken else "hit", fracture)
            taken.add(fracture)
    return matches


def _views(scan: Scan, kind: str, instance: int, described: Candidate, ribs: Mapping[int, StraightRib]) -> list[View]:
    """Draw the views through an instance, and one along its rib, where it lies on one."""
    views = centered_views(scan, kind, instance)
    rib = ribs.get(described.rib_id or 0)
    along = None if rib is None else along_rib_view(scan, rib, kind, instance)
    return views if along is None else [*views, along]


def _described(
    label: MetaTensor,
    ids: Sequence[int],
    plane: torch.Tensor | None,
    thorax_axis: torch.Tensor | None,
    rib_cage: RibCage | None,
) -> list[Candidate]:
    """Describe fractures as candidates are described; their ids may leave some out."""
    numbers = torch.zeros(max(ids) + 1, dtype=torch.int32)
    numbers[torch.as_tensor(ids)] = torch.arange(1, len(ids) + 1, dtype=torch.int32)
    numbered = MetaTensor(numbers[label.as_tensor().cpu().long()], affine=label.affine)
    return describe_candidates(numbered, [0.0] * len(ids), plane, thorax_axis, rib_cage)


def _finding(
    name: str,
    scan_name: str,
    scan: Scan,
    described: Candidate,
    outcome: Outcome,
    score: float | None,
    of_fracture: tuple[str, str],
    views: list[View],
) -> Finding:
    """Make a finding of what is known of it, whose place is in DICOM's coordinates (LPS)."""
    x, y, z = described.center_mm
    return Finding(
        name=name,
        scan=scan_name,
        outcome=outcome,
        score=score,
        fracture=of_fracture[0],
        fracture_type=of_fracture[1],
        side=described.side,
        level_mm=scan.below_top_mm((-x, -y, z)),
        volume_mm3=described.volume_mm3,
        more={column: text for column, text in fracture_row(described).items() if column not in _SHOWN_APART},
        views=views,
        rib=rib_words(described),
        stubs=displacement_words(described),
        kind=type_words(described),
    )
