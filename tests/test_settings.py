"""Tests of what a command line sets."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fire
import pytest
import yaml
from conftest import BUNDLE_ROOT
from monai.bundle import ConfigWorkflow, create_workflow
from test_docs import SETTINGS, rows

from scripts.runs.settings import is_path, read_command_line, refuse_stray_words, settings_given

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI's, for each
PROGRAM = "/usr/lib/python3/site-packages/monai/bundle/__main__.py"
CONFIG = """
imports:
- $from pathlib import Path
bundle_root: .
data_dir: data
output_dir: "$str(Path(@bundle_root) / 'out')"
masks_dir: "$str(Path(@output_dir) / 'masks')"
checkpoint: model.pt
pretrained: null
run_name: null
cache_dir: cache
least_probability: 0.5
windows: {overlap: 0.5, roi_size: [48, 48, 32]}
large_windows: {roi_size: [96, 96, 64]}
noise: 0.1
resume: false
section: test
network_def: {norm: BATCH, layers: [1, 2], load_path: "@checkpoint"}
initialize:
- _target_: scripts.runs.settings.read_command_line
inference:
- _target_: scripts.runs.settings.refuse_stray_words
run: "%inference"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def command(config: str, *words: str) -> list[str]:
    return [PROGRAM, "run", "inference", "--config_file", config, *words]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, config: str) -> Any:
    """A function that gives words to MONAI as its command line would, and returns the values of some settings."""

    def run(run_id=None, init_id=None, final_id=None, config_file=None, args_file=None, **override):  # as MONAI's
        return create_workflow(config_file=config_file, args_file=args_file, run_id=run_id, **override).parser

    def with_words(*words: str) -> Any:
        arguments = command(config, *words) if "--args_file" not in words else [PROGRAM, "run", *words]
        monkeypatch.setattr(sys, "argv", arguments)
        found: list[Any] = []

        def kept(*args: Any, **kwargs: Any) -> None:
            found.append(run(*args, **kwargs))

        kept.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]  # fire reads it
        fire.Fire({"run": kept}, command=arguments[1:])
        return found[0].get_parsed_content

    return with_words


# ---- names ----


@pytest.mark.parametrize(
    "words, message",
    [
        (["--leest_probability", "0.3"], "no setting 'leest_probability'; did you mean --least_probability?"),
        (["--leest-probability=0.3"], "did you mean --least_probability?"),
        (["--confg_file", "x"], "did you mean --config_file?"),
        (["--zzz", "1"], "no setting 'zzz'; docs/reference.md lists them all"),
        (["-zzz", "1"], "no setting 'zzz'; docs/reference.md lists them all"),
        (["--network_def::nrm", "GROUP"], "'network_def' of .* has no 'nrm'"),
        (["--network_def::layers::2", "3"], "'network_def' of .* has no 'layers::2'"),
        (["--netwrk_def::norm", "GROUP"], "did you mean --network_def?"),
    ],
)
def test_a_setting_that_no_config_has_is_refused(words: list[str], message: str, config: str) -> None:
    with pytest.raises(SystemExit, match=message):
        settings_given(command(config, *words))


@pytest.mark.parametrize(
    "words",
    [
        ["--least_probability", "0.3"],
        ["--output-dir=/tmp/--strange"],
        ["--network_def::norm", "GROUP", "--network_def#layers#1", "3"],
        ["--+network_def", "{'act': 'RELU'}", "--~output_dir", "null"],
        ["--tracking", "mlflow", "--logging_file", "configs/logging.conf"],
        ["--least_probability", "-1"],
        ["--resume"],
        ["--noresume"],
    ],
)
def test_settings_of_the_config_and_of_monai_pass(words: list[str], config: str) -> None:
    settings_given(command(config, *words))


def test_a_setting_of_any_of_several_configs_passes(config: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("bootstrap: 10\nrun: ['@bootstrap']\n")
    words = [PROGRAM, "run", "inference", "--config_file", f"['{config}','{overlay}']"]
    settings_given([*words, "--bootstrap", "5", "--output_dir", "x"])
    with pytest.raises(
        SystemExit, match=f"{config} and {overlay} has no setting 'botstrap'; did you mean --bootstrap?"
    ):
        settings_given([*words, "--botstrap", "5"])


def test_a_misspelled_id_of_an_overlay_is_refused(config: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("least_probabilty: 0.3\n")
    words = [PROGRAM, "run", "inference", "--config_file", f"['{config}','{overlay}']"]
    with pytest.raises(SystemExit, match="error: .*overlay.yaml: .*did you mean least_probability?"):
        settings_given(words)


def test_settings_in_an_args_file_are_checked_too(config: str, tmp_path: Path) -> None:
    args_file = tmp_path / "args.yaml"
    args_file.write_text(f"config_file: {config}\nrun_id: inference\nouput_dir: elsewhere\n")
    with pytest.raises(SystemExit, match="--ouput_dir.*did you mean --output_dir?"):
        settings_given([PROGRAM, "run", "--args_file", str(args_file)])


def test_other_programs_are_let_alone(config: str) -> None:
    for program in (["my_program.py", "run"], [PROGRAM, "ckpt_export"]):
        words = [*program, "--config_file", config, "--zzz", "1", "--output_dir", "None"]
        assert settings_given(words) == {}
        refuse_stray_words([*words, "stray", "words"])


# ---- runs ----


@pytest.mark.parametrize("run_id", ["infer", "windows", "network_def", "noise", "data_dir"])
def test_what_is_no_run_is_refused(run_id: str, config: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {config} has no run '{run_id}'"):
        settings_given([PROGRAM, "run", run_id, "--config_file", config])


def test_a_run_of_ones_own_passes(config: str) -> None:
    Path(config).write_text(CONFIG + 'mine: ["$print(@data_dir)", {_target_: os.getcwd}]\n')
    settings_given([PROGRAM, "run", "mine", "--config_file", config])


# ---- paths ----


@pytest.mark.parametrize(
    "word",
    [
        "20260102",
        "2026_01_02",
        "1e5",
        "0x10",
        "1.0",
        "True",
        "a,b",
        "[a]",
        "{x}",
        "(1)",
        "'quoted'",
        '"quoted"',
        "run#2",
        "#",
        "run #2",
        " a b ",
        "a::b",
        "Größe/骨折",
        "50%#1",
        "x@::y",
        "me@home",
        "@file.name",
        "back\\slash",
        "it's #1",
        "./None",
        "./@data_dir",
        "./$HOME",
        "./~",
        "-1",
    ],
)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_a_path_is_the_word_as_it_is_given(word: str, form: str, seen: Any) -> None:
    get = seen(*(["--output_dir", word] if form == "two words" else [f"--output_dir={word}"]))
    assert get("output_dir") == word
    assert get("masks_dir") == str(Path(word) / "masks")


def test_a_path_may_begin_with_a_dash(seen: Any) -> None:
    assert seen("--output_dir=-x", "--checkpoint=--y=z")("masks_dir") == "-x/masks"


def test_a_tilde_is_the_home_folder(seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert seen("--output_dir=~/run")("output_dir") == "/home/somebody/run"


@pytest.mark.parametrize("name", ["network_def::load_path", "network_def#load_path", "run-name"])
def test_nested_paths_and_names_are_taken_so_too(name: str, seen: Any) -> None:
    assert seen(f"--{name}", "1e5#2")(name.replace("-", "_")) == "1e5#2"


@pytest.mark.parametrize("word, value", [("@data_dir", "data"), ("$@data_dir + '/x'", "data/x"), ("$str(1)", "1")])
def test_references_and_expressions_are_monais(word: str, value: str, seen: Any) -> None:
    assert seen("--output_dir", word)("output_dir") == value


@pytest.mark.parametrize(
    "words, message",
    [
        (["--output_dir", ""], "--output_dir: is empty; the working folder is '.'"),
        (["--output_dir="], "--output_dir: is empty"),
        (["--output_dir"], "--output_dir: no value follows; .* as in --output_dir=-x"),
        (["--output_dir", "-x"], "--output_dir: no value follows"),
        (["--checkpoint", "--resume"], "--checkpoint: no value follows"),
        (["--noise"], "--noise: no value follows"),
        (["--output_dir", "@data"], "@data is a setting's value to MONAI, and there is none: for a path, ./@data"),
        (
            ["--output_dir", "$HOME_x"],
            r"\$HOME_x is an expression to MONAI, .*what is HOME_x\?\): for a path, ./\$HOME",
        ),
        (["--output_dir", "$HOME/x y"], r"is an expression to MONAI, which cannot be evaluated"),
        (["--output_dir", "run\udcff"], "--output_dir: holds bytes that are no text in UTF-8"),
        (["--data_dir", "my", "scans"], "'scans' belongs to no setting: put a value with spaces in quotes"),
    ],
)
def test_what_is_no_path_is_refused_in_a_sentence(words: list[str], message: str, config: str) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        settings_given(command(config, *words))


def test_words_that_stray_are_refused_where_monai_runs_nothing_first(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``scans`` is to MONAI the name of what it runs in place of ``initialize``."""
    monkeypatch.setattr(sys, "argv", command(config, "--data_dir", "my", "scans"))
    workflow = ConfigWorkflow(config_file=config, init_id="scans", run_id="run")
    workflow.initialize()
    with pytest.raises(SystemExit, match="'scans' belongs to no setting"):
        workflow.run()


@pytest.mark.parametrize(
    "line, message",
    [
        ("output_dir: 20260102", "--output_dir: 20260102 is read as int, not as text: put it in quotes"),
        ("output_dir: 2026-01-02", "--output_dir: 2026-01-02 is read as date, not as text"),
        ("run_name: true", "--run_name: True is read as bool"),
        ("checkpoint: [a, b]", "--checkpoint: .* is read as list"),
        ("output_dir: null", "--output_dir: null is no value of it"),
    ],
)
def test_an_args_file_says_a_path_as_text(line: str, message: str, config: str, tmp_path: Path) -> None:
    args_file = tmp_path / "args.yaml"
    args_file.write_text(f"config_file: {config}\nrun_id: run\n{line}\n")
    with pytest.raises(SystemExit, match=message):
        settings_given([PROGRAM, "run", "--args_file", str(args_file)])


def test_an_args_file_and_the_command_line_over_it(seen: Any, config: str, tmp_path: Path) -> None:
    args_file = tmp_path / "args.yaml"
    args_file.write_text(f"config_file: {config}\nrun_id: run\noutput_dir: run#2\ndata_dir: x\npretrained: y\n")
    get = seen("--args_file", str(args_file), "--data_dir", "2026", "--pretrained", "None")
    assert (get("output_dir"), get("data_dir"), get("pretrained")) == ("run#2", "2026", None)


def test_a_path_of_a_config_is_text(config: str) -> None:
    Path(config).write_text(CONFIG.replace("data_dir: data", "data_dir: 2026_01_02"))
    with pytest.raises(SystemExit, match="error: data_dir: 20260102 is read as int, not as text"):
        settings_given(command(config))


def test_a_path_of_a_config_keeps_its_number_sign(config: str, seen: Any) -> None:
    Path(config).write_text(CONFIG.replace("data_dir: data", "data_dir: data#1"))
    assert seen("--output_dir", "@data_dir")("masks_dir") == "data#1/masks"


# ---- null ----


@pytest.mark.parametrize("word", ["None", "null", "NULL", "none", "$None"])
@pytest.mark.parametrize("name", ["cache_dir", "large_windows#roi_size", "pretrained", "run_name"])
def test_null_is_null_where_a_setting_takes_it(name: str, word: str, seen: Any) -> None:
    assert seen(f"--{name}", word)(name) is None


@pytest.mark.parametrize("word", ["None", "null", "$None"])
@pytest.mark.parametrize("name", ["output_dir", "checkpoint", "section", "least_probability", "resume"])
def test_null_is_refused_where_a_setting_takes_none(name: str, word: str, config: str) -> None:
    with pytest.raises(SystemExit, match=f"error: --{name}: null is no value of it"):
        settings_given(command(config, f"--{name}={word}"))


def test_null_of_a_part_of_a_component_is_an_expression_or_refused(config: str) -> None:
    assert settings_given(command(config, "--network_def#norm", "$None")) == {"network_def::norm": None}
    with pytest.raises(SystemExit, match="null is no value of it"):
        settings_given(command(config, "--network_def#norm", "None"))


def test_null_is_taken_where_an_overlay_says_it(config: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("checkpoint: null\n")
    words = [PROGRAM, "run", "run", "--config_file", f"['{config}','{overlay}']", "--checkpoint", "None"]
    assert settings_given(words) == {"checkpoint": None}


# ---- the bundle's own configs ----


@pytest.mark.parametrize("name", SETTINGS)
def test_every_path_of_the_bundle_is_known_as_one(name: str) -> None:
    paths = re.split(r"^# ---- (.+) ----$", (BUNDLE_ROOT / "configs" / name).read_text(), flags=re.MULTILINE)
    in_config = set(yaml.safe_load(dict(zip(paths[1::2], paths[2::2])).get("paths", "")) or {})
    in_reference = {
        setting for setting, row in rows(f"### Settings of {name}").items() if {"path", "a path"} & set(row)
    }
    assert in_config <= in_reference
    assert [setting for setting in in_reference if not is_path(setting.replace("#", "::"))] == []


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_that_the_reference_lets_be_null_takes_it(name: str) -> None:
    base, report = SETTINGS[name]
    files = [str(BUNDLE_ROOT / "configs" / config) for config in (*base, name)]
    described = {
        setting: " ".join(row[1:])
        for setting, row in rows(f"### Settings of {name}").items()
        if setting != "checkpoint"
    }
    nullable = [setting for setting, text in described.items() if re.search(r"\bnull\b", text)]
    for setting in nullable:
        words = [PROGRAM, "run", "run", "--config_file", str(files), f"--{setting}", "null"]
        assert settings_given(words) == {setting.replace("#", "::"): None}
    assert nullable or name not in ("train.yaml", "inference.yaml")


def test_a_run_ends_with_one_line_at_a_misspelled_setting() -> None:
    """As Python's own program starts it; tests/test_errors.py has a training's."""
    config_file = "configs/inference.yaml"
    words = ["-m", "monai.bundle", "run", "inference", "--config_file", config_file, "--datset_dir", "/data/scans"]
    done = subprocess.run([sys.executable, *words], cwd=BUNDLE_ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"error: --datset_dir: {config_file} has no setting 'datset_dir'; did you mean --dataset_dir"
    )


def test_there_is_a_config_to_read_a_command_line_for() -> None:
    with pytest.raises(RuntimeError, match="name this function as a _target_ in a config"):
        read_command_line()


def test_a_setting_of_a_group_is_given_by_its_name(seen):
    for words in (["--windows#overlap", "0.25"], ["--windows", "{'overlap': 0.25}"]):
        assert seen(*words)("windows") == {"overlap": 0.25, "roi_size": [48, 48, 32]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--windows#overlp", "0.25"], "'windows' of .* has no 'overlp'; it has windows#overlap."),
        (["--windows", "{'overlp': 0.25}"], "--windows: has no 'overlp'; it has overlap, roi_size."),
        (["--windows", "0.25"], "--windows: is a group of settings: give one of them, as in --windows#overlap."),
        (["--overlap", "0.25"], "--overlap: this setting is now windows#overlap."),
        (["--probability_threshold", "0.3"], "this setting is now candidates#threshold."),
        (["--resume", "maybe"], "--resume: is true or false, not 'maybe'."),
        (["--noise", "little"], "--noise: is a number, not 'little'."),
    ],
)
def test_a_group_is_checked_and_an_old_name_leads_to_the_new_one(config, words, message):
    with pytest.raises(SystemExit, match=message):
        settings_given(command(config, *words))


def test_an_old_name_in_an_overlay_is_refused(config, tmp_path):
    (tmp_path / "mine.yaml").write_text("probability_threshold: 0.3\n")
    files = f"['{config}','{tmp_path / 'mine.yaml'}']"
    with pytest.raises(SystemExit, match="mine.yaml: 'probability_threshold' is now candidates#threshold."):
        settings_given(command(files))


@pytest.mark.parametrize(("word", "value"), [("true", True), ("no", False), ("1", True), ("False", False)])
def test_a_switch_is_read_from_its_word(config, word, value):
    assert settings_given(command(config, f"--resume={word}"))["resume"] is value
