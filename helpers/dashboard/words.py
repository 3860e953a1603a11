"""What each figure shows, in a sentence with its main numbers, for those who do not see it."""

from __future__ import annotations

import numpy as np

from helpers.analysis_file import AnalysisTable
from helpers.dashboard.scores import SelectionScores
from helpers.dashboard.signals import TITLES, Signal, class_names, of_class
from helpers.evaluation import Score
from helpers.figure_style import score_numbers

SHOWN_CLASSES = 6


def counted_runs(number: int) -> str:
    """How many runs there are, in words."""
    return f"{number:,} run" + ("" if number == 1 else "s")


def counted_questions(number: int) -> str:
    """How many questions there are, in words."""
    return f"{number:,} question" + ("" if number == 1 else "s")


def share_words(
    table: AnalysisTable, rows: np.ndarray, column: str, line: float, title: str, event: str
) -> str:
    """How many runs lie above a line, and how many of them are correct, above and below."""
    above = table[column][rows] > line
    parts = [
        f"{counted_runs(int(side.sum()))} {where} the line ({_correct(table, rows[side])})"
        for side, where in ((above, "above"), (~above, "below"))
    ]
    return (
        f"In words: of {counted_runs(len(rows))}, {parts[0]}, where the {title} calls {event} the "
        f"likelier, and {parts[1]}."
    )


def side_words(table: AnalysisTable, rows: np.ndarray, threshold: float | None) -> str:
    """What the semantic-entropy probe says on either side of the label's threshold."""
    given, entropy = table["probability_semantic_entropy"][rows], table["semantic_entropy"][rows]
    if threshold is None:
        return (
            f"In words: {counted_runs(len(rows))}; the probe's probability of high semantic "
            f"entropy is {_median(given)}."
        )
    high = entropy > threshold
    parts = [
        f"for {counted_runs(int(side.sum()))} of questions {where} the threshold "
        f"({threshold:.2f} nats) the probe's probability of high semantic entropy is "
        f"{_median(given[side])}"
        for side, where in ((high, "above"), (~high, "at or below"))
        if side.any()
    ]
    return f"In words: {'; '.join(parts)}."


def map_words(table: AnalysisTable, rows: np.ndarray, signal: Signal) -> str:
    """What colours the map, with its counts or its middle half."""
    if signal.kind == "class":
        names = class_names(table, signal.column)
        counts = [(int(of_class(table, signal.column, n)[rows].sum()), n) for n in names]
        shown = [f"{count:,} {name}" for count, name in counts[:SHOWN_CLASSES]]
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        said = ", ".join(shown) + more
    else:
        known = table[signal.column][rows]
        said = _median(known[np.isfinite(known)])
    return (
        f"In words: {counted_runs(len(rows))} on a plane where near points have similar hidden "
        f"states, coloured by {signal.title}: {said}."
    )


def scores_words(scores: SelectionScores, metric: str) -> str:
    """The scores of all predictors on the graded runs of a selection."""
    parts = [
        f"{TITLES[name]} {score_words(getattr(found, metric))}"
        for name, found in scores.by_predictor.items()
    ]
    names = {"auroc": "AUROC for correct", "aurc": "area under risk–coverage (lower is better)"}
    return f"In words: {names[metric]} on {graded_words(scores)}: {'; '.join(parts)}."


def graded_words(scores: SelectionScores) -> str:
    """How many runs a score is of, and how many are left out."""
    words = f"{scores.runs:,} graded run{'' if scores.runs == 1 else 's'}"
    words += f" of {counted_questions(scores.questions)}"
    if scores.left_out:
        words += f" ({scores.left_out:,} ungraded left out)"
    return words


def score_words(score: Score) -> str:
    """A score with its interval, or why it has none."""
    return f"undefined, because {score.undefined}" if score.value is None else score_numbers(score)


def _correct(table: AnalysisTable, rows: np.ndarray) -> str:
    """The share of correct runs among those that are graded."""
    graded = table["correct"][rows]
    graded = graded[np.isfinite(graded)]
    if not len(graded):
        return "none of them graded"
    return f"{100 * graded.mean():.0f} % of {len(graded):,} graded ones correct"


def _median(values: np.ndarray) -> str:
    """The middle of some values and their middle half."""
    if not len(values):
        return "not known"
    low, middle, high = np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75])
    digits = 0 if high >= 100 else 2
    return (
        f"{middle:,.{digits}f} in the median, half of them {low:,.{digits}f} to {high:,.{digits}f}"
    )
