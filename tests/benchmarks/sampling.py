"""Sampling: batches over questions and samples against one generation a sample.

python tests/benchmarks/sampling.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.generation.records import GREEDY, Sample
from helpers.generation.sampling import generate, uniforms
from helpers.models.loading import LanguageModel
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require
from tests.benchmarks.lab_inputs import DECODING, AskedQuestion, K, ask, lab_model, requests

QUESTIONS = {"tiny": 2, "quick": 10, "full": 50}
BATCH_SIZE = 256
LOGPROB_TOLERANCE = 1e-4
"""Nats; a forward of another shape rounds differently."""

Answers = dict[tuple[str, int], tuple[tuple[int, ...], tuple[float, ...]]]
"""(question, sample) to token ids and log-probabilities."""


def benchmark(size: str = "full") -> list[Comparison]:
    """Sampling K answers and the most likely one of each question, in three ways."""
    lm, asked = lab_model(), ask(QUESTIONS[size])
    k = 2 if size == "tiny" else K
    every_sample(lm, asked[:1], k)
    generate_by_transformers(lm, asked[:1], 1)
    held = (
        f"{len(asked)} lab questions x ({k} samples + 1), float32, temperature 1, at most "
        f"{DECODING.max_new_tokens} tokens, loading not counted"
    )
    forwards = ForwardCounter(lm.model)
    rounds = in_turns(
        lambda: forwards.count("naive", lambda: one_at_a_time(lm, asked, k)),
        lambda: forwards.count("ours", lambda: every_sample(lm, asked, k)),
        ROUNDS[size],
        check,
    )
    against_transformers = in_turns(
        lambda: generate_by_transformers(lm, asked, k),
        lambda: every_sample(lm, asked, k),
        ROUNDS[size],
        None,
    )
    forwards.remove()
    counts = {f"forwards {name}": float(n) for name, n in forwards.counts.items()}
    return [
        Comparison(
            "sampling",
            "one answer at a time, one cached forward a token, the same random numbers",
            rounds, held, 8.0, counts,
        ),
        Comparison(
            "sampling, against transformers",
            "model.generate(do_sample=True) once a sample, its own random numbers",
            against_transformers, held, 8.0,
        ),
    ]  # fmt: skip


def every_sample(lm: LanguageModel, asked: list[AskedQuestion], k: int) -> Answers:
    """Ours: batches over questions and samples."""
    samples: list[Sample] = []
    for batch in generate(lm, requests(asked, k), DECODING, batch_size=BATCH_SIZE):
        samples.extend(batch)
    return {(s.question_id, s.sample_id): (s.token_ids, s.token_logprobs) for s in samples}


def one_at_a_time(lm: LanguageModel, asked: list[AskedQuestion], k: int) -> Answers:
    """The naive way: each answer alone, its prompt computed anew."""
    return {
        (a.id, sample_id): _one_answer(lm, a, sample_id)
        for a in asked
        for sample_id in range(GREEDY, k)
    }


def _one_answer(
    lm: LanguageModel, asked: AskedQuestion, sample_id: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    import torch

    draws = uniforms(DECODING.seed, asked.id, sample_id, DECODING.max_new_tokens)
    tokens: list[int] = []
    logprobs: list[float] = []
    fed, cache = torch.tensor([asked.prompt_ids]), None
    with torch.inference_mode():
        for draw in draws:
            out = lm.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            log_p = torch.log_softmax(out.logits[0, -1].double(), -1)
            if sample_id == GREEDY:
                token = int(log_p.argmax())
            else:
                cumulative = log_p.exp().cumsum(-1)
                at = torch.searchsorted(cumulative, float(draw) * cumulative[-1], right=True)
                token = min(int(at), len(cumulative) - 1)
            tokens.append(token)
            logprobs.append(float(log_p[token]))
            if token in lm.end_ids:
                break
            fed = torch.tensor([[token]])
    return tuple(tokens), tuple(logprobs)


def generate_by_transformers(lm: LanguageModel, asked: list[AskedQuestion], k: int) -> int:
    """Transformers' own loop, once a sample; returns the number of tokens."""
    import torch

    tokens = 0
    with torch.inference_mode():
        for a in asked:
            ids = torch.tensor([a.prompt_ids])
            for sample_id in range(GREEDY, k):
                out = lm.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=sample_id != GREEDY,
                    top_k=0 if sample_id != GREEDY else None,
                    max_new_tokens=DECODING.max_new_tokens,
                    pad_token_id=lm.pad_id,
                )
                tokens += out.shape[1] - ids.shape[1]
    return tokens


def check(naive: Answers, ours: Answers) -> str:
    """The same tokens, and log-probabilities within the tolerance."""
    require(naive.keys() == ours.keys(), "sampling: other questions or samples were answered")
    for key, (tokens, logprobs) in naive.items():
        found, found_logprobs = ours[key]
        require(tokens == found, f"sampling: answer {key} is {found}, naively {tokens}")
        off = float(np.abs(np.subtract(logprobs, found_logprobs)).max())
        require(off < LOGPROB_TOLERANCE, f"sampling: log-probabilities of {key} differ by {off}")
    return f"tokens equal, log-probabilities to {LOGPROB_TOLERANCE:g}"


class ForwardCounter:
    """Counts a module's forwards, by the name of the way that is at work."""

    def __init__(self, module: Any) -> None:
        self.counts: dict[str, int] = {}
        self._now = ""
        self._handle = module.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        if self._now:
            self.counts[self._now] += 1

    def count(self, name: str, work: Any) -> Any:
        """Run `work`, counting the forwards of this run alone under `name`."""
        self._now, self.counts[name] = name, 0
        try:
            return work()
        finally:
            self._now = ""

    def remove(self) -> None:
        """Stop counting."""
        self._handle.remove()


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="sampling"))
