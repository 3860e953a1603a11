"""What the valid runs of each question mean, by their final answers and by their whole answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from helpers.answers import answer_key
from helpers.datasets import Question
from helpers.meanings import choose_judge, group_by_meaning
from helpers.pipeline import SampledAnswers
from helpers.progress import Progress
from helpers.sampling import Sample
from helpers.store import Store
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.generation import Runs
from helpers.studies.reasoning.records import ReasoningRun
from helpers.studies.reasoning.runs import kept_questions
from helpers.uncertainty.entropies import semantic_entropy


@dataclass(frozen=True)
class QuestionMeanings:
    """The valid runs of one kept question and their groups."""

    row: int
    """The question's row."""
    run_ids: tuple[int, ...]
    final: tuple[int, ...]
    """The group of each run's final answer; runs that state none are one group."""
    whole: tuple[int, ...]
    """The group of each run's whole answer, by the judge."""
    final_entropy: float
    """Semantic entropy of the final answers, nats."""
    whole_entropy: float
    """Semantic entropy of the whole answers, nats."""


@dataclass(frozen=True)
class StudyMeanings:
    """The kept questions, in order, and what was asked of the judge now."""

    kept: tuple[QuestionMeanings, ...]
    judge: str
    """The judge in words."""
    work: dict[str, int]


def find_study_meanings(
    config: ReasoningConfig, runs: Runs, store: Store, progress: Progress
) -> StudyMeanings:
    """Group the valid runs of each question that has enough of them, in two ways."""
    rows = kept_questions(config, runs.questions, runs.runs)
    valid = [[run for run in runs.runs[i] if not run.excluded] for i in rows]
    questions = [runs.questions[i] for i in rows]
    equivalent, description, counts = choose_judge(config, _as_answers(questions, valid), store)
    whole = group_by_meaning(
        [[run.answer for run in row] for row in valid],
        [q.question for q in questions],
        equivalent,
        description,
        store,
        progress,
    )
    final = [group_final_answers([run.final_answer for run in row]) for row in valid]
    kept = tuple(
        QuestionMeanings(
            row=rows[j],
            run_ids=tuple(run.run_id for run in valid[j]),
            final=final[j],
            whole=tuple(whole[j]),
            final_entropy=semantic_entropy(final[j]),
            whole_entropy=semantic_entropy(whole[j]),
        )
        for j in range(len(rows))
    )
    return StudyMeanings(kept, description["judge"], asdict(counts))


def group_final_answers(answers: Sequence[str | None]) -> tuple[int, ...]:
    """Equal numbers, or equal texts, are one group; those that state nothing are one too.

    >>> group_final_answers(["0.5", "1/2", None, "2", None])
    (0, 0, 1, 2, 1)
    """
    numbers: dict[str | None, int] = {}
    keys = [None if answer is None else answer_key(answer) for answer in answers]
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)


def _as_answers(
    questions: Sequence[Question], valid: Sequence[Sequence[ReasoningRun]]
) -> SampledAnswers:
    """The whole answers as the main study's record, by which a judge's threshold is chosen."""
    samples = tuple(
        tuple(
            Sample(run.question_id, run.run_id, run.answer, (), (), (), run.finish_reason)
            for run in row
        )
        for row in valid
    )
    return SampledAnswers(tuple(questions), samples, (), (), 0)
