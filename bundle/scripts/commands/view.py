"""
Write pages to scroll through scans of a prediction, each with its mask, in a browser and without a network.

    python -m scripts view --output_dir output/prediction --scan synthetic-0501

NiiVue draws them, from the package ipyniivue: ``pip install ipyniivue``.
"""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.bundle.utils import EXPR_KEY, ID_REF_KEY
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from monai.utils import str2bool

from scripts.candidates import Candidate
from scripts.commands._parsers import MIN_SPACING_MM, parser_of
from scripts.data.datalist import load_datalist
from scripts.data.loading_faults import loading_fault
from scripts.data.ribfrac import integer_ids
from scripts.files.scan_files import find_mask
from scripts.images.grids import grid_difference, on_grid_of
from scripts.images.headers import checked_axcodes
from scripts.images.image_reader import CTReader
from scripts.metrics.ribfrac_froc import scan_result
from scripts.reporting.pages.findings import Outcome, fracture_type, known_ids, match_outcomes
from scripts.reporting.pages.niivue import installed_niivue
from scripts.reporting.pages.page import report_of, show_viewer_links, viewer_address
from scripts.reporting.pages.viewer import Mark, write_viewer_page
from scripts.reporting.pages.views import places_mm
from scripts.reporting.tables import displacement_words, rib_words, type_words
from scripts.runs.records import read_record, record_path, recorded_candidates
from scripts.transforms import CheckFilesd, CheckImaged, CheckLabeld, CropBodyd, SpacingOnlyd

__all__ = ["main", "write_views"]


def write_views(
    output_dir: str | Path,
    scans: Sequence[str] = (),
    dataset_dir: str | Path | None = None,
    predictions_dir: str | Path | None = None,
    min_spacing_mm: float = MIN_SPACING_MM,
) -> list[Path]:
    """
    Write ``views/<scan>.html`` for scans of a run, and let its ``report.html`` lead to them.

    Args:
        output_dir: folder of a prediction or an evaluation, with its ``config.yaml``.
        scans: names of scans; none are all that have a mask.
        dataset_dir: where the scans are now; where the run found them, if None.
        predictions_dir: folder of the masks; ``predictions`` in ``output_dir`` where None.
        min_spacing_mm: an axis of finer voxels is resampled to this.

    Returns:
        The pages.

    Raises:
        FileNotFoundError: when the folder is of no run, a scan is not predicted, or NiiVue is not installed.
        ValueError: when the data set has no such scan, or its files do not fit the prediction.
    """
    output_dir = Path(output_dir)
    masks_dir = output_dir / "predictions" if predictions_dir is None else Path(predictions_dir)
    installed_niivue()  # before minutes of work
    settings = _settings(output_dir, dataset_dir)
    items = {
        str(item["scan"]): item
        for item in load_datalist(settings["dataset_dir"], settings["section"], settings["labels"], check=False)
    }
    scans = scans or [scan for scan in items if find_mask(masks_dir, scan).is_file()]
    if not scans:
        raise FileNotFoundError(
            f"{masks_dir} holds no mask of a scan of {settings['dataset_dir']}: predict them first."
        )
    for scan in scans:
        if scan not in items:
            near = get_close_matches(scan, items) or list(items)[:3]
            raise ValueError(f"{settings['dataset_dir']} has no scan {scan}, but {', '.join(near)} ...")
    pages = []
    reports = sorted(output_dir.glob("report*.html"))
    for scan in scans:
        mask, path = find_mask(masks_dir, scan), record_path(output_dir, scan)
        record = read_record(path)
        candidates = None if record is None else recorded_candidates(record)
        if candidates is None or not mask.is_file():
            missing = path if candidates is None else mask
            raise FileNotFoundError(f"{missing} does not exist, or is empty: predict {scan} first.")
        pages.append(output_dir / viewer_address(scan))
        ribs = output_dir / "ribs" / f"{scan}.nii.gz"
        settings["report"] = report_of(reports, scan)
        _write_view(pages[-1], items[scan], mask, ribs, candidates, settings, min_spacing_mm)
    for report in reports:
        show_viewer_links(report, scans)
    return pages


def _settings(output_dir: Path, dataset_dir: str | Path | None) -> dict[str, Any]:
    """
    Read what a run was given, from its config.

    It is read as data: folders of results are passed on, and an expression in a config may do anything.
    """
    path = output_dir / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the output_dir of a prediction or an evaluation.")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    given = {} if dataset_dir is None else {"dataset_dir": str(dataset_dir)}
    settings = {}
    for name in ("dataset_dir", "section", "labels", "body_hu", "operating_score"):
        value = given.get(name, (config.get("candidates") or {} if name == "operating_score" else config).get(name))
        if value is None:
            raise ValueError(f"{path} has no {name}: it is of no prediction or evaluation by this bundle.")
        if str(value)[:1] in (EXPR_KEY, ID_REF_KEY):
            advice = "give it by --dataset_dir" if name == "dataset_dir" else "write its value there"
            raise ValueError(f"{path} has the expression {value} as {name}: {advice}.")
        settings[name] = value
    return settings | {
        "labels": str2bool(settings["labels"]),
        "assumed_orientation": checked_axcodes(config.get("assumed_orientation")),
    }


def _write_view(
    page: Path,
    item: Mapping[str, Any],
    mask: Path,
    ribs: Path,
    candidates: Sequence[Candidate],
    settings: Mapping[str, Any],
    min_spacing_mm: float,
) -> None:
    data = _load(item, mask, len(candidates), settings["assumed_orientation"])
    data |= {"ribs": _loaded_ribs(ribs, data["image"])} if ribs.is_file() else {}
    names = _rib_names(ribs.with_name(f"{item['scan']}.csv")) if ribs.is_file() else {}
    marks = _marks(data, candidates)
    spacing_mm, any_mm = [min_spacing_mm] * 3, [np.inf] * 3
    show = Compose(
        [
            Orientationd("image", axcodes="RAS", labels=None),
            CropBodyd("image", body_hu=settings["body_hu"]),
            SpacingOnlyd("image", spacing_mm, min_pixdim=spacing_mm, max_pixdim=any_mm, dtype=np.float32),
        ]
    )
    image = show({"image": data["image"]})["image"]
    kinds = {"candidate": "pred", "fracture": "label"} | ({"rib": "ribs"} if names else {})
    instances = {kind: on_grid_of(image, data[key]) for kind, key in kinds.items() if key in data}
    threshold = float(settings["operating_score"])
    hu, affine = image[0].numpy(), image.affine.numpy()
    write_viewer_page(page, item["scan"], hu, affine, instances, marks, threshold, names, settings["report"])


def _loaded_ribs(path: Path, image: MetaTensor) -> MetaTensor:
    """Load the mask of a scan's ribs, as the run wrote it, on the scan's own grid."""
    mask: Any = nib.load(path)
    if difference := grid_difference(mask.shape, mask.affine, image.shape[1:], image.affine):
        raise ValueError(f"{path} is not on the grid of the scan, {difference}: predict the scan again.")
    ids = integer_ids(np.asanyarray(mask.dataobj), str(path))
    return MetaTensor(torch.as_tensor(ids.astype(np.int32))[None], affine=torch.as_tensor(mask.affine))


def _rib_names(path: Path) -> dict[int, str]:
    """Read the names of a scan's ribs, by their ids in the mask; empty where there is no table, or no rib."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            int(row["id"]): f"{row['side']} {row['number'] or 'unknown (%s from above)' % row['order']}"
            for row in csv.DictReader(file)
        }


def _load(item: Mapping[str, Any], mask: Path, candidates: int, axcodes: str | None) -> dict[str, Any]:
    """Load a scan with its mask and, where there is one, its annotation, all on the scan's own grid."""
    volumes: list[Hashable] = ["image", "pred", "label"]
    load = Compose(
        [
            CheckFilesd("image", assumed_orientation=axcodes),
            LoadImaged(volumes, CTReader(axcodes), image_only=True, allow_missing_keys=True),  # type: ignore[arg-type]
            EnsureChannelFirstd(volumes, allow_missing_keys=True),
            CheckImaged("image"),
            CheckLabeld("label", allow_missing_keys=True),
        ]
    )
    try:
        data = load({**item, "pred": str(mask)})
    except Exception as error:  # whatever a file can make the readers and the transforms raise
        raise ValueError(f"{item['scan']}: {loading_fault(error, item['image'])}") from None
    pred, image = data["pred"], data["image"]
    if difference := grid_difference(pred.shape[1:], pred.affine, image.shape[1:], image.affine):
        raise ValueError(f"{mask} is not on the grid of the scan, {difference}: predict {item['scan']} again.")
    ids = integer_ids(pred.numpy(), str(mask))
    if ids.max() != candidates:
        raise ValueError(f"{mask} has {ids.max()} candidates, its record {candidates}: predict the scan again.")
    data["pred"] = MetaTensor(torch.as_tensor(ids.astype(np.int32)), affine=pred.affine)
    return data


def _marks(data: Mapping[str, Any], candidates: Sequence[Candidate]) -> list[Mark]:
    """List the candidates by falling score and the annotated fractures, with what the tables say of them."""
    scores = [candidate.score for candidate in candidates]
    by_score = sorted(range(len(scores)), key=lambda i: -scores[i])
    matches: Mapping[int, tuple[Outcome, int]] = {}
    fractures = []
    if "label" in data:
        result = scan_result({"pred": data["pred"], "label_scores": scores}, data)
        matches = match_outcomes(result, by_score)
        places = places_mm(data["label"][0].numpy(), data["label"].affine.numpy())
        for number, fracture in enumerate(known_ids(result)):
            hits = [f"C{i + 1} ({scores[i]:.2f})" for i, (_, hit) in matches.items() if hit == number]
            told = f"hit by {', '.join(hits)}" if hits else "missed"
            words = f"{fracture_type(int(result.fracture_codes[number]))}; {told}"
            fractures.append(Mark("fracture", fracture, "hit" if hits else "missed", None, words, places[fracture]))
    places = places_mm(data["pred"][0].numpy(), data["pred"].affine.numpy())
    by_falling_score = [
        Mark("candidate", i + 1, matches.get(i, ("candidate", -1))[0], scores[i], _words(candidates[i]), places[i + 1])
        for i in by_score
    ]
    return [*by_falling_score, *fractures]


def _words(candidate: Candidate) -> str:
    """Tell where a candidate lies, its type and displacement, as far as they are known, and its volume."""
    side = f"{candidate.side} side" if candidate.side else ""
    third = f"{candidate.level} third" if candidate.level else ""
    place = ", ".join(filter(None, [side, candidate.part, third]))
    told = filter(None, [place, rib_words(candidate), type_words(candidate), displacement_words(candidate)])
    return "; ".join([*told, f"{candidate.volume_mm3:.0f} mm³"])


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Write pages from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("view")
    options = parser.parse_args(arguments)
    try:
        pages = write_views(
            options.output_dir, options.scan, options.dataset_dir, options.predictions_dir, options.min_spacing_mm
        )
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    for page in pages:
        print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
