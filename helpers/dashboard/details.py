"""The runs that are selected, one after the other: texts, scores and tokens, all escaped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.analysis_columns import COLUMNS
from helpers.analysis_file import AnalysisTable, RunDetails, read_details
from helpers.dashboard.data import OpenRun
from helpers.dashboard.filters import NOTHING_LEFT, Kept, chosen_rows
from helpers.dashboard.query import MOST_CHOSEN
from helpers.dashboard.signals import TITLES, UNGRADED
from helpers.dashboard.words import counted_runs
from helpers.html_parts import LINE, MUTED, WRAP, counted, folded, paragraph, safe, small_print
from helpers.studies.reasoning.records import PREDICTORS

ANCHOR = "details"
LONGEST_TEXT = 30_000
"""Characters of one text that are shown."""
MOST_TOKENS = 6000
"""Coloured tokens on one page, over all runs: an output of marimo has a largest size."""
NONE_CHOSEN = (
    "No run is selected. Click a point in one of the figures above, or draw a box or a lasso "
    "around some."
)
_ABOUT = {column.name: column.about for column in COLUMNS}
_CELL = "padding:0.15rem 1rem 0.15rem 0;vertical-align:top;text-align:left"


def details_view(run: OpenRun, kept: Kept, chosen: tuple[int, ...]) -> str:
    """HTML of the selected runs that the filters leave, at most `MOST_CHOSEN` of them.

    Of more, the first in the table's order are shown, and that is said. Raises `UserError` where
    the file cannot be read any more.
    """
    rows = chosen_rows(kept, chosen).tolist()
    said = _counts(len(chosen), len(rows)) if len(kept.rows) else NOTHING_LEFT
    if not rows:
        return paragraph(said)
    shown = rows[:MOST_CHOSEN]
    left = MOST_TOKENS
    cards = []
    for found in read_details(run.path, shown):
        tokens, used = _tokens(found, left)
        left -= used
        cards.append(_card(run.table, found, tokens))
    return paragraph(said) + _legend(cards) + "".join(cards)


def _counts(chosen: int, left: int) -> str:
    """How many runs are selected, hidden and shown."""
    if not chosen:
        return NONE_CHOSEN
    words = f"{counted_runs(chosen)} selected"
    if left < chosen:
        words += f", {chosen - left:,} of them hidden by the filters"
    if left > MOST_CHOSEN:
        words += f"; the first {MOST_CHOSEN} in the order of the file are shown"
    return words + "."


def _card(table: AnalysisTable, found: RunDetails, tokens: str) -> str:
    """One run: what was asked, thought and answered, and what every probe said of it."""
    row = found.row
    (question_id,), (status,) = table.words("question_id", [row]), table.words("status", [row])
    (dataset,), (split,) = table.words("dataset", [row]), table.words("split", [row])
    final = "states no answer" if found.final_answer is None else _cut(found.final_answer, 200)
    title = f"{question_id} · run {int(table['run_id'][row])}"
    rows = [
        ("question", _text(found.question)),
        ("thinking", _folded_text(found.thinking, int(table["thinking_tokens"][row]))),
        ("answer", _text(found.answer)),
        ("final answer", f'<span style="{WRAP}">{safe(final)}</span>'),
        ("reference", _text(found.reference) if found.reference else "none is known"),
        ("correct?", f"<strong>{safe(status or UNGRADED)}</strong>"),
    ]
    body = "".join(
        f'<div style="{MUTED}">{name}</div><div style="min-width:0">{value}</div>'
        for name, value in rows
    )
    grid = "display:grid;grid-template-columns:6.5rem minmax(0,1fr);gap:0.3rem 0.8rem"
    return (
        f'<section style="border-top:{LINE};padding:0.9rem 0" aria-label="{safe(title)}">'
        f'<div style="font-weight:600;overflow-wrap:anywhere">{safe(title)}'
        f'<span style="{MUTED};font-weight:400"> · {safe(dataset)}, {safe(split)}</span></div>'
        f'<div style="{grid};margin-top:0.4rem">{body}</div>'
        f"{_signals(table, row)}{_scores(table, row)}{tokens}</section>"
    )


def _text(text: str) -> str:
    """A text as it is, its end left out where it is very long."""
    return f'<div style="{WRAP}">{safe(_cut(text, LONGEST_TEXT)) or "(empty)"}</div>'


def _folded_text(text: str, tokens: int) -> str:
    if not text.strip():
        return "none, or it was never closed"
    return folded(f"{counted(tokens, 'token')} of thinking", _text(text.strip()))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters in all)"


def _signals(table: AnalysisTable, row: int) -> str:
    """The numbers of the run that no probe gives."""
    threshold, high = table.about.threshold, table["high_semantic_entropy"][row]
    entropy = _number(table["semantic_entropy"][row], "nats")
    if threshold is not None and np.isfinite(high):
        entropy += f" ({'high: above' if high else 'not high: at most'} {threshold:.2f})"
    parts = [
        f"semantic entropy of the question {entropy}",
        f"mean token entropy of the thinking {_number(table['thinking_entropy'][row], 'nats')}",
        f"agreement of the question's other runs {_number(table['agreement'][row])}",
    ]
    return small_print("; ".join(parts))


def _scores(table: AnalysisTable, row: int) -> str:
    """What each probe says of the run, and what its number means."""
    heads = ("probe", "probability", "margin (nats)", "distance (sd)", "what the probability is")
    lines = []
    for name in PREDICTORS:
        meaning = _ABOUT[f"probability_{name}"]
        if name in table.about.undefined:
            meaning = f"undefined, because {table.about.undefined[name]}"
        cells = (
            TITLES[name],
            _number(table[f"probability_{name}"][row]),
            _number(table[f"margin_{name}"][row]),
            _number(table[f"projection_{name}"][row]),
            meaning,
        )
        lines.append("".join(f'<td style="{_CELL}">{safe(cell)}</td>' for cell in cells))
    head = "".join(f'<th style="{_CELL};{MUTED};font-weight:400">{safe(h)}</th>' for h in heads)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<div style="overflow-x:auto;font-size:0.85rem;font-variant-numeric:tabular-nums;'
        f'margin-top:0.4rem"><table style="border-collapse:collapse"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(value: float, unit: str = "") -> str:
    if not np.isfinite(value):
        return "unknown"
    return f"{value:.2f} {unit}".rstrip()


def _legend(cards: Sequence[str]) -> str:
    """What the colours of tokens mean, where any are coloured."""
    if not any("<span title=" in card for card in cards):
        return ""
    from helpers.explore_tokens import token_legend

    return token_legend(lambda ids: [], "")


def _tokens(found: RunDetails, left: int) -> tuple[str, int]:
    """The run's tokens on a tint of their entropy, and how many of them are shown."""
    # These modules know of sampling; the page's first paint does without them.
    from helpers.explore_tokens import MOST_TOKENS as MOST_IN_A_PART
    from helpers.explore_tokens import tokens
    from helpers.sampling import Sample

    texts, entropies = found.token_texts, found.token_entropies
    if not texts or len(entropies) != len(texts):
        return small_print("The entropies of this run's tokens are not known."), 0
    if not np.isfinite(entropies).all():
        return small_print("Some entropies of this run's tokens are not numbers."), 0
    start, end = found.thinking_span or (0, 0)
    spans = {"Thinking": (start, end), "Answer": (end, len(texts))}
    spans = {name: span for name, span in spans.items() if span[0] < span[1]}
    shown = sum(min(last - first, MOST_IN_A_PART) for first, last in spans.values())
    if shown > left:
        return small_print("Its tokens are left out: the page would be too long."), 0
    parts = []
    for name, (first, last) in spans.items():
        part = Sample(
            question_id="",
            sample_id=0,
            text="",
            token_ids=tuple(range(first, last)),
            token_logprobs=(),
            token_entropies=tuple(entropies[first:last].tolist()),
            finish_reason="",
        )
        parts.append(tokens(name, part, lambda places: [texts[place] for place in places]))
    return folded("Entropy of each token", "".join(parts)), shown
