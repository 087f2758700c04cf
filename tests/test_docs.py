"""What the documentation says, held against the configs, the code and the files."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import json
import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml
from conftest import BUNDLE_ROOT
from monai.bundle import ConfigComponent, ConfigParser

from scripts.__main__ import COMMANDS
from scripts.reporting.tables import CHALLENGE_COLUMNS, FRACTURE_COLUMNS, SCAN_COLUMNS

ROOT = BUNDLE_ROOT.parent
CONFIGS = BUNDLE_ROOT / "configs"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(BUNDLE_ROOT / "docs").glob("*.md")])
# settings' config: (configs below it, overlay that sets the report's values)
SETTINGS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "train.yaml": ((), "report.yaml"),
    "inference.yaml": ((), "report_inference.yaml"),
    "evaluate.yaml": (("inference.yaml",), None),
    "archive.yaml": (("inference.yaml",), None),
    "train_ribs.yaml": (("train.yaml",), None),
    "multi_gpu_train.yaml": (("train.yaml",), None),
    "multi_gpu_evaluate.yaml": (("inference.yaml", "evaluate.yaml"), None),
}
# what a run saves of its config: the configs that it had
SAVED = {
    "output/training/config.yaml": ["configs/train.yaml"],
    "output/prediction/config.yaml": ["configs/inference.yaml"],
}

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def parser(*names: str) -> ConfigParser:
    """The merged configs, for a bundle in the working folder."""
    config = ConfigParser()
    config.read_config([CONFIGS / name for name in names])
    return config


def settings(name: str) -> dict[str, Any]:
    """The values under "paths" and "settings" of a config."""
    parts = re.split(r"^# ---- (.+) ----$", text(CONFIGS / name), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2]))
    values = {k: v for part in ("paths", "settings") for k, v in (yaml.safe_load(sections.get(part, "")) or {}).items()}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        is_group = isinstance(value, dict) and not any(key.startswith("_") for key in value)
        flat |= {f"{name}#{key}": of_key for key, of_key in value.items()} if is_group else {name: value}
    return {name.replace("::", "#"): value for name, value in flat.items()}


def default(names: tuple[str, ...], setting: str) -> Any:
    """The value that a setting has when nobody sets it."""
    value = parser(*names)[setting]
    if isinstance(value, dict) or isinstance(value, str) and value[:1] in ("$", "@"):
        value = parser(*names).get_parsed_content(setting)
    if isinstance(value, int | float | list | None):
        return value
    return str(value).replace(f"sqlite:///{Path.cwd().as_posix()}/", "sqlite:///")  # as in the working folder


def present(page: Path) -> str:
    """The text of a page, of the changelog the newest version: older ones had other names and values."""
    return "".join(text(page).split("\n## [", 2)[:2]) if page.name == "CHANGELOG.md" else text(page)


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading of the reference, by the code in its first column."""
    part = text(ROOT / "docs" / "reference.md").split(f"\n{heading}\n", 1)
    assert len(part) == 2, f"docs/reference.md has no heading '{heading}'"
    table = re.split(r"^#+ ", part[1], maxsplit=1, flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line[:3] == "| `"]
    assert cells, heading
    return {row[0].strip("`"): row for row in cells}


def codes(cell: str) -> list[Any]:
    """The values in a cell, as YAML reads them."""
    return [yaml.safe_load(code) for code in re.findall(r"`([^`]*)`", cell)]


def blocks(language: str) -> list[Any]:
    """Every fenced block of a language, named by its page and line."""
    found = []
    for page in PAGES:
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL):
            line = text(page)[: match.start()].count("\n") + 1
            found.append(pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def commands() -> list[Any]:
    """Every Python command in the fenced blocks, without comments, continued lines joined."""
    found = []
    for block in blocks("bash"):
        lines = block.values[0].replace("\\\n", " ").splitlines()
        lines = [re.sub(r"^(\w+=\S+ )*torchrun .*?-m ", "python -m ", line.strip()) for line in lines]
        python = [line[line.index("python ") :] for line in lines if re.match(r"(\w+=\S+ )*python ", line.strip())]
        found += [pytest.param(shlex.split(line, comments=True), id=f"{block.id}: {line[:60]}") for line in python]
    return found


@pytest.mark.parametrize("config", SETTINGS)
def test_every_setting_stands_in_the_reference_with_its_default(config):
    base, report = SETTINGS[config]
    table = rows(f"### Settings of {config}")
    assert list(table) == list(settings(config)), "the rows are the settings, in the config's order"
    names = (*base, config)
    wrong = {}
    for setting, row in table.items():
        value = default(names, setting)
        if setting == "device":  # depends on the machine
            assert value in codes(row[1]) and set(codes(row[1])) == {"cuda:0", "cpu"}
        elif codes(row[1]) != [value]:
            wrong[setting] = (row[1], value)
    assert wrong == {}, "(reference, config)"
    if report is None:
        return
    for setting, row in table.items():
        stated = codes(row[2])
        assert stated == ([default((config, report), setting)] if setting in settings(report) else []), setting


@pytest.mark.parametrize("config", [path.name for path in sorted(CONFIGS.glob("*.yaml"))])
def test_every_other_id_of_a_config_is_named_in_the_reference(config):
    known = set(re.findall(r"`([^`\n]+)`", text(ROOT / "docs" / "reference.md")))
    known |= {name.split("#")[0] for name in known}  # a group by its settings
    ids = {name.lstrip("+").split("::")[0] for name in yaml.safe_load(text(CONFIGS / config))}
    assert sorted(ids - known) == []


@every_page
def test_values_in_prose_are_those_of_a_config(page):
    """``name: value`` in prose is a default, or what the report's overlay sets; in a table each has its column."""
    stated: list[tuple[str, Any]] = []
    for code in re.findall(r"`([a-z][\w#]*: [^`]+)`", present(page)):
        stated += yaml.safe_load(code).items()
    known: dict[str, list[Any]] = {}
    for config, (base, report) in SETTINGS.items():
        names = (*base, config)
        for setting in settings(config):
            known.setdefault(setting, []).append(default(names, setting))
            if report and setting in settings(report):
                known[setting].append(default((config, report), setting))
    assert [(name, value) for name, value in stated if value not in known.get(name, [])] == []


def test_the_differences_from_the_report_are_complete():
    page = text(ROOT / "docs" / "how-to" / "reproduce-the-report.md")
    stated = {}
    for ours, reports in re.findall(r"\| `([\w#]+: [^`]+)` \| `([\w#]+: [^`]+)` \|", page):
        (name, value), (same_name, its_value) = (*yaml.safe_load(ours).items(), *yaml.safe_load(reports).items())
        assert name == same_name
        stated[name] = (value, its_value)
    differing = {}
    for config, report in (("train.yaml", "report.yaml"), ("inference.yaml", "report_inference.yaml")):
        pairs = {s: (default((config,), s), default((config, report), s)) for s in settings(report)}
        # leaves out folders of results, and the length of a training
        differing |= {
            s: pair for s, pair in pairs.items() if pair[0] != pair[1] and s not in ("output_dir", "max_epochs")
        }
    assert stated == differing


@every_page
def test_code_named_in_prose_exists(page):
    prose = present(page)
    tests = "".join(text(path) for path in sorted((ROOT / "tests").glob("test_*.py")))
    missing = [name for name in re.findall(r"`(test_\w+)`", prose) if f"def {name}(" not in tests]
    for name in re.findall(r"`(scripts\.[\w.]+)`", prose):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            try:
                locate(name)
            except (AttributeError, ModuleNotFoundError):
                missing.append(name)
    files = re.findall(r"`((?:bundle|configs|tests|benchmarks|docs)/[\w./-]+)`", prose)
    missing += [name for name in files if not ((ROOT / name).exists() or (BUNDLE_ROOT / name).exists())]
    assert missing == []


def test_messages_on_the_troubleshooting_page_are_printed_by_the_code():
    """In a quoted message, ``...`` stands for what is filled in."""
    cells = re.findall(r"^\| (?!message |--- )(.+?) \|", text(ROOT / "docs" / "troubleshooting.md"), re.MULTILINE)
    quotes = [cell[1:-1] for cell in cells if re.fullmatch(r"`[^`]+`", cell)]
    assert quotes and len(quotes) == len(cells), "each row begins with one message"
    printed = messages()
    assert [quote for quote in quotes if not any(is_of(quote, message) for message in printed)] == []
    assert [quote for quote in quotes if len(re.findall(r"[A-Za-z]+", quote)) < 2] == []


def is_of(quote: str, message: str) -> bool:
    """Tell whether the constant parts of a quote stand in a message, in their order."""
    for part in filter(None, quote.split("...")):
        _, found, message = message.partition(part)
        if not found:
            return False
    return True


def messages() -> list[str]:
    """The texts of the bundle's code, with ... for what is filled in, and what configs and the shell print."""
    found = [text(path) for path in (ROOT / "environment.sh", *sorted(CONFIGS.glob("*.yaml")))]
    for path in sorted((BUNDLE_ROOT / "scripts").rglob("*.py")):
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@every_page
def test_links_and_pictures_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("arguments", commands())
def test_commands_name_what_exists(arguments, capsys):
    if arguments[1] == "-c":
        compile(arguments[2], "-c", "exec")
    elif arguments[1] == "benchmarks/detection":
        assert set(options_of(arguments[3:])) <= known_options("benchmarks.detection.__main__", capsys, arguments[2])
    elif arguments[1] != "-m":
        assert (ROOT / arguments[1]).is_file(), "a program's path starts at the root of the repository"
    elif arguments[2:4] == ["monai.bundle", "run"]:
        check_run(arguments[3:])
    elif arguments[2] == "monai.bundle":
        given = {option.partition("=")[0].removeprefix("--") for option in options_of(arguments)}
        assert given <= set(inspect.signature(getattr(monai.bundle, arguments[3])).parameters)
    elif arguments[2] == "scripts" and arguments[3] != "COMMAND":
        assert set(options_of(arguments[4:])) <= known_options("scripts.__main__", capsys, arguments[3])


def options_of(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument.startswith("--")]


def known_options(module: str, capsys: pytest.CaptureFixture[str], *command: str) -> set[str]:
    """The options that the help of a module's command names."""
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([*command, "--help"])
    return set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize("block", blocks("bash"))
def test_shell_programs_exist(block):
    for name in re.findall(r"^\./(\S+)", block, re.MULTILINE):
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_stands_in_the_reference(command, capsys):
    options = known_options("scripts.__main__", capsys, command) - {"--help"}
    pages = "".join(text(page) for page in PAGES)
    table = pages.split(f"| option of `python -m scripts {command}` |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(--\w+)`", table)) == options


def test_columns_of_the_tables_stand_in_the_reference():
    page = text(ROOT / "docs" / "reference.md")
    for name, columns in (("fractures.csv", FRACTURE_COLUMNS), ("scans.csv", SCAN_COLUMNS)):
        table = page.split(f"| column of `{name}` |")[1].split("\n\n")[0]
        named = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
        assert sorted(named) == sorted(columns)
    challenge = next(line for line in page.splitlines() if line.startswith("| `predictions/ribfrac-pred.csv`"))
    assert set(CHALLENGE_COLUMNS) <= set(re.findall(r"`(\w+)`", challenge))
    curves = next(line for line in page.splitlines() if line.startswith("| `curves.csv`"))
    assert set(parser("train.yaml").config["validate"]["key_metric"]) <= set(re.findall(r"`(\w+)`", curves))


def check_run(arguments: list[str]) -> None:
    """Check run id, configs and settings of ``monai.bundle run``."""
    assert arguments[2] == "--config_file"
    files = yaml.safe_load(arguments[3])
    files = files if isinstance(files, list) else SAVED.get(files, [files])
    assert all((BUNDLE_ROOT / name).is_file() or is_users_own(name) for name in files), files
    config = parser(*(Path(name).name for name in files if not is_users_own(name)))
    assert arguments[1] in config.config
    for argument in arguments[4:]:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("#", "::")
            if name in inspect.signature(monai.bundle.run).parameters:  # MONAI's own, such as logging_file
                continue
            parent = name.rpartition("::")[0]
            assert name in config or (parent in config and name != parent and "_target_" in config[parent]), argument


def is_users_own(name: str) -> bool:
    """Tell whether a config is one that the page tells the reader to write."""
    return Path(name).name.startswith("my_")


@pytest.mark.parametrize("block", blocks("yaml"))
def test_examples_of_configs_name_what_exists(block):
    config = ConfigParser(yaml.safe_load(block))
    config.parse(reset=True)
    components = [item for item in config.ref_resolver.items.values() if isinstance(item, ConfigComponent)]
    for item in components:
        target = item.resolve_module_name()
        found = target if callable(target) else locate(str(target))
        arguments = {k for k in item.get_config() if not (k.startswith("_") and k.endswith("_"))}
        parameters = inspect.signature(found).parameters
        takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        assert takes_all or arguments <= set(parameters), item.get_config()


def locate(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_dependency_has_a_row_with_its_reason():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [line for line in config["options"]["install_requires"].splitlines() if line]
    wanted = dict(re.fullmatch(r"([\w-]+)([^;]*).*", line).groups() for line in lines)  # without the platform
    table = rows("## Dependencies")
    assert {name: row[1].strip("`") for name, row in table.items()} == wanted
    assert all(row[2] for row in table.values())


def test_one_version_everywhere():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    version = config["metadata"]["version"]
    metadata = json.loads(text(CONFIGS / "metadata.json"))
    assert metadata["version"] == version and version in metadata["changelog"]
    assert re.findall(r"^## \[(.+?)\]", text(ROOT / "CHANGELOG.md"), re.MULTILINE)[0] == version
    assert yaml.safe_load(text(ROOT / "CITATION.cff"))["version"] == version


def test_hooks_are_the_style_checks_of_runtests():
    checks = text(ROOT / "runtests.sh").split('echo "== style"\n')[1].split("\n\n")[0].splitlines()
    hooks = yaml.safe_load(text(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == checks


@pytest.mark.parametrize("folder", [ROOT, BUNDLE_ROOT], ids=["repository", "bundle"])
def test_the_license_is_whole(folder):
    license_text = text(folder / "LICENSE")
    assert license_text.lstrip().startswith("Apache License\n")
    assert "1. Definitions." in license_text and "END OF TERMS AND CONDITIONS" in license_text
    assert len(license_text) == 11358  # apache.org/licenses/LICENSE-2.0.txt
