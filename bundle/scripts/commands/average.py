"""
The mean of the weights of two trainings or more: one network, as fast as each of them, and often better than all.

    python -m scripts average --weights first/models/final.pt second/models/final.pt --dataset_dir /data/ribfrac \\
      --output output/mean.pt

The trainings must be of one network and have a start in common, such as one that goes on from the other: far from each
other in what they learned, the mean of their weights knows neither. Where they differ in the network along the ribs
alone, all else stays as it is.

References:
    Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization"; Wortsman et al. (2022),
    "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from scripts.commands._parsers import BUNDLE_ROOT, parser_of
from scripts.files.atomic_write import write_tensors
from scripts.handlers.checkpoints import read_weights

__all__ = ["average_weights", "main"]

_ALONG_RIBS = "straight_ribs."


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


def _are_same(weights: Sequence[Mapping[str, torch.Tensor]], name: str) -> bool:
    return all(torch.equal(one[name], weights[0][name]) for one in weights[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Average from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("average")
    options = parser.parse_args(arguments)
    try:
        if len(options.weights) < 2:
            raise ValueError("give two or more files of weights.")
        weights = [read_weights(path) for path in options.weights]
        mean = average_weights(weights)
        config = ConfigParser()
        config.read_config(options.config_file)
        own = {"bundle_root": str(BUNDLE_ROOT), "cache_dir": options.cache_dir, "num_workers": options.workers}
        config.update({**own, "dataset_dir": options.dataset_dir})
        set_determinism(config.get_parsed_content("seed"))
        network, device = config.get_parsed_content("plain_network"), config.get_parsed_content("device")
        try:
            network.load_state_dict(mean)
        except RuntimeError as error:
            raise ValueError(f"{options.weights[0]}: these weights are not of the network in the config.") from error
        if all(_are_same(weights, name) for name in mean if not name.startswith(_ALONG_RIBS)):
            write_tensors(options.output, mean)
            print(f"{options.output}: the mean of {len(weights)} trainings of the network along the ribs")
            return
        config.get_parsed_content("train::dataset").prepare()
        loader = config.get_parsed_content("train::dataloader")
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    batches = (batch["image"].to(device) for _ in range(options.passes) for batch in loader)
    # of batch normalizations: the mean of weights fits the statistics of neither
    update_bn(tqdm(batches, total=options.passes * len(loader), desc="statistics", unit="batch"), network)
    averaged = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    # the network along the ribs saw no ROI: its statistics are those of the mean
    averaged |= {name: value for name, value in mean.items() if name.startswith(_ALONG_RIBS)}
    write_tensors(options.output, averaged)
    print(f"{options.output}: the mean of {len(options.weights)} trainings")
