"""Scrolling through a scan in a real browser, without a window; CONTRIBUTING.md says how to have one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import watched_page
from PIL import Image
from test_view import BODY_HU, CANDIDATES, FRACTURES, ORIGIN_MM, SPACING_MM, synthetic_run, with_ribs

from scripts.commands.view import write_views

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    (page,) = write_views(synthetic_run(tmp_path_factory.mktemp("run")), ["A"])
    return page.as_uri()


@pytest.fixture
def page(browser, address):
    opened = watched_page(browser)
    open_and_wait(opened, address)
    yield opened
    opened.close()


def open_and_wait(page, address):
    page.goto(address)
    page.wait_for_selector("#state[data-mm]", timeout=30_000)


def drawn(page, plane="axial", letters=False):
    """The colors of a plane's frame, shape (height, width, 3); without the page's letters over it."""
    if not letters:
        page.eval_on_selector_all("#frames span", "letters => letters.forEach(letter => { letter.hidden = true; })")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    taken = page.locator(f".frame[data-plane={plane}]").screenshot()
    return np.asarray(Image.open(io.BytesIO(taken)).convert("RGB")).astype(int)[4:-4, 4:-4]


def colored(picture):
    """How many pixels are not gray."""
    return int((np.ptp(picture, axis=2) > 40).sum())


def without_lines(page):
    """Take mask and crosshair off."""
    page.uncheck("#mask")
    page.uncheck("#crosshair")


def place(page):
    return [float(number) for number in page.get_attribute("#state", "data-mm").split()]


def middle_mm(part):
    """The middle of a part of the synthetic scan, mm in RAS."""
    return np.array(ORIGIN_MM) + np.array(SPACING_MM) * [(axis.start + axis.stop - 1) / 2 for axis in part]


def at_voxel_of(part):
    """Where the crosshair has to be: on the voxel in the middle, half a voxel or less from its middle."""
    return pytest.approx(middle_mm(part), abs=max(SPACING_MM) / 2)


def test_it_opens_at_the_best_candidate_without_complaints(page):
    assert page.complaints == []
    assert place(page) == at_voxel_of(CANDIDATES[1])
    x, y, z = middle_mm(CANDIDATES[1])  # the tables have LPS
    told = page.text_content("#state").replace("−", "-").split()
    assert [float(word.strip(",")) for word in told[:3]] == pytest.approx([-x, -y, z], abs=max(SPACING_MM) / 2)
    assert told[3:] == ["mm", "800", "HU", "C1", "F2"]


def test_what_is_drawn_lies_where_the_letters_say(page):
    without_lines(page)
    x_mm, y_mm, z_mm = middle_mm(CANDIDATES[1])  # the only bone: on the right, in front, superior
    for plane, toward in (("axial", "RA"), ("coronal", "RS"), ("sagittal", "AS")):
        picture = drawn(page, plane).mean(axis=2)
        rows, columns = np.nonzero(picture > 0.6 * 255)  # 800 HU are 83 % of white, 40 HU 20 %
        assert len(rows) > 100
        frame = page.locator(f".frame[data-plane={plane}]").bounding_box()
        bone = np.array([columns.mean() + 4, rows.mean() + 4])
        page.eval_on_selector_all("#frames span", "letters => letters.forEach(letter => { letter.hidden = false; })")
        distance = {}
        for letter in page.locator(f".frame[data-plane={plane}] span").all():
            box = letter.bounding_box()
            middle = [box["x"] + box["width"] / 2 - frame["x"], box["y"] + box["height"] / 2 - frame["y"]]
            distance[letter.text_content()] = float(np.hypot(*(bone - middle)))
        opposite = dict(zip("RLAPSI", "LRPAIS"))
        assert set(toward) <= set(distance)
        assert all(distance[letter] < distance[opposite[letter]] for letter in toward), (plane, distance)


@pytest.mark.parametrize("axes", ["RAS", "SAR"])
def test_a_scan_with_other_axes_looks_the_same(browser, page, tmp_path, axes):
    (other_path,) = write_views(synthetic_run(tmp_path, axes=axes), ["A"])
    other = watched_page(browser)
    open_and_wait(other, other_path.as_uri())
    for plane in ("axial", "coronal", "sagittal"):
        assert np.abs(drawn(page, plane) - drawn(other, plane)).mean() < 0.1
    other.close()


def test_windows_change_what_is_drawn_as_they_say(page):
    without_lines(page)
    page.keyboard.press("n")  # the second candidate of the list, in the same bone
    shares = {}
    for key, name in (("b", "Bone"), ("l", "Lung"), ("s", "Soft tissue")):
        page.keyboard.press(key)
        assert page.locator("[aria-pressed=true]").text_content().split(" " + key)[0] == name
        picture = drawn(page).mean(axis=2)
        height, width = picture.shape
        # soft tissue fills the slice but for the bone in one corner
        shares[key] = float(np.median(picture[picture > 0])) / 255
        assert picture[height // 2, width // 2] / 255 == pytest.approx(shares[key], abs=0.02)
    low_high = {"b": (-200, 1000), "l": (-1350, 150), "s": (-160, 240)}
    expected = {key: (BODY_HU - low) / (high - low) for key, (low, high) in low_high.items()}
    assert shares == pytest.approx(expected, abs=0.03)
    assert page.text_content("#window").replace("−", "-") == "-160 to 240 HU"


def test_the_right_button_changes_width_and_level(page):
    box = page.locator(".frame[data-plane=axial]").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    here = place(page)
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 50, y, steps=5)
    # 2 HU a pixel: a width of 1200 becomes 1300
    assert page.text_content("#window").replace("−", "-") == "-250 to 1050 HU"
    page.mouse.move(x + 50, y + 30, steps=5)
    page.mouse.up(button="right")
    assert page.text_content("#window").replace("−", "-") == "-190 to 1110 HU"
    assert page.locator("[data-low][aria-pressed=true]").count() == 0 and place(page) == here
    page.mouse.move(x, y)
    page.keyboard.press("b")
    assert page.text_content("#window").replace("−", "-") == "-200 to 1000 HU"


def test_the_wheel_scrolls_through_slices(page):
    without_lines(page)
    box = page.locator(".frame[data-plane=axial]").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    x, y, z = place(page)
    before = drawn(page)
    for slices in range(1, 13):
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(30)
        assert place(page) == pytest.approx([x, y, z - slices * SPACING_MM[2]], abs=1e-2)
    assert np.abs(drawn(page) - before).max() > 100  # the bone is gone
    for _ in range(12):
        page.mouse.wheel(0, -100)
    page.wait_for_timeout(30)
    assert place(page) == pytest.approx([x, y, z], abs=1e-2)


def test_a_click_in_the_list_moves_the_crosshair(page):
    for name, part in (("C2", CANDIDATES[2]), ("F5", FRACTURES[5]), ("C1", CANDIDATES[1])):
        page.fill("#threshold", "0")
        page.click(f"text={name}")
        assert place(page) == at_voxel_of(part)
        assert name in page.text_content("#state").split()
        assert page.locator("tr.here th").text_content() == name


def test_a_click_leads_to_the_candidate_of_a_tilted_scan(browser, tmp_path):
    (path,) = write_views(synthetic_run(tmp_path, tilt_degrees=25.0), ["A"])
    page = watched_page(browser)
    open_and_wait(page, path.as_uri())
    page.fill("#threshold", "0")
    for name in ("C2", "F5", "C1"):
        page.click(f"text={name}")
        wanted = page.get_attribute("tr.here", "data-place").split()
        assert place(page) == pytest.approx([float(number) for number in wanted], abs=max(SPACING_MM) / 2)
        assert name in page.text_content("#state").split()
    without_lines(page)
    page.fill("#zoom", "4")
    rows, columns = np.nonzero(drawn(page).mean(axis=2) > 0.6 * 255)
    height, width = drawn(page).shape[:2]
    assert [rows.mean() / height, columns.mean() / width] == pytest.approx([0.5, 0.5], abs=0.03)
    page.close()


def test_keys_go_through_the_list_and_the_slices(page):
    page.keyboard.press("n")
    assert page.locator("tr.here th").text_content() == "C3" and place(page) == at_voxel_of(CANDIDATES[3])
    page.keyboard.press("p")
    assert page.locator("tr.here th").text_content() == "C1"
    before = np.array(place(page))
    page.keyboard.press("ArrowUp")
    assert np.array(place(page)) - before == pytest.approx([0, 0, SPACING_MM[2]], abs=1e-3)
    page.select_option("#planes", "sagittal")
    page.focus("#canvas")
    page.keyboard.press("ArrowDown")
    assert np.array(place(page)) - before == pytest.approx([-SPACING_MM[0], 0, SPACING_MM[2]], abs=1e-3)


def test_the_mask_comes_and_goes(page):
    page.keyboard.press("x")
    shown = colored(drawn(page))
    page.keyboard.press("m")
    assert not page.is_checked("#mask") and colored(drawn(page)) == 0
    page.keyboard.press("m")
    assert shown > 200 and colored(drawn(page)) == shown


def test_candidates_and_fractures_differ_in_color(page):
    page.uncheck("#crosshair")
    page.fill("#threshold", "0")
    page.fill("#opacity", "1")
    # vermilion for a false positive, yellow for fractures, hit or missed
    expected = {"C2": (0xE8, 0x74, 0x3B), "F5": (0xF0, 0xE4, 0x42), "F2": (0xF0, 0xE4, 0x42)}
    for name, color in expected.items():
        page.fill("#threshold", "1" if name == "F2" else "0")
        page.click(f"text={name}")
        picture = drawn(page)
        assert np.median(picture[np.ptp(picture, axis=2) > 40], axis=0) == pytest.approx(color, abs=25), name


def test_candidates_below_the_threshold_are_neither_listed_nor_drawn(page):
    page.uncheck("#crosshair")

    def names():
        return [row.text_content() for row in page.locator("#marks tbody th:visible").all()]

    assert names() == ["C1", "C3", "F2", "F5"]  # it opens at 0.45
    page.fill("#threshold", "0.4")  # its score: candidates at the threshold count
    assert names() == ["C1", "C3", "C2", "F2", "F5"]
    page.click("text=C2")
    assert colored(drawn(page)) > 200
    page.fill("#threshold", "0.41")
    assert names() == ["C1", "C3", "F2", "F5"] and colored(drawn(page)) == 0
    page.fill("#threshold", "1")
    assert names() == ["F2", "F5"] and not page.is_visible("#nothing")


def test_each_plane_tells_its_slice_and_its_scale(page):
    def told(name):
        return page.locator(f".frame .{name}").all_text_contents()

    def pixels_per_mm():
        scale = page.locator(".frame[data-plane=axial] .scale")
        return scale.bounding_box()["width"] / float(scale.text_content().removesuffix(" mm"))

    # cropped to the body, the scan has 34 x 32 x 30 voxels; candidate 1 has its middle at 28, 25, 20, less 4, 3 and 0
    assert told("slice") == ["slice 21 of 30", "slice 23 of 32", "slice 25 of 34"]
    before = pixels_per_mm()
    page.fill("#zoom", "2")
    assert pixels_per_mm() == pytest.approx(2 * before, rel=0.02)


def test_zoom_is_about_the_crosshair(page):
    without_lines(page)
    page.fill("#zoom", "4")
    picture = drawn(page).mean(axis=2)
    rows, columns = np.nonzero(picture > 0.6 * 255)
    height, width = picture.shape
    # the middle of the bone is that of candidate 1, but for one slice, which this plane does not show
    assert [rows.mean() / height, columns.mean() / width] == pytest.approx([0.5, 0.5], abs=0.03)
    assert np.ptp(columns) + 1 == pytest.approx(4 * narrow(page), rel=0.1)


def narrow(page):
    """The width of the bone without zoom, in pixels."""
    page.fill("#zoom", "1")
    _, columns = np.nonzero(drawn(page).mean(axis=2) > 0.6 * 255)
    return int(np.ptp(columns)) + 1


def test_one_plane_fills_the_place_of_all(page):
    axial = page.locator(".frame[data-plane=axial]").bounding_box()
    page.select_option("#planes", "coronal")
    assert not page.is_visible(".frame[data-plane=axial]")
    coronal = page.locator(".frame[data-plane=coronal]").bounding_box()
    assert coronal["width"] > axial["width"] and coronal["x"] == axial["x"]
    without_lines(page)
    assert (drawn(page, "coronal").mean(axis=2) > 0.6 * 255).sum() > 400
    page.select_option("#planes", "all")
    assert page.locator(".frame[data-plane=axial]").bounding_box() == axial


def test_a_browser_without_webgl_is_told_so(browser, address):
    page = watched_page(browser)
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page.goto(address)
    page.wait_for_selector("#state:has-text('WebGL 2')", timeout=10_000)
    page.close()


def test_it_fits_a_narrow_window(page):
    page.set_viewport_size({"width": 380, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    without_lines(page)
    assert (drawn(page).mean(axis=2) > 0.6 * 255).sum() > 20


def test_in_a_narrow_window_a_candidate_leaves_the_pictures_in_view(page):
    page.set_viewport_size({"width": 380, "height": 700})
    page.reload()
    page.wait_for_selector("#state[data-mm]", timeout=30_000)
    assert page.evaluate("scrollY") == 0
    last = page.locator("#marks tbody button").last
    last.scroll_into_view_if_needed()
    assert page.evaluate("scrollY") > 100
    before = place(page)
    last.click()
    box = page.locator("#frames").bounding_box()
    assert place(page) != before and box["y"] >= 0 and box["y"] + box["height"] <= 700


@pytest.fixture
def ribs(browser, tmp_path):
    (path,) = write_views(with_ribs(synthetic_run(tmp_path)), ["A"])
    opened = watched_page(browser)
    open_and_wait(opened, path.as_uri())
    yield opened
    opened.close()


def test_ribs_come_and_go_in_colors_of_their_own(ribs):
    ribs.uncheck("#mask")
    ribs.uncheck("#crosshair")
    ribs.fill("#opacity", "1")
    assert colored(drawn(ribs)) == 0
    here = place(ribs)
    ribs.keyboard.press("r")
    ribs.wait_for_selector("#state:has-text('rib left 6')")
    picture = drawn(ribs)
    assert colored(picture) > 200 and place(ribs) == here
    # rib 6: a hue of 6 · 150 degrees, which is that of 180, at 60 % lightness
    color = np.median(picture[np.ptp(picture, axis=2) > 40], axis=0)
    assert color == pytest.approx((64, 242, 242), abs=25)
    ribs.check("#mask")  # fractures, which cover most of the rib, lie over it
    picture = drawn(ribs)
    assert np.median(picture[np.ptp(picture, axis=2) > 40], axis=0) == pytest.approx((0xF0, 0xE4, 0x42), abs=25)
    assert "C1 F2 rib left 6" in ribs.text_content("#state")
    ribs.uncheck("#mask")
    ribs.keyboard.press("r")
    assert colored(drawn(ribs)) == 0 and "rib" not in ribs.text_content("#state")
    assert ribs.complaints == []


def test_the_name_of_a_rib_stands_under_the_pointer(ribs):
    box = ribs.locator(".frame[data-plane=axial]").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    ribs.fill("#zoom", "4")  # the crosshair, in the bone, is in the middle
    ribs.mouse.move(*middle)
    assert not ribs.is_visible("#rib-name")
    ribs.check("#ribs")
    ribs.wait_for_selector("#state:has-text('rib left 6')")
    ribs.mouse.move(middle[0] + 3, middle[1])
    assert ribs.is_visible("#rib-name") and ribs.text_content("#rib-name") == "left 6"
    ribs.mouse.move(box["x"] + 3, box["y"] + 3)  # far from it
    assert not ribs.is_visible("#rib-name")
