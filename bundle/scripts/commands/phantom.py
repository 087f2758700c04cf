"""Command line of the synthetic data set: ``python -m scripts phantom --output_dir DIR``, from the bundle's folder."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.commands._parsers import parser_of
from scripts.synthetic.choices import SYNTHETIC_NAMES
from scripts.synthetic.phantom.dataset import generate_phantoms

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set; ends with a message where the folder or a number is wrong."""
    parser = parser_of("phantom")
    settings = vars(parser.parse_args(arguments))
    try:
        generate_phantoms(**settings, names=SYNTHETIC_NAMES)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
