"""The application: as cells with another config, as a script, as a report, and its parts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from helpers.app import notebook
from helpers.config import RunConfig
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.studies import registry
from helpers.studies.registry import all_presets, make_config
from helpers.studies.semantic_entropy import explore, views
from helpers.studies.semantic_entropy.open_run import open_run
from helpers.studies.semantic_entropy.study import STUDY
from helpers.studies.study import is_finished
from support.sep_process import start

PROGRAM = "probe_training_auto.py"
SMALL = {
    "judge": "final-answer", "limit": 30, "k": 4, "n_permutations": 1000, "n_bootstrap": 200,
}  # fmt: skip


def flags(config: RunConfig) -> list[str]:
    """The flags that ask for a config of the tests."""
    names = [*SMALL, "cache_dir", "out"]
    return [p for n in names for p in ("--" + n.replace("_", "-"), str(getattr(config, n)))]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A config of a minute's work at most, with a store of its own."""
    folder = tmp_path_factory.mktemp("notebook")
    return make_config("lab", cache_dir=folder / "cache", out=folder / "outputs", **SMALL)


@pytest.fixture(scope="module")
def finished(small: RunConfig) -> dict:
    """What the cells define when they run with the small config."""
    from probe_training_auto import app

    _, definitions = app.run(defs={"config": small})
    return dict(definitions)


def export(root: Path, page: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    """Export a copy of the application: marimo leaves a snapshot beside what it exports."""
    copy = shutil.copy(root / PROGRAM, page.with_name(PROGRAM))
    return start(root, "-m", "marimo", "export", "html", str(copy), "-o", str(page), "--", *asked)


def test_cells_run_with_another_config(finished: dict, small: RunConfig) -> None:
    run = finished["run"]
    assert run.config == small
    assert len(run.answers.samples[0]) == 4
    assert run.assessment.high_entropy["question_length"]["auroc"].n > 0
    manifest = json.loads((small.run_folder / "manifest.json").read_text())
    assert manifest["stages_done"] == list(STUDY.stage_names)
    assert is_finished(small)
    assert not is_finished(small.model_copy(update={"cache_dir": small.out / "elsewhere"}))


@pytest.mark.parametrize(
    "other",
    [
        {"limit": 24, "k": 3, "judge": "nli", "positions": ("tbg",), "analyses": ("none",)},
        {"limit": 24, "k": 2, "judge": "final-answer", "estimators": ("semantic_entropy",)},
    ],
)
def test_cells_run_with_further_configs(small: RunConfig, other: dict) -> None:
    """What one config has and another lacks (a judge, an analysis, an estimator) stops no cell."""
    from probe_training_auto import app

    config = make_config(**{**small.model_dump(), **other})
    _, definitions = app.run(defs={"config": config})
    assert definitions["run"].config == config
    assert open_run(config.run_folder).manifest["stages_done"] == list(STUDY.stage_names)


def test_cells_keep_texts_of_a_model_from_becoming_markup(finished: dict) -> None:
    attack = "<img src=x onerror=alert(1)>"
    run = finished["run"]
    answers = run.answers
    hostile = tuple(replace(sample, text=attack) for sample in answers.samples[0])
    answers = replace(answers, samples=(hostile, *answers.samples[1:]), greedy=hostile)
    run = replace(run, answers=answers)
    card = explore.question_page(run, answers.questions[0].id)
    table = views.answers_table(answers)
    question = Question("1", attack, attack, None, "test", "")
    for page in (card, table, views.questions_table([question])):
        assert "&lt;img src=x" in page
        assert "<img" not in page


def test_script_samples_what_is_missing_and_prints_the_table(
    root: Path, finished: dict, small: RunConfig
) -> None:
    more = small.model_copy(update={"k": 5})
    done = start(root, PROGRAM, *flags(more))
    assert done.returncode == 0, done.stderr
    assert "Sampling answers: 30/30 answers" in done.stderr
    assert "150 (5 a question)" in done.stdout
    assert "Predicting high semantic entropy" in done.stdout
    assert f"run folder: {more.run_folder}" in done.stdout.splitlines()[-1]


def test_a_mistake_is_one_line_and_status_2(root: Path, small: RunConfig) -> None:
    done = start(root, PROGRAM, *flags(small), "--questions", "missing.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "missing.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stage_that_fails_leaves_the_earlier_ones(
    small: RunConfig, finished: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy is shown in place, and what was finished before it stays open."""
    shutil.copytree(small.run_folder, tmp_path / small.run_folder.name)
    config = small.model_copy(update={"out": tmp_path})
    manifest = json.loads((config.run_folder / "manifest.json").read_text())
    manifest["stages_done"] = ["samples", "meanings", "uncertainty"]
    (config.run_folder / "manifest.json").write_text(json.dumps(manifest))

    def fails(*_: object) -> None:
        raise UserError("the model is gone; <b>bring</b> it back")

    said: list = []
    monkeypatch.setattr(notebook, "run_study", fails)
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    monkeypatch.setattr("marimo.output.append", said.append)
    monkeypatch.setattr(sys, "argv", [PROGRAM, "--run"])
    opened = notebook.shown_run(config, notebook.page_state(config.run_folder))
    assert escape(escape("<b>bring</b> it back")) in said[0].text
    assert "120 samples" in views.answers_table(opened.answers)
    with pytest.raises(UserError, match="still to come"):
        views.high_entropy_table(opened)


def test_a_report_waits_unless_told_to_run_and_is_complete_then(
    root: Path, finished: dict, small: RunConfig, tmp_path: Path
) -> None:
    page, another = tmp_path / "report.html", small.model_copy(update={"n_bootstrap": 201})
    done = export(root, page, *flags(another))
    assert done.returncode == 0, done.stderr
    assert "Nothing to show yet" in page.read_text()
    assert not another.run_folder.exists()
    done = export(root, page, *flags(another), "--run")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    auroc = finished["run"].assessment.high_entropy["question_length"]["auroc"].value
    for words in ("In short: AUROC", f"{auroc:.3f}", "Refits to shuffled labels", "Reliability"):
        assert words in text
    assert "Nothing to show yet" not in text


def test_where_visitors_may_only_look_nothing_can_be_started(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    page = notebook.page_state(small.run_folder)
    assert notebook.work_button(small, page, print) is not None
    monkeypatch.setenv("SEP_READ_ONLY", "1")
    assert notebook.work_button(small, page, print) is None


@pytest.mark.parametrize("preset", all_presets())
def test_form_gives_back_the_config_that_it_shows(preset: str) -> None:
    shown = make_config(preset, cosine_threshold=0.9)
    values = notebook.config_fields(shown).value
    assert notebook.draft(values, shown) == shown
    assert notebook.draft({**values, "k": 3, "cosine_threshold": ""}, shown) == (
        shown.model_copy(update={"k": 3, "cosine_threshold": None})
    )
    with pytest.raises(UserError, match="top_p"):
        notebook.draft({**values, "top_p": 2}, shown)


def test_another_preset_stays_on_the_same_machine() -> None:
    asked = make_config("lab", k=3, device="cpu", out="elsewhere")
    other = registry.with_preset(asked, "gpt2-gsm8k")
    assert registry.with_preset(asked, "lab") is asked
    assert other == make_config("gpt2-gsm8k", device="cpu", out="elsewhere")
