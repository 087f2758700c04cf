"""The review page of a run: gathered scan by scan, written at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from scripts.description.rib_score import ChestFacts
from scripts.files.atomic_write import whole_file, write_text
from scripts.metrics.froc import ScanResult, challenge_scores
from scripts.reporting.pages.drawings import froc_drawing
from scripts.reporting.pages.findings import MAX_PICTURES, Counts, Finding, counts_at, fracture_type
from scripts.reporting.pages.html import render
from scripts.reporting.pages.views import View
from scripts.reporting.scores import NO_INTERVAL
from scripts.reporting.tables import chest_words

__all__ = ["OUTCOMES", "OtherScan", "ReviewPage", "report_of", "show_viewer_links", "told_columns", "viewer_address"]

_PARTING = "<!-- scans -->"
# Columns of fractures.csv that begin so have no room in a table; a candidate's card has them.
_PLACE_COLUMNS = (
    *("center_", "first_", "last_", "from_apex_", "angle_", "rib_"),
    *("offset_", "along_", "contact_", "bend_", "not_", "p_", "segmental_"),
)
# Words and signs of an outcome, beside its color.
OUTCOMES = {
    "candidate": ("C", "candidate"),
    "hit": ("H", "hit"),
    "again": ("H", "hit on a fracture that is found already"),
    "false": ("X", "false positive"),
    "missed": ("M", "missed fracture"),
}


class OtherScan(NamedTuple):
    """A scan of the run that has no pictures on its page: its name, its status, and why, in words."""

    name: str
    status: str
    note: str


class ReviewPage:
    """
    Gather the scans of a run, and write them as one page.

    Of each scan only its part of the page is kept, in a file without a name beside the page, which is gone when the
    run ends, however it ends; and its rows, without pictures, in memory.

    Args:
        path: the page to write.
        summary: what stands above: values by their names, in this order.
        threshold: of the score, at which the page opens, in [0, 1].
        weights_note: what the weights that ran have seen; empty where it is not known.
        many_fractures: so many candidates at the threshold, or more, raise a scan's flag.
    """

    def __init__(
        self,
        path: str | Path,
        summary: Mapping[str, Any],
        threshold: float = 0.0,
        weights_note: str = "",
        many_fractures: int = 3,
    ) -> None:
        self.path = Path(path)
        self.summary = dict(summary)
        self.threshold = threshold
        self.weights_note = weights_note
        self.many_fractures = many_fractures
        self.scans: list[str] = []
        self.notes: list[str] = []
        self.findings: list[list[Finding]] = []
        self.results: list[ScanResult] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._parts = tempfile.TemporaryFile("w+", dir=self.path.parent, encoding="utf-8")

    def add_scan(
        self,
        name: str,
        findings: Sequence[Finding],
        projections: Sequence[View],
        result: ScanResult | None = None,
        notes: str = "",
        unfolded: Sequence[View] = (),
        chest: ChestFacts | None = None,
        found: str = "",
    ) -> None:
        """
        Add a scan.

        Args:
            name: the scan's.
            findings: what there is to review in it.
            projections: pictures of the whole scan.
            result: how its candidates match its fractures, where it is annotated.
            notes: what is doubtful about it.
            unfolded: pictures of its unfolded rib cage.
            chest: what its candidates at the operating point are together, where they are described.
            found: the same in one sentence.

        Raises:
            ValueError: when only some of the run's scans are annotated.
        """
        if len(self.results) != (0 if result is None else len(self.scans)):
            raise ValueError(f"{name}: some scans of this run are annotated and some are not: review them apart.")
        self._parts.write(
            render(
                "scan.html",
                name=name,
                notes=notes,
                number=len(self.scans),
                findings=findings,
                finding_key=_key,
                projections=projections,
                unfolded=unfolded,
                chest={} if chest is None else chest_words(chest),
                found=found,
                threshold=self.threshold,
                viewer_link=_viewer_link,
                outcomes=OUTCOMES,
                annotated=result is not None,
                max_pictures=MAX_PICTURES,
            )
        )
        self.scans.append(name)
        self.notes.append(notes)
        self.findings.append([replace(finding, views=[]) for finding in findings])
        if result is not None:
            self.results.append(result)

    def write(self, details: Mapping[str, Any] | None = None, others: Sequence[OtherScan] = ()) -> None:
        """
        Write the page, whole or not at all, and drop what was gathered.

        Args:
            details: scores of the annotated scans, as `scripts.metrics.challenge_scores` gives them; without them they
                are computed here, and have no interval.
            others: scans of the run that were not added, since they failed or were done earlier.
        """
        if details is None and self.results:
            details = challenge_scores(self.results, bootstrap=0)
        numbered = [(number, finding) for number, scan in enumerate(self.findings) for finding in scan]
        findings = [finding for _, finding in numbered]
        page = render(
            "review.html",
            parting=_PARTING,
            made=datetime.now().astimezone(),
            summary=self.summary,
            threshold=self.threshold,
            weights_note=self.weights_note,
            scan_rows=self._scan_rows(),
            others=others,
            failed=[other for other in others if other.status == "failed"],
            many_fractures=self.many_fractures,
            findings=numbered,
            finding_key=_key,
            more=told_columns(findings),
            counts=counts_at(findings, self.threshold),
            outcomes=OUTCOMES,
            annotated=bool(self.results),
            types=self._types(findings),
            scores=details,
            no_interval=NO_INTERVAL,
            froc=None if details is None else froc_drawing(details),
        )
        before, _, after = page.partition(_PARTING)
        self._parts.seek(0)
        with whole_file(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(before)
            shutil.copyfileobj(self._parts, file)
            file.write(after)
        self.close()

    def close(self) -> None:
        """Drop what was gathered."""
        self._parts.close()

    def _scan_rows(self) -> list[tuple[str, str, Counts, float | None]]:
        """Name, notes, counts and highest score of each scan."""
        rows = []
        for name, notes, findings in zip(self.scans, self.notes, self.findings):
            scores = [finding.score for finding in findings if finding.score is not None]
            rows.append((name, notes, counts_at(findings, self.threshold), max(scores, default=None)))
        return rows

    def _types(self, findings: Sequence[Finding]) -> dict[str, tuple[int, int]]:
        """How many fractures of each type are found at the threshold, and how many there are."""
        codes = sorted({int(code) for result in self.results for code in result.fracture_codes})
        types = {}
        for name in map(fracture_type, codes):
            counts = counts_at([finding for finding in findings if finding.fracture_type == name], self.threshold)
            types[name] = (counts.found, counts.found + counts.missed)
        return types


def _key(number: int, finding: Finding) -> str:
    """The anchor of a finding's card."""
    return f"s{number}-{finding.name.lower()}"


def told_columns(findings: Sequence[Finding]) -> list[str]:
    """Name the further columns of ``fractures.csv`` that the page's table shows: neither a place, nor all empty."""
    columns = dict.fromkeys(column for finding in findings for column, text in finding.more.items() if text)
    return [column for column in columns if not column.startswith(_PLACE_COLUMNS)]


def viewer_address(scan: str) -> Path:
    """Name the page to scroll through a scan (``python -m scripts view``), from the folder of the run."""
    return Path("views", f"{scan}.html")


def _viewer_link(scan: str, hidden: bool = True) -> str:
    """Lead to that page; hidden until there is one, since a page opened as a file cannot ask whether another exists."""
    address = quote(viewer_address(scan).as_posix())
    return f'<a class="viewer-link" href="{address}"{" hidden" if hidden else ""}>Scroll through the scan</a>'


def report_of(reports: Sequence[Path], scan: str) -> str:
    """Lead from the page to scroll through a scan to its place on a review page; empty where none has the scan."""
    for report in reports:
        text = report.read_text(encoding="utf-8").replace(_viewer_link(scan), _viewer_link(scan, hidden=False))
        before, link, _ = text.partition(_viewer_link(scan, hidden=False))
        if link:
            section = before.rpartition('<section class="scan" id="')[2].partition('"')[0]
            return f"../{quote(report.name)}#{section}"
    return ""


def show_viewer_links(report: Path, scans: Sequence[str]) -> None:
    """
    Let a review page lead to the pages to scroll through some of its scans.

    Args:
        report: the page, which is written anew where it has one of the scans.
        scans: names of scans that have such a page now; the report may lack some.
    """
    text = before = report.read_text(encoding="utf-8")
    for scan in scans:
        text = text.replace(_viewer_link(scan), _viewer_link(scan, hidden=False))
    if text != before:
        write_text(report, text)
