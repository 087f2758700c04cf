"""
Measure how well ribs are found, numbered and drawn, on synthetic scans, where the truth is known, or on labelled ones.

    python benchmarks/rib_cage.py --scans 40 --work_dir /tmp/rib_cage --json ribs.json --csv ribs.csv
    python benchmarks/rib_cage.py --labelled scan.nii.gz segmentation.nii.gz

The synthetic scans have up to three traits each, such as scoliosis, an effusion or a cut field of view, see
`scripts.synthetic.phantom.traits`; every trait comes about as often as the others. They are made once and kept in the
work folder; a second run measures only. A labelled scan has the ids of TotalSegmentator: 92-103 the left ribs, 104-115
the right ones. It has no true centerlines; its masks stand for them.

A rib counts where the scan shows at least 30 mm of it. It is `missed` if no found rib has a Dice of 0.3 with it, no
found rib standing for two; else its number is `right`, `wrong`, `unknown`, or `shifted`: wrong by one, as all found
ribs of its side are. `split` counts further pieces of ribs, and `none` found ribs that lie on no rib.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.anatomy.rib_cage import EXTRA_IDS, Rib, RibCage  # noqa: E402
from scripts.anatomy.rib_finding import find_rib_cage  # noqa: E402
from scripts.files.atomic_write import whole_file, write_json  # noqa: E402
from scripts.images.image_reader import CTReader  # noqa: E402
from scripts.synthetic import phantom as phantom_package  # noqa: E402
from scripts.synthetic.choices import TRAITS  # noqa: E402
from scripts.synthetic.phantom import make_phantom  # noqa: E402
from scripts.synthetic.phantom.traits import LOOKALIKES  # noqa: E402

__all__ = [
    "Case",
    "Truth",
    "compare",
    "draw_cases",
    "labelled_truth",
    "side_and_number",
    "spots_on",
    "totals",
    "truth_of",
]

KINDS = ("right", "shifted", "wrong", "unknown", "missed")
MIN_DICE = 0.3
MIN_SHOWN_MM = 30.0
NEAR_MM = 5.0  # of a found centerline to the true one
WIDE_MM = 12.0  # of a voxel of a labelled rib to the found centerline
FIRST_LEFT, FIRST_RIGHT, RIBS = 92, 104, 12  # TotalSegmentator's ids
SPOTS, SPOT_MM = 10, 6.0  # on each labelled rib stand for fractures
IN_PLANE_MM, SLICES_MM = 0.8, (1.25, 3.0)  # the trait thick has slices of 4-5 mm
DRAWN = [trait for trait in TRAITS if trait not in LOOKALIKES]  # those that change ribs, or how they are found
SHARE_OF_TRAITS = (0.1, 0.3, 0.35, 0.25)  # of scans with 0, 1, 2 and 3 of them
ON_BONE = 0.5  # of the voxels of a piece of a rib

Finder = Callable[[NDArray[Any], Any, NDArray[Any]], RibCage]


@dataclass(frozen=True)
class Case:
    """
    A synthetic scan to be made.

    Args:
        index: its place in the benchmark.
        seed: of the benchmark.
        spacing: mm per voxel.
        traits: what it has.
    """

    index: int
    seed: int
    spacing: tuple[float, float, float]
    traits: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as ``0-17``, by seed and index."""
        return f"{self.seed}-{self.index}"


@dataclass
class Truth:
    """
    A scan in RAS axes and what is true of its ribs.

    Args:
        image: HU, shape ``(H, W, D)``.
        affine: voxels to RAS mm.
        ribs: ids as of :func:`scripts.anatomy.rib_cage.rib_id`, uint8, same shape.
        centerlines_mm: the axis of each rib by its id; empty for labelled scans.
        label: instance ids of fractures, or of spots that stand for them, same shape; None where there are none.
    """

    image: NDArray[np.int16]
    affine: NDArray[np.float64]
    ribs: NDArray[np.uint8]
    centerlines_mm: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    label: NDArray[np.uint8] | None = None


def draw_cases(
    scans: int, seed: int, spacing: Sequence[float] | None = None, traits: Sequence[str] | None = None
) -> list[Case]:
    """
    Draw what the synthetic scans are; the first ones are the same however many there are.

    Args:
        scans: how many.
        seed: what they are drawn from.
        spacing: mm per voxel; 0.8 in plane and 1.25-3 between slices where None.
        traits: of every scan; up to three of ``DRAWN``, without repeats until each had its turn, where None.
    """
    deck: list[str] = []
    shuffle = np.random.default_rng(seed)
    cases = []
    for index in range(scans):
        own: list[str] = []
        for _ in range(int(shuffle.choice(4, p=SHARE_OF_TRAITS))):
            if not set(deck) - set(own):
                deck += [str(name) for name in shuffle.permutation(DRAWN)]
            own.append(next(name for name in deck if name not in own))
            deck.remove(own[-1])
        slices = round(float(shuffle.uniform(*SLICES_MM)), 2)
        sizes = (IN_PLANE_MM, IN_PLANE_MM, slices) if spacing is None else tuple(spacing)
        cases.append(Case(index, seed, (sizes[0], sizes[1], sizes[2]), tuple(own if traits is None else traits)))
    return cases


def truth_of(case: Case, work_dir: Path) -> Truth:
    """Read a synthetic scan from the work folder, or make it and keep it there."""
    path = work_dir / f"{case.name}-{_digest(case)}.npz"
    if not path.is_file():
        phantom = make_phantom((case.seed, case.index), spacing=case.spacing, traits=case.traits)
        turn = nib.orientations.io_orientation(phantom.affine)
        affine = phantom.affine @ nib.orientations.inv_ornt_aff(turn, phantom.image.shape)
        turned = {
            name: np.ascontiguousarray(nib.orientations.apply_orientation(getattr(phantom, name), turn))
            for name in ("image", "ribs", "label")
        }
        arrays: dict[str, Any] = turned | {f"line{i}": line for i, line in phantom.centerlines_mm.items()}
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, affine=affine, **arrays)
    with np.load(path) as kept:
        lines = {int(name[4:]): kept[name] for name in kept.files if name.startswith("line")}
        return Truth(kept["image"], kept["affine"], kept["ribs"], lines, kept["label"])


def _digest(case: Case) -> str:
    """Tell scans apart that other settings or another generator would make."""
    sources = sorted(Path(phantom_package.__path__[0]).glob("*.py"))
    known = repr((case.spacing, case.traits)).encode() + b"".join(path.read_bytes() for path in sources)
    return hashlib.sha256(known).hexdigest()[:12]


def labelled_truth(scan: Path, mask: Path) -> Truth:
    """Read a scan of any kind and a mask with TotalSegmentator's ids, and turn both to RAS axes."""
    keys = ("image", "ribs")
    load = Compose(
        [
            LoadImaged(keys, CTReader(), image_only=True),  # type: ignore[arg-type]
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=None),
        ]
    )
    data = load({"image": str(scan), "ribs": str(mask)})
    image, ids = data["image"], data["ribs"][0].numpy().astype(np.int32)
    if ids.shape != tuple(image.shape[1:]) or not np.allclose(image.affine, data["ribs"].affine, atol=1e-2):
        raise ValueError(f"{mask} is not on the grid of {scan}: resample one of them.")
    ribs = np.where((ids >= FIRST_LEFT) & (ids < FIRST_RIGHT + RIBS), ids - FIRST_LEFT + 1, 0).astype(np.uint8)
    affine = image.affine.numpy().astype(float)
    spots = spots_on(ribs, np.linalg.norm(affine[:3, :3], axis=0))
    return Truth(np.rint(image[0].numpy()).astype(np.int16), affine, ribs, label=spots)


def spots_on(ribs: NDArray[np.uint8], spacing: NDArray[np.float64]) -> NDArray[np.int16]:
    """Mark SPOTS places of a fracture's size on each labelled rib, numbered from 1."""
    rng = np.random.default_rng(0)
    spots = np.zeros(ribs.shape, dtype=np.int16)
    for identifier in (int(i) for i in np.unique(ribs) if i):
        voxels = np.argwhere(ribs == identifier)
        for middle in rng.choice(voxels, SPOTS):
            near = np.linalg.norm((voxels - middle) * spacing, axis=1) <= SPOT_MM
            spots[tuple(voxels[near].T)] = spots.max() + 1
    return spots


def side_and_number(identifier: int) -> tuple[str, int]:
    """Return side and number of an id of a true rib."""
    for (side, number), extra in EXTRA_IDS.items():
        if identifier == extra:
            return side, number
    return ("left", identifier) if identifier <= RIBS else ("right", identifier - RIBS)


def compare(truth: Truth, find: Finder = find_rib_cage) -> dict[str, Any]:
    """
    Find the ribs of a scan and compare them with the true ones.

    Args:
        truth: the scan, and what is true of it.
        find: the finder.

    Returns:
        ``seconds``; ``ribs``, for each true rib that counts its ``id``, ``kind``, ``found`` (the name; empty if
        missed), ``order_right``, ``dice``, ``covered`` and ``best_dice``, that with any found rib; ``split`` and
        ``none``, the names of such found ribs; ``away_mm`` of the points of matched centerlines; ``fractures`` with
        ``rib``, ``found``, ``right``, ``unknown`` and ``side_right``; ``notes`` of the cage, and an ``error`` where the
        finder raised one.
    """
    spacing_mm = np.linalg.norm(truth.affine[:3, :3], axis=0)
    error = ""
    start = time.perf_counter()
    try:
        cage = find(truth.image, spacing_mm, truth.affine)
    except Exception as problem:  # counted as ribs missed, and told: the other scans are measured
        error = "".join(traceback.format_exception_only(problem)).strip() + f" ({_last_line(problem)})"
        cage = RibCage(np.zeros((1, 1, 1), dtype=np.uint8), truth.affine)
    seconds = time.perf_counter() - start
    shares = _overlaps(truth.ribs, cage.on_grid(truth.affine, truth.ribs.shape))
    shown = _shown_parts(truth)
    counted = [identifier for identifier, points in shown.items() if _length_mm(points) >= MIN_SHOWN_MM]
    pairs = _pairs(sorted({*shown, *(true for true, _ in shares if true)}), cage, shares)
    matched = {true: cage.rib(found) for true, found in pairs.items()}
    shifted = _shifted_sides(matched)
    ribs, away_mm = [], []
    for true in counted:
        rib = matched.get(true)
        row: dict[str, Any] = {"id": true, "kind": "missed", "found": "", "order_right": False, "dice": 0.0}
        row |= {"covered": 0.0, "best_dice": max((_dice(true, other.id, shares) for other in cage.ribs), default=0.0)}
        if rib is not None:
            row |= {"kind": _kind(true, rib, shifted), "found": rib.name, "order_right": _in_order(true, matched)}
            row["dice"] = _dice(true, rib.id, shares)
            away, row["covered"] = _centerline_figures(truth, true, rib, shown[true])
            away_mm += away
        ribs.append(row)
    spare = [rib for rib in cage.ribs if rib.id not in pairs.values()]
    on_bone = {rib.id: _share_on_bone(rib.id, shares) for rib in spare}
    return {
        "seconds": seconds,
        "ribs": ribs,
        "split": [rib.name for rib in spare if on_bone[rib.id] >= ON_BONE],
        "none": [rib.name for rib in spare if on_bone[rib.id] < ON_BONE],
        "away_mm": away_mm,
        "fractures": [] if truth.label is None else list(_fractures(truth, cage)),
        "notes": list(cage.notes),
        "error": error,
    }


def _last_line(problem: BaseException) -> str:
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _overlaps(true: NDArray[np.uint8], found: NDArray[np.uint8]) -> Counter[tuple[int, int]]:
    """Count the voxels of each pair of ids where one of them is not 0."""
    voxels = (true > 0) | (found > 0)
    codes = true[voxels].astype(np.int64) * 256 + found[voxels]
    counts = np.bincount(codes, minlength=1)
    return Counter({(int(code) // 256, int(code) % 256): int(counts[code]) for code in np.flatnonzero(counts)})


def _dice(true: int, found: int, shares: Mapping[tuple[int, int], int]) -> float:
    sizes = sum(n for (t, _), n in shares.items() if t == true) + sum(n for (_, f), n in shares.items() if f == found)
    return 2 * shares.get((true, found), 0) / sizes if sizes else 0.0


def _share_on_bone(found: int, shares: Mapping[tuple[int, int], int]) -> float:
    own = {true: n for (true, f), n in shares.items() if f == found}
    return sum(n for true, n in own.items() if true) / max(sum(own.values()), 1)


def _pairs(true: Sequence[int], cage: RibCage, shares: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """Give each true rib at most one found rib, and none to two, with the largest sum of Dice."""
    found = [rib.id for rib in cage.ribs]
    if not true or not found:
        return {}
    dice = np.array([[_dice(t, f, shares) for f in found] for t in true])
    rows, columns = linear_sum_assignment(-np.where(dice >= MIN_DICE, dice, 0.0))
    return {true[i]: found[j] for i, j in zip(rows, columns) if dice[i, j] >= MIN_DICE}


def _shown_parts(truth: Truth) -> dict[int, NDArray[np.float64]]:
    """Give the points of each true centerline that lie in the scan; of a labelled rib a line from end to end."""
    shown = {}
    if not truth.centerlines_mm:
        for identifier in (int(i) for i in np.unique(truth.ribs) if i):
            voxels = nib.affines.apply_affine(truth.affine, np.argwhere(truth.ribs == identifier))
            first = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmax()]
            last = voxels[np.linalg.norm(voxels - first, axis=1).argmax()]
            shown[identifier] = np.stack([first, last])
    for identifier, line in truth.centerlines_mm.items():
        voxels = nib.affines.apply_affine(np.linalg.inv(truth.affine), line)
        inside = ((voxels >= -0.5) & (voxels <= np.array(truth.ribs.shape) - 0.5)).all(axis=1)
        shown[identifier] = np.where(inside[:, None], line, np.nan)
    return shown


def _length_mm(points: NDArray[np.float64]) -> float:
    """Length of a line; parts whose points are not numbers do not count."""
    return float(np.nansum(np.linalg.norm(np.diff(points, axis=0), axis=1)))


def _kind(true: int, rib: Rib, shifted: Mapping[str, int]) -> str:
    side, number = side_and_number(true)
    if rib.side == side and rib.number is None:
        return "unknown"
    if (rib.side, rib.number) == (side, number):
        return "right"
    return "shifted" if rib.side == side and side in shifted else "wrong"


def _shifted_sides(matched: Mapping[int, Rib]) -> dict[str, int]:
    """Give the sides on which all numbered ribs, at least two, are counted one too high or one too low."""
    off: dict[str, set[int]] = {}
    counts: Counter[str] = Counter()
    for true, rib in matched.items():
        side, number = side_and_number(true)
        if rib.number is not None:
            off.setdefault(side, set()).add(rib.number - number if rib.side == side else 99)
            counts[side] += 1
    return {side: next(iter(by)) for side, by in off.items() if by in ({1}, {-1}) and counts[side] > 1}


def _in_order(true: int, matched: Mapping[int, Rib]) -> bool:
    """Whether a found rib comes before and behind the same ribs of its side as the true one does."""
    side, number = side_and_number(true)
    rib = matched[true]
    for other_true, other in matched.items():
        other_side, other_number = side_and_number(other_true)
        if other_side == side and other_true != true:
            if other.side != rib.side or (other.order < rib.order) != (other_number < number):
                return False
    return rib.side == side


def _centerline_figures(truth: Truth, true: int, rib: Rib, shown: NDArray[np.float64]) -> tuple[list[float], float]:
    """
    Measure a found centerline.

    Returns:
        How far each of its points lies from the true one, or from the mask where there is none; and the share of the
        true one in the scan that has a found point within 5 mm, or of the mask's voxels within 12 mm.
    """
    found = cKDTree(_dense(rib.centerline_mm))
    if truth.centerlines_mm:
        away = cKDTree(_dense(truth.centerlines_mm[true])).query(rib.centerline_mm)[0]
        points, near_mm = shown[np.isfinite(shown).all(axis=1)], NEAR_MM
    else:
        points, near_mm = nib.affines.apply_affine(truth.affine, np.argwhere(truth.ribs == true)), WIDE_MM
        away = cKDTree(points).query(rib.centerline_mm)[0]
    return [round(float(mm), 2) for mm in away], float((found.query(points)[0] <= near_mm).mean())


def _dense(points: NDArray[np.float64], step_mm: float = 0.5) -> NDArray[np.float64]:
    """Lay points half a millimeter apart along a line."""
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, way[-1], int(way[-1] / step_mm) + 2)
    return np.stack([np.interp(at, way, points[:, axis]) for axis in range(3)], axis=1)


def _fractures(truth: Truth, cage: RibCage) -> Iterator[dict[str, Any]]:
    """Tell for each fracture on which rib it lies, and on which one it was placed."""
    assert truth.label is not None
    for instance in (int(i) for i in np.unique(truth.label) if i):
        voxels = np.argwhere(truth.label == instance)
        ids = truth.ribs[tuple(voxels.T)]
        if not ids.any():  # all of the bone in it is thinner than half a voxel
            low, high = np.maximum(voxels.min(axis=0) - 5, 0), voxels.max(axis=0) + 6
            ids = truth.ribs[tuple(slice(a, b) for a, b in zip(low, high))]
        if not ids.any():
            continue
        true = int(np.bincount(ids[ids > 0]).argmax())
        place = cage.place_of(nib.affines.apply_affine(truth.affine, voxels))
        side, number = side_and_number(true)
        yield {
            "rib": f"{side} {number}",
            "found": place.rib.name if place else "",
            "right": place is not None and (place.rib.side, place.rib.number) == (side, number),
            "unknown": place is not None and place.rib.number is None,
            "side_right": place is not None and place.rib.side == side,
        }


def totals(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Sum up comparisons.

    Args:
        results: as :func:`compare` gives them.

    Returns:
        ``scans``, ``ribs``, the number of each kind, ``in_order`` of those of unknown number, ``split``, ``none``,
        ``dice`` and ``worst_dice`` over the ribs found (mean and 5th percentile), ``away_mm`` and ``away_95_mm``
        (median and 95th percentile), ``covered`` (mean, 0 for a missed rib), ``fractures``, of them ``placed`` right,
        of ``unknown_rib`` and on the right ``side``, and ``seconds`` (mean) with the longest. Nan where there is none.
    """
    ribs = [rib for result in results for rib in result["ribs"]]
    kinds = Counter(rib["kind"] for rib in ribs)
    found = np.array([rib["dice"] for rib in ribs if rib["kind"] != "missed"])
    away = np.concatenate([np.array(result["away_mm"], dtype=float) for result in results] or [np.zeros(0)])
    fractures = [fracture for result in results for fracture in result["fractures"]]
    seconds = np.array([result["seconds"] for result in results])
    return {
        "scans": len(results),
        "ribs": len(ribs),
        **{kind: kinds[kind] for kind in KINDS},
        "in_order": sum(rib["kind"] == "unknown" and rib["order_right"] for rib in ribs),
        "split": sum(len(result["split"]) for result in results),
        "none": sum(len(result["none"]) for result in results),
        "dice": _of(found, np.mean),
        "worst_dice": _of(found, lambda values: np.percentile(values, 5)),
        "away_mm": _of(away, np.median),
        "away_95_mm": _of(away, lambda values: np.percentile(values, 95)),
        "covered": _of(np.array([rib["covered"] for rib in ribs]), np.mean),
        "fractures": len(fractures),
        "placed": sum(fracture["right"] for fracture in fractures),
        "unknown_rib": sum(fracture["unknown"] for fracture in fractures),
        "side": sum(fracture["side_right"] for fracture in fractures),
        "seconds": _of(seconds, np.mean),
        "longest_seconds": _of(seconds, np.max),
        "errors": sum(bool(result["error"]) for result in results),
    }


def _of(values: NDArray[Any], figure: Callable[[NDArray[Any]], Any]) -> float:
    return float(figure(values)) if len(values) else float("nan")


COLUMNS = (
    "ribs",
    *KINDS,
    "split",
    "none",
    "dice",
    "away_mm",
    "away_95_mm",
    "covered",
    "fractures",
    "placed",
    "seconds",
)


def _line(name: str, figures: Mapping[str, Any], words: str = "") -> str:
    """One row of the table."""
    texts = [f"{v:.2f}" if isinstance(v := figures[column], float) else str(v) for column in COLUMNS]
    return f"{name:<15}" + "".join(f"{text:>{max(len(c), 5) + 2}}" for text, c in zip(texts, COLUMNS)) + f"  {words}"


def _header() -> str:
    return " " * 15 + "".join(f"{column:>{max(len(column), 5) + 2}}" for column in COLUMNS)


def _words(result: Mapping[str, Any]) -> str:
    """What a reader wants to know of one scan: its traits and spacing, and which ribs went wrong."""
    bad = [
        " ".join(map(str, side_and_number(rib["id"])))
        + (f" as {rib['found']}" if rib["found"] else f" missed ({rib['best_dice']:.2f})")
        for rib in result["ribs"]
        if rib["kind"] in ("wrong", "missed")
    ]
    told = [*bad[:6], *(["..."] if len(bad) > 6 else [])]
    words = [result.get("described", ""), ", ".join(told), result["error"]]
    return "; ".join(word for word in words if word)


def _sentences(figures: Mapping[str, Any]) -> list[str]:
    """What counts most of all scans, in per cent."""
    count = max(figures["fractures"], 1)
    return [
        f"numbers right: {figures['right'] / max(figures['ribs'], 1):.1%}",
        f"of unknown number but in the right order: {figures['in_order']} of {figures['unknown']}",
        f"fractures on the right rib: {figures['placed'] / count:.1%} of {figures['fractures']}",
        f"on the right side: {figures['side'] / count:.1%}",
        f"longest time: {figures['longest_seconds']:.1f} s",
    ]


def _measured(job: tuple[Case, Path, bool]) -> dict[str, Any]:
    case, work_dir, make_only = job
    truth = truth_of(case, work_dir)
    result = {"seconds": 0.0} if make_only else compare(truth)
    spacing = [round(float(mm), 2) for mm in np.linalg.norm(truth.affine[:3, :3], axis=0)]
    described = f"{spacing[0]:g} x {spacing[2]:g} mm, {', '.join(case.traits) or 'plain'}"
    return {"scan": case.name, "traits": list(case.traits), "spacing_mm": spacing, "described": described, **result}


def _measure_all(cases: Sequence[Case], work_dir: Path, workers: int, make_only: bool) -> Iterator[dict[str, Any]]:
    jobs = [(case, work_dir, make_only) for case in cases]
    if workers == 1:
        yield from map(_measured, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_measured, jobs)


def _measured_labelled(pairs: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    for scan, mask in pairs:
        truth = labelled_truth(Path(scan), Path(mask))
        spacing = [round(float(mm), 2) for mm in np.linalg.norm(truth.affine[:3, :3], axis=0)]
        described = f"{spacing[0]:g} x {spacing[2]:g} mm"
        yield {
            "scan": Path(scan).name.split(".")[0],
            "traits": [],
            "spacing_mm": spacing,
            "described": described,
            **compare(truth),
        }


def _write_csv(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write a row for each scan."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = list(totals([]))
        writer.writerow(["scan", "traits", "spacing_mm", *names, "notes", "error"])
        for result in results:
            figures = totals([result])
            spacing = " ".join(map(str, result["spacing_mm"]))
            writer.writerow(
                [result["scan"], " ".join(result["traits"]), spacing, *(figures[name] for name in names)]
                + [". ".join(result["notes"]), result["error"]]
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--scans", type=int, default=40, help="number of synthetic scans (40)")
    parser.add_argument("--seed", type=int, default=0, help="what they are drawn from (0)")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="measure these of them only, from 0")
    parser.add_argument("--spacing", type=float, nargs=3, help="mm per voxel (0.8 in plane, slices of 1.25-3)")
    parser.add_argument("--traits", nargs="*", choices=TRAITS, metavar="TRAIT", help="of every scan; drawn without it")
    parser.add_argument("--work_dir", type=Path, default=Path(tempfile.gettempdir()) / "rib_cage_benchmark")
    parser.add_argument("--workers", type=int, default=2, choices=(1, 2), help="processes (2)")
    parser.add_argument("--make_only", action="store_true", help="make the synthetic scans and measure nothing")
    parser.add_argument(
        "--labelled", nargs=2, action="append", metavar=("SCAN", "MASK"), help="measure real scans instead"
    )
    parser.add_argument("--json", type=Path, help="file to write everything to")
    parser.add_argument("--csv", type=Path, help="file to write a row for each scan to")
    return parser


def main() -> None:
    """Run the command line."""
    options = _parser().parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    cases = draw_cases(options.scans, options.seed, options.spacing, options.traits)
    cases = [case for case in cases if options.only is None or case.index in options.only]
    if options.labelled:
        measured = _measured_labelled(options.labelled)
    else:
        measured = _measure_all(cases, options.work_dir, options.workers, options.make_only)
    results = []
    if not options.make_only:
        print(_header())
    for result in measured:
        if options.make_only:
            print(f"{result['scan']:<15}{result['described']}", flush=True)
            continue
        results.append(result)
        print(_line(result["scan"], totals([result]), _words(result)), flush=True)
    if options.make_only:
        return
    everything = totals(results)
    by_trait = {trait: [r for r in results if trait in r["traits"]] for trait in TRAITS}
    by_trait["plain"] = [r for r in results if not r["traits"]]
    print("\n" + _header())
    for trait, own in by_trait.items():
        if own and not options.labelled:
            print(_line(trait, totals(own), f"{len(own)} scans"))
    print(_line("all", everything, f"{len(results)} scans"))
    print("; ".join(_sentences(everything)))
    if options.json:
        traits = {trait: totals(own) for trait, own in by_trait.items() if own}
        write_json(options.json, {"all": everything, "traits": traits, "scans": results})
    if options.csv:
        _write_csv(options.csv, results)


if __name__ == "__main__":
    main()
