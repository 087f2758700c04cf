"""Workers for tests of the pool: they compute nothing, import little, and end in all the ways that workers do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Worker:
    """
    Leave a line for each scan that it begins, wait as long as the scan says, and end as it says.

    Args:
        folder: of the lines, a file for each scan.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def start(self) -> str:
        return "agreed"

    def predict(self, item: Mapping[str, Any]) -> str:
        tries = self.folder / item["scan"]
        with tries.open("a") as file:
            file.write(f"{os.getpid()}\n")
        count = len(tries.read_text().splitlines())
        time.sleep(item.get("seconds", 0))
        if count <= item.get("kills", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if count <= item.get("fills_disk", 0):
            raise OSError(28, f"{item['scan']}.nii.gz cannot be written (No space left on device)")
        if count <= item.get("fails", 0):
            raise ValueError(f"{item['scan']} is odd")
        return f"{item['scan']} done"


class Unable:
    """A worker that cannot start."""

    def start(self) -> str:
        raise FileNotFoundError("/data/model.pt is no file that exists")


class StartsLate(Worker):
    """A worker whose process ends as it starts, until the folder holds five lines of those that did."""

    def start(self) -> str:
        tries = self.folder / "starts"
        with tries.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(tries.read_text().splitlines()) <= 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return "agreed"


class EndsAtd:
    """
    A transform that ends its process at scans, as where memory runs out, or waits there until somebody ends it.

    Args:
        folder: holds a file for each of these scans with two numbers: how often it ends, and after how many seconds.
            Next to it, the parents of the processes that tried are listed.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, data: Any) -> Any:
        plan = self.folder / data["image"].meta["scan"]
        if plan.exists():
            kills, seconds = map(int, plan.read_text().split())
            tries = plan.with_suffix(".tries")
            with tries.open("a") as file:
                file.write(f"{os.getppid()}\n")
            if len(tries.read_text().splitlines()) <= kills:
                time.sleep(seconds)
                os.kill(os.getpid(), signal.SIGKILL)
        return data
