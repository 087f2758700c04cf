"""Memory that is freed stays with the process."""

from __future__ import annotations

import multiprocessing
import resource

import numpy as np
import pytest

from scripts.runs import memory

PAGES = 64 * 2**20 // resource.getpagesize()  # of an array of 64 MiB


def _faults_of_arrays(queue, environment):
    memory.os.environ = environment
    holds = memory.keep_freed_memory()
    np.ones(2**23)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(2**23)
    queue.put((holds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


def faults_of_arrays(environment):
    """In a process of its own: whether it holds, and the page faults of eight arrays of 64 MiB, one after another."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_faults_of_arrays, args=(queue, environment))
    process.start()
    found = queue.get(timeout=60)
    process.join()
    return found


@pytest.mark.skipif(memory.platform.libc_ver()[0] != "glibc", reason="another C library")
def test_an_array_takes_the_place_of_the_one_before():
    holds, faults = faults_of_arrays({})
    assert holds and faults < PAGES / 4


def test_settings_of_the_environment_stay():
    assert not faults_of_arrays({"MALLOC_TRIM_THRESHOLD_": "131072"})[0]


def test_another_c_library_is_let_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # is not asked for
    assert not memory.keep_freed_memory()
