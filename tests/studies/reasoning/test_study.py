"""The whole study on the lab: its files, its commands, and that no work is ever lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from helpers.cli.explain import explain
from helpers.cli.main import main
from helpers.errors import UserError
from helpers.progress import silent_progress
from helpers.studies.reasoning.run_files import open_study
from helpers.studies.reasoning.study import STUDY
from helpers.studies.registry import make_config, run_study, runs_of, study_named
from helpers.studies.semantic_entropy.open_run import open_run
from support.forked_runs import forked_runs
from support.run_folders import as_flags, assert_same_run

OPTIONS: dict[str, Any] = {
    "limit": 50,
    "ood_limit": 16,
    "k": 4,
    "batch_size": 100,
    "n_bootstrap": 100,
    "n_permutations": 1000,
    "threads": 1,
}
COMMANDS = ("generate", "entropy", "trace", "datasets", "train", "eval", "analysis")
FILES = (
    "analysis.parquet", "assessment.json", "hidden/think_end.safetensors", "manifest.json",
    "metrics.json", "probe_table.parquet", "questions.parquet", "questions_scored.parquet",
    "samples.parquet",
)  # fmt: skip
KILLS = (
    "helpers.store.cache:Store.put_many 2",  # sampling: the second batch is lost
    "helpers.store.cache:Store.put_arrays 1",  # hidden states, before any is stored
    "helpers.probes.store:write_bytes 2",  # between a probe's tensors and its card
    "helpers.studies.reasoning.stages:write_run_analysis 1",
)


def study(base: Path, **changes: Any) -> Any:
    return make_config("lab-think", **OPTIONS | changes, cache_dir=base / "cache", out=base / "out")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupts."""
    config = study(tmp_path_factory.mktemp("study"))
    assert run_study(config, silent_progress())
    return config.run_folder


def test_a_run_leaves_what_the_next_reader_needs(undisturbed: Path) -> None:
    there = {str(p.relative_to(undisturbed)) for p in undisturbed.rglob("*") if p.is_file()}
    assert set(FILES) <= there
    run = open_study(undisturbed)
    assert run.manifest["study"] == STUDY.name
    assert run.manifest["stages_done"] == list(run.manifest["work"]) == list(STUDY.stage_names)
    table = run.table
    assert table is not None
    runs = pq.read_table(undisturbed / "samples.parquet").to_pylist()
    valid = {(r["question_id"], r["run_id"]) for r in runs if not r["excluded"]}
    assert set(zip(table.question_id.tolist(), table.run_id.tolist(), strict=True)) <= valid
    for name, counts in run.counts.items():
        rows = table.split == "ood" if name == "ood" else table.split != "ood"
        assert rows.sum() == counts.correct + counts.wrong + counts.unanswered
        assert counts.runs == counts.valid + sum(counts.excluded.values())
    for question_id in np.unique(table.question_id):
        assert len(set(table.split[table.question_id == question_id])) == 1
    read = pq.read_table(undisturbed / "analysis.parquet", columns=["group_id", "unit_id"])
    assert read["group_id"].to_pylist() == table.question_id.tolist()
    assert read["unit_id"].to_pylist() == table.run_id.tolist()
    text = json.dumps(json.loads((undisturbed / "metrics.json").read_text()))
    assert "NaN" not in text


def test_every_name_of_the_results_can_be_looked_up(undisturbed: Path) -> None:
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    rows = [row for part in ("correctness", "high_entropy") for row in metrics[part].values()]
    names = {predictor for row in rows for predictor in row}
    names |= {metric for row in rows for scores in row.values() for metric in scores}
    names |= {tripwire["name"].split(":")[0] for tripwire in metrics["tripwires"]}
    names |= {"think_end", "confidence", "representative", "umap_x", "ood"}
    assert {"within_question", "agreement", "combined", "thinking_length"} <= names
    for name in sorted(names):
        assert explain(name)


def test_the_main_study_leaves_its_folder_alone(undisturbed: Path) -> None:
    assert runs_of(undisturbed.parent, study_named()) == []
    (entry,) = runs_of(undisturbed.parent, STUDY)
    assert entry.finished
    with pytest.raises(
        UserError, match=r"of another study \(Reasoning models\); open it in helpers/studies"
    ):
        open_run(undisturbed)


@pytest.mark.slow
def test_stages_one_by_one_give_what_one_command_gives(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = as_flags({**OPTIONS, "cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    folder = tmp_path / "out" / undisturbed.name
    for command in COMMANDS:
        assert main([command, "--preset", "lab-think", *flags]) == 0
        assert str(folder) in capsys.readouterr().out
        manifest = json.loads((folder / "manifest.json").read_text())
        done = len(manifest["stages_done"])
        assert manifest["stages_done"] == list(STUDY.stage_names[:done])
    assert done == len(STUDY.stage_names)
    assert manifest["work"]["samples"]["generated"] == (50 + 16) * 4
    assert_same_run(undisturbed, folder)
    (folder / "analysis.parquet").unlink()
    assert main(["analysis", str(folder), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert_same_run(undisturbed, folder)


@pytest.mark.slow
def test_killed_in_every_stage_and_finished(undisturbed: Path, tmp_path: Path) -> None:
    flags = as_flags({**OPTIONS, "cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    codes, said = forked_runs([[kill] for kill in KILLS], ["--preset=lab-think", *flags])
    assert codes == [-signal.SIGKILL] * len(KILLS), said[-2000:]
    finished = study(tmp_path)
    assert run_study(finished, silent_progress())
    assert_same_run(undisturbed, finished.run_folder)


@pytest.mark.slow
def test_batches_and_the_way_of_tracing_change_no_run(undisturbed: Path, tmp_path: Path) -> None:
    config = study(tmp_path, batch_size=9, hidden_backend="plain", hidden_batch_tokens=700)
    assert config.run_name() == undisturbed.name
    run_study(config, silent_progress(), until="hidden")
    columns = [
        "question_id", "run_id", "text", "token_ids", "finish_reason", "status", "excluded",
        "thinking_start", "thinking_end", "cluster_final", "cluster_answer",
    ]  # fmt: skip
    expected, found = (
        pq.read_table(folder / "samples.parquet", columns=columns)
        for folder in (undisturbed, config.run_folder)
    )
    assert found == expected
    states, others = (
        load_file(folder / "hidden" / "think_end.safetensors")
        for folder in (undisturbed, config.run_folder)
    )
    assert states.keys() == others.keys()
    for name in states:
        np.testing.assert_allclose(others[name], states[name], rtol=0, atol=1e-3)


def test_more_runs_are_added_not_repeated(undisturbed: Path) -> None:
    more = study(undisturbed.parent.parent, k=5)
    run_study(more, silent_progress(), until="samples")
    manifest = json.loads((more.run_folder / "manifest.json").read_text())
    assert manifest["work"]["samples"]["generated"] == 50 + 16


# --- bad input ------------------------------------------------------------------------------------


def test_too_short_runs_are_said_to_be_the_reason(tmp_path: Path) -> None:
    config = study(tmp_path, limit=6, ood_limit=2, max_new_tokens=3)
    with pytest.raises(UserError, match=r"no question has 4 valid runs of 4: 32 runs: cut off"):
        run_study(config, silent_progress())


def test_few_questions_leave_probes_undefined_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = as_flags(OPTIONS | {"limit": 4, "k": 3, "ood_questions": "none"})
    places = as_flags({"cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    assert main(["run", "--preset", "lab-think", *flags, *places]) == 0
    shown = capsys.readouterr().out
    assert "undefined" in shown
    assert "nan" not in shown.lower().split()


def test_probes_of_another_model_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(undisturbed, tmp_path / undisturbed.name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["hashes"]["model_hash"] = "0" * 16
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"mixes models: probes/correctness.json"):
        open_study(folder)


def test_a_command_of_the_study_refuses_another_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "--preset", "lab"]) == 2
    assert "belongs to the study “Reasoning models”" in capsys.readouterr().err
