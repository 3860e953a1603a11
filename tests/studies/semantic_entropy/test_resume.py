"""A run that is killed at any moment is finished by the same command, with the same files."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.progress import silent_progress
from helpers.studies.registry import make_config, run_study
from support.forked_runs import forked_runs
from support.run_folders import as_flags, assert_same_run

OPTIONS = {
    "limit": 70,  # two chunks of hidden states
    "k": 3,
    "p_true_shots": 2,
    "max_new_tokens": 10,
    "batch_size": 40,
    "n_bootstrap": 100,
    "n_permutations": 1000,
    "threads": 1,
}

KILLS = (
    "helpers.store.cache:Store.put_many 3",  # sampling: the second batch is lost
    "helpers.meanings.judges:NliJudge._forward 2",  # judging
    "helpers.meanings.judges:NliJudge._forward 6",  # judging all pairs
    "helpers.generation.option_logprobs:_read_rests 1",  # p(True)
    "helpers.store.cache:Store.put_arrays 4",  # hidden states: the first chunk is stored
    "helpers.probes.store:write_bytes 4",  # between a probe's tensors and its card
    "helpers.studies.semantic_entropy.stages:write_json 1",  # evaluation: just before metrics.json
    "os:replace 2",  # a file is written under its temporary name, and not renamed
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupts."""
    base = tmp_path_factory.mktemp("undisturbed")
    config = make_config(cache_dir=base / "cache", out=base / "out", **OPTIONS)
    assert run_study(config, silent_progress())
    return config.run_folder


@pytest.mark.slow
def test_killed_in_every_stage_then_finished_by_two_at_once(
    undisturbed: Path, tmp_path: Path
) -> None:
    """A run is killed in each of its stages in turn; at its beginning and its end two processes
    are at it at once. It differs from an undisturbed one in nothing."""
    flags = as_flags({**OPTIONS, "cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    rounds = [[KILLS[0], KILLS[0]], *([kill] for kill in KILLS[1:]), ["", ""]]
    codes, said = forked_runs(rounds, flags)
    assert codes == [-signal.SIGKILL] * (len(KILLS) + 1) + [0, 0], said[-2000:]
    assert_same_run(undisturbed, tmp_path / "out" / undisturbed.name)
    leftovers = [p for p in tmp_path.rglob("*.tmp") if (tmp_path / "out") in p.parents]
    assert not leftovers, "a killed write left a temporary file in the run folder"


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
    more = make_config(cache_dir=base / "cache", out=base / "out", **{**OPTIONS, "k": 5})
    run_study(more, silent_progress(), until="meanings")
    manifest = json.loads((more.run_folder / "manifest.json").read_text())
    assert manifest["work"]["samples"]["generated"] == 70 * 2
    kept, found = (
        {
            (row["question_id"], row["sample_id"]): row["token_ids"]
            for row in pq.read_table(folder / "samples.parquet").to_pylist()
        }
        for folder in (undisturbed, more.run_folder)
    )
    assert len(found) == 70 * 6
    assert kept.items() <= found.items()


def test_batch_size_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    """Other batches give the same answers, meanings and splits."""
    options = {**OPTIONS, "batch_size": 7, "judge_batch_size": 5}
    config = make_config(cache_dir=tmp_path / "cache", out=tmp_path / "out", **options)
    assert config.run_name() == undisturbed.name
    run_study(config, silent_progress(), until="meanings")
    columns = ["question_id", "sample_id", "text", "token_ids", "finish_reason", "cluster"]
    expected = pq.read_table(undisturbed / "samples.parquet", columns=columns)
    assert pq.read_table(config.run_folder / "samples.parquet", columns=columns) == expected
