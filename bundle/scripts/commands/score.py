"""
Score a folder of predictions as the RibFrac challenge does.

    python -m scripts score --gt_dir ribfrac-val-labels --pred_dir predictions --output metrics.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.commands._parsers import parser_of
from scripts.metrics.folders import score_folders
from scripts.metrics.froc import challenge_scores
from scripts.reporting.scores import metrics_table, write_metrics

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Score a folder of predictions from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("score")
    options = parser.parse_args(arguments)
    try:
        results = score_folders(options.gt_dir, options.pred_dir, options.workers, options.assumed_orientation)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    details = challenge_scores(results, options.exact_thresholds, options.bootstrap, options.seed)
    output = Path(options.output)
    write_metrics(details, output.parent, output.name)
    print(metrics_table(details))
