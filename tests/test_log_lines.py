"""Which lines of ignite's are left out of the log."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer, Workflow

from scripts.runs.log_lines import hide_false_resuming


def engines() -> list[Workflow]:
    network, data = torch.nn.Identity(), [{"image": torch.zeros(1), "label": torch.zeros(1)}]
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, loss = torch.optim.SGD([weight]), lambda pred, label: (pred * weight - label).sum()
    cpu = torch.device("cpu")
    trainer = SupervisedTrainer(cpu, 2, data, network, optimizer, loss)  # type: ignore[arg-type]
    return [trainer, SupervisedEvaluator(cpu, data, network)]  # type: ignore[arg-type]


@pytest.fixture
def quiet():
    hide_false_resuming()
    yield
    for name in ("SupervisedTrainer", "SupervisedEvaluator", "SkippingEvaluator"):
        logging.getLogger(f"ignite.engine.engine.{name}").filters.clear()


def test_a_new_run_resumes_nothing(quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for engine in engines():
            engine.run()
    assert "Engine run finished" in caplog.text and "resuming" not in caplog.text


def test_a_run_that_goes_on_says_so(quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    trainer = engines()[0]
    trainer.state.iteration = trainer.state.epoch = 1
    with caplog.at_level(logging.INFO):
        trainer.run()
    assert "Engine run resuming from iteration 1, epoch 1 until 2 epochs" in caplog.text
