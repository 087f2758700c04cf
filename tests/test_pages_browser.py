"""The pages in a real browser, without a window; CONTRIBUTING.md says how to have one."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from conftest import watched_page
from test_pages import EVIL, annotated_scan, run_handler, unannotated_scan

from scripts.data.dataloader import SkippedScan
from scripts.data.verdicts import read_verdicts
from scripts.transforms import DescribeCandidatesd

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Two scans with the same findings: scores 0.75 (hit), 0.5 (hit again), 0.25 (false), and a missed fracture."""
    folder = tmp_path_factory.mktemp("page")
    run_handler(folder, annotated_scan(), annotated_scan(EVIL)).run([0, 1])
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    opened = watched_page(browser)
    opened.goto(address)
    yield opened
    opened.close()


def numbers(page):
    names = ("n-candidates", "n-scans", "recall", "n-found", "n-missed", "n-false", "fp")
    return [page.text_content(f"#{name}") for name in names]


def shown(page, selector="#finding-table tbody tr"):
    return page.locator(f"{selector}:visible").count()


def test_it_opens_without_complaints_and_nothing_of_a_name_runs(page):
    assert page.complaints == []
    assert page.locator("h3").all_text_contents() == ["RibFrac501", EVIL]
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"alert(1)\">')")
    page.wait_for_timeout(100)
    assert not [text for text in page.complaints if text.startswith("dialog")]  # by the policy, even in the page


def test_every_picture_can_be_seen_without_scrolling(page):
    page.wait_for_timeout(300)
    assert page.evaluate(
        "[...document.querySelectorAll('.card')].every(c => c.checkVisibility({contentVisibilityAuto: true}))"
    )
    assert page.eval_on_selector_all("img", "images => images.filter(i => !i.naturalWidth).length") == 0
    keys = page.eval_on_selector_all("#finding-table img", "images => images.map(i => i.src)")
    axial = page.eval_on_selector_all(".card .views figure:first-child img", "images => images.map(i => i.src)")
    assert len(keys) == 8 and keys == axial


@pytest.mark.parametrize(
    "threshold, expected, rows",
    [
        pytest.param("0", ["6", "2", "0.500", "2", "2", "2", "1.00"], 8, id="all"),
        pytest.param("0.25", ["6", "2", "0.500", "2", "2", "2", "1.00"], 8, id="at a score"),
        pytest.param("0.26", ["4", "2", "0.500", "2", "2", "0", "0.00"], 6, id="above the false positives"),
        pytest.param("0.6", ["2", "2", "0.500", "2", "2", "0", "0.00"], 4, id="above the second hits"),
        pytest.param("0.8", ["0", "0", "0.000", "0", "4", "0", "0.00"], 4, id="above all: the hits are missed"),
    ],
)
def test_the_threshold_counts_and_hides(page, threshold, expected, rows):
    page.fill("#threshold-number", threshold)
    assert page.input_value("#threshold") == threshold
    assert numbers(page) == expected
    assert shown(page) == rows == shown(page, ".card")
    marks = page.locator(".top figure:first-child .mark:not([hidden])").count()
    assert marks == rows


@pytest.fixture
def unannotated(browser, tmp_path):
    """Two scans of the scores 0.75, 0.5 and 0.25, and one that failed."""
    failed = SimpleNamespace(skipped=[SkippedScan("cut", "is cut short")])
    run_handler(tmp_path, unannotated_scan("one"), unannotated_scan("two"), dataloader=failed).run([0, 1])
    opened = watched_page(browser)
    opened.goto((tmp_path / "report.html").as_uri())
    yield opened
    opened.close()


def test_the_table_of_scans_keeps_one_that_failed(unannotated):
    def column(number):
        return unannotated.locator(f"#scan-table tbody tr:visible > :nth-child({number})").all_text_contents()

    assert unannotated.complaints == []
    assert (column(1), column(3), column(4)) == (["cut", "one", "two"], ["–", "3", "3"], ["–", "yes", "yes"])
    unannotated.fill("#threshold-number", "0.3")
    assert (column(2), column(3), column(4)) == (["failed", "done", "done"], ["–", "2", "2"], ["–", "no", "no"])
    assert unannotated.text_content("#n-many") == "0"
    assert unannotated.text_content("#counts").strip().startswith("4 candidates of score 0.3 or more in 2 of 2")
    unannotated.click("#scan-table th:first-child button")
    unannotated.click("#scan-table th:first-child button")
    assert column(1) == ["two", "one", "cut"]
    unannotated.fill("#name-filter", "o")
    assert column(1) == ["two", "one"]


def test_the_slider_answers_to_the_keyboard(page):
    page.focus("#threshold")
    for _ in range(26):
        page.keyboard.press("ArrowRight")
    assert page.input_value("#threshold-number") == "0.26" and numbers(page)[0] == "4"


def test_a_fracture_whose_candidate_falls_below_says_so(page):
    page.fill("#threshold-number", "0.8")
    card = page.locator("#s0-c2")
    assert card.get_attribute("data-state") == "missed"
    assert card.locator(".badge").text_content() == "M" and "scores less" in card.locator(".word").text_content()
    types = page.locator("#types tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")
    assert sorted(types) == [["Nondisplaced", "2", "0", "0.000"], ["Unknown", "2", "0", "0.000"]]


def test_the_point_on_the_curve_moves(page):
    def place():
        return page.eval_on_selector(
            "#froc-now", "dot => [Number(dot.getAttribute('cx')), Number(dot.getAttribute('cy'))]"
        )

    box = page.eval_on_selector("#froc-now", "dot => ({...dot.dataset})")
    left, right, top, bottom = (float(box[name]) for name in ("left", "right", "top", "bottom"))
    assert place() == pytest.approx([left + (right - left) / 8, (top + bottom) / 2])  # 1 false positive, recall 0.5
    page.fill("#threshold-number", "0.8")
    assert place() == pytest.approx([left, bottom])


def test_filters(page):
    page.fill("#name-filter", "ribfrac")
    assert shown(page) == 4 and shown(page, "#scan-table tbody tr") == 1 and shown(page, ".scan") == 1
    page.select_option("#outcome-filter", "hit")
    assert shown(page) == 2  # the second hit on a fracture is one, too
    page.select_option("#side-filter", "left")
    left = shown(page)
    page.select_option("#side-filter", "right")
    assert left + shown(page) == 2
    assert numbers(page)[0] == "6"  # filters hide, they do not change the run's numbers
    page.fill("#name-filter", "no such scan")
    assert shown(page) == 0 and page.is_visible("#nothing")
    page.click("button[type=reset]")
    deadline = time.monotonic() + 10
    while shown(page) != 8 and time.monotonic() < deadline:  # the page's policy forbids playwright's own waiting
        page.wait_for_timeout(20)
    assert shown(page) == 8


def test_sorting(page):
    def column(number):
        return page.locator(f"#finding-table tbody tr > :nth-child({number})").all_text_contents()

    header = page.locator("#finding-table th", has_text="score")
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(5) == ["–", "–", "0.25", "0.25", "0.50", "0.50", "0.75", "0.75"]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending" and column(5)[0] == "0.75"
    page.click("#finding-table th:nth-child(3) button")
    assert column(3) == ["C1", "C1", "C2", "C2", "C3", "C3", "F3", "F3"]
    assert header.get_attribute("aria-sort") == "none"


@pytest.mark.parametrize("width", [1600, 1000, 780])
def test_the_bar_covers_no_title_that_a_link_leads_to(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    page.wait_for_timeout(100)  # until the rows of the bar are measured
    page.click("#scan-table tbody tr:last-child a")
    page.wait_for_timeout(100)
    bar, title = (page.locator(selector).bounding_box() for selector in (".tool", "#s1-name"))
    assert bar["y"] == 0 and bar["height"] <= title["y"] < bar["height"] + 100


def test_a_page_that_is_opened_at_a_scan_shows_its_title(page):
    address = page.url.partition("#")[0]
    page.goto("about:blank")
    page.goto(f"{address}#s1")
    page.wait_for_timeout(200)
    bar, title = (page.locator(selector).bounding_box() for selector in (".tool", "#s1-name"))
    assert bar["height"] <= title["y"] < bar["height"] + 100


def test_outlines_can_be_hidden(page):
    path, card = page.locator("#s0-c2 .own").first, page.locator("#s0-c2")
    for is_shown in (True, False, True):
        page.set_checked("#lines", is_shown)
        card.scroll_into_view_if_needed()  # what is out of view is not laid out
        assert path.is_visible() == is_shown


def test_a_mark_leads_to_its_card(page):
    page.focus(".top figure:first-child .mark")
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    target = page.evaluate("document.querySelector(':target').className")
    assert target == "card here"  # the keys are about it now


def test_printed_it_shows_everything_but_the_controls(page):
    page.emulate_media(media="print")
    assert not page.is_visible("#controls") and page.is_visible("#counts")
    assert shown(page, ".card") == 8
    assert shown(page, "details") == 0  # nobody can open them on paper


def test_a_header_keeps_its_unit_and_its_arrow_on_one_line(page):
    page.set_viewport_size({"width": 380, "height": 800})
    units = page.locator("#finding-table th .unit")
    assert units.all_text_contents()[:2] == ["0-1", "mm"]
    lines = units.evaluate_all("units => units.map(unit => unit.getClientRects().length)")
    button = page.locator("#finding-table th button", has_text="side")
    height, line = button.evaluate("it => [it.offsetHeight, parseFloat(getComputedStyle(it).lineHeight)]")
    assert set(lines) == {1} and height < 1.5 * line


def test_it_fits_a_narrow_window_and_the_dark(page):
    page.set_viewport_size({"width": 380, "height": 800})
    last = page.locator("#finding-table thead th:last-child")
    last.scroll_into_view_if_needed()  # within its table
    assert last.bounding_box()["x"] + last.bounding_box()["width"] <= 380
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (paper, ink) == ("rgb(20, 24, 29)", "rgb(232, 236, 240)")


def exported(page, button, folder):
    """The verdicts that a press of a button exports, by scan and id."""
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return {(scan, one.id): one for scan, its in read_verdicts(path).items() for one in its}


def test_verdicts_are_given_by_keys_and_exported(page, tmp_path):
    for key in "n", "a", "n", "r", "n", "d", "c":
        page.keyboard.press(key)
    page.keyboard.insert_text('so; "it", n\na=')
    page.keyboard.press("Escape")
    page.keyboard.press("n")  # the fracture that was missed has no verdict
    page.keyboard.press("a")
    assert page.text_content("#n-reviewed") == "3" and page.text_content("#n-to-review") == "6"
    verdicts = page.locator("#finding-table tbody .said").all_text_contents()
    assert verdicts == ["accepted", "rejected", "doubtful", "–", "none yet", "none yet", "none yet", "–"]
    said = exported(page, "#export-json", tmp_path)
    assert [said["RibFrac501", number].verdict for number in (2, 1, 3)] == ["accepted", "rejected", "doubtful"]
    assert {one.verdict for (scan, _), one in said.items() if scan == EVIL} == {""}
    as_csv = exported(page, "#export-csv", tmp_path)
    assert [one._replace(where="") for one in said.values()] == [one._replace(where="") for one in as_csv.values()]
    expected = DescribeCandidatesd("pred")(annotated_scan())["candidates"]
    assert [said["RibFrac501", one.id].center_mm for one in expected] == [one.center_mm for one in expected]
    assert [said["RibFrac501", one.id].score for one in expected] == [one.score for one in expected]
    assert json.loads((tmp_path / "review.json").read_text())["candidates"][2]["comment"] == 'so; "it", n\na='


def test_only_what_the_least_score_shows_or_is_reviewed_is_exported(page, tmp_path):
    page.click("#s0-c3 [data-verdict=rejected]")  # of the score 0.25
    page.fill("#threshold-number", "0.6")
    assert sorted(exported(page, "#export-json", tmp_path)) == [(EVIL, 2), ("RibFrac501", 2), ("RibFrac501", 3)]
    assert page.text_content("#n-to-review") == "2"


def test_verdicts_stay_with_their_page(browser, tmp_path):
    context = browser.new_context()
    for name in ("one", "two"):
        run_handler(tmp_path / name, unannotated_scan()).run([0])
    opened = context.new_page()

    def pressed(name):
        opened.goto((tmp_path / name / "report.html").as_uri())
        return opened.locator("[aria-pressed=true]").evaluate_all("all => all.map(b => b.closest('.card').id)")

    assert pressed("one") == []
    opened.click("#s0-c2 [data-verdict=accepted]")
    opened.fill("#s0-c2 textarea", "sure")
    assert pressed("two") == []
    opened.click("#s0-c1 [data-verdict=accepted]")
    assert (pressed("two"), pressed("one")) == (["s0-c1"], ["s0-c2"])
    assert opened.input_value("#s0-c2 textarea") == "sure"
    opened.click("#s0-c2 [data-verdict=accepted]")  # a second press takes it back
    assert pressed("one") == []
    context.close()


def test_an_exported_review_is_loaded_whole_or_not_at_all(page, browser, address, tmp_path):
    page.click("#s0-c2 [data-verdict=accepted]")
    page.fill("#s1-c1 textarea", "old")
    exported(page, "#export-json", tmp_path)
    other = browser.new_context().new_page()
    other.goto(address)
    path = tmp_path / "review.json"
    content = json.loads(path.read_text())
    content["candidates"][0]["score"] = 0.1
    (tmp_path / "other.json").write_text(json.dumps(content))

    def load(name):
        other.set_input_files("#load-review", tmp_path / name)
        other.wait_for_timeout(200)
        return other.text_content("#review-state")

    assert (
        load("other.json") == "other.json does not fit this page: C2 in RibFrac501 is another candidate here, or none."
    )
    assert other.text_content("#n-reviewed") == "0"
    exported(page, "#export-csv", tmp_path)
    assert load("review.csv") == "review.csv does not fit this page: choose a file that Export JSON wrote."
    assert load("review.json") == "6 candidates loaded." and other.text_content("#n-reviewed") == "1"
    assert other.input_value("#s1-c1 textarea") == "old"
    other.context.close()


def test_the_list_shows_what_is_not_reviewed_yet(page):
    page.click("#s0-c2 [data-verdict=doubtful]")
    page.select_option("#verdict-filter", "open")
    assert shown(page) == 5 and not page.is_visible("#s0-c2")
    page.select_option("#verdict-filter", "doubtful")
    assert shown(page) == 1 and page.is_visible("#s0-c2")
    page.click("#s0-c2 [data-verdict=accepted]")
    assert shown(page) == 0


def test_pictures_open_large(page):
    title = page.locator("#large-name")
    page.keyboard.press("n")
    page.keyboard.press("v")
    assert page.is_visible("#large") and title.text_content() == "H C2, score 0.75 hit in RibFrac501, axial"
    assert page.locator("#large-view .view").bounding_box()["width"] > 400
    page.keyboard.press("ArrowRight")
    assert title.text_content().endswith("coronal")
    page.keyboard.press("n")
    page.keyboard.press("a")
    assert (
        title.text_content()
        == "H C1, score 0.50 hit on a fracture that is found already in RibFrac501, coronal: accepted"
    )
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "sagittal" in title.text_content()
    page.keyboard.press("Escape")
    assert not page.is_visible("#large")
    deadline = time.monotonic() + 10
    while page.evaluate("document.activeElement.className") != "enlarge" and time.monotonic() < deadline:
        page.wait_for_timeout(20)  # the focus goes to the picture that was shown last
    assert page.evaluate("document.activeElement.closest('.card').id") == "s0-c1"
    page.click(".top figure:first-child .enlarge")
    assert "Rib cage in RibFrac501, from the front" in title.text_content()
    page.click("#large form button:last-child")
    assert not page.is_visible("#large") and page.complaints == []


@pytest.mark.parametrize("width", [380, 600, 1400])
def test_a_large_picture_fits_its_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.click(".top figure:first-child .enlarge")
    dialog, view, title = (page.locator(name).bounding_box() for name in ("#large", "#large-view .view", "#large-name"))
    assert page.evaluate("document.getElementById('large').scrollWidth <= document.getElementById('large').clientWidth")
    assert dialog["x"] <= view["x"] and view["x"] + view["width"] <= dialog["x"] + dialog["width"]
    assert title["width"] > 200 and title["height"] < 80  # not broken into letters beside the buttons


def test_a_long_comment_is_seen_whole(page):
    field = page.locator("#s0-c2 textarea")
    field.fill("Seen on two slices only; compare with the scan of March. " * 3)
    assert field.evaluate("field => field.scrollHeight <= field.clientHeight + 2")
