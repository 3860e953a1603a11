"""The study's scores as tables: every number of its figures, with intervals, p and reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from helpers.analyses.tables import change, p_value, reasons_of
from helpers.evaluation import Score
from helpers.figure_style import METRIC_NAMES
from helpers.report_tables import html_table
from helpers.studies.reasoning.figures import pair_title, splits_of, title_of
from helpers.studies.reasoning.notes import runs_and_questions
from helpers.studies.reasoning.panels import SPLIT_WORDS
from helpers.studies.reasoning.predictors import GIVES_CORRECT
from helpers.studies.reasoning.probes import CORRECTNESS, THINKING
from helpers.studies.reasoning.records import RunTable, StudyAssessment, StudyProbes
from helpers.studies.reasoning.scores import WITHIN

AS_ENTROPY = {CORRECTNESS: "correctness probe, sign turned", THINKING: "thinking entropy itself"}
"""What predicts high semantic entropy under a name that means another thing elsewhere."""
HEADS = METRIC_NAMES | {WITHIN: "AUROC within a question"}


def score_table(found: StudyAssessment, table: RunTable) -> str:
    """AUROC and average precision for a correct run of every predictor."""
    splits = splits_of(found.correctness)
    names = found.correctness[splits[0]] if splits else ()
    rows = [(title_of(name), [found.correctness[s][name] for s in splits]) for name in names]
    return _scores(rows, splits, ("auroc", "average_precision"), units(table, splits))


def within_table(found: StudyAssessment) -> str:
    """AUROC among the runs of one question of every predictor."""
    splits = splits_of(found.correctness)
    rows = [
        (title_of(name), [found.correctness[s][name] for s in splits])
        for name in (found.correctness[splits[0]] if splits else ())
    ]
    sizes = {s: max(row[WITHIN].n for row in found.correctness[s].values()) for s in splits}
    parts = [f"{n:,} runs {SPLIT_WORDS[split]}" for split, n in sizes.items()]
    note = (
        f"Of questions with both correct and incorrect runs: {', '.join(parts)}. 95 % intervals "
        "draw whole questions; p by dealing out the labels within each question."
    )
    return _scores(rows, splits, (WITHIN,), note)


def calibration_table(found: StudyAssessment) -> str:
    """Brier score and expected calibration error of every probability of a correct run."""
    splits = splits_of(found.correctness)
    rows = [
        (title_of(name), [found.correctness[s][name] for s in splits])
        for name in GIVES_CORRECT
        if all(name in found.correctness[s] for s in splits)
    ]
    note = (
        "Lower is better for both. Brier: mean squared error of the probability; ECE: mean gap "
        "between probability and observed share, over ten bins; p of the Brier score."
    )
    return _scores(rows, splits, ("brier", "ece"), note)


def _scores(
    rows: Sequence[tuple[str, Sequence[Mapping[str, Score]]]],
    splits: Sequence[str],
    metrics: Sequence[str],
    note: str,
) -> str:
    """A row for each predictor; for each split its metrics, the first with its p-value."""
    heads = ["", *(f"{HEADS[m]}, {SPLIT_WORDS[s]}" for s in splits for m in metrics)]
    lines: list[list[str]] = []
    shown: list[Score] = []
    for words, scores in rows:
        first, *others = metrics
        cells = [
            text
            for row in scores
            for text in (with_p(row[first]), *(level(row[metric]) for metric in others))
        ]
        lines.append([words, *cells])
        shown += [row[metric] for row in scores for metric in metrics]
    return html_table(heads, lines, note + reasons_of(shown))


def difference_table(found: StudyAssessment) -> str:
    """Every paired difference with its interval and two-sided p-value."""
    splits = splits_of(found.differences)
    pairs = found.differences[splits[0]] if splits else ()
    heads = ["AUROC difference", *(SPLIT_WORDS[split] for split in splits)]
    rows = [
        [pair_title(pair), *(_and_p(change(gap), gap) for gap in gaps)]
        for pair in pairs
        for gaps in [[found.differences[split][pair] for split in splits]]
    ]
    shown = (score for split in splits for score in found.differences[split].values())
    note = "Paired: both are scored on the same runs. p is two-sided, of single comparisons."
    return html_table(heads, rows, note + reasons_of(shown))


def high_entropy_table(found: StudyAssessment, table: RunTable) -> str:
    """How well high semantic entropy of the question is told, for two thresholds of *high*."""
    splits = splits_of(found.high_entropy)
    names = found.high_entropy[splits[0]] if splits else ()
    by_median = found.high_entropy_median.get(splits[0], {}) if splits else ()
    lines: list[tuple[str, list[Score]]] = [
        (
            f"{AS_ENTROPY.get(name, title_of(name))}{_above(table.threshold, 'best split')}",
            [found.high_entropy[split][name]["auroc"] for split in splits],
        )
        for name in names
    ]
    lines += [
        (
            f"{title_of(name)}{_above(table.threshold_median, 'median of train')}",
            [found.high_entropy_median[split][name] for split in splits],
        )
        for name in by_median
    ]
    heads = ["AUROC, high semantic entropy", *(SPLIT_WORDS[split] for split in splits)]
    note = (
        "Best split: the threshold of the training questions that leaves the least variance on "
        "either side; the probe was trained with it. With the median as threshold the same probe "
        f"is scored by another label. {units(table, splits)}"
    )
    rows = [[words, *(with_p(score) for score in scores)] for words, scores in lines]
    return html_table(heads, rows, note + reasons_of(s for _, scores in lines for s in scores))


def _above(threshold: float | None, words: str) -> str:
    value = "no threshold" if threshold is None else f"above {threshold:.2f} nats"
    return f"\n{value} ({words})"


def missing_probes(probes: StudyProbes) -> str:
    """Which probes could not be trained, and why; nothing where all could."""
    rows = [(title_of(name), reason) for name, reason in probes.undefined.items()]
    return html_table(("probe", "undefined, because"), rows) if rows else ""


def units(table: RunTable, splits: Iterable[str]) -> str:
    """How many runs of how many questions each split scores, and what its intervals are of."""
    sizes = {split: runs_and_questions(table, split) for split in splits}
    parts = [f"{n:,} runs of {q:,} questions {SPLIT_WORDS[s]}" for s, (n, q) in sizes.items()]
    return (
        f"Scored: {', '.join(parts)}. 95 % intervals draw whole questions; p of the AUROC, by "
        "dealing out the labels of whole questions."
    )


def level(score: Score) -> str:
    """A score with its interval, in no more room than a table has."""
    if score.value is None:
        return "undefined"
    if score.low is None or score.high is None:
        return f"{score.value:.3f} (no interval)"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def with_p(score: Score) -> str:
    """A score with its interval and, on a line of its own, its p-value."""
    return _and_p(level(score), score)


def _and_p(text: str, score: Score) -> str:
    return text if score.p_value is None else f"{text}\np = {p_value(score)}"
