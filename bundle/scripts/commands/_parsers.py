"""
The arguments of all commands.

Help, and the error at a wrong argument, are there at once: nothing here imports PyTorch or MONAI, which takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.errors import CommandParser
from scripts.synthetic.choices import SIZES, TRAITS

__all__ = ["BUNDLE_ROOT", "CHOICES", "MIN_SPACING_MM", "ZENODO_API_URL", "parser_of"]

BUNDLE_ROOT = Path(__file__).resolve().parents[2]
ZENODO_API_URL = "https://zenodo.org/api"
MIN_SPACING_MM = 0.7  # of a viewer's page: finer than that, it grows and shows no more of a rib
# What to try, in this order: the option's name, that of the setting's value, and the values
CHOICES = {
    "thresholds": ("threshold", (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)),
    "low_thresholds": ("low_threshold", (0.0, 0.2)),
    "min_volumes_mm3": ("min_volume_mm3", (50.0, 100.0, 200.0, 300.0, 500.0, 800.0, 1200.0)),
    "min_mean_probabilities": (
        "min_mean_probability",
        (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99),
    ),
    "peak_shares": ("peak_share", (0.0, 0.1, 0.3, 0.5, 0.8)),
    "split_distances_mm": ("split_distance_mm", (0.0, 20.0)),
    "scores": ("score", ("mean", "mean_above_threshold", "max")),
}
_CONFIGS = BUNDLE_ROOT / "configs"
_SECTIONS = ("training", "validation", "test")


def parser_of(command: str) -> CommandParser:
    """
    Return what reads the arguments of a command.

    Args:
        command: its name.
    """
    return _PARSERS[command]()


def _archive() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts archive",
        description="Predict an archive on many workers, of this machine or of a Ray cluster. All settings of "
        "inference.yaml can be given, as docs/reference.md lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--dataset_dir", help="folder of the scans, or a data list; or s3://bucket/folder and its like")
    parser.add_argument("--output_dir", help="folder of the results; or s3://bucket/folder and its like")
    parser.add_argument("--address", help="of a Ray cluster, such as auto; without it one is started on this machine")
    parser.add_argument("--workers", help="processes that predict; as many as there is room for")
    parser.add_argument("--cpus_per_worker", help="cores of each; 4")
    parser.add_argument("--gpus_per_worker", help="GPUs of each; 1 where there are any")
    parser.add_argument("--max_retries", help="how often a scan is tried again whose worker ended; 2")
    return parser


def _score() -> CommandParser:
    parser = CommandParser(prog="python -m scripts score", description="Score as the RibFrac challenge does.")
    parser.add_argument("--gt_dir", required=True, help="folder of *-label.nii.gz and *info*.csv, at any depth")
    parser.add_argument("--pred_dir", required=True, help="folder of a volume of ids per scan and *pred*.csv")
    parser.add_argument("--output", default="metrics.json", help="JSON to write; froc.csv and froc.png go beside it")
    parser.add_argument("--exact_thresholds", action="store_true", help="add the curve with every score as threshold")
    parser.add_argument("--bootstrap", type=int, default=1000, help="draws for the 95 %% interval; 0: no interval")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--workers", type=int, default=1, help="scans to read and score at the same time")
    parser.add_argument("--assumed_orientation", help="orientation of a volume that states none, such as LPS")
    return parser


def _tune() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts tune",
        description="Choose the post-processing on annotated scans, and calibrate the scores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--probabilities_dir", nargs="+", required=True, help="folders of maps that --outputs#probabilities true wrote")
    add("--dataset_dir", nargs="+", required=True, help="the data sets that were predicted, in the same order")
    add("--section", default="validation", help="training, validation, test or all")
    add("--output", default="tuned.yaml", help="overlay to write; its figures go beside it, as .json")
    add(
        "--config_file",
        nargs="+",
        default=[str(_CONFIGS / "inference.yaml")],
        help="config of the prediction, and its overlays",
    )
    add("--max_candidates_per_scan", type=float, default=2.0, help="most of those written, on average")
    add("--least_score", type=float, default=0.5, help="least min_score to choose, where scores are calibrated")
    for option, (name, values) in CHOICES.items():
        add(f"--{option}", nargs="+", type=type(values[0]), default=values, help=f"to try as candidates#{name}")
    add("--spine_margin_mm", type=float, help="margin around the spine; by default the config's")
    add("--assumed_orientation", help="orientation of a file that states none, such as LPS; by default the config's")
    add("--workers", type=int, default=1, help="scans to work on at the same time")
    return parser


def _mine() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts mine",
        description="List the false candidates and the missed fractures of predicted training scans.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--predictions_dir", required=True, help="folder of the masks that inference wrote")
    add("--dataset_dir", required=True, help="the data set that was predicted")
    add("--section", default="training", help="training, validation, test or all")
    add("--assumed_orientation", help="orientation of a file that states none, such as LPS; refused without it")
    add("--output", default="hard_examples.json", help="file to write")
    return parser


def _fit_types() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts fit_types",
        description="Fit the model of the types of fractures to annotated scans.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset_dir", required=True, action="append", help="an annotated data set; may be given again")
    add("--section", default="training", help="training, validation, test or all")
    add("--assumed_orientation", help="orientation of a file that states none, such as LPS; refused without it")
    add("--seed", type=int, default=0, help="the same seed gives the same model")
    add("--output", default="fracture_types.json", help="file to write")
    return parser


def _average() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts average",
        description="Average the weights of several trainings of one network, and take its statistics anew.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", nargs="+", required=True, help="files of weights, two or more; one given twice counts twice")
    add("--dataset_dir", required=True, help="data set whose training scans the statistics are taken from")
    add("--output", default="mean.pt", help="file to write")
    add(
        "--config_file",
        nargs="+",
        default=[str(_CONFIGS / "train.yaml")],
        help="config of the training, and its overlays",
    )
    add("--cache_dir", default=str(BUNDLE_ROOT / "data" / "cache"), help="folder of the prepared scans")
    add("--passes", type=int, default=4, help="how often each scan is sampled; its ROIs are others each time")
    add("--workers", type=int, default=1, help="processes that load")
    return parser


def _inspect() -> CommandParser:
    parser = CommandParser(prog="python -m scripts inspect", description="Look at a data set before a training.")
    parser.add_argument("--dataset_dir", required=True, help="the data set, as for a training")
    parser.add_argument("--section", default="all", help="training, validation, test or all")
    parser.add_argument("--images_only", action="store_true", help="pass annotations over")
    parser.add_argument(
        "--assumed_orientation", help="orientation of a file that states none, such as LPS; refused without it"
    )
    parser.add_argument("--output", type=Path, default=Path("output/inspect.html"), help="page to write")
    return parser


def _view() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts view",
        description="Write pages to scroll through scans of a prediction in a browser.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", default="output/prediction", help="folder of a prediction or an evaluation")
    parser.add_argument(
        "--scan", action="append", default=[], help="name of a scan; may be given again; all without it"
    )
    parser.add_argument("--dataset_dir", help="where the scans are now; where the run found them without it")
    parser.add_argument("--predictions_dir", help="folder of the masks, where it is not predictions/ in output_dir")
    parser.add_argument(
        "--min_spacing_mm", type=float, default=MIN_SPACING_MM, help="an axis of finer voxels is resampled to this"
    )
    return parser


def _labels_from_review() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts labels_from_review",
        description="Make a review of a prediction into labels to train on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--review", required=True, help="file that the review page exported, JSON or CSV")
    parser.add_argument(
        "--predictions_dir", required=True, help="folder of the masks that were reviewed, with ribfrac-pred.csv"
    )
    parser.add_argument("--dataset_dir", required=True, help="the scans that were predicted")
    parser.add_argument("--output_dir", required=True, help="folder of the data set")
    parser.add_argument("--section", default="training", choices=_SECTIONS, help="section of the data set")
    parser.add_argument(
        "--assumed_orientation", help="orientation of a file that states none, such as LPS; refused without it"
    )
    return parser


def _ribs() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts ribs",
        description="Find and number the ribs of scans, and write their masks, centerlines, pictures and a table.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--scans", required=True, help="a file, a folder of NIfTI files and DICOM series, or a data list"
    )
    parser.add_argument("--output_dir", default="output/ribs", help="folder of the results, made if needed")
    parser.add_argument(
        "--assumed_orientation", help="orientation of a file that states none, such as LPS; refused without it"
    )
    return parser


def _join() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts join", description="Join the tables of a prediction from its records."
    )
    parser.add_argument("--output_dir", required=True, help="folder of the prediction")
    parser.add_argument("--predictions_dir", help="folder of its masks, where it is not predictions/ in that folder")
    return parser


def _list_scans() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts list_scans",
        description="Write the scans of a folder, without annotations, as a data list.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of NIfTI files and DICOM studies")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write; it names files, so perhaps patients")
    return parser


def _submission() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts submission",
        description="Check a folder of predictions by the RibFrac challenge's rules, and pack it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--predictions_dir", required=True, help="a run's predictions/: masks and one table")
    parser.add_argument("--output", default="submission.zip", help="archive to write")
    parser.add_argument(
        "--section",
        choices=("validation", "test", "any"),
        default="test",
        help="all of whose scans must be there; any: no certain",
    )
    return parser


def _download() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts download",
        description="Fetch the RibFrac data set from Zenodo and unpack it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", required=True, help="folder of the data set, made if needed")
    parser.add_argument("--sections", nargs="+", choices=_SECTIONS, default=list(_SECTIONS), help="what to fetch")
    parser.add_argument("--keep_archives", action="store_true", help="keep the archives once they are unpacked")
    parser.add_argument("--api_url", default=ZENODO_API_URL, help="address of Zenodo's API or of a mirror of it")
    return parser


def _sample_ct() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts sample_ct",
        description="Fetch one real chest CT that anyone may use, with its segmentation.",
    )
    parser.add_argument("--output_dir", required=True, help="folder to write the scan and its segmentation to")
    return parser


def _phantom() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts phantom",
        description="Write synthetic chest CT with rib fractures in RibFrac's layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", required=True, help="folder of the data set, made if needed")
    parser.add_argument("--training", type=int, default=24, help="number of training scans")
    parser.add_argument("--validation", type=int, default=6, help="number of validation scans")
    parser.add_argument("--test", type=int, default=12, help="number of test scans")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
    parser.add_argument("--size", choices=SIZES, default="full", help="the whole thorax, or 96 to 112 slices of it")
    parser.add_argument("--subtle", type=float, default=0.0, help="share of fractures that are subtle, 0 to 1")
    parser.add_argument(
        "--traits",
        nargs="+",
        choices=TRAITS,
        default=[],
        metavar="TRAIT",
        help=f"each in half of the scans: {', '.join(TRAITS)}",
    )
    parser.add_argument("--workers", type=int, help="scans made side by side; by default one per core, at most 8")
    return parser


def _implant() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts implant",
        description="Implant rib fractures into chest CT, and write them in RibFrac's layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--image", required=True, nargs="+", help="scans in HU: NIfTI files or DICOM folders")
    parser.add_argument(
        "--ribs", nargs="+", help="masks of their ribs, one each; without them the program finds the ribs"
    )
    parser.add_argument(
        "--rib_ids", type=int, nargs=2, metavar=("LOW", "HIGH"), help="ids of the ribs in masks of more than ribs"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the data set, made if needed")
    parser.add_argument("--scans", type=int, default=1, help="scans to make of each image")
    parser.add_argument(
        "--fractures",
        type=int,
        nargs=2,
        default=(3, 9),
        metavar=("LOW", "HIGH"),
        help="least and most fractures a scan",
    )
    parser.add_argument("--subtle", type=float, default=0.0, help="share of fractures that are subtle, 0 to 1")
    parser.add_argument(
        "--as_is", action="store_true", help="write each image without implants too, assuming that it has no fracture"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
    parser.add_argument("--section", choices=_SECTIONS, default="training", help="section of the data set")
    parser.add_argument("--first_id", type=int, help="number of the first scan; by default 1, 421 or 501, by section")
    return parser


def _release() -> CommandParser:
    parser = CommandParser(
        prog="python -m scripts release",
        description="Pack the bundle as a zip archive that monai.bundle download takes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--bundle_root", default=str(BUNDLE_ROOT), help="the bundle's folder")
    parser.add_argument("--output_dir", default="dist", help="folder to write to")
    parser.add_argument("--repository", help="address of the repository that the bundle comes from, for the model card")
    return parser


_PARSERS = {
    "archive": _archive,
    "score": _score,
    "tune": _tune,
    "mine": _mine,
    "fit_types": _fit_types,
    "average": _average,
    "inspect": _inspect,
    "view": _view,
    "labels_from_review": _labels_from_review,
    "ribs": _ribs,
    "join": _join,
    "list_scans": _list_scans,
    "submission": _submission,
    "download": _download,
    "sample_ct": _sample_ct,
    "phantom": _phantom,
    "implant": _implant,
    "release": _release,
}
