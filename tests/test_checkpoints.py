"""Tests of loading weights."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from scripts.handlers import CheckedCheckpointLoader


def load(path: Path, network: nn.Module) -> None:
    engine = Engine(lambda engine, batch: None)
    CheckedCheckpointLoader(str(path), {"model": network}).attach(engine)
    engine.run([0])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(nn.Conv3d(1, 2, 3).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_weights_are_loaded(weights: Path) -> None:
    network = nn.Conv3d(1, 2, 3)
    load(weights, network)
    assert torch.equal(network.weight, torch.load(weights)["weight"])


@pytest.mark.parametrize("network", [nn.Conv3d(1, 3, 3), nn.Conv3d(1, 2, 3, bias=False), nn.PReLU()])
def test_weights_of_another_network_are_told(network: nn.Module, weights: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pt: these weights are not of the network in the config") as error:
        load(weights, network)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_told(share: float, weights: Path) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"model\.pt: is no file of weights, or is damaged"):
        load(weights, nn.Conv3d(1, 2, 3))


def test_a_file_of_something_else_is_told(weights: Path) -> None:
    weights.write_text("these are no weights")
    with pytest.raises(ValueError, match=r"model\.pt: is no file of weights, or is damaged: copy it again"):
        load(weights, nn.Conv3d(1, 2, 3))
    torch.save(torch.zeros(3), weights)
    with pytest.raises(ValueError, match=r"model\.pt: holds a Tensor, not the state dict of a network"):
        load(weights, nn.Conv3d(1, 2, 3))


class Harmful:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_file_is_refused_and_does_not_run(by_torch: bool, weights: Path) -> None:
    content = {"weight": torch.zeros(2), "bias": Harmful(f"touch {weights.parent}/harm")}
    torch.save(content, weights) if by_torch else weights.write_bytes(pickle.dumps(content["bias"]))
    with pytest.raises(ValueError, match=r"model\.pt: .*(could run code|is no file of weights)"):
        load(weights, nn.Conv3d(1, 2, 3))
    assert not (weights.parent / "harm").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt does not exist: give the file of the weights"):
        load(tmp_path / "none.pt", nn.Conv3d(1, 2, 3))
