"""How long a step takes."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["least_seconds"]


def least_seconds(step: Callable[[], object], repeats: int = 3) -> float:
    """Run a step once to warm up, and return the least time of ``repeats`` more runs."""
    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
