"""What the cells of the dashboard call: opening, choosing, selecting, showing.

Text that came from a file or an address is escaped here or where the view was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.dashboard import data, details, query
from helpers.dashboard.data import Listed, OpenRun
from helpers.dashboard.filters import Kept, cautions
from helpers.dashboard.points import Drawn, rows_of_points
from helpers.dashboard.query import Asked, View
from helpers.dashboard.words import counted_runs
from helpers.errors import UserError
from helpers.html_parts import MUTED, folded, paragraph, safe, small_print
from helpers.showing import in_notebook

NO_RUN = (
    "There is no run to show yet: none of the run folders has an analysis.parquet. A run of the "
    "study of reasoning models writes one; see the README."
)
CONFIG = {
    "displayModeBar": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["toImage", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
"""Of Plotly: the buttons for box and lasso are there before anyone points at the figure."""


def params() -> dict[str, Any]:
    """What the page's address asks for, as marimo gives it: untrusted."""
    import marimo as mo

    return dict(mo.query_params().to_dict())


def opened(listed: Sequence[Listed], name: str | None) -> OpenRun:
    """The chosen run; where there is none, or it cannot be read, the page says so and stops."""
    import marimo as mo

    run = next((run for run in listed if run.name == name and not run.damaged), None)
    problem = NO_RUN
    if run is not None:
        try:
            return data.open_run(run)
        except UserError as error:
            problem = str(error).replace(str(run.folder), run.name)
    if not in_notebook():
        print(problem)
    mo.stop(True, mo.Html(paragraph(problem)))
    raise AssertionError("mo.stop stops")


def damaged_runs(listed: Sequence[Listed]) -> Any:
    """Which folders cannot be shown, and why; None where all can."""
    import marimo as mo

    lines = [f"<li>{safe(run.name)}: {safe(run.damaged)}</li>" for run in listed if run.damaged]
    if not lines:
        return None
    title = f"{len(lines)} run folder{'s' if len(lines) > 1 else ''} cannot be shown"
    return mo.Html(folded(title, f'<ul style="overflow-wrap:anywhere">{"".join(lines)}</ul>'))


def asked_view(asked: Mapping[str, Any], listed: Sequence[Listed], run: OpenRun) -> Asked:
    """What the address asks for of this run; of another run than it names, nothing."""
    if run.listed.name != query.first_run(asked, listed).name:
        return Asked(query.usual_view(run.table))
    return query.asked_view(asked, run.table)


def ignored(params: Mapping[str, Any], listed: Sequence[Listed], asked: Asked) -> Any:
    """A line where a part of the address was not used; None where all of it was."""
    import marimo as mo

    words = query.ignored_words(asked, query.first_run(params, listed).in_vain)
    return mo.Html(f'<div role="note">{small_print(words)}</div>') if words else None


def selection(asked: Asked) -> Any:
    """The state `(get, set)` of the rows that are selected; at first those of the address."""
    import marimo as mo

    # The figure in which something was selected is drawn again too, so that all look alike.
    return mo.state(asked.view.chosen, allow_self_loops=True)


def linked(drawn: Drawn, select: Callable[[tuple[int, ...]], None]) -> Any:
    """A figure in which a click, a box or a lasso selects runs for all figures."""
    import marimo as mo

    def on_change(points: Any) -> None:
        rows = rows_of_points(drawn.figure, points)
        # A figure that is drawn again reports an empty selection, which nobody has made.
        if rows:
            select(rows)

    return mo.ui.plotly(drawn.figure, config=CONFIG, on_change=on_change)


def with_words(drawn: Drawn, element: Any = None, selected: int = 0) -> Any:
    """A figure with its text alternative below, and a way to the details of what is selected."""
    import marimo as mo

    words = safe(drawn.words)
    if selected:
        # marimo makes a component of its own of such a link, and it takes no style.
        words += (
            f' <span style="text-decoration:underline"><a href="#{details.ANCHOR}">'
            f"{safe(counted_runs(selected))} selected</a></span>: see below."
        )
    below = f'<p style="{MUTED};font-size:0.85rem;margin:0.2rem 0 0">{words}</p>'
    return mo.vstack([drawn.figure if element is None else element, mo.Html(below)], gap=0.2)


def clear_button(select: Callable[[tuple[int, ...]], None]) -> Any:
    """A button that selects nothing."""
    import marimo as mo

    return mo.ui.button(label="Clear the selection", on_change=lambda _: select(()))


def chosen_details(run: OpenRun, kept: Kept, chosen: tuple[int, ...]) -> Any:
    """The details of the selected runs, where the figures' links lead."""
    import marimo as mo

    try:
        body = details.details_view(run, kept, chosen)
    except UserError as problem:
        body = paragraph(str(problem).replace(str(run.listed.folder), run.listed.name))
    return mo.Html(f'<div id="{details.ANCHOR}">{body}</div>')


def view_link(run: OpenRun, view: View, clear: Any) -> Any:
    """A link that shows this view to someone else, beside the button that clears the selection."""
    import marimo as mo

    address = query.link(run.listed.name, view, run.table)
    remembers = "run, filters, choices"
    if view.chosen:
        first = min(len(view.chosen), query.MOST_CHOSEN)
        remembers += f" and {'the first ' if first < len(view.chosen) else ''}{first} selected"
    line = (
        f'<p style="margin:0"><a href="{safe(address)}" target="_blank" rel="noopener" '
        f'style="text-decoration:underline">Link to this view</a> '
        f'<span style="{MUTED};font-size:0.85rem">({remembers})</span></p>'
    )
    return mo.hstack([mo.Html(line), clear] if view.chosen else [mo.Html(line)], wrap=True)


def caution_box(run: OpenRun, kept: Kept) -> Any:
    """What a reader must know of scores under these filters; None where there is nothing."""
    import marimo as mo

    found = cautions(run.table, kept) if len(kept.rows) else []
    if not found:
        return None
    lines = "".join(f"<li>{safe(sentence)}</li>" for sentence in found)
    return mo.Html(
        f'<div role="note" style="border-left:3px solid #E69F00;padding:0.2rem 0 0.2rem 0.9rem">'
        f'<strong>Mind</strong><ul style="margin:0.2rem 0 0;padding-left:1.1rem">{lines}</ul></div>'
    )
