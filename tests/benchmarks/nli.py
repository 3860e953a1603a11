"""Grouping by meaning: distinct pairs in waves and batches against one pair a forward.

python tests/benchmarks/nli.py
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from helpers.meanings.clustering import cluster_many
from helpers.meanings.judges import nli_judge
from helpers.models.loading import identify, load_classifier
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require
from tests.benchmarks.lab_inputs import AnsweredQuestion, K, answer

QUESTIONS = {"tiny": 3, "quick": 20, "full": 60}
CONFIG = make_config("lab")
FORWARDS_TARGET = 5.0
"""How many times fewer forwards ours takes at least."""


@dataclass
class Grouped:
    """The meaning of every sample, `[n][K]`, and what it took to find them."""

    clusters: list[list[int]] = field(default_factory=list)
    forwards: int = 0
    pairs: int = 0
    """Ordered pairs that went through the judge's model."""


def benchmark(size: str = "full") -> list[Comparison]:
    """Grouping the samples of lab questions by meaning."""
    answered = answer(QUESTIONS[size], 4 if size == "tiny" else K)
    one_pair_a_forward(answered[:1])
    in_waves(answered[:1])
    work: dict[str, Grouped] = {}

    def remembered(expected: Grouped, found: Grouped) -> str:
        work.update(naive=expected, ours=found)
        return check(expected, found)

    rounds = in_turns(
        lambda: one_pair_a_forward(answered),
        lambda: in_waves(answered),
        ROUNDS[size],
        remembered,
    )
    counts = {
        f"{what} {name}": float(getattr(work[name], what))
        for what in ("forwards", "pairs")
        for name in ("naive", "ours")
    }
    counts["times fewer forwards"] = work["naive"].forwards / max(1, work["ours"].forwards)
    return [
        Comparison(
            "NLI",
            "each answer with each founder in turn, both directions, one pair a forward",
            rounds,
            f"{len(answered)} lab questions x {len(answered[0].samples)} samples, the lab's "
            "judge in float32, strict rule; ours writes every verdict to a new store",
            8.0, counts, {"times fewer forwards": FORWARDS_TARGET},
        ),
    ]  # fmt: skip


def in_waves(answered: tuple[AnsweredQuestion, ...]) -> Grouped:
    """Ours: as a run does it, with an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            judge = nli_judge("lab", rule="strict", batch_size=CONFIG.judge_batch_size, store=store)
            texts = [[s.text for s in a.samples] for a in answered]
            contexts = [a.asked.question for a in answered]
            clusters = cluster_many(texts, judge.equivalent, contexts)
        finally:
            store.close()
    return Grouped(clusters, judge.counts.forwards, judge.counts.pairs - judge.counts.stored)


def one_pair_a_forward(answered: tuple[AnsweredQuestion, ...]) -> Grouped:
    """The naive way: greedy clustering against the founders, nothing remembered or spared."""
    ask = _Asker()
    for a in answered:
        founders: list[str] = []
        ids: list[int] = []
        for sample in a.samples:
            for cluster, founder in enumerate(founders):
                if ask.mean_the_same(founder, sample.text):
                    ids.append(cluster)
                    break
            else:
                ids.append(len(founders))
                founders.append(sample.text)
        ask.work.clusters.append(ids)
    return ask.work


class _Asker:
    """The lab's judge asked for one ordered pair at a time, without any of our judge's code."""

    def __init__(self) -> None:
        self.model, self.tokenizer = _classifier()
        self.entailment = int(self.model.config.label2id["entailment"])
        self.work = Grouped()

    def mean_the_same(self, a: str, b: str) -> bool:
        forward, backward = self._entails(a, b), self._entails(b, a)
        return forward and backward

    def _entails(self, premise: str, hypothesis: str) -> bool:
        import torch

        encoded = self.tokenizer(premise, hypothesis, return_tensors="pt")
        self.work.forwards += 1
        self.work.pairs += 1
        with torch.inference_mode():
            return int(self.model(**encoded).logits[0].argmax()) == self.entailment


@lru_cache(maxsize=1)
def _classifier() -> tuple[Any, Any]:
    """The lab's judge and its tokenizer."""
    return load_classifier(identify("lab", "judge"), "cpu")


def check(naive: Grouped, ours: Grouped) -> str:
    """The same meaning for every sample."""
    both = zip(naive.clusters, ours.clusters, strict=True)
    differ = [i for i, (expected, found) in enumerate(both) if expected != found]
    require(
        not differ,
        f"NLI: {len(differ)} of {len(naive.clusters)} questions are grouped otherwise: "
        + ", ".join(f"{i}: {ours.clusters[i]}, naively {naive.clusters[i]}" for i in differ[:3]),
    )
    samples = int(np.sum([len(row) for row in naive.clusters]))
    return f"meanings of {samples} samples equal"


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="nli"))
