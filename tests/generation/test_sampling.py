"""Answers: the same ones whatever the batch, and those of a plain one-at-a-time sampler."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import UserError
from helpers.generation import sampling
from helpers.generation.records import GREEDY, Decoding, Request, Sample, sample_seed
from helpers.generation.sampling import (
    FIRST_CANDIDATES,
    TokenChoice,
    choose_tokens,
    generate,
    plan_batches,
    tie_tolerance,
    uniforms,
)
from helpers.models.loading import LanguageModel, load_language_model
from support.naive_decoding import naive_answer, naive_token, nucleus, softmax
from support.tiny_models import ARCHITECTURES, CONTEXT, save_language_model

# Of different lengths; all but one outgrow the sliding window.
QUESTIONS = (
    "How many?",
    "What is 3 + 4?",
    "Ana has 5 pears and eats 2. How many are left?",
    "Why",
    "A train of 12 cars loses 7 cars. How many cars?",
)
ENDS = frozenset({0, *range(40, 56)})
"""So many tokens end an answer that answers of every length occur."""
DRAWN = Decoding(temperature=0.8, top_p=0.95, max_new_tokens=14, seed=3)
SAMPLES = tuple(range(GREEDY, 4))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LanguageModel]:
    folder = tmp_path_factory.mktemp("language-models")
    paths = {name: save_language_model(name, folder / name) for name in ARCHITECTURES}
    loaded = {name: load_language_model(str(path), device="cpu") for name, path in paths.items()}
    return {name: replace(lm, end_ids=ENDS) for name, lm in loaded.items()}


@pytest.fixture(params=ARCHITECTURES)
def lm(request, models) -> LanguageModel:
    return models[request.param]


@pytest.fixture
def gpt2(models) -> LanguageModel:
    return models["gpt2"]


def encode(lm: LanguageModel, text: str) -> tuple[int, ...]:
    return tuple(lm.tokenizer(text)["input_ids"])


def requests_for(
    lm: LanguageModel, ids: Sequence[int] = SAMPLES, texts: Sequence[str] = QUESTIONS
) -> list[Request]:
    return [Request(f"q{i}", encode(lm, text), tuple(ids)) for i, text in enumerate(texts)]


def run(
    lm: LanguageModel,
    requests: Sequence[Request],
    decoding: Decoding = DRAWN,
    batch_size: int = 256,
) -> dict[tuple[str, int], Sample]:
    batches = list(generate(lm, requests, decoding, batch_size=batch_size))
    samples = [sample for batch in batches for sample in batch]
    found = {(s.question_id, s.sample_id): s for s in samples}
    assert len(found) == len(samples) == sum(len(r.sample_ids) for r in requests)
    return found


def assert_same(a: dict[tuple[str, int], Sample], b: dict[tuple[str, int], Sample]) -> None:
    """The same tokens, texts and ends; probabilities up to the rounding of a batched forward."""
    assert a.keys() == b.keys()
    for key, sample in a.items():
        for name in ("token_ids", "text", "finish_reason"):
            assert getattr(sample, name) == getattr(b[key], name)
        for name in ("token_logprobs", "token_entropies"):
            assert getattr(sample, name) == pytest.approx(getattr(b[key], name), abs=1e-4)


def watch(
    monkeypatch: pytest.MonkeyPatch,
    lm: LanguageModel,
    change: Callable[[dict[str, Any], Any], Any] = lambda given, out: out,
    before: Callable[[dict[str, Any]], None] = lambda given: None,
) -> list[SimpleNamespace]:
    """Record each forward's rows and whether it is cached, and let a test change what it gives."""
    plain, calls = lm.model.forward, []

    def forward(**given: Any) -> Any:
        calls.append(SimpleNamespace(rows=len(given["input_ids"]), cached=given["use_cache"]))
        before(given)
        return change(given, plain(**given))

    monkeypatch.setattr(lm.model, "forward", forward)
    return calls


def test_answers_do_not_depend_on_the_batch(lm):
    requests = requests_for(lm)
    whole = run(lm, requests)
    assert {s.finish_reason for s in whole.values()} == {"stop", "length"}
    assert_same(run(lm, requests, batch_size=1), whole)
    assert_same(run(lm, requests, batch_size=7), whole)
    one_by_one = [replace(r, sample_ids=(s,)) for r in requests[::-1] for s in r.sample_ids]
    assert_same(run(lm, one_by_one, batch_size=5), whole)


def test_answers_are_those_of_a_plain_sampler(lm):
    for (question_id, sample_id), sample in run(lm, requests_for(lm)).items():
        expected = naive_answer(
            lm,
            encode(lm, QUESTIONS[int(question_id[1:])]),
            uniforms(DRAWN.seed, question_id, sample_id, DRAWN.max_new_tokens),
            temperature=DRAWN.temperature,
            top_p=DRAWN.top_p,
            greedy=sample_id == GREEDY,
        )
        assert sample.token_ids == tuple(t.token for t in expected)
        assert sample.token_logprobs == pytest.approx([t.logprob for t in expected], abs=1e-4)
        assert sample.token_entropies == pytest.approx([t.entropy for t in expected], abs=1e-4)


def test_the_most_likely_answer_is_the_one_that_transformers_generates(lm):
    found = run(lm, requests_for(lm, [GREEDY]))
    for i, text in enumerate(QUESTIONS):
        ids = torch.tensor([encode(lm, text)])
        out = lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=DRAWN.max_new_tokens,
            eos_token_id=sorted(ENDS),
            pad_token_id=lm.pad_id,
        )
        assert found[f"q{i}", GREEDY].token_ids == tuple(out[0, ids.shape[1] :].tolist())


def test_twenty_samples_contain_the_ten_and_a_longer_limit_the_shorter(gpt2):
    ten = run(gpt2, requests_for(gpt2, range(10)))
    twenty = run(gpt2, requests_for(gpt2, range(20)), batch_size=32)
    assert_same({key: twenty[key] for key in ten}, ten)
    added = run(gpt2, requests_for(gpt2, range(10, 20)))
    assert_same(ten | added, twenty)
    assert len({s.token_ids for s in twenty.values()}) > 80
    longer = run(gpt2, requests_for(gpt2, range(10)), replace(DRAWN, max_new_tokens=20))
    assert all(longer[key].token_ids[: len(s.token_ids)] == s.token_ids for key, s in ten.items())
    other = run(gpt2, requests_for(gpt2, range(10)), replace(DRAWN, seed=4))
    assert sum(other[key].token_ids == s.token_ids for key, s in ten.items()) < 25


def test_every_sample_has_a_stream_and_a_seed_of_its_own():
    streams = {(q, s): uniforms(0, q, s, 50) for q in ("a", "b") for s in (-1, 0, 1, 11)}
    assert len({tuple(u) for u in streams.values()}) == len(streams)
    together = np.concatenate(list(streams.values()))
    assert ((together >= 0) & (together < 1)).all()
    assert (uniforms(0, "a", 1, 7) == streams["a", 1][:7]).all()
    seeds = {sample_seed(s, q, i) for s in range(3) for q in ("a", "b") for i in range(-1, 9)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_end_token_is_kept_among_the_ids_and_not_in_the_text(gpt2):
    for sample in run(gpt2, requests_for(gpt2)).values():
        *body, last = sample.token_ids
        assert not ENDS.intersection(body)
        assert sample.finish_reason == ("stop" if last in ENDS else "length")
        shown = body if last in ENDS else sample.token_ids
        assert sample.text == gpt2.tokenizer.decode(shown).strip()
        assert len(sample.token_ids) == len(sample.token_logprobs) == len(sample.token_entropies)
        assert (len(sample.token_ids) == DRAWN.max_new_tokens) or sample.finish_reason == "stop"


def test_stop_texts_end_an_answer_and_are_cut_off(gpt2):
    lm = replace(gpt2, end_ids=frozenset())
    free = run(lm, requests_for(lm))
    texts = [lm.tokenizer.decode(s.token_ids) for s in free.values()]
    letters = [text[i] for text in texts for i in range(2, len(text)) if "!" < text[i] <= "~"]
    stop = (letters[0], letters[-1], letters[len(letters) // 2])
    stopped = 0
    for key, sample in run(lm, requests_for(lm), replace(DRAWN, stop=stop)).items():
        unstopped = free[key].token_ids
        decoded = [lm.tokenizer.decode(unstopped[: n + 1]) for n in range(len(unstopped))]
        at = next((n for n, text in enumerate(decoded) if any(s in text for s in stop)), None)
        if at is None:
            assert sample == free[key]
            continue
        stopped += 1
        assert sample.finish_reason == "stop"
        assert sample.token_ids == unstopped[: at + 1]
        cut = min(decoded[at].index(s) for s in stop if s in decoded[at])
        assert sample.text == decoded[at][:cut].strip()
    assert 3 <= stopped < len(free)


@pytest.mark.parametrize("others", [0, 1, 12])
def test_a_prompt_near_the_end_of_the_context_is_cut_there_whatever_is_in_its_batch(lm, others):
    lm = replace(lm, end_ids=frozenset())
    long = Request("long", tuple(range(60, 60 + CONTEXT - 5)), (0,))
    short = [Request(f"q{i}", encode(lm, QUESTIONS[1]), (0,)) for i in range(others)]
    found = run(lm, [long, *short])
    assert len(found["long", 0].token_ids) == 5
    assert found["long", 0].finish_reason == "length"
    assert_same({("long", 0): found["long", 0]}, run(lm, [long]))
    assert all(len(found[r.question_id, 0].token_ids) == DRAWN.max_new_tokens for r in short)


def test_the_prompt_is_computed_once_and_finished_rows_leave_the_batch(gpt2, monkeypatch):
    calls = watch(monkeypatch, gpt2)
    found = run(gpt2, requests_for(gpt2, range(12)))
    prefill, *steps = [c.rows for c in calls if c.cached]
    assert prefill == len(QUESTIONS)
    lengths = np.array([len(s.token_ids) for s in found.values()])
    assert len(steps) == lengths.max() - 1
    for step, rows in enumerate(steps, start=1):
        unfinished = (lengths > step).sum()
        assert unfinished <= rows <= unfinished / 0.875
    assert steps[-1] < steps[0] == 12 * len(QUESTIONS) - (lengths == 1).sum()


def test_out_of_memory_halves_the_batch_and_changes_no_sample(gpt2, monkeypatch):
    requests = requests_for(gpt2)
    whole = run(gpt2, requests)
    exceptions_alive: list[Any] = []
    monkeypatch.setattr(
        sampling, "free_memory", lambda _: exceptions_alive.append(sys.exc_info()[0])
    )
    failures = []

    def too_many(given: dict[str, Any]) -> None:
        if len(given["input_ids"]) > 3:
            failures.append(len(given["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    watch(monkeypatch, gpt2, before=too_many)
    assert_same(run(gpt2, requests, batch_size=24), whole)
    # What fits is learnt once, not at the start of every batch: 24, 12, 6, 3.
    assert 1 <= len(failures) <= 3
    # An exception in flight holds the frames that hold the memory.
    assert exceptions_alive == [None] * len(failures)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (torch.OutOfMemoryError("out of memory"), UserError, r"single sequence.*--max-new-tokens"),
        (MemoryError(), UserError, r"single sequence.*--max-new-tokens"),
        (RuntimeError("can't allocate"), UserError, r"single sequence.*--max-new-tokens"),
        (RuntimeError("mat1 and mat2 cannot be multiplied"), RuntimeError, "mat1"),
    ],
)
def test_out_of_memory_with_one_sequence_is_an_error_with_a_remedy(
    gpt2, monkeypatch, error, raised, said
):
    def always(given: dict[str, Any]) -> None:
        raise error

    monkeypatch.setattr(sampling, "free_memory", lambda _: None)
    watch(monkeypatch, gpt2, before=always)
    with pytest.raises(raised, match=said):
        run(gpt2, requests_for(gpt2))


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("sample_id", [GREEDY, 0])
def test_nan_logits_are_an_error_that_names_the_question(gpt2, monkeypatch, sample_id, top_p):
    def spoil(given: dict[str, Any], out: Any) -> Any:
        if given["input_ids"].shape[1] == 1:  # after the prompts
            out.logits[1] = torch.nan
        return out

    watch(monkeypatch, gpt2, change=spoil)
    lm = replace(gpt2, end_ids=frozenset())
    named = plan_batches(requests_for(lm, [sample_id]), 256)[0][1].question_id
    with pytest.raises(UserError, match=rf"NaN.*question {named}, token 1.*--dtype float32"):
        run(lm, requests_for(lm, [sample_id]), replace(DRAWN, top_p=top_p))


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_tokens_that_rounding_could_change_are_decided_alone(models, name, monkeypatch):
    """Noise in every batched forward, much coarser than rounding, changes no token."""
    lm = models[name]
    requests = requests_for(lm, range(8))
    whole = run(lm, requests, batch_size=1)
    rng = torch.Generator().manual_seed(0)

    def add_noise(given: dict[str, Any], out: Any) -> Any:
        if given["use_cache"]:
            out.logits += 0.02 * (torch.rand(out.logits.shape, generator=rng) - 0.5)
        return out

    with monkeypatch.context() as patch:
        watch(patch, lm, change=add_noise)
        patch.setattr(sampling, "tie_tolerance", lambda dtype: 0.0)
        unsettled = run(lm, requests)
    assert any(unsettled[key].token_ids != s.token_ids for key, s in whole.items())
    with monkeypatch.context() as patch:
        calls = watch(patch, lm, change=add_noise)
        patch.setattr(sampling, "tie_tolerance", lambda dtype: 0.03)
        settled = run(lm, requests)
    assert {c.rows for c in calls if not c.cached} == {1}
    assert all(settled[key].token_ids == s.token_ids for key, s in whole.items())


def test_batches_hold_prompts_of_similar_length_and_every_sample_once():
    requests = [
        Request(f"q{n}", (1,) * n, tuple(range(k))) for n, k in ((3, 4), (9, 11), (5, 2), (8, 3))
    ]
    batches = plan_batches(requests, 5)
    assert all(sum(len(r.sample_ids) for r in batch) <= 5 for batch in batches)
    wanted = [(r.question_id, s) for r in requests for s in r.sample_ids]
    planned = [(r.question_id, s) for batch in batches for r in batch for s in r.sample_ids]
    assert sorted(planned) == sorted(wanted)
    lengths = [len(r.prompt_ids) for batch in batches for r in batch]
    assert lengths == sorted(lengths, reverse=True)


# --- one decoding step ---------------------------------------------------------------------------


SEEDS = st.integers(0, 2**32 - 1)
TEMPERATURES = st.sampled_from([0.3, 0.7, 1.0, 2.0])
TOP_P = st.sampled_from([0.05, 0.5, 0.9, 0.99, 1.0])


def choose(
    logits: np.ndarray,
    uniforms: np.ndarray,
    *,
    greedy: bool | np.ndarray = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    tolerance: float = 0.0,
) -> TokenChoice:
    return choose_tokens(
        torch.from_numpy(logits),
        uniforms,
        np.broadcast_to(greedy, len(logits)).copy(),
        temperature=temperature,
        top_p=top_p,
        tolerance=tolerance,
    )


@settings(max_examples=60)
@given(SEEDS, st.integers(2, 400), st.floats(0.1, 8), TEMPERATURES, TOP_P)
def test_tokens_are_those_of_the_plain_definition(seed, vocabulary, scale, temperature, top_p):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (6, vocabulary)).astype(np.float32)
    draws, greedy = rng.random(6), np.arange(6) == 2
    found = choose(logits, draws, greedy=greedy, temperature=temperature, top_p=top_p)
    for i in range(6):
        expected = naive_token(
            logits[i], draws[i], temperature=temperature, top_p=top_p, greedy=bool(greedy[i])
        )
        assert found.tokens[i] == expected.token
        assert found.logprobs[i] == pytest.approx(expected.logprob, abs=1e-9)
        assert found.entropies[i] == pytest.approx(expected.entropy, abs=1e-9)
    assert not found.ambiguous.any()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.4)])
def test_frequencies_are_the_probabilities_of_the_smallest_set_that_reaches_top_p(
    temperature, top_p
):
    logits = np.random.default_rng(1).normal(0, 2, 40)
    n = 20_000
    grid = (np.arange(n) + 0.5) / n
    found = choose(np.tile(logits, (n, 1)), grid, temperature=temperature, top_p=top_p)
    p = softmax(logits / temperature)
    likeliest = np.sort(p)[::-1]
    size = next(k for k in range(1, 41) if likeliest[:k].sum() >= top_p - 1e-12)
    kept = np.argsort(-p)[:size]
    assert set(found.tokens) <= set(kept)
    expected = np.zeros(40)
    expected[kept] = p[kept] / p[kept].sum()
    counts = np.bincount(found.tokens, minlength=40)
    assert np.abs(counts / n - expected).max() <= 1 / n
    # Whatever is drawn from, log-probability and entropy are the model's own.
    own = np.log(softmax(logits))
    assert found.logprobs == pytest.approx(own[found.tokens])
    assert found.entropies == pytest.approx(np.full(n, -(np.exp(own) * own).sum()))


def test_a_flat_distribution_over_more_tokens_than_are_looked_at_first():
    vocabulary = 20 * FIRST_CANDIDATES
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 0.01, (8, vocabulary))
    logits[0, 7] = 30  # one decided row must not end the search for the others
    draws = rng.random(8)
    found = choose(logits, draws, top_p=0.9)
    expected = [
        naive_token(row, u, temperature=1.0, top_p=0.9)
        for row, u in zip(logits, draws, strict=True)
    ]
    assert found.tokens.tolist() == [e.token for e in expected]
    assert len(nucleus(softmax(logits[1]), 0.9)) > 8 * FIRST_CANDIDATES


def test_a_draw_close_to_a_boundary_is_ambiguous_and_one_at_the_ends_is_not():
    logits = np.log([[0.25, 0.5, 0.25]])
    draws = {
        0: False,
        0.2: False,
        0.2499: True,
        0.2501: True,
        0.5: False,
        0.75: True,
        0.9999: False,
    }
    for draw, ambiguous in draws.items():
        assert choose(logits, np.array([draw]), tolerance=1e-3).ambiguous.tolist() == [ambiguous]
        assert not choose(logits, np.array([draw]), tolerance=0.0).ambiguous.any()


def test_an_uncertain_edge_of_the_nucleus_is_ambiguous():
    draw = np.array([0.1])
    tied = np.log([[0.4, 0.3, 0.3]])
    assert choose(tied, draw, top_p=0.6, tolerance=1e-5).ambiguous.all()  # either 0.3 may be out
    assert not choose(tied, draw, top_p=0.3, tolerance=1e-5).ambiguous.any()  # both are out
    apart = np.log([[0.4, 0.35, 0.25]])
    assert not choose(apart, draw, top_p=0.6, tolerance=1e-5).ambiguous.any()
    assert choose(apart, draw, top_p=0.75, tolerance=1e-5).ambiguous.all()  # 0.4 + 0.35 or all?


def test_a_tie_of_the_two_most_likely_is_ambiguous_for_greedy_rows_only_there():
    # Batched forwards of a small trained model were seen to move its logits by 1.2e-5.
    logits = np.array([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0 - 3e-5], [1.0, 3.0, 2.99]])
    found = choose(logits, np.full(3, 0.999), greedy=True, tolerance=tie_tolerance(torch.float32))
    assert found.ambiguous.tolist() == [True, True, False]
    assert found.tokens[2] == 1


@settings(max_examples=80)
@given(SEEDS, st.integers(2, 300), st.floats(0.1, 6), TEMPERATURES, st.data())
def test_noise_below_the_tolerance_changes_no_token_that_is_not_flagged(
    seed, vocabulary, scale, temperature, data
):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (8, vocabulary))
    near = data.draw(st.sampled_from([0.0, 1e-12, 1e-9, 1e-7, 1e-6, 1e-5]))
    p = softmax(logits[0] / temperature)
    # Draws and top-p at their most awkward: right beside the boundaries of the first row.
    size = int(rng.integers(1, vocabulary + 1))
    top_p = min(1.0, max(1e-3, np.sort(p)[::-1][:size].sum() + near * rng.choice([-1, 1])))
    kept = nucleus(p, top_p)
    bounds = np.cumsum(p[kept]) / p[kept].sum()
    draws = rng.random(8)
    draws[:6] = bounds[rng.integers(0, len(bounds), 6)] + near * rng.choice([-1, 1], 6)
    draws = draws.clip(0, 1 - 2**-53)
    logits[1:6] = logits[0]
    greedy = np.arange(8) == 7
    logits[7, :2] = logits[7].max() + 1, logits[7].max() + 1 + near
    how = {"temperature": temperature, "top_p": float(top_p), "tolerance": 2e-5}
    clean = choose(logits, draws, greedy=greedy, **how)
    for _ in range(3):
        noisy = choose(logits + rng.uniform(-1e-6, 1e-6, logits.shape), draws, greedy=greedy, **how)
        changed = clean.tokens != noisy.tokens
        assert not (changed & ~clean.ambiguous).any()


@pytest.mark.parametrize(("vocabulary", "top_p", "most"), [(200, 1.0, 0.01), (20_000, 0.99, 0.3)])
def test_few_tokens_are_flagged(vocabulary, top_p, most):
    # Among the second's thousands of rare tokens one is always at the edge of the nucleus; that
    # matters to a draw beside a boundary only.
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3.3, (200, vocabulary))
    found = choose(logits, rng.random(200), top_p=top_p, tolerance=tie_tolerance(torch.float32))
    assert found.ambiguous.mean() < most


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_leave_the_other_rows_alone(bad, top_p):
    logits = np.random.default_rng(4).normal(0, 2, (3, 300))
    whole = choose(logits, np.full(3, 0.4), top_p=top_p)
    logits[1, 5] = bad
    found = choose(logits, np.full(3, 0.4), top_p=top_p)
    assert np.isnan(found.logprobs[1])
    assert found.tokens[[0, 2]].tolist() == whole.tokens[[0, 2]].tolist()
    assert np.isfinite(found.logprobs[[0, 2]]).all()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.0, 0.99)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_choosing_in_blocks_of_rows_changes_no_bit(temperature, top_p, dtype, monkeypatch):
    rng = np.random.default_rng(5)
    rows, vocabulary = 23, 3000
    scale = np.geomspace(0.1, 8, rows)[:, None]  # flat and decided rows see other candidates
    logits = torch.from_numpy(rng.normal(0, 1, (rows, vocabulary)) * scale).to(dtype)
    draws, greedy = rng.random(rows), np.arange(rows) % 5 == 0
    how = {"temperature": temperature, "top_p": top_p, "tolerance": 2e-5}
    whole = choose_tokens(logits, draws, greedy, **how)
    for at_once, blocks in ((22 * vocabulary, 2), (7 * vocabulary, 4), (1, 23)):
        monkeypatch.setattr(sampling, "CELLS_AT_ONCE", at_once)
        assert len(sampling.row_blocks(rows, vocabulary)) == blocks
        found = choose_tokens(logits, draws, greedy, **how)
        for field in dataclasses.fields(TokenChoice):
            ours, theirs = getattr(found, field.name), getattr(whole, field.name)
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
            assert ours.dtype == theirs.dtype


@given(st.integers(0, 600), st.integers(1, 5000))
def test_blocks_hold_every_row_once_and_no_more_than_is_allowed(rows, vocabulary):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "CELLS_AT_ONCE", 10_000)
        blocks = sampling.row_blocks(rows, vocabulary)
    sizes = [block.stop - block.start for block in blocks]
    assert [i for block in blocks for i in range(rows)[block]] == list(range(rows))
    assert max(sizes) <= max(1, 10_000 // vocabulary)
    assert max(sizes) - min(sizes) <= 1
