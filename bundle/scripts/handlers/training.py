"""Handlers of a training: its log, curves, resuming and early stop."""

from __future__ import annotations

import csv
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.config import PathLike
from monai.transforms import LoadImage
from monai.utils import str2bool
from torch import nn
from torch.optim.swa_utils import AveragedModel

from scripts.files.atomic_write import whole_file, write_tensors
from scripts.images.image_reader import CTReader
from scripts.reporting.figures import best_epoch, curves_picture

if TYPE_CHECKING:
    from ignite.engine import Engine
    from monai.engines import Evaluator

__all__ = [
    "AverageWeightsHandler",
    "CurveHistory",
    "CurvesHandler",
    "EarlyStopOnBestEpochHandler",
    "ErrorLineHandler",
    "NoFractureHandler",
    "ResumableCheckpointHandler",
    "SyncBuffersHandler",
    "TrainingLogHandler",
]


class NoFractureHandler:
    """
    Warn before the first epoch where the scans to train on, or those to validate on, hold no fracture at all.

    Nothing else would tell: a network that finds nothing fits such scans best. The scans' tables tell, or where there
    is none the labels, which are read until one holds a fracture.

    Attach to:
        the trainer, before all others.

    Runs at:
        ``Events.STARTED``, in the first of several processes.

    Args:
        training: the scans to train on, as ``load_datalist`` gives them.
        validation: those to validate on.
        implant_prob: probability that a scan to train on gets fractures of another kind.
    """

    def __init__(
        self, training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]], implant_prob: float = 0.0
    ) -> None:
        self.training = training
        self.validation = validation
        self.implant_prob = implant_prob

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        if self.implant_prob == 0 and not any(map(_holds_fracture, self.training)):
            engine.logger.warning(
                "None of the %d training scans holds a fracture: the network will learn to find nothing. Is the right "
                "folder, with its labels, in dataset_dir?",
                len(self.training),
            )
        if not any(map(_holds_fracture, self.validation)):
            engine.logger.warning(
                "None of the %d validation scans holds a fracture: the score means nothing, and model.pt will be of "
                "the epoch that found least; take final.pt, or move scans with fractures into the validation set.",
                len(self.validation),
            )


def _holds_fracture(item: Mapping[str, Any]) -> bool:
    """Tell whether a scan has a fracture in its table, or without a table in its label."""
    if "label_codes" in item:
        return len(item["label_codes"]) > 0
    # whichever axes a label without an orientation has: it is only asked whether anything is marked
    return bool(LoadImage(CTReader(assumed_orientation="RAS"), image_only=True)(item["label"]).any())


class ErrorLineHandler:
    """
    End a run at an error with one line in the log, and say what to do where a loading process was killed.

    MONAI's ``StatsHandler`` logs the traceback, which the program prints at its end where it is of use
    (:mod:`scripts.errors`). PyTorch raises its own error of a killed process wherever the main process is at that
    moment, with a process's number in it.

    Attach to:
        trainer or evaluator, before all others that handle exceptions, such as ``StatsHandler``.

    Runs at:
        ``Events.EXCEPTION_RAISED``.

    Raises:
        RuntimeError: in place of PyTorch's.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, engine: Engine, error: BaseException) -> None:
        if match := re.search(r"DataLoader worker \(pid.*?\) (?:is killed by (signal: [\w ]+)|exited)", str(error)):
            reason = f" ({match[1]})" if match[1] else ""
            raise RuntimeError(
                f"A process that loads scans was ended{reason}, perhaps because memory ran out: free some, or lower "
                "num_workers. The training goes on from its last whole epoch by the same command with --resume true."
            ) from error
        engine.logger.error("Exception: %s", error)  # as StatsHandler, which is not reached
        raise error


class AverageWeightsHandler:
    """
    Move the averaged weights a step toward those of the network that is trained.

    Ignite's ``EMAHandler`` makes the averaged network itself, so no other part of a config can refer to it: the
    validation, the checkpoint. Here it is torch's ``AveragedModel``, which decides how weights are averaged.

    Attach to:
        the trainer.

    Runs at:
        ``Events.ITERATION_COMPLETED``.

    Args:
        averaged: the averaged network.
        network: the network that is trained.
    """

    def __init__(self, averaged: AveragedModel, network: nn.Module) -> None:
        self.averaged = averaged
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.averaged.update_parameters(self.network)


class SyncBuffersHandler:
    """
    Give the networks of all processes the same buffers: the mean of those that each has.

    ``DistributedDataParallel`` keeps parameters alike. The running mean and variance of a batch normalization are those
    of the process's own batches; before each step it hands on the first one's, so that in an epoch's last step they
    part again, and averaged weights are validated with other ones in each process.

    Attach to:
        the trainer, behind the ``AverageWeightsHandler``.

    Runs at:
        ``Events.ITERATION_COMPLETED``, in the last iteration of an epoch: before what runs at the end of the epoch.

    Args:
        networks: the networks; whole numbers among the buffers, such as counts of batches, are left as they are.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks

    def attach(self, engine: Engine) -> None:
        last = Events.ITERATION_COMPLETED(event_filter=lambda engine, n: n % engine.state.epoch_length == 0)
        engine.add_event_handler(last, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_world_size() == 1:
            return
        for network in self.networks:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= dist.get_world_size()


class ResumableCheckpointHandler:
    """
    Keep the best model and everything that a killed training needs to go on.

    MONAI's ``CheckpointSaver`` forgets the best score when training is resumed, unless it is stored in a nested
    checkpoint that ``monai.bundle.load`` cannot read; and it stores no random state. This writes three files after
    each epoch: ``model.pt``, a plain state dictionary, when the evaluator found its best score in this epoch,
    ``final.pt``, the same of this epoch, and ``last.pt`` with all the rest. All are written to a temporary name first,
    so that a kill at any moment leaves a whole file.

    Attach to:
        the trainer, behind the ``ValidationHandler`` and before handlers that use what it restores.

    Runs at:
        ``Events.STARTED`` (resuming) and ``Events.EPOCH_COMPLETED`` (saving).

    Reads:
        ``best_metric`` and ``best_metric_epoch`` of the evaluator's state.

    Writes:
        ``model.pt``, ``final.pt`` and ``last.pt`` in ``save_dir``; ``epoch`` and ``iteration`` of the trainer's state
        and the two above of the evaluator's when it resumes.

    Args:
        save_dir: folder of the files, made if it is missing.
        network: the network that is trained.
        evaluator: the engine that validates; its key metric decides which model is best.
        stateful: other things to store and restore by name: anything with ``state_dict`` and ``load_state_dict``.
        resume: start where ``last.pt`` ended; without such a file training starts at the first epoch. A ``last.pt``
            that is not resumed from is renamed ``last-previous.pt``.
        best_network: the network that is validated and written to ``model.pt`` and ``final.pt``, such as one of
            averaged weights; the trained one when ``None``. Name its average among ``stateful``.

    Raises:
        ValueError: when it resumes a training that has another ``max_epochs``, for which its schedules were made, or of
            another version of the bundle.
    """

    model_name = "model.pt"
    final_name = "final.pt"
    last_name = "last.pt"

    def __init__(
        self,
        save_dir: PathLike,
        network: nn.Module,
        evaluator: Evaluator,
        stateful: Mapping[str, Any],
        resume: bool | str = False,
        best_network: nn.Module | None = None,
    ) -> None:
        self.save_dir = Path(save_dir)
        self.network = network
        self.best_network = network if best_network is None else best_network
        self.evaluator = evaluator
        self.stateful = stateful
        self.resume = str2bool(resume)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def restore(self, engine: Engine) -> None:
        """Restore the state of ``last.pt``, when asked to and when there is one."""
        path = self.save_dir / self.last_name
        if not self.resume or not path.is_file():
            if idist.get_rank() == 0 and path.is_file():
                path.replace(path.with_name("last-previous.pt"))
            engine.logger.info("Training starts at the first epoch%s.", f": no {path}" if self.resume else "")
            return
        last = torch.load(path, map_location="cpu", weights_only=True)
        if last["max_epochs"] != engine.state.max_epochs:
            raise ValueError(
                f"{path} is of a training of {last['max_epochs']} epochs, for which the learning rate is scheduled, "
                f"but max_epochs is {engine.state.max_epochs}: give the same, or start without resuming."
            )
        if missing := sorted({"processes", *self.stateful} - last.keys()):
            raise ValueError(
                f"{path} lacks {', '.join(missing)}: it is of another version of this bundle; start without resuming."
            )
        self.network.load_state_dict(last["network"])
        for name, item in self.stateful.items():
            item.load_state_dict(last[name])
        self.evaluator.state.best_metric = last["best_metric"]
        self.evaluator.state.best_metric_epoch = last["best_metric_epoch"]
        engine.state.epoch = last["epoch"]
        engine.state.iteration = last["epoch"] * engine.state.epoch_length
        engine.logger.info("Resumed from %s, at the end of epoch %d.", path, last["epoch"])
        if len(last["processes"]) == idist.get_world_size():
            _set_random_state(last["processes"][idist.get_rank()])
        else:
            before, now = len(last["processes"]), idist.get_world_size()
            engine.logger.warning("It ran in %d processes and goes on in %d: random choices start anew.", before, now)

    def save(self, engine: Engine) -> None:
        """Write ``final.pt`` and ``last.pt``, and ``model.pt`` when this epoch is the best."""
        processes = _random_states()
        if idist.get_rank() > 0:
            return
        state = self.evaluator.state
        # in the processor's memory: weights of a GPU could not be read where there is none, unless told so
        weights = {name: value.cpu() for name, value in self.best_network.state_dict().items()}
        if state.best_metric_epoch == engine.state.epoch:
            write_tensors(self.save_dir / self.model_name, weights)
        write_tensors(self.save_dir / self.final_name, weights)
        last = {name: item.state_dict() for name, item in self.stateful.items()}
        last.update(
            network=self.network.state_dict(),
            best_metric=float(state.best_metric),
            best_metric_epoch=state.best_metric_epoch,
            epoch=engine.state.epoch,
            max_epochs=engine.state.max_epochs,
            processes=processes,
        )
        write_tensors(self.save_dir / self.last_name, last)


class EarlyStopOnBestEpochHandler:
    """
    Stop training when the best epoch lies too far back.

    MONAI's ``EarlyStopHandler`` counts for itself and starts at zero when training is resumed. The evaluator knows
    its best epoch, and ``ResumableCheckpointHandler`` restores it, so there is nothing to count.

    Attach to:
        the trainer, behind the ``ValidationHandler`` and the ``ResumableCheckpointHandler``.

    Runs at:
        ``Events.STARTED`` (a training that stopped so is not resumed) and ``Events.EPOCH_COMPLETED``.

    Reads:
        ``best_metric_epoch`` of the evaluator's state.

    Args:
        evaluator: the engine that validates.
        patience: epochs without a better score after which training stops.
    """

    def __init__(self, evaluator: Evaluator, patience: int) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        best_epoch = self.evaluator.state.best_metric_epoch
        if best_epoch > 0 and engine.state.epoch - best_epoch >= self.patience:
            engine.logger.info("No better score for %d epochs, since epoch %d: stop.", self.patience, best_epoch)
            engine.terminate()


class CurveHistory:
    """
    The points of a training's curves, which survive a resume: ``points`` is ``{name: [(epoch, value), ...]}``.

    An object of its own, because MONAI reads ``train::handlers`` as a list of definitions, none of which another part
    of the config can refer to by name.
    """

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the points."""
        return {"points": self.points}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the points."""
        self.points = {name: [(int(e), float(v)) for e, v in points] for name, points in state["points"].items()}


class CurvesHandler:
    """
    Write the curves of a training as a table and as a picture.

    TensorBoard shows the same to those who start it. The curves go on when training is resumed: name their history
    among the ``stateful`` of ``ResumableCheckpointHandler``, and attach this handler before that one.

    Attach to:
        the trainer, behind the ``ValidationHandler``.

    Runs at:
        ``Events.ITERATION_COMPLETED``, ``Events.EPOCH_COMPLETED`` and ``Events.COMPLETED``.

    Reads:
        the loss in the output of the trainer's state, ``metrics`` of the evaluator's, the optimizer's learning rate.

    Writes:
        ``curves.csv`` after each epoch and ``curves.png`` at the end, in ``output_dir``. Of several processes the first
        one writes them, and the training loss is the mean of all.

    Args:
        output_dir: folder of both files, made if it is missing.
        evaluator: the engine that validates.
        optimizer: the optimizer whose learning rate is shown.
        history: where the points are kept.
        output_transform: takes the loss from the trainer's output.
    """

    def __init__(
        self,
        output_dir: PathLike,
        evaluator: Evaluator,
        optimizer: torch.optim.Optimizer,
        history: CurveHistory,
        output_transform: Callable[[Any], float | torch.Tensor],
    ) -> None:
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.history = history
        self.output_transform = output_transform
        self._losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _collect(self, engine: Engine) -> None:
        self._losses.append(float(self.output_transform(engine.state.output)))

    def _end_epoch(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        loss = idist.all_reduce(float(np.mean(self._losses))) / idist.get_world_size()
        values = {"training_loss": float(loss), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if self.evaluator.state.epoch == epoch:
            values.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
        self._losses = []
        for name, value in values.items():
            self.history.points.setdefault(name, []).append((epoch, value))
        self._write()

    def _write(self) -> None:
        if idist.get_rank() > 0:
            return
        by_epoch: dict[int, dict[str, float]] = {}
        for name, points in self.history.points.items():
            for epoch, value in points:
                by_epoch.setdefault(epoch, {})[name] = value
        with whole_file(self.output_dir / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *self.history.points])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **values} for epoch, values in sorted(by_epoch.items()))

    def _draw(self, engine: Engine) -> None:
        if self.history.points and idist.get_rank() == 0:
            curves_picture(self.history.points, self.output_dir / "curves.png")


class TrainingLogHandler:
    """
    Log a line for each epoch with the time that is left, and at the end where the results are and what to type next.

    MONAI's ``StatsHandler`` logs each iteration, and no time.

    Attach to:
        the trainer, behind the ``CurvesHandler``.

    Runs at:
        ``Events.STARTED``, ``Events.EPOCH_COMPLETED`` and ``Events.COMPLETED``.

    Reads:
        the points of the history; of the trainer's state the epoch and the number of all.

    Args:
        weights: file of the best weights.
        history: the points of the curves.
        page: the page of the training; None where none is written.
    """

    def __init__(self, weights: PathLike, history: CurveHistory, page: PathLike | None = None) -> None:
        self.weights = weights
        self.history = history
        self.page = page
        self._start, self._done = 0.0, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell_epoch)
        engine.add_event_handler(Events.COMPLETED, self._tell_end)

    def _begin(self, engine: Engine) -> None:
        self._start, self._done = time.monotonic(), engine.state.epoch

    def _tell_epoch(self, engine: Engine) -> None:
        epoch, epochs = engine.state.epoch, int(engine.state.max_epochs or 0)
        last = {name: pairs[-1] for name, pairs in self.history.points.items() if pairs}
        values = [f"{name} {value:.4g}" for name, (of_epoch, value) in last.items() if of_epoch == epoch]
        seconds = (time.monotonic() - self._start) / max(epoch - self._done, 1) * (epochs - epoch)
        left = f"; {timedelta(seconds=round(seconds))} left" if epoch < epochs else ""
        engine.logger.info("Epoch %d of %d: %s%s", epoch, epochs, ", ".join(values), left)

    def _tell_end(self, engine: Engine) -> None:
        best = best_epoch(self.history.points)
        engine.logger.info("Weights: %s%s", self.weights, f", of epoch {best[0]}" if best else "")
        if self.page is not None:
            engine.logger.info("Curves and examples: %s", self.page)
        engine.logger.info(
            "Predict with them: python -m monai.bundle run inference --config_file configs/inference.yaml "
            "--checkpoint %s --dataset_dir FOLDER",
            self.weights,
        )


def _random_states() -> list[dict[str, Any]]:
    """Return the states of the generators of all processes."""
    states: list[Any] = [_random_state()] * idist.get_world_size()
    if len(states) > 1:
        dist.all_gather_object(states, states[0])
    return states


def _random_state() -> dict[str, Any]:
    """
    Return the states of Python's, NumPy's and PyTorch's generators, as tensors and plain values alone.

    Worker processes of a ``DataLoader`` take their seeds from PyTorch's in each epoch; the transforms of the main
    process (``num_workers`` 0) have generators of their own, which start anew.
    """
    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what :func:`_random_state` returned."""
    name, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
