"""What regrouping changes, to be looked at: the histogram, the budget curve, a table, examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import plotly.graph_objects as go

from helpers.analyses.curve_figures import add_banded_curve
from helpers.errors import UserError
from helpers.evaluation import Score
from helpers.figure_style import (
    GREY,
    VERMILLION,
    add_bars,
    add_mark,
    add_notes,
    add_reference,
    cut,
    framed,
    legend_below,
    plain,
    say_instead,
    score_hover,
    score_numbers,
)
from helpers.report_tables import html_table
from helpers.run import Run
from helpers.summary import cell
from helpers.what_if import GroupingScores, Regrouped
from helpers.what_if_rules import AnyRun, sample_count

MOST_BINS = 200
MEASURES = {
    "entropy": "semantic entropy (nats)",
    "meanings": "meanings a question",
    "high": "questions above γ",
    "wrong_answer": "AUROC, wrong answer",
    "probe": "AUROC, stored probe",
}
"""Fields of `GroupingScores` as a reader meets them."""
_LEGEND = (
    "Means over the test questions; AUROC of semantic entropy for a wrong most likely answer, and "
    "of the run's probe for semantic entropy above γ; Spearman's correlation of semantic entropy "
    "now and as stored."
)
_MOST_WORDINGS, _WORDING = 4, 60


def check_bins(bins: int) -> int:
    """The number of bins; raises `UserError` naming the range for another than 2 to 200."""
    if not isinstance(bins, Integral) or not 2 <= bins <= MOST_BINS:
        raise UserError(f"bins is {bins!r}: choose a whole number from 2 to {MOST_BINS}")
    return int(bins)


def histogram(regrouped: Regrouped, run: AnyRun, bins: int = 30) -> go.Figure:
    """How semantic entropies are spread now, over the outline of how they are stored; γ dashed.

    Of all questions, in bins of equal width from 0 to ln K nats, so that the axis stays where it is
    when the options change. Raises `UserError` for bins that are not 2 to 200.
    """
    check_bins(bins)
    now, stored = regrouped.semantic_entropy, run.targets.semantic_entropy
    most, k = sample_count(run), regrouped.options.k
    end = max(math.log(most), now.max(initial=0.0), stored.max(initial=0.0))
    edges = np.linspace(0.0, end, bins + 1)
    fig = framed(
        "Semantic entropy", f"semantic entropy (nats, at most ln {k} = {math.log(k):.2f})",
        "questions",
    )  # fmt: skip
    add_bars(fig, now, edges, "nats", "questions")
    fig.data[0].name = f"now, from {k} samples"
    counts = np.histogram(stored, edges)[0]
    fig.add_scatter(
        x=np.repeat(edges, 2),
        y=np.concatenate([[0], np.repeat(counts, 2), [0]]),
        mode="lines",
        line={"color": GREY, "width": 1.5},
        name=f"as stored, from {most} samples",
        hoverinfo="skip",
    )
    fig.update_xaxes(range=[-0.01 * end, 1.02 * end])
    if regrouped.gamma is None:
        add_notes(fig, ["γ is undefined: every train question has the same semantic entropy"])
    else:
        above = int((now > regrouped.gamma).sum())
        text = f"γ = {regrouped.gamma:.3g}: {above} of {len(now)} questions above"
        add_mark(fig, regrouped.gamma, text, VERMILLION, "dash")
    return legend_below(fig, one_row=True)


def budget(regrouped: Regrouped, run: AnyRun) -> go.Figure:
    """AUROC of semantic entropy for a wrong answer from N = 1 … k samples, grouped as chosen.

    Beside it the curve of the run's own analysis, where the run has one.
    """
    fig = framed(
        "How many samples?", "answers sampled to a question, N", "AUROC for a wrong answer"
    )
    levels = regrouped.budget
    if reason := regrouped.now.wrong_answer.undefined:
        return say_instead(fig, f"Undefined: {reason}.")
    hovers = [
        f"{score_hover('now', level.auroc)}<br>N = {level.n_samples}, mean of {level.subsets} "
        f"subset{'s' * (level.subsets > 1)}"
        for level in levels
    ]
    label = f"now, N = {levels[-1].n_samples}: {score_numbers(levels[-1].auroc)}"
    scores = [level.auroc for level in levels]
    add_banded_curve(fig, [level.n_samples for level in levels], scores, label, hovers)
    stored = _stored_budget(run)
    if stored:
        end = f"N = {len(stored)}: {score_numbers(stored[-1])}"
        fig.add_scatter(
            x=list(range(1, len(stored) + 1)),
            y=[score.value for score in stored],
            name=plain(f"as stored, {end}", 84),
            mode="lines",
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            customdata=[score_hover("as stored", score) for score in stored],
            hovertemplate="%{customdata}<extra></extra>",
        )
    most = sample_count(run)
    add_reference(fig, [1, most], [0.5, 0.5], "chance")
    fig.update_xaxes(range=[1 - 0.03 * most, 1.03 * most], dtick=max(1, math.ceil(most / 12)))
    # The axis stays where it is when the options change, unless a band leaves it.
    lows = [score.value if score.low is None else score.low for score in scores]
    fig.update_yaxes(range=[min(0.45, *(low for low in lows if low is not None)) - 0.01, 1.01])
    notes = [
        f"{levels[-1].auroc.n} test questions; band: 95 % interval. N = 1 is 0.5 by construction: "
        "one answer has one meaning."
    ]
    return legend_below(add_notes(fig, notes))


def _stored_budget(run: AnyRun) -> list[Score]:
    """The stored analysis' scores of semantic entropy at N = 1 … K; none where there is none."""
    if not isinstance(run, Run) or "curves" not in run.analyses:
        return []
    curves = run.analyses["curves"].result["sample_budget"]["curves"]
    return [Score(**point["auroc"]) for point in curves.get("semantic_entropy", ())]


def summary_table(regrouped: Regrouped, run: AnyRun) -> str:
    """The scores as stored and now, with intervals, and what changed: HTML, escaped."""
    rows = [
        (
            words,
            cell(getattr(regrouped.stored, name)),
            cell(getattr(regrouped.now, name)),
            _change(regrouped, name),
            _p_value(getattr(regrouped.now, name)),
        )
        for name, words in MEASURES.items()
    ]
    rows.append(("Spearman with stored", "", cell(regrouped.spearman), "", ""))
    changed, n = int(regrouped.changed.sum()), len(regrouped.changed)
    k, most = regrouped.options.k, sample_count(run)
    notes = [
        f"In {changed} of {n} questions the same {k} samples are grouped otherwise than as stored.",
        *regrouped.notes,
        f"γ: {_gamma(run.targets.threshold)} as stored, {_gamma(regrouped.gamma)} now.",
        _LEGEND,
        f"{regrouped.now.entropy.n} test questions, {regrouped.now.wrong_answer.n} of them with a "
        "graded answer; 95 % bootstrap intervals; the change is paired, question by question; p "
        "of the score now, by permutation.",
        _reasons(regrouped),
    ]
    heads = ("", f"as stored, K = {most}", f"now, k = {k}", "change", "p")
    return html_table(heads, rows, " ".join(filter(None, notes)))


def _change(regrouped: Regrouped, name: str) -> str:
    """A paired difference with its sign; "none" where nothing moved."""
    score = regrouped.differences.get(name)
    if score is None or score.value is None:
        return "" if score is None else "undefined"
    if score.value == 0 and score.low == score.high == 0:
        return "none"
    if score.low is None or score.high is None:
        return f"{score.value:+.3f} (no interval)"
    return f"{score.value:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"


def _p_value(score: Score) -> str:
    return "" if score.p_value is None else f"{score.p_value:.4f}"


def _gamma(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f} nats"


def _reasons(regrouped: Regrouped) -> str:
    """Why scores are undefined or have no interval, each reason once."""
    groups: Sequence[GroupingScores] = (regrouped.stored, regrouped.now)
    scores = [getattr(group, name) for group in groups for name in MEASURES]
    missing = [s for s in (*scores, regrouped.spearman) if s.value is None or s.low is None]
    reasons = "; ".join(dict.fromkeys(s.undefined or s.note for s in missing))
    return f"Undefined, or without an interval: {reasons}." if reasons else ""


def examples(regrouped: Regrouped, run: AnyRun, n: int = 3) -> str:
    """Questions whose same k samples are grouped otherwise than the run did: HTML, escaped.

    The n whose number of meanings changed most, with their groups before and after.
    """
    k = int(regrouped.options.k)
    own = np.array([row[:k] for row in run.meanings.clusters])
    moved = _moved(regrouped, own)
    rows = [
        (
            cut(run.answers.questions[i].question, 160),
            _groups(run, i, own[i].tolist()),
            _groups(run, i, regrouped.clusters[i].tolist()),
        )
        for i in moved[:n]
    ]
    if not rows:
        return html_table(("No question's samples are grouped otherwise than as stored.",), [])
    note = (
        f"{min(n, len(moved))} of {len(moved)} questions with other groups, those whose number of "
        "meanings changed most; each line is one meaning"
    )
    return html_table(("question", "as stored", "now"), rows, note)


def _moved(regrouped: Regrouped, own: np.ndarray) -> list[int]:
    """Rows that changed, those whose number of meanings changed most first."""
    by = np.abs(regrouped.clusters.max(axis=1) - own.max(axis=1))
    rows: list[int] = np.flatnonzero(regrouped.changed).tolist()
    return sorted(rows, key=lambda i: -by[i])


def _groups(run: AnyRun, i: int, ids: list[int]) -> str:
    """One line a group, the largest first: how many answers it holds, and their wordings."""
    wordings: dict[int, dict[str, int]] = {}
    for sample, group in zip(run.answers.samples[i], ids, strict=False):
        counts = wordings.setdefault(group, {})
        text = cut(sample.text, _WORDING) or "(empty)"
        counts[text] = counts.get(text, 0) + 1
    lines = []
    for counts in sorted(wordings.values(), key=lambda counts: -sum(counts.values())):
        texts = [f"“{t}”" + (f" × {c}" if c > 1 else "") for t, c in counts.items()]
        more = len(texts) - _MOST_WORDINGS
        texts[_MOST_WORDINGS:] = [f"and {more} more wordings"] if more > 0 else []
        lines.append(f"{sum(counts.values())} · {', '.join(texts)}")
    return "\n".join(lines)
