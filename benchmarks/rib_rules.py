"""
Try rules that drop candidates by where they lie to the ribs: the fractures lost, and the false candidates spared.

    python benchmarks/rib_rules.py --annotated data/implanted --plain data/real --work_dir output/rules --json r.json

Both are data sets as a prediction takes them. Nobody has annotated the plain ones: each candidate there counts as
false. A scan is predicted once, with all its candidates, and kept in the work folder with what the ribs tell of each; a
second run does the arithmetic only. Rules judge a candidate only between ribs of a side on which eight or more were
found. Of the windows that the network computes, those within 12 mm of a rib are counted too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.anatomy.rib_cage import RibCage  # noqa: E402
from scripts.data.datalist import load_datalist  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402
from scripts.images import CTReader  # noqa: E402
from scripts.inferers import SlidingWindowProbabilityInferer  # noqa: E402
from scripts.metrics.froc import ScanResult, detection_scores  # noqa: E402
from scripts.metrics.ribfrac_froc import scan_result  # noqa: E402
from scripts.transforms import FindCandidatesd, InvertCandidatesd  # noqa: E402
from scripts.transforms.labels import CheckLabeld  # noqa: E402

__all__ = ["RULES", "applied", "rib_features", "rule_figures"]

MOST_POINTS = 2000  # of a candidate
NEAR_MM = 12.0  # of a rib, for windows
MIN_RIBS = 8  # on a side that is known well
MIN_OVERLAP = 0.2
OPERATING_SCORE = 0.5

Row = Mapping[str, Any]
Rule = Callable[[Row], float]  # what a candidate's score is multiplied by; 0 drops it


def rib_features(points_mm: NDArray[np.float64], cage: RibCage) -> dict[str, Any]:
    """
    Tell how a candidate lies to the ribs.

    Args:
        points_mm: its voxels, RAS mm, shape ``(n, 3)``.
        cage: the ribs.

    Returns:
        ``least_mm``, ``median_mm`` and ``center_mm`` from the nearest rib's voxels; ``beyond_mm``, how far its center
        lies ahead of the front end of the rib with the nearest centerline, 0 beside it; ``from_spine_mm`` and
        ``percent``, of this rib; its ``number``; ``known``, whether the rule may judge it. Empty without ribs.
    """
    if not cage.ribs:
        return {}
    spacing_mm = np.linalg.norm(cage.affine[:3, :3], axis=0)
    ids = cage.mask[tuple((places := np.argwhere(cage.mask)).T)]
    center = points_mm.mean(axis=0)
    asked = np.linalg.solve(cage.affine[:3, :3], (np.vstack([points_mm, center]) - cage.affine[:3, 3]).T).T
    away_mm, _ = cKDTree(places * spacing_mm).query(asked * spacing_mm)
    lines = [np.linalg.norm(rib.centerline_mm - center, axis=1).min() for rib in cage.ribs]
    rib = cage.ribs[int(np.argmin(lines))]
    ahead = rib.centerline_mm[-1] - rib.centerline_mm[-min(6, len(rib.centerline_mm))]
    beyond = float((center - rib.centerline_mm[-1]) @ ahead / max(np.linalg.norm(ahead), 1e-9))
    is_last = rib.way_at(center) > rib.length_mm - 1e-6
    own = [other for other in cage.ribs if other.side == rib.side]
    heights = (places[np.isin(ids, [other.id for other in own])] @ cage.affine[2, :3]) + cage.affine[2, 3]
    between = bool(len(heights)) and bool(heights.min() <= center[2] <= heights.max())
    return {
        "least_mm": float(away_mm[:-1].min()),
        "median_mm": float(np.median(away_mm[:-1])),
        "center_mm": float(away_mm[-1]),
        "beyond_mm": beyond if is_last and rib.ends_in_scan else 0.0,
        "from_spine_mm": rib.way_at(center) if rib.starts_in_scan else None,
        "percent": 100 * rib.way_at(center) / rib.length_mm if rib.starts_in_scan and rib.ends_in_scan else None,
        "number": rib.number,
        "known": between and len(own) >= MIN_RIBS,
    }


def _far(name: str, limit_mm: float, factor: float = 0.0) -> Rule:
    return lambda row: factor if row.get("known") and row[name] > limit_mm else 1.0


def _near_spine(limit_mm: float) -> Rule:
    return lambda row: 0.0 if row.get("known") and (row["from_spine_mm"] or limit_mm) < limit_mm else 1.0


RULES: dict[str, Rule] = {
    "none": lambda row: 1.0,
    **{f"nearest voxel > {d} mm": _far("least_mm", d) for d in (0, 1, 2, 3, 5, 8, 10, 15)},
    **{f"half its voxels > {d} mm": _far("median_mm", d) for d in (2, 3, 5, 8, 10, 15)},
    **{f"half its voxels > {d} mm, score halved": _far("median_mm", d, 0.5) for d in (3, 5, 8)},
    **{f"center > {d} mm": _far("center_mm", d) for d in (3, 5, 8, 10)},
    **{f"nearest voxel > {d} mm, score halved": _far("least_mm", d, 0.5) for d in (3, 5)},
    **{f"> {d} mm beyond the front end": _far("beyond_mm", d) for d in (0.1, 3, 5, 8, 10, 15)},
    "> 3 mm beyond the front end, score halved": _far("beyond_mm", 3, 0.5),
    **{f"< {d} mm from the spine's end": _near_spine(d) for d in (2, 5, 10, 15, 20)},
}


def applied(scan: Row, rule: Rule) -> ScanResult:
    """Return what a scan adds to the score when a rule has changed or dropped its candidates."""
    rows = scan["candidates"]
    factors = np.array([rule(row) for row in rows])
    kept = np.flatnonzero(factors > 0)
    scores = np.array([row["score"] for row in rows]).reshape(-1) * factors
    return ScanResult(
        fracture_codes=np.full(scan["fractures"], -1),
        candidate_codes=np.full(len(kept), -1),
        label_scores=scores[kept],
        best_fracture=np.array([rows[i]["fracture"] for i in kept], dtype=int),
        best_overlap=np.array([rows[i]["overlap"] for i in kept], dtype=float),
        candidate_voxels=0,
        fracture_voxels=0,
        shared_voxels=0,
    )


def rule_figures(scans: Sequence[Row], rule: Rule) -> dict[str, float]:
    """
    Measure a rule on a group of scans.

    Args:
        scans: as they lie in the work folder.
        rule: the rule.

    Returns:
        at the operating score the ``found`` fractures and the ``false`` candidates per scan; ``all_found`` and
        ``all_false``, the same at any score; ``average_recall`` where there are fractures.
    """
    results = [applied(scan, rule) for scan in scans]
    figures: dict[str, float] = {"scans": len(scans), "fractures": sum(scan["fractures"] for scan in scans)}
    for name, least in (("", OPERATING_SCORE), ("all_", 0.0)):
        found = misses = 0
        for result in results:
            counts = result.label_scores >= least
            hits = counts & (result.best_overlap > MIN_OVERLAP)
            found += len(set(result.best_fracture[hits].tolist()))
            misses += int((counts & ~hits).sum())
        figures |= {f"{name}found": found, f"{name}false": round(misses / max(len(scans), 1), 2)}
    if figures["fractures"]:
        figures["average_recall"] = round(float(detection_scores(results)["average_recall"]), 4)
    return figures


def _places(ids: NDArray[np.int_], affine: NDArray[np.float64], cage: RibCage) -> dict[int, dict[str, Any]]:
    """Return the volume, the place and the features of each instance, by its id."""
    places = {}
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        voxels = np.argwhere(ids[box] == number) + [part.start for part in box]
        points = voxels[:: -(-len(voxels) // MOST_POINTS)] @ affine[:3, :3].T + affine[:3, 3]
        places[number] = {
            "volume_mm3": round(len(voxels) * float(abs(np.linalg.det(affine[:3, :3]))), 1),
            "voxel": [round(float(v), 1) for v in voxels.mean(axis=0)],
        } | rib_features(points, cage)
    return places


class _Windows:
    """A network that counts its windows and finds nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        self.count += len(windows)
        return torch.full_like(windows, -100.0)


class _Kept:
    """An inferer that keeps where it was asked to look."""

    def __init__(self, inferer: SlidingWindowProbabilityInferer) -> None:
        self.inferer = inferer
        self.where: torch.Tensor | None = None

    def __call__(self, inputs: torch.Tensor, network: Any, where: torch.Tensor | None = None) -> torch.Tensor:
        self.where = where
        return self.inferer(inputs, network, where=where)


class _Predictor:
    """Predicts scans as ``inference.yaml`` does, with all candidates."""

    def __init__(self, engine: str) -> None:
        config = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs" / "inference.yaml"))
        config["bundle_root"] = str(BUNDLE)
        config["engine"] = engine
        self.preprocessing = config.get_parsed_content("preprocessing")
        self.network = config.get_parsed_content("network").eval()
        weights = torch.load(config.get_parsed_content("checkpoint"), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights.get("model", weights))
        self.inferer = config.get_parsed_content("inferer")
        self.passes = self.inferer.inferer.inferer
        self.passes.inferer = _Kept(self.passes.inferer)
        self.find = Compose(
            [
                FindCandidatesd(
                    "pred",
                    config.get_parsed_content("candidates") | {"max_rib_mm": None},  # one of the rules that are tried
                    config.get_parsed_content("hu_range"),
                    min_score=0.0,
                ),
                InvertCandidatesd("pred", transform=self.preprocessing, orig_keys="image"),
            ]
        )
        self.label = Compose(
            [
                LoadImaged("label", CTReader(), image_only=True),  # type: ignore[arg-type]
                EnsureChannelFirstd("label"),
                CheckLabeld("label"),
            ]
        )

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            data = self.preprocessing(dict(item))
            image, cage = data["image"], data["rib_cage"]
            start = time.perf_counter()
            probability = self.inferer(image.as_tensor()[None], self.network)[0]
            seconds = time.perf_counter() - start
            windows = self._windows(image, cage)
        data["pred"] = MetaTensor(
            probability.clone(), meta=image.meta.copy(), applied_operations=list(image.applied_operations)
        )
        data = self.find(data)
        ids, affine = data["pred"][0].numpy().astype(int), np.asarray(data["pred"].affine, dtype=float)
        if "label" in item:
            data |= self.label({"label": item["label"]})
        else:
            data["label"] = np.zeros((1, *ids.shape), dtype=np.int16)
            data.pop("label_codes", None)
        match = scan_result(data, data)
        rows = [
            {
                "score": float(match.label_scores[number - 1]),
                "fracture": int(match.best_fracture[number - 1]),
                "overlap": float(match.best_overlap[number - 1]),
            }
            | place
            for number, place in _places(ids, affine, cage).items()
        ]
        return {
            "scan": item["scan"],
            "fractures": len(match.fracture_codes),
            "ribs": [rib.name for rib in cage.ribs],
            "notes": list(cage.notes),
            "seconds": round(seconds, 1),
            "windows": windows,
            "candidates": rows,
            "placed": list(_places(np.asarray(data["label"])[0].astype(int), affine, cage).values()),
        }

    def place(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Tell how the annotated fractures of a scan lie to its ribs, without a prediction."""
        cage = self.preprocessing(dict(item))["rib_cage"]
        label = self.label({"label": item["label"]})["label"]
        affine = np.asarray(label.affine, dtype=float)
        placed = list(_places(np.asarray(label)[0].astype(int), affine, cage).values())
        return {"scan": item["scan"], "ribs": [rib.name for rib in cage.ribs], "placed": placed}

    def _windows(self, image: MetaTensor, cage: RibCage) -> dict[str, int]:
        """Count the windows of both passes: those with bone, and those with bone near ribs."""
        scan = image.as_tensor()[None]
        ribs = cage.on_grid(np.asarray(image.affine, dtype=float), image.shape[1:]) > 0
        is_near = (
            ndimage.distance_transform_edt(~ribs, sampling=image.pixdim.numpy()) <= NEAR_MM if ribs.any() else ribs
        )
        of_ribs = torch.where(torch.from_numpy(is_near), scan, -1.0)  # without bone elsewhere
        counts = {}
        for name, inferer, where in (
            ("first", self.passes.first, None),
            ("second", self.passes.inferer.inferer, self.passes.inferer.where),
        ):
            for ending, shown in (("", scan), ("_near_ribs", of_ribs)):
                counter = _Windows()
                inferer(shown, counter, where=where)
                counts[name + ending] = counter.count
        return counts


def _table(scans: Sequence[Row]) -> list[dict[str, Any]]:
    """Measure each rule on the scans with and without annotation, and on both."""
    groups = {
        "annotated": [scan for scan in scans if scan["group"] == "annotated"],
        "plain": [scan for scan in scans if scan["group"] == "plain"],
        "both": [scan for scan in scans if scan["group"] != "placed"],
    }
    return [
        {"rule": name}
        | {group: rule_figures(of_group, rule) for group, of_group in groups.items() if of_group}
        | {"dropped_fractures": sum(rule(row) == 0 for scan in scans for row in scan["placed"])}
        for name, rule in RULES.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotated", nargs="*", default=[], help="data sets whose fractures are annotated")
    parser.add_argument("--plain", nargs="*", default=[], help="data sets that nobody has annotated")
    parser.add_argument("--placed", nargs="*", default=[], help="annotated ones whose fractures are placed, no more")
    parser.add_argument("--work_dir", required=True, help="folder for what was found of each scan")
    parser.add_argument("--engine", default="auto", help="as in inference.yaml")
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    work_dir = Path(options.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    predictor = None
    scans = []
    for group in ("annotated", "plain", "placed"):
        for folder in getattr(options, group):
            for item in load_datalist(folder, "all", labels=group != "plain", check=False):
                path = work_dir / f"{group}-{Path(folder).name}-{item['scan']}.json"
                if not path.is_file():
                    predictor = predictor or _Predictor(options.engine)
                    start = time.perf_counter()
                    found = predictor.place(item) if group == "placed" else predictor(item)
                    write_json(path, found | {"group": group})
                    print(f"{path.stem}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
                scans.append(json.loads(path.read_text()))
    rows = _table(scans)
    windows = {scan["scan"]: scan["windows"] for scan in scans if "windows" in scan}
    if options.json:
        write_json(Path(options.json), {"rules": rows, "windows": windows})
    for row in rows:
        print(row["rule"], *(f"{group} {figures}" for group, figures in row.items() if group != "rule"), sep=" | ")
    for name, counts in windows.items():
        print(name, counts)


if __name__ == "__main__":
    main()
