"""Times a plain and a fast way in turns, checks that they agree, and prints the ratios.

A ratio is plain seconds / our seconds of one round, in which both ran one after the other, so that
a machine that slows down slows both. A table shows the median of the rounds and their range.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

Plain = TypeVar("Plain")
Ours = TypeVar("Ours")

Size = Literal["tiny", "quick", "full"]
"""tiny is for tests, quick for a look, full for numbers that one may quote."""
ROUNDS: Mapping[Size, int] = {"tiny": 1, "quick": 2, "full": 3}


class NotEqual(Exception):
    """The two ways gave different outputs: their times mean nothing."""


@dataclass(frozen=True)
class Round:
    """Seconds of both ways, by the wall clock and by this process's processor time."""

    wall: tuple[float, float]
    cpu: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """One stage, timed in both ways."""

    stage: str
    plain: str
    """The plain way, in words."""
    held: str
    """What was the same on both sides."""
    rounds: tuple[Round, ...]
    equality: str
    """Which outputs were compared, and how close they had to be."""
    target: float | None = None
    """The ratio to reach, where there is one."""
    counts: dict[str, float] = field(default_factory=dict)
    """Work done by each way, such as forwards, and ratios of such work."""
    count_targets: dict[str, float] = field(default_factory=dict)
    """The least that some of the counts are to be."""

    def ratios(self, clock: str = "wall") -> list[float]:
        """Plain seconds / our seconds of each round, by the clock "wall" or "cpu"."""
        both = [getattr(one, clock) for one in self.rounds]
        return [plain / ours for plain, ours in both]

    @property
    def missed(self) -> list[str]:
        """What falls short of its target: "ratio", or a count's name."""
        short = [name for name, least in self.count_targets.items() if self.counts[name] < least]
        too_slow = self.target and statistics.median(self.ratios()) < self.target
        return ["ratio", *short] if too_slow else short


def compare(
    size: Size,
    stage: str,
    words: str,
    held: str,
    plain: Callable[[], Plain],
    ours: Callable[[], Ours],
    check: Callable[[Plain, Ours], str] | None,
    target: float | None = None,
) -> Comparison:
    """Time both ways in turns; every second round begins with ours.

    `check` says what was equal and raises `NotEqual` where outputs differ; None stands for two
    ways whose outputs cannot be compared.
    """
    rounds, equality = [], "not comparable"
    for number in range(ROUNDS[size]):
        made: dict[str, Any] = {}
        seconds: dict[str, tuple[float, float]] = {}
        ways: list[tuple[str, Callable[[], Any]]] = [("plain", plain), ("ours", ours)]
        for name, work in ways if number % 2 == 0 else ways[::-1]:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            made[name] = work()
            seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        walls, cpus = zip(seconds["plain"], seconds["ours"], strict=True)
        rounds.append(Round(walls, cpus))
        if check is not None:
            equality = check(made["plain"], made["ours"])
    return Comparison(stage, words, held, tuple(rounds), equality, target)


def require(equal: bool, message: str) -> None:
    """Raise `NotEqual` with the message unless `equal`."""
    if not equal:
        raise NotEqual(message)


def close(what: str, plain: np.ndarray, ours: np.ndarray, tolerance: float) -> str:
    """In words, that two arrays have the same shape, the same NaN, and values within a tolerance.

    Raises `NotEqual` where they do not.
    """
    require(plain.shape == ours.shape, f"{what}: {ours.shape} values, {plain.shape} expected")
    undefined = np.isnan(plain)
    require(bool((undefined == np.isnan(ours)).all()), f"{what} are undefined in other places")
    off = float(np.abs(plain - ours)[~undefined].max(initial=0.0))
    require(off <= tolerance, f"{what} differ by up to {off}")
    return f"{plain.size:,} values equal to {tolerance:.2g}"


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
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
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


def as_dict(c: Comparison) -> dict[str, Any]:
    """Plain JSON values."""
    return {**asdict(c), "ratios": c.ratios(), "cpu_ratios": c.ratios("cpu"), "missed": c.missed}


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as aligned text, and below it the work that each way did."""
    rows: list[tuple[str, ...]] = [
        ("stage", "plain s", "ours s", "ratio (min-max)", "by CPU time", "target", "outputs")
    ]
    for c in comparisons:
        seconds = [statistics.median(way) for way in zip(*(r.wall for r in c.rounds), strict=True)]
        spans = [
            f"{statistics.median(ratios):.3g} ({min(ratios):.3g}-{max(ratios):.3g})"
            for ratios in (c.ratios(), c.ratios("cpu"))
        ]
        goal = _against(c.target, "ratio" in c.missed) if c.target else "-"
        rows.append((c.stage, *(f"{s:.3g}" for s in seconds), *spans, goal, c.equality))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for c in comparisons:
        lines += ["", f"{c.stage}: against {c.plain}; {c.held}"]
        for name, value in c.counts.items():
            least = c.count_targets.get(name)
            reached = f" ({_against(least, name in c.missed)})" if least else ""
            lines.append(f"    {name}: {value:,.4g}{reached}")
    return "\n".join(lines)


def _against(target: float, missed: bool) -> str:
    return f">= {target:.3g} {'MISSED' if missed else 'reached'}"
