"""What the first screen promises: counts that come true, honest times, and nothing is fetched."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from tiny_models import ARCHITECTURES, save_language_model

from helpers import plan_costs
from helpers.config import RunConfig, make_config
from helpers.models import ModelIdentity, identify, load_language_model
from helpers.pipeline import choose_questions, missing_samples, sample_answers
from helpers.plan import plan, plan_facts, plan_steps, plan_view
from helpers.plan_costs import about, duration, needs, shape_of
from helpers.progress import silent_progress
from helpers.projection import LAB, MODELS
from helpers.run import STAGES
from helpers.run_folder import write_manifest
from helpers.store import Store


@pytest.fixture
def lab(tmp_path: Path) -> RunConfig:
    """The lab preset where nothing has been run."""
    return make_config("lab", cache_dir=tmp_path / "cache", out=tmp_path / "out")


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model or asking the network fails."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan must not do this")

    monkeypatch.setattr("helpers.models._load_language_model", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def said(config: RunConfig) -> str:
    """All sentences of a plan."""
    planned = plan(config)
    return " ".join([*plan_steps(planned), *plan_facts(planned).values()])


# --- what is stored ------------------------------------------------------------------------------


def test_with_an_empty_cache_the_lab_says_what_will_happen(lab: RunConfig, tmp_path: Path) -> None:
    found = plan(lab)
    assert (found.n_questions, found.n_answers, found.n_stored) == (600, 6600, 0)
    assert found.splits == {"train": 240, "validation": 120, "test": 240}
    assert (found.finished, found.problems, found.downloads) == (False, (), ())
    text = said(lab)
    for words in (
        "answers 600 questions of lab, each 10 times at temperature 1",
        "6,600 answers. None of them is stored yet.",
        "about 2 to 3 minutes (measured on one CPU core)",
        "learn from them on 240 questions, are chosen on 120 and scored on 240 others",
        "it goes on from where it was",
    ):
        assert words in text, words
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_no_work")
def test_a_half_filled_store_is_counted(tiny_run: RunConfig, tmp_path: Path) -> None:
    """Thirty questions of four samples and a most likely answer are stored."""
    shutil.copytree(tiny_run.cache_dir, tmp_path / "cache")
    here = tiny_run.model_copy(update={"cache_dir": tmp_path / "cache", "out": tmp_path / "out"})
    for change, stored in (
        ({}, 150), ({"k": 6}, 150), ({"k": 2}, 90), ({"limit": 50}, 150), ({"limit": 20}, 100),
        ({"temperature": 0.5}, 30), ({"max_new_tokens": 20}, 0), ({"judge": "nli"}, 150),
    ):  # fmt: skip
        config = here.model_copy(update=change)
        found = plan(config)
        assert found.n_answers == config.limit * (config.k + 1)
        assert found.n_stored == stored, change
    more = plan(here.model_copy(update={"k": 6}))
    assert "Of these 150 are stored already, and 60 are generated." in " ".join(plan_steps(more))
    store = Store(here.cache_dir)
    assert plan(here.model_copy(update={"cache_dir": tmp_path / "no"}), store).n_stored == 150
    store.close()


@pytest.mark.usefixtures("one_thread")
def test_what_is_planned_is_what_is_generated(lab: RunConfig, store: Store) -> None:
    few = lab.model_copy(update={"limit": 10, "k": 2, "max_new_tokens": 4})
    questions = choose_questions(few)
    sample_answers(few, questions[:3], store, silent_progress())
    more = few.model_copy(update={"k": 3})
    missing = missing_samples(more, questions, store)
    assert missing == 10 * 4 - 3 * 3
    assert sample_answers(more, questions, store, silent_progress()).generated == missing
    assert missing_samples(more, questions, store) == 0


def test_a_finished_run_takes_seconds(tiny_run: RunConfig) -> None:
    found = plan(tiny_run)
    assert found.finished
    assert found.n_stored == found.n_answers == 150
    assert found.duration is None
    assert plan_facts(found)["time"] == "seconds: everything is stored"


def test_a_plan_of_the_lab_is_quick_and_imports_no_torch(lab: RunConfig) -> None:
    code = (
        "import sys; from helpers.config import make_config; from helpers.plan import plan_view;"
        f"plan_view(make_config('lab', cache_dir={str(lab.cache_dir)!r}));"
        "heavy = {'torch', 'transformers', 'sklearn', 'datasets'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def seconds() -> float:
        started = time.process_time()
        plan(lab)
        return time.process_time() - started

    assert min(seconds() for _ in range(3)) < 0.3


# --- what stands in the way ----------------------------------------------------------------------


@pytest.mark.usefixtures("_no_work")
def test_what_has_to_be_fetched_is_named_and_not_fetched(
    lab: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    asked = {"model": "some/model", "judge_model": "deberta-v3-small-mnli", "questions": "gsm8k"}
    config = lab.model_copy(update=asked)
    found = plan(config)
    assert found.downloads == (
        "the language model some/model",
        "the judge cross-encoder/nli-deberta-v3-small",
        "the questions gsm8k",
    )
    assert found.problems == ()
    assert (found.splits, found.n_questions) == (None, 600)
    text = said(config)
    assert "Fetched from the hub: the language model some/model, the judge" in text
    assert "up to 600 questions" in text
    assert "not known before the first batch of answers is done" in text
    assert "fetching comes on top" in text
    Store(lab.cache_dir).close()
    assert plan(config).n_stored is None
    assert "is known once all is fetched" in said(config)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    found = plan(config)
    assert found.downloads == ()
    assert ["could not be reached" in problem for problem in found.problems] == [True] * 3
    assert all("--preset lab" in problem for problem in found.problems)
    assert plan_facts(found)["time"] == "it cannot be started yet"


def test_what_is_wrong_is_said_with_its_remedy(
    lab: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for change, words in (
        ({"model": "./none<b>"}, "no such folder"),
        ({"questions": "none.jsonl"}, "none.jsonl: no such file"),
        ({"limit": 3}, "raise --limit"),
        ({"judge": "cosine", "embedding_model": "lab"}, "the lab has none"),
    ):
        found = plan(lab.model_copy(update=change))
        assert len(found.problems) == 1
        assert words in found.problems[0]
        assert found.duration is None
        page = plan_view(found)
        assert page.count("Before it can start:") == 1
        assert "<b>" not in page
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    assert "of disk, and --cache-dir" in plan(lab).problems[0]


# --- how long ------------------------------------------------------------------------------------


def earlier(out: Path, run: RunConfig, seconds: float, **changes: Any) -> None:
    """A finished run whose stages took so many seconds each, an answer a tenth of one."""
    answers = run.limit * (run.k + 1)
    work: dict[str, dict[str, float]] = {stage: {"seconds": seconds} for stage in STAGES}
    work["samples"] = {"generated": answers, "seconds": answers / 10}
    work["meanings"] |= {"pairs": 100, "stored": 1}
    manifest = {
        "run": run.run_name(),
        "config": run.results_fields(),
        "hashes": {"model_hash": identify(run.model).model_hash},
        "counts": {"questions": run.limit, "samples": run.limit * run.k},
        "stages_done": list(STAGES),
        "work": work,
    }
    write_manifest(out / run.run_name(), manifest | changes)


def test_a_time_follows_earlier_runs_of_the_same_model(lab: RunConfig) -> None:
    done = lab.model_copy(update={"limit": 100, "k": 4, "temperature": 0.5})
    earlier(lab.out, done, 10.0)
    found = duration(lab, 600, 6600, identify("lab"))
    assert found is not None
    # Six times as many questions; each has (11 / 5)² times as many pairs of answers.
    pairwise, others = 2 * 10 * 6 * (11 / 5) ** 2, 4 * 10 * 6
    assert found.low == found.high == pytest.approx(660 + pairwise + others)
    assert found.words == f"about 25 minutes (as run {done.run_name()} took)"
    half = duration(lab, 600, 3300, identify("lab"))
    assert half is not None
    assert half.low == pytest.approx(330 + pairwise + others)
    assert half.words.startswith("at most about")  # what follows may be stored as well
    found = duration(lab, 600, 6600, None)  # by name, where the model is not here
    assert found is not None
    assert "as run" in found.words


@pytest.mark.parametrize(
    "changes",
    [
        {"hashes": {"model_hash": "another"}},
        {"work": {}},
        {"work": {"samples": {"generated": 10, "seconds": 500.0}}},  # the rest was stored
        {"format_version": 999},
        {"config": {"model": "lab"}},
    ],
)
def test_a_run_that_measured_something_else_is_no_measure(
    lab: RunConfig, changes: dict[str, Any]
) -> None:
    earlier(lab.out, lab.model_copy(update={"seed": 7}), 1000.0, **changes)
    found = duration(lab, 600, 6600, identify("lab"))
    assert found is not None
    assert found.words == "about 2 to 3 minutes (measured on one CPU core)"


def test_only_what_is_known_is_promised(lab: RunConfig) -> None:
    longer = lab.model_copy(update={"max_new_tokens": 300})
    assert plan(longer).duration is None
    assert "not known before the first batch" in plan_facts(plan(longer))["time"]
    # A run with another judge took as long to sample; its judging says nothing of ours.
    earlier(lab.out, longer.model_copy(update={"judge": "final-answer"}), 1000.0)
    found = plan(longer).duration
    assert found is not None
    assert found.sampling_only
    assert found.high == pytest.approx(660)
    assert plan_facts(plan(longer))["time"].startswith("sampling takes about 11 minutes (as in run")


def test_stages_that_are_done_take_no_time(lab: RunConfig) -> None:
    earlier(lab.out, lab.model_copy(update={"seed": 7}), 100.0)
    whole = duration(lab, 600, 0, identify("lab"))
    folder = lab.run_folder
    write_manifest(folder, {"config": {}, "stages_done": ["samples", "meanings", "uncertainty"]})
    rest = duration(lab, 600, 0, identify("lab"))
    assert whole is not None
    assert rest is not None
    assert (whole.low, rest.low) == (600, 400)
    assert (whole.at_most, rest.at_most) == (True, False)


def test_seconds_are_said_in_round_words() -> None:
    assert about(0.2) == "a few seconds"
    assert about(12) == "about 10 seconds"
    assert about(12, 31) == "about 10 to 30 seconds"
    assert about(100) == "about 2 minutes"
    assert about(60, 119) == "about 1 to 2 minutes"
    assert about(3 * 3600, 5 * 3600) == "about 3 to 5 hours"
    assert about(6000) == "about 2 hours"


# --- how much ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.usefixtures("one_thread")
def test_the_shape_in_a_models_folder_is_that_of_the_model(
    architecture: str, tmp_path: Path
) -> None:
    folder = save_language_model(architecture, tmp_path / architecture)
    shape, lm = shape_of(folder), load_language_model(str(folder))
    config = lm.model.config
    assert (shape.layers, shape.width, shape.context) == (lm.n_layers, lm.width, lm.context)
    assert shape.vocabulary == config.vocab_size
    assert shape.heads == config.num_attention_heads
    assert shape.kv_heads == getattr(config, "num_key_value_heads", shape.heads)
    names = " ".join(name for name, _ in lm.model.named_parameters())
    assert shape.gated == ("gate_proj" in names)
    count = sum(weights.numel() for weights in lm.model.parameters())
    assert shape.parameters == pytest.approx(count, rel=0.1)  # the file has a header


def test_memory_and_disk_are_told_where_the_model_is_known(
    lab: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_costs, "_device", lambda device: "cpu")
    asked = {"model": "Qwen/Qwen3-4B", "judge_model": "some/judge"}
    small, large = needs(lab, 600, None), needs(lab.model_copy(update=asked), 600, None)
    assert small is not None
    assert large is not None
    weights = {"lab": LAB.parameters, "large": MODELS["Qwen3-4B"].parameters}
    assert small.ram_bytes.always["weights"] == 4 * weights["lab"]
    assert large.ram_bytes.always["weights"] == 4 * weights["large"]
    assert small.gpu_bytes.total == 0
    # As measured: 42 MB and 1.46 GB.
    assert 35e6 < small.disk_bytes.total < 50e6
    assert 1.2e9 < small.ram_bytes.total < 1.7e9
    assert needs(lab.model_copy(update={"model": "some/model"}), 600, None) is None
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text('{"layers_of_mine": 3}')
    unknown = lab.model_copy(update={"model": str(odd)})
    assert needs(unknown, 600, ModelIdentity(str(odd), odd, "", "")) is None
    assert {"disk", "memory"} <= plan_facts(plan(lab)).keys()
