"""The process that does a run while pages watch it: `python -m helpers.app.worker`, from
`background`.

It reads from standard input which run to do, and says in `.worker/progress.json` how far it is. A
request to stop is a file as well, so that it reaches the worker on every system and no stranger:
the worker stops when the next batch is stored; when none is for a while, in the midst of it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from helpers.app.background import (
    LOCK,
    LOGS,
    PROGRESS,
    STOP,
    Bar,
    ProgressReport,
    State,
    read_small_json,
    release,
    take_lock,
    worker_folder,
    write_report,
)
from helpers.errors import UserError
from helpers.progress import StageProgress, explain, progress_through, show_warning

INTERVAL = 0.3  # seconds between two looks at the progress and at requests to stop
HEARTBEAT = 2.0  # seconds after which a worker says that it lives, though nothing has changed


def main() -> int:
    """Do the run that standard input describes; returns the exit status (0: done, here or by the
    worker that was there before)."""
    task = json.load(sys.stdin)
    folder = worker_folder(Path(task["folder"]))
    lock = take_lock(folder / LOCK)
    if lock is None:
        return 0
    status = 1
    try:
        status = _work(task, folder)
    finally:
        release(lock, folder, clear=status == 0)
    return status


def _work(task: dict[str, Any], folder: Path) -> int:
    """The run itself, whose outcome is reported whatever it is."""
    faulthandler.enable()
    for old in (folder / PROGRESS, folder / STOP, *folder.glob(LOGS)):
        if old.name != task["log"]:
            old.unlink(missing_ok=True)
    reporter = Reporter(folder, task["log"])
    threading.Thread(target=reporter.keep_reporting, daemon=True).start()
    try:
        try:
            _listen()
            from helpers.studies.registry import run_study, study_of

            warnings.showwarning = show_warning
            config = study_of(task).config(**task["config"])
            run_study(config, progress_through(reporter.show), on_stage=reporter.begin)
        finally:
            _listen(deaf=True)  # what follows takes no time, and has to be written
    except (UserError, KeyboardInterrupt) as problem:
        stopped = isinstance(problem, KeyboardInterrupt)
        reporter.close("stopped" if stopped else "failed", "" if stopped else str(problem))
        return explain(problem)
    except BaseException as error:
        reporter.close("failed", _in_words(error, folder / task["log"]))
        raise
    reporter.close("finished")
    return 0


def _listen(deaf: bool = False) -> None:
    """Let the signals that ask a process to end stop the run, even where whoever started us
    ignored them (as a shell does for what it starts in the background)."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            handler = signal.SIG_IGN if deaf else signal.default_int_handler
            signal.signal(getattr(signal, name), handler)


def _in_words(error: BaseException, log: Path) -> str:
    """What to tell of an error that nobody foresaw."""
    from helpers.models.loading import is_out_of_memory

    last = traceback.format_exception_only(error)[-1].strip()[:300]
    if isinstance(error, MemoryError) or ("torch" in sys.modules and is_out_of_memory(error)):
        return (
            "there is not enough memory for this step: lower the batch size (--batch-size, "
            "--judge-batch-size), close other programs, or take a smaller model or fewer "
            f"questions. ({last}; see {log})"
        )
    return f"{last}; this was not foreseen: see {log}"


class Reporter:
    """Says how far the run is, from a thread of its own, and passes on a request to stop."""

    def __init__(self, folder: Path, log: str) -> None:
        self.folder, self.log, self.started = folder, log, time.time()
        self._stage = ""  # of the run
        self._state: State = "starting"
        self._bars: list[tuple[str, StageProgress]] = []  # each with the stage of the run
        self._over: dict[int, Bar] = {}  # place in `_bars` to what is said of one that is over
        self._news = threading.Event()  # something is to be written at once
        self._changed, self._closed = True, False
        self._writing = threading.Lock()
        self._asked: float | None = None  # when a request to stop was seen, by the monotonic clock
        self._interrupted = False

    def begin(self, stage: str) -> None:
        """Take note that a stage of the run begins."""
        self._stage, self._changed = stage, True
        self._news.set()

    def show(self, bar: StageProgress) -> None:
        """Take note of a change; raises `KeyboardInterrupt` between two batches if asked to stop.

        Batches are stored before they are counted, so that nothing is lost by stopping here.
        """
        place = next((i for i, (_, known) in enumerate(self._bars) if known is bar), None)
        over = bar.finished or bar.stopped
        if place is None:
            place = len(self._bars)
            self._bars.append((self._stage, bar))
        if over:
            self._over[place] = _bar(*self._bars[place])
        if self._state == "starting":
            self._state = "running"
        self._changed = True
        if over or not bar.done:
            self._news.set()
        if self._asked is not None and not over:
            raise KeyboardInterrupt

    def keep_reporting(self) -> None:
        """Write what has changed, and look for a request to stop, until `close`."""
        written = -HEARTBEAT
        while not self._closed:
            self._look_for_request()
            if self._changed or time.monotonic() - written >= HEARTBEAT:
                self._write()
                written = time.monotonic()
            self._news.wait(INTERVAL)
            self._news.clear()

    def close(self, state: State, message: str = "") -> None:
        """Write the last word."""
        self._closed = True
        self._write(state, message)

    def _write(self, state: State | None = None, message: str = "") -> None:
        if not self._writing.acquire(timeout=5):  # a disk that hangs must not hold up the end
            return
        try:
            if self._closed and state is None:
                return
            self._changed = False
            bars = [self._over.get(i) or _bar(*each) for i, each in enumerate(self._bars)]
            report = ProgressReport(
                state or self._state, message, os.getpid(), self.started, time.time(), self.log,
                self._stage, tuple(bars),
            )  # fmt: skip
            write_report(self.folder, report)
        except OSError as error:  # the run itself says what is wrong with the disk
            print(f"warning: progress could not be written ({error})", file=sys.stderr)
        finally:
            self._writing.release()

    def _look_for_request(self) -> None:
        """Obey a request to stop: at the next batch, after the grace at once, then by force."""
        request = read_small_json(self.folder / STOP)
        if request is None:
            return
        if self._asked is None:
            self._asked, self._state, self._changed = time.monotonic(), "stopping", True
        waited, grace = time.monotonic() - self._asked, float(request.get("grace", 0))
        if waited > 2 * grace + 1:
            self.close("stopped")
            os._exit(130)
        if waited > grace and not self._interrupted:
            self._interrupted = True
            _interrupt_main()


def _bar(stage: str, bar: StageProgress) -> Bar:
    return Bar(
        stage, bar.title, bar.unit, bar.done, bar.total, bar.tokens,
        round(time.monotonic() - bar.started, 2), bar.finished, bar.stopped,
    )  # fmt: skip


def _interrupt_main() -> None:
    """Raise `KeyboardInterrupt` in the main thread, also where it waits for a network."""
    if sys.platform == "win32":
        import _thread

        _thread.interrupt_main()
    else:
        main_thread = threading.main_thread().ident
        assert main_thread is not None  # it runs
        signal.pthread_kill(main_thread, signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
