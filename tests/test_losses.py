"""The loss by hand, and what deep supervision weighs."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import BUNDLE_ROOT
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.handlers import ParamSchedulerHandler
from monai.losses import TverskyLoss

from scripts.losses import FadingDeepSupervisionLoss, TverskyCELoss

pytestmark = pytest.mark.processor

HALF = torch.zeros(1, 1, 2, 2, 2)  # logit 0: probability 1/2 everywhere


def test_value_by_hand():
    label = torch.zeros(1, 1, 2, 2, 2)
    label[..., 0] = 1
    # 4 voxels of 8 are a fracture: TP = 2, FP = 2, FN = 2; the index is 2 / (2 + 0.3·2 + 0.7·2) = 1/2
    # cross-entropy is ln 2 at every voxel
    assert TverskyCELoss()(HALF, label).item() == pytest.approx(1 / 2 + math.log(2), abs=1e-4)


@pytest.mark.parametrize("alpha, beta, expected", [(0.3, 0.7, 2 / 3.7), (0.7, 0.3, 2 / 3.3)], ids=["FN", "FP"])
def test_alpha_weighs_false_positives_and_beta_false_negatives(alpha, beta, expected):
    label = torch.zeros(1, 1, 4, 2, 1)
    label[:, :, :2] = 1
    # 4 of 8 voxels are a fracture; the network finds 2 of them and 1 other: TP = 2, FP = 1, FN = 2
    pred = torch.full((1, 1, 4, 2, 1), -50.0)
    pred[:, :, 0] = 50
    pred[:, :, 3, 0] = 50
    loss = TverskyCELoss(alpha=alpha, beta=beta)
    cross_entropy = 3 * 50 / 8  # of the three wrong voxels, each by its logit
    assert loss(pred, label).item() - cross_entropy == pytest.approx(1 - 2 / (2 + alpha * 1 + beta * 2), abs=1e-4)
    assert 2 / (2 + alpha * 1 + beta * 2) == pytest.approx(expected)


def test_a_patch_without_a_fracture_teaches():
    def gradient(loss):
        logits = torch.full((1, 1, 8, 8, 8), 2.0, requires_grad=True)
        loss(logits, torch.zeros(1, 1, 8, 8, 8)).backward()
        return logits.grad.sum().item()

    # Tversky alone: 1 - ε / (0.3 · 512 p + ε) hardly depends on p
    assert abs(gradient(TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7))) < 1e-4
    # cross-entropy: the mean of the derivatives, each of them p = sigmoid(2)
    assert gradient(TverskyCELoss()) == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-3)


@pytest.mark.parametrize("overlays", [[], ["report.yaml"]], ids=["default", "report"])
def test_the_loss_of_the_configs_teaches_on_a_patch_without_a_fracture_beside_one_with(overlays):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE_ROOT / "configs" / name) for name in ["train.yaml", *overlays]])
    loss = parser.get_parsed_content("region_loss")
    logits = torch.full((2, 1, 8, 8, 8), -2.0, requires_grad=True)
    label = torch.zeros(2, 1, 8, 8, 8)
    label[0, :, 2:6, 2:6, 2:6] = 1
    loss(logits, label).backward()
    without, beside = logits.grad[1].mean(), logits.grad[0][label[0] == 0].mean()
    assert without > 0 and without.item() == pytest.approx(beside.item())  # a false positive counts alike in both


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        TverskyCELoss()(HALF, torch.zeros(1, 1, 2, 2, 1))


def test_deep_supervision_sums_the_weighted_outputs():
    loss = FadingDeepSupervisionLoss(TverskyCELoss(), weight=0.4)
    label = torch.zeros(1, 1, 2, 2, 2)
    label[..., 0] = 1
    one = 1 / 2 + math.log(2)
    assert loss([HALF] * 4, label).item() == pytest.approx((1 + 3 * 0.4) * one, abs=1e-3)
    assert loss(torch.stack([HALF] * 2, dim=1), label).item() == pytest.approx((1 + 0.4) * one, abs=1e-3)
    assert loss(HALF, label).item() == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize(
    "start, epochs, expected",
    [
        pytest.param(0, 1, [0.4], id="first epoch"),
        pytest.param(28, 3, [0.4, 0.4, 0.32], id="0.8 times after 30 epochs"),
        pytest.param(60, 1, [0.256], id="a training resumed after 60 epochs starts with the decayed weight"),
    ],
)
def test_the_schedule_of_the_config(start, epochs, expected):
    loss = FadingDeepSupervisionLoss(TverskyCELoss(), weight=9.0)
    used = []
    trainer = Engine(lambda engine, batch: used.append(loss.get_weights(4)))

    @trainer.on(Events.STARTED)
    def restore(engine):
        engine.state.epoch = engine.state.iteration = start

    ParamSchedulerHandler(
        loss.set_weight,
        "step",
        {"initial_value": 0.4, "gamma": 0.8, "step_size": 30},
        epoch_level=True,
        event=Events.STARTED | Events.EPOCH_COMPLETED,
    ).attach(trainer)
    trainer.run([0], max_epochs=start + epochs)
    assert [weights[0] for weights in used] == [1.0] * epochs
    assert [weights[1:] for weights in used] == [pytest.approx([weight] * 3) for weight in expected]
