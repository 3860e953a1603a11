"""Runs the benchmarks and prints one table.

python -m tests.benchmarks [--only NAME …] [--quick] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.harness import Comparison, NotEqual, busy_warning, fix_threads, machine, table

STAGES = ("sampling", "nli", "capture", "trace", "p_true", "sweep", "bootstrap")
"""Modules of this package, each with `benchmark(size) -> list[Comparison]`."""


def main(arguments: Sequence[str] | None = None, *, only: str | None = None) -> int:
    """Run what is asked for; 1 when outputs differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=[only] if only else STAGES)
    parser.add_argument("--quick", action="store_true", help="small inputs, two rounds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, for both sides")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    asked = parser.parse_args(arguments)
    fix_threads(asked.threads)
    print(f"{asked.threads} CPU thread(s) for both sides, always on this machine's CPU.")
    warning = busy_warning(asked.threads)
    if warning:
        print(warning, file=sys.stderr)
    before = machine(asked.threads)
    comparisons: list[Comparison] = []
    failed = []
    for stage in asked.only:
        print(f"{stage} …", file=sys.stderr, flush=True)
        module = importlib.import_module(f"tests.benchmarks.{stage}")
        try:
            comparisons += module.benchmark("quick" if asked.quick else "full")
        except NotEqual as difference:
            failed.append(f"OUTPUTS DIFFER: {difference}")
    print(table(comparisons))
    for line in failed:
        print(line)
    if asked.json:
        found = {
            "machine": before,
            "comparisons": [c.as_dict() for c in comparisons],
            "failed": failed,
        }
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
