"""Command line: ``python -m scripts implant --image SCAN --output_dir DIR``, from the bundle's folder."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.commands._parsers import parser_of
from scripts.synthetic.choices import IMPLANTED_NAMES
from scripts.synthetic.implant.dataset import generate_implanted

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set; ends with a message where a file, folder or number is wrong."""
    parser = parser_of("implant")
    options = parser.parse_args(arguments)
    try:
        generate_implanted(
            options.output_dir,
            options.image,
            ribs=options.ribs,
            rib_ids=None if options.rib_ids is None else (options.rib_ids[0], options.rib_ids[1]),
            scans=options.scans,
            fractures=(options.fractures[0], options.fractures[1]),
            as_is=options.as_is,
            seed=options.seed,
            section=options.section,
            first_id=options.first_id,
            subtle=options.subtle,
            names=IMPLANTED_NAMES,
        )
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
