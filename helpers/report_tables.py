"""The tables of a run as HTML, and one question with all there is to know of it.

Everything that came from a model, a file or a reference answer is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from helpers.datasets import Question
from helpers.evaluation import Score
from helpers.figure_style import METRIC_NAMES
from helpers.meanings import Meanings
from helpers.pipeline import SampledAnswers
from helpers.probe_training import TrainedProbes
from helpers.run import Run
from helpers.stored_states import HiddenStates
from helpers.summary import cell, named, probe_title, signed
from helpers.targets import wrong_answers
from helpers.uncertainty import ESTIMATORS

POSITION_WORDS = {
    "tbg": "last token of the prompt, before anything is generated",
    "answer_last": "last token of the answer that does not end the text",
    "answer_second_last": "the token before that",
    "answer_mean": "mean over the answer's tokens",
    "think_end": "the token that closes the thinking",
}

_MUTED = "color:var(--muted-foreground,#777)"
_CELL = "padding:0.3rem 1.2rem 0.3rem 0;vertical-align:top;text-align:left"
_LINE = "border-bottom:1px solid rgba(128,128,128,0.25)"


def html_table(heads: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """An HTML table of anyone's texts, all escaped; it scrolls sideways where it is too wide."""
    head = "".join(f'<th style="{_CELL};{_LINE};{_MUTED}">{_safe(h)}</th>' for h in heads)
    body = "".join(f"<tr>{''.join(_table_cell(c) for c in row)}</tr>" for row in rows)
    below = f'<div style="{_MUTED};margin-top:0.4rem;font-size:0.85rem">{_safe(note)}</div>'
    return (
        '<div style="overflow-x:auto;font-size:0.9rem;font-variant-numeric:tabular-nums">'
        f'<table style="border-collapse:collapse;border:0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{below if note else ''}"
    )


def _table_cell(value: object) -> str:
    """A cell: numbers and names stay on one line, sentences take the room they need."""
    short = len(str(value)) <= 26
    width = "white-space:nowrap" if short else "min-width:11rem"
    return f'<td style="{_CELL};{_LINE};{width}">{_safe(value)}</td>'


def questions_table(questions: Sequence[Question], shown: int = 5) -> str:
    """The first questions, and how many each split has."""
    counts = [
        f"{sum(q.split == split for q in questions):,} {split}"
        for split in ("train", "validation", "test")
    ]
    return html_table(
        ("question", "reference answer", "split"),
        [(q.question, q.final_answer or _cut(q.answer), q.split) for q in questions[:shown]],
        f"{len(questions):,} questions ({', '.join(counts)}); the first {shown} are shown",
    )


def answers_table(answers: SampledAnswers, shown: int = 3, each: int = 4) -> str:
    """The first questions with their most likely answer and a few samples."""
    rows = [
        (
            _cut(question.question, 120),
            greedy.text.strip(),
            "\n".join(f"· {sample.text.strip()}" for sample in samples[:each]),
        )
        for question, greedy, samples in zip(
            answers.questions[:shown], answers.greedy, answers.samples, strict=False
        )
    ]
    samples = [s for row in answers.samples for s in row]
    cut_off = sum(s.finish_reason == "length" for s in samples)
    note = f"{len(samples):,} samples, {cut_off:,} cut off at the longest allowed length"
    if answers.too_long:
        note += f"; {len(answers.too_long):,} questions left out: their prompts fill the context"
    heads = ("question", "most likely answer", f"{each} of {len(answers.samples[0])} samples")
    return html_table(heads, rows, note)


def meanings_table(answers: SampledAnswers, meanings: Meanings) -> str:
    """How many questions have one meaning, two, and so on, with how often the answer is right."""
    counts = np.array([len(set(row)) for row in meanings.clusters])
    wrong = wrong_answers(meanings)
    rows = []
    for low, high in ((1, 1), (2, 2), (3, 4), (5, 8), (9, max(9, int(counts.max())))):
        chosen = (counts >= low) & (counts <= high)
        if not chosen.any():
            continue
        known = chosen & ~np.isnan(wrong)
        right = f"{100 * (1 - wrong[known].mean()):.0f} % of {known.sum()}" if known.any() else "–"
        rows.append((str(low) if low == high else f"{low} to {high}", f"{chosen.sum():,}", right))
    texts = sum(len({s.text for s in row}) for row in answers.samples)
    note = (
        f"judged by {meanings.judge}: {int(counts.sum()):,} meanings in {texts:,} "
        "different texts; questions without a gradable answer are not in the last column"
    )
    return html_table(("meanings", "questions", "most likely answer right"), rows, note)


def formula_cards(run: Run) -> str:
    """What each estimator is, in which units, what others call it, and where it is skipped."""
    heads = ("estimator", "formula", "units", "needs", "source and other names")
    rows = []
    for name, card in ESTIMATORS.items():
        skipped = run.skipped.get(name)
        title = f"{card.title}\nnot computed: {skipped}" if skipped else card.title
        names = f"{card.source}\nalso: {card.also_called}\ntest: {card.test}"
        rows.append((title, card.formula, card.units, ", ".join(card.requires), names))
    note = "For all of them higher means more uncertain. N answers; n_c of them in meaning c; l_i "
    table = html_table(heads, rows, note + "an answer's log-probability in nats.")
    title = f"All {len(rows)} measures: formula, units, source, names in other packages"
    return f'<details><summary style="cursor:pointer">{title}</summary>{table}</details>'


def states_table(states: HiddenStates) -> str:
    """The positions where hidden states were read, and where a position did not exist."""
    rows = [
        (
            name,
            POSITION_WORDS.get(name, ""),
            " × ".join(str(size) for size in hidden.shape),
            f"{int(states.stand_ins[name].sum()):,}",
        )
        for name, hidden in states.hidden.items()
    ]
    note = "Layer 0 is the input of the first block. Stand-ins: questions where the position does "
    return html_table(
        ("position", "what it is", "questions × layers × width", "stand-ins"),
        rows,
        note + "not exist, as in an answer of one token, so that an earlier token stands in.",
    )


def missing_probes(trained: TrainedProbes) -> str:
    """Which probes could not be trained, and why."""
    rows = [(name.replace("_", " "), reason) for name, reason in trained.undefined.items()]
    return html_table(("probe", "undefined, because"), rows) if rows else ""


def headline(run: Run) -> str:
    """Whether the probe beats the best of all baselines, those that see the K samples included."""
    high, differences = run.assessment.high_entropy, run.assessment.differences
    if "high_semantic_entropy" not in high:
        return _paragraph(f"There is no probe: {run.trained.undefined['high_semantic_entropy']}.")
    best = max(differences, key=lambda name: high[name]["auroc"].value or 0.0)
    difference = differences[best]
    if difference.low is None or difference.high is None:
        verdict = "these questions do not tell whether the probe is better"
    elif difference.low > 0:
        verdict = "the probe is better"
    elif difference.high < 0:
        verdict = "the probe is worse"
    else:
        verdict = "the interval holds 0: no evidence that the probe is better"
    return _paragraph(
        f"In short: AUROC {cell(high['high_semantic_entropy']['auroc'])} for the probe, "
        f"{cell(high[best]['auroc'])} for the best baseline ({best}); "
        f"difference {signed(difference)}: {verdict}."
    )


def regression_table(run: Run) -> str:
    """How well semantic entropy is predicted, in nats."""
    return scores_table(run, run.assessment.regression, ("rmse", "mae", "spearman"), probe_title)


def high_entropy_table(run: Run) -> str:
    """How well high semantic entropy is told from low, by probes and baselines."""
    names = ("auroc", "average_precision", "brier", "ece")
    return scores_table(run, run.assessment.high_entropy, names)


def wrong_answer_table(run: Run) -> str:
    """How well a wrong most likely answer is foreseen."""
    return scores_table(
        run, run.assessment.wrong_answer, ("auroc", "average_precision", "spearman")
    )


def scores_table(
    run: Run,
    scores: Mapping[str, Mapping[str, Score]],
    names: Sequence[str],
    title: Callable[[Run, str], str] = named,
) -> str:
    """Scores of probes and baselines with intervals and the first one's p-value.

    Reasons for what is undefined are said once, below.
    """
    heads = ["", *(METRIC_NAMES[name] for name in names), "p"]
    rows: list[list[str]] = []
    notes: dict[str, None] = {}
    for source, row in scores.items():
        shown = [row[name] for name in names if name in row]
        cells = [cell(row[name]) if name in row else "" for name in names]
        p_value = shown[0].p_value
        rows.append([title(run, source), *cells, "" if p_value is None else f"{p_value:.4f}"])
        notes |= {s.undefined or s.note: None for s in shown if s.value is None or s.low is None}
    n = max(s.n for row in scores.values() for s in row.values())
    note = f"{n} test questions, 95 % bootstrap intervals; p of the {heads[1]}, by permutation."
    reasons = "; ".join(filter(None, notes))
    note += f" Undefined, or without an interval: {reasons}." if reasons else ""
    return html_table(heads, rows, note)


def tripwires_table(run: Run) -> str:
    """Every tripwire: whether it holds, its value and what was expected."""
    words = {True: "holds", False: "TRIPPED", None: "not run"}
    rows = [
        (t.name, words[t.passed], "" if t.value is None else f"{t.value:.3f}", t.expected, t.detail)
        for t in run.assessment.tripwires
    ]
    return html_table(("tripwire", "", "value", "expected", "detail"), rows)


def browser_rows(run: Run) -> list[dict[str, Any]]:
    """One row per test question, the most uncertain first; `row` is its place in the run."""
    entropy, predicted = run.targets.semantic_entropy, run.assessment.predicted
    test: list[int] = np.flatnonzero(run.targets.rows("test")).tolist()
    return [
        {
            "row": i,
            "question": _cut(run.answers.questions[i].question, 110),
            "semantic entropy": round(float(entropy[i]), 3),
            "predicted": round(float(predicted["semantic_entropy"][i]), 3)
            if "semantic_entropy" in predicted
            else None,
            "meanings": len(set(run.meanings.clusters[i])),
            "answer": _status(run, i),
        }
        for i in sorted(test, key=lambda i: -entropy[i])
    ]


def _status(run: Run, i: int) -> str:
    graded = run.meanings.greedy_grades[i]
    return graded.status if graded else "not graded"


def _paragraph(text: str) -> str:
    return f'<p style="font-weight:600;margin:0">{_safe(text)}</p>'


def _cut(text: str, length: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def _safe(text: object) -> str:
    """Anyone's text as HTML that shows it; line breaks stay."""
    return html.escape(str(text)).replace("\n", "<br>")
