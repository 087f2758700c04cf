"""What the documentation says, held against the configs, the code and the files."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BUNDLE_ROOT
from monai.bundle import ConfigParser
from page_blocks import PAGES, ROOT, is_of, quoted_messages

from scripts.__main__ import COMMANDS
from scripts.reporting.tables import CHALLENGE_COLUMNS, FRACTURE_COLUMNS, SCAN_COLUMNS

CONFIGS = BUNDLE_ROOT / "configs"
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
    quotes = quoted_messages()
    printed = messages()
    assert [quote for quote in quotes if not any(is_of(quote, message) for message in printed)] == []
    assert [quote for quote in quotes if len(re.findall(r"[A-Za-z]+", quote)) < 2] == []


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


def known_options(module: str, capsys: pytest.CaptureFixture[str], *command: str) -> set[str]:
    """The options that the help of a module's command names."""
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([*command, "--help"])
    return set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE))


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
