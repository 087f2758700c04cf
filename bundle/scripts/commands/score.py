"""
Score a folder of predictions as the RibFrac challenge does.

    python -m scripts score --gt_dir ribfrac-val-labels --pred_dir predictions --output metrics.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.errors import CommandParser
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
    parser = CommandParser(prog="python -m scripts score", description="Score as the RibFrac challenge does.")
    parser.add_argument("--gt_dir", required=True, help="folder of *-label.nii.gz and *info*.csv, at any depth")
    parser.add_argument("--pred_dir", required=True, help="folder of a volume of ids per scan and *pred*.csv")
    parser.add_argument("--output", default="metrics.json", help="JSON to write; froc.csv and froc.png go beside it")
    parser.add_argument("--exact_thresholds", action="store_true", help="add the curve with every score as threshold")
    parser.add_argument("--bootstrap", type=int, default=1000, help="draws for the 95 %% interval; 0: no interval")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--workers", type=int, default=1, help="scans to read and score at the same time")
    parser.add_argument("--assumed_orientation", help="orientation of a volume that states none, such as LPS")
    options = parser.parse_args(arguments)
    try:
        results = score_folders(options.gt_dir, options.pred_dir, options.workers, options.assumed_orientation)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    details = challenge_scores(results, options.exact_thresholds, options.bootstrap, options.seed)
    output = Path(options.output)
    write_metrics(details, output.parent, output.name)
    print(metrics_table(details))
