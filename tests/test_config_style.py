"""The style of the configs, as far as a machine can tell: order, expressions, quotes, units, settings in use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLE_ROOT

CONFIGS = sorted((BUNDLE_ROOT / "configs").glob("*.yaml"))
OVERLAYS = {
    "archive.yaml": ["inference.yaml"],
    "evaluate.yaml": ["inference.yaml"],
    "inference_trt.yaml": ["inference.yaml"],
    "multi_gpu_evaluate.yaml": ["inference.yaml", "evaluate.yaml"],
    "multi_gpu_train.yaml": ["train.yaml"],
    "report.yaml": ["train.yaml"],
    "report_inference.yaml": ["inference.yaml"],
    "train_ribs.yaml": ["train.yaml"],
}
# Configs in their house order; a config has those that it needs.
SECTIONS = [
    ["imports"],
    ["paths"],
    ["settings"],
    ["network", "network, loss, optimizer"],
    ["train", "infer"],
    ["validate"],
    ["run ids"],
]
MOST_CHARACTERS = 80
# Numbers whose names say the unit, and numbers without one.
UNITS = r"_hours$|_mm3?$|_voxels$|_hu$|^hu$|_epochs$|^per_scan$|_prob$|probability|_share$|^num_workers$"
PLAIN_NUMBERS = {"seed", "learning_rate", "weight_decay", "overlap", "batch_size", "min_pixdim", "max_pixdim"}

every_config = pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])


def scalars(path: Path) -> list[tuple[str, str | None, int]]:
    """Every scalar of a config as it is read, folded lines joined: value, quote, and its line, from 1."""
    events = yaml.parse(path.read_text())
    return [(e.value, e.style, e.start_mark.line + 1) for e in events if isinstance(e, yaml.ScalarEvent)]


def sections(path: Path) -> dict[str, str]:
    """The text under each ruled-off name."""
    parts = re.split(r"^# ---- (.+) ----$", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


@every_config
def test_starts_with_what_it_does_and_the_command_that_runs_it(path):
    header = re.match(r"(?:#.*\n)+", path.read_text().replace("\\\n#", ""))
    assert header, "no comment at the top"
    run = re.search(r"(?:python|torchrun .*) -m monai\.bundle run (\w+) +--config_file (.+)", header[0])
    assert run, "no command in the comment at the top"
    assert f"configs/{path.name}" in run[2]
    configs = [path, *(path.parent / base for base in OVERLAYS.get(path.name, []))]
    assert any(run[1] in yaml.safe_load(config.read_text()) for config in configs)


@every_config
def test_sections_are_named_and_in_order(path):
    places = [[i for i, names in enumerate(SECTIONS) if name in names] for name in sections(path)]
    assert all(places), f"a section has another name than {SECTIONS}"
    assert places == sorted(places)
    before_the_first = path.read_text().split("# ----")[0]
    assert yaml.safe_load(before_the_first) is None, "a value stands before the first section"


@every_config
def test_expressions_are_short_and_simple(path):
    expressions = [(value, line) for value, _, line in scalars(path) if value.startswith("$")]
    too_long = [f"line {line}: {len(value)} characters" for value, line in expressions if len(value) > MOST_CHARACTERS]
    assert too_long == []
    loops = [f"line {line}: {value}" for value, line in expressions if re.search(r"\b(for|lambda)\b", value)]
    assert loops == []
    unbound = [f"line {line}: {value}" for value, line in expressions if re.fullmatch(r"\$import scripts\S*", value)]
    assert unbound == [], "'$import scripts.module' binds no usable name"


@every_config
def test_references_and_expressions_are_quoted_and_nothing_else(path):
    marked = [(value, quote, line) for value, quote, line in scalars(path) if value[:1] in ("$", "@", "%")]
    imports = sections(path).get("imports", "")
    bare = [f"line {n}: {value}" for value, quote, n in marked if quote != '"' and value not in imports]
    assert bare == []
    needless = [
        f"line {line}: {value}"
        for value, quote, line in scalars(path)
        if quote and value[:1] not in ("$", "@", "%") and "@" not in value and reads_the_same_without_quotes(value)
    ]
    assert needless == []


def reads_the_same_without_quotes(value: str) -> bool:
    try:
        return yaml.safe_load(f"key: {value}") == {"key": value}
    except yaml.YAMLError:
        return False


@every_config
def test_numbers_are_numbers_and_nothing_is_reached_by_position(path):
    texts = [f"line {n}: {v}" for v, q, n in scalars(path) if q is None and re.fullmatch(r"[+-]?\d+e[+-]?\d+", v)]
    assert texts == [], "YAML reads 1e-3 as text"
    by_position = [f"line {n}: {v}" for v, _, n in scalars(path) if re.search(r"[@%][\w:#]*(#|::)\d", v)]
    assert by_position == []


@every_config
def test_settings_tell_their_unit_or_reason(path):
    silent = []
    for line in sections(path).get("settings", "").splitlines():
        if not re.match(r"( {2})?[\w:]+:", line) or "  # " in line:
            continue
        name, value = next(iter(yaml.safe_load(line).items()))
        is_number = not isinstance(value, bool) and isinstance(value, int | float | list)
        if path.name.startswith("report") or (is_number and name not in PLAIN_NUMBERS and not re.search(UNITS, name)):
            silent.append(line)
    assert silent == []


@every_config
def test_every_setting_is_used(path):
    text = "".join((path.parent / name).read_text() for name in [path.name, *OVERLAYS.get(path.name, [])])
    parts = sections(path)
    names = [name for part in ("paths", "settings") for name in yaml.safe_load(parts.get(part) or "") or {}]
    assert names
    groups = {name.split("::")[0] for name in names}
    assert [name for name in groups if not re.search(rf"@{name}\b", text)] == []


@pytest.mark.parametrize("name, lines, expressions", [("inference.yaml", 220, 20), ("train.yaml", 280, 40)])
def test_a_config_is_short(name, lines, expressions):
    path = BUNDLE_ROOT / "configs" / name
    assert len(path.read_text().splitlines()) <= lines
    assert sum(value.startswith("$") for value, _, _ in scalars(path)) <= expressions
