"""Hidden states: against a plain forward of one sequence at a time, at positions set by hand."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.errors import UserError
from helpers.hidden_states import capture as capture_module
from helpers.hidden_states.capture import Capture, capture
from helpers.hidden_states.positions import think_end_id
from helpers.models import forwards
from helpers.models.forwards import Backend, TokenSequence, batch_length
from helpers.models.loading import LanguageModel, decoder_blocks, load_language_model
from support.tiny_models import (
    ARCHITECTURES,
    END_THINK,
    N_LAYERS,
    WIDTH,
    byte_tokenizer,
    save_language_model,
)

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


def test_both_backends_give_the_same_bits_of_the_lab():
    lm = load_language_model("lab", device="cpu")
    texts = ["Question: How many apples has Anna?\nAnswer:", "Question: 3 + 4 =\nAnswer: 7"]
    sequences = [TokenSequence(tuple(lm.tokenizer(t)["input_ids"]), (5, CLOSE, 17)) for t in texts]
    found = [capture(lm, sequences, ("tbg", "think_end"), backend=b) for b in BACKENDS]
    assert same_bits(*found)
    for i, sequence in enumerate(sequences):
        at = len(sequence.prompt_ids) + 1
        np.testing.assert_allclose(
            found[1].hidden["think_end"][i], plain_states(lm, sequence)[:, at], rtol=0, atol=1e-4
        )


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


def test_a_trained_model_of_another_make(shared_data):
    lm = load_language_model(str(shared_data / "models" / "stories260k"), device="cpu")
    texts = ["Once upon a time there was a dog.", "Lily had 3 apples", "The sun"]
    sequences = []
    for text in texts:
        ids = tuple(lm.tokenizer(text)["input_ids"])
        sequences.append(TokenSequence(ids[:-2], ids[-2:]))
    found = capture(lm, sequences, ("tbg", "answer_mean"))
    for i, sequence in enumerate(sequences):
        states, n = plain_states(lm, sequence), len(sequence.prompt_ids)
        for name, span in (("tbg", (n - 1, n)), ("answer_mean", (n, n + 2))):
            np.testing.assert_allclose(
                found.hidden[name][i], expected_at(states, span), rtol=0, atol=1e-4
            )


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


def test_only_the_asked_positions_are_kept(lm, monkeypatch):
    sequences = random_sequences(7, len(lm.tokenizer))
    sizes, plain = [], capture_module._capture_batch

    def watch(*given):
        states = plain(*given)
        sizes.append(states.shape)
        return states

    monkeypatch.setattr(capture_module, "_capture_batch", watch)
    progress: list[tuple[int, int]] = []
    found = capture(
        lm, sequences, ("tbg", "answer_mean"), batch_tokens=120,
        progress=lambda n, tokens: progress.append((n, tokens)),
    )  # fmt: skip
    assert len(sizes) > 1
    assert {size[:1] + size[2:] for size in sizes} == {(2, N_LAYERS + 1, WIDTH)}
    assert [size[1] for size in sizes] == [n for n, _ in progress]
    assert sum(n for n, _ in progress) == 7
    assert sum(tokens for _, tokens in progress) == sum(len(s) for s in sequences)
    for states in found.hidden.values():
        assert states.shape == (7, N_LAYERS + 1, WIDTH)
        assert states.dtype == np.float32


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


def test_half_precision_states_come_as_float32(models):
    folder = models["llama"].identity.folder
    lm = load_language_model(str(folder), device="cpu", dtype="bfloat16")
    found = capture(lm, random_sequences(2, 100), ("tbg", "answer_mean"))
    assert lm.model.dtype == torch.bfloat16
    assert {states.dtype for states in found.hidden.values()} == {np.dtype(np.float32)}


def test_a_tokenizer_without_thinking_tags_has_no_end_of_thinking(models):
    assert think_end_id(models["llama"].tokenizer) == CLOSE
    for kwargs in ({}, {"unk_token": "<|end|>"}):
        plain = byte_tokenizer(("<|end|>",), eos_token="<|end|>", **kwargs)
        assert END_THINK not in plain.get_vocab()
        assert think_end_id(plain) is None
    lm = replace(models["llama"], tokenizer=plain)
    with pytest.raises(UserError, match=r"think_end: the tokenizer .* has no </think> token"):
        capture(lm, [TokenSequence((5,), (6,))], ("tbg", "think_end"))


ORDERS = {
    "nnsight first": "import_nnsight()\nimport marimo\n",
    "marimo first": "import marimo\nimport_nnsight()\n",
}


@pytest.mark.parametrize("order", ORDERS)
def test_nnsight_and_marimo_can_be_imported_in_either_order(order, root):
    program = (
        "from helpers.models.forwards import import_nnsight\n"
        + ORDERS[order]
        + "import marimo._server.asgi, os\n"
        "nnsight = import_nnsight()\n"
        "assert not hasattr(object(), 'save') and not hasattr([], 'save')\n"
        "assert 'NNSIGHT_CONFIG' not in os.environ\n"
        "assert marimo.App() is not None and callable(nnsight.save)\n"
        "print('both')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "both\n", done.stderr
