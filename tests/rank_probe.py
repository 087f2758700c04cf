"""What the processes of a training see and hold, written to files: parts of a config of tests/test_multi_gpu.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from scripts.data.dataset import MappedDataset

__all__ = ["KeepStateHandler", "SeenDataset"]


class SeenDataset(MappedDataset):
    """Writes down which scans this process samples ROIs of."""

    def __init__(self, seen_dir: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen_dir = Path(seen_dir)

    def __getitem__(self, index: int) -> Any:
        with (self.seen_dir / f"seen-{dist.get_rank()}.txt").open("a") as file:
            file.write(f"{self.data[index]['scan']}\n")
        return super().__getitem__(index)


class KeepStateHandler:
    """Saves the networks and the validation's result of each process, after each epoch, and stops where it is told."""

    def __init__(self, folder: str, networks: dict[str, nn.Module], evaluator: Engine, stop: int) -> None:
        self.folder, self.networks, self.evaluator, self.stop = Path(folder), networks, evaluator, stop

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: dict[str, Any] = {name: network.state_dict() for name, network in self.networks.items()}
        state["best"] = self.evaluator.state.best_metric
        state["losses"] = dict(self.evaluator.state.metrics)
        torch.save(state, self.folder / f"state-{engine.state.epoch}-{dist.get_rank()}.pt")
        with (self.folder / f"seen-{dist.get_rank()}.txt").open("a") as file:
            file.write("\n")
        if engine.state.epoch == self.stop:
            raise RuntimeError("stopped, as a killed training")
