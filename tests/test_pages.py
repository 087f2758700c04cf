"""The review page: its pictures, its findings, its numbers and its HTML; in a browser it is tested elsewhere."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, lps_affine, prediction_run
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from monai.transforms import Orientation
from PIL import Image

from scripts.candidates import describe_candidates
from scripts.data.dataloader import SkippedScan
from scripts.handlers import ReviewPageHandler
from scripts.metrics.froc import ScanResult, bootstrap_intervals, challenge_scores, froc_curve, score_scan
from scripts.metrics.ribfrac_froc import RibFracFROCMetric, annotated_and_predicted, scan_result
from scripts.reporting.pages import findings as findings_module
from scripts.reporting.pages.charts import Axis, Chart, Series
from scripts.reporting.pages.findings import MAX_PICTURES, Finding, counts_at, outcome_at, scan_findings
from scripts.reporting.pages.name_places import Box, NamePlaces
from scripts.reporting.pages.page import OUTCOMES, ReviewPage
from scripts.reporting.pages.pictures import gray_values, outline
from scripts.reporting.pages.views import PLANES, Scan, centered_views, projections
from scripts.runs.prediction import PredictionRun
from scripts.transforms import DescribeCandidatesd, MatchCandidatesd

EVIL = "<img src=x onerror=alert(1)>"
SPACING_MM = (0.75, 0.5, 1.25)


class Page(HTMLParser):
    """A page as a list of its elements, each with its attributes and the text in it."""

    VOID = {"img", "input", "meta", "br", "link"}

    def __init__(self, html):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(html)
        self.close()
        assert self.open == [], "elements that do not end"

    def handle_starttag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, attributes=dict(attributes), text=""))
        if tag not in self.VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, attributes=dict(attributes), text=""))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1].tag == tag, f"</{tag}> ends {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element.text += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e.tag == tag and attributes.items() <= e.attributes.items()]

    def text(self, name):
        (element,) = [e for e in self.elements if e.attributes.get("id") == name]
        return " ".join(element.text.split())


def picture(view):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(view.picture.split(",")[1]))).convert("L")).astype(float)


def synthetic_scan():
    """
    A candidate of 2³ voxels, with bright blocks 9 mm to its right, 10 mm in front and 15 mm above.

    RAS axes, voxels of 0.75 x 0.5 x 1.25 mm.
    """
    image = np.full((80, 80, 60), -1.0)
    ids = np.zeros(image.shape, dtype=np.int32)
    ids[40:42, 40:42, 30:32] = 1
    image[51:55, 40:42, 30:32] = 1  # its middle is 12 voxels of 0.75 mm to the right
    image[40:42, 58:64, 30:32] = 1  # 20 of 0.5 mm in front
    image[40:42, 40:42, 42:44] = 1  # 12 of 1.25 mm above
    return Scan(image, np.diag([*SPACING_MM, 1.0]), (-1.0, 1.0), {"candidate": ids})


@pytest.mark.parametrize(
    "view, right_mm, down_mm",
    [
        pytest.param(0, [-9, 0], [0, -10], id="axial: the right is on the left, the front up"),
        pytest.param(1, [-9, 0], [0, -15], id="coronal: the right is on the left, the head up"),
        pytest.param(2, [-10, 0], [0, -15], id="sagittal: the front is on the left, the head up"),
    ],
)
def test_views_are_centered_turned_and_true_in_mm(view, right_mm, down_mm):
    drawn = centered_views(synthetic_scan(), "candidate", 1)[view]
    assert (drawn.width_mm, drawn.height_mm) == (80, 80)  # the least that is shown
    gray = picture(drawn)
    rows, columns = np.indices(gray.shape)
    pixel_mm = 80 / len(gray)
    for x_mm, y_mm in zip(right_mm, down_mm):
        x, y = (columns + 0.5) * pixel_mm - 40 - x_mm, (rows + 0.5) * pixel_mm - 40 - y_mm
        near = np.where((abs(x) < 5) & (abs(y) < 5), gray, 0)
        assert near.max() > 150
        # the view goes through a voxel of the candidate, at most half a voxel from its middle
        assert abs((near * x).sum() / near.sum()) < 0.9 and abs((near * y).sum() / near.sum()) < 0.9


def test_the_letters_tell_the_sides():
    edges = {view.name: view.edges for view in centered_views(synthetic_scan(), "candidate", 1)}
    assert edges == {
        "axial": ("R", "L", "A", "P"),
        "coronal": ("R", "L", "S", "I"),
        "sagittal": ("A", "P", "S", "I"),
    }


def test_no_letter_has_two_meanings():
    sides = {letter for _, _, letters in PLANES.values() for letter in letters}
    assert sides == set("RLAPSI")
    assert not sides & ({letter for letter, _ in OUTCOMES.values()} | {"F"})  # F1 is an annotated fracture


def test_an_outline_is_in_mm():
    mask = np.zeros((4, 3), dtype=bool)
    mask[1:3, 1] = True  # from 2 to 6 mm to the right, from 3 to 6 mm down, which the line crosses half a voxel beyond
    points = re.findall(r"[\d.]+ [\d.]+", outline(mask, np.array([2.0, 3.0]), np.array([10.0, 20.0])))
    x, y = zip(*(map(float, point.split()) for point in points))
    assert (min(x), max(x), min(y), max(y)) == (12, 16, 23, 26)


def test_gray_values_are_those_of_the_window():
    assert gray_values(np.array([-300, -200, 400, 1000, 3000]), (-200, 1000)).tolist() == [0, 0, 128, 255, 255]


def test_a_large_candidate_fits_into_its_view():
    scan = synthetic_scan()
    scan.instances["candidate"][:, 40, 30] = 1  # 80 voxels of 0.75 mm: 60 mm, and room of 30
    assert centered_views(scan, "candidate", 1)[0].width_mm == 90


def test_the_level_is_counted_from_the_uppermost_slice():
    # slice 30 of 60 lies 29 slices of 1.25 mm below the last one
    assert synthetic_scan().below_top_mm((7, 3, 30 * 1.25)) == pytest.approx(29 * 1.25)


def name_boxes(view, letters):
    """Where names and the letters at the edges stand: left, upper, right and lower edge, shape (n, 4)."""
    width, half = 0.7 * view.text_mm * letters, view.text_mm / 2
    starts = [line.label_mm[0] - (width if line.label_ends else 0) for line in view.outlines]
    names = [(x, line.label_mm[1] - half, x + width, line.label_mm[1] + half) for x, line in zip(starts, view.outlines)]
    edge, middle = 0.8 * view.text_mm, (view.width_mm / 2, view.height_mm / 2)
    letters = (
        (edge, middle[1]),
        (view.width_mm - edge, middle[1]),
        (middle[0], edge),
        (middle[0], view.height_mm - edge),
    )
    wide = 0.35 * view.text_mm
    return np.array([*names, *((x - wide, y - half, x + wide, y + half) for x, y in letters)])


def share_covered(box, others):
    corner, opposite = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    return (opposite - corner).clip(0).prod(axis=1).sum() / ((box[2] - box[0]) * (box[3] - box[1]))


@pytest.mark.parametrize(
    "columns, rows, step",
    [
        pytest.param([160], [10] * 6, 10, id="one behind the other, at the lower edge"),
        pytest.param([3, 316], range(10, 110, 20), 0, id="at the right and the left edge"),
        pytest.param([100, 118, 136], [50, 66, 82], 0, id="so close that names find room on one side alone"),
        pytest.param([159], [2, 107], 0, id="at the letters of the edges"),
    ],
)
def test_names_in_a_crowd_can_all_be_read_and_are_not_cut(columns, rows, step):
    ids = np.zeros((320, 80, 110), dtype=np.int32)
    places = [(column, row) for column in columns for row in rows]
    for number, (column, row) in enumerate(places, start=1):
        ids[column, 5 + step * number, row] = number
    scan = Scan(np.zeros(ids.shape), np.eye(4), (-1.0, 1.0), {"candidate": ids})
    front = projections(scan, None)[0]
    boxes = name_boxes(front, letters=2)
    assert front.text_mm == 10 and len(front.outlines) == len(places)
    assert boxes.min() >= 0 and (boxes[:, 2] <= front.width_mm).all() and (boxes[:, 3] <= front.height_mm).all()
    assert max(share_covered(box, np.delete(boxes, i, axis=0)) for i, box in enumerate(boxes)) < 0.1
    away = [abs(line.label_mm[1] - (109.5 - row)) for line, (_, row) in zip(front.outlines, places)]
    assert max(away) <= 30


def test_a_name_covers_no_outline_where_the_other_side_is_free():
    places = NamePlaces(100, 100, 10, [], [Box(40, 40, 50, 60), Box(52, 40, 70, 60)])
    assert places.take(Box(40, 40, 50, 60), 2) == ((38, 50), True)
    assert places.take(Box(52, 40, 70, 60), 2) == ((72, 50), False)


def test_each_half_of_the_rib_cage_is_seen_from_its_side():
    image = np.full((40, 30, 20), -1.0)
    image[30:34, 20:24, 10:12] = 1  # right and in front
    ids = (image > 0).astype(np.int32)
    scan = Scan(image, np.diag([*SPACING_MM, 1.0]), (-1.0, 1.0), {"candidate": ids})
    front, right, left = projections(scan, np.array([1.0, 0.0, 0.0, 15.0]))  # 15 mm are voxel 20
    assert [view.name for view in (front, right, left)] == ["from the front", "from the right", "from the left"]
    assert (front.width_mm, front.height_mm, right.width_mm) == (30, 25, 15)
    assert picture(front).max() > 200 and picture(right).max() > 200 and picture(left).max() < 50
    assert [len(view.outlines) for view in (front, right, left)] == [1, 1, 0]
    # seen from the right the front is on the right side, voxels 20 to 24 of 30
    columns = picture(right).max(axis=0)
    assert columns.argmax() / len(columns) > 0.6 and right.edges[1] == "A"
    assert columns[: len(columns) // 2].max() < 50


@pytest.mark.parametrize("plane", [None, np.full(4, np.nan), torch.full((4,), torch.nan)])
def test_without_a_known_plane_one_picture_shows_both_sides(plane):
    assert [view.name for view in projections(synthetic_scan(), plane)] == ["from the front", "from the side"]


@pytest.mark.parametrize(
    "outcome, score, threshold, expected",
    [
        pytest.param("hit", 0.5, 0.5, "hit", id="at the threshold it counts"),
        pytest.param("hit", 0.5, 0.51, "missed", id="a hit below it leaves its fracture missed"),
        pytest.param("again", 0.5, 0.51, None, id="a second hit below it leaves nothing"),
        pytest.param("false", 0.5, 0.51, None, id="a false positive below it is none"),
        pytest.param("missed", None, 0.0, "missed", id="a fracture without a candidate is missed at any"),
        pytest.param("candidate", 0.5, 0.5, "candidate", id="where nothing is annotated"),
    ],
)
def test_what_a_threshold_leaves(outcome, score, threshold, expected):
    assert outcome_at(outcome, score, threshold) == expected


def annotated_scan(name="RibFrac501", seed=0):
    """Two fractures, ids 1 and 3; candidates 1 and 2 on the first, 3 on none; the second is missed."""
    pred, label = (torch.zeros(1, 48, 40, 30, dtype=torch.int32) for _ in range(2))
    label[0, 4:10, 4:10, 4:10], label[0, 30:34, 30:34, 20:24] = 1, 3
    pred[0, 4:10, 4:10, 4:6], pred[0, 4:10, 4:10, 8:10], pred[0, 20:24, 10:14, 10:14] = 1, 2, 3
    affine = torch.as_tensor(lps_affine())
    meta = {"scan": name, "0010|0010": "Doe^Jane", "0010|0020": "PATIENT-ID-7"}
    own, label = MetaTensor(pred, affine=affine, meta=meta), MetaTensor(label, affine=affine)
    image = Orientation("RAS", labels=None)(MetaTensor(label.float() - 1, affine=affine, meta=meta))
    return {
        "image": image,
        "pred": own,
        "label": label,
        "label_scores": torch.tensor([0.5, 0.75, 0.25]),
        "fracture_codes": {0: 0, 1: 2, 3: -1},
    }


def test_findings_of_an_annotated_scan():
    output = annotated_scan()
    result = scan_result(output, output)
    assert result.fracture_ids.tolist() == [1, 3]
    nothing = np.zeros(output["image"].shape[1:], dtype=int)
    scan = Scan(nothing, output["image"].affine.numpy(), (0.0, 1.0), {"candidate": nothing, "fracture": nothing})
    candidates = DescribeCandidatesd("pred")(output)["candidates"]
    found = scan_findings("A", scan, candidates, (output["label"], result))
    assert [(f.name, f.outcome, f.fracture, f.fracture_type, f.score) for f in found] == [
        ("C2", "hit", "F1", "Nondisplaced", 0.75),
        ("C1", "again", "F1", "Nondisplaced", 0.5),
        ("C3", "false", "", "", 0.25),
        ("F3", "missed", "F3", "Unknown", None),
    ]
    missed = found[-1]
    assert missed.volume_mm3 == pytest.approx(64 * 0.75 * 0.75 * 1.25, abs=0.1)
    # slices 20 to 23 of 30: their middle lies 29 - 21.5 slices below the last
    assert missed.level_mm == pytest.approx(7.5 * 1.25, abs=0.01)


def test_counts_are_those_of_the_challenges_curve():
    rng = np.random.default_rng(3)
    results, listed = [], []
    for number in range(6):
        fractures, candidates = int(rng.integers(0, 4)), int(rng.integers(0, 7))
        best = rng.integers(0, fractures, candidates) if fractures else np.full(candidates, -1)
        overlap = np.where(best >= 0, rng.choice([0.1, 0.2, 0.3], candidates), 0.0)
        scores = rng.choice([0.1, 0.3, 0.3, 0.55, 0.9], candidates)
        result = ScanResult(np.full(fractures, -1), np.full(candidates, -1), scores, best, overlap, 0, 0, 0)
        results.append(result)
        matches = findings_module.match_outcomes(result, sorted(range(candidates), key=lambda i: -scores[i]))
        hit = {fracture for outcome, fracture in matches.values() if outcome == "hit"}
        rows = [(outcome, float(scores[i])) for i, (outcome, _) in matches.items()]
        rows += [("missed", None)] * (fractures - len(hit))
        listed += [Finding("C", str(number), o, s, "", "", "", 0.0, 0.0, {}) for o, s in rows]
    thresholds = np.array([0.0, 0.1, 0.2, 0.3, 0.31, 0.55, 0.9, 0.95])
    fp, recall = froc_curve(results, thresholds)
    for threshold, fp_per_scan, found in zip(thresholds, fp, recall):
        counts = counts_at(listed, threshold)
        assert counts.false_positives / 6 == pytest.approx(fp_per_scan, abs=1e-6)
        assert counts.found / (counts.found + counts.missed) == pytest.approx(found, abs=1e-6)


def run_handler(folder, *outputs, threshold=0.0, checkpoint=None, settings=None, metric=None, dataloader=None):
    describe, match = DescribeCandidatesd("pred"), MatchCandidatesd("pred")

    def step(engine, number):
        # the chest's middle lies far behind all candidates, and they halfway between apex and base
        axis = np.stack([np.zeros(34), np.full(34, -1e4), np.linspace(1e4, -1e4, 34)], axis=1)
        chest = {"midsagittal_plane": torch.tensor([1.0, 0.0, 0.0, 0.0]), "thorax_axis": axis}
        engine.state.batch = [chest]
        output = describe(chest | outputs[number])
        return [match(output) if "label" in output else output]

    evaluator = Engine(step)
    if metric is not None:
        IgniteMetricHandler(metric_fn=metric, output_transform=annotated_and_predicted).attach(evaluator, "froc")
    checkpoint = BUNDLE_ROOT / "models" / "model.pt" if checkpoint is None else checkpoint
    settings = settings or {"min_score": 0.0}
    scans = [{"scan": f"scan {number}", "image": f"{number}.nii.gz"} for number in range(4)]
    run = prediction_run(
        folder, scans, checkpoint=checkpoint, operating_score=threshold, settings=settings, shard=0, shards=4
    )
    run.shards = 1  # the page of one process, which did not predict three of the scans
    ReviewPageHandler(run, metric, dataloader).attach(evaluator)
    return evaluator


def unannotated_scan(name="RibFrac501", notes=""):
    """Three candidates, of the scores 0.5, 0.75 and 0.25."""
    output = {key: value for key, value in annotated_scan(name).items() if key not in ("label", "fracture_codes")}
    output["pred"].meta["notes"] = notes
    return output


def interval_on(page):
    (words,) = [e.text for e in page.all("p") if "Average recall" in e.text]
    found = re.search(r"95 % interval ([\d.]+) to ([\d.]+)", words)
    return found and [float(number) for number in found.groups()]


def scans_of_unequal_recall():
    """Half of the fractures of one scan are found, and none of the other's: the interval is wide."""
    other = annotated_scan("RibFrac502")
    other |= {"pred": other["pred"] * 0, "label_scores": torch.zeros(0)}
    return annotated_scan(), other


@pytest.mark.parametrize("draws", [7, 40])
def test_the_page_shows_the_interval_of_the_metric(draws, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "scripts.metrics.froc.bootstrap_intervals", lambda *a: asked.append(a) or bootstrap_intervals(*a)
    )
    metric = RibFracFROCMetric(bootstrap=draws, seed=3)
    run_handler(tmp_path, *scans_of_unequal_recall(), metric=metric).run([0, 1])
    interval = metric.details()["bootstrap"]["average_recall"]
    assert interval[0] < interval[1]
    assert interval_on(Page((tmp_path / "report.html").read_text())) == pytest.approx(interval, abs=5e-4)
    assert [(draws, seed) for _, draws, seed in asked] == [(draws, 3)]  # once, for the page and for the details


@pytest.mark.parametrize("metric", [RibFracFROCMetric(bootstrap=0), None], ids=["without draws", "without a metric"])
def test_a_page_without_draws_shows_no_interval(metric, tmp_path):
    run_handler(tmp_path, *scans_of_unequal_recall(), metric=metric).run([0, 1])
    html = (tmp_path / "report.html").read_text()
    assert interval_on(Page(html)) is None and "95 % interval" not in html
    assert "Average recall at 0.5, 1, 2, 4 and 8 false positives a scan" in html


def test_of_several_processes_each_page_has_the_scores_of_its_own_scans(tmp_path, monkeypatch):
    metric = RibFracFROCMetric(bootstrap=7)
    monkeypatch.setattr("scripts.handlers.review.idist", SimpleNamespace(get_world_size=lambda: 2))
    monkeypatch.setattr(metric, "details", lambda: pytest.fail("of the scans of all processes"))
    run_handler(tmp_path, *scans_of_unequal_recall(), metric=metric).run([0, 1])
    results = [scan_result(output, output) for output in scans_of_unequal_recall()]
    expected = bootstrap_intervals(results, 7, 0)["average_recall"]
    assert interval_on(Page((tmp_path / "report.html").read_text())) == pytest.approx(expected, abs=5e-4)


def test_a_scan_is_matched_once_for_metric_and_page(tmp_path, monkeypatch):
    matched = []
    monkeypatch.setattr("scripts.metrics.ribfrac_froc.score_scan", lambda *a: matched.append(a) or score_scan(*a))
    metric = RibFracFROCMetric(bootstrap=0)
    run_handler(tmp_path, *scans_of_unequal_recall(), metric=metric).run([0, 1])
    assert len(matched) == 2
    results = [scan_result(output, output) for output in scans_of_unequal_recall()]
    assert metric.details() == challenge_scores(results, bootstrap=0)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of two annotated scans; the second has a name that a careless page would run."""
    folder = tmp_path_factory.mktemp("page")
    settings = {"roi_size": [48, 48, 32], "note": "</script><script>alert(2)</script>"}
    outputs = annotated_scan(), annotated_scan(EVIL)
    run_handler(folder, *outputs, threshold=0.3, settings=settings).run([0, 1])
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_tells_the_run(html):
    page = Page(html)
    assert page.text("n-candidates") == "4" and page.text("n-all-scans") == "2"
    assert (page.text("recall"), page.text("n-found"), page.text("n-missed")) == ("0.500", "2", "2")
    assert (page.text("fp"), page.text("n-false")) == ("0.00", "0")  # 0.25 lies below the threshold of 0.3
    types = [e.attributes["data-type"] for e in page.elements if "data-type" in e.attributes and e.tag == "tr"]
    assert {"Nondisplaced", "Unknown"} <= set(types)
    assert "The shipped weights ran" in page.text("weights-note")
    assert "3 scans that other processes predict" in html
    assert "[48, 48, 32]" in html and "Rib fracture CT segmentation" in html


def test_the_page_tells_where_in_the_chest_a_finding_lies(html):
    places = re.findall(r"side, (\w+), (\w+) third, \d+ mm below the top", html)
    assert len(places) > 4 and set(places) == {("anterior", "middle")}  # candidates, and missed fractures too


def test_every_finding_has_a_row_a_card_and_three_views(html):
    page = Page(html)
    rows = [e for e in page.all("tr") if "data-outcome" in e.attributes]
    cards = page.all("article")
    assert len(rows) == len(cards) == 8
    assert [row.attributes["data-key"] for row in rows] == [card.attributes["id"] for card in cards]
    views = [e for e in page.all("img", loading="lazy") if "view through" in e.attributes.get("alt", "")]
    assert len(views) == 3 * 8 and all(view.attributes["src"].startswith("data:image/webp") for view in views)
    marks = [e for e in page.all("a") if e.attributes.get("class") == "mark"]
    assert {mark.attributes["href"] for mark in marks} == {f"#{card.attributes['id']}" for card in cards}


def test_colors_are_never_alone(html):
    page = Page(html)
    letters = {"hit": "H", "again": "H", "false": "X", "missed": "M"}
    for card in page.all("article"):
        assert card.text.lstrip().startswith(letters[card.attributes["data-state"]])
    for mark in (e for e in page.all("a") if e.attributes.get("class") == "mark"):
        assert mark.text.startswith(letters[mark.attributes["data-state"]])


def test_names_are_escaped(html):
    assert EVIL not in html and "<script>alert(2)" not in html
    page = Page(html)
    assert not [e for e in page.elements if "onerror" in e.attributes]
    assert [e.text for e in page.all("h3")] == ["RibFrac501", EVIL]


def test_the_browser_runs_the_pages_own_script_and_fetches_nothing(html):
    page = Page(html)
    (policy,) = [e.attributes["content"] for e in page.all("meta") if e.attributes.get("http-equiv")]
    digests = [base64.b64encode(hashlib.sha256(e.text.encode()).digest()).decode() for e in page.all("script")]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy.endswith(f"script-src {allowed}") and policy.startswith("default-src 'none'")
    sources = [e.attributes["src"] for e in page.elements if "src" in e.attributes]
    assert sources and all(source.startswith("data:") for source in sources)
    leading = [e.attributes for e in page.elements if "href" in e.attributes]
    links = [attributes["href"] for attributes in leading if "hidden" not in attributes]
    assert [a["href"][:6] for a in leading if "hidden" in a] == ["views/"] * 2  # shown when there are such pages
    ids = {e.attributes.get("id") for e in page.elements}
    assert all(link[0] == "#" and link[1:] in ids for link in links)


def test_labels_and_headings(html):
    page = Page(html)
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("aria-labelledby", "for"):
            assert name not in element.attributes or element.attributes[name] in ids
    assert page.elements[0].attributes == {"lang": "en"}
    assert [len(page.all(tag)) for tag in ("h1", "main", "title")] == [1, 1, 1]
    assert len(page.all("caption")) == len(page.all("table")) == 3


def test_no_patient_is_named(html):
    assert "Doe" not in html and "PATIENT-ID-7" not in html


def test_further_columns_of_the_table_appear(tmp_path, monkeypatch):
    def described(*args):
        return [replace(candidate, part="lower <third>") for candidate in describe_candidates(*args)]

    for module in ("scripts.reporting.pages.findings", "scripts.transforms.candidates"):
        monkeypatch.setattr(f"{module}.describe_candidates", described)
    run_handler(tmp_path, annotated_scan()).run([0])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [e.text for e in Page(html).all("td", **{"data-value": "lower <third>"})] == ["lower <third>"] * 4
    assert "part" in [e.text for e in Page(html).all("button")]


def test_own_weights_get_no_note_about_the_shipped_ones(tmp_path):
    (tmp_path / "own.pt").write_bytes(b"weights")
    run_handler(tmp_path, annotated_scan(), checkpoint=tmp_path / "own.pt").run([0])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The shipped weights ran" not in html and "Research use only" in html
    assert hashlib.sha256(b"weights").hexdigest()[:12] in html


def test_a_run_that_ends_early_leaves_nothing(tmp_path):
    evaluator = run_handler(tmp_path, annotated_scan())
    with pytest.raises(IndexError):
        evaluator.run([0, 1])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_page_of_before(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("before")
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run_handler(tmp_path, annotated_scan()).run([0])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_without_annotations_there_are_no_scores(tmp_path):
    run_handler(tmp_path, unannotated_scan()).run([0])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert [e.attributes["data-state"] for e in page.all("article")] == ["candidate"] * 3
    assert 'id="recall"' not in html and 'id="scores"' not in html


def test_a_scan_without_candidates_is_listed(tmp_path):
    output = unannotated_scan()
    output |= {"pred": output["pred"] * 0, "label_scores": torch.zeros(0)}
    run_handler(tmp_path, output).run([0])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [e.text for e in page.all("h3")] == ["RibFrac501"] and page.text("n-candidates") == "0"


def scan_table(page):
    """The cells of the table of scans, by row."""
    start = page.elements.index(*page.all("table", id="scan-table"))
    end = page.elements.index(*page.all("table", id="finding-table"))
    rows: list[list[str]] = []
    for element in page.elements[start:end]:
        if element.tag == "tr":
            rows.append([])
        elif element.tag in ("th", "td"):
            rows[-1].append(element.text.strip())
    return rows


def test_every_scan_of_the_run_has_a_row_with_its_status(tmp_path):
    failed = SimpleNamespace(skipped=[SkippedScan("cut", "cut.nii.gz: is no readable NIfTI file")])
    outputs = unannotated_scan("sure"), unannotated_scan("doubtful", "no lungs found")
    evaluator = run_handler(tmp_path, *outputs, threshold=0.25, dataloader=failed)
    evaluator.run([0, 1])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert scan_table(page) == [
        ["scan", "status", "candidates", "3 or more", "highest score, 0-1", "notes"],
        ["cut", "failed", "–", "–", "–", "cut.nii.gz: is no readable NIfTI file"],
        ["sure", "done", "3", "yes", "0.75", "none"],
        ["doubtful", "doubtful", "3", "yes", "0.75", "no lungs found"],
    ]
    assert [e.text for e in page.all("h1")] == ["Possible rib fractures in 3 scans"]
    assert page.text("failed").startswith("1 of 3 scans failed: nothing is known of it.")
    assert (page.text("n-scans"), page.text("n-all-scans"), page.text("n-many")) == ("2", "2", "2")


@pytest.mark.parametrize("threshold, many", [(0.25, "1"), (0.26, "0")], ids=["as many as raise it", "one less"])
def test_the_flag_for_many_fractures_counts_at_the_threshold(threshold, many, tmp_path):
    run_handler(tmp_path, unannotated_scan(), threshold=threshold).run([0])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text("n-many") == many and scan_table(page)[1][3] == ("yes" if many == "1" else "no")


def test_scans_that_were_done_before_have_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(PredictionRun, "done_before", ["earlier"])
    run_handler(tmp_path, unannotated_scan()).run([0])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert scan_table(page)[2] == ["earlier", "done earlier", "–", "–", "–", "see scans.csv"]
    assert not [e for e in page.elements if e.attributes.get("id") == "failed"]


def test_pictures_of_a_scan_are_limited_and_the_page_says_so(tmp_path):
    count = MAX_PICTURES + 2
    pred = torch.zeros(1, 4 * count, 6, 6, dtype=torch.int32)
    for number in range(count):
        pred[0, 4 * number : 4 * number + 2, 2:4, 2:4] = number + 1
    pred = MetaTensor(pred, affine=torch.as_tensor(lps_affine()), meta={"scan": "many"})
    image = Orientation("RAS", labels=None)(MetaTensor(pred.float() * 0, affine=pred.affine))
    run_handler(tmp_path, {"image": image, "pred": pred, "label_scores": torch.linspace(1, 0, count)}).run([0])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(Page(html).all("article")) == count
    assert html.count("No picture: only the 30 candidates") == 2


def test_scans_with_and_without_annotations_do_not_mix(tmp_path):
    page = ReviewPage(tmp_path / "page.html", {})
    page.add_scan("A", [], [])
    result = ScanResult(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), 0, 0, 0)
    with pytest.raises(ValueError, match="B: some scans"):
        page.add_scan("B", [], [], result)
    page.close()


def test_a_charts_pixels():
    chart = Chart("", Axis("", 0, 8), Axis("", 0.001, 1, logarithmic=True))
    width, height = chart.right - chart.left, chart.bottom - chart.top
    assert chart.at_x(2) == pytest.approx(chart.left + width / 4, abs=0.1)
    assert chart.at_x(20) == chart.right  # beyond the end
    assert chart.at_y(0.1) == pytest.approx(chart.bottom - height * 2 / 3, abs=0.1)  # 2 of 3 decades
    assert chart.pixels(Series("", [(0, float("nan")), (8, 1)])) == [(chart.right, chart.top)]
    assert Axis("", 0, 6).named() == [(number, str(number)) for number in range(7)]  # 6 steps
