"""How long a step takes, and with how many threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["computing_threads", "least_seconds"]


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def least_seconds(step: Callable[[], object], repeats: int = 3) -> float:
    """Run a step once to warm up, and return the least time of ``repeats`` more runs."""
    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
