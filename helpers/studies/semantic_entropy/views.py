"""The tables and figures of a run as HTML, and the table that it prints.

Everything that came from a model, a file or a reference answer is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.data.questions import Question
from helpers.evaluation.scores import ReliabilityCurve, Score, format_score
from helpers.formatting import p_value_text
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.training import TrainedProbes
from helpers.studies.semantic_entropy.analyses.figures import maps_on_test
from helpers.studies.semantic_entropy.assessment import INPUT_LAYER, LENGTH, Assessment
from helpers.studies.semantic_entropy.labels import Meanings, wrong_answers
from helpers.studies.semantic_entropy.records import Run
from helpers.uncertainty.estimators import ESTIMATORS
from helpers.views import charts
from helpers.views.html import (
    folded,
    html_table,
    paragraph,
    reasons,
    reasons_of,
    score_cell,
    signed,
)
from helpers.views.style import METRIC_NAMES, cut

# --- text for a terminal -------------------------------------------------------------------------


PROBE_TITLES = {
    "semantic_entropy": "ridge probe",
    "semantic_entropy_prompt": "ridge probe, prompt only",
    "semantic_entropy_mlp": "perceptron",
    "semantic_entropy_soft": "soft-label probe",
    "high_semantic_entropy": "logistic probe",
    "high_semantic_entropy_prompt": "logistic probe, prompt only",
    "wrong_answer": "correctness probe",
    "wrong_answer_prompt": "correctness probe, prompt only",
    "high_semantic_entropy_mlp": "perceptron",
    "wrong_answer_mlp": "correctness perceptron",
    "wrong_answer_soft": "soft correctness probe",
    "wrong_answer_hybrid": "hybrid of the two probes",
}
"""Probe names as a reader meets them."""
BASELINE_TITLES = {LENGTH: "question length", INPUT_LAYER: "input layer at tbg"}
"""Names of baselines that are no estimator, as a reader meets them."""


def summarise(run: Run) -> str:
    """The run as one text of at most 100 columns, for a terminal."""
    return "\n".join([*_data(run), *_regression(run), *_high(run), *_wrong(run), *_tripwires(run)])


def _data(run: Run) -> list[str]:
    counts = run.manifest["counts"]
    splits = [int(run.targets.rows(s).sum()) for s in ("train", "validation", "test")]
    entropy = run.targets.semantic_entropy
    graded = sum(counts[f"greedy_{s}"] for s in ("correct", "wrong", "unanswered"))
    lines = [
        f"Run {run.manifest['run']}: model {run.config.model}, questions {run.config.questions}",
        f"  questions   {counts['questions']} ({splits[0]} train, {splits[1]} validation, "
        f"{splits[2]} test)"
        + (f"; {counts['questions_too_long']} too long" if counts["questions_too_long"] else ""),
        f"  samples     {counts['samples']:,} ({run.config.k} a question), "
        f"{counts['samples_unanswered']:,} unanswered, {counts['samples_cut_off']:,} cut off",
        f"  greedy      {counts['greedy_correct']} of {graded} answers right, "
        f"{counts['greedy_unanswered']} unanswered",
        f"  meanings    {counts['meanings']:,} by {counts['judge']}",
        f"  semantic entropy: median {np.median(entropy):.2f} nats "
        f"({entropy.min():.2f} to {entropy.max():.2f})",
    ]
    if run.targets.threshold is not None:
        share = 100 * float(np.mean(run.targets.high))
        lines.append(
            f"  high means above {run.targets.threshold:.2f} nats: {share:.0f} % of questions"
        )
    return lines


def _regression(run: Run) -> list[str]:
    rows = [
        (probe_title(run, name), [s["rmse"], s["spearman"]], None)
        for name, s in run.assessment.regression.items()
    ]
    return _table(run, "Predicting semantic entropy (nats)", ("RMSE", "Spearman"), rows)


def _high(run: Run) -> list[str]:
    rows = [
        (named(run, n), [s["auroc"], s["average_precision"]], run.assessment.differences.get(n))
        for n, s in run.assessment.high_entropy.items()
    ]
    title = "Predicting high semantic entropy"
    return _table(run, title, ("AUROC", "average precision"), rows) + _calibration(run)


def _wrong(run: Run) -> list[str]:
    rows = [
        (named(run, n), [s["auroc"], s["spearman"]], None)
        for n, s in run.assessment.wrong_answer.items()
    ]
    return _table(run, "Predicting a wrong answer", ("AUROC", "Spearman"), rows)


def _table(
    run: Run,
    title: str,
    heads: tuple[str, str],
    rows: Sequence[tuple[str, list[Score], Score | None]],
) -> list[str]:
    """Lines of one table; a reason that all rows share is said once."""
    shared = {scores[0].undefined for _, scores, _ in rows}
    name = {"Predicting semantic entropy (nats)": "semantic_entropy",
            "Predicting high semantic entropy": "high_semantic_entropy",
            "Predicting a wrong answer": "wrong_answer"}[title]  # fmt: skip
    lines = ["", f"{title}"]
    if name in run.trained.undefined:
        lines.append(f"  no probe: {run.trained.undefined[name]}")
    if len(shared) == 1 and "" not in shared:
        return [*lines, f"  undefined: {shared.pop()}"]
    lines[1] += f" (test, n = {max(s[0].n for _, s, _ in rows)})"
    lines.append(f"  {'':<39}{heads[0]:<23}{heads[1]:<23}{_difference_head(rows)}".rstrip())
    for label, scores, difference in rows:
        cells = "".join(f"{score_cell(s):<23}" for s in scores)
        extra = "" if difference is None else signed(difference)
        lines.append(f"  {label:<39}{cells}{extra}".rstrip())
    shown = [s for _, scores, difference in rows for s in (*scores, difference) if s is not None]
    return lines + [f"  note: {reason}" for reason in reasons(shown)]


def _difference_head(rows: Sequence[tuple[str, list[Score], Score | None]]) -> str:
    return "probe minus this" if any(d is not None for _, _, d in rows) else ""


def _calibration(run: Run) -> list[str]:
    scores = run.assessment.high_entropy.get("high_semantic_entropy", {})
    if "brier" not in scores or scores["brier"].value is None:
        return []
    return [
        f"  calibration of the logistic probe: Brier {format_score(scores['brier'])}, "
        f"ECE {format_score(scores['ece'])}"
    ]


def _tripwires(run: Run) -> list[str]:
    words = {True: "holds", False: "TRIPPED", None: "not run"}
    lines = ["", "Tripwires"]
    for t in run.assessment.tripwires:
        value = "" if t.value is None else f" {t.value:.3f}"
        detail = f" ({t.detail})" if t.detail else ""
        lines.append(f"  {t.name:<20}{words[t.passed]}{value}{detail}")
    return lines


def probe_title(run: Run, name: str) -> str:
    """A probe as a reader meets it, with its position and layer."""
    probe = run.trained.probes.get(name)
    title = PROBE_TITLES.get(name, name)
    return title if probe is None else f"{title} ({probe.position} {probe.layer})"


def named(run: Run, source: str) -> str:
    """Whatever predicts: an estimator, a baseline or a probe, as a reader meets it."""
    if source in ESTIMATORS:
        return ESTIMATORS[source].title
    return BASELINE_TITLES.get(source) or probe_title(run, source)


POSITION_WORDS = {
    "tbg": "last token of the prompt, before anything is generated",
    "answer_last": "last token of the answer that does not end the text",
    "answer_second_last": "the token before that",
    "answer_mean": "mean over the answer's tokens",
    "think_end": "the token that closes the thinking",
}


def questions_table(questions: Sequence[Question], shown: int = 5) -> str:
    """The first questions, and how many each split has."""
    counts = [
        f"{sum(q.split == split for q in questions):,} {split}"
        for split in ("train", "validation", "test")
    ]
    return html_table(
        ("question", "reference answer", "split"),
        [(q.question, q.final_answer or cut(q.answer, 160), q.split) for q in questions[:shown]],
        f"{len(questions):,} questions ({', '.join(counts)}); the first {shown} are shown",
    )


def answers_table(answers: SampledAnswers, shown: int = 3, each: int = 4) -> str:
    """The first questions with their most likely answer and a few samples."""
    rows = [
        (
            cut(question.question, 120),
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
    return folded(title, table)


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
        reason = run.trained.undefined["high_semantic_entropy"]
        return paragraph(f"There is no probe: {reason}.", "font-weight:600")
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
    return paragraph(
        f"In short: AUROC {score_cell(high['high_semantic_entropy']['auroc'])} for the probe, "
        f"{score_cell(high[best]['auroc'])} for the best baseline ({best}); "
        f"difference {signed(difference)}: {verdict}.",
        "font-weight:600",
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
    every: list[Score] = []
    for source, row in scores.items():
        shown = [row[name] for name in names if name in row]
        cells = [score_cell(row[name]) if name in row else "" for name in names]
        rows.append([title(run, source), *cells, p_value_text(shown[0].p_value)])
        every += shown
    n = max(s.n for row in scores.values() for s in row.values())
    note = f"{n} test questions, 95 % bootstrap intervals; p of the {heads[1]}, by permutation."
    return html_table(heads, rows, note + reasons_of(every))


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
            "question": cut(run.answers.questions[i].question, 110),
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


# --- figures -------------------------------------------------------------------------------------


MOST_CURVES = 6
"""Curves that one figure can tell apart."""


def entropy_figure(run: Run) -> go.Figure:
    """How semantic entropy is distributed over the questions, and where it counts as high."""
    return charts.entropy_histogram(
        run.targets.semantic_entropy, run.targets.threshold, run.config.k
    )


def lexical_figure(run: Run) -> go.Figure:
    """Lexical against semantic entropy of every question, coloured by the most likely answer."""
    return charts.lexical_against_semantic(
        run.uncertainty["semantic_entropy"],
        run.uncertainty["lexical_entropy"],
        [q.id for q in run.answers.questions],
        [q.question for q in run.answers.questions],
        [g.status if g else "not graded" for g in run.meanings.greedy_grades],
    )


def probe_maps(trained: TrainedProbes) -> list[go.Figure]:
    """For each target the validation score at every layer and position, the chosen one framed."""
    maps = []
    for name, sweep in trained.sweeps.items():
        fig = charts.layer_position_map(
            sweep.validation_score.max(axis=2),
            sweep.positions,
            sweep.layers,
            (sweep.best_position, sweep.best_layer),
            sweep.score_name,
        )
        title = f"{name.replace('_', ' ')}: {fig.layout.title.text}"
        maps.append(fig.update_layout(title_text=title[0].upper() + title[1:]))
    return maps


def high_entropy_figure(run: Run) -> go.Figure:
    """AUROC for high semantic entropy of the probes and of every baseline."""
    scores = {named(run, n): row["auroc"] for n, row in run.assessment.high_entropy.items()}
    return charts.score_intervals(scores, 0.5, title="Predicting high semantic entropy")


def differences_figure(run: Run) -> go.Figure:
    """By how much the probe's AUROC lies above each baseline's, on the same questions."""
    differences = {named(run, n): score for n, score in run.assessment.differences.items()}
    return charts.score_intervals(
        differences, 0.0, "AUROC of the probe minus AUROC of the baseline",
        title="The probe against each baseline",
    )  # fmt: skip


def wrong_answer_figure(run: Run) -> go.Figure:
    """AUROC for a wrong most likely answer."""
    scores = {named(run, n): row["auroc"] for n, row in run.assessment.wrong_answer.items()}
    return charts.score_intervals(scores, 0.5, title="Predicting a wrong answer")


def predicted_figure(run: Run) -> go.Figure:
    """The ridge probe's predictions on the test questions against the sampled values."""
    test = run.targets.rows("test")
    rows = np.flatnonzero(test)
    if "semantic_entropy" not in run.assessment.predicted:
        return charts.predicted_against_true([], [], {}, [], [])
    return charts.predicted_against_true(
        run.targets.semantic_entropy[test],
        run.assessment.predicted["semantic_entropy"][test],
        run.assessment.regression["semantic_entropy"],
        [run.answers.questions[i].id for i in rows],
        [run.answers.questions[i].question for i in rows],
    )


def roc_figure(run: Run) -> go.Figure:
    """ROC curves of the probes and of the best baselines for high semantic entropy."""
    scores = {n: row["auroc"] for n, row in run.assessment.high_entropy.items()}
    chosen = _clearest(run.assessment, scores)
    return charts.roc_curves(
        {named(run, n): run.assessment.roc[n] for n in chosen if n in run.assessment.roc},
        {named(run, n): scores[n] for n in chosen},
    )


def reliability_figure(run: Run) -> go.Figure:
    """How far the logistic probe's probabilities can be trusted."""
    curve = run.assessment.reliability
    scores = run.assessment.high_entropy.get("high_semantic_entropy", {})
    if curve is None:
        nothing = np.array([])
        return charts.reliability_diagram(ReliabilityCurve(*[nothing] * 7))
    return charts.reliability_diagram(curve, scores)


def shuffled_figure(run: Run) -> go.Figure:
    """Scores of probes fitted to shuffled labels, with the real one."""
    row = run.assessment.high_entropy.get("high_semantic_entropy")
    real = row["auroc"].value if row else None
    return charts.shuffled_labels_histogram(run.assessment.shuffled, real)


def _clearest(assessment: Assessment, scores: Mapping[str, Score]) -> list[str]:
    """The probes, then the baselines of highest AUROC, as many as a figure can tell apart."""
    probes = [n for n in scores if n in assessment.predicted]
    baselines = [n for n in scores if n not in assessment.predicted]
    baselines.sort(key=lambda n: -(scores[n].value or 0.0))
    return (probes + baselines)[:MOST_CURVES]


def test_maps(run: Run) -> list[go.Figure]:
    """For each target the score on test at every layer and position; no choice has seen them."""
    return maps_on_test(run.assessment.test_maps, run.trained.sweeps)
