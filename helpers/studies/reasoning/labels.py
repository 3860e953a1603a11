"""The labels of the runs: what each question's runs mean, and the table that probes learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from helpers.data.answers import answer_key
from helpers.evaluation.scores import best_split_threshold
from helpers.meanings.judges import choose_judge, group_by_meaning
from helpers.progress import Progress
from helpers.store.cache import Store
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun, RunTable
from helpers.studies.reasoning.runs import Runs, kept_questions, thinking_entropy
from helpers.uncertainty.entropies import semantic_entropy

# --- meanings ------------------------------------------------------------------------------------


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
    texts = [[run.answer for run in row] for row in valid]
    validation = [row for q, row in zip(questions, texts, strict=True) if q.split == "validation"]
    equivalent, description, counts = choose_judge(config, store, validation)
    whole = group_by_meaning(
        texts,
        [q.question for q in questions],
        equivalent,
        description,
        store,
        progress,
        counts,
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


@dataclass(frozen=True)
class ValidRuns:
    """The valid runs of the kept questions, question by question: the rows of the table."""

    runs: tuple[ReasoningRun, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    """The prompt of each run."""


def valid_runs(runs: Runs, meanings: StudyMeanings) -> ValidRuns:
    """The rows of the table, in the questions' order."""
    found, prompts = [], []
    for each in meanings.kept:
        by_id = {run.run_id: run for run in runs.runs[each.row]}
        found += [by_id[run_id] for run_id in each.run_ids]
        prompts += [runs.prompts[each.row].token_ids] * len(each.run_ids)
    return ValidRuns(tuple(found), tuple(prompts))


def make_table(
    config: ReasoningConfig, runs: Runs, meanings: StudyMeanings, valid: ValidRuns
) -> RunTable:
    """The labels of every valid run; both thresholds are chosen on the training questions."""
    kept = meanings.kept
    counts = [len(each.run_ids) for each in kept]
    questions = [runs.questions[each.row] for each in kept]
    final = np.array([each.final_entropy for each in kept])
    whole = np.array([each.whole_entropy for each in kept])
    label, other = (final, whole) if config.entropy_of == "final-answer" else (whole, final)
    train = np.array([q.split == "train" for q in questions], dtype=bool)
    threshold = best_split_threshold(label[train])
    median = float(np.median(label[train])) if train.any() else None

    def per_run(values: Sequence | np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(values), counts, axis=0)

    means = [thinking_entropy(run) for run in valid.runs]
    spans = [run.thinking_span or (0, 0) for run in valid.runs]
    return RunTable(
        question_id=per_run([q.id for q in questions]),
        run_id=np.array([run.run_id for run in valid.runs]),
        dataset=per_run([q.source for q in questions]),
        split=per_run([q.split for q in questions]),
        correct=np.array([np.nan if r.correct is None else float(r.correct) for r in valid.runs]),
        semantic_entropy=per_run(label),
        semantic_entropy_other=per_run(other),
        high=above(per_run(label), threshold),
        high_median=above(per_run(label), median),
        thinking_entropy=np.array([np.nan if mean is None else mean for mean in means]),
        thinking_tokens=np.array([end - start for start, end in spans]),
        answer_tokens=np.array(
            [
                len(run.token_ids) - (run.thinking_span[1] + 1 if run.thinking_span else 0)
                for run in valid.runs
            ]
        ),
        agreement=np.concatenate([agreement(each.final) for each in kept] or [np.zeros(0)]),
        threshold=threshold,
        threshold_median=median,
    )


def above(values: np.ndarray, threshold: float | None) -> np.ndarray:
    """1.0 where a value is above the threshold, else 0.0; NaN where there is no threshold."""
    return np.full(len(values), np.nan) if threshold is None else (values > threshold) * 1.0


def agreement(groups: Sequence[int]) -> np.ndarray:
    """For each run the share of the question's other runs in its group; NaN with no other.

    >>> agreement([0, 0, 1]).tolist()
    [0.5, 0.5, 0.0]
    """
    sizes = np.bincount(groups)[list(groups)]
    others = len(groups) - 1
    return (sizes - 1) / others if others else np.full(len(groups), np.nan)


def table_columns(table: RunTable) -> Mapping[str, np.ndarray]:
    """The table's arrays by name, for a Parquet file; unknown values are NaN."""
    return {name: value for name, value in vars(table).items() if isinstance(value, np.ndarray)}
