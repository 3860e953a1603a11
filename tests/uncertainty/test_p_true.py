"""p(True): against one unpadded forward a prompt, and prompts written out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import RunConfig
from helpers.data.answers import Grade
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.generation import option_logprobs
from helpers.generation.option_logprobs import (
    PromptCounts,
    common_length,
    next_log_probs,
    option_log_probs,
)
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers
from helpers.models.loading import LanguageModel, load_language_model
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from helpers.uncertainty import p_true
from helpers.uncertainty.p_true import ask_p_true, choose_examples, listed_answers
from support import tiny_models
from support.tiny_models import ARCHITECTURES, END, byte_tokenizer, save_language_model

CONTEXT = 700
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}\n<|model|>"
    "{% else %}REPLY{% endif %}{% endfor %}{% if enable_thinking %}<think>{% endif %}"
)
CHATS = {  # how a template writes a reply, and what stands between it and the prompt
    " {{ m['content'] }}\n": " ",
    "{{ m['content'] }}": "",
    "{{ '\n\n' + m['content'] }}": "\n\n",
    "": " ",
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LanguageModel]:
    folder = tmp_path_factory.mktemp("language-models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "CONTEXT", CONTEXT)
        paths = {name: save_language_model(name, folder / name) for name in ARCHITECTURES}
        chat = save_language_model("llama", folder / "chat", seed=1)
    byte_tokenizer(eos_token=END, chat_template="not chosen yet").save_pretrained(chat)
    found = {name: load_language_model(str(path), device="cpu") for name, path in paths.items()}
    return found | {"chat": load_language_model(str(chat), device="cpu")}


def alone(lm: LanguageModel, prompt: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities of the next token by one unpadded forward of the whole prompt."""
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    return logits.double().log_softmax(-1).numpy()


def alike(n: int, shared: int, longest: int) -> list[tuple[int, ...]]:
    """Prompts with a common beginning and rests of many lengths, the longest first."""
    rng = np.random.default_rng(3)
    beginning = rng.integers(3, 250, shared).tolist()
    lengths = [longest, 1, 2, *rng.integers(1, longest, n - 3)]
    rests = [rng.integers(3, 250, length).tolist() for length in lengths]
    return [(*beginning, 3 + i, *rest[1:]) for i, rest in enumerate(rests)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shared", [0, 3, 40])
@pytest.mark.parametrize("batch_tokens", [1, 150, 16_384])
def test_sharing_the_prefix_changes_nothing(models, architecture, shared, batch_tokens):
    lm, prompts, tokens = models[architecture], alike(9, shared, 25), (40, 41, 7)
    counts = PromptCounts()
    found = next_log_probs(lm, prompts, tokens, counts, batch_tokens=batch_tokens)
    expected = np.array([alone(lm, prompt)[list(tokens)] for prompt in prompts])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.5  # the prompts matter
    assert counts.tokens_naive == sum(map(len, prompts))
    if batch_tokens == 1:
        assert counts.tokens_computed == counts.tokens_naive - 8 * shared
    if batch_tokens == 16_384:
        assert counts.tokens_computed == shared + 9 * 25
        assert counts.forwards == 1 + (shared > 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_that_are_alike_or_alone_or_fill_the_context(models, architecture):
    lm = models[architecture]
    prompt = alike(3, 0, CONTEXT)[0]
    odd = (*prompt[:20], 9, *prompt[21:40])
    for prompts in ([prompt], [prompt] * 3, [prompt[:1]], [prompt, prompt[:30]], [prompt, odd] * 2):
        found = next_log_probs(lm, prompts, (5, 6), PromptCounts())
        expected = [alone(lm, p)[[5, 6]] for p in prompts]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert next_log_probs(lm, [], (5, 6), PromptCounts()).shape == (0, 2)


def test_an_option_is_as_likely_as_its_tokens_one_after_the_other(models):
    lm, prompts = models["llama"], alike(4, 10, 8)
    options = [(5,), (5, 6), (7, 5, 6, 5), (5, 6)]
    counts = PromptCounts()
    found = option_log_probs(lm, prompts, options, counts)
    expected = [
        [sum(alone(lm, (*p, *o[:i]))[o[i]] for i in range(len(o))) for o in options]
        for p in prompts
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(found[:, :3], axis=1).min() > 1
    assert counts.prompts == 4 * 5  # what each option begins with is asked once: 5, 7, 75, 756, –
    assert option_log_probs(lm, [], options, counts).shape == (0, 4)


@given(st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), min_size=1, max_size=5))
def test_the_common_length_is_how_far_all_agree(sequences):
    n = common_length(sequences)
    assert len({s[:n] for s in sequences}) == 1
    assert min(map(len, sequences)) == n or len({s[: n + 1] for s in sequences}) > 1


def test_out_of_memory_halves_the_batch_and_changes_nothing(models, monkeypatch):
    lm, prompts = models["gpt2"], alike(9, 20, 25)
    expected = next_log_probs(lm, prompts, (5, 6), PromptCounts())
    limit, rows = 2, []

    def refuse(module: object, given: tuple, kwargs: dict) -> None:
        rows.append(len(kwargs["input_ids"]))
        if len(kwargs["input_ids"]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = lm.model.register_forward_pre_hook(refuse, with_kwargs=True)
    monkeypatch.setattr(option_logprobs, "free_memory", lambda _: None)
    try:
        found = next_log_probs(lm, prompts, (5, 6), PromptCounts())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert rows[:4] == [1, 9, 4, 2]
        limit = 0
        with pytest.raises(UserError, match=r"out of memory .* single prompt of \d+ tokens"):
            next_log_probs(lm, prompts, (5, 6), PromptCounts())
    finally:
        hook.remove()


def test_logits_are_made_at_one_place_of_each_prompt(models, monkeypatch):
    lm, prompts = models["gemma2"], alike(9, 20, 25)
    head, made = lm.model.get_output_embeddings(), []
    hook = head.register_forward_hook(lambda module, given, out: made.append(tuple(out.shape)))
    found = next_log_probs(lm, prompts, (5, 6), PromptCounts())
    hook.remove()
    vocabulary = lm.model.config.vocab_size
    assert made == [(1, 1, vocabulary), (9, 1, vocabulary)]  # the common prefix, all the rests
    assert not head._forward_pre_hooks
    # A model that does not say what its head is makes them everywhere, and they are picked then.
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: None)
    again = next_log_probs(lm, prompts, (5, 6), PromptCounts())
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-4)
    hook = head.register_forward_hook(lambda module, given, out: out * torch.nan)
    with pytest.raises(UserError, match=r"NaN logits; try --dtype float32"):
        next_log_probs(lm, prompts, (5, 6), PromptCounts())
    hook.remove()


def test_what_a_model_does_to_its_logits_is_done(models):
    from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

    common: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
    }  # fmt: skip
    changed = [
        (CohereConfig, {"logit_scale": 0.1}, {"logit_scale": 1.0}),
        (GraniteConfig, {"logits_scaling": 8.0}, {"logits_scaling": 1.0}),
        (Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 2.0}, {"head_dim": 8}),
    ]
    for config, its_own, without in changed:
        found = []
        for settings in (its_own, without):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(config(**common, **settings)).eval()
            lm, prompts = replace(models["llama"], model=model), alike(6, 10, 12)
            found.append(next_log_probs(lm, prompts, (5, 6), PromptCounts()))
            expected = [alone(lm, prompt)[[5, 6]] for prompt in prompts]
            np.testing.assert_allclose(found[-1], expected, rtol=0, atol=1e-4)
        assert np.abs(found[0] - found[1]).max() > 0.1, config.__name__


# The stage

ROWS = [  # question, split, samples, most likely answer, whether that is right
    ("2+2?", "train", ["4", "5", "4", " 4\n apples"], "4", True),
    ("3+2?", "train", ["6", "6"] * 2, "6", False),
    ("1+1?", "test", ["2", "3", "7", "2"], "2", True),
    ("9-9?", "train", ["0", "", "0", "none"], "0", True),
    ("5-1, and then twice?", "validation", ["4"] * 4, "8", True),
    ("8-3?", "train", ["4", "5", "4", "x"], "4", False),
    ("7?", "train", ["7"] * 4, "7", None),
    ("6+1?", "test", ["7", "8", "9", "7"], "9", False),
]
# What the model is shown, written out; the samples' distinct texts are listed once.
LISTED = [
    "4\n5\n4 apples", "6", "2\n3\n7", "0\nnone", "4", "4\n5\nx", "7", "7\n8\n9",
]  # fmt: skip
BLOCKS = [
    f"Question: {row[0]}\nSome suggested answers:\n{listed}\nProposed answer: {row[3]}\n"
    "Is the proposed answer:\nA) True\nB) False\nThe proposed answer is:"
    for row, listed in zip(ROWS, LISTED, strict=True)
]


def sampled(rows: list[tuple] = ROWS) -> SampledAnswers:
    def sample(i: int, text: str) -> Sample:
        return Sample("", i, text, (5,), (0.0,), (0.0,), "stop")

    return SampledAnswers(
        tuple(Question(f"q{i}", row[0], "", "1", row[1], "") for i, row in enumerate(rows)),
        tuple(tuple(sample(i, text) for i, text in enumerate(row[2])) for row in rows),
        tuple(sample(GREEDY, row[3]) for row in rows),
        (),
        0,
    )


def grades(right: list[bool | None]) -> list[Grade | None]:
    return [None if r is None else Grade("1", "correct" if r else "wrong") for r in right]


GRADES = grades([row[4] for row in ROWS])


def config_of(lm: LanguageModel, **changes: Any) -> RunConfig:
    return make_config(model=str(lm.identity.folder), device="cpu", **changes)


def by_hand(lm: LanguageModel, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """p(True) and p(A) after prompts that end where the letter is due, a byte a token."""
    log_p = [alone(lm, tuple(lm.tokenizer(prompt)["input_ids"])) for prompt in prompts]
    a, b = (lm.tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
    p = np.exp(np.array(log_p)[:, [a, b]])
    return p[:, 0] / p.sum(1), p[:, 0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_p_true_is_that_of_prompts_written_by_hand(models, store, architecture):
    lm = models[architecture]
    found = ask_p_true(config_of(lm), sampled(), GRADES, store, silent_progress(), shots=2)
    # Of a byte-level tokenizer, " A" and " B" are two tokens: the space belongs to the prompt.
    expected, mass = by_hand(lm, [block + " " for block in BLOCKS])
    assert found.zero_shot == pytest.approx(expected, abs=1e-4)
    assert found.zero_shot_a == pytest.approx(mass, abs=1e-4)

    assert found.n_shots == 2
    shots = [int(name[1:]) for name in found.shot_ids]
    assert sorted(ROWS[i][4] for i in shots) == [False, True]
    solved = [f"{BLOCKS[i]} {'A' if ROWS[i][4] else 'B'}\n\n" for i in shots]
    expected, mass = by_hand(lm, ["".join(solved) + block + " " for block in BLOCKS])
    rest = [i for i in range(8) if i not in shots]
    assert found.few_shot[rest] == pytest.approx(expected[rest], abs=1e-4)
    assert found.few_shot_a[rest] == pytest.approx(mass[rest], abs=1e-4)
    assert np.isnan(found.few_shot[shots]).all()  # they would read their own solution
    assert np.abs(found.few_shot - found.zero_shot)[rest].max() > 0.01
    assert found.undefined == {}
    assert found.too_long == ()
    assert found.counts.tokens_computed < 0.7 * found.counts.tokens_naive


@pytest.mark.parametrize("reply", CHATS)
def test_a_chat_model_meets_it_in_its_template_without_thinking(models, store, reply):
    lm, gap = models["chat"], CHATS[reply]
    template = CHAT.replace("REPLY", reply)
    byte_tokenizer(eos_token=END, chat_template=template).save_pretrained(lm.identity.folder)
    config = config_of(lm, chat=True, thinking=True)
    found = ask_p_true(config, sampled(), GRADES, store, silent_progress(), shots=1)
    expected, _ = by_hand(lm, [f"<|user|>{block}\n<|model|>{gap}" for block in BLOCKS])
    assert found.zero_shot == pytest.approx(expected, abs=1e-4)
    (shot,) = (int(name[1:]) for name in found.shot_ids)
    solved = f"{BLOCKS[shot]} {'A' if ROWS[shot][4] else 'B'}\n\n"
    expected, _ = by_hand(lm, [f"<|user|>{solved}{block}\n<|model|>{gap}" for block in BLOCKS])
    rest = [i for i in range(8) if i != shot]
    assert found.few_shot[rest] == pytest.approx(expected[rest], abs=1e-4)


def test_a_letter_that_is_one_token_with_its_space_stays_one(store):
    lm = load_language_model("lab", device="cpu")
    config = make_config("lab", device="cpu")
    found = ask_p_true(config, sampled(), GRADES, store, silent_progress(), shots=1)
    a, b = (lm.tokenizer.convert_tokens_to_ids(letter) for letter in ("ĠA", "ĠB"))
    for block, p in zip(BLOCKS, found.zero_shot, strict=True):
        log_p = alone(lm, tuple(lm.tokenizer(block)["input_ids"]))
        assert p == pytest.approx(1 / (1 + np.exp(log_p[b] - log_p[a])), abs=1e-4)


def test_grades_beyond_the_training_questions_choose_nothing(models, store, monkeypatch):
    config = config_of(models["qwen3"])
    found = ask_p_true(config, sampled(), GRADES, store, silent_progress())
    assert {ROWS[int(name[1:])][1] for name in found.shot_ids} == {"train"}
    monkeypatch.setattr(p_true, "load_language_model", None)  # nothing is missing
    others = [grade if row[1] == "train" else None for row, grade in zip(ROWS, GRADES, strict=True)]
    again = ask_p_true(config, sampled(), others, store, silent_progress())
    np.testing.assert_array_equal(again.few_shot, found.few_shot)
    assert again.shot_ids == found.shot_ids
    assert again.counts == PromptCounts()


def test_a_killed_run_asks_only_what_is_missing(models, store, tmp_path, monkeypatch):
    config = config_of(models["llama"])
    monkeypatch.setattr(p_true, "CHUNK", 3)
    whole = ask_p_true(config, sampled(), GRADES, store, silent_progress(), shots=2)
    other = Store(tmp_path / "killed")
    plain, calls = other.put_many, []

    def dies(values):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(len(values))
        plain(values)

    monkeypatch.setattr(other, "put_many", dies)
    with pytest.raises(KeyboardInterrupt):
        ask_p_true(config, sampled(), GRADES, other, silent_progress(), shots=2)
    monkeypatch.setattr(other, "put_many", plain)
    found = ask_p_true(config, sampled(), GRADES, other, silent_progress(), shots=2)
    assert calls == [3, 3, 2, 3]  # zero-shot, then the first chunk of few-shot
    assert found.counts.prompts == 3
    np.testing.assert_array_equal(found.zero_shot, whole.zero_shot)
    np.testing.assert_array_equal(found.few_shot, whole.few_shot)
    other.close()


def test_what_does_not_fit_or_was_not_graded_is_said(models, store):
    def ask(rows: list[tuple], graded: list[Grade | None]) -> Any:
        config = config_of(models["gpt2"])
        return ask_p_true(config, sampled(rows), graded, store, silent_progress())

    long = ("why? " * 200, "test", ["4"] * 4, "4", True)
    found = ask([*ROWS, long], [*GRADES, None])
    assert found.too_long == ("q8",)
    assert np.isnan([found.zero_shot[8], found.few_shot[8]]).all()
    assert np.isfinite(found.zero_shot[:8]).all()
    assert 1 <= found.n_shots < 5  # five are to be had, and a context of 700 bytes has no room

    found = ask([*ROWS, ("why? " * 100, *long[1:])], [*GRADES, None])
    assert (found.too_long, found.n_shots) == ((), 0)
    assert np.isnan(found.few_shot).all()
    assert "no room for a solved example" in found.undefined["few_shot"]
    found = ask([long] * 2, [None] * 2)
    assert found.undefined["zero_shot"] == "every prompt is longer than the context"
    assert found.too_long == ("q0", "q1")

    found = ask(
        ROWS, [None if row[1] == "train" else g for row, g in zip(ROWS, GRADES, strict=True)]
    )
    reason = "no training question has a graded most likely answer"
    assert found.undefined == {"few_shot": reason}
    assert np.isnan(found.few_shot).all()
    assert np.isfinite(found.zero_shot).all()


def test_a_tokenizer_that_cannot_tell_a_from_b_leaves_it_undefined(store, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "Question": 1, "answer": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    folder = save_language_model("llama", tmp_path / "words", tokenizer=tokenizer)
    config = make_config(model=str(folder), device="cpu")
    found = ask_p_true(config, sampled(), GRADES, store, silent_progress())
    assert set(found.undefined) == {"zero_shot", "few_shot"}
    assert "has no tokens that tell A from B" in found.undefined["zero_shot"]
    assert np.isnan([found.zero_shot, found.few_shot]).all()
    assert found.too_long == ()


def test_listed_answers_are_distinct_and_take_a_quarter_of_the_context(models):
    lm = models["gpt2"]  # a context of 700 bytes
    texts = ["a  b", "a\nb", "", *(f"{i:02d}" for i in range(20))]
    assert listed_answers(lm, texts) == ["a b", *(f"{i:02d}" for i in range(9))]
    long = [str(i) * 79 for i in range(4)]
    assert listed_answers(lm, long) == long[:2]
    assert listed_answers(replace(lm, context=float("inf")), long) == long
    assert listed_answers(lm, ["x" * 300]) == []
    assert listed_answers(lm, ["", " "]) == []


def test_examples_are_right_and_wrong_in_turn_as_far_as_there_are_both():
    right = [True] * 30 + [None] * 10 + [False] * 3
    chosen = choose_examples(right, 10, seed=1)
    assert [right[i] for i in chosen] == [True, False] * 3 + [True] * 4
    assert len(set(chosen)) == 10
    assert choose_examples(right, 4, seed=1) == chosen[:4]
    assert choose_examples(right, 10, seed=2) != chosen
    assert choose_examples([None, None], 10, seed=1) == []
