"""Tests of how commands end at a mistake: the likely ones by the real commands, each in a process of its own."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, write_scan
from page_blocks import is_of, quoted_messages

from scripts.errors import end_at_error, explanation

TRAINING = ("monai.bundle", "run", "training", "--config_file", "configs/train.yaml")
INFERENCE = ("monai.bundle", "run", "inference", "--config_file", "configs/inference.yaml")
EVALUATING = (
    "monai.bundle",
    "run",
    "evaluating",
    "--config_file",
    "['configs/inference.yaml','configs/evaluate.yaml']",
)
OVERLAYS = {
    "argument": "network_def:\n  _target_: UNet\n  in_chanels: 1\n",
    "class": "\n+train::augmentation:\n- {_target_: RandFlipd, keys: image}\n\n- {_target_: RandGausianSmoothd}\n",
    "reference": "region_loss: {_target_: DiceLoss, sigmoid: true, smooth_nr: '@learning_rat'}\n",
    "value": "region_loss: {_target_: DiceLoss, reduction: average}\n",
    "expression": "\nmax_epochs: '$1 / 0'\n",
    "unknown": "region_loss: {_target_: random.choice, seq: []}\n",
}


class Mistake(NamedTuple):
    """A command, and the last line that it ends with, as a pattern; {tmp} is the test's folder in both."""

    words: tuple[str, ...]
    last: str
    variables: dict[str, str] = {}
    status: int = 1
    has_traceback: bool = False


def overlaid(name: str) -> tuple[str, ...]:
    return (*TRAINING[:4], f"['configs/train.yaml','{{tmp}}/{name}.yaml']", "--dataset_dir", "{tmp}/scans")


MISTAKES = {
    "no such folder": Mistake(
        (*TRAINING, "--dataset_dir", "{tmp}/none"), "error: {tmp}/none does not exist: set dataset_dir to the folder .*"
    ),
    "an empty folder": Mistake(
        (*INFERENCE, "--dataset_dir", "{tmp}/empty"), "error: {tmp}/empty holds no scan: looked in it and below it .*"
    ),
    "a folder of PNG": Mistake(
        (*INFERENCE, "--dataset_dir", "{tmp}/pictures"), "error: {tmp}/pictures holds no scan: looked in it .*"
    ),
    "no labels": Mistake(
        (*EVALUATING, "--dataset_dir", "{tmp}/images", "--section", "all"),
        r"error: {tmp}/images: 3 problems, here the first 3 \(listed above\).",
    ),
    "a label that does not fit": Mistake(
        (*TRAINING, "--dataset_dir", "{tmp}/misfit"), "error: {tmp}/misfit.*-label.nii.gz: .*shape.*"
    ),
    "a label that was interpolated": Mistake(
        (*TRAINING, "--dataset_dir", "{tmp}/interpolated"),
        "error: {tmp}/interpolated.*RibFrac1-label.nii.gz: holds values that are not whole numbers; .*",
    ),
    "a section": Mistake(
        (*INFERENCE, "--section", "tset"), "error: section is 'tset': use one of training, .* or all."
    ),
    "no weights": Mistake(
        (*INFERENCE, "--checkpoint", "{tmp}/none.pt"),
        "error: {tmp}/none.pt is no file that exists: give --checkpoint one that does.",
    ),
    "weights that are none": Mistake(
        (*INFERENCE, "--dataset_dir", "{tmp}/scans", "--checkpoint", "{tmp}/pictures/a.png"),
        "error: {tmp}/pictures/a.png: is no file of weights, or is damaged: copy it again.",
    ),
    "weights of another network": Mistake(
        (*TRAINING, "--dataset_dir", "{tmp}/scans", "--pretrained", "{tmp}/other.pt"),
        "error: {tmp}/other.pt: these weights are not of the network in the config: .*",
    ),
    "no weights to start from": Mistake(
        (*TRAINING, "--pretrained", "none.pt"),
        "error: none.pt is no file that exists: give --pretrained one that does.",
    ),
    "no such GPU": Mistake(
        (*INFERENCE, "--device", "cuda:9"), "error: device is cuda:9, but torch sees .*--device cpu."
    ),
    "a file for a folder": Mistake(
        (*INFERENCE, "--dataset_dir", "{tmp}/scans", "--output_dir", "{tmp}/other.pt"),
        r"error: {tmp}/other.pt cannot be written to \(.*\): choose another folder, or mend this one.",
    ),
    "a misspelled run": Mistake(
        (*TRAINING[:2], "trianing", *TRAINING[3:]),
        "error: configs/train.yaml has no run 'trianing': give training in its place.",
    ),
    "a group for a run": Mistake(
        (*TRAINING[:2], "train", *TRAINING[3:]),
        "error: configs/train.yaml has no run 'train': give training in its place.",
    ),
    "a run of another config": Mistake(
        (*EVALUATING[:2], "evaluate", *EVALUATING[3:]), "error: .*has no run 'evaluate': give evaluating in its place."
    ),
    "a misspelled setting": Mistake(
        (*TRAINING, "--learing_rate", "1"), "error: --learing_rate: .*; did you mean --learning_rate.*"
    ),
    "a word for a number": Mistake(
        (*TRAINING, "--rois#per_scan", "eight"), "error: --rois#per_scan: is a number, not 'eight'."
    ),
    "a misspelled argument": Mistake(
        overlaid("argument"),
        "error: {tmp}/argument.yaml, line 1: network_def: UNet takes no .*: did you mean in_channels.*",
    ),
    "a misspelled class": Mistake(
        overlaid("class"),
        "error: {tmp}/class.yaml, line 5: train::augmentation::9: there is no .*: did you mean RandGaussianSmoothd.*",
    ),
    "a misspelled reference": Mistake(
        overlaid("reference"),
        "error: {tmp}/reference.yaml, line 1: region_loss: no config has @learning_rat: did you mean @learning_rate.*",
    ),
    "a value that MONAI refuses": Mistake(
        overlaid("value"), "error: {tmp}/value.yaml, line 1: region_loss: DiceLoss: .*average.*: give another value .*"
    ),
    "an expression": Mistake(
        overlaid("expression"),
        r"error: {tmp}/expression.yaml, line 2: max_epochs: \$1 / 0 cannot be evaluated \(ZeroDivisionError: .*",
    ),
    "a fault": Mistake(
        overlaid("unknown"),
        "error: IndexError: this should not happen: report it .* without names of patients.",
        has_traceback=True,
    ),
    "no such folder, and the traceback is asked for": Mistake(
        (*TRAINING, "--dataset_dir", "{tmp}/none"),
        "error: {tmp}/none does not exist: .*",
        variables={"RIB_DEBUG": "1"},
        has_traceback=True,
    ),
    "help": Mistake((*TRAINING, "--help"), "configs/train.yaml: run training. .*docs/reference.md lists .*", status=0),
    # MONAI ends these before it evaluates a config, so no line of ours is reached
    "a misspelled config": Mistake(
        (*TRAINING[:4], "configs/trian.yaml"),
        "FileNotFoundError: Cannot find the config file: configs/trian.yaml.",
        has_traceback=True,
    ),
    "no config": Mistake(
        TRAINING[:3], "TypeError: .*missing 1 required positional argument: 'config_file'", has_traceback=True
    ),
    "a misspelled command": Mistake(("scripts", "scroe"), "error: argument COMMAND: invalid choice: 'scroe' .*"),
    "an argument that is missing": Mistake(("scripts", "score"), "error: .*required: --gt_dir, --pred_dir: .*--help.*"),
    "a command's folder": Mistake(
        ("scripts", "score", "--gt_dir", "{tmp}/none", "--pred_dir", "{tmp}/none"),
        "error: {tmp}/none is not a folder.*",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the mistakes are made with."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name, content in OVERLAYS.items():
        (folder / f"{name}.yaml").write_text(content)
    for name in ("scans", "images", "misfit", "interpolated"):
        for section, number in (("train", 1), ("val", 421), ("test", 501)):
            write_scan(folder / name, section, number, fractures=2)
    for path in (folder / "images").glob("*-labels/*"):
        path.unlink()
    label = next((folder / "misfit").glob("*train-labels/*"))
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), label)
    label = next((folder / "interpolated").glob("*train-labels/*"))
    volume = nib.Nifti1Image.from_filename(label)
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj) / np.float32(2), volume.affine), label)
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"\x89PNG")
    torch.save({"weight": torch.zeros(1)}, folder / "other.pt")
    return folder


@pytest.mark.slow
def test_each_mistake_ends_in_one_line_with_nothing_half_written(folder: Path, python: Path) -> None:
    there = {path for path in folder.rglob("*") if path.is_file()}
    wrong, lines_told = {}, {}
    for name, mistake in MISTAKES.items():
        words = [word.replace("{tmp}", str(folder)) for word in mistake.words]
        if words[0] == "monai.bundle" and len(words) > 4:
            words += [] if "--output_dir" in words else ["--output_dir", f"{folder}/out"]
            words += ["--phantom_dir", f"{folder}/phantoms"]
            words += ["--cache_dir", f"{folder}/cache"] if "training" in words else []
        done = subprocess.run(
            [python, "-m", *words],
            cwd=BUNDLE_ROOT,
            env=os.environ | mistake.variables,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        lines = done.stdout.splitlines()
        lines_told[name] = lines[-1]
        has_traceback = any(line.startswith("Traceback") for line in lines)
        matches = re.fullmatch(mistake.last.replace("{tmp}", re.escape(str(folder))), lines[-1])
        if not matches or done.returncode != mistake.status or has_traceback != mistake.has_traceback:
            wrong[name] = done
    assert wrong == {}
    errors = {name: line for name, line in lines_told.items() if line.startswith("error: ")}
    assert [name for name, line in errors.items() if not any(is_of(quote, line) for quote in quoted_messages())] == []
    written = {path for path in folder.rglob("*") if path.is_file()} - there
    # TensorBoard begins its file where a training's parts are made
    names = {path.name for path in written if "cache" not in path.parts and "tfevents" not in path.name}
    assert names == {"config.yaml"}
    assert {path.suffix for path in written if "cache" in path.parts} <= {".pt"}  # whole ones: unfinished have others
    assert not (folder / "phantoms").exists()


@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": str(BUNDLE_ROOT)}], ids=["plain", "though Python finds it"])
def test_another_working_folder_is_told(variables: dict[str, str]) -> None:
    """In a fresh interpreter: paths in the config are below the working folder."""
    done = subprocess.run(
        [sys.executable, "-m", *TRAINING[:4], "bundle/configs/train.yaml"],
        cwd=BUNDLE_ROOT.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables,
        check=False,
        capture_output=True,
        text=True,
    )
    line = "error: bundle_root is not the bundle's folder: cd to that folder first, or add --bundle_root with its path."
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == line


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    "error, line",
    [
        pytest.param(
            OSError(errno.ENOSPC, "No space left on device", "x.pt"), "x.pt: No space .*: free some .*", id="disk"
        ),
        pytest.param(OSError(errno.EACCES, "Permission denied", "x.pt"), "x.pt: Permission denied: get .*", id="right"),
    ],
)
def test_what_the_system_refuses_is_told_with_a_remedy(error, line):
    assert re.fullmatch(line, explanation(raised(error)))


@pytest.mark.parametrize("error", [ValueError("of another program"), KeyError("x"), OSError(errno.EIO, "Input/output")])
def test_what_is_not_known_is_not_explained(error):
    assert explanation(raised(error)) is None


def test_an_error_of_a_call_in_our_code_is_not_ours():
    """``int`` raises it, though the line is one of this package."""
    with pytest.raises(ValueError) as caught:
        exec("int('eight')", {"__name__": "scripts.losses"})
    assert explanation(caught.value) is None
    with pytest.raises(ValueError) as caught:
        exec("raise ValueError('eight is no number')", {"__name__": "scripts.losses"})
    assert explanation(caught.value) == "eight is no number"


def test_ctrl_c_is_left_to_python(capsys):
    end_at_error(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "error:" not in capsys.readouterr().err
