"""One question with all there is to know of it, the judge's probabilities, and lists of cases.

HTML text and one figure. Everything that came from a model, a file or a reference is escaped, and
what a colour says stands there in letters or numbers too.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from helpers.errors import UserError
from helpers.explore import (
    ID,
    Decode,
    Opened,
    by_meaning,
    case_rows,
    cases,
    decoder,
    predictions,
    question_row,
)
from helpers.figure_style import (
    COLOURS,
    HOVER_BUDGET,
    VERMILLION,
    add_notes,
    framed,
    plain,
    say_instead,
    wrapped,
)
from helpers.grading import Grade
from helpers.report_tables import html_table
from helpers.sampling import Sample
from helpers.uncertainty import ESTIMATORS

SURE, UNSURE = 0.1, 2.0
"""Nats: below the first a token's entropy is not written out; from the second on, full colour."""
MOST_TOKENS, MOST_IN_ALL = 600, 6_000
"""Tokens shown of one answer, and of all samples: a page that marimo shows has a largest size."""
LONG = 320
"""Characters of an answer that are shown without unfolding it."""

_MUTED = "color:var(--muted-foreground,#777)"
_LINE = "1px solid rgba(128,128,128,0.25)"
_WRAP = "white-space:pre-wrap;overflow-wrap:anywhere"
_TOP = f"vertical-align:top;padding:0.35rem 1rem 0.35rem 0;border-bottom:{_LINE};text-align:left"
_TABULAR = "white-space:nowrap;font-variant-numeric:tabular-nums"
_TOKEN = "display:inline-block;text-align:center;margin-right:1px"
_UNDER = f"display:block;font-size:0.68rem;line-height:1;{_MUTED}"
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


def question_view(run: Opened, question_id: str | None) -> list[str | go.Figure]:
    """A question's page and its judge's probabilities, or what to do while none is chosen."""
    if question_id is None:
        return [_paragraph("Click a point in a figure, or choose a row of a table.")]
    try:
        decode, reason = decoder(run), ""
    except UserError as missing:
        decode, reason = None, str(missing)
    return [question_page(run, question_id, decode, reason), judge_matrix(run, question_id)]


def cases_page(run: Opened) -> str:
    """All lists of instructive questions as HTML, each with what it teaches."""
    parts = []
    for name, found in cases(run).items():
        parts.append(_heading(name[0].upper() + name[1:]) + _paragraph(found.lesson))
        if not found.cases:
            parts.append(_paragraph(f"None: {found.empty}."))
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
    run: Opened, question_id: str, decode: Decode | None = None, no_decode: str = ""
) -> str:
    """One question as HTML: its answers by meaning, its entropy worked out, tokens, probes.

    `decode` (of `explore.decoder`) gives the texts of tokens; without it their entropies are bars,
    and `no_decode` says why. Raises `UserError` where the run has no such question.
    """
    i = question_row(run, question_id)
    groups = by_meaning(run.meanings.clusters[i])
    parts = [
        _facts(run, i),
        _heading(f"{_count(sum(map(len, groups)), 'sample')}, {_count(len(groups), 'meaning')}"),
        _share_bar(groups),
        _meaning_rows(run, i, groups),
        _entropy_sum(groups),
        _heading("How sure the model was of each token"),
        _token_legend(decode, no_decode),
        _tokens("Most likely answer", run.answers.greedy[i], decode),
        _sample_tokens(run, i, groups, decode),
        _heading("What the probes say"),
        _probe_table(run, i),
        _folded("All estimators of this question", _estimator_table(run, i)),
    ]
    return f'<div style="max-width:62rem;line-height:1.45">{"".join(parts)}</div>'


# --- the question and its meanings ---------------------------------------------------------------


def _facts(run: Opened, i: int) -> str:
    question, greedy = run.answers.questions[i], run.answers.greedy[i]
    reference = question.final_answer or question.answer
    solved = ""
    if question.final_answer and question.answer.strip() != question.final_answer:
        solved = _folded("worked solution", f'<div style="{_WRAP}">{_safe(question.answer)}</div>')
    rows = {
        "Reference answer": (_long(reference) if reference else "none") + solved,
        "Most likely answer": f"{_long(greedy.text)} "
        f"{_aside(_remarks(run.meanings.greedy_grades[i]))}",
    }
    cells = "".join(
        f'<dt style="{_MUTED}">{name}</dt><dd style="margin:0;min-width:0">{cell}</dd>'
        for name, cell in rows.items()
    )
    about = f"{question.split} question {question.id}"
    return (
        f'<div style="{_MUTED};font-size:0.8rem">{_safe(about)}</div>'
        f'<div style="font-size:1.08rem;font-weight:600;margin:0.2rem 0 0.7rem;{_WRAP}">'
        f"{_safe(question.question)}</div>"
        '<dl style="display:grid;grid-template-columns:max-content 1fr;gap:0.3rem 1.2rem;margin:0">'
        f"{cells}</dl>"
    )


def _share_bar(groups: Sequence[Sequence[int]]) -> str:
    """One bar, in which each meaning has its share."""
    k = sum(map(len, groups))
    said = ", ".join(f"{_letter(g)} {len(group)} of {k}" for g, group in enumerate(groups))
    parts = "".join(
        f'<div title="{_letter(g)}: {len(group)} of {k}" style="flex:{len(group)};min-width:2px;'
        f"overflow:hidden;text-align:center;font-size:0.75rem;line-height:1.4rem;"
        f'{_painted(g)}">{_letter(g)}</div>'
        for g, group in enumerate(groups)
    )
    return (
        f'<div role="img" aria-label="Shares of the meanings: {said}" style="display:flex;gap:2px;'
        f'border-radius:4px;overflow:hidden;margin:0.2rem 0 0.6rem">{parts}</div>'
    )


def _meaning_rows(run: Opened, i: int, groups: Sequence[Sequence[int]]) -> str:
    """A row a meaning: its letter, its share, its wordings and its part of the entropy."""
    k = sum(map(len, groups))
    samples, grades = run.answers.samples[i], run.meanings.grades[i]
    likeliest = run.answers.greedy[i].text.strip()
    rows = []
    for g, group in enumerate(groups):
        wordings = Counter((samples[s].text.strip(), grades[s] if grades else None) for s in group)
        lines = "".join(
            f'<div style="margin-bottom:0.15rem">{_long(text)} '
            f"{_aside(_remarks(grade, count, text == likeliest))}</div>"
            for (text, grade), count in wordings.most_common()
        )
        chip = (
            f'<span style="display:inline-block;min-width:1.5em;text-align:center;padding:0 0.3em;'
            f'border-radius:4px;font-weight:600;{_painted(g)}">{_letter(g)}</span>'
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
        f'<div style="{_MUTED};font-size:0.85rem">between 0 (all {k} samples mean the same) and '
        f"ln {k} = {math.log(k):.3f} (each means something else){rounded}</div></div>"
    )


def _part(size: int, k: int) -> float:
    """−p ln p of a meaning that `size` of k samples share, nats."""
    return size / k * math.log(k / size)


# --- tokens --------------------------------------------------------------------------------------


def _token_legend(decode: Decode | None, no_decode: str) -> str:
    """What the colours, or the bars, mean."""
    meaning = "the entropy of the model’s distribution over all tokens at its place, in nats"
    if decode is None:
        why = f" ({no_decode})" if no_decode else ""
        return _small(
            f"Each bar is one token, in their order, and {meaning}. The tokens’ texts are not "
            f"shown: that needs the model’s tokenizer{why}."
        )
    scale = "".join(
        f'<span style="padding:0 0.5em;{_tint(nats)}">{nats:g}</span>'
        for nats in (0.0, 0.5, 1.0, 1.5, UNSURE)
    )
    words = f"Below a token stands {meaning}, where it is {SURE:g} or more. Its colour:"
    return f'{_small(words)}<div style="font-size:0.8rem">{scale} nats and more</div>'


def _tokens(title: str, sample: Sample, decode: Decode | None) -> str:
    """The tokens of one answer, or its last ones where there are too many."""
    left_out = max(0, len(sample.token_ids) - MOST_TOKENS)
    entropies, ids = sample.token_entropies[left_out:], sample.token_ids[left_out:]
    if not entropies:
        return _paragraph(f"{title}: no token was generated.")
    most = max(range(len(entropies)), key=entropies.__getitem__)
    label = (
        f"{title}: {_count(len(entropies), 'token')}, the highest entropy is "
        f"{entropies[most]:.2f} nats at token {left_out + most + 1}"
    )
    note = f". The first {left_out:,} tokens are left out" if left_out else ""
    if decode is None:
        role, body = "img", _bars(entropies, left_out)
    else:
        role, body = "group", _coloured(decode(ids), entropies, left_out)
    return (
        f'<div style="margin:0.5rem 0">{_small(label + note)}'
        f'<div role="{role}" aria-label="{_safe(label)}">{body}</div></div>'
    )


def _coloured(texts: Sequence[str], entropies: Sequence[float], before: int) -> str:
    """Tokens as text on a tint, with the entropy of unsure ones written below."""
    spans = []
    for place, (text, nats) in enumerate(zip(texts, entropies, strict=True), before + 1):
        blank = "␣" * len(text) if text.strip(" ") == "" else text
        words = blank.replace("\n", "↵") or "·"
        tip = f"token {place}: {words if text else 'a part of a character'}, {nats:.3f} nats"
        number, room = (f"{nats:.1f}", ";min-width:1.3rem") if nats >= SURE else ("&nbsp;", "")
        spans.append(
            f'<span title="{_safe(tip)}" style="{_TOKEN}{room}">'
            f'<span style="{_WRAP};{_tint(nats)}">{_safe(words)}</span>'
            f'<span style="{_UNDER}">{number}</span></span>' + "<br>" * text.count("\n")
        )
    return f'<div style="line-height:1.35">{"".join(spans)}</div>'


def _bars(entropies: Sequence[float], before: int) -> str:
    """Entropies as bars in the order of the tokens, on a scale from 0 to the highest."""
    top = max(*entropies, SURE)
    bars = "".join(
        f'<div title="token {place}: {nats:.3f} nats" style="flex:0 1 12px;min-width:1px;'
        f'height:{max(2.0, 100 * nats / top):.0f}%;background:{VERMILLION}"></div>'
        for place, nats in enumerate(entropies, before + 1)
    )
    ends = f"<span>{top:.2f}</span><span>0</span>"
    return (
        f'<div style="display:flex;gap:0.5rem"><div style="{_MUTED};font-size:0.75rem;display:flex;'
        f'flex-direction:column;justify-content:space-between;text-align:right">{ends}</div>'
        f'<div style="display:flex;gap:1px;align-items:flex-end;height:48px;flex:1;'
        f'border-bottom:{_LINE}">{bars}</div></div>'
    )


def _sample_tokens(
    run: Opened, i: int, groups: Sequence[Sequence[int]], decode: Decode | None
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
            parts.append(_tokens(f"{_letter(g)}, sample {s + 1}", sample, decode))
    if skipped:
        parts.append(_paragraph(f"{skipped} more are left out: the page would be too long."))
    return _folded(f"The samples’ tokens ({len(seen)} different ones)", "".join(parts))


# --- probes and estimators -----------------------------------------------------------------------


def _probe_table(run: Opened, i: int) -> str:
    """Rows of probes, columns of what they predict; the first row is what was measured."""
    predicted = {name: float(values[i]) for name, values in predictions(run).items()}
    if not predicted:
        return _paragraph("There are no probes (yet).")
    rows: dict[str, dict[str, str]] = {}
    others = []
    for name, value in predicted.items():
        target, row = _kind(name)
        shown = "undefined" if not math.isfinite(value) else f"{value:.3f}"
        if not target:  # of another version
            others.append(f"{name} {shown}")
            continue
        if name == "semantic_entropy_soft_prompt":  # a run keeps it as it was learnt
            shown += " (share of ln K)"
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


def _estimator_table(run: Opened, i: int) -> str:
    try:
        known = {name: float(values[i]) for name, values in run.uncertainty.items()}
    except UserError as reason:  # the stage is still to come
        return _paragraph(str(reason))
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


# --- the judge -----------------------------------------------------------------------------------


def judge_matrix(run: Opened, question_id: str) -> go.Figure:
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
    names = [_letter(g) for g, group in enumerate(groups) for _ in group] + ["★"]
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


# --- small pieces --------------------------------------------------------------------------------


def _letter(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + last)


def _painted(number: int) -> str:
    """A meaning's colour, with letters that can be read on it."""
    letters = "#fff" if number % len(COLOURS) == 0 else "#111"
    return f"background:{COLOURS[number % len(COLOURS)]};color:{letters}"


def _tint(nats: float) -> str:
    """A background that grows stronger with entropy."""
    return f"background:rgba(213,94,0,{0.7 * min(max(nats, 0.0) / UNSURE, 1.0):.2f})"


def _remarks(grade: Grade | None, count: int = 1, likeliest: bool = False) -> str:
    """How often a wording occurs, its grade, and whether the most likely answer reads so."""
    said = [f"× {count}" if count > 1 else "", _MARKS.get(grade.status, "") if grade else ""]
    return " · ".join(filter(None, [*said, "★ the most likely answer" if likeliest else ""]))


def _aside(text: str) -> str:
    return f'<span style="{_MUTED};font-size:0.85rem">{_safe(text)}</span>'


def _small(text: str) -> str:
    return f'<div style="{_MUTED};font-size:0.85rem">{_safe(text)}</div>'


def _long(text: str) -> str:
    """An answer; of a long one the beginning, with the rest folded."""
    text = text.strip()
    if len(text) <= LONG:
        return f'<span style="{_WRAP}">{_safe(text) or "(empty)"}</span>'
    start = html.escape(text[:120].replace("\n", " "))
    whole = f'<div style="{_WRAP}">{_safe(text)}</div>'
    return f"<details><summary>{start}… ({len(text):,} characters)</summary>{whole}</details>"


def _folded(title: str, body: str) -> str:
    return (
        f'<details style="margin-top:0.3rem"><summary style="cursor:pointer">{_safe(title)}'
        f"</summary>{body}</details>"
    )


def _heading(text: str) -> str:
    return f'<div style="font-weight:600;margin:1.3rem 0 0.35rem">{_safe(text)}</div>'


def _paragraph(text: str) -> str:
    return f'<p style="margin:0.3rem 0">{_safe(text)}</p>'


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _safe(text: object) -> str:
    """Anyone's text as HTML that shows it, in an attribute too."""
    return html.escape(str(text))
