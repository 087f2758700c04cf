"""The data set of whoever has none."""

from __future__ import annotations

import os
from pathlib import Path

import ignite.distributed as idist

from scripts.synthetic.choices import SYNTHETIC_NAMES
from scripts.synthetic.phantom.dataset import generate_phantoms

__all__ = ["ensure_phantoms"]


def ensure_phantoms(
    dataset_dir: str | os.PathLike[str], phantom_dir: str | os.PathLike[str], size: str
) -> str | os.PathLike[str]:
    """
    Return the data set's folder; generate the synthetic data set first, on first use, when no other one is named.

    A config gives what it returns to ``scripts.data.load_datalist``, so that nothing is generated for whoever takes
    only the network from it, as ``monai.bundle.load`` does.

    Args:
        dataset_dir: the data set that a config uses.
        phantom_dir: its default. Only when both are the same is anything generated, unless it is there already.
        size: size of the scans, see :py:func:`scripts.synthetic.phantom.scan.make_phantom`.
    """
    if Path(dataset_dir).resolve() == Path(phantom_dir).resolve():
        with idist.one_rank_first():  # of a training of several processes
            generate_phantoms(phantom_dir, size=size, names=SYNTHETIC_NAMES)
    return dataset_dir
