"""A run that is killed at any moment is finished by the same command, with the same files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.progress import silent_progress
from helpers.studies.registry import make_config, run_study
from support.run_folders import as_flags, assert_same_run

OPTIONS = {
    "limit": 70,  # two chunks of hidden states
    "k": 3,
    "max_new_tokens": 10,
    "batch_size": 40,
    "n_bootstrap": 100,
    "n_permutations": 1000,
    "threads": 1,
}

KILLS = (
    ("helpers.store.cache:Store.put_many", 3),  # sampling: the second batch is lost
    ("helpers.meanings.judges:NliJudge._forward", 2),  # judging
    ("helpers.meanings.judges:NliJudge._forward", 6),  # judging all pairs
    ("helpers.generation.option_logprobs:_read_rests", 1),  # p(True)
    ("helpers.store.cache:Store.put_arrays", 4),  # hidden states: the first chunk is stored
    ("helpers.probes.store:write_bytes", 4),  # between a probe's tensors and its card
    (
        "helpers.studies.semantic_entropy.stages:write_json",
        1,
    ),  # evaluation: just before metrics.json
    ("os:replace", 2),  # a file is written under its temporary name, and not renamed
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupts."""
    base = tmp_path_factory.mktemp("undisturbed")
    config = make_config(cache_dir=base / "cache", out=base / "out", **OPTIONS)
    assert run_study(config, silent_progress())
    return config.run_folder


def test_killed_in_every_stage_and_finished(undisturbed: Path, tmp_path: Path, root: Path) -> None:
    """One run is killed in each of its stages in turn, then finishes and differs in nothing."""
    flags = as_flags({**OPTIONS, "cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    environment = {**os.environ, "PYTHONPATH": str(root)}
    program = str(root / "tests" / "support" / "killed_run.py")
    for target, n in KILLS:
        killed = subprocess.run(
            [sys.executable, program, target, str(n), *flags],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, (target, killed.stderr[-2000:])
    finished = make_config(cache_dir=tmp_path / "cache", out=tmp_path / "out", **OPTIONS)
    assert run_study(finished, silent_progress())
    assert_same_run(undisturbed, finished.run_folder)
    leftovers = [p for p in tmp_path.rglob("*.tmp") if (tmp_path / "out") in p.parents]
    assert not leftovers, "a killed write left a temporary file in the run folder"


def test_two_runs_at_once_do_no_harm(undisturbed: Path, tmp_path: Path, root: Path) -> None:
    """Two processes with one cache and one run folder both finish, with the files of one."""
    flags = as_flags({**OPTIONS, "cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    start = "import sys; from helpers.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "run", *flags]
    pair = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in pair:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    assert_same_run(undisturbed, tmp_path / "out" / undisturbed.name)


def test_nothing_stored_is_computed_twice(undisturbed: Path) -> None:
    """The same command again generates no token and judges no pair."""
    base = undisturbed.parent.parent
    before = json.loads((undisturbed / "manifest.json").read_text())
    config = make_config(cache_dir=base / "cache", out=base / "again", **OPTIONS)
    again = run_study(config, silent_progress())
    assert again is not None
    assert again.answers.generated == 0
    assert again.meanings.counts.forwards == 0
    assert_same_run(undisturbed, config.run_folder)
    assert before["work"]["samples"]["generated"] == 70 * 4


def test_more_samples_are_added_not_repeated(undisturbed: Path) -> None:
    """Raising K from 3 to 5 generates two more answers a question, and keeps the first three."""
    base = undisturbed.parent.parent
    options = {**OPTIONS, "k": 5}
    more = run_study(
        make_config(cache_dir=base / "cache", out=base / "out", **options), silent_progress()
    )
    assert more is not None
    assert more.answers.generated == 70 * 2
    first = pq.read_table(undisturbed / "samples.parquet").to_pylist()
    kept = {(r["question_id"], r["sample_id"]): r["token_ids"] for r in first}
    for row in more.answers.samples:
        for sample in row[:3]:
            assert list(sample.token_ids) == kept[sample.question_id, sample.sample_id]


def test_batch_size_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    """Other batches give the same answers, meanings and splits."""
    options = {**OPTIONS, "batch_size": 7, "judge_batch_size": 5}
    config = make_config(cache_dir=tmp_path / "cache", out=tmp_path / "out", **options)
    assert config.run_name() == undisturbed.name
    assert run_study(config, silent_progress())
    columns = ["question_id", "sample_id", "text", "token_ids", "finish_reason", "cluster"]
    expected = pq.read_table(undisturbed / "samples.parquet", columns=columns)
    assert pq.read_table(config.run_folder / "samples.parquet", columns=columns) == expected
