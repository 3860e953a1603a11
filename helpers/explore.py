"""Finding a question worth a look by a click in a scatter, and what an opened run says of it.

A run may be opened as `helpers.run.Run` or as `helpers.stored_run.StoredRun`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.errors import UserError
from helpers.open_run import AnyRun
from helpers.stored_run import StoredRun

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
