"""The bundle to and from the Hugging Face hub, which a server on this machine stands for."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import monai.bundle
import pytest
from conftest import BUNDLE_ROOT

from scripts.commands.release import archive_files, build_archive

NAME = "rib_fracture_ct_segmentation"
REPOSITORY = f"some_group/{NAME}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = archive_files(BUNDLE_ROOT)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client asks for when it downloads a repository of :data:`FILES` that has one tag."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, files = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        answers: dict[str, Any] = {
            f"{api}/refs": {"branches": [], "tags": [self.tag("latest_version")], "converts": []},
            f"{api}/revision/latest_version": {"id": REPOSITORY, "sha": COMMIT},
            f"{api}/tree/{COMMIT}": [
                {"type": "file", "path": name, "size": len(content), "oid": checksum(content)}
                for name, content in FILES.items()
            ],
        }
        if path in answers:
            self.answer(json.dumps(answers[path]).encode(), {"Content-Type": "application/json"})
        elif path.startswith(files) and path.removeprefix(files) in FILES:
            content = FILES[path.removeprefix(files)]
            self.answer(content, {"ETag": f'"{checksum(content)}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    @staticmethod
    def tag(name: str) -> dict[str, str]:
        return {"name": name, "ref": f"refs/tags/{name}", "targetCommit": COMMIT}

    def log_message(self, *_: Any) -> None:
        pass


def checksum(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_command_downloads_the_bundle(hub: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "download", "--name", NAME, "--source", "huggingface_hub"]
    settings = {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home"), "no_proxy": "*"}
    done = subprocess.run(
        [*command, "--repo", REPOSITORY, "--bundle_dir", str(tmp_path)],
        env=os.environ | settings,
        cwd=tmp_path,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    bundle = tmp_path / NAME
    kept = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    assert {name: content for name, content in kept.items() if not name.startswith(".cache/")} == FILES


def test_the_command_uploads_what_the_archive_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {"tags": []}

    class Client:
        def __init__(self, token: str | None) -> None:
            calls["token"] = token

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            calls["repository"] = (repo_id, private)

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            folder = Path(folder_path)
            paths = [path for path in folder.rglob("*") if path.is_file()]
            calls["uploaded"] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            return f"https://example.org/{repo_id}"

        def create_tag(self, repo_id: str, tag: str, exist_ok: bool) -> None:
            calls["tags"].append(tag)

    monkeypatch.setattr("monai.bundle.scripts.huggingface_hub.HfApi", Client)
    shutil.unpack_archive(build_archive(BUNDLE_ROOT, tmp_path), tmp_path)
    own = {"repo": REPOSITORY, "name": NAME, "bundle_dir": str(tmp_path)}
    monai.bundle.push_to_hf_hub(**own, private=False, version="0.11.0", tag_as_latest_version=True)
    card = calls["uploaded"].pop("README.md").decode()
    assert calls["uploaded"] == FILES
    assert (calls["repository"], calls["tags"]) == ((REPOSITORY, False), ["0.11.0", "latest_version"])
    # the card of the hub: tags and the license, found in LICENSE, before the model card
    assert card.startswith("---\n") and "license: apache-2.0\n" in card.split("---\n")[1]
    assert card.endswith(FILES["docs/README.md"].decode())
