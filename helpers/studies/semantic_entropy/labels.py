"""What the answers of a run mean, whether they are right, and what its probes are to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import Grade, grade
from helpers.data.questions import Question
from helpers.evaluation.scores import best_split_threshold
from helpers.generation.records import Sample
from helpers.generation.samples import SampledAnswers
from helpers.meanings.judges import JudgeCounts, choose_judge, group_by_meaning
from helpers.probes.training import Targets
from helpers.progress import Progress
from helpers.store.cache import Store


@dataclass(frozen=True)
class Meanings:
    """What the answers mean and whether they are right, in the questions' order."""

    clusters: tuple[tuple[int, ...], ...]
    """The meaning of each sample, `[n][K]`, numbered from 0 in order of appearance."""
    grades: tuple[tuple[Grade, ...] | None, ...]
    """Grades of the samples, `[n][K]`; None for a question without a reference answer."""
    greedy_grades: tuple[Grade | None, ...]
    judge: str
    """The judge in words."""
    counts: JudgeCounts = field(default_factory=JudgeCounts)
    """What was asked of the judge now."""


def find_meanings(
    config: RunConfig, answers: SampledAnswers, store: Store, progress: Progress
) -> Meanings:
    """Group each question's answers by meaning, and grade them against the reference."""
    texts = [[s.text for s in row] for row in answers.samples]
    grades = [
        _grades(config, question, row)
        for question, row in zip(answers.questions, answers.samples, strict=True)
    ]
    greedy = [
        (_grades(config, question, [sample]) or (None,))[0]
        for question, sample in zip(answers.questions, answers.greedy, strict=True)
    ]
    equivalent, description, counts = choose_judge(config, store, validation_texts(answers))
    clusters = group_by_meaning(
        texts, [q.question for q in answers.questions], equivalent, description, store, progress,
        counts,
    )  # fmt: skip
    return Meanings(tuple(clusters), tuple(grades), tuple(greedy), description["judge"], counts)


def validation_texts(answers: SampledAnswers) -> list[list[str]]:
    """The sampled answers to each validation question."""
    rows = zip(answers.questions, answers.samples, strict=True)
    return [[s.text for s in row] for question, row in rows if question.split == "validation"]


def _grades(
    config: RunConfig, question: Question, samples: Sequence[Sample]
) -> tuple[Grade, ...] | None:
    if question.final_answer is None:
        return None
    return tuple(
        grade(s.text, s.finish_reason, question.final_answer, thinking_open=config.thinking)
        for s in samples
    )


def judge_counts(meanings: Meanings) -> dict[str, int]:
    """How many pairs the judge was asked and how many forward passes that took."""
    return asdict(meanings.counts)


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
