"""
The recipes that are compared: which configs each is, what it changes, and whose weights it predicts with.

A recipe is named by its base and its changes: ``report`` is the report of 2021, ``report+loss`` the same with the loss
of ours alone. The value of a change is read from our configs, so that the two never differ. ``ours+no_loss`` is ours
without that change: with the report's loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "BASES",
    "BUNDLE_DIR",
    "CHANGES",
    "SHIPPED_WEIGHTS",
    "Base",
    "Change",
    "Recipe",
    "find_recipe",
    "recipe_names",
    "write_overlay",
]

BUNDLE_DIR = Path(__file__).resolve().parents[2] / "bundle"
SHIPPED_WEIGHTS = BUNDLE_DIR / "models" / "model.pt"
TRAIN, TRAIN_RIBS, INFERENCE = (
    BUNDLE_DIR / "configs" / name for name in ("train.yaml", "train_ribs.yaml", "inference.yaml")
)
_OVERLAYS = Path(__file__).resolve().parent / "configs"

ROIS = 74_880  # that a training sees
THREADS = 2


@dataclass(frozen=True)
class Base:
    """
    A recipe from which others differ by a change.

    Args:
        says: what it is, for a table.
        train: overlays of ``train.yaml``, in their order.
        inference: overlays of ``inference.yaml``.
        rois: ROIs that a training sees.
        threads: threads of training and prediction.
        weights: the file of the training that is predicted with: ``model.pt``, best on the validation scans, or
            ``final.pt``, of the last epoch.
        compiled: whether the network is compiled for training: that of ours gains nothing by it.
        shipped: whether the weights are those that ship, and nothing is trained.
        given: whether the weights are a file that the caller puts into the folder of the results.
    """

    says: str
    train: tuple[Path, ...] = ()
    inference: tuple[Path, ...] = ()
    rois: int = ROIS
    threads: int = THREADS
    weights: str = "model.pt"
    compiled: bool = False
    shipped: bool = False
    given: bool = False


@dataclass(frozen=True)
class Change:
    """
    One difference from a base. It trains anew when ``train.yaml`` has any of its settings.

    Args:
        says: what it is, for a table.
        ours: settings that take the value of our configs, ``train.yaml`` and ``inference.yaml``.
        settings: settings that take the value given here; ``a::b`` is ``b`` in ``a``.
        mines: whether it goes on from the weights so far, on the places that they mark falsely in the real training
            scans.
        looks_along_ribs: whether it goes on with the network along the ribs, by ``train_ribs.yaml``.
        undone: whether the settings of ``ours`` take the values of the report instead.
        tunes: whether the post-processing is chosen on the validation scans, for the recipe's own weights.
    """

    says: str
    ours: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    mines: bool = False
    looks_along_ribs: bool = False
    undone: bool = False
    tunes: bool = False


@dataclass(frozen=True)
class Recipe:
    """
    What is run under one name.

    Args:
        name: its base and its changes, joined by ``+``.
        says: what it is, for a table.
        train_configs: ``train.yaml`` and its overlays.
        inference_configs: ``inference.yaml`` and its overlays.
        train_settings: what its changes set in training.
        inference_settings: what they set in prediction.
        trained_as: the recipe whose training gives the weights; the name itself where it is trained.
        tuned_on: the recipe whose prediction of the validation scans its post-processing is chosen on; None: on none.
        goes_on_from: the recipe whose weights the training starts from; None: from scratch.
        mines: whether it trains on that recipe's errors.
        per_scan: the setting that tells how many ROIs, or pieces of ribs, a scan gives.
        rois: ROIs that its training sees.
        threads: threads of training and prediction.
        weights: the file of the training that is predicted with.
        compiled: whether the network is compiled for training.
        shipped: whether it predicts with the weights that ship; without a change of the training, nothing is trained.
        given: whether it predicts with weights that the caller gives; likewise.
    """

    name: str
    says: str
    train_configs: tuple[Path, ...]
    inference_configs: tuple[Path, ...]
    train_settings: Mapping[str, Any]
    inference_settings: Mapping[str, Any]
    trained_as: str
    tuned_on: str | None
    goes_on_from: str | None
    mines: bool
    per_scan: str
    rois: int
    threads: int
    weights: str
    compiled: bool
    shipped: bool
    given: bool


_REPORT = (BUNDLE_DIR / "configs" / "report.yaml",), (BUNDLE_DIR / "configs" / "report_inference.yaml",)
_FRACNET = (_OVERLAYS / "fracnet_network.yaml",)

BASES = {
    "report": Base("the report of 2021", *_REPORT, compiled=True),
    "fracnet": Base(
        "the public baseline, FracNet",
        (*_FRACNET, _OVERLAYS / "fracnet.yaml"),
        (*_FRACNET, _OVERLAYS / "fracnet_inference.yaml"),
        weights="final.pt",
        compiled=True,
    ),
    "ours": Base("the default of this bundle"),
    "shipped": Base("the default of this bundle, with the weights that ship", shipped=True),
    "v0.11": Base(
        "the weights of version 0.11.0, with its thresholds",
        inference=(_OVERLAYS / "v0.11_inference.yaml",),
        weights="model.pt",
        given=True,
    ),
    "v0.19": Base(
        "the weights of version 0.19.0, with its scores",
        inference=(_OVERLAYS / "v0.19_inference.yaml",),
        weights="model.pt",
        given=True,
    ),
}

CHANGES = {
    # with a training of their own
    "network": Change("network of ours, five times as fast", ours=("network_def",)),
    "loss": Change("cross-entropy beside Tversky", ours=("region_loss",)),
    "norm": Change("instance normalization", settings={"network_def::norm": "INSTANCE"}),
    "group": Change(
        "group normalization, of eight groups", settings={"network_def::norm": ["GROUP", {"num_groups": 8}]}
    ),
    "unmirrored": Change("no mirrored negatives", settings={"rois::mirrored": False}),
    "bone": Change("random negatives on bone", ours=("rois::bone_share",)),
    "roi96": Change(
        "ROIs and windows of 96 x 96 x 64 voxels",
        settings={
            "rois::roi_size": [96, 96, 64],
            "windows::roi_size": [96, 96, 64],
            "large_windows::roi_size": None,
        },
    ),
    "spacing": Change("resampling of unusual spacing", ours=("spacing::pixdim",)),
    "augmentation": Change(
        "augmentation of ours",
        ours=(
            *("noise::std", "noise::sample_std", "noise::prob"),
            *("zoom::prob", "rotation::prob", "blur::prob", "contrast::prob"),
        ),
    ),
    "spread": Change("fractures anywhere in their ROI", ours=("rois::max_shift_voxels",)),
    "share": Change("half of the ROIs positive", ours=("rois::positive_share",)),
    "plane": Change("mirrored about the body's plane", ours=("rois::mirror_plane",)),
    "ema": Change("moving average of the weights", ours=("ema_decay",)),
    "optimizer": Change("AdamW with warm-up", ours=("optimizer", "weight_decay", "lr_scheduler")),
    "narrow": Change(
        "half the channels; candidates for a short training: above 0.1, by the highest local mean",
        settings={
            "network_def::channels": [16, 32, 64, 128],
            "candidates::threshold": 0.1,
            "candidates::score": "max",
            "large_windows::roi_size": None,
            "candidates::low_threshold": 0.0,
            "candidates::min_volume_mm3": 500.0,
            "candidates::min_score": 0.55,
            "candidates::score_slope": 0.3,  # many a false one is at 0.99 or more, where the thresholds end
            "candidates::score_intercept": 0.0,
        },
    ),
    "reseeded": Change("other random numbers: what differs by chance", settings={"seed": 1}),
    "mined": Change(
        "goes on, half of its negatives where it went wrong in the real training scans as they are; fewer fractures, "
        "softer kernels",
        settings={
            "ema_decay": 0.998,
            "learning_rate": 0.0005,
            "rois::positive_share": 0.4,
            "blur::prob": 0.4,
            "blur::sigma": [0.0, 1.5],
        },
        mines=True,
    ),
    "ribs": Change(
        "goes on with the network along the ribs",
        ours=("rib_weight", "bone::min_rib_probability", "large_windows::roi_size"),
        settings={"ema_decay": 0.99, "learning_rate": 0.002},
        looks_along_ribs=True,
    ),
    # on the weights of the base
    "tuned": Change("post-processing and scores tuned for its weights on the validation scans", tunes=True),
    "split": Change("candidates that touch are split", settings={"candidates::split_distance_mm": 20.0}),
    "part": Change(
        "candidates of several pieces above a share of their peak are parted", ours=("candidates::peak_share",)
    ),
    "wide": Change(
        "larger windows before, averaged with the others", settings={"large_windows::roi_size": [96, 96, 64]}
    ),
    "everywhere": Change(
        "a second pass everywhere, also where the larger windows see nothing",
        settings={"large_windows::refine_above": 0.0},
    ),
    "weak": Change(
        "pieces above a lower threshold that hold no candidate are candidates", ours=("candidates::low_threshold",)
    ),
    "sparse": Change("larger windows with an eighth of overlap", settings={"large_windows::overlap": 0.125}),
    "dense": Change("larger windows with half of overlap", settings={"large_windows::overlap": 0.5}),
    "spine": Change("a margin around the spine", ours=("candidates::spine_margin_mm",)),
    "flips": Change("left and right exchanged, averaged", settings={"flips": [[0]]}),
    "gaussian": Change("windows weighted to their middle", ours=("windows::mode",)),
    "float32": Change("float32 throughout", settings={"amp": False}),
    "unskipped": Change("all windows predicted", settings={"bone::min_voxels": 0}),
    "fast": Change("a quarter of overlap", settings={"windows::overlap": 0.25}),
}


def recipe_names(base: str = "report+network") -> list[str]:
    """
    Return the bases, and one recipe with each single change.

    Args:
        base: the recipe that is changed; by default the report's with our network, because its own takes five times as
            long.
    """
    changed = [f"{base}+{change}" for change in CHANGES if change not in base.split("+")]
    return [*BASES, *([] if base in BASES else [base]), *changed]


def find_recipe(name: str) -> Recipe:
    """
    Look up a recipe by its name.

    Args:
        name: a base, such as ``ours``, or a base and changes, such as ``report+network+loss``.

    Raises:
        ValueError: when there is no such base or change, no config has a setting that a change sets, or a change of the
            training is asked of the weights that ship.
    """
    base_name, *change_names = name.split("+")
    changes = [_find_change(part) for part in change_names]
    if base_name not in BASES or None in changes:
        raise ValueError(
            f"there is no recipe '{name}': a recipe is one of {', '.join(BASES)}, and after it, each with a +, any of "
            f"{', '.join(CHANGES)}; no_X takes X out of ours."
        )
    base = BASES[base_name]
    trained_as, goes_on_from = base_name, None
    tuned_on, last = None, None
    train_settings: dict[str, Any] = {}
    inference_settings: dict[str, Any] = {}
    for place, (change_name, change) in enumerate(zip(change_names, filter(None, changes))):
        in_training, in_inference = (
            _values(change, TRAIN, BASES["report"].train),
            _values(change, INFERENCE, BASES["report"].inference),
        )
        missing = [setting for setting in (*change.ours, *change.settings) if setting not in in_training | in_inference]
        if missing:
            raise ValueError(
                f"neither {TRAIN} nor {INFERENCE} has the setting {missing[0]} of '{change_name}': name it."
            )
        tuned_on = "+".join([base_name, *change_names[:place]]) if change.tunes else tuned_on
        if (base.shipped or base.given) and in_training.keys() <= in_inference.keys():
            in_training = {}  # such as float32: the weights stay, and it is the prediction that changes
        goes_on = change.mines or change.looks_along_ribs
        if (base.shipped or (base.given and not goes_on_from and not goes_on)) and (in_training or goes_on):
            raise ValueError(f"'{name}' would be trained, and weights that are given are not: take 'ours'.")
        goes_on_from = trained_as if goes_on else goes_on_from
        last = change if in_training or goes_on else last
        trained_as += f"+{change_name}" if in_training or goes_on else ""
        train_settings |= in_training
        inference_settings |= in_inference
    along_ribs = last is not None and last.looks_along_ribs
    return Recipe(
        name=name,
        says="; ".join([base.says, *(change.says for change in filter(None, changes))]),
        train_configs=(TRAIN, *base.train, *((TRAIN_RIBS,) if along_ribs else ())),
        inference_configs=(INFERENCE, *base.inference),
        train_settings=train_settings,
        inference_settings=inference_settings,
        trained_as=trained_as,
        tuned_on=tuned_on,
        goes_on_from=goes_on_from,
        mines=last is not None and last.mines,
        per_scan="straight_ribs::per_scan" if along_ribs else "rois::per_scan",
        rois=base.rois,
        threads=base.threads,
        # beside hard ROIs the loss on the validation ROIs, which are not, says little: the last epoch counts
        weights="final.pt" if goes_on_from else base.weights,
        compiled=base.compiled and "network" not in change_names,
        shipped=base.shipped,
        given=base.given and goes_on_from is None,
    )


def write_overlay(settings: Mapping[str, Any], path: Path) -> Path:
    """Write settings as an overlay and return its path, so that a run's folder tells what was run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    return path


@cache
def _read(config: Path) -> dict[str, Any]:
    return yaml.safe_load(config.read_text(encoding="utf-8"))


def _find_change(name: str) -> Change | None:
    """Look up a change, or what takes one out of ours; None where there is none of that name."""
    left_out = CHANGES.get(name.removeprefix("no_"))
    if name in CHANGES or left_out is None or not left_out.ours:
        return CHANGES.get(name)
    return replace(left_out, says=f"without: {left_out.says}", undone=True)


def _values(change: Change, config: Path, of_report: Sequence[Path]) -> dict[str, Any]:
    """Return what a change sets in one config, or the report's overlays of it: only settings that the config has."""
    ours = _flat(_read(config))
    source = ours | (
        _flat({name: of for path in of_report for name, of in _read(path).items()}) if change.undone else {}
    )
    own = {setting: source[setting] for setting in change.ours if setting in ours}
    return own | {setting: value for setting, value in change.settings.items() if setting in ours}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with each part of a part also under ``part::name``."""
    parts = {
        f"{name}::{inner}": value
        for name, of_name in config.items()
        if isinstance(of_name, Mapping)
        for inner, value in of_name.items()
    }
    return {**config, **parts}
