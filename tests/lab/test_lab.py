"""The lab: sound problems that give nothing away, models that load, recipes that learn."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.cli.main import main
from helpers.data.answers import final_answer, reference_answer
from helpers.data.lab_problems import (
    TEMPLATES,
    UNSEEN_TEMPLATES,
    Problem,
    loose_template,
    phrase,
    problems,
)
from helpers.data.questions import lab_questions
from helpers.generation.samples import prompt_texts
from helpers.lab import models as judge_recipe
from helpers.lab.models import (
    agreement_with_answers,
    judge_tokenizer,
    language_model_tokenizer,
    train_judge,
    train_language_model,
)
from helpers.meanings.judges import nli_judge
from helpers.models.loading import (
    LAB_FOLDER,
    identify,
    load_classifier,
    load_language_model,
    load_tokenizer,
)
from helpers.studies.registry import make_config

POOLS = ("training", "questions", "unseen")
N = 3000


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pools() -> dict[str, list[Problem]]:
    """A few thousand problems of every pool."""
    return {pool: list(islice(problems(0, pool=pool), N)) for pool in POOLS}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    """The embedded tokenizers."""
    from transformers import AutoTokenizer

    return {
        name: AutoTokenizer.from_pretrained(LAB_FOLDER / name)
        for name in ("language_model", "judge")
    }


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_the_answer_follows_from_the_question(pools: dict[str, list[Problem]], pool: str) -> None:
    line = re.compile(r"The .+ now number (\d+)([-+*/])(\d+)=<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)\.")
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    for problem in pools[pool]:
        *reasoning, last = problem.answer.split("\n")
        asked = [int(n) for n in re.findall(r"\d+", problem.question)]
        total = None
        for text in reasoning:
            match = line.fullmatch(text)
            assert match, text
            told, annotated = match.group(1, 2, 3), match.group(4, 5, 6)
            assert told == annotated
            left, right = int(told[0]), int(told[2])
            assert left == (asked[0] if total is None else total)  # the story begins with it
            assert right in asked
            total = compute[told[1]](left, right)
            assert match.group(7, 8) == (str(total), str(total))
            assert told[1] != "/" or left % right == 0
        assert last == f"#### {total}"
        assert (problem.final, problem.steps) == (total, len(reasoning))


def test_problems_vary_in_story_steps_operations_and_distractors(
    pools: dict[str, list[Problem]],
) -> None:
    assert len(TEMPLATES) >= 30
    for pool, templates in (("questions", TEMPLATES), ("unseen", UNSEEN_TEMPLATES)):
        assert {p.template for p in pools[pool]} == {t.id for t in templates}
        assert {p.steps for p in pools[pool]} == {1, 2, 3, 4}
        assert {p.freedom for p in pools[pool]} == {0, 1, 2}
        used = Counter(
            sign for p in pools[pool] for e in p.equations for sign in re.findall(r"\D", e)
        )
        assert min(used[sign] for sign in "+-*/") > N / 10
        idle = [len(re.findall(r"\d+", p.question)) - 1 - p.steps for p in pools[pool]]
        assert min(idle) == 0  # numbers in the question that no step needs
        assert np.mean(np.array(idle) > 0) > 0.5


def test_pools_share_no_question_whatever_their_seeds(
    pools: dict[str, list[Problem]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {pool: {p.question for p in pools[pool]} for pool in POOLS}
    assert [len(asked[pool]) for pool in POOLS] == [N, N, N]
    assert not asked["training"] & asked["questions"]

    # Chance alone would hardly ever repeat a problem: let there be no more than 400.
    few = pools["training"][:200] + pools["questions"][:200]
    draw = lambda rng, pool: few[rng.integers(400)]  # noqa: E731
    monkeypatch.setattr("helpers.data.lab_problems.make_problem", draw)
    for seed in range(3):
        for pool in ("training", "questions"):
            drawn = {p.question for p in islice(problems(seed, pool=pool), 180)}
            assert len(drawn) == 180
            assert drawn <= asked[pool]
    with pytest.raises(ValueError, match="trainnig"):
        next(problems(0, pool="trainnig"))


def test_out_of_distribution_means_other_stories_and_larger_numbers(
    pools: dict[str, list[Problem]],
) -> None:
    known, unseen = (
        [{getattr(t, field) for t in templates} for field in ("id", "opening", "question")]
        for templates in (TEMPLATES, UNSEEN_TEMPLATES)
    )
    assert not any(a & b for a, b in zip(known, unseen, strict=True))
    median = {pool: float(np.median([p.final for p in pools[pool]])) for pool in POOLS}
    assert median["unseen"] > 1.3 * median["questions"]


def test_loose_phrases_hold_no_sentence_and_no_thing_of_the_unseen_stories() -> None:
    fields = ("opening", "add", "subtract", "multiply", "divide", "question")
    told = {getattr(t, field) for t in UNSEEN_TEMPLATES for field in fields}
    things = {item for t in UNSEEN_TEMPLATES for item in t.items}
    rng = np.random.default_rng(0)
    for _ in range(20_000):
        loose = loose_template(rng, TEMPLATES)
        assert not {getattr(loose, field) for field in fields} & told
        assert not set(loose.items) & things


@pytest.mark.parametrize("ood", [False, True])
def test_questions_are_nested_and_keep_their_splits(ood: bool) -> None:
    many = lab_questions(400, seed=3, ood=ood)
    assert lab_questions(73, seed=3, ood=ood) == many[:73]
    assert lab_questions(400, seed=4, ood=ood)[:5] != many[:5]
    assert len({q.question for q in many}) == len({q.id for q in many}) == 400
    assert Counter(q.split for q in many) == {"train": 160, "validation": 80, "test": 160}
    for question in many:
        assert reference_answer(question.answer) == question.final_answer


def test_the_grader_reads_every_phrasing(pools: dict[str, list[Problem]]) -> None:
    rng = np.random.default_rng(0)
    for pool in POOLS:
        for p in pools[pool][:1000]:
            text = phrase(rng, p.freedom, p.final, p.unit, p.name)
            assert final_answer(text) == str(p.final), text


def test_length_gives_neither_difficulty_nor_freedom_away(
    pools: dict[str, list[Problem]], tokenizers: dict[str, Any]
) -> None:
    from sklearn.metrics import roc_auc_score

    asked = pools["questions"]
    texts = [p.question for p in asked]
    steps, freedom = np.array([(p.steps, p.freedom) for p in asked]).T
    lengths = {
        "characters": [len(text) for text in texts],
        "words": [len(text.split()) for text in texts],
        "tokens": [len(ids) for ids in tokenizers["language_model"](texts)["input_ids"]],
    }
    for unit, length in lengths.items():
        hard = roc_auc_score(steps >= 3, length)
        assert 0.35 < hard < 0.65, (unit, hard)
        for level in range(3):
            free = roc_auc_score(freedom == level, length)
            assert 0.4 < free < 0.6, (unit, level, free)


def test_freedom_does_not_depend_on_difficulty(pools: dict[str, list[Problem]]) -> None:
    from scipy.stats import chi2_contingency

    table = np.zeros((4, 3))
    for p in pools["questions"]:
        table[p.steps - 1, p.freedom] += 1
    assert table.min() > N / 50
    assert chi2_contingency(table).pvalue > 0.01


# --- the embedded models -------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["questions", "unseen"])
def test_the_judge_agrees_with_the_exact_answer(pool: str) -> None:
    shares = agreement_with_answers(nli_judge("lab").equivalent, 300, seed=5, pool=pool)
    assert shares["all"] >= 0.98
    assert min(shares.values()) >= 0.9  # each kind: paraphrase, other number, other unit, unrelated


def test_the_weights_are_small_safetensors() -> None:
    for name in ("language_model", "judge"):
        files = {p.name: p.stat().st_size for p in (LAB_FOLDER / name).iterdir()}
        assert 10**6 < files["model.safetensors"] <= 8 * 10**6
        assert {Path(file).suffix for file in files} <= {".safetensors", ".json", ".jinja"}


@pytest.mark.parametrize("name", ["language_model", "judge"])
@settings(max_examples=200)
@given(text=st.text())
@example(text="Zoë’s 12 🦄‍🔥 — 三\u2028\x00\x1b\x7f\r\n\t ﷽ e\u0301 \U0010ffff")
@example(text="a<|end|><think>[SEP]  b ")
def test_any_text_can_be_fed(tokenizers: dict[str, Any], name: str, text: str) -> None:
    ids = tokenizers[name](text, add_special_tokens=False)["input_ids"]
    assert tokenizers[name].decode(ids) == text


def test_every_digit_is_a_token(tokenizers: dict[str, Any]) -> None:
    for tokenizer in tokenizers.values():
        assert [t for t in tokenizer.tokenize("it is 20417.") if t.isdigit()] == list("20417")


def test_the_chat_template_opens_a_thinking_only_when_asked() -> None:
    (plain,) = prompt_texts(make_config(chat=True), ["How many?"])
    (thinking,) = prompt_texts(make_config(chat=True, thinking=True), ["How many?"])
    assert plain == "Question: How many?\nAnswer:"  # what it was trained on
    assert thinking == plain + "<think>"


# --- the recipes ---------------------------------------------------------------------------------


@pytest.fixture
def _quick_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes' tokenizers are learned from fewer texts."""
    for learn in (language_model_tokenizer, judge_tokenizer):
        quick = lambda texts, learn=learn: learn(islice(texts, 300))  # noqa: E731
        monkeypatch.setattr(judge_recipe, learn.__name__, quick)


@pytest.mark.usefixtures("_quick_tokenizers")
def test_the_language_model_learns_and_loads(tmp_path: Path) -> None:
    said: list[str] = []
    options = {"steps": 12, "loose_steps": 2, "batch_size": 8, "report": said.append}
    log = train_language_model(tmp_path / "a", **options)
    assert np.mean(log.losses[10:12]) < np.mean(log.losses[:3]) - 0.5
    assert len(log.losses) == 14
    assert "step 2/2" in said[-1]
    again = train_language_model(tmp_path / "b", **options)
    assert again.losses == log.losses
    assert identify(str(tmp_path / "a")).model_hash == identify(str(tmp_path / "b")).model_hash
    other = train_language_model(
        tmp_path / "c", steps=1, loose_steps=0, batch_size=8, seed=1, report=said.append
    )
    assert other.losses[0] != log.losses[0]
    lm = load_language_model(str(tmp_path / "a"), device="cpu")
    assert lm.end_ids == {lm.tokenizer.convert_tokens_to_ids("<|end|>")}
    assert lm.context >= 512


@pytest.mark.usefixtures("_quick_tokenizers")
def test_the_judge_learns_and_loads(tmp_path: Path) -> None:
    said: list[str] = []
    log = train_judge(tmp_path / "a", steps=30, batch_size=16, report=said.append)
    assert np.mean(log.losses[-5:]) < np.mean(log.losses[:2]) - 0.1
    assert "step 30/30" in said[-1]
    model, _ = load_classifier(identify(str(tmp_path / "a"), "judge"), "cpu")
    assert set(model.config.label2id) == {"entailment", "neutral", "contradiction"}


@pytest.mark.slow
def test_one_command_rebuilds_both(
    tmp_path: Path,
    tokenizers: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("helpers.lab.models.shutil.which", lambda _: None)  # nothing is compiled
    into = tmp_path / "weights"
    assert main(["lab", "train", "--steps", "1", "--threads", "1", "--into", str(into)]) == 0
    said = capsys.readouterr().out
    assert "language model: step 1/1, loss " in said
    assert "judge: step 1/1, loss " in said
    assert str(into) in said
    for name in ("language_model", "judge"):
        rebuilt = load_tokenizer(identify(str(into / name)))
        assert rebuilt.get_vocab() == tokenizers[name].get_vocab()  # the recipe's, at any length
