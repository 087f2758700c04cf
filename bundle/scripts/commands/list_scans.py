"""
Write the scans of a folder as a data list: which scan is which files, found once for many runs.

    python -m scripts list_scans --dataset_dir /data/studies --output /data/scans.json
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from scripts.commands._parsers import parser_of
from scripts.data.datalist import load_datalist
from scripts.files.atomic_write import write_json

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Write the scans of a folder as a data list; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("list_scans")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # tells what is skipped
    try:
        items = load_datalist(Path(options.dataset_dir).resolve(), "all", labels=False, check=False)
        write_json(options.output, {"test": items}, indent=1)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{options.output} lists {len(items)} scans.")
