"""`sep` in processes of its own, for what the hub's libraries read once, when they are imported."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

_SEP = """
import sys
from helpers.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

_IDENTIFY = """
import sys
from helpers.progress import run_safely
from helpers.models.loading import identify

def show():
    found = identify(*sys.argv[1:])
    print(found.folder, found.model_hash, found.tokenizer_hash)

sys.exit(run_safely(show))
"""

_WORKER = """
import contextlib, io, json, sys, traceback
from helpers.cli.main import main
from helpers.progress import run_safely
from helpers.models.loading import identify

answers = sys.stdout
for line in sys.stdin:
    arguments = json.loads(line)
    identify.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if arguments[0] == "identify":
                status = run_safely(lambda: print(identify(*arguments[1:]).folder))
            else:
                status = main(arguments)
        except BaseException:
            traceback.print_exc()
            status = 1
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    out: str
    err: str
    seconds: float


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


def run_sep(environment: Mapping[str, str], *arguments: str, **options: Any) -> Finished:
    """Run one `sep` command in a new process."""
    return _run(_SEP, environment, arguments, options)


def run_identify(environment: Mapping[str, str], *arguments: str, **options: Any) -> Finished:
    """Find and fetch a model in a new process: the folder and the two hashes are its output."""
    return _run(_IDENTIFY, environment, arguments, options)


def start_identify(environment: Mapping[str, str], name: str, **options: Any) -> subprocess.Popen:
    """The same, without waiting for its end."""
    return subprocess.Popen(
        [sys.executable, "-c", _IDENTIFY, name], env=environment, text=True, **options
    )


def _run(
    program: str, environment: Mapping[str, str], arguments: tuple[str, ...], options: dict
) -> Finished:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        **options,
    )
    return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


class SepWorker:
    """One process that runs many `sep` commands, so that its imports are paid for once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen | None = None

    def __call__(self, *arguments: str, limit: float = 180) -> Finished:
        """Run a command; `identify NAME KIND` is one as well. Fails after `limit` seconds."""
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", _WORKER]
            self._process = subprocess.Popen(command, env=self._environment, **pipes)
        inlet: Any = self._process.stdin
        outlet: Any = self._process.stdout
        started = time.monotonic()
        inlet.write(json.dumps(arguments) + "\n")
        inlet.flush()
        if not select.select([outlet], [], [], limit)[0]:
            self.close()
            raise TimeoutError(f"sep {' '.join(arguments)} took more than {limit:g} s")
        status, out, err = json.loads(outlet.readline())
        return Finished(status, out, err, time.monotonic() - started)

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
