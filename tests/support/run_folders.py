"""A small run that several test files look at, and how two run folders are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.numpy import load_file

TINY: dict[str, Any] = {
    "limit": 30,
    "k": 4,
    "judge": "final-answer",
    "max_new_tokens": 12,
    "n_bootstrap": 100,
    "n_permutations": 1000,
    "threads": 1,
}
"""A run of the lab that takes a few seconds."""


def as_flags(options: dict[str, Any]) -> list[str]:
    """Config fields as they are typed on the command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def assert_same_run(expected: Path, found: Path) -> None:
    """Every file of two run folders is the same, but for the time the work took."""
    names = sorted(p.relative_to(expected) for p in expected.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(found) for p in found.rglob("*") if p.is_file())
    for name in names:
        if name.suffix == ".parquet":
            assert pq.read_table(expected / name) == pq.read_table(found / name), name
        elif name.suffix == ".safetensors":
            ours, theirs = load_file(expected / name), load_file(found / name)
            assert {k: v.tobytes() for k, v in ours.items()} == {
                k: v.tobytes() for k, v in theirs.items()
            }, name
        elif name.name == "manifest.json":
            ours, theirs = (json.loads((f / name).read_text()) for f in (expected, found))
            assert ours | {"work": 0} == theirs | {"work": 0}
        elif name.parent.name == "analyses":
            ours, theirs = (json.loads((f / name).read_text())["result"] for f in (expected, found))
            assert without_seconds(ours) == without_seconds(theirs), name
        else:
            assert (expected / name).read_bytes() == (found / name).read_bytes(), name


def without_seconds(value: Any) -> Any:
    """JSON values without the time that anything took."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value
