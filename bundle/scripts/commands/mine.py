"""
List where a prediction of training scans went wrong, so that a further training looks there more often.

    python -m scripts mine --predictions_dir output/prediction/predictions --dataset_dir /data/ribfrac \\
      --output hard_examples.json

``train.yaml`` takes the file as ``hard_examples``. Few ROIs at random meet the few places of a scan that a network
takes for a fracture, so most of them teach it nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from scripts.commands._parsers import parser_of
from scripts.data.datalist import load_datalist
from scripts.data.label_classes import instances_of_classes
from scripts.data.ribfrac import MIN_OVERLAP
from scripts.files.atomic_write import write_json
from scripts.files.scan_files import find_mask
from scripts.metrics.folders import load_pair
from scripts.metrics.froc import instance_overlaps

__all__ = ["find_hard_examples", "main", "mine"]


def find_hard_examples(pred: np.ndarray, label: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    """
    List the false candidates and the missed fractures of one scan.

    A candidate that touches a fracture is not false, even where their overlap is too small for a hit: an ROI there
    would hold the fracture.

    Args:
        pred: ids of the candidates, integer, 0 is background, shape ``(H, W, D)``.
        label: ids of the fractures, likewise.
        affine: of both volumes, voxels to mm in RAS, shape ``(4, 4)``.

    Returns:
        ``false_mm``, the center of each false candidate's bounding box, ``[x, y, z]`` in mm, and ``missed``, the ids of
        the fractures that no candidate hits by the challenge's rule.
    """
    found = instance_overlaps(pred, label)
    boxes = ndimage.find_objects(pred)
    touching = found.overlap.max(axis=1, initial=0.0) > 0
    centers = [
        [(axis.start + axis.stop - 1) / 2 for axis in boxes[candidate - 1]]
        for candidate in found.candidate_ids[~touching]
    ]
    false_mm = np.array(centers).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
    missed = found.fracture_ids[found.overlap.max(axis=0, initial=0.0) <= MIN_OVERLAP]
    return {"false_mm": false_mm.round(1).tolist(), "missed": missed.tolist()}


def mine(
    predictions_dir: str | Path,
    dataset_dir: str | Path,
    section: str = "training",
    assumed_orientation: str | None = None,
) -> dict[str, dict[str, Any]]:
    """
    List the hard examples of every predicted scan of a data set.

    Args:
        predictions_dir: folder of masks, ``SCAN.nii.gz``, as an inference writes them.
        dataset_dir: the data set that was predicted, see ``scripts.data.load_datalist``.
        section: of the data set; scans that were not predicted are skipped.
        assumed_orientation: of a file that tells none, as in the prediction.

    Returns:
        See ``find_hard_examples``, by the scan's name.

    Raises:
        FileNotFoundError: when the folder holds no prediction of any scan.
        ValueError: when a prediction does not fit its annotation, or one of them cannot be read.
    """
    items = load_datalist(dataset_dir, section, assumed_orientation=assumed_orientation)
    predicted = [item for item in items if find_mask(Path(predictions_dir), item["scan"]).is_file()]
    if not predicted:
        raise FileNotFoundError(
            f"{predictions_dir} holds no prediction of a scan of {dataset_dir} ({section}): predict them first, "
            "inference takes --section training."
        )
    places = {}
    for item in tqdm(predicted, desc="mine", unit="scan"):
        prediction = find_mask(Path(predictions_dir), item["scan"])
        pred, label, affine = load_pair(prediction, Path(item["label"]), assumed_orientation)
        if "label_classes" in item:
            label, _ = instances_of_classes(label, item["label_classes"], item["label"])
        places[item["scan"]] = find_hard_examples(pred, label, affine)
    return places


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Mine from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("mine")
    options = parser.parse_args(arguments)
    try:
        places = mine(options.predictions_dir, options.dataset_dir, options.section, options.assumed_orientation)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    write_json(options.output, places)
    false, missed = (sum(len(of_scan[kind]) for of_scan in places.values()) for kind in ("false_mm", "missed"))
    print(f"{options.output}: {false} false candidates and {missed} missed fractures in {len(places)} scans")
