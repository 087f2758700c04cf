"""The handler that loads weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.handlers import CheckpointLoader

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["CheckedCheckpointLoader", "read_weights"]


class CheckedCheckpointLoader(CheckpointLoader):
    """
    Load weights, and tell in one sentence what is wrong with a file that does not fit.

    MONAI's ``CheckpointLoader`` refuses what could run code too, in words that speak of pickles and of ways around it,
    and lists hundreds of tensors where the weights are of another network.

    Attach to:
        the trainer or the evaluator.

    Runs at:
        ``Events.STARTED``.

    Reads:
        the file ``load_path``.

    Args:
        load_path: the file; None loads nothing.
        load_dict, kwargs: those of ``monai.handlers.CheckpointLoader``.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is no whole file of weights, holds other objects than tensors, or does not fit the network.
    """

    def __init__(self, load_path: str | None, load_dict: dict[str, Any], **kwargs: Any) -> None:
        self.is_off = load_path is None
        super().__init__(load_path or "", load_dict, **kwargs)

    def attach(self, engine: Engine) -> None:
        if not self.is_off:
            super().attach(engine)

    def __call__(self, engine: Engine) -> None:
        read_weights(self.load_path)
        try:
            super().__call__(engine)
        except (RuntimeError, ValueError) as error:
            first = " ".join(str(error).split()[:40])
            raise ValueError(
                f"{self.load_path}: these weights are not of the network in the config: give those of this network, or "
                f"the config that they were trained with ({first} ...)."
            ) from error


def read_weights(path: str) -> Mapping[str, torch.Tensor]:
    """
    Read a file of weights into the memory of the processor.

    Args:
        path: a state dictionary, as ``torch.save`` wrote it.

    Returns:
        The tensors by their names.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is no whole file of weights, or holds other objects than tensors.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist: give the file of the weights.") from error
    except Exception as error:  # torch raises nearly anything at bytes that are none of its own
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ValueError(
                f"{path}: holds other objects than tensors, which could run code when they are read, and is refused: "
                "ask whoever made it for the state dict alone."
            ) from error
        raise ValueError(f"{path}: is no file of weights, or is damaged: copy it again.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not the state dict of a network.")
    return content
