"""What a run's probes are to predict, and which questions they may learn it from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from helpers.evaluation import best_split_threshold
from helpers.grading import Grade
from helpers.meanings import Meanings
from helpers.pipeline import SampledAnswers


class Splits(Protocol):
    """What fitting a probe needs to know of a table of rows: which are of which split."""

    @property
    def threshold(self) -> float | None:
        """γ, nats; None where there is none."""

    def rows(self, split: str, target: np.ndarray | None = None) -> np.ndarray:
        """Mask of a split's rows, of those only for which `target` is known."""


@dataclass(frozen=True)
class Targets:
    """What the probes predict, one entry a question, and the split of each question."""

    semantic_entropy: np.ndarray
    """`[n]`, nats."""
    threshold: float | None
    """γ, nats: semantic entropy above it is high. The best two-way split of train; None if flat."""
    high: np.ndarray
    """`[n]`, 1.0 where semantic entropy is above γ."""
    wrong: np.ndarray
    """`[n]`, 1.0 where the most likely answer is wrong, 0.0 right, NaN unanswered or ungradable."""
    splits: np.ndarray
    """`[n]`, "train", "validation" or "test"."""
    entropy_share: np.ndarray | None = None
    """`[n]`, semantic entropy as a share of ln K, its largest value with K samples."""
    wrong_share: np.ndarray | None = None
    """`[n]`, wrong samples among those that state an answer; NaN where none does."""

    def rows(self, split: str, target: np.ndarray | None = None) -> np.ndarray:
        """Mask of a split's questions, of those only for which `target` is known."""
        chosen = self.splits == split
        return chosen if target is None else chosen & ~np.isnan(target)


def make_targets(
    answers: SampledAnswers, meanings: Meanings, uncertainty: Mapping[str, np.ndarray]
) -> Targets:
    """The probes' targets; γ is chosen on the training questions."""
    entropy = uncertainty["semantic_entropy"]
    splits = np.array([q.split for q in answers.questions])
    threshold = best_split_threshold(entropy[splits == "train"])
    high = np.full(len(entropy), np.nan) if threshold is None else (entropy > threshold) * 1.0
    largest = np.log([len(row) for row in answers.samples])
    return Targets(
        entropy, threshold, high, wrong_answers(meanings), splits,
        entropy_share=np.clip(entropy / largest, 0.0, 1.0),
        wrong_share=np.array([_wrong_share(row) for row in meanings.grades], dtype=float),
    )  # fmt: skip


def wrong_answers(meanings: Meanings) -> np.ndarray:
    """Whether each most likely answer is wrong, `[n]`; NaN unanswered or ungradable."""
    known = [None if g is None else g.correct for g in meanings.greedy_grades]
    return np.array([np.nan if right is None else float(not right) for right in known])


def _wrong_share(grades: Sequence[Grade] | None) -> float:
    """Wrong samples among those that state an answer; NaN where none does."""
    known = [not g.correct for g in grades or () if g.correct is not None]
    return sum(known) / len(known) if known else np.nan
