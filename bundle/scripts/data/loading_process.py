"""A process that loads, and may be ended at any moment without ending the program."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import torch

from scripts.data.by_value import pack, unpack

__all__ = ["LoadingProcess", "how_it_ended"]

_CHUNK_BYTES = 2**20  # of what goes through a pipe at once: the fastest of 64 KB to 16 MB for a scan of 374 MB
_LOOKS_FOR_PARENT_S = 5.0
_ENDS_WITHIN_S = 10.0  # a process whose pipe is gone; to write a core file takes a while


class LoadingProcess:
    """
    Load items in another process, and send them here by value.

    The workers of PyTorch's ``DataLoader`` send tensors through shared memory, and where one is killed, a signal
    handler raises an error in whatever the program is doing. Here a killed one is told where its item is asked for.

    Args:
        load: gives what is asked for, such as the item of a number; it runs in the other process.
        context: how processes are started.
    """

    def __init__(self, load: Callable[[Any], Any], context: BaseContext) -> None:
        requests, self._requests = context.Pipe(duplex=False)
        self._results, results = context.Pipe(duplex=False)
        ours = self._requests, self._results
        self.process = context.Process(  # type: ignore[attr-defined]  # each context has one
            target=_serve, args=(load, requests, results, ours, os.getpid()), daemon=True
        )
        self.process.start()
        requests.close()
        results.close()

    def ask(self, request: Any) -> None:
        """Start to load an item, behind those that were asked for before."""
        with suppress(BrokenPipeError):  # `answer` tells it
            self._requests.send(request)

    def answer(self) -> Any:
        """
        Wait for the next item that was asked for.

        Raises:
            EOFError: when the process was ended.
        """
        try:
            sizes = self._results.recv()
            content, *buffers = (self._receive(size) for size in sizes)
        except OSError as error:
            raise EOFError(str(error)) from error
        return unpack(bytes(content), buffers)

    def _receive(self, size: int) -> bytearray:
        buffer, start = bytearray(size), 0
        while start < size:
            start += self._results.recv_bytes_into(buffer, start)
        return buffer

    def exit_code(self) -> int | None:
        """Return the exit code of a process that was ended, negative for a signal's number, and free what it used."""
        self.process.join(_ENDS_WITHIN_S)
        code = self.process.exitcode
        self.close()
        return code

    def close(self) -> None:
        """End the process, whatever it does."""
        self._requests.close()
        self._results.close()
        self.process.kill()
        self.process.join()


def how_it_ended(exit_code: int | None) -> str:
    """
    Say how a process ended, and what may be the reason.

    Args:
        exit_code: of a process that was ended; negative for a signal's number.
    """
    if exit_code is None or exit_code >= 0:
        return f"ended with exit status {exit_code}"
    by = f"was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    if -exit_code == signal.SIGKILL:
        return f"{by}, perhaps because memory ran out: free some, or lower num_workers"
    return f"{by}: perhaps a library cannot read the file, or memory ran out"


def _serve(
    load: Callable[[Any], Any], requests: Connection, results: Connection, theirs: tuple[Connection, ...], parent: int
) -> None:
    """Load what is asked for until the pipe or the parent is gone."""
    for connection in theirs:
        connection.close()
    torch.set_num_threads(1)  # as in PyTorch's workers
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the parent is gone, or tells why it stops
        while True:
            # an end that a sibling has inherited keeps a pipe open
            while not requests.poll(_LOOKS_FOR_PARENT_S):
                if os.getppid() != parent:
                    return
            content, buffers = pack(load(requests.recv()))
            parts = [memoryview(content), *(buffer.data for buffer in buffers)]
            results.send([part.nbytes for part in parts])
            for part in parts:
                for start in range(0, part.nbytes, _CHUNK_BYTES):
                    results.send_bytes(part[start : start + _CHUNK_BYTES])
