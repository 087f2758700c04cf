"""
Pictures for people: a FROC curve, a scan with its fractures and candidates, the curves of a training.

All are drawn by matplotlib's object-oriented interface, which keeps no state and needs no display. Colors are those
of Okabe and Ito (jfly.uni-koeln.de/color), which color-blind readers can tell apart; letters (F, C) tell the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from skimage.measure import find_contours

from scripts.anatomy.components import Box, instance_boxes
from scripts.candidates import count_words, counted
from scripts.data.ribfrac import KEY_FALSE_POSITIVES
from scripts.files.atomic_write import whole_file
from scripts.images.hounsfield import BONE_WINDOW_HU

__all__ = [
    "BLUE",
    "IN_HU",
    "RIM",
    "VERMILION",
    "best_epoch",
    "curves_picture",
    "froc_figure",
    "froc_picture",
    "in_hu",
    "save_figure",
    "scan_picture",
]

BLACK, ORANGE, SKY_BLUE, GREEN, BLUE, VERMILION = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
FRACTURE_COLOR, CANDIDATE_COLOR = ORANGE, SKY_BLUE
# A maximum over the whole body is brighter: soft tissue goes dark, cortex stays below white.
PROJECTION_WINDOW_HU = (0.0, 1200.0)
SKIN_HU = -300.0
IN_HU = (-1.0, 1.0)  # HU of the values -1 and 1 of a scan that is not scaled
# More texts than this on one projection hide each other.
MAX_NAMED_CANDIDATES = 20
DOTS_PER_INCH = 130
_COMPRESSION = 3  # of PNG: half the time of zlib's default, 6, and files that are 2 to 6 % larger
_TITLE_WIDTH = 40  # characters above a panel of one column
RIM = [withStroke(linewidth=3, foreground="black")]  # of texts and lines on gray bone


def froc_figure(details: Mapping[str, Any]) -> Figure:
    """
    Draw a FROC curve with the challenge's five points and, where present, its 95 % interval.

    Args:
        details: scores as `scripts.metrics.challenge_scores` gives them.

    Returns:
        The figure, of one panel.
    """
    detection, intervals, counts = details["detection"], details.get("bootstrap"), details["counts"]
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    if intervals:
        curve = intervals["curve"]
        axes.fill_between(
            curve["fp"], curve["recall_lower"], curve["recall_upper"], color=SKY_BLUE, alpha=0.3, linewidth=0
        )
        axes.fill_between([], [], color=SKY_BLUE, alpha=0.3, label="95 % interval (bootstrap over scans)")
    exact = details.get("detection_exact_thresholds")
    for scores, color, linewidth, label in (
        (exact, GREEN, 1, "every score as threshold"),
        (detection, BLUE, 2, "thresholds 0, 0.01 … 0.99"),
    ):
        if scores:
            fp, recall = np.array(scores["fp"]), np.array(scores["recall"])
            order = np.lexsort((recall, fp))
            axes.plot(fp[order], recall[order], color=color, linewidth=linewidth, label=label)
    key_fp = KEY_FALSE_POSITIVES
    last_fp = detection["average_fp_at_max_recall"]
    if last_fp < key_fp[-1]:
        axes.plot(
            [last_fp, key_fp[-1]],
            [detection["max_recall"]] * 2,
            color=BLUE,
            linestyle=":",
            label="beyond the lowest threshold: maximum recall",
        )
    axes.plot(
        key_fp,
        detection["key_recall"],
        "o",
        color=VERMILION,
        label="the challenge's five points",
        clip_on=False,
        zorder=3,
    )
    for at, found in zip(key_fp, detection["key_recall"]):
        is_high, is_last = found > 0.9, at == key_fp[-1]
        axes.annotate(
            f"{found:.3f}",
            (at, found),
            xytext=(0 if is_last else 4, -7 if is_high else 7),
            textcoords="offset points",
            ha="right" if is_last else "left",
            va="top" if is_high else "bottom",
            fontsize=8,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
    axes.set(
        xlim=(0, 8.4), ylim=(0, 1.02), xlabel="false positives per scan", ylabel="recall (share of fractures found)"
    )
    axes.set_xticks([0, *key_fp], [f"{at:g}" for at in (0, *key_fp)])
    axes.set_title(
        f"FROC: average recall {detection['average_recall']:.3f}, maximum {detection['max_recall']:.3f}\n"
        + ", ".join(counted(counts[f"{noun}s"], noun) for noun in ("scan", "fracture", "candidate")),
        fontsize=11,
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if detection["key_recall"][-1] > 0.5 else "upper right", fontsize=9, framealpha=0.9)
    return figure


def froc_picture(details: Mapping[str, Any], path: str | Path) -> None:
    """
    Write the picture of a FROC curve, see :func:`froc_figure`.

    Args:
        details: scores as `scripts.metrics.challenge_scores` gives them.
        path: PNG to write.
    """
    save_figure(froc_figure(details), path)


def best_epoch(points: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[int, float] | None:
    """Return the epoch of the lowest ``validation_loss`` and that loss; None before the first validation."""
    scored = [pair for pair in points.get("validation_loss", ()) if np.isfinite(pair[1])]
    return min(scored, key=lambda pair: pair[1]) if scored else None


def curves_picture(history: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> None:
    """
    Draw what a training recorded per epoch: losses above, the learning rate below, the best epoch marked.

    Args:
        history: ``(epoch, value)`` pairs under the names ``training_loss``, ``validation_loss`` and ``learning_rate``;
            other names are drawn with the losses. The best epoch has the lowest ``validation_loss``.
        path: PNG to write.
    """
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    styles = {
        "training_loss": {"color": BLUE, "linestyle": "-"},
        "validation_loss": {"color": VERMILION, "linestyle": "--"},
    }
    others = iter((GREEN, ORANGE, SKY_BLUE, BLACK) * len(history))
    for name, pairs in history.items():
        if not pairs:
            continue
        epochs, values = zip(*pairs)
        is_rate = name == "learning_rate"
        style = {"color": BLACK} if is_rate else styles.get(name) or {"color": next(others), "linestyle": "-."}
        # A line of one point is invisible.
        marker = "o" if len(pairs) == 1 else None
        (rate if is_rate else losses).plot(epochs, values, label=name.replace("_", " "), marker=marker, **style)
    if best := best_epoch(history):
        epoch, value = best
        losses.plot(epoch, value, "*", color=VERMILION, markersize=14, label=f"best: {value:.4g} in epoch {epoch}")
        for axes in (losses, rate):
            axes.axvline(epoch, color=VERMILION, linewidth=0.8, alpha=0.6)
    if losses.lines:
        losses.legend(fontsize=9)
    losses.set(ylabel="loss", title="Training")
    rate.set(ylabel="learning rate", xlabel="epoch")
    if history.get("learning_rate") and min(value for _, value in history["learning_rate"]) > 0:
        rate.set_yscale("log")
    rate.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, rate):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def in_hu(values: np.ndarray, hu_range: Sequence[float]) -> np.ndarray:
    """
    Give the HU of what was scaled for a network.

    A picture shows a small part of a scan: take the part before it is scaled back.

    Args:
        values: of any numeric type and shape.
        hu_range: HU of the values -1 and 1.
    """
    low_hu, high_hu = hu_range
    return values * ((high_hu - low_hu) / 2) + (high_hu + low_hu) / 2


class _Instances(NamedTuple):
    """Ids of a volume, and the box of each in it."""

    ids: np.ndarray
    boxes: dict[int, Box]


class _Scan(NamedTuple):
    """A scan turned to left, posterior, superior: columns run to the patient's left, so right is on the left."""

    image: np.ndarray
    hu_range: Sequence[float]
    label: _Instances | None
    pred: _Instances
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def superior_mm(self, index: int) -> float:
        """Return the height of the middle of an axial slice in patient coordinates."""
        middle = [(size - 1) / 2 for size in self.image.shape[:2]]
        return float((self.affine @ [*middle, index, 1])[2])


def scan_picture(
    image: np.ndarray,
    affine: np.ndarray,
    pred: np.ndarray,
    label_scores: Sequence[float] | np.ndarray,
    path: str | Path,
    label: np.ndarray | None = None,
    max_slices: int = 6,
    title: str = "",
    operating_score: float = 0.0,
    hu_range: Sequence[float] = IN_HU,
) -> None:
    """
    Draw a scan with its annotated fractures beside its candidates at the operating score.

    Above, a coronal maximum projection; below, axial slices through the fractures, or through the candidates with
    the highest scores where nothing is annotated. The patient's right is on the left side of each panel, as
    radiologists read. All sizes are true in mm.

    Args:
        image: the scan, shape ``(H, W, D)``, in any orientation.
        affine: from voxel indices to mm (right, anterior, superior), shape ``(4, 4)``.
        pred: ids 1 to n of the candidates, integer, shape ``(H, W, D)``.
        label_scores: score of each candidate in the order of the ids, in [0, 1], shape ``(n,)``.
        path: PNG to write.
        label: ids of the fractures, likewise; without it only candidates are drawn.
        max_slices: the most axial slices to draw.
        title: name of the scan, written above.
        operating_score: candidates of a lower score are counted, but not drawn.
        hu_range: HU of the values -1 and 1 of the scan; by default it is in HU.

    Raises:
        ValueError: when shapes differ, or a candidate has no score.
    """
    for what, volume in (("pred", pred), ("label", label)):
        if volume is not None and volume.shape != image.shape:
            raise ValueError(f"{what} has shape {volume.shape}, the image {image.shape}: draw them on one grid")
    scan = _to_lps(image, affine, pred, label, hu_range)
    if (last := max(scan.pred.boxes, default=0)) > len(label_scores):
        raise ValueError(f"candidate {last} has no score: {len(label_scores)} scores were given")
    fractures = {} if scan.label is None else {i: f"F{i}" for i in scan.label.boxes}
    scores = {i: float(label_scores[i - 1]) for i in scan.pred.boxes}
    by_score = sorted((i for i in scores if scores[i] >= operating_score), key=lambda i: -scores[i])
    candidates = {i: f"C{i} {scores[i]:.2f}" if i in by_score[:MAX_NAMED_CANDIDATES] else "" for i in by_score}

    sides: list[tuple[str, _Instances, dict[int, str], str]] = []
    if scan.label is not None:
        sides.append((f"annotated: {counted(len(fractures), 'fracture')}", scan.label, fractures, FRACTURE_COLOR))
    sides.append((f"predicted: {count_words(label_scores, operating_score)}", scan.pred, candidates, CANDIDATE_COLOR))
    if fractures and scan.label is not None:
        slices = _slices_through(scan.label, list(fractures), max_slices)
    else:
        slices = _slices_through(scan.pred, by_score, max_slices)

    body = _body_box(scan)
    extent_mm = np.array([part.stop - part.start for part in body]) * scan.spacing_mm
    per_row = min(len(slices), 2 if len(sides) == 2 else 3)
    columns = per_row * len(sides)
    rows = -(-len(slices) // per_row)
    # Rows are as high as their panels are wide times the scan's own proportions, kept within a readable range.
    panel_inches = 3.3
    wide_inches = min(columns * panel_inches / len(sides), 2 * panel_inches)
    heights = [float(np.clip(wide_inches * extent_mm[2] / extent_mm[0], 2.2, 7.5))]
    heights += [float(np.clip(panel_inches * extent_mm[1] / extent_mm[0], 1.6, 5)) + 0.3] * rows
    figure = Figure(figsize=(columns * panel_inches, sum(heights) + 1.2), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    span = columns // len(sides)
    for side, (text, instances, names, color) in enumerate(sides):
        axes = figure.add_subplot(grid[0, side * span : (side + 1) * span])
        _draw_projection(axes, scan, instances, names, color, body)
        axes.set_title(fill(text, _TITLE_WIDTH * span), fontsize=10)
    for place, index in enumerate(slices):
        for side, (_, instances, names, color) in enumerate(sides):
            column = place % per_row * len(sides) + side
            axes = figure.add_subplot(grid[1 + place // per_row, column])
            _draw_slice(axes, scan, instances.ids, names, color, body, index)
            what = "annotated" if instances is scan.label else "predicted"
            axes.set_title(f"S {scan.superior_mm(index):+.1f} mm, {what}".replace("-", "\N{MINUS SIGN}"), fontsize=9)
    low_hu, high_hu = (f"{value:.0f}".replace("-", "\N{MINUS SIGN}") for value in BONE_WINDOW_HU)
    between, size = (" ", 11) if columns > 1 else ("\n", 10)  # one column is too narrow for a line of all
    heading = f"coronal maximum projection;{between}axial slices, bone window ({low_hu} to {high_hu} HU)"
    figure.suptitle(f"{title}\n{heading}" if title else heading, fontsize=size, parse_math=False)
    named = "id, score"
    if len(candidates) > MAX_NAMED_CANDIDATES:
        named += f" of the {MAX_NAMED_CANDIDATES} highest"
    handles = [
        Line2D([], [], label=what, linewidth=2, color=color)
        for what, color in (
            ("F: fracture (annotated)", FRACTURE_COLOR),
            (f"C: candidate (predicted; {named})", CANDIDATE_COLOR),
        )
        if scan.label is not None or color is CANDIDATE_COLOR
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, fontsize=9, facecolor="#404040", labelcolor="white"
    )
    save_figure(figure, path)


def _to_lps(
    image: np.ndarray,
    affine: np.ndarray,
    pred: np.ndarray,
    label: np.ndarray | None,
    hu_range: Sequence[float],
) -> _Scan:
    """Turn the axes of a scan, without resampling, to those closest to left, posterior, superior."""
    wanted = nib.orientations.axcodes2ornt("LPS")
    turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), wanted)

    def turned(ids: np.ndarray) -> _Instances:
        ids = nib.orientations.apply_orientation(ids, turn)
        return _Instances(ids, {i: box for i, box in enumerate(instance_boxes(ids), start=1) if box is not None})

    return _Scan(
        image=nib.orientations.apply_orientation(image, turn),
        hu_range=hu_range,
        label=None if label is None else turned(label),
        pred=turned(pred),
        affine=affine @ nib.orientations.inv_ornt_aff(turn, image.shape),
    )


def _body_box(scan: _Scan) -> Box:
    """Return the box of everything denser than air, with the full height; the whole scan when there is nothing."""
    # Every fourth voxel finds it well enough, at 1/64 of the time.
    inside = in_hu(scan.image[::4, ::4, ::4], scan.hu_range) > SKIN_HU
    box = []
    for axis in range(2):
        found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        size = scan.image.shape[axis]
        box.append(slice(max(found[0] * 4 - 8, 0), min(found[-1] * 4 + 12, size)) if found.size else slice(0, size))
    return box[0], box[1], slice(0, scan.image.shape[2])


def _slices_through(instances: _Instances, wanted: Sequence[int], max_slices: int) -> list[int]:
    """
    Choose axial slices that pass through the wanted instances, and return them from head to foot.

    Each step takes, of the slices through the first instance not yet seen, the one that shows the most others, at the
    largest area of theirs among equals. The middle slice stands in where there is no instance.
    """
    ids, boxes = instances
    area = np.zeros((len(wanted), ids.shape[2]), dtype=int)
    for row, instance in zip(area, wanted):
        row[boxes[instance][2]] = (ids[boxes[instance]] == instance).sum(axis=(0, 1))
    chosen: list[int] = []
    while area.size and len(chosen) < max_slices:
        # A slice through the rim of an instance does not show it.
        shown = area > 0.5 * area.max(axis=1, keepdims=True)
        best = int(np.lexsort(((area * shown).sum(axis=0), shown.sum(axis=0), shown[0]))[-1])
        chosen.append(best)
        area = area[~shown[:, best]]
    return sorted(chosen, reverse=True) or [ids.shape[2] // 2]


def _draw_projection(
    axes: Axes, scan: _Scan, instances: _Instances, names: Mapping[int, str], color: str, body: Box
) -> None:
    """Draw a coronal maximum projection with the outline of each instance."""
    projection, spacing_mm = in_hu(scan.image[body].max(axis=1), scan.hu_range), scan.spacing_mm[[0, 2]]
    _show(axes, projection, spacing_mm, PROJECTION_WINDOW_HU, "lower")
    masks = {}
    for instance in names:
        across, _, up = instances.boxes[instance]
        mask = np.zeros((scan.image.shape[0], scan.image.shape[2]), dtype=bool)
        mask[across, up] = (instances.ids[across, body[1], up] == instance).any(axis=1)
        masks[instance] = mask[body[0], body[2]]
    _outline(axes, masks, names, color, spacing_mm, text_share=0.03)


def _draw_slice(
    axes: Axes, scan: _Scan, ids: np.ndarray, names: Mapping[int, str], color: str, body: Box, index: int
) -> None:
    """Draw an axial slice with the outline of each instance in it."""
    plane = (*body[:2], index)
    _show(axes, in_hu(scan.image[plane], scan.hu_range), scan.spacing_mm[:2], BONE_WINDOW_HU, "upper")
    shown = np.ascontiguousarray(ids[plane])  # voxels of a slice lie far apart in memory: they are read once
    masks = {instance: shown == instance for instance in names}
    _outline(axes, masks, names, color, scan.spacing_mm[:2], text_share=0.06)


def _show(
    axes: Axes,
    image_hu: np.ndarray,
    spacing_mm: np.ndarray,
    window_hu: tuple[float, float],
    origin: Literal["upper", "lower"],
) -> None:
    """Show an image whose first axis runs to the right of the picture, in mm, between the letters R and L."""
    width, height = (float(n * s) for n, s in zip(image_hu.shape, spacing_mm))
    x, y = -spacing_mm[0] / 2, -spacing_mm[1] / 2
    extent = (x, x + width, y + height, y) if origin == "upper" else (x, x + width, y, y + height)
    axes.imshow(image_hu.T, cmap="gray", vmin=window_hu[0], vmax=window_hu[1], origin=origin, extent=extent)
    axes.set_facecolor("black")
    axes.set(xticks=[], yticks=[])
    for letter, place in (("R", 0.02), ("L", 0.98)):
        axes.text(
            place,
            0.98,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=10,
            weight="bold",
            ha="left" if letter == "R" else "right",
            va="top",
            path_effects=RIM,
        )
    bar_mm = 50 if width > 120 else 10
    if width > bar_mm:
        low = extent[2] + 0.04 * (extent[3] - extent[2])
        start = x + 0.03 * width
        axes.plot([start, start + bar_mm], [low, low], color="white", linewidth=2)
        above = low + 0.02 * (extent[3] - extent[2])
        axes.text(start, above, f"{bar_mm} mm", color="white", fontsize=7, va="bottom", path_effects=RIM)
    axes.set(xlim=extent[:2], ylim=extent[2:])


def _outline(
    axes: Axes,
    masks: Mapping[int, np.ndarray],
    names: Mapping[int, str],
    color: str,
    spacing_mm: np.ndarray,
    text_share: float,
) -> None:
    """Draw the outline of each mask and its name beside it; a name takes ``text_share`` of the panel's height."""
    named: list[tuple[float, float]] = []
    for instance, mask in masks.items():
        at = np.argwhere(mask)
        if len(at) == 0:
            continue
        low, high = at.min(axis=0), at.max(axis=0) + 1
        # One voxel of margin closes the outline at the border, also of a mask of a single voxel.
        inside = np.pad(mask[low[0] : high[0], low[1] : high[1]].astype(float), 1)
        for line in find_contours(inside, 0.5):
            points = (line - 1 + low) * spacing_mm
            axes.plot(points[:, 0], points[:, 1], linewidth=1.3, color=color, path_effects=RIM)
        width_mm, height_mm = np.array(mask.shape) * spacing_mm
        (left, _), (right, _) = (low - 1) * spacing_mm, high * spacing_mm
        is_far_right = right > 0.8 * width_mm
        x, y = left if is_far_right else right, (low + high - 1)[1] / 2 * spacing_mm[1]
        while any(abs(x - a) < 0.2 * width_mm and abs(y - b) < text_share * height_mm for a, b in named):
            y -= text_share * height_mm
        named.append((x, y))
        axes.annotate(
            names[instance],
            (x, y),
            xytext=(-2 if is_far_right else 2, 0),
            textcoords="offset points",
            ha="right" if is_far_right else "left",
            va="center",
            annotation_clip=False,
            color=color,
            fontsize=8,
            weight="bold",
            path_effects=RIM,
        )


def save_figure(figure: Figure, path: str | Path) -> None:
    """
    Write a figure as PNG, under its name only when it is complete.

    Args:
        figure: the figure.
        path: PNG to write.
    """
    figure.set_dpi(DOTS_PER_INCH)
    with whole_file(path) as temporary:
        # Figure.savefig would draw all of it once more beforehand, only to lay it out
        FigureCanvasAgg(figure).print_png(temporary, pil_kwargs={"compress_level": _COMPRESSION})
