"""Times a naive and a fast way in turns, checks that they agree, and prints the ratios.

A ratio is naive seconds / our seconds of one round, in which both ran one after the other, so that
a machine that slows down slows both. A table shows the median of the rounds and their range.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Naive = TypeVar("Naive")
Ours = TypeVar("Ours")

SIZES = ("tiny", "quick", "full")
"""tiny is for tests, quick for a look, full for numbers that one may quote."""
ROUNDS = {"tiny": 1, "quick": 2, "full": 3}


class NotEqual(Exception):
    """The two ways gave different outputs: their times mean nothing."""


@dataclass(frozen=True)
class Time:
    """How long a piece of work took, in seconds."""

    wall: float
    cpu: float
    """Processor time of this process: what a busy machine disturbs least."""


@dataclass(frozen=True)
class Rounds:
    """The times of both ways, one entry a round, and which outputs were equal."""

    naive: tuple[Time, ...]
    ours: tuple[Time, ...]
    equality: str
    """Which outputs were compared, and how close they had to be."""

    def ratios(self, clock: str = "wall") -> tuple[float, ...]:
        """Naive seconds / our seconds of each round, by the clock "wall" or "cpu"."""
        both = zip(self.naive, self.ours, strict=True)
        return tuple(getattr(naive, clock) / getattr(ours, clock) for naive, ours in both)


@dataclass(frozen=True)
class Comparison:
    """One stage, timed in both ways."""

    stage: str
    naive: str
    """The naive way, in words."""
    rounds: Rounds
    held_fixed: str
    """What was the same on both sides."""
    target: float | None = None
    """The ratio to reach, where there is one."""
    counts: dict[str, float] = field(default_factory=dict)
    """Work done by each way, such as forwards, and ratios of such work."""
    count_targets: dict[str, float] = field(default_factory=dict)
    """The least that some of the counts are to be."""

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, by the wall clock."""
        return statistics.median(self.rounds.ratios())

    @property
    def missed(self) -> list[str]:
        """What falls short of its target: "ratio", or a count's name."""
        short = [name for name, least in self.count_targets.items() if self.counts[name] < least]
        return (["ratio"] if self.target and self.ratio < self.target else []) + short

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "stage": self.stage,
            "naive": self.naive,
            "naive_seconds": [time.wall for time in self.rounds.naive],
            "our_seconds": [time.wall for time in self.rounds.ours],
            "ratio": self.ratio,
            "ratios": list(self.rounds.ratios()),
            "cpu_ratios": list(self.rounds.ratios("cpu")),
            "target": self.target,
            "missed": self.missed,
            "equality": self.rounds.equality,
            "held_fixed": self.held_fixed,
            "counts": self.counts,
            "count_targets": self.count_targets,
        }


def in_turns(
    naive: Callable[[], Naive],
    ours: Callable[[], Ours],
    rounds: int,
    check: Callable[[Naive, Ours], str] | None,
) -> Rounds:
    """Time both ways in turns; every second round begins with ours.

    `check` says what was equal and raises `NotEqual` where outputs differ; None stands for two
    ways whose outputs cannot be compared.
    """
    times: dict[str, list[Time]] = {"naive": [], "ours": []}
    equality = "not comparable"
    for number in range(rounds):
        results: dict[str, Any] = {}
        both: list[tuple[str, Callable[[], Any]]] = [("naive", naive), ("ours", ours)]
        for name, work in both if number % 2 == 0 else both[::-1]:
            results[name], time_taken = timed(work)
            times[name].append(time_taken)
        if check is not None:
            equality = check(results["naive"], results["ours"])
    return Rounds(tuple(times["naive"]), tuple(times["ours"]), equality)


def timed(work: Callable[[], Naive]) -> tuple[Naive, Time]:
    """The result of `work` and the time it took, with garbage collected before, not within."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Time(time.perf_counter() - wall, time.process_time() - cpu)


def require(equal: bool, message: str) -> None:
    """Raise `NotEqual` with the message unless `equal`."""
    if not equal:
        raise NotEqual(message)


def fix_threads(threads: int) -> None:
    """Give torch and numpy this many threads; before either is imported, if possible."""
    from helpers.models.loading import set_threads

    for name in ("OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    set_threads(threads)
    if "numpy" in sys.modules:  # it has read the environment already
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=threads)


def busy_warning(threads: int) -> str:
    """A warning that other processes are at work, or an empty text."""
    if not hasattr(os, "getloadavg"):
        return ""
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if load + threads <= (cores or 1) + 0.3:
        return ""
    return (
        f"WARNING: the load average is {load:.1f} on {cores} cores, so other processes are at "
        "work; ratios survive that better than seconds do, but repeat this on an idle machine"
    )


def machine(threads: int) -> dict[str, Any]:
    """What a number must be read with: the machine, the versions, the threads, the load."""
    from importlib.metadata import version

    packages = ("numpy", "scipy", "scikit-learn", "torch", "transformers")
    return {
        "threads": threads,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as aligned text, and below it the work that each way did."""
    head = ("stage", "naive s", "ours s", "ratio (min-max)", "by CPU time", "target", "outputs",
            "held fixed")  # fmt: skip
    rows = [
        (
            c.stage,
            f"{statistics.median(time.wall for time in c.rounds.naive):.3g}",
            f"{statistics.median(time.wall for time in c.rounds.ours):.3g}",
            _range(c.rounds.ratios()),
            _range(c.rounds.ratios("cpu")),
            "-" if c.target is None else _against(c.target, "ratio" in c.missed),
            c.rounds.equality,
            c.held_fixed,
        )
        for c in comparisons
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    lines.append("")
    for c in comparisons:
        lines.append(f"{c.stage}: naive = {c.naive}")
        for name, value in c.counts.items():
            least = c.count_targets.get(name)
            goal = "" if least is None else f" ({_against(least, name in c.missed)})"
            lines.append(f"    {name}: {value:,.4g}{goal}")
    return "\n".join(lines)


def _range(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3g} ({min(ratios):.3g}-{max(ratios):.3g})"


def _against(target: float, missed: bool) -> str:
    return f">= {target:.3g} {'MISSED' if missed else 'reached'}"
