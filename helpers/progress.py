"""Progress of long stages, and problems said in one line for a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers.errors import UserError
from helpers.formatting import duration_text


@dataclass
class StageProgress:
    """One stage under way."""

    title: str
    total: int
    unit: str
    show: Callable[[StageProgress], None]
    done: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    finished: bool = False
    stopped: bool = False
    """An error or Ctrl-C ended it."""
    work: dict[str, float] = field(default_factory=dict)
    """What was computed so far, by name, for the manifest."""

    def advance(self, n: int, tokens: int = 0, work: Mapping[str, float] | None = None) -> None:
        """Count n more units and the tokens that they took; `work` is what was computed so far."""
        self.done += n
        self.tokens += tokens
        self.work |= work or {}
        self.show(self)

    def line(self) -> str:
        """For example `Sampling: 120/400 questions, 2,310 tokens/s, 14 s left`."""
        return f"{self.title}: {self.pace()}"

    def pace(self) -> str:
        """The line without the title."""
        seconds = time.monotonic() - self.started
        parts = [f"{self.done:,}/{self.total:,} {self.unit}"]
        if self.tokens and seconds > 0:
            parts.append(f"{self.tokens / seconds:,.0f} tokens/s")
        if self.finished:
            parts.append(duration_text(seconds))
        elif self.done:
            left = seconds / self.done * (self.total - self.done)
            parts.append(f"{duration_text(left)} left")
        return ", ".join(parts)


Progress = Callable[[str, int, str], "contextlib.AbstractContextManager[StageProgress]"]
"""Opens a stage: `with progress("Sampling", 400, "questions") as stage: stage.advance(8)`."""


def progress_through(show: Callable[[StageProgress], None]) -> Progress:
    """A `Progress` that hands every change of a stage to `show`."""

    @contextlib.contextmanager
    def stage(title: str, total: int, unit: str) -> Iterator[StageProgress]:
        state = StageProgress(title, total, unit, show)
        show(state)
        try:
            yield state
        except BaseException:
            state.stopped = True
            show(state)
            raise
        state.finished = True
        show(state)

    return stage


def silent_progress() -> Progress:
    """Shows nothing."""
    return progress_through(lambda state: None)


def terminal_progress() -> Progress:
    """One line a stage on standard error: rewritten in a terminal, every few seconds elsewhere."""
    live = sys.stderr.isatty()
    last = {"time": 0.0}

    def show(state: StageProgress) -> None:
        now = time.monotonic()
        over = state.finished or state.stopped
        if not over and now - last["time"] < (0.1 if live else 5.0):
            return
        last["time"] = now
        if live:
            end = "\n" if over else ""  # what is printed next has a line of its own
            print(f"\r\033[K{state.line()}", end=end, file=sys.stderr, flush=True)
        elif state.finished or (state.done and not state.stopped):
            print(state.line(), file=sys.stderr, flush=True)

    return progress_through(show)


def run_safely(job: Callable[[], None]) -> int:
    """Run a job, with warnings and known problems shown as one line each."""
    warnings.showwarning = show_warning
    try:
        job()
        return 0
    except (UserError, KeyboardInterrupt) as problem:
        return explain(problem)
    except BrokenPipeError:
        # Who reads, such as `head`, has seen enough; Python would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def explain(problem: UserError | KeyboardInterrupt) -> int:
    """Say on standard error what stopped a command; returns the exit status."""
    if isinstance(problem, UserError):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(
        "\nstopped; everything finished so far is stored, the same command goes on from here",
        file=sys.stderr,
    )
    return 130


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    """Show our own warnings as one line, and keep those of libraries off the screen."""
    if issubclass(category, UserWarning) and "helpers" in Path(filename).parts:
        print(f"warning: {message}", file=sys.stderr)
