"""Command line of the synthetic data set: ``python -m scripts phantom --output_dir DIR``, from the bundle's folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scripts.errors import CommandParser
from scripts.synthetic.phantom.dataset import generate_phantoms
from scripts.synthetic.phantom.scan import SIZES
from scripts.synthetic.phantom.traits import TRAITS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set; ends with a message where the folder or a number is wrong."""
    parser = CommandParser(
        prog="python -m scripts phantom",
        description="Write synthetic chest CT with rib fractures in RibFrac's layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", required=True, help="folder of the data set, made if needed")
    parser.add_argument("--training", type=int, default=24, help="number of training scans")
    parser.add_argument("--validation", type=int, default=6, help="number of validation scans")
    parser.add_argument("--test", type=int, default=12, help="number of test scans")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
    parser.add_argument("--size", choices=SIZES, default="full", help="the whole thorax, or 96 to 112 slices of it")
    parser.add_argument("--subtle", type=float, default=0.0, help="share of fractures that are subtle, 0 to 1")
    parser.add_argument(
        "--traits",
        nargs="+",
        choices=TRAITS,
        default=[],
        metavar="TRAIT",
        help=f"each in half of the scans: {', '.join(TRAITS)}",
    )
    parser.add_argument("--workers", type=int, help="scans made side by side; by default one per core, at most 8")
    settings = vars(parser.parse_args(arguments))
    try:
        generate_phantoms(**settings)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
