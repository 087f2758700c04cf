"""Handlers on small engines: resuming, early stop, curves, tables, pictures."""

from __future__ import annotations

import csv
import json
import random
from contextlib import nullcontext
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import lps_affine, prediction_run
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.candidates import describe_candidates
from scripts.handlers import (
    AverageWeightsHandler,
    CurveHistory,
    CurvesHandler,
    EarlyStopOnBestEpochHandler,
    FROCReportHandler,
    ResumableCheckpointHandler,
    ScanPictureHandler,
    ScanRecordsHandler,
)
from scripts.metrics.ribfrac_froc import RibFracFROCMetric
from scripts.reporting.figures import IN_HU, in_hu

LOSSES = [0.9, 0.5, 0.7, 0.6, 0.4]  # of the validation after epochs 1 to 5


class Validation:
    """An evaluator that finds the scores of a list, the lower the better."""

    def __init__(self, losses):
        self.losses = losses
        self.state = SimpleNamespace(epoch=0, best_metric=-1, best_metric_epoch=-1, metrics={})

    def run(self, engine):
        loss = self.losses[engine.state.epoch - 1]
        self.state.epoch, self.state.metrics = engine.state.epoch, {"val_loss": loss}
        if self.state.best_metric_epoch == -1 or loss < self.state.best_metric:
            self.state.best_metric, self.state.best_metric_epoch = loss, engine.state.epoch


def training(folder, resume=False, losses=LOSSES, patience=100):
    """A trainer whose network's only weight is the number of steps, with the handlers of the config in its order."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.5)
    evaluator = Validation(losses)
    drawn = []

    def step(engine, batch):
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        network.weight.grad = -torch.ones_like(network.weight)
        optimizer.step()
        return {"loss": torch.tensor(float(engine.state.iteration))}

    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluator.run)
    history = CurveHistory()
    CurvesHandler(folder, evaluator, optimizer, history, itemgetter("loss")).attach(trainer)
    ResumableCheckpointHandler(
        folder / "models", network, evaluator, {"optimizer": optimizer, "history": history}, resume
    ).attach(trainer)
    EarlyStopOnBestEpochHandler(evaluator, patience).attach(trainer)
    return SimpleNamespace(trainer=trainer, network=network, evaluator=evaluator, history=history, drawn=drawn)


class Killed(Exception):
    """What ends a run in the middle."""


def run(folder, epochs=5, killed_after=None, **arguments):
    whole = training(folder, **arguments)

    @whole.trainer.on(Events.EPOCH_COMPLETED)
    def kill(engine):
        if engine.state.epoch == killed_after:
            raise Killed

    with nullcontext() if killed_after is None else pytest.raises(Killed):
        whole.trainer.run([0, 1], max_epochs=epochs)
    return whole


def seed(value):
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def test_a_resumed_training_goes_on_where_it_was(tmp_path):
    seed(1)
    straight = run(tmp_path / "straight")
    seed(1)
    first = run(tmp_path / "resumed", killed_after=3)
    seed(99)
    second = run(tmp_path / "resumed", resume=True)
    assert straight.drawn == first.drawn + second.drawn  # the random state too
    assert torch.equal(second.network.weight, straight.network.weight)  # momentum too
    assert second.trainer.state.iteration == 10 and second.trainer.state.epoch == 5
    assert second.evaluator.state.best_metric_epoch == 5 and second.evaluator.state.best_metric == 0.4
    assert second.history.points == straight.history.points
    names = ["curves.csv", "models/model.pt", "models/final.pt", "models/last.pt"]
    assert (tmp_path / "resumed" / names[0]).read_text() == (tmp_path / "straight" / names[0]).read_text()
    for name in names[1:]:
        assert (tmp_path / "resumed" / name).exists()


def test_the_best_model_is_kept_also_across_a_resume(tmp_path):
    run(tmp_path, killed_after=3)  # best after epoch 2
    best = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    run(tmp_path, resume=True, killed_after=4)  # 0.6 is better than epoch 3, and worse than epoch 2
    again = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert list(best) == ["weight"] and torch.equal(best["weight"], again["weight"])
    run(tmp_path, resume=True)
    last = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert last["weight"] > best["weight"]


def test_weights_of_a_gpu_are_written_as_those_of_the_processor(tmp_path):
    on_gpu = SimpleNamespace(cpu=lambda: torch.ones(1))
    averaged = SimpleNamespace(state_dict=lambda: {"weight": on_gpu})
    evaluator = SimpleNamespace(state=SimpleNamespace(best_metric=0.5, best_metric_epoch=1))
    handler = ResumableCheckpointHandler(tmp_path, nn.Linear(1, 1), evaluator, {}, best_network=averaged)
    handler.save(SimpleNamespace(state=SimpleNamespace(epoch=1, max_epochs=1)))
    for name in ("model.pt", "final.pt"):
        assert torch.load(tmp_path / name, weights_only=True) == {"weight": torch.ones(1)}


def test_without_resume_it_starts_at_the_first_epoch_and_keeps_the_earlier_state(tmp_path):
    run(tmp_path, 3)
    earlier = (tmp_path / "models" / "last.pt").read_bytes()
    assert len(run(tmp_path, 2).drawn) == 4
    assert (tmp_path / "models" / "last-previous.pt").read_bytes() == earlier
    # killed before its first epoch ends, a new training has nothing that an earlier one could be mistaken for
    assert torch.load(tmp_path / "models" / "last.pt", weights_only=True)["epoch"] == 2


def test_nothing_to_resume_from(tmp_path):
    assert len(run(tmp_path, 2, resume=True).drawn) == 4


def test_resuming_a_finished_training_does_nothing(tmp_path):
    run(tmp_path, 3)
    assert run(tmp_path, 3, resume=True).drawn == []


def test_resuming_with_another_number_of_epochs_is_refused(tmp_path):
    run(tmp_path, 3)
    with pytest.raises(ValueError, match="of a training of 3 epochs.*max_epochs is 5"):
        run(tmp_path, 5, resume=True)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, 2, killed_after=1)
    before = (tmp_path / "models" / "last.pt").read_bytes()

    def cut(obj, file, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="disk full"):
        run(tmp_path, 2, resume=True)
    assert (tmp_path / "models" / "last.pt").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["final.pt", "last.pt", "model.pt"]


@pytest.mark.parametrize(
    "patience, last",
    [
        pytest.param(1, 3, id="the epoch after the best"),
        pytest.param(2, 4, id="two epochs after the best"),
        pytest.param(3, 5, id="a better one comes in time"),
    ],
)
def test_early_stop(tmp_path, patience, last):
    assert run(tmp_path, 5, patience=patience).trainer.state.epoch == last


def test_early_stop_counts_across_a_resume(tmp_path):
    run(tmp_path, killed_after=3, patience=2)
    assert run(tmp_path, patience=2, resume=True).trainer.state.epoch == 4


def test_a_training_that_stopped_early_is_not_resumed(tmp_path):
    run(tmp_path, patience=2)
    again = run(tmp_path, patience=2, resume=True)
    assert again.drawn == [] and again.trainer.state.epoch == 4


def test_curves(tmp_path):
    run(tmp_path, 2)
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # the loss of a step is its number: the means of 1, 2 and of 3, 4
    assert rows == [
        {"epoch": "1", "training_loss": "1.5", "learning_rate": "1.0", "val_loss": "0.9"},
        {"epoch": "2", "training_loss": "3.5", "learning_rate": "1.0", "val_loss": "0.5"},
    ]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


SCANS = [{"scan": name, "image": f"{name}-image.nii.gz"} for name in ("RibFrac501", "RibFrac502")]


def predicted(name="RibFrac501", fracture=True):
    """One scan as it leaves the post-processing: the image in RAS, candidates and fractures on its own grid."""
    label = torch.zeros(1, 16, 14, 12, dtype=torch.int32)
    label[0, 3:7, 3:7, 3:7] = int(fracture)
    own = MetaTensor(label, affine=torch.as_tensor(lps_affine()), meta={"scan": name})
    image = Orientation("RAS", labels=None)(MetaTensor(label.float(), affine=own.affine))
    scores = torch.tensor([0.75] * int(fracture))
    candidates = describe_candidates(own, scores, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    return {"image": image, "pred": own, "label_scores": scores, "candidates": candidates, "label": own.clone()}


def predict(*outputs):
    """An evaluator that has these outputs, one scan a step."""
    return Engine(lambda engine, number: [outputs[number]])


def test_each_scan_is_recorded_when_its_files_are_written(tmp_path):
    outputs = predicted(), predicted("RibFrac502", fracture=False)
    evaluator = predict(*outputs)
    (tmp_path / "predictions").mkdir()
    for scan in SCANS:
        (tmp_path / "predictions" / f"{scan['scan']}.nii.gz").touch()
    run = prediction_run(tmp_path, SCANS)
    ScanRecordsHandler(run).attach(evaluator)
    seen = []

    @evaluator.on(Events.ITERATION_STARTED)
    def note(engine):
        seen.append(sorted(path.name for path in (tmp_path / "records").glob("*")))

    evaluator.run([0, 1])
    evaluator.run([0, 1])  # a second run starts anew
    assert seen == [[], ["RibFrac501.json"]] * 2
    run.records.join()
    with (tmp_path / "fractures.csv").open(newline="") as file:
        rows = [(row["scan"], row["id"], row["score"], row["side"]) for row in csv.DictReader(file)]
    # the middle lies at x = 12 - 4.5 · 0.75 = 8.6 mm
    assert rows == [("RibFrac501", "1", "0.750000", "right"), ("RibFrac502", "", "", "")]
    assert len((tmp_path / "predictions" / "ribfrac-pred.csv").read_text().splitlines()) == 1 + 2 + 1


@pytest.mark.parametrize("many, flag", [pytest.param(1, True, id="flag"), pytest.param(2, False, id="no flag")])
def test_the_flag_of_a_scan_is_in_its_table_and_in_the_log(many, flag, tmp_path, caplog):
    evaluator = predict(predicted())
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "RibFrac501.nii.gz").touch()
    run = prediction_run(tmp_path, SCANS, operating_score=0.75, many_fractures=many)
    ScanRecordsHandler(run).attach(evaluator)
    with caplog.at_level("INFO", logger=evaluator.logger.name):
        evaluator.run([0])
    run.records.join()
    with (tmp_path / "scans.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["scan"], row["at_operating_point"]) == ("RibFrac501", "1")
    assert row["many_fractures"] == ("yes" if flag else "no")
    words = f"1 candidate of score 0.75 or more; {many} or more fractures (scan 1 of 2)"
    assert (words in caplog.text) == flag


def two_candidates():
    """Candidates of the scores 0.75 and 0.4 in one scan."""
    scan = predicted()
    scan["pred"][0, 10:12, 10:12, 8:10] = 2
    scores = torch.tensor([0.75, 0.4])
    return {**scan, "label_scores": scores, "candidates": describe_candidates(scan["pred"], scores)}


def test_log_and_picture_count_by_the_operating_score(tmp_path, caplog, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "scripts.reporting.figures.save_figure",
        lambda figure, path: titles.append(figure.axes[1].get_title().replace("\n", " ")),
    )
    evaluator = predict(two_candidates())
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "RibFrac501.nii.gz").touch()
    run = prediction_run(tmp_path, SCANS, operating_score=0.5, outputs={"pictures": True})
    ScanPictureHandler(run, (-200.0, 1000.0)).attach(evaluator)
    ScanRecordsHandler(run).attach(evaluator)
    with caplog.at_level("INFO", logger=evaluator.logger.name):
        evaluator.run([0])
    assert "RibFrac501: 1 candidate of score 0.5 or more, 1 below (scan 1 of 2)" in caplog.text
    assert titles == ["predicted: 1 candidate of score 0.5 or more, 1 below"]


def test_predictions_of_other_scans_are_not_mixed_in(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "RibFrac7.nii.gz").touch()
    evaluator = predict(predicted())
    ScanRecordsHandler(prediction_run(tmp_path, SCANS)).attach(evaluator)
    with pytest.raises(ValueError, match="RibFrac7.nii.gz is a prediction of another run"):
        evaluator.run([0])


def test_a_picture_of_each_scan(tmp_path, monkeypatch):
    seen = []

    def picture(image, affine, pred, label_scores, path, label=None, title="", operating_score=0.0, hu_range=IN_HU):
        assert (title, operating_score) == ("RibFrac501", 0.5)
        assert path == tmp_path / "pictures" / "RibFrac501.png"
        seen.append((in_hu(image, hu_range), pred, label))

    monkeypatch.setattr("scripts.handlers.results.scan_picture", picture)
    evaluator = predict(predicted())
    run = prediction_run(tmp_path, SCANS, outputs={"pictures": True})
    ScanPictureHandler(run, (-200.0, 1000.0)).attach(evaluator)
    evaluator.run([0])
    image_hu, pred, label = seen[0]
    # scaled 0 is 400 HU, scaled 1 is 1000 HU; candidates and fractures lie where the image is bright
    assert sorted(np.unique(image_hu)) == [400, 1000]
    assert np.array_equal(image_hu == 1000, pred == 1) and np.array_equal(pred, label)


def test_the_challenges_figures(tmp_path):
    metric = RibFracFROCMetric(bootstrap=10)
    scan = predicted()
    metric([scan], [scan])
    evaluator = predict(scan)
    FROCReportHandler(metric, tmp_path).attach(evaluator)
    evaluator.run([0])
    assert json.loads((tmp_path / "metrics.json").read_text())["detection"]["max_recall"] == pytest.approx(1)
    assert {"metrics.json", "froc.csv", "froc.png"} <= {path.name for path in tmp_path.iterdir()}


def test_averaged_weights_are_kept_as_the_model(tmp_path):
    network = nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    evaluator = Validation([0.5])

    def step(engine, batch):
        nn.init.constant_(network.weight, batch)
        return {"loss": torch.zeros(())}

    trainer = Engine(step)
    AverageWeightsHandler(averaged, network).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluator.run)
    ResumableCheckpointHandler(
        tmp_path, network, evaluator, {"averaged": averaged}, best_network=averaged.module
    ).attach(trainer)
    trainer.run([4.0, 8.0, 16.0], max_epochs=1)
    # 4, then 4 + (8 - 4) / 4 = 5, then 5 + (16 - 5) / 4 = 7.75
    assert (
        torch.load(tmp_path / "model.pt")["weight"].item() == torch.load(tmp_path / "final.pt")["weight"].item() == 7.75
    )
    assert torch.load(tmp_path / "last.pt")["network"]["weight"].item() == 16


def test_a_resumed_training_goes_on_averaging(tmp_path):
    def averaging(resume):
        network = nn.Linear(1, 1, bias=False)
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75))
        trainer = Engine(lambda engine, batch: {"loss": nn.init.constant_(network.weight, batch)})
        AverageWeightsHandler(averaged, network).attach(trainer)
        ResumableCheckpointHandler(tmp_path, network, Validation([]), {"averaged": averaged}, resume).attach(trainer)
        return trainer, averaged

    trainer, _ = averaging(resume=False)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    trainer.run([4.0], max_epochs=3)
    trainer, averaged = averaging(resume=True)
    trainer.run([8.0], max_epochs=3)
    assert averaged.module.weight.item() == 5  # 4, then 4, then a quarter of the way to 8


def test_a_picture_is_drawn_on_the_grid_of_the_image(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("scripts.handlers.results.scan_picture", lambda *args, **kwargs: drawn.append(args))
    scan = predicted()
    in_ras = Orientation("RAS", labels=None)(scan["pred"])
    cropped = scan["image"][:, 2:, 3:, 1:]  # MetaTensor keeps the affine, so move it along
    cropped.affine = scan["image"].affine.clone()
    cropped.affine[:3, 3] += scan["image"].affine[:3, :3] @ torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64)
    half = cropped[..., ::2]
    half.affine = cropped.affine.clone()
    half.affine[:3, 2] *= 2  # every second slice
    for image in (cropped, half):
        evaluator = predict({**scan, "image": image})
        run = prediction_run(tmp_path, SCANS, outputs={"pictures": True})
        ScanPictureHandler(run, (-200.0, 1000.0)).attach(evaluator)
        evaluator.run([0])
    assert np.array_equal(drawn[0][2], np.asarray(in_ras)[0, 2:, 3:, 1:]) and drawn[0][2].any()
    assert np.array_equal(drawn[1][2], np.asarray(in_ras)[0, 2:, 3:, 1::2])
