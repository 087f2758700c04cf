"""Views along the ribs on the review page: where an instance lies in them, and how the page leads there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from rib_cages import ball, image_of, made_cage
from test_pages import Page, picture, prediction_run

from scripts.anatomy.straight_ribs import straight_ribs
from scripts.candidates import describe_candidates
from scripts.handlers import ReviewPageHandler
from scripts.reporting.pages.findings import scan_findings
from scripts.reporting.pages.page import ReviewPage
from scripts.reporting.pages.rib_views import along_rib_view, unfolded_views
from scripts.reporting.pages.views import ALONG_RIB, Scan
from scripts.reporting.unfolding import UnfoldedCage

CAGE = made_cage([("left", 5), ("left", 6), ("right", 5), ("right", None)])
# Candidate 1 on the left 6, 80 mm along the bow of 70 mm; 2 on the right rib of unknown number; 3 on none.
TURN = 80 / 70
PLACES = {1: (-70 * np.sin(TURN), -70 * np.cos(TURN), 25.0), 2: (70.0, 20.0, 25.0), 3: (0.0, 40.0, 40.0)}
IDS = sum(ball(CAGE, place) * number for number, place in PLACES.items()).astype(np.int32)


def scan():
    return Scan(image_of(CAGE), CAGE.affine, (-200.0, 1000.0), {"candidate": IDS})


def candidates(cage=CAGE):
    pred = MetaTensor(torch.as_tensor(IDS)[None], affine=torch.as_tensor(CAGE.affine))
    return describe_candidates(pred, [0.9, 0.8, 0.7], torch.tensor([1.0, 0.0, 0.0, 0.0]), rib_cage=cage)


def points_of(path):
    numbers = path.replace("M", " ").replace("Z", " ").split()
    return np.array(numbers, dtype=float).reshape(-1, 2)


def middle_of(path):
    points = points_of(path)
    return (points.min(axis=0) + points.max(axis=0)) / 2


def test_the_unfolded_ribs_show_each_candidate_on_its_own_rib():
    rib_of = {"candidate": {its.id: its.rib_id for its in candidates() if its.rib_id}}
    assert rib_of == {"candidate": {1: 6, 2: 202}}
    views = unfolded_views(scan(), CAGE, rib_of)
    assert [view.name for view in views] == ["ribs unfolded, maximum", "ribs unfolded, mean"]
    placed = {one.straight.rib.id: one for one in UnfoldedCage.of(CAGE).ribs}
    for view in views:
        assert (view.edges[:2], picture(view).shape) == (("R", "L"), (view.height_mm, view.width_mm))
        assert [(name, x < view.width_mm / 2) for name, x, _ in view.labels] == [
            ("L5", False),
            ("L6", False),
            ("R5", True),
            ("R?2", True),
        ]
        first, second = sorted(view.outlines, key=lambda line: line.instance)
        # 2 mm and a pixel: a ball of 12 mm in voxels of 2 to 3 mm
        left = placed[6]
        assert middle_of(first.path) == pytest.approx([left.start_mm + 80, left.middle_mm], abs=3)
        right = placed[202]
        assert middle_of(second.path) == pytest.approx([right.start_mm - 70 * np.pi / 2 - 20, right.middle_mm], abs=3)


def test_no_ribs_no_view():
    assert unfolded_views(scan(), made_cage([]), {}) == []


@pytest.mark.parametrize("side, instance", [("left", 1), ("right", 2)])
def test_the_view_along_a_rib_follows_it_with_the_outside_above(side, instance):
    (rib,) = [one for one in straight_ribs(CAGE) if one.rib.side == side and one.rib.order == 2]
    outside = ball(CAGE, np.array(PLACES[instance]) * [1.25, 1.25, 1], 4)  # 18 mm farther out
    view = along_rib_view(
        Scan(np.maximum(image_of(CAGE), outside * 800), CAGE.affine, (-200.0, 1000.0), {"candidate": IDS}),
        rib,
        "candidate",
        instance,
    )
    assert (view.name, view.width_mm, view.height_mm) == (ALONG_RIB, 150, 50)
    gray = picture(view)  # half a mm a pixel
    assert gray.shape == (100, 300)
    bone = gray > 128
    assert bone[47:53, 100:200].all()  # the rib is a straight band in the middle
    assert bone[:40, 120:180].any() and not bone[66:, 100:200].any()
    (line,) = view.outlines
    assert middle_of(line.path) == pytest.approx([75, 25], abs=2)


def test_the_view_along_a_rib_starts_at_the_spine():
    (rib,) = [one for one in straight_ribs(CAGE) if one.rib.id == 6]
    gray = picture(along_rib_view(scan(), rib, "candidate", 1))
    # the candidate in the middle, at 150 pixels, is 80 mm from the spine, 90 from the front: no end of the rib is seen
    nearer = Scan(image_of(CAGE), CAGE.affine, (-200.0, 1000.0), {"candidate": ball(CAGE, (-10, -69, 25)).astype(int)})
    shifted = picture(along_rib_view(nearer, rib, "candidate", 1))
    assert (gray[50] > 128).all()
    # 10 mm along the rib: 75 - 10 mm to the left is its end, and 10 mm beyond it nothing is sampled
    assert (shifted[50, 140:] > 128).all() and not (shifted[50, :108] > 0).any()


def test_of_an_instance_on_two_ribs_the_view_shows_the_part_on_its_own():
    (rib,) = [one for one in straight_ribs(CAGE) if one.rib.id == 6]
    both = ball(CAGE, PLACES[1]) | ball(CAGE, np.array(PLACES[1]) + [0, 0, 30], 8)  # a larger part on the rib above
    view = along_rib_view(
        Scan(image_of(CAGE), CAGE.affine, (-200.0, 1000.0), {"candidate": both.astype(int)}), rib, "candidate", 1
    )
    assert (picture(view)[50, 100:200] > 128).all()  # bone, and not what lies between the ribs


def test_far_from_the_rib_there_is_no_view():
    (rib,) = [one for one in straight_ribs(CAGE) if one.rib.id == 6]
    assert along_rib_view(scan(), rib, "candidate", 3) is None
    assert along_rib_view(scan(), rib, "candidate", 4) is None  # has no voxel


def test_findings_tell_the_rib_and_have_a_view_along_it():
    found = scan_findings("a", scan(), candidates(), rib_cage=CAGE)
    # 70 · π / 2 + 60 = 170 mm long: 80 is 47 %, 130 is 76 %
    assert [finding.rib for finding in found] == [
        "rib left 6, 80 mm from the spine (47 %)",
        "rib of unknown number, 2 from above on the right, 130 mm from the spine (76 %)",
        "",
    ]
    three = ["axial", "coronal", "sagittal"]
    names = [[view.name for view in finding.views] for finding in found]
    assert names == [[*three, ALONG_RIB], [*three, ALONG_RIB], three]
    without = scan_findings("a", scan(), candidates(None))
    assert [(len(finding.views), finding.rib) for finding in without] == [(3, "")] * 3


def written(folder, cage):
    page = ReviewPage(folder / "report.html", {}, 0.5)
    rib_of = {"candidate": {its.id: its.rib_id for its in candidates(cage) if its.rib_id}}
    unfolded = unfolded_views(scan(), cage, rib_of) if cage else []
    page.add_scan("a", scan_findings("a", scan(), candidates(cage), rib_cage=cage), [], unfolded=unfolded)
    page.write()
    return Page((folder / "report.html").read_text())


def test_the_page_leads_from_the_unfolded_ribs_to_a_candidate_and_back(tmp_path):
    page = written(tmp_path, CAGE)
    (anchor,) = page.all("div", id="s0-ribs")
    marks = [element.attributes["href"] for element in page.all("a", **{"class": "mark"})]
    assert sorted(marks) == ["#s0-c1", "#s0-c1", "#s0-c2", "#s0-c2"]  # in the maximum, and in the mean
    assert {element.attributes["id"] for element in page.all("article")} == {"s0-c1", "s0-c2", "s0-c3"}
    assert len(page.all("a", href="#s0-ribs")) == 2
    assert [element.text for element in page.all("text") if element.text[:1] in ("L", "R") and len(element.text) > 1][
        :4
    ] == ["L5", "L6", "R5", "R?2"]
    columns = [element.text for element in page.all("button") if element.text.strip() == "rib"]
    assert columns == ["rib"]  # the card has the others
    assert "left 6" in [element.text for element in page.all("td")]


def test_a_page_without_ribs_has_no_place_for_them(tmp_path):
    page = written(tmp_path, None)
    assert page.all("div", id="s0-ribs") == [] and page.all("a", href="#s0-ribs") == []


@pytest.mark.parametrize("cage, links", [(CAGE, 2), (made_cage([]), 0), (None, 0)], ids=["ribs", "none found", "off"])
def test_the_handler_takes_the_ribs_from_the_batch(cage, links, tmp_path):
    affine = torch.as_tensor(CAGE.affine)
    image = MetaTensor(torch.as_tensor(image_of(CAGE))[None] / 600 - 2 / 3, affine=affine)
    pred = MetaTensor(torch.as_tensor(IDS)[None], affine=affine, meta={"scan": "a"})

    def step(engine, number):
        engine.state.batch = [{} if cage is None else {"rib_cage": cage}]
        return [{"image": image, "pred": pred, "candidates": candidates(cage)}]

    engine = Engine(step)
    ReviewPageHandler(prediction_run(tmp_path, [{"scan": "a", "image": "a.nii.gz"}])).attach(engine)
    engine.run([0])
    assert len(Page((tmp_path / "report.html").read_text()).all("a", href="#s0-ribs")) == links
