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

from tests.benchmarks import harness

STAGES = {
    **dict.fromkeys(("sampling", "judging", "capture", "trace", "p_true"), "model_stages"),
    **dict.fromkeys(("sweep", "bootstrap"), "numpy_stages"),
}
"""Benchmark to the module of this package that has it as a function `(size) -> [Comparison]`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when outputs differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--quick", action="store_true", help="small inputs, two rounds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, for both sides")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    asked = parser.parse_args(arguments)
    harness.fix_threads(asked.threads)
    print(f"{asked.threads} CPU thread(s) for both sides, always on this machine's CPU.")
    if warning := harness.busy_warning(asked.threads):
        print(warning, file=sys.stderr)
    machine = harness.machine(asked.threads)
    comparisons: list[harness.Comparison] = []
    failed = []
    for stage in asked.only:
        print(f"{stage} …", file=sys.stderr, flush=True)
        module = importlib.import_module(f"tests.benchmarks.{STAGES[stage]}")
        try:
            comparisons += getattr(module, stage)("quick" if asked.quick else "full")
        except harness.NotEqual as difference:
            failed.append(f"OUTPUTS DIFFER: {difference}")
    print("\n".join([harness.table(comparisons), *failed]))
    if asked.json:
        rows = [harness.as_dict(c) for c in comparisons]
        found = {"machine": machine, "comparisons": rows, "failed": failed}
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
