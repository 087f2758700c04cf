"""
The commands, configs and programs of the pages, run as they stand there on small data.

Each page has a small clone of its own: small scans in its ``data/`` stand for those below ``/data/``, its configs say
what makes a run small, and numbers of a command that make it long are replaced. What cannot run here is marked in the
page, by a comment before the block; the commands of these are parsed all the same.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import BUNDLE_ROOT, lps_affine, write_scan
from dicom_scans import write_series
from monai.bundle import ConfigComponent, ConfigParser
from page_blocks import BLOCKS, ROOT, Block

from scripts.runs.overlays import overlay_fault
from scripts.runs.settings import settings_given

LANGUAGES = {"bash", "json", "mermaid", "python", "text", "yaml"}
# the reasons why blocks are not run, and the pages that have such blocks
NOT_TESTED = {
    "changes the git hooks of the clone": ["CONTRIBUTING.md"],
    "compares two revisions of the clone": ["CONTRIBUTING.md", "docs/speed.md"],
    "makes an environment of its own": ["README.md", "docs/get-started.md", "docs/pictures.md"],
    "needs the network": [
        "SECURITY.md",
        "bundle/docs/README.md",
        "docs/concepts.md",
        "docs/concepts.md",
        "docs/how-to/share.md",
        "docs/how-to/train-on-ribfrac.md",
        "docs/how-to/train-on-ribfrac.md",
        "docs/pictures.md",
        "docs/reference.md",
    ],
    "needs an NVIDIA GPU": ["bundle/docs/README.md", "docs/how-to/export.md", "docs/how-to/gpu.md"],
    "needs scans with ribs": ["docs/description.md", "docs/how-to/train-on-ribfrac.md"],
    "takes minutes to hours": [
        "docs/description.md",
        "docs/detection.md",
        "docs/how-to/reproduce-the-report.md",
        "docs/how-to/train-on-ribfrac.md",
        "docs/pictures.md",
        "docs/pictures.md",
        "docs/pictures.md",
        "docs/pictures.md",
        "docs/reliability.md",
        "docs/reliability.md",
        "docs/ribs.md",
        "docs/speed.md",
        "docs/speed.md",
        "docs/speed.md",
    ],
    "tests/test_notebook.py runs it": ["docs/get-started.md"],
    "installs packages": ["bundle/docs/README.md", "docs/get-started.md", "docs/how-to/predict-an-archive.md"],
    "needs the unpacked archive, from which tests/test_release.py loads the network": ["bundle/docs/README.md"],
    "tests/test_archive.py runs it": ["docs/how-to/predict-an-archive.md"],
    "needs a Slurm cluster": ["docs/how-to/predict-an-archive.md"],
    "needs a Kubernetes cluster": ["docs/how-to/predict-an-archive.md"],
    "needs an account in a cloud": ["docs/how-to/predict-an-archive.md", "docs/how-to/predict-an-archive.md"],
    "needs all 160 test scans": ["docs/how-to/train-on-ribfrac.md"],
    "needs a review that a reader made": ["docs/how-to/read-the-review-page.md"],
    "needs Docker": ["docs/how-to/container.md", "docs/how-to/container.md", "docs/how-to/container.md"],
    "needs MONAI Label": ["docs/how-to/monai-label-and-deploy.md"],
    "needs MONAI Deploy": ["docs/how-to/monai-label-and-deploy.md", "docs/how-to/monai-label-and-deploy.md"],
    "needs an account at the Hugging Face hub": ["docs/how-to/share.md", "docs/how-to/share.md"],
    "needs a clone of the model zoo": ["docs/how-to/share.md"],
    "needs the results of the demo and a Chromium": ["docs/pictures.md"],
    "is a test with more examples": ["docs/reliability.md", "docs/reliability.md"],
    "needs a labelled CT": ["docs/ribs.md"],
}
SMALL: dict[str, Any] = {  # settings of each config that has them
    "phantom_dir": "data/no_phantoms",
    "dataset_dir": "data/phantoms",
    "cache_dir": None,
    "max_epochs": 1,
    "num_workers": 0,
    "bootstrap": 20,
    "scans_per_batch": 1,
    "rois::roi_size": [32, 32, 32],
    "rois::per_scan": 2,
    "rois::max_shift_voxels": 4,
    "windows::roi_size": [32, 32, 32],
    "large_windows::roi_size": None,
    "bone::min_voxels": 0,
    "candidates::threshold": 0.01,
    "candidates::min_volume_mm3": 1.0,
}
SMALLER = {  # what stands in a page: what is run
    r"(?<![\w.])/data/": "{clone}/data/",
    r"/path/to/bundle": "{clone}/bundle",
    r"https://example\.org": "{address}",
    r"--max_epochs \d+": "--max_epochs 1",
    r"--num_workers \d+": "--num_workers 0",
    r"--workers \d+": "--workers 1",
    r"\btorchrun ": "python -m torch.distributed.run ",
    r"--nproc_per_node 4": "--nproc_per_node 2",
    r"--training \d+ --validation \d+ --test \d+": "--training 0 --validation 0 --test 1",
    r"--size full": "--size slab",
    r"synthetic-0501": "RibFrac501",
    r"--dataset_dir data/few_phantoms": "--dataset_dir data/phantoms",  # smaller than any that is generated
    r"--output output/review_page/report.html --chromium \S+": "--output output/review_page/report.html --scans 3",
    r" --chromium \S+": "",
}
FROM_ROOT = r"\. \.venv|cd bundle|pip install -c constraints|(\w+=\S+ )*python (benchmarks|tests)/"
PREDICTED = "python -m monai.bundle run inference --config_file configs/inference.yaml"
EVALUATED = (
    "python -m monai.bundle run evaluating --config_file \"['configs/inference.yaml','configs/evaluate.yaml']\" "
    "--section validation --outputs#probabilities true --output_dir "
)
TRAINED = "mkdir -p output/training/models && cp models/model.pt output/training/models"
# what a page takes for granted: commands in bundle/
GIVEN = {
    "bundle/docs/README.md": EVALUATED + "output/evaluation",
    "docs/description.md": "mkdir output && cp scripts/description/fracture_types.json output",
    "docs/how-to/change-things.md": "cp ../data/ribfrac/ribfrac-train-*s/RibFrac1-* .",
    "docs/how-to/predict-an-archive.md": f"{PREDICTED} --dataset_dir data/phantoms --output_dir ../data/found",
    "docs/how-to/predict-own-scans.md": TRAINED,
    "docs/how-to/read-the-review-page.md": f"{PREDICTED}; {EVALUATED}../output/demo/synthetic --section test "
    "--dataset_dir $PWD/data/phantoms",
    "docs/how-to/train-on-ribfrac.md": TRAINED,
    "docs/how-to/tune.md": f"{EVALUATED}output/real; {EVALUATED}output/synthetic",
    "docs/reference.md": EVALUATED + "output/prediction",
}


def is_command(line: str) -> bool:
    return re.match(r"(\w+=\S+ )*(python|torchrun) ", line) is not None


def commands(block: Block) -> list[list[str]]:
    """The Python commands of a block as words, ``python`` first: lines are joined, and ``torchrun`` is left out."""
    lines = [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
    lines = [re.sub(r"^(\w+=\S+ )*torchrun .*?-m ", "python -m ", line) for line in lines]
    lines = [re.sub(r"\s#.*", "", line) for line in lines if is_command(line)]  # shlex would end a word at its first #
    return [shlex.split(line[line.index("python ") :]) for line in lines]


def of_language(language: str) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language == language]


# ---- marks


def test_each_block_is_of_a_known_language() -> None:
    assert {block.place for block in BLOCKS if block.language not in LANGUAGES} == set()


def test_all_marks_and_their_reasons() -> None:
    marked: dict[str, list[str]] = {}
    for block in BLOCKS:
        if block.reason:
            marked.setdefault(block.reason, []).append(block.page)
    assert marked == NOT_TESTED


# ---- parsed


class Parsed(Exception):  # noqa: N818
    """Raised when a program has read its arguments."""


@pytest.fixture
def parsing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs end when they have read their arguments; ``python -m scripts COMMAND`` when its command has."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *arguments: Any) -> argparse.Namespace:
        options = read(self, *arguments)
        if self.prog == "python -m scripts":
            return options
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{block.place} {' '.join(words[1:5])}")
        for block in BLOCKS
        if block.language == "bash"
        for words in commands(block)
    ],
)
def test_commands_are_read_by_what_they_start(
    words: list[str], parsing_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BUNDLE_ROOT)
    if words[1:4] == ["-m", "monai.bundle", "run"]:
        check_run(words[3:])
    elif words[1:3] == ["-m", "monai.bundle"]:
        given = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert given <= set(inspect.signature(getattr(monai.bundle, words[3])).parameters)
    elif words[1:4] == ["-m", "scripts", "archive"]:
        check_run(
            ["run", "inference", "--config_file", "['configs/inference.yaml','configs/archive.yaml']", *words[4:]]
        )
    elif words[1:3] == ["-m", "scripts"]:
        with pytest.raises(Parsed):
            importlib.import_module("scripts.__main__").main(words[3:])
    elif words[1] == "-m":
        importlib.import_module(words[2])
    elif words[1] == "-c":
        compile(words[2], "-c", "exec")
    elif words[1].startswith("tests/integration/"):  # its imports are in an environment of their own
        assert (ROOT / words[1]).is_file()
    else:
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.setattr(sys, "path", [str((ROOT / words[1]).parent), *sys.path])
        with pytest.raises(SystemExit if "--help" in words else Parsed):
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")


def check_run(words: list[str]) -> None:
    """Check run id, configs and settings of ``monai.bundle run`` as the run does."""
    saved = {
        "output/training/config.yaml": "configs/train.yaml",
        "output/prediction/config.yaml": PREDICTED.split()[-1],
    }
    files = yaml.safe_load(words[words.index("--config_file") + 1])
    files = [saved.get(file, file) for file in ([files] if isinstance(files, str) else files)]
    files = [file for file in files if not Path(file).name.startswith("my_")]  # the reader writes these
    words = [str(files) if word.endswith((".yaml", ".yaml']")) else word for word in words]
    settings_given([str(Path(monai.bundle.__file__).with_name("__main__.py")), *words])


@pytest.mark.parametrize("block", of_language("bash"))
def test_shell_programs_exist(block: Block) -> None:
    for name in re.findall(r"^\./(\S+)", block.text, re.MULTILINE):
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize("block", of_language("yaml"))
def test_configs_name_what_exists(block: Block) -> None:
    config = ConfigParser(yaml.safe_load(block.text))
    config.parse(reset=True)
    components = [item for item in config.ref_resolver.items.values() if isinstance(item, ConfigComponent)]
    for item in components:
        target = item.resolve_module_name()
        found = target if callable(target) else locate(str(target))
        arguments = {k for k in item.get_config() if not (k.startswith("_") and k.endswith("_"))}
        parameters = inspect.signature(found).parameters
        takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        assert takes_all or arguments <= set(parameters), item.get_config()


@pytest.mark.parametrize("block", [block for block in of_language("yaml") if block.values[0].file])
def test_overlays_change_what_exists(block: Block, tmp_path: Path) -> None:
    """Those that a command of their page puts behind a config."""
    overlay = tmp_path / block.file
    overlay.write_text(block.text)
    page = (ROOT / block.page).read_text(encoding="utf-8")
    for config in set(re.findall(rf"'(configs/\w+\.yaml)'[^\]]*'{block.file}'", page)):
        assert overlay_fault([str(BUNDLE_ROOT / config), str(overlay)]) == ""


def locate(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("block", of_language("json"))
def test_data_lists_are_json(block: Block) -> None:
    assert json.loads(block.text)


# ---- run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages call /data/."""
    folder = tmp_path_factory.mktemp("data")
    for section, first in (("train", 1), ("val", 421), ("test", 501)):
        for number in (first, first + 1):
            write_scan(folder / "ribfrac", section, number, fractures=2, shape=(48, 44, 40))
            for kind in ("image", "label"):
                name = f"{number}-{kind}.nii.gz"
                to = folder / "mine" / section / f"{kind}s" / name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "ribfrac" / f"ribfrac-{section}-{kind}s" / f"RibFrac{name}", to)
    volume = np.random.default_rng(0).normal(40, 10, (48, 44, 40)).astype(np.int16)
    for path in ("scans/a.nii.gz", "scans/b.nii.gz", "archive/a.nii.gz", "archive/b.nii.gz"):
        (folder / path).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume, lps_affine()), folder / path)
    write_series(folder / "studies" / "one", volume[:, :, :12].astype(int))
    (folder / "oriented").mkdir()
    return folder


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of this repository that a clone has whole, compiled once for all clones."""
    code = tmp_path_factory.mktemp("code")
    for folder in ("benchmarks", "docs", "bundle/docs", "bundle/scripts"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(code, quiet=1)
    return code


@pytest.fixture
def clone(code: Path, data: Path, tmp_path: Path) -> Path:
    """A clone of this repository whose configs make a run small, and whose synthetic data set is one of small scans."""
    bundle = tmp_path / "bundle"
    shutil.copytree(code, tmp_path, dirs_exist_ok=True)
    for path in [*ROOT.iterdir(), BUNDLE_ROOT / "LICENSE", BUNDLE_ROOT / "models" / "model.pt"]:
        if path.is_file():
            to = tmp_path / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.symlink_to(path)
    (bundle / "configs").mkdir()
    for path in (BUNDLE_ROOT / "configs").iterdir():
        made = small(path) if path.suffix == ".yaml" else path.read_text(encoding="utf-8")
        (bundle / "configs" / path.name).write_text(made, encoding="utf-8")
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data / "ribfrac", bundle / "data" / "phantoms")
    return tmp_path


def small(config: Path) -> str:
    """A config with the values of SMALL where it has the settings."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    for name, value in SMALL.items():
        group, _, inner = name.rpartition("::")
        if name in content:
            content[name] = value
        elif inner in (content.get(group) or {}):
            content[group][inner] = value
    return yaml.safe_dump(content, sort_keys=False)


@pytest.fixture
def address(clone: Path) -> Iterator[str]:
    """An address of this machine at which the clone's dist/ is served."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(clone / "dist"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def in_shell(text: str, folder: Path, python: Path) -> str:
    """Run lines as bash does, and return what they say; no package is downloaded for it."""
    path = os.pathsep.join([str(python.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=os.environ
        | {"PATH": path, "PYTHON_EXEC": str(python), "PIP_NO_INDEX": "1", "PYTHONPATH": ""}
        | {"SLURM_ARRAY_TASK_ID": "0", "no_proxy": "127.0.0.1"},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}"
    return done.stdout


RUN = [block for block in BLOCKS if block.language in ("bash", "python", "yaml") and not block.reason]
QUICK = ("README.md",)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in QUICK else pytest.mark.slow)
        for page in dict.fromkeys(b.page for b in RUN)
    ],
)
def test_the_examples_of_a_page_run(page: str, clone: Path, address: str, python: Path) -> None:
    bundle = clone / "bundle"
    in_shell(GIVEN.get(page, "true"), bundle, python)
    for block in (block for block in RUN if block.page == page):
        text = block.text
        for pattern, replacement in SMALLER.items():
            text = re.sub(pattern, replacement.format(clone=clone, address=address), text)
        try:
            if block.language == "bash":
                from_root = re.match(FROM_ROOT, text)
                in_shell(text, clone if from_root else bundle, python)
                continue
            path = bundle / (block.file or f"block.{block.language}")
            path.write_text(text, encoding="utf-8")
            if block.language == "python":
                in_shell(f"PYTHONPATH=. python {path.name}", path.parent, python)
        except AssertionError as error:
            raise AssertionError(f"{block.place}: {error}") from None
