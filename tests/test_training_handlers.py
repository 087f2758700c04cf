"""What a training says at its start, and where one of its loading processes is killed."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import lps_affine
from ignite.engine import Engine, Events

from scripts.data.dataloader import PipeFallbackDataLoader
from scripts.handlers import (
    CurveHistory,
    ErrorLineHandler,
    NoFractureHandler,
    TrainingLogHandler,
    TrainingReportHandler,
)

SOME: dict[str, Any] = {"scan": "a", "label_codes": {1: 2}}
UNKNOWN: dict[str, Any] = {"scan": "b", "label_codes": {3: -1}}  # a fracture of unknown type is one
NONE: dict[str, Any] = {"scan": "c", "label_codes": {}}


def labeled(folder: Path, value: int, suffix: str = ".nii.gz") -> dict[str, Any]:
    """A scan without a table, with one voxel of a value in its label."""
    label = np.zeros((6, 5, 4), np.uint8)
    label[2, 3, 1] = value
    path = folder / f"label{value}{suffix}"
    if suffix == ".nrrd":
        itk.imwrite(itk.image_from_array(label), str(path))
    else:
        nib.save(nib.Nifti1Image(label, lps_affine()), path)
    return {"scan": str(value), "label": str(path)}


def told(training: list[Any], validation: list[Any], caplog: pytest.LogCaptureFixture, **arguments: Any) -> list[str]:
    """The first words of each warning that stands before the first step."""
    before: list[int] = []
    engine = Engine(lambda engine, batch: before.append(len(caplog.records)))
    engine.logger = logging.getLogger("training")
    NoFractureHandler(training, validation, **arguments).attach(engine)
    engine.run([0], max_epochs=1)
    warnings = [record for record in caplog.records[: before[0]] if record.levelno == logging.WARNING]
    return [record.getMessage().split(" holds")[0] for record in warnings]


NO_TRAINING, NO_VALIDATION = "None of the 2 training scans", "None of the 1 validation scans"


@pytest.mark.parametrize(
    "training, validation, expected",
    [
        pytest.param([NONE, SOME], [SOME], [], id="all fractures in one scan"),
        pytest.param([NONE, UNKNOWN], [UNKNOWN], [], id="of unknown type"),
        pytest.param([NONE, NONE], [SOME], [NO_TRAINING], id="none to train on"),
        pytest.param([SOME, NONE], [NONE], [NO_VALIDATION], id="none to validate on"),
        pytest.param([NONE, NONE], [NONE], [NO_TRAINING, NO_VALIDATION], id="none at all"),
    ],
)
def test_a_training_without_fractures_warns_before_its_first_step(
    training: list[Any], validation: list[Any], expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert told(training, validation, caplog) == expected


@pytest.mark.parametrize("value, expected", [(7, []), (0, [NO_TRAINING, NO_VALIDATION])])
def test_labels_tell_where_there_is_no_table(
    value: int, expected: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert told([labeled(tmp_path, 0), labeled(tmp_path, value)], [labeled(tmp_path, value)], caplog) == expected


@pytest.mark.parametrize("value, expected", [(7, []), (0, [NO_TRAINING, NO_VALIDATION])])
def test_labels_in_another_format_tell_it_too(
    value: int, expected: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = labeled(tmp_path, value, ".nrrd")
    assert told([scan, NONE], [scan], caplog) == expected


def test_implanted_fractures_are_fractures_to_train_on(caplog: pytest.LogCaptureFixture) -> None:
    assert told([NONE, NONE], [NONE], caplog, implant_prob=0.5) == [NO_VALIDATION]


class Killed(torch.utils.data.Dataset):
    """A data set whose second item kills the process that loads it."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


SENTENCE = (
    r"A process that loads scans was ended( \(signal: Killed\))?, perhaps because memory ran out: free some, or lower"
)


def test_a_training_whose_loading_process_is_killed_says_what_to_do() -> None:
    engine = Engine(lambda engine, batch: None)
    ErrorLineHandler().attach(engine)
    with pytest.raises(RuntimeError, match=SENTENCE):
        engine.run(PipeFallbackDataLoader(Killed(), num_workers=1, batch_size=1), max_epochs=1)


@pytest.mark.parametrize(
    "message, expected",
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", SENTENCE),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", SENTENCE),
        ("mat1 and mat2 shapes cannot be multiplied", "mat1 and mat2"),
    ],
)
@pytest.mark.parametrize("has_next", [True, False])
def test_other_errors_stay_as_they_are(message: str, expected: str, has_next: bool) -> None:
    """Ignite loses an error that no handler raises again."""

    def fail(engine: Engine, batch: Any) -> None:
        raise RuntimeError(message)

    engine = Engine(fail)
    ErrorLineHandler().attach(engine)
    if has_next:
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda error: pytest.fail("is reached"))
    with pytest.raises(RuntimeError, match=expected):
        engine.run([0], max_epochs=1)


def test_the_log_tells_each_epoch_the_time_left_and_where_the_results_are(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    seconds = iter([0.0, 90.0, 180.0])  # at the start, and after each epoch
    monkeypatch.setattr("scripts.handlers.training.time.monotonic", lambda: next(seconds))
    history = CurveHistory()
    engine = Engine(lambda engine, batch: None)
    engine.logger = logging.getLogger("training")

    @engine.on(Events.EPOCH_COMPLETED)
    def note():
        epoch = engine.state.epoch
        history.points.setdefault("training_loss", []).append((epoch, 1 / epoch))
        if epoch == 3:  # validated every third one
            history.points["validation_loss"] = [(3, 0.25)]

    TrainingLogHandler("out/model.pt", history, "out/training.html").attach(engine)
    engine.state.epoch = 1  # a training that goes on
    engine.state.max_epochs, engine.state.epoch_length, engine.state.iteration = 3, 1, 1
    engine.run([0], max_epochs=3, epoch_length=1)
    messages = [record.getMessage() for record in caplog.records if record.name == "training"]
    assert [message for message in messages if not message.startswith(("Engine run", "Epoch["))] == [
        "Epoch 2 of 3: training_loss 0.5; 0:01:30 left",
        "Epoch 3 of 3: training_loss 0.3333, validation_loss 0.25",
        "Weights: out/model.pt, of epoch 3",
        "Curves and examples: out/training.html",
        "Predict with them: python -m monai.bundle run inference --config_file configs/inference.yaml "
        "--checkpoint out/model.pt --dataset_dir FOLDER",
    ]


def test_tensorboards_file_is_opened_when_a_training_starts(tmp_path: Path) -> None:
    trainer, evaluator = (Engine(lambda engine, batch: [{"loss": torch.tensor(1.0)}]) for _ in range(2))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    TrainingReportHandler(tmp_path, evaluator, optimizer, CurveHistory(), page=False).attach(trainer)
    assert not (tmp_path / "tensorboard").exists()  # the scans may still turn out to be bad
    trainer.fire_event(Events.STARTED)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # of training and validation
