"""What a worker and those who watch it share: the files it keeps while it runs, and its lock.

All of it lies in `<run folder>/.worker`, which no reader of a run looks into and which a worker
that finishes removes. A lock of the operating system, held for as long as the worker lives, says
that there is one: neither a crash nor a process id that was given away again can feign it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from helpers.errors import UserError
from helpers.stages import STAGES

LOCK, PROGRESS, STOP, LOGS = "lock", "progress.json", "stop.json", "log-*.txt"

State = Literal[
    "idle", "starting", "running", "stopping", "stopped", "failed", "killed", "finished"
]
AT_WORK = ("starting", "running", "stopping")
"""States in which a worker is alive."""


@dataclass(frozen=True)
class Bar:
    """One stretch of countable work, as far as it has come."""

    title: str
    unit: str
    done: int
    total: int
    tokens: int
    """Tokens that the done units took; 0 where none are counted."""
    seconds: float
    """Since it began; once it is over, all it took."""
    line: str
    """All of this as one line of text."""
    finished: bool
    stopped: bool
    """An error or a request to stop ended it."""


@dataclass(frozen=True)
class Told:
    """What a worker last said of itself."""

    state: State
    message: str
    pid: int
    started: float
    """Seconds since 1970, as is `updated`."""
    updated: float
    log: str
    """Name of the file that holds what the worker printed."""
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Watched:
    """How far the work on a run folder is."""

    folder: Path
    state: State
    message: str
    """The state as a sentence; for a failed run, the problem and its remedy."""
    pid: int | None
    """Process id of the worker that wrote last."""
    started: float | None
    """Seconds since 1970."""
    silent: float
    """Seconds since the worker last reported; 0 when none is at work."""
    bars: tuple[Bar, ...]
    """Countable work of this worker, in the order in which it began."""
    stages_done: tuple[str, ...]
    """Those of `stages` that the run folder holds."""
    stage_seconds: dict[str, float]
    """Stage to the time that it took, interrupted runs included."""
    said: str
    """The last line that a worker at work printed, such as how far a download is."""
    stages: tuple[str, ...] = STAGES
    """Those of the study that the run belongs to."""

    @property
    def at_work(self) -> bool:
        """Whether a worker is alive."""
        return self.state in AT_WORK


def worker_folder(run_folder: Path) -> Path:
    """Where the worker of a run keeps its files."""
    return Path(run_folder) / ".worker"


def write_told(folder: Path, told: Told) -> None:
    """Replace `progress.json`."""
    replace_json(folder / PROGRESS, asdict(told))


def read_told(folder: Path) -> Told | None:
    """What `progress.json` says; None where it is absent or damaged, as after a power cut."""
    values = read_small_json(folder / PROGRESS)
    try:
        if values is None or values["state"] not in get_args(State):
            return None
        bars = tuple(Bar(**_plain(Bar, bar)) for bar in values["bars"])
        return Told(**{**_plain(Told, values), "bars": bars})
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _plain(kind: type, values: Any) -> dict[str, Any]:
    """The values of a dataclass, each of its declared type; the file may come from anywhere."""
    kinds = {"int": int, "float": float, "bool": bool, "str": str, "State": str}
    wanted = {f.name: kinds[f.type] for f in fields(kind) if f.type in kinds}
    plain = {name: wanted[name](values[name]) for name in wanted}
    if any(wanted[name] is str and value != values[name] for name, value in plain.items()):
        raise TypeError("a text is something else")
    if not all(abs(v) < 1e15 for v in plain.values() if isinstance(v, (int, float))):
        raise ValueError("a number is beyond anything that is counted here, or none")
    return plain


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


def take_lock(path: Path, patience: float = 1.0) -> int | None:
    """Hold the lock until `release` or the end of this process; None when another one holds it.

    It is tried for some time, because whoever looks whether it is held holds it for an instant.
    Raises `UserError` where the disk has no locks.
    """
    until = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        # A worker that finishes removes the file: a lock on what was removed is worth nothing.
        if _try_lock(handle, path, shared=False) and _is_at(handle, path):
            return handle
        os.close(handle)
        if time.monotonic() > until:
            return None
        time.sleep(0.02)


def is_locked(path: Path) -> bool:
    """Whether a process that is alive holds the lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _try_lock(handle, path, shared=True)
    finally:
        os.close(handle)


def release(handle: int, folder: Path, *, clear: bool) -> None:
    """Let go of a worker's lock; `clear` removes its files as well."""
    if clear:
        for path in (folder / PROGRESS, folder / STOP, *folder.glob(LOGS)):
            _remove(path)
        if sys.platform != "win32":  # there an open file cannot be removed
            _remove(folder / LOCK)
    os.close(handle)
    if clear:
        if sys.platform == "win32":
            _remove(folder / LOCK)
        try:
            folder.rmdir()
        except OSError:  # the next worker has put its log into it already
            return


def _remove(path: Path) -> None:
    """Remove a file, unless it is gone or, on Windows, someone is reading it."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError as error:
        print(f"warning: {path} is left behind ({error})", file=sys.stderr)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int, path: Path, *, shared: bool) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int, path: Path, *, shared: bool) -> bool:
        """Lock an open file, if no other process has; closing it gives the lock back."""
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error}): this disk has no file locks; choose another "
                "--out, on a disk of this machine"
            ) from error
        return True
