"""One question with all there is to know of it, the judge's probabilities, and lists of cases.

HTML text and one figure. Everything that came from a model, a file or a reference is escaped, and
what a colour says stands there in letters or numbers too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from helpers.errors import UserError
from helpers.explore import AnyRun, by_meaning, predictions, question_row
from helpers.explore_cases import ID, case_rows, cases
from helpers.explore_judge import judge_matrix
from helpers.explore_tokens import sample_tokens, token_legend, tokens
from helpers.figure_style import VERMILLION
from helpers.grading import Grade
from helpers.html_parts import (
    LINE,
    MUTED,
    WRAP,
    aside,
    counted,
    folded,
    heading,
    letter,
    long_text,
    painted,
    paragraph,
    safe,
)
from helpers.report_tables import html_table
from helpers.token_texts import Decode, decoder
from helpers.uncertainty import ESTIMATORS

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
        decode, reason = decoder(run), ""
    except UserError as missing:
        decode, reason = None, str(missing)
    return [question_page(run, question_id, decode, reason), judge_matrix(run, question_id)]


def cases_page(run: AnyRun) -> str:
    """All lists of instructive questions as HTML, each with what it teaches."""
    parts = []
    for name, found in cases(run).items():
        parts.append(heading(name[0].upper() + name[1:]) + paragraph(found.lesson))
        if not found.cases:
            parts.append(paragraph(f"None: {found.empty}."))
            continue
        rows = case_rows(found)
        heads = [head for head in dict.fromkeys(h for row in rows for h in row) if head != ID]
        parts.append(
            html_table(heads, [[_cell(row.get(head, "")) for head in heads] for row in rows])
        )
    return "".join(parts)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def question_page(
    run: AnyRun, question_id: str, decode: Decode | None = None, no_decode: str = ""
) -> str:
    """One question as HTML: its answers by meaning, its entropy worked out, tokens, probes.

    `decode` (of `token_texts.decoder`) gives the texts of tokens; without it their entropies are
    bars, and `no_decode` says why. Raises `UserError` where the run has no such question.
    """
    i = question_row(run, question_id)
    groups = by_meaning(run.meanings.clusters[i])
    parts = [
        _facts(run, i),
        heading(f"{counted(sum(map(len, groups)), 'sample')}, {counted(len(groups), 'meaning')}"),
        _share_bar(groups),
        _meaning_rows(run, i, groups),
        _entropy_sum(groups),
        heading("How sure the model was of each token"),
        token_legend(decode, no_decode),
        tokens("Most likely answer", run.answers.greedy[i], decode),
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
        f'{painted(g)}">{letter(g)}</div>'
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
            f'border-radius:4px;font-weight:600;{painted(g)}">{letter(g)}</span>'
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
        f'<div style="{MUTED};font-size:0.85rem">between 0 (all {k} samples mean the same) and '
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
