"""Two runs side by side: the record of a comparison, and the same as text, HTML and a figure.

The runs are called A and B; their names stand above.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from helpers.analyses.interval_rows import Panel, Row, interval_rows
from helpers.evaluation import Score
from helpers.figure_style import cut
from helpers.report_tables import html_table
from helpers.summary import cell, notes, signed

NOTHING_SHARED = "the runs share no test question"
_METHOD = (
    "95 % intervals by bootstrap over test questions. A − B is on the test questions that both "
    "runs have, each run against its own labels. p is two-sided, by permutation for means and "
    "RMSE and by bootstrap for AUROC and Spearman, and not corrected for being several."
)
_NONE = "–"


class Setting(NamedTuple):
    """Something in which two runs differ, with what it is in each, as text."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of both runs, and its difference on the questions that they share."""

    about: str
    """What is predicted or counted."""
    title: str
    """By what, or which number of it."""
    metric: str
    first: Score
    """Of the run's own test questions; `n` is how many of them it is computed from."""
    second: Score
    difference: Score
    """First minus second; undefined, with the reason, where no question is shared."""
    p_of: Literal["permutation", "bootstrap"]
    chance: float | None = None
    """The value of a predictor that knows nothing; None where there is no such value."""


@dataclass(frozen=True)
class Compared:
    """Two runs side by side."""

    first: str
    """The name of a run's folder."""
    second: str
    n_test: tuple[int, int]
    """Test questions of the first run, and of the second."""
    n_shared: int
    differing: tuple[Setting, ...]
    cautions: tuple[str, ...]
    """What keeps the numbers from being compared as they stand, in words."""
    metrics: tuple[ComparedMetric, ...]


def describe_comparison(compared: Compared) -> str:
    """The comparison as one text of at most 100 columns, for a terminal."""
    names = (compared.first, compared.second)
    lines = [
        f"{letter}  {cut(name, 70)} ({n:,} test questions)"
        for letter, name, n in zip("AB", names, compared.n_test, strict=True)
    ]
    if compared.differing:
        lines += ["", f"{'Settings that differ':<28}{'A':<36}B"]
        lines += [
            f"  {cut(name, 25):<26}{cut(first, 34):<36}{cut(second, 34)}"
            for name, first, second in compared.differing
        ]
    for about, group in groupby(compared.metrics, key=lambda metric: metric.about):
        lines += ["", *_subject(about, list(group))]
    said = [part for text in (*compared.cautions, _METHOD) for part in textwrap.wrap(text, 98)]
    return "\n".join([*lines, "", *said])


def _subject(about: str, metrics: Sequence[ComparedMetric]) -> list[str]:
    """Lines of one table; why something is undefined is said once."""
    lines = [f"{about} ({_counts(metrics)})"]
    lines.append(f"  {'':<25}{'A':<22}{'B':<22}{'A − B':<21}p")
    for metric in metrics:
        difference = f"{_difference(metric):<21}{_p_value(metric)}"
        name = cut(_named(metric), 24)
        lines.append(f"  {name:<25}{cell(metric.first):<22}{cell(metric.second):<22}{difference}")
    return [line.rstrip() for line in lines] + _reasons(_scores(metrics))


def _scores(metrics: Sequence[ComparedMetric]) -> list[Score]:
    return [s for m in metrics for s in (m.first, m.second, m.difference)]


def _reasons(scores: Sequence[Score]) -> list[str]:
    """Why cells are undefined, each reason once; that nothing is shared stands below."""
    return [line for line in notes(scores) if NOTHING_SHARED not in line]


def _named(metric: ComparedMetric) -> str:
    plain = metric.metric in ("share", "nats")
    return metric.title if plain else f"{metric.title}, {metric.metric}"


def _counts(metrics: Sequence[ComparedMetric]) -> str:
    first, second, shared = (
        max(score.n for score in scores)
        for scores in zip(*((m.first, m.second, m.difference) for m in metrics), strict=True)
    )
    return f"test, n = {first:,} in A, {second:,} in B, {shared:,} shared"


def _difference(metric: ComparedMetric) -> str:
    score = metric.difference
    if score.value is None:
        return _NONE
    return f"{score.value:+.2f}" if score.low is None else signed(score)


def _p_value(metric: ComparedMetric) -> str:
    p = metric.difference.p_value
    return _NONE if p is None else f"{p:.4f}"


def comparison_view(compared: Compared) -> str:
    """The comparison as HTML: what differs, what to beware of, and every metric."""
    tables = []
    for about, group in groupby(compared.metrics, key=lambda metric: metric.about):
        metrics = list(group)
        rows = [
            (_named(m), cell(m.first), cell(m.second), _difference(m), _p_value(m)) for m in metrics
        ]
        reasons = [line.removeprefix("  note: ") for line in _reasons(_scores(metrics))]
        note = f"{_counts(metrics)}{'; undefined: ' if reasons else ''}{'; '.join(reasons)}"
        tables.append(_paragraph(about, "font-weight:600;margin-top:1rem"))
        tables.append(html_table(("", "A", "B", "A − B", "p"), rows, note))
    return (
        _paragraph(f"A is {compared.first}, B is {compared.second}.", "font-weight:600")
        + "".join(_paragraph(caution) for caution in compared.cautions)
        + "".join(tables)
        + _paragraph(_METHOD, "margin-top:1rem")
        + _settings(compared.differing)
    )


def _settings(differing: Sequence[Setting]) -> str:
    if not differing:
        return _paragraph("The runs do not differ in any setting, model or package version.")
    table = html_table(("settings that differ", "A", "B"), differing)
    return f'<div style="margin-top:1rem">{table}</div>'


def _paragraph(text: str, style: str = "") -> str:
    return f'<p style="margin:0.3rem 0;{style}">{html.escape(text)}</p>'


def comparison_figure(compared: Compared) -> go.Figure:
    """Both runs and their difference, panel by panel, for the metrics that have no unit.

    Those in nats stand in the table: their axis is another.
    """
    shown = [metric for metric in compared.metrics if metric.metric not in ("RMSE", "nats")]
    n_panels = 3 if compared.n_shared else 2
    rows: list[Row] = []
    for about, group in groupby(shown, key=lambda metric: metric.about):
        rows.append(Row("", said=about, is_heading=True))
        rows += [
            Row(
                name=_named(metric),
                scores=(metric.first, metric.second, metric.difference)[:n_panels],
                references=(metric.chance, metric.chance, 0.0)[:n_panels],
            )
            for metric in group
        ]
    ends = _ends(shown)
    panels = [Panel("A", ends), Panel("B", ends), Panel("A − B, shared questions", style="signed")]
    names = [f"A: {cut(compared.first, 80)}", f"B: {cut(compared.second, 80)}"]
    if n_panels == 2:
        names.append(f"{NOTHING_SHARED}: there is no paired difference")
    return interval_rows("Two runs side by side", rows, panels[:n_panels], names)


def _ends(metrics: Sequence[ComparedMetric]) -> tuple[float, float] | None:
    """Both panels have one axis, so that dots can be compared by eye."""
    scores = [score for metric in metrics for score in (metric.first, metric.second)]
    values = [v for s in scores for v in (s.value, s.low, s.high) if v is not None]
    values += [metric.chance for metric in metrics if metric.chance is not None]
    return (min(values), max(values)) if values else None
