"""
Make a review of a prediction into labels to train on.

    python -m scripts labels_from_review --review review.json --predictions_dir output/prediction/predictions \\
      --dataset_dir /data/scans --output_dir /data/reviewed

The reader says on the review page which candidates are fractures, and exports that. Accepted candidates become
fractures; rejected ones are background, and hard examples, which ``train.yaml`` takes. Doubtful ones are background
alone: an ROI meets them by chance only, while it would be drawn on purpose at a fracture or at a hard example.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from scripts.commands._parsers import parser_of
from scripts.commands.mine import find_hard_examples
from scripts.data.datalist import load_datalist
from scripts.data.loading_faults import loading_fault
from scripts.data.ribfrac import UNKNOWN_CLASS, read_ribfrac_table
from scripts.data.verdicts import Verdict, read_verdicts
from scripts.files.atomic_write import write_json, write_text, write_volume
from scripts.files.scan_files import find_mask
from scripts.images.image_reader import CTReader
from scripts.images.volume_files import volume_suffix
from scripts.metrics.folders import load_instances
from scripts.reporting.tables import CHALLENGE_COLUMNS
from scripts.runs.records import CHALLENGE_CSV
from scripts.synthetic.phantom.dataset import SECTIONS
from scripts.transforms import CheckFilesd, CheckImaged

__all__ = ["Labeled", "label_reviewed", "main"]

_SAME_MM, _SAME_SCORE = 0.1, 1e-5  # tables are rounded to 0.01 mm and to 6 digits
_LEARNED = ("accepted", "rejected")
_ONE_FILE = (".nii.gz", ".nii", ".nrrd", ".mha")  # formats that hold a volume in one file, under any name


class Labeled(NamedTuple):
    """
    What became of a review.

    Args:
        fractures: how many fractures each scan of the data set has, by its name.
        rejected: candidates that are hard examples now.
        doubtful: candidates that are background.
        left_out: scans with candidates that have no verdict.
    """

    fractures: dict[str, int]
    rejected: int
    doubtful: int
    left_out: list[str]


def label_reviewed(
    review: str | Path,
    predictions_dir: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    section: str = "training",
    assumed_orientation: str | None = None,
) -> Labeled:
    """
    Write the reviewed scans as a data set in RibFrac's layout, with its hard examples beside it.

    A scan is in it when each of its candidates in the review has a verdict. Images are links to where they are; DICOM
    and formats of two files are written as NIfTI. Labels are the masks of the accepted candidates, under their own ids.
    Their type is unknown (-1), since nobody reviewed it.

    Args:
        review: the file that the review page exported, JSON or CSV.
        predictions_dir: folder of the masks that were reviewed, and of their table.
        dataset_dir: the scans that were predicted.
        output_dir: folder of the data set; it may hold other sections.
        section: ``training``, ``validation`` or ``test``, which gives the folders their names.
        assumed_orientation: of a file that tells none, as in the prediction.

    Returns:
        What became of the review.

    Raises:
        FileNotFoundError: when a file or folder is missing.
        ValueError: when the review is not of these predictions, no scan is reviewed to its end, or the folder holds
            this section already.
    """
    folder, name = Path(output_dir), SECTIONS[section][0]
    images, labels = (folder / f"ribfrac-{name}-{kind}" for kind in ("images", "labels"))
    for existing in (images, labels):
        if existing.is_dir() and any(existing.iterdir()):
            raise ValueError(f"{existing} holds scans already: give another output_dir, or another section.")
    verdicts = read_verdicts(review)
    left_out = [scan for scan, its in verdicts.items() if not all(one.verdict for one in its)]
    chosen = {scan: its for scan, its in verdicts.items() if scan not in left_out}
    if not chosen:
        raise ValueError(f"{review} leaves candidates of every scan without a verdict: review a scan to its end.")
    listed = load_datalist(dataset_dir, "all", labels=False, check=False, predictions_dir=predictions_dir)
    items = {str(item["scan"]): item for item in listed}
    scores = _scores(Path(predictions_dir) / CHALLENGE_CSV)
    masks = {}
    for scan, its in chosen.items():  # before anything is written
        if scan not in items:
            raise ValueError(f"{dataset_dir} has no scan {scan} of {review}: give the scans that were predicted.")
        masks[scan] = _checked_mask(find_mask(Path(predictions_dir), scan), its, scores)
    hard: dict[str, dict[str, Any]] = {}
    fractures: dict[str, int] = {}
    rows = ["public_id,label_id,label_code"]
    for scan, path in tqdm(masks.items(), desc="label", unit="scan"):
        ids, affine, _ = load_instances(path)
        said = {word: [one.id for one in chosen[scan] if one.verdict == word] for word in _LEARNED}
        label, rejected = (np.where(np.isin(ids, said[word]), ids, 0) for word in _LEARNED)
        _place_image(items[scan], images, assumed_orientation)
        write_volume(labels / f"{scan}-label.nii.gz", label.astype(np.min_scalar_type(int(label.max()))), affine)
        hard[scan] = {"false_mm": find_hard_examples(rejected, label, affine)["false_mm"], "missed": []}
        fractures[scan] = len(said["accepted"])
        rows += [f"{scan},0,0", *(f"{scan},{number},{UNKNOWN_CLASS}" for number in said["accepted"])]
    write_text(folder / f"ribfrac-{name}-info.csv", "\n".join(rows) + "\n")
    write_json(folder / f"ribfrac-{name}-hard-examples.json", hard)
    doubtful = sum(one.verdict == "doubtful" for its in chosen.values() for one in its)
    return Labeled(fractures, sum(len(places["false_mm"]) for places in hard.values()), doubtful, left_out)


def _scores(path: Path) -> dict[tuple[str, int], float]:
    """Read the scores of a prediction from its table, by scan and id."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: write it by python -m scripts join.")
    rows = read_ribfrac_table(path, CHALLENGE_COLUMNS).rows
    return {(row.values["public_id"], row.whole_number("label_id")): row.number("confidence") for row in rows}


def _checked_mask(path: Path, verdicts: Sequence[Verdict], scores: Mapping[tuple[str, int], float]) -> Path:
    """Refuse verdicts that are not of the candidates of a mask, by their scores and places."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the predictions that {verdicts[0].where} is about.")
    centers_mm = _centers_mm(path)
    for one in verdicts:
        score = scores.get((one.scan, one.id))
        if one.id not in centers_mm or score is None:
            raise ValueError(f"{one.where}: {path} has no candidate {one.id}: give the predictions that were reviewed.")
        distance_mm = float(np.linalg.norm(centers_mm[one.id] - one.center_mm))
        if distance_mm > _SAME_MM or abs(score - one.score) > _SAME_SCORE:
            raise ValueError(
                f"{one.where}: candidate {one.id} of {path} is another one, {distance_mm:.1f} mm from there and of the "
                f"score {score:.6f}: give the predictions that were reviewed."
            )
    return path


def _centers_mm(path: Path) -> dict[int, NDArray[np.float64]]:
    """Return the center of mass of each candidate of a mask, LPS mm."""
    ids, affine, _ = load_instances(path)
    centers = {}
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is not None:
            voxel = np.argwhere(ids[box] == number).mean(axis=0) + [part.start for part in box]
            centers[number] = (affine[:3, :3] @ voxel + affine[:3, 3]) * (-1, -1, 1)
    return centers


def _place_image(item: Mapping[str, Any], folder: Path, assumed_orientation: str | None) -> None:
    """Link to the file of a scan, or write what is no single file as NIfTI."""
    image = item["image"]
    if isinstance(image, str) and volume_suffix(image) in _ONE_FILE:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{item['scan']}-image{volume_suffix(image)}").symlink_to(os.path.abspath(image))
        return
    load = Compose(
        [
            CheckFilesd("image", assumed_orientation=assumed_orientation),
            LoadImaged("image", CTReader(assumed_orientation), image_only=True),  # type: ignore[arg-type]
            EnsureChannelFirstd("image"),
            CheckImaged("image"),
        ]
    )
    try:
        volume = load({"image": image})["image"]
    except Exception as error:  # whatever a file can make the readers and the transforms raise
        raise ValueError(f"{item['scan']}: {loading_fault(error, image)}") from None
    hu = np.rint(volume[0].numpy()).astype(np.int16)
    write_volume(folder / f"{item['scan']}-image.nii.gz", hu, volume.affine.numpy())


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Make labels from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("labels_from_review")
    options = parser.parse_args(arguments)
    try:
        made = label_reviewed(**vars(options))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(
        f"{options.output_dir}: {sum(made.fractures.values())} fractures in {len(made.fractures)} scans, "
        f"{made.rejected} hard examples, {made.doubtful} doubtful candidates as background"
    )
    if made.left_out:
        print(f"Left out, since candidates have no verdict: {', '.join(made.left_out)}")
