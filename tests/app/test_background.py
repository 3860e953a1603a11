"""Long work: real workers that are watched, stopped, killed, abandoned, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.app.background import (
    PROGRESS,
    WorkerStatus,
    progress_view,
    start_worker,
    stop_worker,
    watch,
    worker_folder,
)
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config, run_study
from helpers.studies.semantic_entropy.study import STUDY
from support.run_folders import TINY

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends the signals of a Unix")

ANSWERS = 30 * 5  # TINY: four samples and the most likely answer of each question
LIMIT = 150.0  # seconds to wait for anything, on the busiest machine

PAGE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from helpers.app.background import start_worker, watch
from helpers.studies.semantic_entropy.config import SemanticEntropyConfig
watched = start_worker(SemanticEntropyConfig.model_validate_json(sys.argv[2]))
while watched.pid is None:
    watched = watch(watched.folder)
print(watched.pid, flush=True)
time.sleep(600)
"""
"""A page's kernel: it starts a worker, and then it is busy with other things."""

ODD_WORKER = """
import sys, time
from helpers.app import worker
from helpers.studies import registry

def crash(*values, **options):
    raise ZeroDivisionError("<i>by nothing</i>")

def dawdle(*values, **options):
    time.sleep(600)

def swallow(*values, **options):
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            pass

registry.run_study = globals()[sys.argv[1]]
sys.exit(worker.main())
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    """A small run with a store of its own; its worker does not outlive the test."""
    config = make_config(**TINY, cache_dir=tmp_path / "cache", out=tmp_path / "out")
    yield config
    left = watch(config.run_folder)
    if left.at_work and left.pid:
        os.kill(left.pid, signal.SIGKILL)
        wait_until(config.run_folder, lambda w: not w.at_work)


def wait_until(folder: Path, holds: Callable[[WorkerStatus], bool]) -> WorkerStatus:
    """Look at a run until something holds; fails when it does not within the limit."""
    until = time.monotonic() + LIMIT
    while not holds(watched := watch(folder)):
        assert time.monotonic() < until, f"still {watched}"
        time.sleep(0.02)
    return watched


def sampled(watched: WorkerStatus) -> int:
    """Answers that this worker has sampled."""
    return next((b.done for b in watched.bars if b.title == "Sampling answers"), 0)


def stored(config: RunConfig) -> int:
    """Answers in the store of a run that has not got beyond sampling."""
    store = Store(config.cache_dir)
    try:
        return len(store._index)
    finally:
        store.close()


@pytest.mark.slow
def test_two_pages_start_one_worker_that_outlives_them_is_stopped_killed_and_finished(
    root: Path, config: RunConfig, tiny_run: RunConfig, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "helpers.py").write_text("raise SystemExit('someone else's module')")
    slow, folder = config.model_copy(update={"batch_size": 2}), config.run_folder
    command = [sys.executable, "-P", "-c", PAGE, str(root), slow.model_dump_json()]
    pages = [
        subprocess.Popen(
            command, cwd=elsewhere, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        for _ in range(2)
    ]
    try:
        pids = {int(page.stdout.readline()) for page in pages if page.stdout}
    finally:
        for page in pages:  # as marimo does with a kernel: it and all of its group
            os.killpg(page.pid, signal.SIGKILL)
            page.communicate()
    assert len(pids) == 1
    assert {watch(folder).pid, start_worker(slow).pid} == pids
    wait_until(folder, lambda w: sampled(w) >= 15)
    assert stop_worker(folder).state == "stopping"
    stop_worker(folder)
    watched = wait_until(folder, lambda w: not w.at_work)
    assert watched.state == stop_worker(folder).state == "stopped"
    first = stored(config)
    assert max(3 * 5, sampled(watched)) <= first < ANSWERS

    start_worker(slow)
    pid = wait_until(folder, lambda w: sampled(w) >= 15).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    watched = wait_until(folder, lambda w: not w.at_work)
    assert watched.state == "killed"
    assert 'role="alert"' in progress_view(watched)
    second = stored(config)
    assert first < second < ANSWERS

    start_worker(config)
    seen = set()
    while (watched := watch(folder)).at_work:
        seen |= {(bar.stage, bar.title) for bar in watched.bars}
        assert 'role="progressbar"' in progress_view(watched)
        time.sleep(0.02)
    assert {("samples", "Sampling answers"), ("probes", "Training probes")} <= seen
    assert {stage for stage, _ in seen} <= set(STUDY.stage_names)
    assert watched.state == "finished"
    assert watched.stages_done == STUDY.stage_names
    assert set(watched.stage_seconds) == set(STUDY.stage_names)
    work = json.loads((folder / "manifest.json").read_text())["work"]
    # The killed attempt counts up to its last note, a second before its end at most.
    assert ANSWERS - second <= work["samples"]["generated"] <= ANSWERS
    columns = ["question_id", "sample_id", "text", "token_ids", "cluster"]
    expected, found = (
        pq.read_table(c.run_folder / "samples.parquet", columns=columns) for c in (tiny_run, config)
    )
    assert found == expected  # but for the rounding of probabilities in other batches


def test_a_failure_tells_the_remedy_and_leaves_what_there_was(
    config: RunConfig, tmp_path: Path
) -> None:
    questions = tmp_path / "<b>mine.jsonl"
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(30)]
    questions.write_text("\n".join(json.dumps(row) for row in rows))
    config = config.model_copy(update={"questions": str(questions)})
    run_study(config, silent_progress(), until="meanings")
    before = {p.name: p.read_bytes() for p in config.run_folder.iterdir()}
    questions.unlink()
    start_worker(config)
    watched = wait_until(config.run_folder, lambda w: not w.at_work)
    assert watched.state == "failed"
    assert str(questions) in watched.message
    assert watched.stages_done == ("samples", "meanings")
    page = progress_view(watched)
    assert 'role="alert"' in page
    assert "&lt;b&gt;mine.jsonl" in page
    assert "<b>" not in page
    after = {p.name: p.read_bytes() for p in config.run_folder.iterdir() if p.is_file()}
    assert after == before
    assert "samples.parquet" in before

    # What `sep run` finishes afterwards is not called failed.
    manifest = json.loads(before["manifest.json"])
    manifest["stages_done"] = list(STUDY.stage_names)
    (config.run_folder / "manifest.json").write_text(json.dumps(manifest))
    assert watch(config.run_folder).state == "finished"


@pytest.fixture
def odd_worker(root: Path, tmp_path: Path) -> Callable[[str], subprocess.Popen]:
    """Starts a worker in tmp_path whose run is not one."""

    def begin(kind: str) -> subprocess.Popen:
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for `command &`
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", ODD_WORKER, kind],
                env={**os.environ, "PYTHONPATH": str(root)},
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, usual)
        task = {"folder": str(tmp_path), "log": "log-1.txt", "study": STUDY.name, "config": {}}
        assert process.stdin
        process.stdin.write(json.dumps(task).encode())
        process.stdin.close()
        if kind != "crash":
            wait_until(tmp_path, lambda w: w.at_work and w.pid == process.pid)
        return process

    return begin


def test_an_error_that_nobody_foresaw_is_named_with_its_log(odd_worker, tmp_path: Path) -> None:
    assert odd_worker("crash").wait(LIMIT) == 1
    watched = watch(tmp_path)
    assert watched.state == "failed"
    assert watched.message.startswith("ZeroDivisionError: <i>by nothing</i>")
    assert "log-1.txt" in watched.message
    assert "<i>" not in progress_view(watched)


@pytest.mark.parametrize("kind", ["dawdle", "swallow", "shutdown"])
def test_a_worker_that_reaches_no_batch_is_interrupted_then_ended(
    odd_worker, tmp_path: Path, kind: str
) -> None:
    process = odd_worker("dawdle" if kind == "shutdown" else kind)
    if kind == "shutdown":  # as a machine that goes down tells its processes
        process.terminate()
    else:
        assert stop_worker(tmp_path, grace=0.2).state == "stopping"
    assert process.wait(LIMIT) == 130
    assert watch(tmp_path).state == "stopped"
    assert 'role="status"' in progress_view(watch(tmp_path))


def test_a_worker_that_hangs_is_called_silent_and_killed_by_the_next_stop(
    odd_worker, tmp_path: Path
) -> None:
    process = odd_worker("dawdle")
    process.send_signal(signal.SIGSTOP)
    silent, until = 0.0, time.monotonic() + LIMIT
    stop_worker(tmp_path, grace=0.0)
    while process.poll() is None:
        watched = watch(tmp_path)
        silent = max(silent, watched.silent)
        assert stop_worker(tmp_path).state in ("stopping", "stopped")
        assert time.monotonic() < until
        time.sleep(0.05)
    assert silent > 1.5
    assert process.returncode == -signal.SIGKILL
    assert watch(tmp_path).state == "stopped"


def test_a_process_that_does_not_come_up_is_a_problem_with_its_last_words(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no such interpreter\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(UserError, match=r"did not start \(no such interpreter\).*log-"):
        start_worker(config)
    assert watch(config.run_folder).state == "idle"


def told(**changes: Any) -> dict[str, Any]:
    """What a worker tells that is sampling."""
    bar = {
        "stage": "samples", "title": "Sampling answers", "unit": "questions", "done": 12,
        "total": 30, "tokens": 0, "seconds": 6.0, "line": "", "finished": False, "stopped": False,
    }  # fmt: skip
    usual = {"state": "running", "message": "", "pid": 1, "log": "log-1.txt", "stage": "samples"}
    return {**usual, "started": time.time(), "updated": time.time(), "bars": [bar], **changes}


json_values = st.recursive(
    st.none() | st.text(max_size=5) | st.floats() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["state", "bars", "pid"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=25)
@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_a_power_cut_leaves_is_no_error(tmp_path_factory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    worker_folder(folder).mkdir()
    (worker_folder(folder) / PROGRESS).write_bytes(content)
    assert watch(folder).state == "idle"


def test_what_a_stranger_wrote_is_no_error(tmp_path: Path) -> None:
    worker_folder(tmp_path).mkdir()
    bar = told()["bars"][0]
    odd = (None, "<i>", [], [1], {}, float("inf"), float("nan"), 10**400, -1)
    cases = [told(**{name: value}) for name in told() for value in odd]
    cases += [told(bars=[{**bar, name: value}]) for name in bar for value in odd]
    cases += [{name: value for name, value in told().items() if name != "pid"}]
    for case in cases:
        (worker_folder(tmp_path) / PROGRESS).write_text(json.dumps(case))
        watched = watch(tmp_path)
        assert watched.state in ("idle", "killed")
        for page in (progress_view(watched), progress_view(replace(watched, state="running"))):
            assert "<i>" not in page
            assert not {"nan", "inf"} & set(page.split())


def test_the_page_shows_pace_and_time_left(tmp_path: Path) -> None:
    worker_folder(tmp_path).mkdir()
    (worker_folder(tmp_path) / PROGRESS).write_text(json.dumps(told()))
    watched = replace(watch(tmp_path), state="running", message="Running.", silent=75.0)
    page = progress_view(watched)
    assert "12 of 30 questions, 2 questions/s, 9.0 s left" in page
    assert "It last reported 1 min 15 s ago" in page
    assert 'aria-live="polite"' in page
    assert page.count(">waiting<") == len(STUDY.stage_names) - 1
    done = {"stage": "meanings", "stages_done": ("samples",), "stage_seconds": {"samples": 21.0}}
    page = progress_view(replace(watched, **done, bars=(), last_line="Fetching: <1 MB"))
    assert "done in 21 s" in page
    assert "Fetching: &lt;1 MB" in page
