"""One HTML page that needs nothing but itself: its frame, and its figures.

Plotly's script is inlined once; figures are JSON beside it, drawn one after the other as soon as
the page stands. A content security policy forbids the page to load anything.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.report_style import SCRIPT, STYLE

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIGITS = 5
"""Significant digits of the numbers that a figure draws; a screen shows three or four."""

WEBGL = ("scattergl", "scatterpolargl", "splom", "parcoords")
"""Kinds of traces that plotly.js draws by programs which it compiles at run time."""


@dataclass(frozen=True)
class Heading:
    """One entry of the table of contents."""

    level: int
    anchor: str
    text: str


@dataclass(frozen=True)
class Page:
    """What stands on the page; every field but `title` is HTML."""

    title: str
    head: str
    body: str
    foot: str
    contents: tuple[Heading, ...]


_PLOT = '<figure class="plot'


def html_page(page: Page) -> str:
    """The whole document."""
    figures = _PLOT in page.body
    scripts = f"<script>{_plotly_js()}</script>\n<script>{SCRIPT}</script>" if figures else ""
    needed = "<noscript><p>The figures need JavaScript; text and tables do not.</p></noscript>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(page.body)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(page.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<div class="columns">
<header>{page.head}{needed if figures else ""}</header>
{_contents(page.contents)}
<main>
{page.body}
</main>
<footer>{page.foot}</footer>
</div>
{scripts}
</body>
</html>
"""


def _policy(body: str) -> str:
    """What the page may do: run what is inlined, and load nothing at all.

    Images of `blob:` are the page's own memory: a figure that is saved as a picture.
    """
    compiled = " 'unsafe-eval'" if _PLOT + " webgl" in body else ""
    return (
        f"default-src 'none'; script-src 'unsafe-inline'{compiled}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _contents(headings: Sequence[Heading]) -> str:
    if not headings:
        return ""
    links = "".join(
        f'<li class="level-{h.level}"><a href="#{h.anchor}">{html.escape(h.text)}</a></li>'
        for h in headings
    )
    return f'<nav aria-label="Contents"><p>Contents</p><ol>{links}</ol></nav>'


def figure_html(fig: go.Figure) -> str:
    """A place for a figure, with its data and with its title and notes as its description."""
    drawn = fig.to_plotly_json()
    layout = {k: v for k, v in drawn.get("layout", {}).items() if k != "width"}
    parts = {"data": _rounded(drawn.get("data", [])), "layout": {**layout, "autosize": True}}
    if fig.frames:
        parts["frames"] = [_rounded(frame.to_plotly_json()) for frame in fig.frames]
    webgl = " webgl" if any(trace.type in WEBGL for trace in fig.data) else ""
    height = int(fig.layout.height or 450)
    return (
        f'{_PLOT}{webgl}" role="img" aria-label="{html.escape(described(fig))}">'
        f'<div style="height:{height}px"></div>'
        f'<script type="application/json">{_json(parts)}</script></figure>'
    )


def described(fig: go.Figure) -> str:
    """A figure's title and notes as plain text."""
    lines = [
        html.unescape(re.sub(r"<[^>]*>", "", line)).strip()
        for line in re.split(r"<br\s*/?>", fig.layout.title.text or "")
    ]
    title, *notes = [line for line in lines if line] or ["Figure"]
    return f"{title}. {' '.join(notes)}" if notes else title


def _rounded(value: Any) -> Any:
    """Plotly's data with floats of `DIGITS` significant digits, and arrays as lists."""
    if isinstance(value, dict):
        if {"dtype", "bdata"} <= set(value):
            return _rounded(_unpacked(value))
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    if isinstance(value, (float, np.floating)):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e9 else short
    return value


def _unpacked(packed: Mapping[str, Any]) -> list[Any]:
    """The numbers of an array that Plotly has packed into bytes."""
    array = np.frombuffer(base64.b64decode(packed["bdata"]), np.dtype(packed["dtype"]))
    shape = [int(n) for n in str(packed.get("shape", len(array))).split(",")]
    return array.reshape(shape).tolist()


def _json(value: Any) -> str:
    """JSON that may stand inside a script element; what is not finite is null."""
    from plotly.utils import PlotlyJSONEncoder

    text = json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
