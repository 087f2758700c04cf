"""Tests of what a command line may set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.command_line import refuse_unknown_settings

BUNDLE_DIR = Path(__file__).resolve().parents[1] / "bundle"
PROGRAM = "/usr/lib/python3/site-packages/monai/bundle/__main__.py"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("probability_threshold: 0.5\noutput_dir: out\nnetwork_def: {norm: BATCH, layers: [1, 2]}\n")
    return str(path)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--probabilty_threshold", "0.3"], "no setting 'probabilty_threshold'; did you mean --probability_threshold?"),
        (["--probabilty-threshold=0.3"], "did you mean --probability_threshold?"),
        (["--confg_file", "x"], "did you mean --config_file?"),
        (["--zzz", "1"], "no setting 'zzz'; docs/reference.md lists them all"),
        (["--network_def::nrm", "GROUP"], "'network_def' of .* has no 'nrm'"),
        (["--network_def::layers::2", "3"], "'network_def' of .* has no 'layers::2'"),
        (["--netwrk_def::norm", "GROUP"], "did you mean --network_def?"),
    ],
)
def test_a_setting_that_no_config_has_is_refused(words: list[str], message: str, config: str) -> None:
    with pytest.raises(SystemExit, match=message):
        refuse_unknown_settings([PROGRAM, "run", "inference", "--config_file", config, *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--probability_threshold", "0.3"],
        ["--output-dir=/tmp/--strange"],
        ["--network_def::norm", "GROUP", "--network_def#layers#1", "3"],
        ["--+network_def", "{'act': 'RELU'}", "--~output_dir", "null"],
        ["--tracking", "mlflow", "--logging_file", "configs/logging.conf"],
        ["--output_dir", "-1"],
    ],
)
def test_settings_of_the_config_and_of_monai_pass(words: list[str], config: str) -> None:
    refuse_unknown_settings([PROGRAM, "run", "inference", f"--config_file={config}", *words])


def test_a_setting_of_any_of_several_configs_passes(config: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("bootstrap: 10\n")
    command = [PROGRAM, "run", "evaluating", "--config_file", f"['{config}','{overlay}']"]
    refuse_unknown_settings([*command, "--bootstrap", "5", "--output_dir", "x"])
    with pytest.raises(
        SystemExit, match=f"{config} and {overlay} has no setting 'botstrap'; did you mean --bootstrap?"
    ):
        refuse_unknown_settings([*command, "--botstrap", "5"])


def test_settings_in_an_args_file_are_checked_too(config: str, tmp_path: Path) -> None:
    args_file = tmp_path / "args.yaml"
    args_file.write_text(f"config_file: {config}\nrun_id: inference\nouput_dir: elsewhere\n")
    with pytest.raises(SystemExit, match="--ouput_dir.*did you mean --output_dir?"):
        refuse_unknown_settings([PROGRAM, "run", "--args_file", str(args_file)])


def test_other_programs_are_let_alone(config: str) -> None:
    refuse_unknown_settings(["my_program.py", "run", "--config_file", config, "--zzz", "1"])
    refuse_unknown_settings([PROGRAM, "ckpt_export", "--config_file", config, "--zzz", "1"])


@pytest.mark.parametrize(
    "run_id, config_file",
    [pytest.param("training", "configs/train.yaml", marks=pytest.mark.slow), ("inference", "configs/inference.yaml")],
)
def test_a_run_ends_with_one_line_at_a_misspelled_setting(run_id: str, config_file: str) -> None:
    command = ["-m", "monai.bundle", "run", run_id, "--config_file", config_file, "--datset_dir", "/data/scans"]
    done = subprocess.run([sys.executable, *command], cwd=BUNDLE_DIR, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"error: --datset_dir: {config_file} has no setting 'datset_dir'; did you mean --dataset_dir"
    )
