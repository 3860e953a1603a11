"""The notebook of the reasoning study: its views, as a script, embedded, and in the page's tab."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from helpers.app import notebook, plan
from helpers.cli.main import main
from helpers.progress import silent_progress
from helpers.studies import registry
from helpers.studies.reasoning import views
from helpers.studies.reasoning.assessment import assess_study
from helpers.studies.reasoning.config import STUDY_NAME
from helpers.studies.reasoning.probes import predict_study, train_study_probes
from helpers.studies.reasoning.records import PREDICTORS, RunCounts, RunTable, Traced
from helpers.studies.reasoning.run_files import StudyRun, open_study
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy import views as entropy_views
from helpers.views import showing
from helpers.views.showing import built
from support.browser import assert_clean, served, window
from support.planted_study import changed, planted_study
from support.run_folders import as_flags
from support.sep_process import start

PROGRAM, PAGE = "helpers/studies/reasoning/notebook.py", "probe_training_auto.py"
TINY: dict[str, Any] = {
    "limit": 50,
    "ood_limit": 16,
    "k": 4,
    "batch_size": 100,
    "n_bootstrap": 100,
    "n_permutations": 1000,
    "threads": 1,
}
TITLE = "Does a reasoning model know when it is wrong?"
HOSTILE = "</script><img src=x onerror=alert(1)>"
PAGES = (
    views.counts_table, views.headline, views.scores_page, views.within_page,
    views.differences_page, views.layers_page, views.roc_page, views.confidence_page,
    views.risk_page, views.entropy_page, entropy_views.tripwires_table, views.notes_view,
)  # fmt: skip


def study_of(planted: tuple[RunTable, Traced], **config: Any) -> StudyRun:
    """The run that this table and these states make, with nothing stored."""
    table, traced = planted
    probes = train_study_probes(table, traced, progress=silent_progress())
    assessment = assess_study(
        table, predict_study(probes, table, traced), probes, traced,
        n_bootstrap=100, n_permutations=100, seed=0, progress=silent_progress(),
    )  # fmt: skip
    counts = RunCounts(100, 800, 780, {HOSTILE: 20}, 2, 6, 500, 250, 24, {"full": 774})
    manifest = {"stages_done": ["samples", "meanings"], "config": {}}
    there = {"in": counts} | ({"ood": counts} if (table.split == "ood").any() else {})
    made = make_config("lab-think", **config)
    return StudyRun(made, Path("made-up"), manifest, there, table, probes, assessment)


@pytest.fixture(scope="module")
def planted() -> tuple[RunTable, Traced]:
    return planted_study(questions=80, runs=6)


@pytest.fixture(scope="module")
def known(planted: tuple[RunTable, Traced]) -> StudyRun:
    """A run in which everything is defined."""
    return study_of(planted)


def all_of(run: StudyRun) -> tuple[str, list[go.Figure]]:
    """The words of every page, those of figures included, and the figures."""
    views_of_pages = [(page, ()) for page in PAGES]
    views_of_pages += [(views.calibration_page, (name,)) for name in PREDICTORS]
    items = [
        item for page, arguments in views_of_pages for item in built(page, run, *arguments).items
    ]
    figures = [item for item in items if isinstance(item, go.Figure)]
    words = [fig.layout.title.text for fig in figures]
    words += [note.text for fig in figures for note in fig.layout.annotations]
    return "\n".join([*(i for i in items if isinstance(i, str)), *words]), figures


# --- views ----------------------------------------------------------------------------------------


def test_every_number_of_the_assessment_is_shown(known: StudyRun) -> None:
    text, figures = all_of(known)
    found = known.assessment
    assert found is not None
    for split in ("test", "ood"):
        for scores in found.correctness[split].values():
            for score in scores.values():
                assert f"{score.value:.3f}" in text
        for gap in found.differences[split].values():
            assert f"{gap.value:+.3f}" in text
        assert f"{found.high_entropy_median[split]['semantic_entropy'].value:.3f}" in text
    for words in ("in distribution", "out of distribution", "p = 0.", "nan", "None"):
        assert (words in text) is (words not in ("nan", "None")), words
    assert len(figures) == 13
    assert "<img" not in text
    assert "&lt;img src=x" in text


def test_each_split_has_a_panel_and_the_chosen_layer_its_mark(known: StudyRun) -> None:
    found = known.assessment
    assert found is not None
    (figure, *_), (layers, *_) = views.scores_page(known), views.layers_page(known)[1:]
    drawn = [trace for trace in figure.data if trace.mode == "markers"]
    assert {trace.xaxis for trace in drawn} == {"x", "x2"}
    assert sum(len(trace.x) for trace in drawn) == 2 * len(found.correctness["test"])
    assert all(sum(trace.error_x.array) > 0 for trace in drawn)
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range
    (mark,) = (s for s in layers.layout.shapes if s.x0 == s.x1)
    assert mark.x0 == found.layer_curves["correctness"].chosen == 2


def test_without_other_questions_there_is_one_panel(planted: tuple[RunTable, Traced]) -> None:
    table, traced = planted
    split = np.where(table.split == "ood", "test", table.split)
    text, figures = all_of(study_of((changed(table, split=split), traced)))
    assert "out of distribution" not in text.replace("No out-of-distribution", "")
    assert not any("xaxis2" in fig.layout.to_plotly_json() for fig in figures)


def test_what_is_undefined_says_why_in_words(planted: tuple[RunTable, Traced]) -> None:
    """Nothing graded and no entropies: an endpoint, and questions without a reference."""
    table, traced = planted
    unknown = np.full(len(table), np.nan)
    bare = changed(table, correct=unknown, thinking_entropy=unknown)
    text, figures = all_of(study_of((bare, traced)))
    assert "whether a run is correct is not known" in text
    assert "undefined, because" in text
    assert "nan" not in text
    for fig in figures:
        json.loads(fig.to_json())
        for trace in fig.data:
            assert not any(x != x for x in (trace.x if trace.x is not None else ()))


def test_one_class_only_is_undefined_on_the_split_that_has_it(
    planted: tuple[RunTable, Traced],
) -> None:
    table, traced = planted
    correct = np.where(table.split == "ood", 1.0, table.correct)
    text, _ = all_of(study_of((changed(table, correct=correct), traced)))
    assert "Out of distribution, AUROC undefined (only one class" in text
    assert re.search(r"In distribution, AUROC 0\.\d{3} \[", text)


def test_a_run_without_scores_shows_its_counts_and_says_what_it_waits_for(
    known: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = {"in": vars(known.counts["in"])}
    manifest = {"stages_done": ["samples", "meanings"], "counts": {"runs": noted}}
    bare = replace(known, manifest=manifest, counts={}, assessment=None, table=None, probes=None)
    assert "of the 750 that are graded 67 % are correct" in views.counts_table(bare)
    for page in PAGES[1:]:
        if page is not entropy_views.tripwires_table:
            (sentence,) = built(page, bare).items
            assert "no scores yet (done: samples, meanings)" in sentence
    said: list = []
    monkeypatch.setattr("marimo.stop", lambda stops, output: said.append((stops, output)))
    notebook.when_scored(bare)
    assert said[0][0] is True
    assert "The scores appear here" in said[0][1].text


def test_plan_names_sources_of_others_as_text(tmp_path: Path) -> None:
    page = plan.plan_view(make_config("lab-think", questions=HOSTILE, out=tmp_path))
    assert "<img" not in page
    assert "&lt;img" in page


# --- the notebook ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The notebook as a script, on a run of a few seconds, started from a folder of its own."""
    base = tmp_path_factory.mktemp("study")
    program = Path(__file__).resolve().parent.parent.parent.parent / PROGRAM
    return start(base, str(program), *as_flags({**TINY, "cache_dir": "cache", "out": base / "out"}))


@pytest.fixture(scope="module")
def tiny(script: subprocess.CompletedProcess[str]) -> Any:
    """The config of that run, which is finished."""
    assert script.returncode == 0, script.stderr
    folder = Path(script.stdout.splitlines()[-1].removeprefix("run folder: "))
    base = folder.parent.parent
    config = make_config("lab-think", **TINY, cache_dir=base / "cache", out=base / "out")
    assert config.run_folder == folder
    return config


@pytest.mark.slow
def test_script_computes_and_prints_the_table(
    script: subprocess.CompletedProcess[str], tiny: Any
) -> None:
    assert "AUROC for a correct run" in script.stdout
    for bar in ("Sampling answers", "Reading hidden states", "Evaluating"):
        assert f"{bar}: " in script.stderr
    assert open_study(tiny.run_folder).assessment is not None


@pytest.mark.parametrize(
    ("program", "preset", "other"),
    [(PROGRAM, "lab", PAGE), (PAGE, "lab-think", PROGRAM)],
)
def test_a_preset_of_another_study_is_sent_to_its_notebook(
    root: Path, program: str, preset: str, other: str
) -> None:
    done = start(root, program, "--preset", preset)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert f"uv run {other}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_app_is_embedded_with_a_config(tiny: Any) -> None:
    from helpers.studies.reasoning.notebook import app

    found = asyncio.run(app.embed(defs={"config": tiny}))
    assert found.defs["run"].folder == tiny.run_folder
    assert found.defs["scored"].assessment is not None


def test_report_is_that_of_the_studys_notebook(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.html"
    assert main(["report", str(tiny.run_folder), "--out", str(target)]) == 0
    text = target.read_text()
    assert "<title>" + tiny.run_folder.name + ": Does a reasoning model know" in text
    assert text.count("for the thinking entropy") == 2  # the headline, once a split
    for words in ("Is this run right?", "SEP_OUTPUTS=", "AUROC within a question", "Tripwires"):
        assert words in text
    for words in ("What to run", "<marimo-", "Further studies"):
        assert words not in text
    assert str(target) in capsys.readouterr().out
    with window(700, offline=True) as opened:
        opened.page.goto(target.as_uri())
        opened.page.locator("figure svg").first.wait_for()
        assert (opened.errors, opened.refused) == ([], [])


def test_marimo_finds_no_fault(root: Path) -> None:
    done = start(root, "-m", "marimo", "check", "--strict", PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the tab --------------------------------------------------------------------------------------


def test_a_study_starts_on_the_machine_of_the_page() -> None:
    page = make_config("lab", out="elsewhere", cache_dir="cache", threads=3, limit=7)
    study = registry.study_config(page, STUDY_NAME)
    assert study == make_config("lab-think", out="elsewhere", cache_dir="cache", threads=3)
    assert registry.study_config(page, "") is page


def test_nothing_of_a_study_is_loaded_where_nobody_opens_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert notebook.study_tabs() is None
    assert notebook.opened_study(None) == ""
    assert notebook.study_loader()(STUDY_NAME) is None
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    with showing.reporting():
        assert notebook.study_loader()(STUDY_NAME) is None
    load = notebook.study_loader()
    assert load("") is None
    app = load(STUDY_NAME)
    assert load(STUDY_NAME) is app
    assert notebook.study_loader()(STUDY_NAME) is not app


def test_run_is_computed_in_the_page_that_was_asked_to_and_in_no_study_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main_study, study = make_config("lab"), make_config("lab-think")
    for program, told in (
        (PAGE, (True, False)), (PROGRAM, (False, True)), ("copy.py", (True, True)),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", [program, "--run"])
        assert (notebook.told_to_run(main_study), notebook.told_to_run(study)) == told
    monkeypatch.setattr(sys, "argv", [PAGE])
    assert not notebook.told_to_run(main_study)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are of another kind there")
def test_ctrl_c_stops_the_page_as_a_script_though_its_cells_await(
    root: Path, tmp_path: Path
) -> None:
    asked = as_flags({"limit": 300, "cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    script = subprocess.Popen(
        [sys.executable, PAGE, *asked, "--batch-size=8"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert script.stderr is not None
        for line in script.stderr:
            if line.startswith("Sampling answers"):
                break
        script.send_signal(signal.SIGINT)
        said = script.stderr.read()
        assert script.wait(30) == 130
        assert "stopped; everything finished so far is stored" in said
    finally:
        script.kill()
        script.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Iterator[str]:
    """The application beside the finished run of the study, in which no main run is stored."""
    root = Path(__file__).resolve().parent.parent.parent.parent
    folder = tmp_path_factory.mktemp("page")
    for name in (PAGE, "pyproject.toml"):
        shutil.copy(root / name, folder)
    machine = as_flags({"cache_dir": tiny.cache_dir, "out": tiny.out, "threads": 1})
    with served("run", folder / PAGE, *machine) as address:
        yield address


@pytest.mark.slow
def test_tab_opens_the_study_alive(page: str, tiny: Any) -> None:
    asked = registry.study_config(make_config("lab", out=tiny.out), STUDY_NAME)
    with window(700) as found:
        found.page.goto(page)
        found.until("Nothing to show yet", 90)
        assert TITLE not in found.text()
        found.page.get_by_role("tab", name="Reasoning models").click()
        found.until(TITLE, 60)
        # Run starts the study's run, and is Stop at once.
        found.until(asked.run_name())
        found.page.get_by_role("button", name="Run", exact=True).last.click()
        stop = found.page.get_by_role("button", name="Stop", exact=True)
        stop.wait_for(timeout=30_000)
        found.until("Label and split the runs")  # a stage that only this study has
        stop.click()
        found.until("Stopped: everything stored is kept", 60)
        assert "evaluation" not in notebook.page_state(asked.run_folder).stages
        # Dropdowns react: another run is opened, and another probe is drawn.
        stored = found.page.locator("select").filter(has_text=tiny.run_folder.name).last
        option = stored.locator("option", has_text=tiny.run_folder.name)
        stored.select_option(label=option.inner_text())
        found.until("of a correct and an incorrect run", 60)
        probes = found.page.locator("select").filter(has_text="combination of the three").last
        probes.select_option(label="combination of the three")
        found.until("Calibration: combination of the three")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert found.page.evaluate(wide) <= 0
        assert_clean(found)  # marimo complains of figures that leave before they are drawn
        # Left and opened again, it is as it was.
        found.page.get_by_role("tab", name="Overview").click()
        found.page.get_by_role("heading", name=TITLE).wait_for(state="detached")
        found.page.get_by_role("tab", name="Reasoning models").click()
        found.until("Calibration: combination of the three", 60)
