"""
Rehearse the day that RibFrac is there: its records made of synthetic scans, and all commands from download on.

    python benchmarks/rehearsal.py --output_dir output/rehearsal --markdown docs/how-to/train-on-ribfrac.md

A server on this machine stands for Zenodo: it has RibFrac's records, with archives and tables of the real names, of
synthetic scans of the real size. Each command runs in a process of its own. A step that is done is left out when the
program is started again, and what no later step needs is removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUNDLE_DIR = ROOT / "bundle"
sys.path[:0] = [str(ROOT), str(BUNDLE_DIR)]

from benchmarks.markdown import show, table  # noqa: E402
from scripts.data.ribfrac import read_ribfrac_table  # noqa: E402
from scripts.files.atomic_write import whole_file, write_json, write_text  # noqa: E402
from scripts.synthetic.phantom import generate_phantoms  # noqa: E402

__all__ = ["Part", "Step", "commands", "main", "make_records", "parts", "run", "serving"]

SPACING_MM = (0.74, 0.74, 1.25)  # RibFrac's medians
_SECOND_SHARE = 120 / 420  # of the training scans, in their second record
_SECONDS_BETWEEN_LOOKS = 1.0  # at the disk


@dataclass(frozen=True)
class Part:
    """
    A Zenodo record of RibFrac.

    Args:
        record: its number.
        section: ``train``, ``val`` or ``test``.
        name: of its files, with ``{}`` for images, labels or info.
        folder: in its archives.
        first: number of its first scan.
        phantoms: numbers of the synthetic scans in it.
    """

    record: int
    section: str
    name: str
    folder: str
    first: int
    phantoms: range

    def scans(self) -> Iterator[tuple[str, str]]:
        """Name each synthetic scan, and the scan that it stands for."""
        for phantom in self.phantoms:
            yield f"RibFrac{phantom}", f"RibFrac{phantom - self.phantoms.start + self.first}"


def parts(training: int, validation: int, test: int) -> list[Part]:
    """Share so many synthetic scans out to RibFrac's records."""
    second = 1 + training - round(training * _SECOND_SHARE)
    return [
        Part(3893508, "train", "ribfrac-train-{}-1", "Part1/", 1, range(1, second)),
        Part(3893498, "train", "ribfrac-train-{}-2", "Part2/", 301, range(second, 1 + training)),
        Part(3893496, "val", "ribfrac-val-{}", "ribfrac-val-{}/", 421, range(421, 421 + validation)),
        Part(3993380, "test", "ribfrac-test-{}", "", 501, range(501, 501 + test)),
    ]


def make_records(folder: Path, scans: Sequence[int], shape: tuple[int, int, int]) -> None:
    """
    Make RibFrac's archives and tables of synthetic scans.

    Args:
        folder: gets ``served/``, the files of all records, and ``records.json``, what each record holds. What is there
            is kept.
        scans: of training, validation and test; the last ones without labels.
        shape: voxels of each scan.
    """
    if (folder / "records.json").is_file():
        return
    phantoms = folder / "phantoms"
    generate_phantoms(phantoms, *scans, shape=shape, spacing=SPACING_MM, workers=1)
    records = {}
    for part in parts(*scans):
        files = [_archive(folder, part, "image")]
        if part.section != "test":
            files += [_archive(folder, part, "label"), _info(folder, part)]
        records[str(part.record)] = [_described(path) for path in files]
    write_json(folder / "records.json", records)
    shutil.rmtree(phantoms)


def _archive(folder: Path, part: Part, kind: str) -> Path:
    """Zip the images or the labels of a record."""
    path = folder / "served" / f"{part.name.format(f'{kind}s')}.zip"
    if path.is_file():
        return path
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for phantom, scan in part.scans():
            source = folder / "phantoms" / f"ribfrac-{part.section}-{kind}s" / f"{phantom}-{kind}.nii.gz"
            archive.write(source, f"{part.folder.format(f'{kind}s')}{scan}-{kind}.nii.gz")
    return path


def _info(folder: Path, part: Part) -> Path:
    """Write the table of a record."""
    phantoms = read_ribfrac_table(folder / "phantoms" / f"ribfrac-{part.section}-info.csv", ()).rows
    lines = ["public_id,label_id,label_code"]
    for phantom, scan in part.scans():
        rows = (row.values for row in phantoms if row.values["public_id"] == phantom)
        lines += [f"{scan},{row['label_id']},{row['label_code']}" for row in rows]
    path = folder / "served" / f"{part.name.format('info')}.csv"
    write_text(path, "\n".join(lines) + "\n")
    return path


def _described(path: Path) -> dict[str, Any]:
    """Tell what Zenodo's API tells of a file, but for its address."""
    with path.open("rb") as file:
        return {
            "key": path.name,
            "size": path.stat().st_size,
            "checksum": f"md5:{hashlib.file_digest(file, 'md5').hexdigest()}",
        }


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Tell nothing of what is asked for."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve what ``make_records`` made as Zenodo does, and give the address of its API."""
    served = folder / "served"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(served))) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        for number, files in json.loads((folder / "records.json").read_text()).items():
            listed = [{**file, "links": {"self": f"{url}/{file['key']}"}} for file in files]
            write_json(served / "records" / number, {"files": listed})
        Thread(target=server.serve_forever, daemon=True).start()
        yield url
        server.shutdown()


@dataclass(frozen=True)
class Step:
    """
    A command of the day.

    Args:
        says: what it is, for the table.
        command: what follows ``python -m``.
        pattern: of what matters in its log; of several finds the last counts.
        printed: what the table says of it, with the pattern's groups.
        frees: files and folders that no later step needs, patterns in the output folder.
    """

    says: str
    command: Sequence[str]
    pattern: str
    printed: str
    frees: Sequence[str] = ()


def commands(folder: Path, api_url: str) -> dict[str, Step]:
    """
    Name the commands of ``docs/how-to/train-on-ribfrac.md`` in their order.

    Args:
        folder: of all data and results.
        api_url: of what stands for Zenodo.
    """
    data, weights, tuned = f"{folder}/ribfrac", f"{folder}/training/models/model.pt", f"{folder}/my_tuned.yaml"

    def download(*sections: str) -> list[str]:
        return ["scripts", "download", "--output_dir", data, "--api_url", api_url, "--sections", *sections]

    def bundle(run_id: str, *configs: str) -> list[str]:
        return ["monai.bundle", "run", run_id, "--config_file", str(list(configs)), "--dataset_dir", data]

    def predicting(run_id: str, section: str, output: str, *overlays: str) -> list[str]:
        words = bundle(run_id, "configs/inference.yaml", *overlays)
        return [*words, "--section", section, "--checkpoint", weights, "--output_dir", f"{folder}/{output}"]

    evaluate = "configs/evaluate.yaml"
    recall = r"average recall +([\d.]+)", r"average recall \1"
    return {
        "download": Step(
            "`download`, training and validation",
            download("training", "validation"),
            r"(\d+) files, ([\d.]+) GB",
            r"\1 files, \2 GB",
            ["served/ribfrac-train-*", "served/ribfrac-val-*"],
        ),
        "inspect": Step(
            "`inspect`, all of them",
            ["scripts", "inspect", "--dataset_dir", data, "--output", f"{folder}/inspect.html"],
            r"(?s)scans +(\d+).*\nfractures +(\d+).*\nProblems: (\d+)",
            r"\1 scans, \2 fractures, problems: \3",
        ),
        "training": Step(
            "`training`, one epoch from the shipped weights",
            [
                *bundle("training", "configs/train.yaml"),
                *("--pretrained", "models/model.pt", "--max_epochs", "1"),
                *("--cache_dir", f"{folder}/cache", "--output_dir", f"{folder}/training"),
            ],
            r"training_loss ([\d.]+),.* validation_loss ([\d.]+)",
            r"losses of training \1 and validation \2",
            ["cache"],
        ),
        "untuned": Step(
            "`evaluating` on validation, with probabilities",
            [*predicting("evaluating", "validation", "untuned", evaluate), "--outputs#probabilities", "true"],
            *recall,
        ),
        "tune": Step(
            "`tune`",
            [
                *("scripts", "tune", "--probabilities_dir", f"{folder}/untuned/probabilities"),
                *("--dataset_dir", data, "--section", "validation", "--output", tuned),
            ],
            r"before .* ([\d.]+) +[\d.]+ +[\d.]+\n1 .* ([\d.]+) +[\d.]+ +[\d.]+\n",
            r"average recall \1 before, \2 with the best settings",
            ["untuned/probabilities"],
        ),
        "evaluation": Step(
            "`evaluating` on validation, tuned",
            predicting("evaluating", "validation", "evaluation", evaluate, tuned),
            *recall,
        ),
        "download_test": Step("`download`, test", download("test"), r"([\d.]+) GB, of", r"\1 GB", ["served"]),
        "test": Step(
            "`inference` on test",
            [*predicting("inference", "test", "test", tuned), "--candidates#min_score", "0.0"],
            r"lists (\d+) of (\d+) scan",
            r"\1 of \2 scans",
        ),
        "submission": Step(
            "`submission`",
            [
                *("scripts", "submission", "--section", "any", "--predictions_dir", f"{folder}/test/predictions"),
                *("--output", f"{folder}/submission.zip"),
            ],
            r"(\d+) scans, ([\d.]+) MB",
            r"\1 scans, \2 MB",
        ),
    }


def run(name: str, step: Step, folder: Path) -> dict[str, Any]:
    """
    Run a command in a process of its own, unless that was done; then remove what no later one needs.

    Args:
        name: of the step, and of its log.
        step: what to run.
        folder: of all data and results.

    Returns:
        Seconds and seconds of the processor; GB that it added to the folder at the most, and at its end; what it
        printed that matters.
    """
    figures = folder / "steps" / f"{name}.json"
    if not figures.is_file():
        figures.parent.mkdir(exist_ok=True)
        log = folder / "steps" / f"{name}.log"
        before = most = _bytes(folder)
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with log.open("w") as file:
            command = [sys.executable, "-m", *step.command]
            process = subprocess.Popen(command, cwd=BUNDLE_DIR, stdout=file, stderr=subprocess.STDOUT)
            while process.poll() is None:
                most = max(most, _bytes(folder))
                try:
                    process.wait(_SECONDS_BETWEEN_LOOKS)
                except subprocess.TimeoutExpired:
                    continue
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        kept = _bytes(folder)
        if process.returncode:
            sys.exit(f"error: {log}: the command failed, see the end of that file; then start again.")
        write_json(
            figures,
            {
                "says": step.says,
                "seconds": seconds,
                "cpu_seconds": after.ru_utime - used.ru_utime + after.ru_stime - used.ru_stime,
                "most_gb": (max(most, kept) - before) / 1e9,
                "kept_gb": (kept - before) / 1e9,
                "printed": _printed(step, log.read_text(errors="replace")),
            },
        )
    for path in (path for pattern in step.frees for path in folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return json.loads(figures.read_text())


def _bytes(folder: Path) -> int:
    """Add up the files below a folder, while others come and go."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # it has just been renamed
                continue
    return total


def _printed(step: Step, log: str) -> str:
    """Find what matters in a log, the last time that it is there."""
    found = list(re.finditer(step.pattern, log))
    return found[-1].expand(step.printed) if found else ""


def _table(steps: Mapping[str, Mapping[str, Any]], scans: Sequence[int], shape: Sequence[int]) -> str:
    """Make the table, with what it is of."""
    rows = [
        [
            step["says"],
            f"{step['seconds']:.0f}",
            f"{step['cpu_seconds']:.0f}",
            f"{step['most_gb']:.2f}",
            f"{step['kept_gb']:.2f}",
            step["printed"],
        ]
        for step in steps.values()
    ]
    total = sum(step["seconds"] for step in steps.values()) / 60
    says = (
        f"{scans[0]} training, {scans[1]} validation and {scans[2]} test scans of {'×'.join(map(str, shape))} voxels; "
        f"{total:.0f} minutes in all."
    )
    header = ["step", "s", "s of the processor", "GB more at most", "GB more kept", "it says"]
    return "\n".join([textwrap.fill(says, 120), "", *table(header, rows)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command line.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of all data and results")
    parser.add_argument("--scans", type=int, nargs=3, default=(28, 6, 6), help="of training, validation and test")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 357), help="voxels of a scan")
    parser.add_argument("--markdown", type=Path, help="file with the markers that the table goes between")
    options = parser.parse_args(arguments)
    folder = options.output_dir.resolve()
    make_records(folder, options.scans, tuple(options.shape))
    steps = {}
    with serving(folder) as url:
        for name, step in commands(folder, url).items():
            steps[name] = run(name, step, folder)
            print(f"{name}: {steps[name]}", flush=True)
    show(_table(steps, options.scans, options.shape), options.markdown, "rehearsal")


if __name__ == "__main__":
    main()
