"""Runs `sep run` in processes that end as they are told to: killed, or side by side.

python tests/support/forked_runs.py '[["helpers.store.cache:Store.put_many 3"], ["", ""]]' --k=3 …

Imports take far longer than a small run: this process only imports, and each run is a fork of it.
It prints the runs' exit codes as a JSON list (-9: killed).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
IMPORTED = (
    "helpers.studies.reasoning.stages",
    "helpers.studies.semantic_entropy.stages",
    "pyarrow.parquet",
    "sklearn.linear_model",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
"""What a run imports, and takes long; so does nnsight."""


def forked_runs(rounds: Sequence[Sequence[str]], flags: Sequence[str]) -> tuple[list[int], str]:
    """The exit codes of runs with these flags, and what they said on stderr.

    The runs of a round are at work at once. Each is "module:function n", and is killed with SIGKILL
    at that function's nth call, or "", and runs to its end.
    """
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(rounds), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), done.stderr


def _kill_at_call(target: str, n: int) -> None:
    """Wrap `module:attribute.path` so that its nth call is the process's last deed."""
    module_name, path = target.split(":")
    *parents, name = path.split(".")
    owner = importlib.import_module(module_name)
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), [0]

    def wrapper(*args, **kwargs):
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)


def _fork(kill: str, flags: Sequence[str]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        from helpers.cli.main import main

        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        if kill:
            target, n = kill.split()
            _kill_at_call(target, int(n))
        status = main(["run", *flags])
    finally:
        os._exit(status)


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    importlib.import_module("helpers.models.forwards").import_nnsight()
    codes = []
    for at_once in json.loads(sys.argv[1]):
        children = [_fork(kill, sys.argv[2:]) for kill in at_once]
        codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))
