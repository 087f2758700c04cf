"""
Predict an archive on many workers, of this machine or of a Ray cluster, by ``inference.yaml`` and ``archive.yaml``.

    python -m scripts archive --dataset_dir /data/archive --output_dir /data/found
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from scripts.commands._parsers import parser_of

__all__ = ["main"]

_CONFIGS = "['configs/inference.yaml','configs/archive.yaml']"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Predict an archive from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser_of("archive").parse_known_args(words)
    # by MONAI's own command line, which reads the settings, and ends at an error as any other run does
    sys.argv = ["monai.bundle", "run", "inference", "--config_file", _CONFIGS, *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
