"""Hidden states at named positions, against a bare forward and against keeping every position.

python tests/benchmarks/capture.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from helpers.hidden_states.capture import capture
from helpers.hidden_states.stored import IN_ORDER
from helpers.models.forwards import Backend, TokenSequence, batch_length
from helpers.models.loading import LanguageModel, decoder_blocks
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require
from tests.benchmarks.lab_inputs import AnsweredQuestion, answer, lab_model
from tests.benchmarks.live_tensors import watch

QUESTIONS = {"tiny": 4, "quick": 60, "full": 300}
POSITIONS = ("tbg", "answer_last", "answer_second_last", "answer_mean")
BATCH_TOKENS = 16_384
TOLERANCE = 1e-4
"""Largest difference of a state, whose entries are of the order of 1."""
MEMORY_TARGET = 20.0
"""How many times less memory ours takes at least, beyond that of a bare forward."""

States = dict[str, np.ndarray]
"""Position to `[n, layers + 1, width]`."""
Kept = dict[int, list[np.ndarray]]
"""Sequence to its states at all tokens, `[tokens, width]` for each of layers + 1."""


def benchmark(size: str = "full") -> list[Comparison]:
    """Reading hidden states of prompts with their most likely answers."""
    lm = lab_model()
    sequences = [_sequence(a) for a in answer(QUESTIONS[size], 1)]
    reference = at_positions(lm, sequences, keep_everything(lm, sequences))
    at_named_positions(lm, sequences[:2])
    held = (
        f"{len(sequences)} lab prompts with their answers, float32, the same batches of "
        f"at most {IN_ORDER.rows} sequences"
    )
    against_bare = in_turns(
        lambda: bare_forward(lm, sequences),
        lambda: at_named_positions(lm, sequences),
        ROUNDS[size],
        lambda _, ours: check(reference, ours),
    )
    against_all = in_turns(
        lambda: at_positions(lm, sequences, keep_everything(lm, sequences)),
        lambda: at_named_positions(lm, sequences),
        ROUNDS[size],
        check,
    )
    at_named_positions(lm, sequences[:2], "plain")
    by_hooks = in_turns(
        lambda: at_named_positions(lm, sequences),
        lambda: at_named_positions(lm, sequences, "plain"),
        ROUNDS[size],
        check_bits,
    )
    memory = memory_counts(lm, sequences)
    # A single batch's activations hide what is kept; over many batches only what is kept grows.
    targets = {"times less memory": MEMORY_TARGET} if size == "full" else {}
    return [
        Comparison(
            "capture, against a bare forward",
            "the decoder alone, nothing kept; a ratio of 0.77 is 1.3 times its time",
            against_bare, held, 1 / 1.3,
        ),
        Comparison(
            "capture, against all positions",
            "output_hidden_states=True, every position of every layer kept",
            against_all, held, None,
            memory, targets,
        ),
        Comparison(
            "capture, by plain hooks",
            "capture through nnsight, as usual; ours is the same with forward hooks",
            by_hooks, held,
        ),
    ]  # fmt: skip


def _sequence(answered: AnsweredQuestion) -> TokenSequence:
    return TokenSequence(answered.asked.prompt_ids, answered.greedy.token_ids)


def at_named_positions(
    lm: LanguageModel, sequences: list[TokenSequence], backend: Backend = "nnsight"
) -> States:
    """Ours, in the chunks of a run."""
    parts = [
        capture(lm, chunk, POSITIONS, batch_tokens=BATCH_TOKENS, backend=backend).hidden
        for chunk in _chunks(sequences)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in POSITIONS}


def bare_forward(lm: LanguageModel, sequences: list[TokenSequence]) -> None:
    """The decoder over the same batches, its output thrown away."""
    import torch

    with torch.no_grad():
        for _, inputs in _batches(lm, sequences):
            lm.model.base_model(**inputs, use_cache=False)


def keep_everything(lm: LanguageModel, sequences: list[TokenSequence]) -> Kept:
    """The naive way: the states of all tokens of all layers."""
    import torch

    last: list[Any] = []
    _, blocks = decoder_blocks(lm.model)
    # The last of `hidden_states` is after the final norm; what the block gave is caught here.
    hook = blocks[-1].register_forward_hook(lambda *call: last.append(call[2]))
    kept: Kept = {}
    try:
        with torch.no_grad():
            for rows, inputs in _batches(lm, sequences):
                out = lm.model.base_model(**inputs, use_cache=False, output_hidden_states=True)
                raw = last.pop()
                states = [*out.hidden_states[:-1], raw[0] if isinstance(raw, tuple) else raw]
                for at, row in enumerate(rows):
                    kept[row] = [layer[at].numpy() for layer in states]
                del out, raw, states  # not to be counted while the next batch runs
    finally:
        hook.remove()
    return kept


def at_positions(lm: LanguageModel, sequences: list[TokenSequence], kept: Kept) -> States:
    """The named positions out of states at all tokens, by their definitions."""
    found: dict[str, list[list[np.ndarray]]] = {name: [] for name in POSITIONS}
    for row, sequence in enumerate(sequences):
        start = len(sequence.prompt_ids)
        answer_ids = [t for t in sequence.answer_ids if t not in lm.end_ids]
        last = start + len(answer_ids) - 1
        found["tbg"].append([layer[start - 1] for layer in kept[row]])
        found["answer_last"].append([layer[last] for layer in kept[row]])
        found["answer_second_last"].append([layer[max(start - 1, last - 1)] for layer in kept[row]])
        found["answer_mean"].append(
            [layer[min(start, last) : last + 1].mean(0) for layer in kept[row]]
        )
    return {name: np.stack(rows) for name, rows in found.items()}


def _batches(lm: LanguageModel, sequences: list[TokenSequence]) -> Iterator[tuple[list[int], Any]]:
    """The batches that `capture` makes: longest first, at most so many tokens with padding.

    Padding is on the right, where a causal model never looks, so that no mask is needed.
    """
    import torch

    sizes = [len(s.prompt_ids) + len(s.answer_ids) for s in sequences]
    for chunk in _chunks(range(len(sequences))):
        order = sorted(chunk, key=lambda i: -sizes[i])
        while order:
            fits = batch_length([sizes[i] for i in order], BATCH_TOKENS)
            rows, order = order[:fits], order[fits:]
            ids = torch.full((len(rows), sizes[rows[0]]), lm.pad_id)
            for at, row in enumerate(rows):
                tokens = [*sequences[row].prompt_ids, *sequences[row].answer_ids]
                ids[at, : len(tokens)] = torch.tensor(tokens)
            yield rows, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _chunks(rows: Any) -> list[Any]:
    return [rows[start : start + IN_ORDER.rows] for start in range(0, len(rows), IN_ORDER.rows)]


def memory_counts(lm: LanguageModel, sequences: list[TokenSequence]) -> dict[str, float]:
    """Most bytes alive at once beyond those of a bare forward, in both ways, and the ratio."""
    bare = watch(lambda: bare_forward(lm, sequences)).peak
    everything = watch(lambda: keep_everything(lm, sequences)).peak - bare
    ours = watch(lambda: at_named_positions(lm, sequences))
    # The result is made of numpy arrays, of which torch's count has none.
    results = sum(states.nbytes for states in ours.result.values())
    extra = ours.peak + results - bare
    return {
        "MB beyond a bare forward, all positions": everything / 1e6,
        "MB beyond a bare forward, ours": extra / 1e6,
        "MB of the result": results / 1e6,
        "times less memory": everything / max(1, extra),
    }


def check(reference: States, ours: States) -> str:
    """The same states at every position and layer, within the tolerance."""
    require(reference.keys() == ours.keys(), f"capture: positions are {sorted(ours)}")
    for name, expected in reference.items():
        require(expected.shape == ours[name].shape, f"capture: {name} is {ours[name].shape}")
        off = float(np.abs(expected - ours[name]).max())
        require(off < TOLERANCE, f"capture: states at {name} differ by up to {off}")
    return f"states equal to {TOLERANCE:g}"


def check_bits(by_nnsight: States, by_hooks: States) -> str:
    """The same bits at every position and layer."""
    for name, expected in by_nnsight.items():
        same = expected.tobytes() == by_hooks[name].tobytes()
        require(same, f"capture: nnsight and hooks differ at {name}")
    return "states equal to the bit"


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="capture"))
