"""p(True) after solved examples: their keys and values computed once, against once a question.

python tests/benchmarks/p_true.py
"""

from __future__ import annotations

import numpy as np

from helpers.generation.option_logprobs import PromptCounts, next_log_probs
from helpers.models.loading import LanguageModel
from helpers.uncertainty.p_true import listed_answers, question_block
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require
from tests.benchmarks.lab_inputs import K, answer, lab_model

QUESTIONS = {"tiny": 3, "quick": 10, "full": 60}
EXAMPLES = {"tiny": 1, "quick": 10, "full": 10}
TOLERANCE = 1e-4
"""Nats."""

Prompts = list[tuple[int, ...]]


def benchmark(size: str = "full") -> list[Comparison]:
    """Log-probabilities of A and B after solved examples and a question."""
    lm = lab_model()
    prompts = few_shot_prompts(lm, QUESTIONS[size], EXAMPLES[size], 3 if size == "tiny" else K)
    letters = [lm.tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in "AB"]
    one_prompt_a_forward(lm, prompts[:1], letters)
    counts = PromptCounts()
    next_log_probs(lm, prompts, letters, counts)
    rounds = in_turns(
        lambda: one_prompt_a_forward(lm, prompts, letters),
        lambda: next_log_probs(lm, prompts, letters, PromptCounts()),
        ROUNDS[size],
        check,
    )
    work = {
        "forwards naive": float(len(prompts)),
        "forwards ours": float(counts.forwards),
        "tokens naive": float(counts.tokens_naive),
        "tokens ours, with padding": float(counts.tokens_computed),
    }
    # Only the time is of interest here: the lab's model was trained on shorter texts than these.
    held = (
        f"{len(prompts)} lab questions after {EXAMPLES[size]} solved examples, prompts of "
        f"{np.mean([len(p) for p in prompts]):.0f} tokens, float32"
    )
    naive = "each prompt whole, one a forward"
    return [Comparison("p(True)", naive, rounds, held, None, work)]


def few_shot_prompts(lm: LanguageModel, n: int, examples: int, k: int) -> Prompts:
    """The prompts of n questions, which share the same solved examples in front."""
    blocks = [
        question_block(
            a.asked.question, listed_answers(lm, [s.text for s in a.samples]), a.greedy.text
        )
        for a in answer(n + examples, k)
    ]
    solved = "".join(f"{block} {'AB'[i % 2]}\n\n" for i, block in enumerate(blocks[:examples]))
    return [
        tuple(ids) for ids in lm.tokenizer([solved + b for b in blocks[examples:]])["input_ids"]
    ]


def one_prompt_a_forward(lm: LanguageModel, prompts: Prompts, tokens: list[int]) -> np.ndarray:
    """The naive way."""
    import torch

    found = []
    with torch.inference_mode():
        for prompt in prompts:
            out = lm.model(input_ids=torch.tensor([prompt]), use_cache=False, logits_to_keep=1)
            found.append(out.logits[0, -1].double().log_softmax(-1)[tokens].numpy())
    return np.stack(found)


def check(naive: np.ndarray, found: np.ndarray) -> str:
    """The same log-probabilities of both letters after every prompt, within the tolerance."""
    require(naive.shape == found.shape, f"p(True): {found.shape} numbers, naively {naive.shape}")
    off = float(np.abs(naive - found).max())
    require(off < TOLERANCE, f"p(True): log-probabilities differ by up to {off} nats")
    return f"log-probabilities equal to {TOLERANCE:g} nats"


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="p_true"))
