"""Entropies by one forward: against those of sampling, and against all logits at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.data.questions import lab_questions
from helpers.errors import UserError
from helpers.generation.records import Decoding, Request
from helpers.generation.samples import encode_prompts, prompt_texts
from helpers.generation.sampling import generate
from helpers.hidden_states.capture import capture, token_entropies
from helpers.models import forwards, loading
from helpers.models.forwards import TRACING, TokenSequence
from helpers.models.loading import LanguageModel, load_language_model
from helpers.studies.registry import make_config
from support.tiny_models import ARCHITECTURES, random_model, save_language_model
from tests.benchmarks.live_tensors import watch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LanguageModel]:
    folder = tmp_path_factory.mktemp("language-models")
    paths = {name: save_language_model(name, folder / name) for name in ARCHITECTURES}
    return {name: load_language_model(str(path), device="cpu") for name, path in paths.items()}


@pytest.fixture(params=ARCHITECTURES)
def lm(request, models) -> LanguageModel:
    return models[request.param]


def random_sequences(vocabulary: int, lengths: list[tuple[int, int]]) -> list[TokenSequence]:
    rng = np.random.default_rng(2)
    return [
        TokenSequence(
            tuple(rng.integers(3, vocabulary, prompt).tolist()),
            tuple(rng.integers(0, vocabulary, answer).tolist()),
        )
        for prompt, answer in lengths
    ]


LENGTHS = [(1, 1), (4, 30), (30, 2), (5, 0), (60, 36), (7, 9)]


def naive(lm: LanguageModel, sequence: TokenSequence) -> tuple[np.ndarray, np.ndarray]:
    """Entropies and log-probabilities from all logits of one sequence, in float64."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.answer_ids]])
    with torch.no_grad():
        logits = lm.model(input_ids=ids, use_cache=False).logits[0].double().numpy()
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    at = np.arange(len(sequence.prompt_ids), len(sequence)) - 1
    rows = p[at]
    with np.errstate(divide="ignore"):
        entropies = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(-1)
        return entropies, np.log(rows[np.arange(len(rows)), list(sequence.answer_ids)])


def test_they_are_those_of_all_logits_whatever_the_batches_and_blocks(lm):
    sequences = random_sequences(len(lm.tokenizer), LENGTHS)
    expected = [naive(lm, s) for s in sequences]
    spread = np.concatenate([e for e, _ in expected])
    assert spread.std() > 0.05  # a model that is equally unsure everywhere would show nothing
    for batch_tokens, block_rows in ((16_384, 256), (1, 1), (100, 7)):
        found = token_entropies(lm, sequences, batch_tokens=batch_tokens, block_rows=block_rows)
        assert [len(f.entropies) for f in found] == [len(s.answer_ids) for s in sequences]
        for each, (entropies, logprobs) in zip(found, expected, strict=True):
            np.testing.assert_allclose(each.entropies, entropies, rtol=0, atol=1e-4)
            np.testing.assert_allclose(each.logprobs, logprobs, rtol=0, atol=1e-4)
            assert each.entropies.dtype == each.logprobs.dtype == np.float32


def test_they_are_those_that_sampling_saw():
    config, lm = make_config("lab"), load_language_model("lab", device="cpu")
    prompts = prompt_texts(config, [q.question for q in lab_questions(5, 0)])
    ids = encode_prompts(config, lm, prompts)
    requests = [Request(str(i), tuple(p), (0, 1, 2)) for i, p in enumerate(ids)]
    # Drawn at a temperature and from a nucleus: what is kept is neither tempered nor cut.
    decoding = Decoding(temperature=1.3, top_p=0.95, max_new_tokens=40, seed=0)
    samples = [s for b in generate(lm, requests, decoding, batch_size=8) for s in b]
    assert any(s.token_ids[-1] in lm.end_ids for s in samples)
    sequences = [TokenSequence(tuple(ids[int(s.question_id)]), s.token_ids) for s in samples]
    counted: list[tuple[int, int]] = []
    found = token_entropies(
        lm, sequences, batch_tokens=700, progress=lambda n, t: counted.append((n, t))
    )
    for sample, each in zip(samples, found, strict=True):
        np.testing.assert_allclose(each.entropies, sample.token_entropies, rtol=0, atol=1e-4)
        np.testing.assert_allclose(each.logprobs, sample.token_logprobs, rtol=0, atol=1e-4)
    assert max(e.entropies.max() for e in found) > 0.5
    assert len(counted) > 1
    assert np.sum(counted, axis=0).tolist() == [15, sum(len(s) for s in sequences)]


def test_all_logits_never_exist_at_once():
    lm = random_model(vocabulary=300_000)
    lm.model.to(torch.bfloat16)
    sequences = random_sequences(1000, [(4, 30)] * 3)
    head, blocks = lm.model.get_output_embeddings(), []
    hook = head.register_forward_hook(lambda m, given, out: blocks.append(len(given[0])))
    found = watch(lambda: token_entropies(lm, sequences, block_rows=8))
    hook.remove()
    assert blocks == [1, *[8] * 11, 2]  # one to see what the model does to its logits
    # Two float32 copies of a block's logits, where all logits are 90 rows in bfloat16.
    assert found.peak == pytest.approx(2 * 4 * 8 * 300_000, rel=0.1)
    assert found.peak < 2 * 90 * 300_000 / 2


def test_after_nnsight_and_within_its_lock_they_are_the_same(models):
    lm = models["llama"]
    sequences = random_sequences(len(lm.tokenizer), LENGTHS)
    before = token_entropies(lm, sequences)
    capture(lm, sequences, ("tbg",))
    with TRACING:
        after = token_entropies(lm, sequences)
    assert [b.entropies.tobytes() for b in before] == [a.entropies.tobytes() for a in after]


def test_out_of_memory_halves_the_batch(models, monkeypatch):
    lm = models["llama"]
    sequences = random_sequences(len(lm.tokenizer), [(10, n) for n in range(10, 18)])
    whole = token_entropies(lm, sequences)
    block = loading.decoder_blocks(lm.model)[1][1]
    ran: list[int] = []

    def refuse(module: object, given: tuple) -> None:
        if given[0].shape[1] > 1:
            ran.append(len(given[0]))
        if len(given[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = block.register_forward_pre_hook(refuse)
    monkeypatch.setattr(forwards, "free_memory", lambda _: None)
    try:
        found = token_entropies(lm, sequences)
    finally:
        hook.remove()
    assert ran[:3] == [8, 4, 2]
    for a, b in zip(whole, found, strict=True):
        np.testing.assert_allclose(a.entropies, b.entropies, rtol=0, atol=1e-5)


def test_logits_that_are_not_finite_are_an_error(models):
    lm = models["qwen3"]
    block = loading.decoder_blocks(lm.model)[1][1]

    def spoil(module: object, given: tuple, out: torch.Tensor) -> torch.Tensor:
        return out * torch.nan if out.shape[1] > 1 else out

    hook = block.register_forward_hook(spoil)
    try:
        with pytest.raises(UserError, match=r"logits that are not finite; try --dtype float32"):
            token_entropies(lm, random_sequences(100, [(3, 4)]))
    finally:
        hook.remove()


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(models, monkeypatch):
    lm = models["gpt2"]
    right = type(lm.model).forward

    def scaled(self, *args, **kwargs):
        out = right(self, *args, **kwargs)
        out.logits = out.logits / 8
        return out

    monkeypatch.setattr(type(lm.model), "forward", scaled)
    with pytest.raises(UserError, match=r"GPT2LMHeadModel changes the result of its output layer"):
        token_entropies(lm, random_sequences(100, [(3, 4)]))
