"""The pieces of HTML of which pages are made: tables, cells, tokens on a tint; texts in them are
escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence

from helpers.evaluation.scores import Score, format_score
from helpers.views.style import VERMILLION

LONG = 320  # characters of an answer that are shown without unfolding it

MUTED = "color:var(--muted-foreground,#777)"
SMALL = f"{MUTED};font-size:0.85rem"
LINE = "1px solid rgba(128,128,128,0.25)"
WRAP = "white-space:pre-wrap;overflow-wrap:anywhere"
Decode = Callable[[Sequence[int]], list[str]]  # token ids to the text of each
NONE = "–"  # stands in a cell for a number that there is not

_CELL = f"padding:0.3rem 1.2rem 0.3rem 0;vertical-align:top;text-align:left;border-bottom:{LINE}"


def safe(text: object) -> str:
    """Anyone's text as HTML that shows it, in an attribute too."""
    return html.escape(str(text))


# --- blocks of text ------------------------------------------------------------------------------


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p style="margin:0.3rem 0;{style}">{safe(text)}</p>'


def sentences(texts: Iterable[str]) -> str:
    """Plain texts, a paragraph each."""
    return "".join(map(paragraph, texts))


def aside(text: str) -> str:
    """A remark in a line."""
    return f'<span style="{SMALL}">{safe(text)}</span>'


def small_print(text: str) -> str:
    """A remark on a line of its own."""
    return f'<div style="{SMALL}">{safe(text)}</div>'


def heading(text: str) -> str:
    """The title of a part of a page."""
    return f'<div style="font-weight:600;margin:1.3rem 0 0.35rem">{safe(text)}</div>'


def folded(title: str, body: str) -> str:
    """A title that unfolds a body, which is HTML."""
    return (
        f'<details style="margin-top:0.3rem"><summary style="cursor:pointer">{safe(title)}'
        f"</summary>{body}</details>"
    )


def long_text(text: str) -> str:
    """An answer; of a long one the beginning, with the rest folded."""
    text = text.strip()
    if len(text) <= LONG:
        return f'<span style="{WRAP}">{safe(text) or "(empty)"}</span>'
    start = safe(text[:120].replace("\n", " "))
    whole = f'<div style="{WRAP}">{safe(text)}</div>'
    return f"<details><summary>{start}… ({len(text):,} characters)</summary>{whole}</details>"


def html_table(heads: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """A table of anyone's texts, all escaped; it scrolls sideways where it is too wide."""

    def cell(value: object) -> str:  # numbers and names stay on one line
        width = "white-space:nowrap" if len(str(value)) <= 26 else "min-width:11rem"
        return f'<td style="{_CELL};{width}">{_lines(value)}</td>'

    head = "".join(f'<th style="{_CELL};{MUTED}">{_lines(h)}</th>' for h in heads)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    below = f'<div style="{SMALL};margin-top:0.4rem">{_lines(note)}</div>' if note else ""
    return (
        '<div style="overflow-x:auto;font-size:0.9rem;font-variant-numeric:tabular-nums">'
        f'<table style="border-collapse:collapse;border:0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{below}"
    )


def _lines(text: object) -> str:
    return safe(text).replace("\n", "<br>")


# --- words and numbers ---------------------------------------------------------------------------


def letter(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    before, last = divmod(number, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def counted(number: int, thing: str) -> str:
    """How many there are of a thing, in words: "1 token", "12 tokens"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def score_cell(score: Score) -> str:
    """A score with its interval, short enough for a column: its reasons stand below the table."""
    if score.value is None:
        return "undefined"
    if score.low is None or score.high is None:
        return f"{score.value:.3f} (no interval)"
    return format_score(score)


def signed(score: Score, digits: int = 2) -> str:
    """A difference with its sign and interval, short enough for a column."""
    if score.value is None:
        return "undefined"
    value = f"{score.value:+.{digits}f}"
    if score.low is None or score.high is None:
        return f"{value} (no interval)"
    return f"{value} [{score.low:+.{digits}f}, {score.high:+.{digits}f}]"


def change(score: Score | None) -> str:
    """What a change made, signed; nothing where there is none to make, "0" where nothing moved."""
    if score is None:
        return ""
    return "0" if score.value == score.low == score.high == 0 else signed(score, 3)


def percent(score: Score) -> str:
    """A share with its interval, in percent."""
    if score.value is None:
        return "undefined"
    ends = [score.value, *(end for end in (score.low, score.high) if end is not None)]
    digits = 2 if 0 < max(ends) < 0.01 else 1
    value, *interval = (f"{100 * end:.{digits}f}" for end in ends)
    if not interval:
        return f"{value}\u00a0% (no interval)"
    return f"{value}\u00a0%" + ("" if score.low == score.high else f" [{', '.join(interval)}]")


def reasons(scores: Iterable[Score]) -> list[str]:
    """Why scores are undefined or have no interval, each reason once."""
    gaps = [s.undefined or s.note for s in scores if s.value is None or s.low is None]
    return list(filter(None, dict.fromkeys(gaps)))


def reasons_of(scores: Iterable[Score]) -> str:
    """The same as the end of a table's note; empty where there are none."""
    words = "; ".join(reasons(scores))
    return f" Undefined, or without an interval: {words}." if words else ""


# --- tokens on a tint ----------------------------------------------------------------------------
#
# What a colour says stands there in numbers too.


SURE, UNSURE = 0.1, 2.0
"""Nats: below the first a token's entropy is not written out; from the second on, full colour."""
MOST_TOKENS, MOST_IN_ALL = 600, 6_000
"""Tokens shown of one answer, and of all samples: a page that marimo shows has a largest size."""

_TOKEN = "display:inline-block;text-align:center;margin-right:1px"
_UNDER = f"display:block;font-size:0.68rem;line-height:1;{MUTED}"


def token_legend(decode: Decode | None, no_decode: str) -> str:
    """What the colours, or the bars, mean."""
    meaning = "the entropy of the model’s distribution over all tokens at its place, in nats"
    if decode is None:
        why = f" ({no_decode})" if no_decode else ""
        return small_print(
            f"Each bar is one token, in their order, and {meaning}. The tokens’ texts are not "
            f"shown: that needs the model’s tokenizer{why}."
        )
    scale = "".join(
        f'<span style="padding:0 0.5em;{_tint(nats)}">{nats:g}</span>'
        for nats in (0.0, 0.5, 1.0, 1.5, UNSURE)
    )
    words = f"Below a token stands {meaning}, where it is {SURE:g} or more. Its colour:"
    return f'{small_print(words)}<div style="font-size:0.8rem">{scale} nats and more</div>'


def tokens(
    title: str, ids: Sequence[int], entropies: Sequence[float], decode: Decode | None
) -> str:
    """The tokens of one answer with their entropies (nats), or its last ones where there are too
    many."""
    left_out = max(0, len(ids) - MOST_TOKENS)
    entropies, ids = entropies[left_out:], ids[left_out:]
    if not entropies:
        return paragraph(f"{title}: no token was generated.")
    most = max(range(len(entropies)), key=entropies.__getitem__)
    label = (
        f"{title}: {counted(len(entropies), 'token')}, the highest entropy is "
        f"{entropies[most]:.2f} nats at token {left_out + most + 1}"
    )
    note = f". The first {left_out:,} tokens are left out" if left_out else ""
    if decode is None:
        role, body = "img", _bars(entropies, left_out)
    else:
        role, body = "group", _coloured(decode(ids), entropies, left_out)
    return (
        f'<div style="margin:0.5rem 0">{small_print(label + note)}'
        f'<div role="{role}" aria-label="{safe(label)}">{body}</div></div>'
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
            f'<span title="{safe(tip)}" style="{_TOKEN}{room}">'
            f'<span style="{WRAP};{_tint(nats)}">{safe(words)}</span>'
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
        f'<div style="display:flex;gap:0.5rem"><div style="{MUTED};font-size:0.75rem;display:flex;'
        f'flex-direction:column;justify-content:space-between;text-align:right">{ends}</div>'
        f'<div style="display:flex;gap:1px;align-items:flex-end;height:48px;flex:1;'
        f'border-bottom:{LINE}">{bars}</div></div>'
    )


def _tint(nats: float) -> str:
    """A background that grows stronger with entropy."""
    return f"background:rgba(213,94,0,{0.7 * min(max(nats, 0.0) / UNSURE, 1.0):.2f})"
