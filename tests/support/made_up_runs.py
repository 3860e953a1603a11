"""Runs that never happened: records of made-up answers, as a stored run has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.answers import grade
from helpers.data.questions import Question
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers
from helpers.meanings.clustering import by_founder, by_text, mutual_entailment, verdicts
from helpers.studies.semantic_entropy.labels import Meanings, make_targets
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.uncertainty.entropies import Answers
from helpers.uncertainty.estimators import score_question

WORDS = ("{}", "{} apples", "there are {} apples", "about {} apples")


def made_up_run(n: int = 40, k: int = 5, *, seed: int = 0, error: float = 0.1) -> StoredRun:
    """Questions with known answers, some of them hard, and an NLI judge that errs at random.

    With `error` 0 the judge is right about every pair, and so transitive.
    """
    rng = np.random.default_rng(seed)
    splits = np.where(np.arange(n) % 2, "test", np.where(np.arange(n) % 4, "validation", "train"))
    questions, samples, greedy, judgements = [], [], [], np.zeros((n, k + 1, k + 1, 3), np.float32)
    for i in range(n):
        true, spread = int(rng.integers(5, 20)), int(rng.integers(0, 4))
        numbers = true + rng.integers(-spread, spread + 1, k + 1)
        texts = [WORDS[rng.integers(0, 4)].format(x) for x in numbers]
        judgements[i] = _judge(rng, texts, numbers, error)
        name = f"q{i}"
        words = f"How many, {i}?"
        questions.append(Question(name, words, str(true), str(true), str(splits[i]), "made up"))
        rows = [
            _sample(rng, name, s, text) for s, text in zip([*range(k), GREEDY], texts, strict=True)
        ]
        samples.append(tuple(rows[:k]))
        greedy.append(rows[k])
    ids = by_founder(mutual_entailment(verdicts(judgements[:, :k, :k])))
    answers = SampledAnswers(tuple(questions), tuple(samples), tuple(greedy), (), 0)
    return assemble(answers, tuple(map(tuple, ids.tolist())), judgements)


def assemble(
    answers: SampledAnswers, clusters: Any, judgements: np.ndarray | None, **config: Any
) -> StoredRun:
    """A stored run of these answers; `config` are the settings of its manifest."""
    grades = [
        [grade(s.text, s.finish_reason, q.final_answer or "") for s in (*row, best)]
        for q, row, best in zip(answers.questions, answers.samples, answers.greedy, strict=True)
    ]
    of_samples, of_greedy = tuple(tuple(g[:-1]) for g in grades), tuple(g[-1] for g in grades)
    meanings = Meanings(clusters, of_samples, of_greedy, "made-up judge")
    rows = [
        score_question(_known(row, c)) for row, c in zip(answers.samples, clusters, strict=True)
    ]
    uncertainty = {name: np.array([r[name] for r in rows], dtype=float) for name in rows[0]}
    return StoredRun(
        folder=Path("made-up"),
        manifest={"config": {"judge": "nli", "entailment": "strict", **config}},
        answers=answers,
        meanings=meanings,
        uncertainty=uncertainty,
        targets=make_targets(answers, meanings, uncertainty),
        predicted={},
        judgements=judgements,
    )


def _known(samples: tuple[Sample, ...], clusters: tuple[int, ...]) -> Answers:
    return Answers(
        texts=tuple(s.text for s in samples),
        clusters=tuple(clusters),
        sum_logprobs=tuple(float(np.sum(s.token_logprobs)) for s in samples),
        mean_logprobs=tuple(float(np.mean(s.token_logprobs)) for s in samples),
    )


def _judge(
    rng: np.random.Generator, texts: list[str], numbers: np.ndarray, error: float
) -> np.ndarray:
    said = rng.dirichlet([1, 1, 1], (len(texts), len(texts)))
    likeliest = np.where(numbers[:, None] == numbers, 2, 0)
    sure = rng.random(likeliest.shape) >= error
    said = np.where(sure[..., None], 0.9 * np.eye(3)[likeliest] + 0.1 * said, said)
    ids = by_text([texts])[0]
    first = (ids[:, None] == ids).argmax(1)
    said = said[first][:, first]  # verdicts are of texts
    said[ids[:, None] == ids] = (0, 0, 1)
    return said


def _sample(rng: np.random.Generator, question: str, number: int, text: str) -> Sample:
    tokens = int(rng.integers(2, 7))
    logprobs = tuple((-rng.exponential(0.7, tokens)).tolist())
    entropies = tuple(rng.random(tokens).tolist())
    return Sample(question, number, text, tuple(range(tokens)), logprobs, entropies, "stop")
