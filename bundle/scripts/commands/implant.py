"""Command line: ``python -m scripts implant --image SCAN --output_dir DIR``, from the bundle's folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scripts.errors import CommandParser
from scripts.synthetic.implant.dataset import generate_implanted
from scripts.synthetic.phantom.dataset import SECTIONS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set; ends with a message where a file, folder or number is wrong."""
    parser = CommandParser(
        prog="python -m scripts implant",
        description="Implant rib fractures into chest CT, and write them in RibFrac's layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--image", required=True, nargs="+", help="scans in HU: NIfTI files or DICOM folders")
    parser.add_argument(
        "--ribs", nargs="+", help="masks of their ribs, one each; without them the program finds the ribs"
    )
    parser.add_argument(
        "--rib_ids", type=int, nargs=2, metavar=("LOW", "HIGH"), help="ids of the ribs in masks of more than ribs"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the data set, made if needed")
    parser.add_argument("--scans", type=int, default=1, help="scans to make of each image")
    parser.add_argument(
        "--fractures",
        type=int,
        nargs=2,
        default=(3, 9),
        metavar=("LOW", "HIGH"),
        help="least and most fractures a scan",
    )
    parser.add_argument("--subtle", type=float, default=0.0, help="share of fractures that are subtle, 0 to 1")
    parser.add_argument(
        "--as_is", action="store_true", help="write each image without implants too, assuming that it has no fracture"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
    parser.add_argument("--section", choices=list(SECTIONS), default="training", help="section of the data set")
    parser.add_argument("--first_id", type=int, help="number of the first scan; by default the section's in RibFrac")
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
        )
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
