"""Seeded questions and curves, of which peer_numbers.json beside it has other packages' numbers.

The file says the version of each. lm-polygraph's estimators got the matrix of verdicts as the
statistics of its calculators; uqlm's SemanticClusterer got an NLI object that looks the verdicts
up. semantic-entropy-probes, semantic_uncertainty and Kuhn et al.'s code are scripts: the functions
of `semantic_entropy.py`, `eval_utils.py`, `get_semantic_similarities.py` and
`compute_confidence_measure.py` were taken out of their files and called with the same look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).with_name("peer_numbers.json")
SEED, QUESTIONS, CURVES = 0, 20, 6


@dataclass(frozen=True)
class Question:
    """Answers in their order, the most likely one last, with a verdict for every pair of texts."""

    texts: list[str]
    judgements: np.ndarray  # [K + 1, K + 1, 3]
    logprobs: np.ndarray  # [K + 1], summed over tokens
    lengths: np.ndarray  # [K + 1]

    @property
    def k(self) -> int:
        return len(self.texts) - 1

    @property
    def sampled(self) -> np.ndarray:
        """The verdicts on pairs of samples, `[K, K, 3]`."""
        return self.judgements[: self.k, : self.k]

    def judge(self, premise: str, hypothesis: str) -> np.ndarray:
        """P(contradiction), P(neutral), P(entailment)."""
        return self.judgements[self.texts.index(premise), self.texts.index(hypothesis)]

    def means(self) -> np.ndarray:
        return self.logprobs / self.lengths


def make_questions() -> list[Question]:
    """Random answers with repetitions, and random judges: intransitive, and unsure of themselves.

    Verdicts depend on the texts alone. Now and then a judge does not see that a text entails
    itself, which some packages ask.
    """
    rng = np.random.default_rng(SEED)
    questions = []
    for _ in range(QUESTIONS):
        k, distinct = int(rng.integers(2, 11)), int(rng.integers(1, 8))
        at = rng.integers(0, distinct, k + 1)
        lean = rng.choice([[1.0, 0.3, 1.0], [0.3, 0.3, 2.0], [0.5, 1.0, 0.7]])
        table = rng.dirichlet(lean, (distinct, distinct))
        for text in range(distinct):
            if rng.random() < 0.9:
                table[text, text] = [0.0, 0.0, 1.0]
        questions.append(
            Question(
                texts=[f"answer {text}" for text in at],
                judgements=table[at[:, None], at],
                logprobs=-rng.exponential(3.0, k + 1),
                lengths=rng.integers(1, 9, k + 1),
            )
        )
    return questions


def make_curves() -> list[tuple[np.ndarray, np.ndarray]]:
    """Which answers are right, and how uncertain each is: with ties, and once all right."""
    rng = np.random.default_rng(SEED + 1)
    curves = []
    for i in range(CURVES):
        n = int(rng.integers(20, 200))
        uncertainty = rng.integers(0, 8, n) / 4 if i % 2 else rng.random(n)
        right = (rng.random(n) < 1 - 0.3 * uncertainty).astype(float) if i else np.ones(n)
        curves.append((right, uncertainty))
    return curves
