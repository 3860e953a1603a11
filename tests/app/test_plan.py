"""What the first screen promises: counts that come true, honest times, and nothing is fetched."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.app.plan import plan, plan_facts, plan_view
from helpers.config import RunConfig
from helpers.generation.samples import answer_questions, choose_questions, missing_samples
from helpers.models.loading import identify
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.store.run_folder import write_manifest
from helpers.studies.registry import make_config, run_study
from helpers.studies.semantic_entropy.study import STUDY


@pytest.fixture
def lab(tmp_path: Path) -> RunConfig:
    return make_config("lab", cache_dir=tmp_path / "cache", out=tmp_path / "out")


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model or asking the network fails."""
    monkeypatch.delattr("helpers.models.loading._load_language_model")
    monkeypatch.setattr(socket.socket, "connect", None)


def test_with_an_empty_cache_the_lab_says_what_will_happen(lab: RunConfig, tmp_path: Path) -> None:
    found, facts = plan(lab), plan_facts(plan(lab))
    assert (found.n_questions, found.n_answers, found.n_stored) == (600, 6600, 0)
    assert (found.finished, found.problems, found.downloads) == (False, (), ())
    assert found.seconds == pytest.approx(sum(lab.presets["lab"].seconds.values()))
    assert facts["time"] == "about 2 min 00 s (built-in rates, of one CPU core)"
    assert sorted(facts["splits"].split(", ")) == ["120 validation", "240 test", "240 train"]
    think = plan(make_config("lab-think", cache_dir=lab.cache_dir, out=lab.out))
    assert (think.n_questions, think.n_answers) == (800, 8000)  # no most likely answers
    assert think.seconds == pytest.approx(sum(think.config.presets["lab-think"].seconds.values()))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_work")
def test_a_half_filled_store_is_counted(tiny_run: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.cache_dir, tmp_path / "cache")
    here = tiny_run.model_copy(update={"cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    for change, stored in (  # of thirty questions, four samples and a most likely answer
        ({}, 150), ({"k": 6}, 150), ({"k": 2}, 90), ({"limit": 50}, 150), ({"limit": 20}, 100),
        ({"temperature": 0.5}, 30), ({"max_new_tokens": 20}, 0), ({"judge": "nli"}, 150),
    ):  # fmt: skip
        found = plan(here.model_copy(update=change))
        assert found.n_stored == stored, change
    assert plan(tiny_run).finished
    assert plan_facts(plan(tiny_run))["time"] == "seconds: everything is stored"


@pytest.mark.usefixtures("one_thread")
def test_what_is_planned_is_what_is_generated(lab: RunConfig, store: Store) -> None:
    few = lab.model_copy(update={"limit": 10, "k": 2, "max_new_tokens": 4})
    questions = choose_questions(few)
    answer_questions(few, questions[:3], store, silent_progress())
    more = few.model_copy(update={"k": 3})
    missing = 10 * 4 - 3 * 3
    assert missing_samples(more, questions, store) == missing
    assert answer_questions(more, questions, store, silent_progress()).generated == missing
    small: dict[str, Any] = {"limit": 4, "ood_limit": 3, "k": 2, "batch_size": 14}
    think = make_config("lab-think", **small, cache_dir=lab.cache_dir, out=lab.out)
    run_study(think, silent_progress(), until="samples")
    assert plan(think).n_stored == 14
    assert plan(think.model_copy(update={"k": 3})).n_stored == 14
    assert plan(think.model_copy(update={"backend": "openai"})).n_stored == 0


def test_a_plan_of_the_lab_imports_no_torch(lab: RunConfig) -> None:
    code = (
        "import sys; from helpers.studies.registry import make_config; "
        "from helpers.app.plan import plan_view;"
        f"plan_view(make_config('lab', cache_dir={str(lab.cache_dir)!r}));"
        "sys.exit(bool({'torch', 'transformers', 'sklearn', 'datasets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("_no_work")
def test_what_has_to_be_fetched_is_named_and_not_fetched(
    lab: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)  # where no question file was prepared
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    asked = {"model": "some/model", "judge_model": "deberta-v3-small-mnli", "questions": "gsm8k"}
    config = lab.model_copy(update=asked)
    found, judge = plan(config), "the judge cross-encoder/nli-deberta-v3-small"
    assert found.downloads == ("the language model some/model", judge, "the questions gsm8k")
    assert (found.problems, found.splits, found.n_questions) == ((), None, 600)
    assert plan_facts(found)["time"].startswith("not known before the first batch of answers")
    math = plan(make_config("qwen3-0.6b-math", cache_dir=lab.cache_dir, out=lab.out))
    assert math.downloads[2:] == ("the questions math-500", "the questions gsm8k@test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert ["could not be reached" in problem for problem in plan(config).problems] == [True] * 3
    assert plan_facts(plan(config))["time"] == "it cannot be started yet"


def test_what_is_wrong_is_said_with_its_remedy(lab: RunConfig) -> None:
    for change, words in (
        ({"model": "./none<b>"}, "no such folder"),
        ({"questions": "none.jsonl"}, "none.jsonl: no such file"),
        ({"limit": 3}, "raise --limit"),
        ({"judge": "cosine", "embedding_model": "lab"}, "the lab has none"),
    ):
        found, page = plan(lab.model_copy(update=change)), plan_view(lab.model_copy(update=change))
        assert len(found.problems) == 1
        assert words in found.problems[0]
        assert found.seconds is None
        assert "before it can start" in page
        assert "<b>" not in page


def test_a_time_follows_earlier_runs_of_the_same_kind(lab: RunConfig) -> None:
    done = lab.model_copy(update={"limit": 100, "k": 4, "temperature": 0.5})
    answers = {"generated": 500, "seconds": 50.0}
    manifest = {
        "run": "mine", "config": done.results_fields(), "counts": {"questions": 100},
        "hashes": {"model_hash": identify("lab").model_hash}, "study": STUDY.name,
        "stages": list(STUDY.stage_names), "stages_done": list(STUDY.stage_names),
        "work": {stage: {"seconds": 10.0} for stage in STUDY.stage_names} | {"samples": answers},
    }  # fmt: skip
    write_manifest(done.run_folder, manifest)
    pairwise, others = 2 * 10 * 6 * (10 / 4) ** 2, 4 * 10 * 6  # six times as many questions
    assert plan(lab).seconds == pytest.approx(660 + pairwise + others)
    assert plan(lab).basis == "as run mine took"
    assert plan(lab.model_copy(update={"max_new_tokens": 300})).seconds is None
    for change in (
        {"hashes": {"model_hash": "another"}},
        {"work": {"samples": {"generated": 10, "seconds": 500.0}}},  # the rest was stored
        {"format_version": 999},
        {"stages_done": ["samples"]},
    ):
        write_manifest(done.run_folder, manifest | change)
        assert plan(lab).basis == "built-in rates, of one CPU core"
