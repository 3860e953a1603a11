"""Run a module as in the small install, in an environment that has more.

    python -m tests.benchmarks.light_install helpers.app.serving --port 8080

What `uv sync` installs only for the pipeline or for development cannot be imported then.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PROJECT = "uncertainty-probes"


def needed(project: str = PROJECT) -> set[str]:
    """The distributions that a project needs without its extras, by normalised name."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [project]
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


class Absent(MetaPathFinder):
    """Finds no module that belongs only to distributions which are not `allowed`."""

    def __init__(self, allowed: set[str]) -> None:
        self.absent = {
            module
            for module, owners in metadata.packages_distributions().items()
            if not allowed & {_normal(owner) for owner in owners}
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {fullname!r} (small)", name=fullname)
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent(needed()))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
