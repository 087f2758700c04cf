"""
Predict an archive on many workers, of this machine or of a Ray cluster, by ``inference.yaml`` and ``archive.yaml``.

    python -m scripts archive --dataset_dir /data/archive --output_dir /data/found
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from scripts.errors import CommandParser

__all__ = ["main"]

_CONFIGS = "['configs/inference.yaml','configs/archive.yaml']"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Predict an archive from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = CommandParser(
        prog="python -m scripts archive",
        description="Predict an archive on many workers, of this machine or of a Ray cluster. All settings of "
        "inference.yaml can be given, as docs/reference.md lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--dataset_dir", help="folder of the scans, or a data list")
    parser.add_argument("--output_dir", help="folder of the results")
    parser.add_argument("--address", help="of a Ray cluster, such as auto; without it one is started on this machine")
    parser.add_argument("--workers", help="processes that predict; as many as there is room for")
    parser.add_argument("--cpus_per_worker", help="cores of each; 4")
    parser.add_argument("--gpus_per_worker", help="GPUs of each; 1 where there are any")
    parser.add_argument("--max_retries", help="how often a scan is tried again whose worker ended; 2")
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser.parse_known_args(words)
    # by MONAI's own command line, which reads the settings, and ends at an error as any other run does
    sys.argv = ["monai.bundle", "run", "inference", "--config_file", _CONFIGS, *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
