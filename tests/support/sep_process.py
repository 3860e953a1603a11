"""`sep` in processes of its own, for what the hub's libraries read once, when they are imported."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

_SEP = """
import sys

def do(arguments):
    from helpers.models.loading import identify
    from helpers.progress import run_safely
    from helpers.store.hub import fetch_model

    fetch_model.cache_clear()
    if arguments[0] != "identify":
        from helpers.cli.main import main

        return main(arguments)

    def show():
        found = identify(*arguments[1:])
        print(found.folder, found.model_hash, found.tokenizer_hash)

    return run_safely(show)

if len(sys.argv) > 1:
    sys.exit(do(sys.argv[1:]))

import contextlib, io, json, time, traceback, types
from helpers.store import hub

hub.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
answers = sys.stdout
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = do(json.loads(line))
        except BaseException:
            traceback.print_exc()
            status = 1
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""
"""A `sep` command, or `identify NAME KIND`: the model's folder and its two hashes are its output.

Without arguments it does what each line of its standard input says, and tries again at once.
"""


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    out: str
    err: str


def hub_environment(endpoint: str, home: Path, **settings: str) -> dict[str, str]:
    """The environment of a process that asks a stand-in, with a cache of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "SEP_"))}
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return kept | own | settings


def start_sep(environment: Mapping[str, str], *arguments: str, **options: Any) -> subprocess.Popen:
    """Begin a command in a new process."""
    program = [sys.executable, "-c", _SEP, *arguments]
    return subprocess.Popen(program, env=environment, text=True, **options)


def run_sep(environment: Mapping[str, str], *arguments: str, **options: Any) -> Finished:
    """Run a command in a new process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start_sep(environment, *arguments, **pipes, **options)
    out, err = process.communicate(timeout=180)
    return Finished(process.returncode, out, err)


class SepWorker:
    """One process that runs many `sep` commands, so that its imports are paid for once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen | None = None

    def __call__(self, *arguments: str) -> Finished:
        """Run a command; fails where it takes minutes."""
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = start_sep(self._environment, **pipes)
        inlet, outlet = self._process.stdin, self._process.stdout
        assert inlet
        assert outlet
        inlet.write(json.dumps(arguments) + "\n")
        inlet.flush()
        if not select.select([outlet], [], [], 180)[0]:
            self.close()
            raise TimeoutError(f"sep {' '.join(arguments)} hangs")
        return Finished(*json.loads(outlet.readline()))

    def close(self) -> None:
        """End the process; a later command begins another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def start(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository as a person would, with one thread and no network."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
