"""
The mean of the weights of two trainings or more: one network, as fast as each of them, and often better than all.

    python -m scripts average --weights first/models/final.pt second/models/final.pt --dataset_dir /data/ribfrac \\
      --output output/mean.pt

The trainings must be of one network and have a start in common, such as one that goes on from the other: far from each
other in what they learned, the mean of their weights knows neither.

References:
    Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization"; Wortsman et al. (2022),
    "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time".
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from scripts.errors import CommandParser
from scripts.files.atomic_write import write_tensors
from scripts.handlers.checkpoints import read_weights

__all__ = ["average_weights", "main"]

_BUNDLE_ROOT = Path(__file__).resolve().parents[2]
_CONFIG = _BUNDLE_ROOT / "configs" / "train.yaml"


def average_weights(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    Average state dictionaries of one network.

    Args:
        weights: the dictionaries, at least one, each of the same names and shapes.

    Returns:
        The mean of each tensor, in float32 and on the CPU; of whole numbers, such as counts of batches, those of the
        first dictionary.

    Raises:
        ValueError: when names or shapes differ.
    """
    first, *others = weights
    for other in others:
        differing = sorted(name for name in first.keys() | other.keys() if _shape(first, name) != _shape(other, name))
        if differing:
            raise ValueError(f"weights of different networks have no mean: {differing[0]} is not the same in both.")
    return {
        name: (
            torch.stack([one[name].detach().cpu().float() for one in weights]).mean(dim=0)
            if value.is_floating_point()
            else value.detach().cpu().clone()
        )
        for name, value in first.items()
    }


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Average from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = CommandParser(
        prog="python -m scripts average",
        description="Average the weights of several trainings of one network, and take its statistics anew.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", nargs="+", required=True, help="files of weights, two or more; one given twice counts twice")
    add("--dataset_dir", required=True, help="data set whose training scans the statistics are taken from")
    add("--output", default="mean.pt", help="file to write")
    add("--config_file", nargs="+", default=[str(_CONFIG)], help="config of the training, and its overlays")
    add("--cache_dir", default=str(_BUNDLE_ROOT / "data" / "cache"), help="folder of the prepared scans")
    add("--passes", type=int, default=4, help="how often each scan is sampled; its ROIs are others each time")
    add("--workers", type=int, default=1, help="processes that load")
    options = parser.parse_args(arguments)
    try:
        if len(options.weights) < 2:
            raise ValueError("give two or more files of weights.")
        mean = average_weights([read_weights(path) for path in options.weights])
        config = ConfigParser()
        config.read_config(options.config_file)
        own = {"bundle_root": str(_BUNDLE_ROOT), "cache_dir": options.cache_dir, "num_workers": options.workers}
        config.update({**own, "dataset_dir": options.dataset_dir})
        set_determinism(config.get_parsed_content("seed"))
        network, device = config.get_parsed_content("plain_network"), config.get_parsed_content("device")
        try:
            network.load_state_dict(mean)
        except RuntimeError as error:
            raise ValueError(f"{options.weights[0]}: these weights are not of the network in the config.") from error
        config.get_parsed_content("train::dataset").prepare()
        loader = config.get_parsed_content("train::dataloader")
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    batches = (batch["image"].to(device) for _ in range(options.passes) for batch in loader)
    # of batch normalizations: the mean of weights fits the statistics of neither
    update_bn(tqdm(batches, total=options.passes * len(loader), desc="statistics", unit="batch"), network)
    write_tensors(options.output, {name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    print(f"{options.output}: the mean of {len(options.weights)} trainings")
