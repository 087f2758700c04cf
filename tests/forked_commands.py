"""
Run commands one after another, each in a process of its own, and write how each ended, as JSON.

Each process is forked from this one, which has imported what takes seconds; from there on it is Python's own ``-m``.
Standard input holds a list of commands: the module and the words behind it, the folder, and variables to set.
"""

import json
import multiprocessing
import os
import runpy
import sys
import tempfile

import fire  # noqa: F401
import monai.bundle  # noqa: F401

import scripts.handlers
import scripts.inferers
import scripts.metrics
import scripts.runs
import scripts.synthetic.phantom
import scripts.transforms  # noqa: F401

ended = []
for command in json.load(sys.stdin):
    multiprocessing.active_children()  # collects those of the imports, which are none of a forked process
    with tempfile.TemporaryFile() as written:
        if (process := os.fork()) == 0:
            for stream in (1, 2):
                os.dup2(written.fileno(), stream)
            os.chdir(command["folder"])
            os.environ.update(command["variables"])
            sys.path[0] = command["folder"]
            module, *words = command["words"]
            sys.argv = ["-m", *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        written.seek(0)
        ended.append({"status": status, "lines": written.read().decode().splitlines()})
json.dump(ended, sys.stdout)
