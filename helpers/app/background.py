"""A run in a process of its own, which goes on when the page or its kernel is gone.

start_worker(config)      begin, or find the worker that is busy with this run
watch(folder)             how far it is, in a few milliseconds
stop_worker(folder)       end it, with everything that is done kept
progress_view(watched)    the same as HTML
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.evaluation.records import from_plain
from helpers.formatting import duration_text
from helpers.store.files import plain_disk_errors
from helpers.store.run_folder import read_manifest
from helpers.studies.registry import study_named, study_of
from helpers.views.html import safe

if TYPE_CHECKING:
    from filelock import FileLock

# --- the worker's files and lock -----------------------------------------------------------------
#
# All of it lies in `<run folder>/.worker`, which no reader of a run looks into and which a worker
# that finishes removes. A lock of the operating system, held for as long as the worker lives, says
# that there is one: neither a crash nor a process id that was given away again can feign it.


LOCK, PROGRESS, STOP, LOGS = "lock", "progress.json", "stop.json", "log-*.txt"

State = Literal[
    "idle", "starting", "running", "stopping", "stopped", "failed", "killed", "finished"
]
AT_WORK = ("starting", "running", "stopping")  # states in which a worker is alive
Count = Annotated[int, Field(ge=0, lt=1e15)]
Seconds = Annotated[float, Field(ge=0, lt=1e15)]


@dataclass(frozen=True)
class Bar:
    """One stretch of countable work, as far as it has come."""

    stage: str  # the stage of the run that it is a part of
    title: str
    unit: str
    done: Count
    total: Count
    tokens: Count  # tokens that the done units took; 0 where none are counted
    seconds: Seconds  # since it began; once it is over, all it took
    finished: bool
    stopped: bool  # an error or a request to stop ended it


@dataclass(frozen=True)
class ProgressReport:
    """What a worker last reported of itself."""

    state: State
    message: str
    pid: Count
    started: Seconds  # seconds since 1970, as is `updated`
    updated: Seconds
    log: str  # name of the file that holds what the worker printed
    stage: str  # the one at work, or at work when it ended; "" before the first
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class WorkerStatus:
    """How far the work on a run folder is."""

    folder: Path
    state: State
    message: str  # the state as a sentence; for a failed run, the problem and its remedy
    pid: int | None  # process id of the worker that wrote last
    started: float | None  # seconds since 1970
    silent: float  # seconds since the worker last reported; 0 when none is at work
    stage: str  # the stage at work, or at work when the worker ended; "" where that is not known
    bars: tuple[Bar, ...]  # countable work of this worker, in the order in which it began
    stages: Mapping[str, str]  # the stages of the run's study to their titles
    stages_done: tuple[str, ...]  # those of `stages` that the run folder holds
    stage_seconds: dict[str, float]  # stage to the time that it took, interrupted runs included
    last_line: str  # the last line that a worker at work printed, such as how far a download is

    @property
    def at_work(self) -> bool:
        """Whether a worker is alive."""
        return self.state in AT_WORK


def worker_folder(run_folder: Path) -> Path:
    """Where the worker of a run keeps its files."""
    return Path(run_folder) / ".worker"


def write_report(folder: Path, report: ProgressReport) -> None:
    """Replace `progress.json`."""
    replace_json(folder / PROGRESS, asdict(report))


def read_report(folder: Path) -> ProgressReport | None:
    """What `progress.json` says; None where it is absent or damaged, as after a power cut."""
    try:
        return from_plain(ProgressReport, read_small_json(folder / PROGRESS))
    except (ValueError, RecursionError):
        return None


def replace_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; unlike a result, it need not outlive a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.0.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)


def read_small_json(path: Path) -> dict[str, Any] | None:
    """An object from a JSON file; None where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def take_lock(path: Path, timeout: float = 1.0) -> FileLock | None:
    """Hold the lock until `release` or the end of this process; None when another one holds it.

    It is tried for some time, because whoever looks whether it is held holds it for an instant.
    Raises `UserError` where the disk has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _acquired(path, timeout)
    except FileNotFoundError:  # a worker that finished has removed its folder in this instant
        return take_lock(path, timeout)
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error}); choose another --out, on a disk of this machine"
        ) from error


def is_locked(path: Path) -> bool:
    """Whether a process that is alive holds the lock; makes no file and no folder."""
    if not path.exists():
        return False
    try:
        lock = _acquired(path, timeout=0.02)
    except FileNotFoundError:  # a worker that finished has removed its folder in this instant
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _acquired(path: Path, timeout: float) -> FileLock | None:
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout, poll_interval=0.005)
    except Timeout:
        return None
    return lock


def release(lock: FileLock, folder: Path, *, clear: bool) -> None:
    """Let go of a worker's lock; `clear` removes its folder as well.

    The folder gets another name first: who looks at it finds all of it or nothing.
    """
    if sys.platform == "win32":  # there no folder is renamed in which a file is open
        lock.release()
    if clear:
        aside = folder.with_name(f"{folder.name}-{os.getpid()}")
        try:
            folder.rename(aside)
        except OSError as error:  # on Windows, someone is reading a file
            print(f"warning: {folder} is left behind ({error})", file=sys.stderr)
        shutil.rmtree(aside, ignore_errors=True)
    lock.release()


START_LIMIT = 60.0  # seconds after which a process that has not begun to work is given up
KEPT = "everything stored is kept; press Run to go on"
SENTENCES: dict[State, str] = {
    "idle": "Nothing has been started.",
    "starting": "Starting: the program, the model's files, and what is stored already.",
    "running": "Running. This page may be closed; the run goes on, and is found again here.",
    "stopping": "Stopping when the batch in hand is stored.",
    "stopped": f"Stopped: {KEPT}.",
    "failed": "Stopped by a problem. What was finished before it is kept and can be used.",
    "killed": (
        f"Killed: {KEPT}. The process was ended from outside (by someone, or by the system, which "
        "does so when memory runs out) or crashed."
    ),
    "finished": "Finished.",
}


def start_worker(config: RunConfig) -> WorkerStatus:
    """Start a worker on a run, unless one is alive; returns once it has begun.

    The worker is a process of its own session, with this process's folder and environment. Where
    one is alive already, however it was started, this finds it and starts nothing.

    Raises `UserError` when the run folder cannot be written or the process does not come up. What
    the run itself runs into is not raised: `watch` tells it.
    """
    folder = config.run_folder
    if is_locked(worker_folder(folder) / LOCK):
        return watch(folder)
    log = worker_folder(folder) / f"log-{os.urandom(4).hex()}.txt"
    with plain_disk_errors(folder):
        log.parent.mkdir(parents=True, exist_ok=True)
        process = _launch(config, log)
    threading.Thread(target=process.wait, daemon=True).start()  # else it would stay a zombie
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        # A process that finds another one faster leaves with status 0.
        status = process.poll()
        watched = watch(folder)
        own = watched.pid == process.pid
        if (watched.at_work and watched.pid) or status == 0 or (status and own):
            return watched
        if status is not None:
            break
        time.sleep(0.02)
    process.kill()
    raise UserError(
        f"the process for this run did not start ({_last_line(log) or 'it said nothing'}); what it "
        f"printed is in {log}. Does `sep run` work in a terminal?"
    )


def _launch(config: RunConfig, log: Path) -> subprocess.Popen[bytes]:
    """The worker's process; its task comes in a file that no one else sees."""
    task = {
        "folder": str(config.run_folder),
        "log": log.name,
        "study": config.study,
        "config": config.model_dump(mode="json"),
    }
    # There `import helpers` finds the package in use here.
    root = str(Path(__file__).resolve().parent.parent.parent)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        detached = {"creationflags": flags}
    with tempfile.TemporaryFile() as inlet, log.open("xb") as outlet:
        inlet.write(json.dumps(task).encode())
        inlet.seek(0)
        return subprocess.Popen(
            # -P: modules are not looked for in the working folder, which may hold any file.
            [sys.executable, "-P", "-m", "helpers.app.worker"],
            stdin=inlet,
            stdout=outlet,
            stderr=subprocess.STDOUT,
            env=environment,
            **detached,
        )


def watch(folder: Path, study_name: str = "") -> WorkerStatus:
    """How far the work on a run folder is; reads three small files and starts nothing.

    A folder in which nothing is written yet does not say of which study it will be: `study_name`.
    """
    folder = Path(folder)
    place = worker_folder(folder)
    held = is_locked(place / LOCK)
    report = read_report(place)
    if report and not held and report.state in AT_WORK:
        held = is_locked(place / LOCK)  # it may have begun between the two looks
    if report and held and report.state not in AT_WORK:
        report = None  # words of an earlier worker
    asked = (place / STOP).exists()
    manifest: dict[str, Any] = {}
    problem, study = "", study_named(study_name)
    try:
        manifest = read_manifest(folder) or {}
        study = study_of(manifest) if manifest else study
    except UserError as damaged:
        problem = str(damaged)
    stages = study.titles
    done = tuple(stage for stage in stages if stage in manifest.get("stages_done", ()))
    state: State
    if held:
        state = report.state if report else "starting"
        state = "stopping" if asked else state
    elif len(done) == len(stages) and (report is None or _written(folder) >= report.updated):
        state = "finished"  # perhaps by `sep run`, after a worker had failed
    elif report is None:
        state = "idle"
    elif report.state in AT_WORK:
        state = "stopped" if asked else "killed"
    else:
        state = report.state
    work = manifest.get("work", {})
    return WorkerStatus(
        folder=folder,
        state=state,
        message=(report.message if report and state == "failed" else problem) or SENTENCES[state],
        pid=report.pid if report else None,
        started=report.started if report else None,
        silent=max(time.time() - report.updated, 0.0) if report and held else 0.0,
        stage=report.stage if report else "",
        bars=report.bars if report else (),
        stages=stages,
        stages_done=done,
        stage_seconds={s: float(work[s]["seconds"]) for s in done if "seconds" in work.get(s, {})},
        last_line=_last_line(place / Path(report.log).name) if report and held else "",
    )


def _written(folder: Path) -> float:
    return (folder / "manifest.json").stat().st_mtime


def _last_line(log: Path) -> str:
    """The last line of a log that says anything, cut to 200 characters; "" without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 4000, 0))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return next((line[:200] for line in reversed(lines) if line), "")


def stop_worker(folder: Path, grace: float = 10.0) -> WorkerStatus:
    """Ask the worker of a run folder to stop; returns at once, and asking again does no harm.

    It stops as soon as the batch in hand is stored. When that takes longer than `grace` seconds,
    it drops the batch; after twice the grace it ends itself by force, and if it cannot even do
    that, the next call here kills it. Whatever was stored stays stored in each case.
    """
    watched, request = watch(folder), worker_folder(folder) / STOP
    if not watched.at_work:
        return watched
    earlier = read_small_json(request)
    if earlier is None:
        try:
            with plain_disk_errors(request):
                replace_json(request, {"asked": time.time(), "grace": grace})
        except FileNotFoundError:  # it has finished in the meantime, and removed its folder
            return watch(folder)
    elif watched.pid and time.time() > earlier["asked"] + 2 * earlier["grace"] + 2:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(watched.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    return watch(folder)


# --- progress as HTML ----------------------------------------------------------------------------


SILENT_AFTER = 10.0  # seconds without a report after which the page says so

_GREEN, _BLUE, _RED, _GREY = "#009E73", "#0072B2", "#D55E00", "#797979"
_FAINT = "rgba(128,128,128,0.25)"
_MARKS = {"done": "✓", "running": "▸", "paused": "‖", "ended": "✕", "waiting": "·"}
_COLOURS = {
    "done": _GREEN, "running": _BLUE, "paused": _BLUE, "ended": _RED, "waiting": _GREY,
}  # fmt: skip


def progress_view(watched: WorkerStatus) -> str:
    """The stages of a run with a bar each, and the state of the work in a sentence, as HTML."""
    rows = "".join(_row(watched, stage, _role(watched, stage)) for stage in watched.stages)
    return (
        f'<div style="max-width:700px;font-variant-numeric:tabular-nums">{_sentence(watched)}'
        f'<ol style="list-style:none;margin:0.6rem 0 0;padding:0">{rows}</ol></div>'
    )


def _sentence(watched: WorkerStatus) -> str:
    """What is going on; a problem with its remedy is an alert."""
    words = watched.message
    if watched.at_work and watched.started:
        words += f" {duration_text(time.time() - watched.started)} so far."
    if watched.silent > SILENT_AFTER:
        words += (
            f" It last reported {duration_text(watched.silent)} ago: it may be in a long step, or "
            "the machine was asleep."
        )
    text = safe(words)
    if watched.state not in ("failed", "killed"):
        return f'<div role="status" aria-live="polite">{text}</div>'
    title = "This run cannot go on" if watched.state == "failed" else "This run has ended early"
    kept = "<div>What was finished before is kept.</div>" if watched.state == "failed" else ""
    return (
        f'<div role="alert" style="border:1px solid {_RED};border-left-width:5px;'
        'border-radius:4px;padding:0.6rem 0.9rem;overflow-wrap:anywhere">'
        f"<strong>{title}.</strong> {text}{kept}</div>"
    )


def _role(watched: WorkerStatus, stage: str) -> str:
    """One of `_MARKS`; one stage is that at which the work is, or was when it ended."""
    left = [s for s in watched.stages if s not in watched.stages_done]
    if watched.state not in ("idle", "finished") and stage == (watched.stage or [*left, ""][0]):
        if watched.at_work:
            return "running"
        return "paused" if watched.state == "stopped" else "ended"
    if stage in watched.stages_done:
        return "done"
    return "waiting"


def _row(watched: WorkerStatus, stage: str, role: str) -> str:
    title = safe(watched.stages[stage])
    bar = next((b for b in reversed(watched.bars) if b.stage == stage), None)
    begun = role in ("running", "paused", "ended")
    share = 1.0 if role == "done" else 0.0
    if begun and bar and bar.total > 0:
        share = min(max(bar.done / bar.total, 0.0), 1.0)
    words = safe(_words(watched, stage, role, bar))
    colour, muted = _COLOURS[role], "" if begun else f"color:{_GREY};"
    return (
        f'<li style="{muted}margin:0.45rem 0"><div style="display:flex;flex-wrap:wrap;'
        'justify-content:space-between;gap:0 1rem">'
        f'<span><span aria-hidden="true" style="color:{colour};display:inline-block;'
        f'width:1.3em">{_MARKS[role]}</span>{title}</span>'
        f'<span style="font-size:0.85rem;margin-left:auto">{words}</span>'
        f'</div><div role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}" aria-label="{title}" '
        f'style="height:5px;border-radius:3px;background:{_FAINT};margin-top:0.15rem">'
        f'<div style="height:100%;border-radius:3px;background:{colour};width:{100 * share:.1f}%">'
        "</div></div></li>"
    )


def _words(watched: WorkerStatus, stage: str, role: str, bar: Bar | None) -> str:
    """How far a stage is."""
    if role == "waiting":
        return "waiting" if watched.at_work else ""
    if role == "done":
        seconds = watched.stage_seconds.get(stage)
        return "done" if seconds is None else f"done in {duration_text(seconds)}"
    if bar is None or bar.finished:
        return (watched.last_line or "preparing") if role == "running" else "not finished"
    if role == "running":
        return bar_words(bar)
    return f"{_count(bar)} {'so far' if role == 'paused' else 'when it ended'}"


def bar_words(bar: Bar) -> str:
    """For example `Sampling answers: 120 of 400 answers, 8.6 answers/s, 33 s left`."""
    parts = [_count(bar)]
    if bar.done and bar.seconds > 0:
        parts.append(f"{_rate(bar.done / bar.seconds)} {bar.unit}/s")
        if bar.tokens:
            parts.append(f"{_rate(bar.tokens / bar.seconds)} tokens/s")
        left = bar.seconds / bar.done * max(bar.total - bar.done, 0)
        parts.append(f"{duration_text(left)} left")
    else:
        parts.append("time left is known after the first batch")
    return ", ".join(parts)


def _count(bar: Bar) -> str:
    return f"{bar.title}: {bar.done:,} of {bar.total:,} {bar.unit}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
