"""The page of a training: curves and ROIs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from test_pages import Page

from scripts.handlers import CurveHistory, TrainingPageHandler
from scripts.reporting.pages.training import Example, curve_charts, roi_view, write_training_page


def roi(marked=None, value=0.0):
    label = np.zeros((12, 10, 6), dtype=bool)
    if marked is not None:
        label[marked] = True
    return Example(np.full(label.shape, value, dtype=np.float32), label)


def test_an_roi_shows_the_slice_with_the_most_of_the_annotation():
    example = roi()
    example.label[2:4, 3:5, 1] = True
    example.label[2:5, 3:6, 4] = True  # the larger one: voxels 2 to 4 of 12, seen from the other end 7 to 9
    view = roi_view(example._replace(pred=~example.label & False))
    assert (view.width_mm, view.height_mm) == (12, 10)
    points = [float(x) for x in view.outlines[0].path.strip("MZ").split()[::2]]
    assert (min(points), max(points)) == (7, 10)
    assert [line.path == "" for line in view.outlines] == [False, True]


def test_curves_have_charts_and_the_learning_rate_its_own():
    charts = curve_charts({"training_loss": [(1, 0.5), (2, float("nan"))], "learning_rate": [(1, 0.1), (2, 0.001)]})
    assert [chart.y.label for chart in charts] == ["loss", "learning rate"]
    assert [chart.y.logarithmic for chart in charts] == [False, True]
    assert len(charts[0].pixels(charts[0].series[0])) == 1  # what is no number is left out
    assert (charts[1].y.low, charts[1].y.high, charts[1].x.high) == (0.001, 0.1, 2)


@pytest.mark.parametrize(
    "lowest, names",
    [
        pytest.param(3e-5, ["5e-05", "0.0001", "0.0002", "0.0005", "0.001"], id="two powers of 10 are no scale"),
        pytest.param(1e-6, ["1e-06", "1e-05", "0.0001", "0.001"], id="powers of 10"),
    ],
)
def test_a_logarithmic_axis_has_names_enough(lowest, names):
    _, chart = curve_charts({"training_loss": [(1, 0.5)], "learning_rate": [(1, 0.001), (9, lowest)]})
    assert [name for _, name in chart.y.named()] == names


def test_after_one_epoch_the_points_are_told_apart(tmp_path):
    points = {"training_loss": [(1, 0.5)], "validation_loss": [(1, 0.25)]}
    write_training_page(tmp_path / "training.html", points, 5, [], [])
    page = Page((tmp_path / "training.html").read_text(encoding="utf-8"))
    kinds = [circle.attributes["class"] for circle in page.all("circle")]
    assert kinds == ["dot n0", "dot n1"] * 2  # in the chart, and in its legend
    ys = [float(circle.attributes["cy"]) for circle in page.all("circle")]
    assert ys[0] < ys[1]


def test_scores_of_the_validation_have_a_chart_of_their_own():
    charts = curve_charts({"training_loss": [(1, 0.5)], "average_recall": [(1, 0.25)], "learning_rate": []})
    assert [(chart.title, chart.y.label) for chart in charts] == [("Losses", "loss"), ("Validation scores", "score")]
    assert [series.name for series in charts[1].series] == ["average recall"]


def test_axes_name_whole_epochs_and_the_best_one_is_marked(tmp_path):
    points = {"training_loss": [(1, 0.5), (2, 0.4), (3, 0.3)], "validation_loss": [(1, 0.5), (2, 0.3), (3, 0.4)]}
    (chart,) = curve_charts(points)
    assert [name for _, name in chart.x.named()] == ["1", "2", "3"] and chart.mark == (2, "best: epoch 2")
    settings = {"dataset_dir": "/data/<ribfrac>", "seed": 0}
    write_training_page(tmp_path / "training.html", points, 5, [roi()], [], settings)
    page = Page((tmp_path / "training.html").read_text(encoding="utf-8"))
    assert [dd.text for dd in page.all("dd")] == ["/data/<ribfrac>", "0"]
    assert "best: epoch 2" in page.all("main")[0].text


def test_the_page_before_the_first_validation(tmp_path):
    write_training_page(tmp_path / "training.html", {}, 5, [roi()], [])
    page = Page((tmp_path / "training.html").read_text(encoding="utf-8"))
    assert page.all("h1")[0].text == "Training, epoch 0 of 5" and "Not validated yet" in page.all("main")[0].text
    assert len(page.all("img")) == 1 and not page.all("script")


def test_the_handler_keeps_the_first_rois_of_the_last_epoch(tmp_path):
    history = CurveHistory()
    evaluator = Engine(lambda engine, batch: {"image": batch, "label": (batch > 0) * 1.0, "pred": batch - 0.5})

    def step(engine, batch):
        return {"image": batch + engine.state.epoch / 10, "label": batch * 0}

    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([torch.zeros(20, 1, 4, 4, 4)] * 2))

    @trainer.on(Events.EPOCH_COMPLETED)
    def score():
        history.points.setdefault("validation_loss", []).append(
            (trainer.state.epoch, [0.5, 0.25][trainer.state.epoch - 1])
        )

    handler = TrainingPageHandler(tmp_path, evaluator, history)
    handler.attach(trainer)
    trainer.run([torch.zeros(2, 1, 4, 4, 4)] * 3, max_epochs=2)
    assert len(handler._sampled) == 6 and len(handler._validated) == TrainingPageHandler.examples
    assert all(example.image.mean() == pytest.approx(0.2) for example in handler._sampled)  # of epoch 2 alone
    page = Page((tmp_path / "training.html").read_text(encoding="utf-8"))
    assert "Best so far: epoch 2, validation loss 0.2500" in page.all("main")[0].text
    assert len(page.all("img")) == 6 + 16
    assert [path.name for path in tmp_path.iterdir()] == ["training.html"]
