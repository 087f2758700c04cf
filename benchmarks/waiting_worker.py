"""A worker for ``archive.py`` that waits in place of a network: it imports little, and so starts at once."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["Waiting"]


class Waiting:
    """
    Wait as long as a scan says, and write a whole file, as a prediction ends with its record.

    Args:
        folder: of the files; None writes none.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self.lock = Lock()

    def start(self) -> None:
        """Need nothing."""

    def predict(self, item: Mapping[str, Any]) -> None:
        with self.lock:  # what waits behind is called meanwhile
            time.sleep(item["seconds"])
        if self.folder is not None:
            path = Path(self.folder) / f"{item['scan']}.json"
            unfinished = path.with_name(f".{secrets.token_hex(8)}.{path.name}")  # as scripts.files.atomic_write does
            unfinished.write_text(json.dumps({"scan": item["scan"], "by": os.getpid()}))
            unfinished.replace(path)
