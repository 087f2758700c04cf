"""
A Python that starts at once: a server that has imported what takes seconds forks a process for each program.

``forked_python(folder)`` writes ``folder/python``, which takes ``-m MODULE``, ``-c TEXT`` or a path as Python's own
program does, in the folder and with the variables that it is started in, several at a time. Who ends ``folder/python``
ends the program. The modules of ``scripts`` are not kept: each program imports those of the bundle that it runs in.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"!"], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(9)))
"""


@contextlib.contextmanager
def forked_python(folder: Path) -> Iterator[Path]:
    """Serve programs for the time of a ``with`` block, which gets the path to run them by."""
    program, bundle = folder / "python", Path(__file__).resolve().parents[1] / "bundle"
    with (
        tempfile.TemporaryDirectory() as short,  # the path of a socket has room for a hundred letters
        subprocess.Popen(
            [sys.executable, __file__, address := f"{short}/socket"],
            stdin=subprocess.PIPE,  # at its end, so also when this process is killed, the server ends
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(bundle)},
        ) as server,
    ):
        program.write_text(PROGRAM.format(python=sys.executable, address=address))
        program.chmod(0o755)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield program
        server.communicate()


def serve(address: str) -> None:
    """Fork a process for each program; return in that process alone, when its words, folder and streams are set."""
    programs: dict[int, Program] = {}  # those that run, by the descriptors of each
    poll = select.poll()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        for file in (listening, sys.stdin):
            poll.register(file, select.POLLIN)
        while (number := poll.poll()[0][0]) != sys.stdin.fileno():
            if number != listening.fileno():
                ended(programs[number], number, programs, poll)
            elif (program := started(listening.accept()[0])) is None:
                return
            else:
                programs |= {program.connection.fileno(): program, program.end: program}
                poll.register(program.connection, 0)  # tells nothing but that the other side is gone
                poll.register(program.end, select.POLLIN)
    for program in set(programs.values()):
        os.kill(program.process, signal.SIGKILL)
    sys.exit()


@dataclass(frozen=True)
class Program:
    """A program that runs: its process, what becomes readable when it ends, and who waits for it."""

    process: int
    end: int
    connection: socket.socket


def started(connection: socket.socket) -> Program | None:
    """Fork a process for the program that is asked for; None in that process."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    words, folder, variables = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    multiprocessing.active_children()  # collects those of the imports, which are none of a forked process
    if (process := os.fork()) == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        connection.close()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        sys.argv = words
    for stream in streams:
        os.close(stream)
    return Program(process, os.pidfd_open(process), connection) if process else None


def ended(program: Program, number: int, programs: dict[int, Program], poll: select.poll) -> None:
    """Tell how a program has ended; or end it, where who waits for it is gone."""
    if number != program.end:
        os.kill(program.process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(program.process, 0)[1])
    for descriptor in (program.end, program.connection.fileno()):
        poll.unregister(descriptor)
        del programs[descriptor]
    os.close(program.end)
    with program.connection, contextlib.suppress(OSError):
        program.connection.sendall(str(status if status >= 0 else 128 - status).encode())


def import_bundle() -> None:
    """Import every module of the bundle, and with them the libraries that its runs load one after another."""
    for module in pkgutil.walk_packages(importlib.import_module("scripts").__path__, "scripts."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def run(words: list[str]) -> None:
    """Run ``-m MODULE``, ``-c TEXT``, or a path; ``-u`` before it changes nothing."""
    words = words[1:] if words[0] == "-u" else words
    sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if words[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, os.getcwd())
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        if os.path.isfile(words[0]):  # a folder puts itself onto the path
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    import fire  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401  (by the first picture)
    import monai.bundle  # noqa: F401
    import torch._dynamo  # noqa: F401  (by the first step of an optimizer)

    import_bundle()
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    sys.path = [path for path in sys.path if path not in (os.environ["PYTHONPATH"], os.path.dirname(__file__))]
    gc.freeze()  # a forked process need not go through them
    serve(sys.argv[1])
    run(sys.argv)
