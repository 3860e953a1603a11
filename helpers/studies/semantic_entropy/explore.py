"""Single questions: found by a click or in lists of cases, and shown with all there is to know.

A run may be opened as `helpers.studies.semantic_entropy.stages.Run` or as
`helpers.studies.semantic_entropy.run_files.StoredRun`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.data.answers import Grade
from helpers.errors import UserError
from helpers.generation.records import Sample
from helpers.meanings.clustering import ENTAILMENT, verdicts
from helpers.models.tokens import Decode, decoder
from helpers.studies.semantic_entropy.analyses.audit import LINKS, broken_triples, distinct_texts
from helpers.studies.semantic_entropy.open_run import AnyRun
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.uncertainty.estimators import ESTIMATORS
from helpers.views.html import (
    LINE,
    MOST_IN_ALL,
    MOST_TOKENS,
    MUTED,
    SMALL,
    WRAP,
    aside,
    counted,
    folded,
    heading,
    html_table,
    letter,
    long_text,
    paragraph,
    safe,
    token_legend,
    tokens,
)
from helpers.views.style import (
    COLOURS,
    HOVER_BUDGET,
    VERMILLION,
    add_notes,
    cut,
    framed,
    plain,
    say_instead,
    wrapped,
)

# --- clicks --------------------------------------------------------------------------------------


def clickable(figure: go.Figure) -> go.Figure:
    """Let a plain click choose a point of a scatter in `mo.ui.plotly`, and show which it was.

    Plotly reports a click on markers to marimo as a selection, so `clickmode` must say that clicks
    select. With a drag mode a hand that moves by three pixels zooms instead of clicking, and after
    one click in mode "select" (marimo's default) the next chooses nothing: so none is set. The
    mode bar still zooms.
    """
    figure.update_layout(clickmode="event+select", dragmode=False)
    return figure.update_traces(
        selected={"marker": {"size": 13, "opacity": 1}},
        unselected={"marker": {"opacity": 0.4}},
        selector=lambda trace: trace.type in ("scatter", "scattergl") and _has_markers(trace),
    )


def _has_markers(trace: Any) -> bool:
    return "markers" in (trace.mode or "")


def clicked_question(figure: go.Figure, value: object) -> str | None:
    """The question of the point that was clicked, of several the last; None where there is none.

    `value` is the value of `mo.ui.plotly(figure)`: a list of points that say their trace
    (`curveNumber`) and their place in it (`pointIndex`), but not their customdata; that is read
    from the figure, whose question scatters keep the id in customdata[0].
    """
    points = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    for point in reversed(points):
        if isinstance(point, Mapping):
            found = _id_at(figure, point.get("curveNumber"), _place(point))
            if found is not None:
                return found
    return None


def _place(point: Mapping[str, Any]) -> object:
    return point.get("pointIndex", point.get("pointNumber"))


def _id_at(figure: go.Figure, trace: object, place: object) -> str | None:
    """The first of a point's customdata, if the point exists and that is a text."""
    if not isinstance(trace, int) or not isinstance(place, int):
        return None
    if not 0 <= trace < len(figure.data) or figure.data[trace].type not in ("scatter", "scattergl"):
        return None
    rows = figure.data[trace].customdata
    if rows is None or not 0 <= place < len(rows):
        return None
    row = rows[place]
    # Other figures keep one text a point there: a hover label.
    if isinstance(row, str) or not hasattr(row, "__len__") or not len(row):
        return None
    return row[0] if isinstance(row[0], str) else None


# --- an opened run -------------------------------------------------------------------------------


def question_row(run: AnyRun, question_id: str) -> int:
    """The place of a question in the run; raises `UserError` where the run has no such one."""
    for i, question in enumerate(run.answers.questions):
        if question.id == question_id:
            return i
    raise UserError(f"this run has no question {question_id!r}; choose one of this run")


def predictions(run: AnyRun) -> dict[str, np.ndarray]:
    """Probe to its prediction for every question, `[n]`; empty while there are none."""
    if isinstance(run, StoredRun):
        return run.predicted
    try:
        return run.assessment.predicted
    except UserError:  # the stage is still to come
        return {}


def by_meaning(clusters: Sequence[int]) -> list[list[int]]:
    """The samples of each meaning, the largest meaning first, ties in order of appearance.

    >>> by_meaning((0, 1, 1, 2))
    [[1, 2], [0], [3]]
    """
    groups: dict[int, list[int]] = {}
    for sample, cluster in enumerate(clusters):
        groups.setdefault(cluster, []).append(sample)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


# --- lists of cases ------------------------------------------------------------------------------
#
# Everything is computed from the records of an opened run.


ID = "question_id"
"""The column of a table of cases that holds the question's id."""
MOST_CASES = 8
DOUBTFUL = (0.25, 0.75)
"""Between these a probability of entailment says that the judge does not know."""
PROBE = "semantic_entropy"
"""The probe that is compared with sampling: it predicts semantic entropy in nats."""


@dataclass(frozen=True)
class Case:
    """One question, and the values that make it instructive."""

    question_id: str
    question: str
    values: dict[str, float | str]
    """What is shown beside it, by a name that holds the unit."""


@dataclass(frozen=True)
class Cases:
    """Test questions that teach the same thing, the clearest first."""

    lesson: str
    """What there is to learn from them, in one sentence."""
    cases: tuple[Case, ...]
    empty: str
    """Why there is none; "" where there are some."""


def cases(run: AnyRun) -> dict[str, Cases]:
    """Lists of the most instructive test questions, at most eight each, by name."""
    return {
        "same words, different meanings": _different_meanings(run),
        "different words, one meaning": _one_meaning(run),
        "confidently wrong": _confidently_wrong(run),
        "probe and sampling disagree": _disagreeing(run),
        "judge in doubt": _judge_in_doubt(run),
    }


def case_rows(found: Cases) -> list[dict[str, Any]]:
    """The rows of a table to choose a case from; the first column, to be hidden, is the id."""
    return [
        {ID: case.question_id, "question": cut(case.question, 110)} | case.values
        for case in found.cases
    ]


def _different_meanings(run: AnyRun) -> Cases:
    lesson = (
        "The answers share most of their words and yet mean different things: only a judge of "
        "meaning sees how unsure the model is."
    )
    semantic, lexical, threshold = _entropies(run)
    if threshold is None:
        reason = "all training questions have the same semantic entropy, so none counts as high"
        return Cases(lesson, (), reason)
    overlap = 1 - _column(run, "lexical_similarity")
    gap = np.maximum(lexical - semantic, 0).round(9)
    reason = f"no test question with both entropies has a semantic one above γ = {threshold:.2f}"
    high = semantic > threshold
    order = (gap, -np.nan_to_num(overlap), -semantic)
    shown = {**_both(semantic, lexical), "mean ROUGE-L of pairs": overlap}
    return _listed(run, lesson, high & np.isfinite(lexical), order, shown, reason)


def _one_meaning(run: AnyRun) -> Cases:
    lesson = (
        "Many wordings, few meanings: counting wordings would call the model unsure where it only "
        "says the same thing in several ways."
    )
    semantic, lexical, threshold = _entropies(run)
    gap = (lexical - semantic).round(9)
    low = semantic <= (np.inf if threshold is None else threshold)
    reason = (
        "in no test question of low semantic entropy do answers of different wording share a "
        "meaning, or lexical entropy was not computed"
    )
    shown = _both(semantic, lexical)
    return _listed(run, lesson, low & (gap > 0), (-gap, semantic), shown, reason)


def _confidently_wrong(run: AnyRun) -> Cases:
    lesson = (
        "The samples agree, or nearly so, and the most likely answer is wrong: entropy measures "
        "whether the model is consistent, not whether it is right."
    )
    semantic, _, threshold = _entropies(run)
    test, wrong = run.targets.rows("test"), run.targets.wrong
    low = semantic <= (np.inf if threshold is None else threshold)
    if not np.isfinite(wrong[test]).any():
        reason = "no most likely answer of a test question can be graded"
    elif not (wrong[test] == 1).any():
        reason = "every most likely answer of a test question that can be graded is right"
    else:
        reason = "wherever the model errs here, its samples disagree: their entropy is above γ"
    predicted = _predicted(run)
    answers = [greedy.text for greedy in run.answers.greedy]
    references = [q.final_answer or q.answer for q in run.answers.questions]
    shown: dict[str, Sequence[Any] | np.ndarray] = {
        "semantic entropy (nats)": semantic,
        "predicted (nats)": predicted,
        "most likely answer": answers,
        "reference": references,
    }
    return _listed(run, lesson, low & (wrong == 1), (semantic, predicted), shown, reason)


def _disagreeing(run: AnyRun) -> Cases:
    lesson = (
        "The probe reads another uncertainty from the hidden states than sampling measures: one of "
        "the two is wrong, or the samples were too few."
    )
    sampled, predicted = run.targets.semantic_entropy, _predicted(run)
    difference = predicted - sampled
    shown = {
        "sampled (nats)": sampled,
        "predicted (nats)": predicted,
        "predicted − sampled": difference,
    }
    reason = "there is no probe of semantic entropy (yet)"
    # Half of the list each way: the largest alone are often all of one sign.
    higher, lower = (
        _listed(run, lesson, wanted, (-abs(difference),), shown, reason, MOST_CASES // 2)
        for wanted in (difference > 0, difference < 0)
    )
    both = higher.cases + lower.cases
    return Cases(lesson, both, "" if both else reason)


def _judge_in_doubt(run: AnyRun) -> Cases:
    lesson = (
        "The judge contradicts itself (a means b and b means c, but a does not mean c) or does not "
        "know: here the meanings, and with them the entropy, are least certain."
    )
    if run.judgements is None:
        judge = run.meanings.judge
        return Cases(lesson, (), f"the judge ({judge}) gave no probabilities for all pairs")
    k = run.judgements.shape[1] - 1
    said = np.asarray(run.judgements[:, :k, :k])
    distinct = distinct_texts(run)  # type: ignore[arg-type]  # it reads the answers alone
    _, broken = broken_triples(LINKS[run.config.entailment](verdicts(said)), distinct)
    pairs = distinct[:, :, None] & distinct[:, None, :] & ~np.eye(k, dtype=bool)
    entailment = said[..., ENTAILMENT]
    unsure = (entailment > DOUBTFUL[0]) & (entailment < DOUBTFUL[1]) & pairs
    share = unsure.sum((1, 2)) / np.maximum(pairs.sum((1, 2)), 1)
    reason = (
        "the judge is sure of every pair of different answers (no probability of entailment lies "
        f"between {DOUBTFUL[0]} and {DOUBTFUL[1]}) and never contradicts itself"
    )
    # A relation that holds both ways breaks a triple in both orders.
    shown = {"broken triples": (broken // 2).astype(int), "share of pairs in doubt": share}
    return _listed(run, lesson, (broken > 0) | (share > 0), (-broken, -share), shown, reason)


def _listed(
    run: AnyRun,
    lesson: str,
    wanted: np.ndarray,
    order: tuple[np.ndarray, ...],
    shown: Mapping[str, Sequence[Any] | np.ndarray],
    empty: str,
    most: int = MOST_CASES,
) -> Cases:
    """The wanted test questions `[n]`, sorted by the columns of `order`, the first most important.

    Of `shown`, values that are no finite number are left out.
    """
    rows = np.flatnonzero(wanted & run.targets.rows("test"))
    if not len(rows):
        return Cases(lesson, (), empty)
    ranked = rows[np.lexsort([column[rows] for column in reversed(order)])][:most]
    found = []
    for i in ranked.tolist():
        question = run.answers.questions[i]
        values = {name: _shown(column[i]) for name, column in shown.items()}
        known = {name: value for name, value in values.items() if value is not None}
        found.append(Case(question.id, question.question, known))
    return Cases(lesson, tuple(found), "")


def _shown(value: Any) -> float | str | None:
    if isinstance(value, str):
        return cut(value, 60)
    if isinstance(value, np.integer):
        return int(value)
    return round(float(value), 3) if np.isfinite(value) else None


def _entropies(run: AnyRun) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Semantic and lexical entropy, `[n]` in nats, and γ."""
    return run.targets.semantic_entropy, _column(run, "lexical_entropy"), run.targets.threshold


def _both(semantic: np.ndarray, lexical: np.ndarray) -> dict[str, np.ndarray]:
    return {"semantic entropy (nats)": semantic, "lexical entropy (nats)": lexical}


def _column(run: AnyRun, estimator: str) -> np.ndarray:
    """An estimator's values, `[n]`; NaN where it was not computed."""
    unknown = np.full(len(run.answers.questions), np.nan)
    return run.uncertainty.get(estimator, unknown)


def _predicted(run: AnyRun) -> np.ndarray:
    return predictions(run).get(PROBE, np.full(len(run.answers.questions), np.nan))


# --- the judge's probabilities -------------------------------------------------------------------


def judge_matrix(run: AnyRun, question_id: str) -> go.Figure:
    """P(entailment) of premise (row) and hypothesis (column) over the K + 1 answers, a heat map.

    The samples stand by meaning, each meaning framed, and the most likely answer stands last.
    Raises `UserError` where the run has no such question.
    """
    i = question_row(run, question_id)
    fig = framed("What the judge says", "hypothesis: does it follow?", "premise", height=400)
    if run.judgements is None:
        judge = f"The judge of this run ({run.meanings.judge}) gave no probabilities"
        fig.update_layout(height=180)
        return say_instead(fig, f"{judge} for all pairs of answers.")
    groups = by_meaning(run.meanings.clusters[i])
    order = [s for group in groups for s in group]
    n = len(order) + 1
    answers = [*(run.answers.samples[i][s] for s in order), run.answers.greedy[i]]
    names = [letter(g) for g, group in enumerate(groups) for _ in group] + ["★"]
    places = [*order, n - 1]
    said = np.asarray(run.judgements[i], dtype=np.float64)[np.ix_(places, places)].round(4)
    length = min(120, max(24, HOVER_BUDGET // (2 * n * n)))
    words = [f"{a}: {wrapped(s.text, length)}" for a, s in zip(names, answers, strict=True)]
    fig.add_heatmap(
        z=said[..., 2],
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        colorbar={"title": {"text": "P(entailment)"}},
        customdata=[
            [[words[a], words[b], *said[a, b].tolist()] for b in range(n)] for a in range(n)
        ],
        hovertemplate="premise %{customdata[0]}<br>hypothesis %{customdata[1]}<br>"
        "contradiction %{customdata[2]:.3f}, neutral %{customdata[3]:.3f}, "
        "entailment %{customdata[4]:.3f}<extra></extra>",
        texttemplate="%{z:.2f}" if n <= 12 else None,
        textfont={"size": 10},
        xgap=1 if n <= 40 else 0,
        ygap=1 if n <= 40 else 0,
    )
    return _framed_groups(fig, [*map(len, groups), 1], names, answers)


def _framed_groups(
    fig: go.Figure, sizes: Sequence[int], names: Sequence[str], answers: Sequence[Sample]
) -> go.Figure:
    """Name the rows and columns of answers in groups of these sizes, and frame each group."""
    starts = np.cumsum([0, *sizes[:-1]])
    for start, size in zip(starts.tolist(), sizes, strict=True):
        low, high = start - 0.5, start + size - 0.5
        line = {"color": VERMILLION, "width": 2.5}
        fig.add_shape(x0=low, x1=high, y0=low, y1=high, line=line)
    bare = {"showgrid": False, "zeroline": False, "ticks": ""}
    middles = (starts + (np.array(sizes) - 1) / 2).tolist()
    step = math.ceil(len(sizes) / 20)  # letters of more groups would lie on one another
    places, letters = middles[::step], [names[start] for start in starts[::step]]
    fig.update_xaxes(tickvals=places, ticktext=letters, tickangle=0, **bare)
    if len(names) <= 14:
        places = list(range(len(names)))
        letters = [f"{a}: {plain(s.text, 22)}" for a, s in zip(names, answers, strict=True)]
    fig.update_yaxes(tickvals=places, ticktext=letters, autorange="reversed", **bare)
    return add_notes(fig, ["framed: one meaning; ★: the most likely answer, which is not grouped"])


# --- views ---------------------------------------------------------------------------------------
#
# HTML text and one figure. Everything that came from a model, a file or a reference is escaped, and
# what a colour says stands there in letters or numbers too.


_TOP = f"vertical-align:top;padding:0.35rem 1rem 0.35rem 0;border-bottom:{LINE};text-align:left"
_TABULAR = "white-space:nowrap;font-variant-numeric:tabular-nums"
_MARKS = {"correct": "✓ correct", "wrong": "✗ wrong", "unanswered": "– no answer found"}
_TARGETS = {  # a probe's name begins with what it predicts
    "semantic_entropy": "entropy (nats)",
    "high_semantic_entropy": "P(high entropy)",
    "wrong_answer": "P(wrong)",
}
_METHODS = {
    "": "linear",
    "soft": "linear, soft labels",
    "mlp": "perceptron",
    "hybrid": "hybrid",
}


def question_view(run: AnyRun, question_id: str | None) -> list[str | go.Figure]:
    """A question's page and its judge's probabilities, or what to do while none is chosen."""
    if question_id is None:
        return [paragraph("Click a point in a figure, or choose a row of a table.")]
    try:
        decode, reason = run_decoder(run), ""
    except UserError as missing:
        decode, reason = None, str(missing)
    return [question_page(run, question_id, decode, reason), judge_matrix(run, question_id)]


def run_decoder(run: AnyRun) -> Decode:
    """The texts of a run's tokens; raises `UserError` where its tokenizer is not here."""
    used = run.manifest.get("hashes", {}).get("tokenizer_hash")
    return decoder(run.config.model, used)


def sample_tokens(
    run: AnyRun, i: int, groups: Sequence[Sequence[int]], decode: Decode | None
) -> str:
    """The tokens of every different sample, folded, in the order of the meanings."""
    left, parts, skipped = MOST_IN_ALL, [], 0
    seen: set[tuple[int, ...]] = set()
    for g, group in enumerate(groups):
        for s in group:
            sample = run.answers.samples[i][s]
            cost = min(len(sample.token_ids), MOST_TOKENS)
            if sample.token_ids in seen:
                continue
            seen.add(sample.token_ids)
            if cost > left:
                skipped += 1
                continue
            left -= cost
            title = f"{letter(g)}, sample {s + 1}"
            parts.append(tokens(title, sample.token_ids, sample.token_entropies, decode))
    if skipped:
        parts.append(paragraph(f"{skipped} more are left out: the page would be too long."))
    return folded(f"The samples’ tokens ({len(seen)} different ones)", "".join(parts))


def question_page(
    run: AnyRun, question_id: str, decode: Decode | None = None, no_decode: str = ""
) -> str:
    """One question as HTML: its answers by meaning, its entropy worked out, tokens, probes.

    `decode` (of `tokens.decoder`) gives the texts of tokens; without it their entropies are
    bars, and `no_decode` says why. Raises `UserError` where the run has no such question.
    """
    i = question_row(run, question_id)
    greedy = run.answers.greedy[i]
    groups = by_meaning(run.meanings.clusters[i])
    parts = [
        _facts(run, i),
        heading(f"{counted(sum(map(len, groups)), 'sample')}, {counted(len(groups), 'meaning')}"),
        _share_bar(groups),
        _meaning_rows(run, i, groups),
        _entropy_sum(groups),
        heading("How sure the model was of each token"),
        token_legend(decode, no_decode),
        tokens("Most likely answer", greedy.token_ids, greedy.token_entropies, decode),
        sample_tokens(run, i, groups, decode),
        heading("What the probes say"),
        _probe_table(run, i),
        folded("All estimators of this question", _estimator_table(run, i)),
    ]
    return f'<div style="max-width:62rem;line-height:1.45">{"".join(parts)}</div>'


# --- the question and its meanings ---------------------------------------------------------------


def _facts(run: AnyRun, i: int) -> str:
    question, greedy = run.answers.questions[i], run.answers.greedy[i]
    reference = question.final_answer or question.answer
    solved = ""
    if question.final_answer and question.answer.strip() != question.final_answer:
        solved = folded("worked solution", f'<div style="{WRAP}">{safe(question.answer)}</div>')
    rows = {
        "Reference answer": (long_text(reference) if reference else "none") + solved,
        "Most likely answer": f"{long_text(greedy.text)} "
        f"{aside(_remarks(run.meanings.greedy_grades[i]))}",
    }
    cells = "".join(
        f'<dt style="{MUTED}">{name}</dt><dd style="margin:0;min-width:0">{cell}</dd>'
        for name, cell in rows.items()
    )
    about = f"{question.split} question {question.id}"
    return (
        f'<div style="{MUTED};font-size:0.8rem">{safe(about)}</div>'
        f'<div style="font-size:1.08rem;font-weight:600;margin:0.2rem 0 0.7rem;{WRAP}">'
        f"{safe(question.question)}</div>"
        '<dl style="display:grid;grid-template-columns:max-content 1fr;gap:0.3rem 1.2rem;margin:0">'
        f"{cells}</dl>"
    )


def _share_bar(groups: Sequence[Sequence[int]]) -> str:
    """One bar, in which each meaning has its share."""
    k = sum(map(len, groups))
    said = ", ".join(f"{letter(g)} {len(group)} of {k}" for g, group in enumerate(groups))
    parts = "".join(
        f'<div title="{letter(g)}: {len(group)} of {k}" style="flex:{len(group)};min-width:2px;'
        f"overflow:hidden;text-align:center;font-size:0.75rem;line-height:1.4rem;"
        f'{_painted(g)}">{letter(g)}</div>'
        for g, group in enumerate(groups)
    )
    return (
        f'<div role="img" aria-label="Shares of the meanings: {said}" style="display:flex;gap:2px;'
        f'border-radius:4px;overflow:hidden;margin:0.2rem 0 0.6rem">{parts}</div>'
    )


def _meaning_rows(run: AnyRun, i: int, groups: Sequence[Sequence[int]]) -> str:
    """A row a meaning: its letter, its share, its wordings and its part of the entropy."""
    k = sum(map(len, groups))
    samples, grades = run.answers.samples[i], run.meanings.grades[i]
    likeliest = run.answers.greedy[i].text.strip()
    rows = []
    for g, group in enumerate(groups):
        wordings = Counter((samples[s].text.strip(), grades[s] if grades else None) for s in group)
        lines = "".join(
            f'<div style="margin-bottom:0.15rem">{long_text(text)} '
            f"{aside(_remarks(grade, count, text == likeliest))}</div>"
            for (text, grade), count in wordings.most_common()
        )
        chip = (
            f'<span style="display:inline-block;min-width:1.5em;text-align:center;padding:0 0.3em;'
            f'border-radius:4px;font-weight:600;{_painted(g)}">{letter(g)}</span>'
        )
        numbers = f"p = {len(group)}/{k} = {len(group) / k:.3g}"
        part = f"−p ln p = {_part(len(group), k):.3f}"
        rows.append(
            f'<tr><td style="{_TOP}">{chip}</td><td style="{_TOP};width:100%;min-width:9rem">'
            f'{lines}</td><td style="{_TOP};{_TABULAR}">{numbers}</td>'
            f'<td style="{_TOP};{_TABULAR};padding-right:0">{part}</td></tr>'
        )
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;width:100%;border:0">'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _painted(number: int) -> str:
    """A meaning's colour, with letters that can be read on it."""
    letters = "#fff" if number % len(COLOURS) == 0 else "#111"
    return f"background:{COLOURS[number % len(COLOURS)]};color:{letters}"


def _entropy_sum(groups: Sequence[Sequence[int]]) -> str:
    """Semantic entropy as the sum of the rows above, with this question's numbers."""
    sizes = [len(group) for group in groups]
    k = sum(sizes)
    terms = [
        (f"{times} × " if times > 1 else "") + f"{_part(size, k):.3f}"
        for size, times in sorted(Counter(sizes).items(), reverse=True)
    ]
    total = math.fsum(_part(size, k) for size in sizes)
    rounded = "; each number is rounded" if len(sizes) > 1 else ""
    return (
        f'<div style="margin:0.6rem 0 0;padding:0.5rem 0.8rem;border-left:3px solid {VERMILLION}">'
        f"Semantic entropy = −Σ p ln p = {' + '.join(terms)} = <strong>{total:.3f} nats</strong>"
        f'<div style="{SMALL}">between 0 (all {k} samples mean the same) and '
        f"ln {k} = {math.log(k):.3f} (each means something else){rounded}</div></div>"
    )


def _part(size: int, k: int) -> float:
    """−p ln p of a meaning that `size` of k samples share, nats."""
    return size / k * math.log(k / size)


def _remarks(grade: Grade | None, count: int = 1, likeliest: bool = False) -> str:
    """How often a wording occurs, its grade, and whether the most likely answer reads so."""
    said = [f"× {count}" if count > 1 else "", _MARKS.get(grade.status, "") if grade else ""]
    return " · ".join(filter(None, [*said, "★ the most likely answer" if likeliest else ""]))


# --- probes and estimators -----------------------------------------------------------------------


def _probe_table(run: AnyRun, i: int) -> str:
    """Rows of probes, columns of what they predict; the first row is what was measured."""
    predicted = {name: float(values[i]) for name, values in predictions(run).items()}
    if not predicted:
        return paragraph("There are no probes (yet).")
    rows: dict[str, dict[str, str]] = {}
    others = []
    for name, value in predicted.items():
        target, row = _kind(name)
        shown = "undefined" if not math.isfinite(value) else f"{value:.3f}"
        if not target:  # of another version
            others.append(f"{name} {shown}")
            continue
        rows.setdefault(row, {})[target] = shown
    targets = run.targets
    high = "undefined: γ is not defined"
    if targets.threshold is not None:
        above = targets.semantic_entropy[i] > targets.threshold
        high = f"{'high' if above else 'low'} (γ = {targets.threshold:.3f})"
    grade = run.meanings.greedy_grades[i]
    measured = (f"{targets.semantic_entropy[i]:.3f}", high, grade.status if grade else "not graded")
    heads = ("", *_TARGETS.values())
    body = [
        ("measured by sampling", *measured),
        *((row, *(cells.get(target, "") for target in _TARGETS)) for row, cells in rows.items()),
    ]
    note = f"High: semantic entropy above γ. This is a {targets.splits[i]} question: "
    note += (
        "no probe was trained on it."
        if targets.splits[i] == "test"
        else "what a probe says of a question that it was trained or chosen on proves little."
    )
    note += f" Other probes: {', '.join(others)}." if others else ""
    return html_table(heads, body, note)


def _kind(name: str) -> tuple[str, str]:
    """What a probe predicts, and which of those that predict it it is, in words."""
    target = max((t for t in _TARGETS if name.startswith(t)), key=len, default="")
    if not target:
        return "", name
    method = name.removeprefix(target).strip("_")
    prompt = method.endswith("prompt")
    method = method.removesuffix("prompt").strip("_")
    words = _METHODS.get(method, method.replace("_", " "))
    return target, f"{words}, prompt only" if prompt else words


def _estimator_table(run: AnyRun, i: int) -> str:
    try:
        known = {name: float(values[i]) for name, values in run.uncertainty.items()}
    except UserError as reason:  # the stage is still to come
        return paragraph(str(reason))
    cards = {name: card for name, card in ESTIMATORS.items() if name in known}
    rows = [
        (card.title, f"{known[name]:.4g}", card.units)
        for name, card in cards.items()
        if math.isfinite(known[name])
    ]
    missing = [card.title for name, card in cards.items() if not math.isfinite(known[name])]
    note = "Higher always means more uncertain."
    note += f" Not computed for this question: {', '.join(missing)}." if missing else ""
    return html_table(("estimator", "value", "units"), rows, note)
