"""What the developers, who are no radiologists, read in the real scans: fractures, and what looks like one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["FINDINGS_PATH", "FINDING_MARGIN_MM", "Finding", "finding_at", "findings_of", "read_findings"]

FINDING_MARGIN_MM = 5.0
FINDINGS_PATH = Path(__file__).with_name("real_findings.json")


@dataclass(frozen=True)
class Finding:
    """
    A place in a scan that two readers, blind to each other, wrote down.

    Args:
        id: its number in the scan, from 1.
        kind: ``fracture``, or ``mimic`` for another finding that looks like one.
        sure: whether both readers called it so.
        center_mm: its middle in patient coordinates as DICOM has them (LPS).
        radius_mm: how far it reaches, 5 mm of margin included.
        says: the rib, and what is seen.
    """

    id: int
    kind: str
    sure: bool
    center_mm: tuple[float, float, float]
    radius_mm: float
    says: str

    @property
    def is_ignored(self) -> bool:
        """Whether a candidate there is neither false nor missing: it is a fracture, or may be one."""
        return self.kind == "fracture"


def read_findings(path: Path = FINDINGS_PATH) -> dict[str, list[Finding]]:
    """Read the findings of each body that was read; a body without any has an empty list."""
    content = json.loads(path.read_text())["bodies"]
    return {
        body: [Finding(**{**finding, "center_mm": tuple(finding["center_mm"])}) for finding in findings]
        for body, findings in content.items()
    }


def finding_at(center_mm: Sequence[float], findings: Sequence[Finding]) -> Finding | None:
    """
    Return the nearest finding that reaches a place.

    Args:
        center_mm: the place, LPS.
        findings: of the scan.
    """
    away = {finding: float(np.linalg.norm(np.subtract(center_mm, finding.center_mm))) for finding in findings}
    reached = {finding: distance for finding, distance in away.items() if distance <= finding.radius_mm}
    return min(reached, key=lambda finding: reached[finding]) if reached else None


def findings_of(scan: str, body_of: Mapping[str, str], findings: Mapping[str, Sequence[Finding]]) -> Sequence[Finding]:
    """Return the findings of the body that a scan shows; none of a synthetic scan."""
    return findings.get(body_of.get(scan, ""), [])
