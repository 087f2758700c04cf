"""What MONAI's command line lets pass or changes without a word: unknown settings, null, and the words of a path."""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any, NamedTuple

from monai.bundle import ConfigParser, ReferenceResolver, run
from monai.bundle.utils import EXPR_KEY, ID_REF_KEY, ID_SEP_KEY, MACRO_KEY
from monai.config import PathLike
from monai.utils import ensure_tuple, str2bool

from scripts.runs.config import MARKS, flat_settings, is_group, running_parser
from scripts.runs.overlays import overlay_fault

__all__ = ["check_files", "is_path", "is_text", "read_command_line", "refuse_stray_words", "settings_given"]

_RUNS = "scripts.runs.run_"  # what a run of the bundle's configs calls
_FLAG = re.compile(r"--|-[a-zA-Z]")  # what fire takes for a name; -1 is a value
_PATH_ENDS = ("_dir", "_path", "_file")
_PATHS = ("bundle_root", "checkpoint", "file", "header_index", "pretrained")
_TEXT_ENDS = ("_name", "_uri")
# Null is a value of these, though not their default; of others it is one where a config says null
_TAKE_NULL = (
    "cache_dir",
    "rois::mirror_plane",
    "rois::positive_share",
    "spacing::pixdim",
    "large_windows::roi_size",
    "bone::max_rib_mm",
    "candidates::max_rib_mm",
)
# Names of settings until version 0.12, which are refused, and the new ones told
_RENAMED = {
    "blur_prob": "blur#prob",
    "bone_hu": "bone#hu",
    "bone_margin": "bone#margin",
    "bone_share": "rois#bone_share",
    "border_voxels": "rois#border_voxels",
    "contrast_prob": "contrast#prob",
    "deep_supervision_decay": "deep_supervision#decay",
    "deep_supervision_epochs": "deep_supervision#step_epochs",
    "faint_threshold": "candidates#low_threshold",
    "hard_places": "hard_examples#file",
    "hard_share": "hard_examples#share",
    "implant_fractures": "implants#fractures",
    "implant_prob": "implants#prob",
    "look_again_above": "large_windows#refine_above",
    "many_fractures": "candidates#many_fractures",
    "max_blur": "blur#sigma",
    "max_rotation": "rotation#max_degrees",
    "max_shift_voxels": "rois#max_shift_voxels",
    "max_spacing_mm": "spacing#max_pixdim",
    "max_zoom": "zoom#max",
    "min_bone_voxels": "bone#min_voxels",
    "min_mean_probability": "candidates#min_mean_probability",
    "min_score": "candidates#min_score",
    "min_spacing_mm": "spacing#min_pixdim",
    "min_volume_mm3": "candidates#min_volume_mm3",
    "min_zoom": "zoom#min",
    "mirror_plane": "rois#mirror_plane",
    "mirrored": "rois#mirrored",
    "noise_is_fixed": "noise#sample_std",
    "noise_prob": "noise#prob",
    "operating_score": "candidates#operating_score",
    "overlap": "windows#overlap",
    "peak_share": "candidates#peak_share",
    "positive_share": "rois#positive_share",
    "postprocess": "candidates#postprocess",
    "probability_threshold": "candidates#threshold",
    "roi_size": "windows#roi_size, or rois#roi_size of a training",
    "rois_per_scan": "rois#per_scan",
    "rotation_prob": "rotation#prob",
    "save_dicom": "outputs#dicom",
    "save_pictures": "outputs#pictures",
    "save_probabilities": "outputs#probabilities",
    "save_review_page": "outputs#review_page",
    "save_training_page": "training_page",
    "score": "candidates#score",
    "score_intercept": "candidates#score_intercept",
    "score_slope": "candidates#score_slope",
    "slice_margin_voxels": "rois#slice_margin_voxels",
    "spacing_mm": "spacing#pixdim",
    "spine_margin_mm": "candidates#spine_margin_mm",
    "split_distance_mm": "candidates#split_distance_mm",
    "wide_overlap": "large_windows#overlap",
    "wide_roi_size": "large_windows#roi_size",
    "window_weights": "windows#mode",
    "windows_per_batch": "windows#batch_size",
    "written_min_score": "outputs#min_score",
    "zoom_prob": "zoom#prob",
}
_CHANGED_BY_MONAI = "#@%"  # in any text of a config: # becomes ::, and @ or % before it is a relative id


class _Line(NamedTuple):
    """A command line: its words that are no ``--name value``, and the text of each name; True where none follows."""

    others: list[str]
    given: dict[str, str | bool]


def read_command_line() -> None:
    """
    Give the settings of the run what its command line says, and end the program where that cannot be meant.

    ``python -m monai.bundle run`` adds a misspelled setting as a new id, which nothing reads; it leaves out those that
    are None, takes ``null`` for text, and has each word read as Python, where ``run#2`` is ``run`` with a comment and
    ``20260102`` a number; in every text it reads ``#`` as ``::``. Put this first into a config's ``initialize``, when
    ``sys.path`` is set. In a program that runs a config from Python it does nothing.

    Raises:
        RuntimeError: when it is called from anywhere but a config.
        SystemExit: see ``settings_given``.
    """
    parser = running_parser()
    parser.update({name: value for name, value in settings_given(sys.argv).items() if parser[name] != value})


def refuse_stray_words(arguments: Sequence[str] | None = None) -> None:
    """
    End the program where its command line has words that belong to no setting, as those of a path with blanks in it.

    MONAI takes such a word for the name of what it runs first, finds none, and goes on without it. So this stands first
    in what a config runs, where it is reached all the same.

    Args:
        arguments: a command line as ``sys.argv`` has it; that of the process where None.

    Raises:
        SystemExit: when there are such words.
    """
    words = _words(sys.argv if arguments is None else arguments)
    if words is None:
        return
    line = _read(words)
    if stray := line.others[0 if "run_id" in line.given else 1 :]:
        sys.exit(f"error: '{stray[0]}' belongs to no setting: put a value with spaces in quotes.")


def check_files(files: Mapping[str, PathLike | None]) -> None:
    """
    Refuse settings that name files which do not exist, before anything is done.

    Args:
        files: values of the settings, by their names; None names no file.

    Raises:
        FileNotFoundError: when a file does not exist. One that may not be looked for is told of where it is opened.
    """
    for name, file in files.items():
        try:
            if file is None or stat.S_ISREG(os.stat(file).st_mode):
                continue
        except PermissionError:
            continue
        except OSError:
            pass
        raise FileNotFoundError(f"{file} is no file that exists: give --{name} one that does.")


def settings_given(arguments: Sequence[str]) -> dict[str, Any]:
    """
    Read the settings of a command line that MONAI reads otherwise than they are meant.

    - ``None`` and ``null`` are null, in any case of letters, where null is a value of the setting.
    - A path is the word as it is given, with ``~`` expanded. So is a name or an address. ``$expression``, ``@id`` and
      ``%file`` stay MONAI's.
    - Paths in the configs keep their ``#``, too.

    Args:
        arguments: a command line as ``sys.argv`` has it.

    Returns:
        Values by id, for a config; nothing for the command line of another program.

    Raises:
        SystemExit: when what is to run is none of the config's runs, or a setting is unknown, or null, and takes no
            null, or is a path that is empty or no text. The message names it. And when it asks for help.
    """
    words = _words(arguments)
    if words is None:
        return {}
    refuse_stray_words(arguments)
    line = _read(words)
    given: dict[str, Any] = line.given
    known = [name for name, parameter in inspect.signature(run).parameters.items() if name != "override"]
    from_file: dict[str, Any] = {}
    if given.get("args_file"):
        from_file = ConfigParser.load_config_file(given["args_file"]) or {}
    files = ensure_tuple(_value(given["config_file"]) if given.get("config_file") else from_file.get("config_file"))
    config = ConfigParser()
    config.read_config([str(file) for file in files if file is not None])
    run_id = given.get("run_id") or from_file.get("run_id") or "run"
    _check_run(line.others[0] if line.others else run_id, config, files, asks_help="help" in given)
    _refuse_old_names(config, files)
    run_ids = {str(given.get(name, from_file.get(name))) for name in ("run_id", "init_id", "final_id")}
    if fault := overlay_fault([str(file) for file in files if file is not None], run_ids | set(line.others)):
        sys.exit(f"error: {fault}")
    changes: dict[str, Any] = {}
    for name, value in {**from_file, **given}.items():
        if name in known:
            continue
        setting = ReferenceResolver.normalize_id(name.lstrip(MARKS))
        if value is True and setting not in config and setting[:2] == "no" and setting[2:] in config:
            continue  # to fire, --noresume is --resume false
        if setting not in config:
            sys.exit(f"error: --{name}: {_advice(name, config.get(), known, files)}")
        if name[:1] in MARKS:
            continue
        if value is True and name in given and _needs_value(setting, config[setting]):
            sys.exit(f"error: --{name}: no value follows; give one that begins with a dash by =, as in --{name}=-x.")
        if is_group(config[setting]):
            changes[setting] = _group(name, value, config[setting])
        elif _is_null(value):
            _check_null(name, setting, value, config)
            changes[setting] = None
        elif is_path(setting) or is_text(setting):
            changes[setting] = _text(name, setting, value, config)
        elif isinstance(config[setting], bool) and isinstance(value, str):
            changes[setting] = _switch(name, value)
        elif isinstance(config[setting], int | float) and _is_word(value):
            sys.exit(f"error: --{name}: is a number, not '{value}'.")
    return {**_paths_of(config), **changes}


def is_path(name: str) -> bool:
    """Tell whether a setting is a path: its name, the last part of an id, ends so, or is one of a few."""
    last = name.rsplit(ID_SEP_KEY, 1)[-1]
    return last in _PATHS or last.endswith(_PATH_ENDS)


def is_text(name: str) -> bool:
    """Tell whether a setting is a name or an address: its name, the last part of an id, ends so."""
    return name.rsplit(ID_SEP_KEY, 1)[-1].endswith(_TEXT_ENDS)


def _words(arguments: Sequence[str]) -> list[str] | None:
    """Return the words behind ``python -m monai.bundle run``; None for another command."""
    program, *words = arguments
    is_run = Path(program).parts[-3:] == ("monai", "bundle", "__main__.py") and words[:1] == ["run"]
    return words[1:] if is_run else None


def _read(words: Sequence[str]) -> _Line:
    """Tell names, values and other words apart as fire does, which splits a line at ``-`` and at the last ``--``."""
    words = list(words)
    if "--" in words:
        words = words[: len(words) - 1 - words[::-1].index("--")]
    if "-" in words:
        words = words[: words.index("-")]
    line = _Line([], {})
    while words:
        word = words.pop(0)
        if not _FLAG.match(word):
            line.others.append(word)
            continue
        name, has_value, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if has_value:
            line.given[name] = value
        elif words and not _FLAG.match(words[0]):
            line.given[name] = words.pop(0)
        else:
            line.given[name] = True
    return line


def _value(text: str) -> Any:
    """Read a word as fire does: as Python where it is Python, as text elsewhere."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _paths_of(config: ConfigParser) -> dict[str, str]:
    """Return the paths that the configs themselves give and that MONAI would change."""
    paths = {}
    for name, value in flat_settings(config.get(), ID_SEP_KEY).items():
        if is_path(name) and not isinstance(value, str | dict | None):
            sys.exit(f"error: {name}: {_not_text(value)}, in the config.")
        if is_path(name) and isinstance(value, str) and value[:1] not in (EXPR_KEY, ID_REF_KEY, MACRO_KEY):
            if (literal := _literal(value)) != value:
                paths[name] = literal
    return paths


def _is_null(value: Any) -> bool:
    """Tell whether a word means null, or the value of an ``args_file``, which may be null itself."""
    return str(value).casefold() in ("none", "null", "$none")


def _group(name: str, value: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of settings with the values that are given for some of them."""
    given = _value(value) if isinstance(value, str) else value
    if not isinstance(given, dict):
        sys.exit(f"error: --{name}: is a group of settings: give one of them, as in --{name}#{next(iter(group))}.")
    if unknown := [key for key in given if key not in group]:
        sys.exit(f"error: --{name}: has no '{unknown[0]}'; it has {', '.join(group)}.")
    return {**group, **given}


def _switch(name: str, value: str) -> Any:
    """Read a switch; what is no word for true or false is left to MONAI only where it is an expression."""
    if value[:1] in (EXPR_KEY, ID_REF_KEY, MACRO_KEY):
        return value
    try:
        return str2bool(value)
    except ValueError:
        sys.exit(f"error: --{name}: is true or false, not '{value}'.")


def _is_word(value: Any) -> bool:
    """Tell whether a word is text to MONAI, and no expression."""
    return (
        isinstance(value, str) and isinstance(_value(value), str) and value[:1] not in (EXPR_KEY, ID_REF_KEY, MACRO_KEY)
    )


def _refuse_old_names(config: ConfigParser, files: Sequence[Any]) -> None:
    """End the program where a config, such as an overlay of one's own, has a setting under its old name."""
    for name in config.get():
        if name in _RENAMED and not is_group(config[name]):
            sys.exit(f"error: {' and '.join(map(str, files))}: '{name}' is now {_RENAMED[name]}.")


def _check_run(run_id: str, config: ConfigParser, files: Sequence[Any], asks_help: bool) -> None:
    """End the program where it is asked for help, or for something that is no run: a group, a value, a component."""
    runs = [name for name in config.get() if name != "run" and any(map(_is_own_run, _steps(name, config)))]
    where = " and ".join(map(str, files))
    if asks_help:
        sys.stdout.write(
            f"{where}: run {' or '.join(runs)}. A setting is given as --name value, one of a group as "
            "--group#name value; docs/reference.md lists them all.\n"
        )
        sys.exit(0)
    steps = _steps(run_id, config)
    if not steps or not all(
        str(step).startswith(EXPR_KEY) or inspect.isroutine(locate(_target(step))) for step in steps
    ):
        near = get_close_matches(str(run_id), runs, n=1) or runs
        sys.exit(f"error: {where} has no run '{run_id}': give {' or '.join(near)} in its place.")


def _steps(name: str, config: ConfigParser) -> Sequence[Any]:
    """Return what an id evaluates, as a list, or that which it is a copy of."""
    part = config.get(name)
    while isinstance(part, str) and part.startswith(MACRO_KEY):
        part = config.get(part[len(MACRO_KEY) :])
    return part if isinstance(part, list) else [] if part is None else [part]


def _target(step: Any) -> str:
    return str(step.get("_target_")) if isinstance(step, dict) else ""


def _is_own_run(step: Any) -> bool:
    return _target(step).startswith(_RUNS)


def _needs_value(setting: str, default: Any) -> bool:
    """Tell whether a setting cannot be true, or false behind ``no``, which a name without a value is to fire."""
    is_number = isinstance(default, int | float | list) and not isinstance(default, bool)
    return is_number or is_path(setting) or is_text(setting) or setting.startswith("no")


def _check_null(name: str, setting: str, value: Any, config: ConfigParser) -> None:
    """End the program where null is no value of the setting."""
    default = config[setting]
    if default is None or setting in _TAKE_NULL or default == "$None":
        return
    if str(value).startswith(EXPR_KEY) and (ID_SEP_KEY in setting or isinstance(default, dict)):
        return
    advice = f" (of that name, give ./{value})" if is_path(setting) and value is not None else ""
    sys.exit(f"error: --{name}: null is no value of it{advice}: leave it out, and it is what the config says.")


def _text(name: str, setting: str, value: Any, config: ConfigParser) -> str:
    """Return the value of a path, a name or an address, so that MONAI gives it to the components unchanged."""
    if not isinstance(value, str):
        sys.exit(f"error: --{name}: {_not_text(value)}, in the args_file.")
    try:
        value.encode()
    except UnicodeEncodeError:
        sys.exit(f"error: --{name}: holds bytes that are no text in UTF-8: rename what it names.")
    if value[:1] == MACRO_KEY or _is_reference(name, value, config) or _is_expression(name, value, config):
        return value
    if is_path(setting):
        if not value:
            sys.exit(f"error: --{name}: is empty; the working folder is '.'.")
        value = os.path.expanduser(value)
    return _literal(value)


def _is_reference(name: str, value: str, config: ConfigParser) -> bool:
    """Tell whether a value is ``@id``; ``@file.name`` is none."""
    if not ReferenceResolver.id_matcher.fullmatch(ReferenceResolver.normalize_id(value)):
        return False
    if value[1:] not in config:
        sys.exit(f"error: --{name}: {value} is a setting's value to MONAI, and there is none: for a path, ./{value}.")
    return True


def _is_expression(name: str, value: str, config: ConfigParser) -> bool:
    """Tell whether a value is a ``$`` expression; one that cannot be evaluated may be meant as a path."""
    if value[:1] != EXPR_KEY:
        return False
    modules = [text[1:] for text in ensure_tuple(config.get("imports", [])) if isinstance(text, str)]
    try:
        tree = ast.parse(
            ReferenceResolver.id_matcher.sub("__file__", ReferenceResolver.normalize_id(value[1:])), mode="eval"
        )
        imports = [node for text in modules for node in ast.walk(ast.parse(text)) if isinstance(node, ast.alias)]
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        bound |= {(node.asname or node.name).split(".")[0] for node in imports}
        unknown = names - bound - set(dir(builtins)) - set(config.globals) - {"__file__"}
    except (SyntaxError, ValueError):
        unknown = {value[1:]}
    if unknown:
        sys.exit(
            f"error: --{name}: {value} is an expression to MONAI, which cannot be evaluated "
            f"(what is {sorted(unknown)[0]}?): for a path, ./{value}."
        )
    return True


def _literal(text: str) -> str:
    """Write a text so that MONAI leaves it as it is: as an expression where it holds what MONAI reads otherwise."""
    if not any(mark in text for mark in _CHANGED_BY_MONAI):
        return text
    literal = repr(text)
    for mark in _CHANGED_BY_MONAI:
        literal = literal.replace(mark, f"\\x{ord(mark):02x}")
    return EXPR_KEY + literal


def _not_text(value: Any) -> str:
    return f"{value} is read as {type(value).__name__}, not as text: put it in quotes"


def _advice(name: str, config: Mapping[str, Any], known: Sequence[str], files: Sequence[Any]) -> str:
    top, _, inner = ReferenceResolver.normalize_id(name.lstrip(MARKS)).partition(ID_SEP_KEY)
    where = " and ".join(map(str, files))
    if inner and top in config:
        members = [f"{top}#{key}" for key in config[top]] if isinstance(config[top], dict) else []
        near = get_close_matches(f"{top}#{inner}", members, n=1) or members
        return f"'{top}' of {where} has no '{inner}'" + (f"; it has {', '.join(near)}." if near else ".")
    if top in _RENAMED:
        return f"this setting is now {_RENAMED[top]}."
    near = get_close_matches(top, [*config, *known])
    meant = f"did you mean {' or '.join(f'--{one}' for one in near)}?" if near else "docs/reference.md lists them all."
    return f"{where} has no setting '{top}'; {meant}"
