from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.studies.semantic_entropy.explore import clickable
from helpers.views import charts


def scatter(n: int = 12) -> go.Figure:
    """A scatter of questions in two groups, under the line of equality."""
    x, ids = np.linspace(0, 1, n), [f"q{i}" for i in range(n)]
    words = ["odd" if i % 2 else "even" for i in range(n)]
    return clickable(charts.lexical_against_semantic(x, x**2, ids, ids, words))


ATTACK = '<script>alert(1)</script> & <a href="x">$5</a>'


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in a figure's JSON with its path; packed arrays are unpacked."""
    if isinstance(node, dict) and "bdata" in node:
        node = np.frombuffer(base64.b64decode(node["bdata"]), node["dtype"]).tolist()
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            yield from leaves(child, (*path, str(key)))
    else:
        yield path, node


def words(fig: go.Figure) -> str:
    """All annotations of a figure, as one line."""
    return " ".join(note.text.replace("<br>", " ") for note in fig.layout.annotations)
