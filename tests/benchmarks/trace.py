"""States where the thinking closes, against one forward a run.

python tests/benchmarks/trace.py
"""

from __future__ import annotations

from functools import partial

import numpy as np

from helpers.data.questions import lab_questions
from helpers.generation.records import Decoding, Request
from helpers.generation.samples import encode_prompts, prompt_texts
from helpers.generation.sampling import generate
from helpers.hidden_states.capture import capture
from helpers.hidden_states.positions import think_end_id
from helpers.hidden_states.stored import BY_PROMPT
from helpers.models.forwards import TokenSequence
from helpers.models.loading import LanguageModel, decoder_blocks
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun
from helpers.studies.registry import make_config
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require
from tests.benchmarks.lab_inputs import lab_model

QUESTIONS = {"tiny": 3, "quick": 20, "full": 100}
K = 10
TOLERANCE = 1e-4
"""Largest difference of a state, whose entries are of the order of 1."""

Prompts = list[tuple[int, ...]]


def benchmark(size: str = "full") -> list[Comparison]:
    """Reading the states of a question's runs, and of those runs alone that think differently."""
    lm = lab_model()
    config = make_config("lab-think", device="cpu", dtype="float32")
    assert isinstance(config, ReasoningConfig)
    prompts, runs = thinking_runs(config, lm, QUESTIONS[size])
    close = think_end_id(lm.tokenizer)
    thoughts = [
        (prompt, run.token_ids[: run.token_ids.index(close)])
        for prompt, run in zip(prompts, runs, strict=True)
    ]
    first = [i for i, thought in enumerate(thoughts) if thoughts.index(thought) == i]
    found = []
    for title, rows in (("all runs", range(len(runs))), ("runs that think differently", first)):
        some, theirs = [runs[i] for i in rows], [prompts[i] for i in rows]
        ours(lm, theirs[:K], some[:K])
        rounds = in_turns(
            partial(one_by_one, lm, theirs, some),
            partial(ours, lm, theirs, some),
            ROUNDS[size],
            check,
        )
        found.append(
            Comparison(
                f"trace, {title}",
                "one forward a run, output_hidden_states=True",
                rounds,
                f"{len(some)} runs of {QUESTIONS[size]} lab questions, float32",
            )
        )
    return found


def thinking_runs(
    config: ReasoningConfig, lm: LanguageModel, n: int
) -> tuple[Prompts, list[ReasoningRun]]:
    """K runs of n lab questions that close their thinking, question by question."""
    questions = lab_questions(n, config.seed)
    texts = prompt_texts(config, [q.question for q in questions])
    ids = [tuple(p) for p in encode_prompts(config, lm, texts)]
    requests = [Request(q.id, p, tuple(range(K))) for q, p in zip(questions, ids, strict=True)]
    decoding = Decoding(config.temperature, config.top_p, config.max_new_tokens, config.seed)
    samples = {
        (s.question_id, s.sample_id): s
        for batch in generate(lm, requests, decoding, batch_size=250)
        for s in batch
    }
    close = think_end_id(lm.tokenizer)
    prompts, runs = [], []
    for question, prompt in zip(questions, ids, strict=True):
        for i in range(K):
            tokens = samples[question.id, i].token_ids
            if close in tokens:
                prompts.append(prompt)
                runs.append(
                    ReasoningRun(
                        question.id, i, "", "", "", None, None, tokens, (), (), "none",
                        (0, tokens.index(close)), "stop",
                    )
                )  # fmt: skip
    return prompts, runs


def one_by_one(lm: LanguageModel, prompts: Prompts, runs: list[ReasoningRun]) -> np.ndarray:
    """The naive way: `[n, layers + 1, width]`."""
    import torch

    close = think_end_id(lm.tokenizer)
    last: list = []
    _, blocks = decoder_blocks(lm.model)
    hook = blocks[-1].register_forward_hook(lambda *call: last.append(call[2]))
    found = []
    try:
        with torch.no_grad():
            for prompt, run in zip(prompts, runs, strict=True):
                ids = torch.tensor([[*prompt, *run.token_ids]])
                out = lm.model(input_ids=ids, use_cache=False, output_hidden_states=True)
                raw = last.pop()
                states = [*out.hidden_states[:-1], raw[0] if isinstance(raw, tuple) else raw]
                at = len(prompt) + len(run.token_ids) - 1 - run.token_ids[::-1].index(close)
                found.append(np.stack([layer[0, at].numpy() for layer in states]))
    finally:
        hook.remove()
    return np.stack(found)


def ours(lm: LanguageModel, prompts: Prompts, runs: list[ReasoningRun]) -> np.ndarray:
    """As a run of the study reads them, nothing stored."""
    sequences = [TokenSequence(p, run.token_ids) for p, run in zip(prompts, runs, strict=True)]
    companies = [
        sequences[start : start + BY_PROMPT.rows]
        for start in range(0, len(sequences), BY_PROMPT.rows)
    ]
    read = [
        capture(lm, some, ("think_end",), whole=BY_PROMPT.whole).hidden["think_end"]
        for some in companies
    ]
    return np.concatenate(read)


def check(reference: np.ndarray, found: np.ndarray) -> str:
    """The same states, within the tolerance."""
    require(reference.shape == found.shape, f"trace: shapes {reference.shape}, {found.shape}")
    off = float(np.abs(reference - found).max())
    require(off < TOLERANCE, f"trace: states differ by up to {off}")
    return f"states equal to {TOLERANCE:g}"


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="trace"))
