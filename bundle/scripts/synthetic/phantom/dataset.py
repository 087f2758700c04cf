"""A whole synthetic data set in RibFrac's layout."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.files.atomic_write import write_json, write_text, write_volume
from scripts.synthetic.choices import RIBFRAC_NAMES, SIZES
from scripts.synthetic.phantom.scan import Phantom, make_phantom
from scripts.synthetic.phantom.traits import check_traits, trait_rng

__all__ = ["INFO_NAME", "SECTIONS", "generate_phantoms", "make_scan"]

INFO_NAME = "dataset-info.json"
GENERATOR_VERSION = 2  # raise it with every change to what a seed gives
# section: RibFrac's folder name, first id, most scans before the ids of the next section
SECTIONS = {"training": ("train", 1, 420), "validation": ("val", 421, 80), "test": ("test", 501, 160)}
_EMPTY_EVERY = 6  # one scan in so many has no fracture
_UNFINISHED = ".unfinished"  # folder of what is known about finished scans while the others are made
_MOST_WORKERS = 8  # a full scan takes about 1.5 GB while it is made


def generate_phantoms(
    output_dir: str | os.PathLike[str],
    training: int = 24,
    validation: int = 6,
    test: int = 12,
    seed: int = 0,
    size: str = "full",
    workers: int | None = None,
    shape: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    subtle: float = 0.0,
    traits: Sequence[str] = (),
    names: str = RIBFRAC_NAMES,
) -> None:
    """
    Write synthetic scans, labels and tables in RibFrac's layout.

    The sections lie in ``ribfrac-train-images``, ``ribfrac-train-labels`` and ``ribfrac-train-info.csv``, and so on
    for ``val`` and ``test``; unlike RibFrac's, the test scans have labels. Every sixth scan of a section has no
    fracture. Each scan depends on the seed, its section and its place in it alone, so neither the number of workers
    nor the size of the other sections changes it.

    ``dataset-info.json`` is written last: a folder with it and the same settings is left as it is, and a generation
    that was interrupted goes on with the scans that lack.

    Args:
        output_dir: folder of the data set, made if needed.
        training: number of scans, numbered from 1, at most 420.
        validation: number of scans, numbered from 421, at most 80.
        test: number of scans, numbered from 501, at most 160.
        seed: seed of the data set.
        size: ``full`` or ``slab``, see :py:func:`scripts.synthetic.phantom.scan.make_phantom`.
        workers: processes that make scans side by side; one per processor core, at most 8, when ``None``.
        shape: voxels of every scan, in place of ``size``; for quick trials.
        spacing: mm per voxel of every scan.
        subtle: share of fractures that are subtle, 0 to 1.
        traits: names in :py:data:`scripts.synthetic.choices.TRAITS`; each scan has each of them with a
            probability of one half.
        names: format of a scan's name, of its number. A folder that is there keeps the names that it has.

    Raises:
        ValueError: when the folder holds something else, the sections do not fit, ``subtle`` is no share, or a trait is
            unknown.
    """
    counts = {"training": training, "validation": validation, "test": test}
    for section, count in counts.items():
        if not 0 <= count <= SECTIONS[section][2]:
            raise ValueError(f"{section} is {count}; ids leave room for 0 to {SECTIONS[section][2]} scans.")
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; choose one of {', '.join(SIZES)}.")
    if not 0 <= subtle <= 1:
        raise ValueError(f"subtle is {subtle}; it is a share, 0 to 1.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; give 1 or more.")
    folder = Path(output_dir)
    settings = {
        "description": "synthetic data, no patient",
        "generator": "scripts.synthetic.phantom",
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        **counts,
        "size": size,
        "subtle": subtle,
        **({"traits": sorted(check_traits(traits))} if traits else {}),
        "shape": None if shape is None else list(shape),
        "spacing": None if spacing is None else list(spacing),
    }
    if _is_finished(folder, settings):
        return
    jobs = [(folder, section, index, settings, names) for section, count in counts.items() for index in range(count)]
    workers = min(workers or min(os.cpu_count() or 1, _MOST_WORKERS), max(len(jobs), 1))
    tables: dict[str, list[tuple[str, int, int]]] = {section: [] for section in counts}
    # processes that start afresh: those forked from a program with threads, as torch's, may hang
    with multiprocessing.get_context("spawn").Pool(workers) if workers > 1 else nullcontext() as pool:
        scans = map(_write_scan, jobs) if pool is None else pool.imap(_write_scan, jobs)
        for section, rows in tqdm(scans, total=len(jobs), desc="synthetic scans", unit="scan"):
            tables[section] += rows
    for section, (name, _, _) in SECTIONS.items():
        if tables[section]:
            lines = ["public_id,label_id,label_code", *(",".join(map(str, row)) for row in tables[section])]
            write_text(folder / f"ribfrac-{name}-info.csv", "\n".join(lines) + "\n")
    write_json(folder / INFO_NAME, {**settings, "finished": True}, indent=2)
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)


def _is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Tell whether the folder holds this data set; claim it if it is new."""
    info_path = folder / INFO_NAME
    if info_path.is_file():
        info = json.loads(info_path.read_text())
        finished = bool(info.pop("finished", False))
        if info != settings:
            differing = sorted(key for key in settings.keys() | info.keys() if settings.get(key) != info.get(key))
            raise ValueError(
                f"{info_path}: the folder holds a synthetic data set of other settings ({', '.join(differing)}); "
                "give another output_dir or delete the folder."
            )
        return finished
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: the folder holds other data (no {INFO_NAME}); give a new or an empty output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(info_path, {**settings, "finished": False}, indent=2)
    return False


def _write_scan(job: tuple[Path, str, int, dict[str, Any], str]) -> tuple[str, list[tuple[str, int, int]]]:
    """Write one scan and its label, unless an interrupted run did; returns its rows of the table."""
    folder, section, index, settings, names = job
    name, first_id, _ = SECTIONS[section]
    public_id = names.format(first_id + index)
    done_path = folder / _UNFINISHED / f"{public_id}.json"
    if done_path.is_file():
        codes = {int(instance): code for instance, code in json.loads(done_path.read_text()).items()}
    else:
        phantom = make_scan(settings, section, index)
        codes = phantom.label_codes
        write_volume(folder / f"ribfrac-{name}-images" / f"{public_id}-image.nii.gz", phantom.image, phantom.affine)
        write_volume(folder / f"ribfrac-{name}-labels" / f"{public_id}-label.nii.gz", phantom.label, phantom.affine)
        write_text(done_path, json.dumps(codes))
    return section, [(public_id, instance, code) for instance, code in sorted({0: 0, **codes}.items())]


def make_scan(settings: Mapping[str, Any], section: str, index: int) -> Phantom:
    """
    Make a scan of a synthetic data set.

    Args:
        settings: what the data set's ``dataset-info.json`` holds.
        section: ``training``, ``validation`` or ``test``.
        index: place in the section, from 0.

    Returns:
        The scan, always the same one, with what is known of each fracture.
    """
    seed = (settings["seed"], list(SECTIONS).index(section), index)
    return make_phantom(
        seed,
        settings["size"],
        shape=settings["shape"],
        spacing=settings["spacing"],
        fractures=0 if index % _EMPTY_EVERY == _EMPTY_EVERY - 1 else None,
        traits=[trait for trait in settings.get("traits", ()) if trait_rng(seed, f"has {trait}").random() < 0.5],
        subtle=settings["subtle"],
    )
