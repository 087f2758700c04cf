"""
Pack the bundle for others: one zip archive, and its checksum.

    python -m scripts release --output_dir dist

``python -m monai.bundle download`` takes such an archive by its address. It holds one folder, named after the bundle,
with configs, scripts, weights, model card, reference and licenses; the packages that the bundle needs, for pip; and of
each YAML config a twin in JSON, since ``monai.bundle.load`` reads ``configs/inference.json`` alone. The same files give
the same archive, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.commands._parsers import parser_of
from scripts.files.atomic_write import whole_file, write_text

__all__ = ["archive_files", "build_archive", "main"]

WEIGHTS = "models/model.pt"
# What belongs into the archive; caches, data, results and other weights do not
PATTERNS = (
    "LICENSE",
    "configs/*.yaml",
    "configs/*.json",
    "configs/logging.conf",
    "docs/*",
    WEIGHTS,
    "scripts/**/*.py",
    "scripts/description/*.json",
    "scripts/reporting/pages/templates/*",
)
_REFERENCE = "docs/reference.md"  # beside the bundle's folder, or in the archive that was unpacked
_CARD = "docs/README.md"
_NO_ADDRESS = "REPOSITORY_ADDRESS"  # in the model card, where nobody gave one
# monai.bundle.load runs a config from wherever the program is: the workflow, which calls, knows where the config lies
_OWN_ROOT = (
    "$str(next((frame.f_locals['self'].config_root_path.parent for frame, _ in __import__('traceback').walk_stack(None)"
    " if 'config_root_path' in getattr(frame.f_locals.get('self'), '__dict__', ())), '.'))"
)
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can hold: the same for all files and builds
_MODE = 0o100644 << 16  # a plain file that all may read


def archive_files(bundle_root: str | Path, repository: str | None = None) -> dict[str, bytes]:
    """
    Return what the archive of a bundle holds.

    Args:
        bundle_root: the bundle's folder.
        repository: address of the repository that it comes from, for the model card.

    Returns:
        The content of each file by its path in the bundle, sorted.

    Raises:
        FileNotFoundError: when the bundle lacks its metadata or its weights.
    """
    root = Path(bundle_root)
    for needed in ("configs/metadata.json", WEIGHTS):
        if not (root / needed).is_file():
            raise FileNotFoundError(f"{root / needed} does not exist: give the folder of a bundle with its weights.")
    paths = {path for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()}
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    for name in [name for name in files if name.startswith("configs/") and name.endswith(".yaml")]:
        config = yaml.safe_load(files[name])
        config |= {"bundle_root": _OWN_ROOT} if "bundle_root" in config else {}
        files[name.removesuffix(".yaml") + ".json"] = (json.dumps(config, indent=2) + "\n").encode()
    reference = root.parent / _REFERENCE
    if reference.is_file():
        files[_REFERENCE] = _without_links(reference.read_text(encoding="utf-8")).encode()
    files["requirements.txt"] = _requirements(json.loads(files["configs/metadata.json"])).encode()
    if repository is not None:
        files[_CARD] = files[_CARD].replace(_NO_ADDRESS.encode(), repository.encode())
    return dict(sorted(files.items()))


def _without_links(page: str) -> str:
    """Keep the words of links to pages and files that the archive does not hold."""
    return re.sub(r"\[([^\]]+)\]\((?!#|https?:)[^)]+\)", r"\1", page)


def _requirements(metadata: Mapping[str, Any]) -> str:
    """List the packages that a bundle needs, at their tested versions."""
    versions = {name: metadata[f"{name}_version"] for name in ("monai", "numpy")}
    versions |= {"torch": metadata["pytorch_version"], **metadata["required_packages_version"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def build_archive(bundle_root: str | Path, output_dir: str | Path, repository: str | None = None) -> Path:
    """
    Write ``NAME_vVERSION.zip``, named by the bundle's metadata, and ``NAME_vVERSION.zip.sha256`` beside it.

    Args:
        bundle_root: the bundle's folder.
        output_dir: folder to write to, made if needed.
        repository: see :func:`archive_files`.

    Returns:
        The archive's path.

    Raises:
        FileNotFoundError: when the bundle lacks its metadata or its weights.
    """
    files = archive_files(bundle_root, repository)
    metadata = json.loads(files["configs/metadata.json"])
    folder = metadata["name"].lower().replace(" ", "_")  # the name of folders in MONAI's model zoo
    path = Path(output_dir) / f"{folder}_v{metadata['version']}.zip"
    with whole_file(path) as temporary, zipfile.ZipFile(
        temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6
    ) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"{folder}/{name}", _DATE)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, _MODE, 3
            archive.writestr(entry, content)
    write_text(path.with_name(path.name + ".sha256"), f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Build from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("release")
    options = parser.parse_args(arguments)
    try:
        path = build_archive(options.bundle_root, options.output_dir, options.repository)
    except FileNotFoundError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
