"""The data set of whoever has none."""

from __future__ import annotations

import os
from pathlib import Path

from scripts.phantom.dataset import generate_phantoms

__all__ = ["ensure_phantoms"]


def ensure_phantoms(dataset_dir: str | os.PathLike[str], phantom_dir: str | os.PathLike[str], size: str) -> None:
    """
    Generate the made-up data set on first use, when no other one is named: a step of a config's ``initialize``.

    Args:
        dataset_dir: the data set that a config uses.
        phantom_dir: its default. Only when both are the same is anything generated, unless it is there already.
        size: size of the scans, see :py:func:`scripts.phantom.scan.make_phantom`.
    """
    if Path(dataset_dir).resolve() == Path(phantom_dir).resolve():
        generate_phantoms(phantom_dir, size=size)
