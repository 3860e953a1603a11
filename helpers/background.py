"""A run in a process of its own, which goes on when the page or its kernel is gone.

start_worker(config)      begin, or find the worker that is busy with this run
watch(folder)             how far it is, in a few milliseconds
stop_worker(folder)       end it, with everything that is done kept
progress_view(watched)    the same as HTML
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.files import plain_disk_errors
from helpers.progress_view import progress_view as progress_view
from helpers.run_folder import read_manifest
from helpers.stages import stages_of
from helpers.worker_state import (
    AT_WORK,
    LOCK,
    STOP,
    State,
    Watched,
    is_locked,
    read_small_json,
    read_told,
    replace_json,
    worker_folder,
)

START_LIMIT = 60.0
"""Seconds after which a process that has not begun to work is given up."""
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


def start_worker(config: RunConfig) -> Watched:
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
        "config": config.model_dump(mode="json"),
    }
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        detached = {"creationflags": flags}
    with tempfile.TemporaryFile() as inlet, log.open("xb") as outlet:
        inlet.write(json.dumps(task).encode())
        inlet.seek(0)
        return subprocess.Popen(
            # -P: modules are not looked for in the working folder, which may hold any file.
            [sys.executable, "-P", "-m", "helpers.worker"],
            stdin=inlet,
            stdout=outlet,
            stderr=subprocess.STDOUT,
            env=_environment(),
            **detached,
        )


def _environment() -> dict[str, str]:
    """This process's environment, in which `import helpers` finds the package in use here."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root
    return environment


def watch(folder: Path) -> Watched:
    """How far the work on a run folder is; reads three small files and starts nothing."""
    folder = Path(folder)
    place = worker_folder(folder)
    held = is_locked(place / LOCK)
    told = read_told(place)
    if told and not held and told.state in AT_WORK:
        held = is_locked(place / LOCK)  # it may have begun between the two looks
    if told and held and told.state not in AT_WORK:
        told = None  # words of an earlier worker
    asked = (place / STOP).exists()
    try:
        manifest, problem = read_manifest(folder) or {}, ""
    except UserError as damaged:
        manifest, problem = {}, str(damaged)
    stages = stages_of(manifest)
    done = tuple(stage for stage in stages if stage in manifest.get("stages_done", ()))
    state: State
    if held:
        state = told.state if told else "starting"
        state = "stopping" if asked else state
    elif done == stages and (told is None or _written(folder) >= told.updated):
        state = "finished"  # perhaps by `sep run`, after a worker had failed
    elif told is None:
        state = "idle"
    elif told.state in AT_WORK:
        state = "stopped" if asked else "killed"
    else:
        state = told.state
    work = manifest.get("work", {})
    return Watched(
        folder=folder,
        state=state,
        message=(told.message if told and state == "failed" else problem) or SENTENCES[state],
        pid=told.pid if told else None,
        started=told.started if told else None,
        silent=max(time.time() - told.updated, 0.0) if told and held else 0.0,
        bars=told.bars if told else (),
        stages_done=done,
        stage_seconds={s: float(work[s]["seconds"]) for s in done if "seconds" in work.get(s, {})},
        said=_last_line(place / Path(told.log).name) if told and held else "",
        stages=stages,
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


def stop_worker(folder: Path, grace: float = 10.0) -> Watched:
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
        _kill(watched.pid)
    return watch(folder)


def _kill(pid: int) -> None:
    """End a process at once; it may have ended by itself."""
    import signal

    try:
        os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    except ProcessLookupError:
        return
