"""The small pieces of HTML that pages about a question are made of; texts in them are escaped."""

from __future__ import annotations

import html

from helpers.figure_style import COLOURS

LONG = 320
"""Characters of an answer that are shown without unfolding it."""

MUTED = "color:var(--muted-foreground,#777)"
LINE = "1px solid rgba(128,128,128,0.25)"
WRAP = "white-space:pre-wrap;overflow-wrap:anywhere"


def letter(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    before, last = divmod(number, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def painted(number: int) -> str:
    """A meaning's colour, with letters that can be read on it."""
    letters = "#fff" if number % len(COLOURS) == 0 else "#111"
    return f"background:{COLOURS[number % len(COLOURS)]};color:{letters}"


def aside(text: str) -> str:
    """A remark in a line."""
    return f'<span style="{MUTED};font-size:0.85rem">{safe(text)}</span>'


def small_print(text: str) -> str:
    """A remark on a line of its own."""
    return f'<div style="{MUTED};font-size:0.85rem">{safe(text)}</div>'


def long_text(text: str) -> str:
    """An answer; of a long one the beginning, with the rest folded."""
    text = text.strip()
    if len(text) <= LONG:
        return f'<span style="{WRAP}">{safe(text) or "(empty)"}</span>'
    start = html.escape(text[:120].replace("\n", " "))
    whole = f'<div style="{WRAP}">{safe(text)}</div>'
    return f"<details><summary>{start}… ({len(text):,} characters)</summary>{whole}</details>"


def folded(title: str, body: str) -> str:
    """A title that unfolds a body, which is HTML."""
    return (
        f'<details style="margin-top:0.3rem"><summary style="cursor:pointer">{safe(title)}'
        f"</summary>{body}</details>"
    )


def heading(text: str) -> str:
    """The title of a part of a page."""
    return f'<div style="font-weight:600;margin:1.3rem 0 0.35rem">{safe(text)}</div>'


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f'<p style="margin:0.3rem 0">{safe(text)}</p>'


def counted(number: int, thing: str) -> str:
    """How many there are of a thing, in words: "1 token", "12 tokens"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def safe(text: object) -> str:
    """Anyone's text as HTML that shows it, in an attribute too."""
    return html.escape(str(text))
