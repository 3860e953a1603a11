"""Runs `sep run`, and kills itself with SIGKILL the nth time that a named function is called.

python tests/support/killed_run.py helpers.store.cache:Store.put_many 3 --limit 40 …
"""

from __future__ import annotations

import importlib
import os
import signal
import sys


def kill_at_call(target: str, n: int) -> None:
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


if __name__ == "__main__":
    import helpers.cli.main

    kill_at_call(sys.argv[1], int(sys.argv[2]))
    sys.exit(helpers.cli.main.main(["run", *sys.argv[3:]]))
