"""
Join the tables of a prediction from its records, where a run was stopped or several processes shared it.

    python -m scripts join --output_dir output/prediction
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.commands._parsers import parser_of
from scripts.runs.records import FRACTURES_CSV, join_tables

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Join the tables of a prediction from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("join")
    options = parser.parse_args(arguments)
    try:
        scans = join_tables(options.output_dir, options.predictions_dir)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{Path(options.output_dir) / FRACTURES_CSV} lists {scans} scans.")
