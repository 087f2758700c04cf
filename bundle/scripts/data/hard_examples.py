"""Hard examples of a training: where a prediction of its scans went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["HARD_KEY", "add_hard_examples"]

HARD_KEY = "hard_examples"  # of a data list's item


def add_hard_examples(data: Sequence[dict[str, Any]], hard_examples: str | Path | None) -> list[dict[str, Any]]:
    """
    Give the items of a data list their hard examples, for ``SymmetricROISamplerd``.

    Args:
        data: items with the key ``scan``.
        hard_examples: file that ``python -m scripts mine`` wrote; None adds nothing.

    Returns:
        The items; those of which the file knows something have it as ``hard_examples``.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is no such file, or knows none of the scans.
    """
    if hard_examples is None:
        return list(data)
    path = Path(hard_examples)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: python -m scripts mine writes it.")
    try:
        places = {
            scan: {"false_mm": np.array(of_scan["false_mm"], dtype=float).reshape(-1, 3), "missed": of_scan["missed"]}
            for scan, of_scan in json.loads(path.read_text()).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of hard examples ({error!r}): python -m scripts mine writes it."
        ) from error
    if not places.keys() & {item["scan"] for item in data}:
        raise ValueError(f"{path} knows none of the {len(data)} scans: mine the data set that is trained on.")
    return [item | {HARD_KEY: places[item["scan"]]} if item["scan"] in places else item for item in data]
