"""Hidden states: against a plain forward of one sequence at a time, at positions set by hand."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.data.questions import lab_questions
from helpers.errors import UserError
from helpers.generation.records import Decoding, Request
from helpers.generation.samples import encode_prompts, prompt_texts
from helpers.generation.sampling import generate
from helpers.hidden_states import capture as capture_module
from helpers.hidden_states.capture import Capture, capture, think_end_id, token_entropies
from helpers.models import forwards, loading
from helpers.models.forwards import TRACING, Backend, TokenSequence, batch_length
from helpers.models.loading import LanguageModel, decoder_blocks, load_language_model
from helpers.studies.registry import make_config
from support.tiny_models import (
    ARCHITECTURES,
    END_THINK,
    N_LAYERS,
    WIDTH,
    byte_tokenizer,
    random_model,
    save_language_model,
)
from tests.benchmarks.live_tensors import watch

END, CLOSE = 0, 2  # <|end|> and </think> of the byte tokenizer
POSITIONS = ("tbg", "answer_last", "answer_second_last", "answer_mean", "think_end")
BACKENDS: tuple[Backend, ...] = ("nnsight", "plain")

# Per position: the span of token indices, and whether an earlier token stands in.
BY_HAND = [
    (
        TokenSequence((50, 51, 52, 53), (60, 61, 62)),
        {"tbg": (3, 4), "answer_last": (6, 7), "answer_second_last": (5, 6), "answer_mean": (4, 7),
         "think_end": (6, 7)},
        {"think_end"},
    ),
    (  # the end token is no part of the answer
        TokenSequence((50, 51, 52), (60, 61, END)),
        {"tbg": (2, 3), "answer_last": (4, 5), "answer_second_last": (3, 4), "answer_mean": (3, 5),
         "think_end": (4, 5)},
        {"think_end"},
    ),
    (  # one token: the last prompt token stands in for the second last
        TokenSequence((70, 71), (80, END)),
        {"tbg": (1, 2), "answer_last": (2, 3), "answer_second_last": (1, 2), "answer_mean": (2, 3),
         "think_end": (2, 3)},
        {"answer_second_last", "think_end"},
    ),
    (  # nothing was said
        TokenSequence((70, 71, 72, 73, 74), (END,)),
        {name: (4, 5) for name in POSITIONS},
        {"answer_last", "answer_second_last", "answer_mean", "think_end"},
    ),
    (
        TokenSequence((90,), ()),
        {name: (0, 1) for name in POSITIONS},
        {"answer_last", "answer_second_last", "answer_mean", "think_end"},
    ),
    (  # thinking closed twice, and once in the prompt: the last in the answer counts
        TokenSequence((50, CLOSE, 51), (60, CLOSE, 61, CLOSE, 62, 63, END)),
        {"tbg": (2, 3), "answer_last": (8, 9), "answer_second_last": (7, 8), "answer_mean": (3, 9),
         "think_end": (6, 7)},
        set(),
    ),
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LanguageModel]:
    folder = tmp_path_factory.mktemp("language-models")
    paths = {name: save_language_model(name, folder / name) for name in ARCHITECTURES}
    return {name: load_language_model(str(path), device="cpu") for name, path in paths.items()}


@pytest.fixture(params=ARCHITECTURES)
def lm(request, models) -> LanguageModel:
    return models[request.param]


def random_sequences(n: int, vocabulary: int, longest: int = 30) -> list[TokenSequence]:
    rng = np.random.default_rng(5)
    sequences = []
    for _ in range(n):
        prompt, answer = rng.integers(1, longest), rng.integers(0, longest)
        ids = rng.integers(3, vocabulary, prompt + answer).tolist()
        ending = [END] if rng.random() < 0.5 else []
        sequences.append(TokenSequence(tuple(ids[:prompt]), (*ids[prompt:], *ending)))
    return sequences


def plain_states(lm: LanguageModel, sequence: TokenSequence) -> np.ndarray:
    """States of one sequence by transformers itself, `[layers + 1, tokens, width]`.

    Its last entry is after the final norm, so the last block's output comes from a hook.
    """
    kept = []
    _, blocks = decoder_blocks(lm.model)
    hook = blocks[-1].register_forward_hook(lambda module, given, out: kept.append(out))
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.answer_ids]])
    with torch.no_grad():
        out = lm.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    hook.remove()
    last = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    return torch.cat([*out.hidden_states[:-1], last]).numpy()


def expected_at(states: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    return states[:, span[0] : span[1]].mean(1)


def assert_same(a: Capture, b: Capture) -> None:
    for name, states in a.hidden.items():
        np.testing.assert_allclose(states, b.hidden[name], rtol=0, atol=1e-4)
        assert (a.stand_ins[name] == b.stand_ins[name]).all()
    assert (a.token_embedding == b.token_embedding).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_are_those_set_by_hand_and_states_those_of_a_plain_forward(lm, backend):
    found = capture(lm, [sequence for sequence, _, _ in BY_HAND], POSITIONS, backend=backend)
    for i, (sequence, spans, stand_ins) in enumerate(BY_HAND):
        states = plain_states(lm, sequence)
        assert states.std() > 0.1
        for name in POSITIONS:
            np.testing.assert_allclose(
                found.hidden[name][i], expected_at(states, spans[name]), rtol=0, atol=1e-4
            )
            assert found.stand_ins[name][i] == (name in stand_ins)


def same_bits(a: Capture, b: Capture) -> bool:
    return all(a.hidden[name].tobytes() == b.hidden[name].tobytes() for name in a.hidden | b.hidden)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_backends_give_the_same_bits(lm, dtype):
    lm = load_language_model(str(lm.identity.folder), device="cpu", dtype=dtype)
    sequences = random_sequences(8, len(lm.tokenizer))
    for asked in ({}, {"deepest_layer": 0}, {"layers": (0, 2)}, {"layers": (N_LAYERS,)}):
        by_nnsight = capture(lm, sequences, POSITIONS, batch_tokens=90, **asked)
        by_hooks = capture(lm, sequences, POSITIONS, batch_tokens=90, backend="plain", **asked)
        assert same_bits(by_nnsight, by_hooks)
        assert by_hooks.hidden["tbg"].std() > 0.1
        assert by_hooks.hidden["tbg"].dtype == np.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_stays_hooked(models, backend):
    lm = models["qwen3"]

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())

    capture(lm, random_sequences(2, 100), ("tbg",), backend=backend)
    before = hooks()
    capture(lm, random_sequences(3, 100), ("tbg",), backend=backend, deepest_layer=1)
    broken = lm.model.get_input_embeddings().register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        capture(lm, random_sequences(2, 100), ("tbg",), backend=backend)
    broken.remove()
    assert hooks() == before


def packed(sizes: list[int], budget: int) -> list[list[int]]:
    """The batches, as sizes, that sequences of these sizes make."""
    sizes, found = sorted(sizes, reverse=True), []
    while sizes:
        n = batch_length(sizes, budget)
        assert n >= 1
        found.append(sizes[:n])
        sizes = sizes[n:]
    return found


@pytest.mark.parametrize("budget", [50, 1000, 16_384, 10**9])
def test_padding_is_less_than_half_of_every_batch_and_the_budget_is_kept(budget):
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.uniform(np.log(100), np.log(20_000), 400)).astype(int).tolist()
    batches = packed(sizes, budget)
    assert sorted(s for batch in batches for s in batch) == sorted(sizes)
    for batch in batches:
        padded = len(batch) * batch[0]
        assert padded <= budget or len(batch) == 1
        assert padded < 2 * sum(batch)
    # No batch ends early for another reason: the next sequence would not fit, or be too short.
    for batch, after in itertools.pairwise(batches):
        assert (len(batch) + 1) * batch[0] > budget or 2 * after[0] < batch[0]


def test_batches_run_as_they_are_packed_longest_first(lm, monkeypatch):
    sizes = [20, 3, 60, 31, 29, 90, 7]
    sequences = [TokenSequence((5,) * (n - 1), (6,)) for n in sizes]
    ran, right = [], capture_module._capture_batch

    def watch(lm, sequences, *more):
        ran.append([len(s) for s in sequences])
        return right(lm, sequences, *more)

    monkeypatch.setattr(capture_module, "_capture_batch", watch)
    capture(lm, sequences, ("tbg",), batch_tokens=80)
    # 90 is over the budget and runs alone; 31 and 29 fit together; 7 is less than half of 20.
    assert ran == [[90], [60], [31, 29], [20], [7], [3]]
    ran.clear()
    capture(lm, sequences, ("tbg",), batch_tokens=10_000)
    assert ran == [[90, 60], [31, 29, 20], [7], [3]]


def test_batches_padding_and_budget_change_nothing(lm):
    sequences = random_sequences(9, len(lm.tokenizer))
    whole = capture(lm, sequences, POSITIONS)
    assert_same(capture(lm, sequences, POSITIONS, batch_tokens=1), whole)
    assert_same(capture(lm, sequences, POSITIONS, batch_tokens=100), whole)
    backwards = capture(lm, sequences[::-1], ("tbg",)).hidden["tbg"][::-1]
    np.testing.assert_allclose(backwards, whole.hidden["tbg"], rtol=0, atol=1e-4)
    for i, sequence in enumerate(sequences):
        states = plain_states(lm, sequence)
        tbg = len(sequence.prompt_ids) - 1
        np.testing.assert_allclose(whole.hidden["tbg"][i], states[:, tbg], rtol=0, atol=1e-4)


def test_the_token_embedding_knows_no_position(models):
    lm = models["gpt2"]
    sequences = [TokenSequence((9,) * n, (4,)) for n in (1, 7, 20)]
    found = capture(lm, sequences, ("tbg",))
    table = lm.model.transformer.wte.weight.detach().numpy()
    assert (found.token_embedding == table[[9, 9, 9]]).all()
    assert np.abs(np.diff(found.hidden["tbg"][:, 0], axis=0)).max() > 0.1  # learned positions


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_forward_stops_after_the_deepest_layer(lm, backend):
    sequences = [TokenSequence((9,) * n, (8, 7, 6)) for n in (12, 9, 8, 14)]  # one batch
    whole = capture(lm, sequences, POSITIONS)
    _, blocks = decoder_blocks(lm.model)
    ran = [0] * N_LAYERS

    def count(layer: int):
        def hook(*_: object) -> None:
            ran[layer] += 1

        return hook

    hooks = [block.register_forward_hook(count(i)) for i, block in enumerate(blocks)]
    hooks.append(lm.model.get_output_embeddings().register_forward_hook(count(0)))
    for depth in (1, 2, 3):
        ran[:] = [0] * N_LAYERS
        found = capture(lm, sequences, POSITIONS, deepest_layer=depth, backend=backend)
        # The last asked block may or may not return before the stop; none after it starts, and
        # the vocabulary is never computed.
        assert ran[depth:] == [0] * (N_LAYERS - depth)
        assert ran[: depth - 1] == [1] * (depth - 1)
        assert sum(ran) <= depth
        for name, states in found.hidden.items():
            np.testing.assert_allclose(
                states, whole.hidden[name][:, : depth + 1], rtol=0, atol=1e-4
            )
    for hook in hooks:
        hook.remove()


def test_only_the_asked_layers_are_kept_and_none_below_them_runs(lm):
    sequences = random_sequences(6, len(lm.tokenizer))
    whole = capture(lm, sequences, POSITIONS)
    _, blocks = decoder_blocks(lm.model)
    ran: list[int] = []
    hook = blocks[2].register_forward_pre_hook(lambda *_: ran.append(2))
    for layers in ((0,), (2,), (2, 0), (1, 2)):
        found = capture(lm, sequences, POSITIONS, layers=layers, batch_tokens=90)
        for name, states in found.hidden.items():
            assert states.shape == (6, len(layers), WIDTH)
            np.testing.assert_allclose(
                states, whole.hidden[name][:, sorted(layers)], rtol=0, atol=1e-4
            )
    hook.remove()
    assert ran == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_halves_the_batch_and_changes_nothing(models, monkeypatch, backend):
    lm = models["llama"]
    sequences = [TokenSequence((9,) * (12 + n), (8, 7, 6)) for n in range(9)]  # one batch
    whole = capture(lm, sequences, POSITIONS)
    limit, rows = 2, []
    _, blocks = decoder_blocks(lm.model)

    def refuse(module: object, given: tuple) -> None:
        rows.append(len(given[0]))
        if len(given[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = blocks[1].register_forward_pre_hook(refuse)
    monkeypatch.setattr(forwards, "free_memory", lambda _: None)
    try:
        assert_same(capture(lm, sequences, POSITIONS, backend=backend), whole)
        assert rows[:3] == [9, 4, 2]
        limit = 0
        with pytest.raises(UserError, match=r"out of memory .* single sequence of \d+ tokens"):
            capture(lm, sequences, POSITIONS, backend=backend)
    finally:
        hook.remove()


def test_states_that_are_not_finite_are_an_error(models):
    lm = models["qwen3"]
    _, blocks = decoder_blocks(lm.model)
    hook = blocks[1].register_forward_hook(lambda module, given, out: out * torch.nan)
    try:
        with pytest.raises(UserError, match=r"not finite; try --dtype float32"):
            capture(lm, random_sequences(2, 100), ("tbg",))
    finally:
        hook.remove()


def test_a_tokenizer_without_thinking_tags_has_no_end_of_thinking(models):
    assert think_end_id(models["llama"].tokenizer) == CLOSE
    for kwargs in ({}, {"unk_token": "<|end|>"}):
        plain = byte_tokenizer(("<|end|>",), eos_token="<|end|>", **kwargs)
        assert END_THINK not in plain.get_vocab()
        assert think_end_id(plain) is None
    lm = replace(models["llama"], tokenizer=plain)
    with pytest.raises(UserError, match=r"think_end: the tokenizer .* has no </think> token"):
        capture(lm, [TokenSequence((5,), (6,))], ("tbg", "think_end"))


@pytest.mark.parametrize(
    "imports",
    [
        "import_nnsight()\nimport marimo",
        # As in the application; sentence-transformers draws in IPython then, where there is one.
        "import marimo\nimport_nnsight()\nfrom helpers.meanings.judges import deny_jupyter\n"
        "deny_jupyter()\nimport sentence_transformers",
    ],
    ids=["nnsight first", "marimo first"],
)
def test_nnsight_and_marimo_can_be_imported_in_either_order(imports, root):
    program = (
        f"from helpers.models.forwards import import_nnsight\n{imports}\n"
        "import marimo._server.asgi, os\n"
        "nnsight = import_nnsight()\n"
        "assert not hasattr(object(), 'save') and not hasattr([], 'save')\n"
        "assert 'NNSIGHT_CONFIG' not in os.environ\n"
        "assert marimo.App() is not None and callable(nnsight.save)\n"
        "print('both')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout == "both\n", done.stderr


# --- entropies by one forward --------------------------------------------------------------------


def sequences_of(vocabulary: int, lengths: list[tuple[int, int]]) -> list[TokenSequence]:
    rng = np.random.default_rng(2)
    return [
        TokenSequence(
            tuple(rng.integers(3, vocabulary, prompt).tolist()),
            tuple(rng.integers(0, vocabulary, answer).tolist()),
        )
        for prompt, answer in lengths
    ]


LENGTHS = [(1, 1), (4, 30), (30, 2), (5, 0), (60, 36), (7, 9)]


def all_logits(lm: LanguageModel, sequence: TokenSequence) -> tuple[np.ndarray, np.ndarray]:
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
    sequences = sequences_of(len(lm.tokenizer), LENGTHS)
    expected = [all_logits(lm, s) for s in sequences]
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
    sequences = sequences_of(1000, [(4, 30)] * 3)
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
    sequences = sequences_of(len(lm.tokenizer), LENGTHS)
    before = token_entropies(lm, sequences)
    capture(lm, sequences, ("tbg",))
    with TRACING:
        after = token_entropies(lm, sequences)
    assert [b.entropies.tobytes() for b in before] == [a.entropies.tobytes() for a in after]


def test_logits_that_are_not_finite_are_an_error(models):
    lm = models["qwen3"]
    block = loading.decoder_blocks(lm.model)[1][1]

    def spoil(module: object, given: tuple, out: torch.Tensor) -> torch.Tensor:
        return out * torch.nan if out.shape[1] > 1 else out

    hook = block.register_forward_hook(spoil)
    try:
        with pytest.raises(UserError, match=r"logits that are not finite; try --dtype float32"):
            token_entropies(lm, sequences_of(100, [(3, 4)]))
    finally:
        hook.remove()


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(models, monkeypatch):
    lm = models["gpt2"]
    right = lm.model.forward

    def scaled(*args, **kwargs):
        out = right(*args, **kwargs)
        out.logits = out.logits / 8
        return out

    monkeypatch.setattr(lm.model, "forward", scaled)
    with pytest.raises(UserError, match=r"GPT2LMHeadModel changes the result of its output layer"):
        token_entropies(lm, sequences_of(100, [(3, 4)]))
