"""What a view makes, where it is looked at: in a notebook's cell, in a report, or nowhere.

A view is a function that returns HTML text (in which it has escaped what others wrote), a Plotly
figure, or a list of these. The notebook's cells call `show(view, ...)`; a report runs the same
cells inside `with reporting():` and lays out what they hand over.
"""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from helpers.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go

Item = Union[str, "go.Figure"]
"""HTML text, or a figure."""

_REPORTING: ContextVar[Callable[[], None] | None] = ContextVar("reporting", default=None)
"""What is told of each view that a report has; None where no report is being made."""


@dataclass(frozen=True)
class Shown:
    """What one view has made, for a report to lay out."""

    items: tuple[Item, ...]


LIVE = Shown(())
"""Stands in a report for a view that is only of use on a live page."""


@contextlib.contextmanager
def reporting(each: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Inside, `show` hands over what a view makes instead of displaying it, and calls `each`."""
    token = _REPORTING.set(each)
    try:
        yield
    finally:
        _REPORTING.reset(token)


def in_report() -> bool:
    """Whether a report is being made from the notebook's cells."""
    return _REPORTING.get() is not None


def in_notebook() -> bool:
    """Whether someone looks at cells: an editor, an app or an export, but not a script."""
    import marimo as mo

    return mo.running_in_notebook()


def show(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `build` makes, to look at; nothing is built where nobody looks, as in a script.

    A `UserError` (something that this run lacks) becomes its sentence, in the view's place.
    """
    each = _REPORTING.get()
    if each is not None:
        shown = built(build, *arguments, **options)
        each()
        return shown
    return show_live(build, *arguments, **options)


def show_live(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The same for a view that follows what someone presses or types: not in a report."""
    if in_report():
        return LIVE
    if not in_notebook():
        return None
    return _displayed(_made(build, *arguments, **options))


def built(build: Callable[..., Any], *arguments: Any, **options: Any) -> Shown:
    """What a view makes, for a static page; a `UserError` becomes its sentence."""
    return Shown(items_of(_made(build, *arguments, **options)))


def _made(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return build(*arguments, **options)
    except UserError as problem:
        return sentence(str(problem))


def sentence(text: str) -> str:
    """Anyone's words as a paragraph that stands where a view would be."""
    return f'<p style="margin:0.4rem 0">{html.escape(text)}</p>'


def items_of(made: Any) -> tuple[Item, ...]:
    """What can stand on a static page of what a view or a cell made.

    None and marimo's interactive elements are left out, but for the figure of a plot to select in;
    marimo's HTML is taken as HTML. Raises `TypeError` for anything else that is neither text nor
    figure.
    """
    import marimo as mo
    import plotly.graph_objects as go

    if made is None:
        return ()
    if isinstance(made, Shown):
        return made.items
    if isinstance(made, (str, go.Figure)):
        return (made,)
    if isinstance(made, (list, tuple)):
        return tuple(item for part in made for item in items_of(part))
    if isinstance(made, mo.ui.plotly):
        return (made._figure,)
    if isinstance(made, mo.Html):
        # Every element that needs marimo's own scripts is a tag of this prefix.
        return () if "<marimo-" in made.text else (made.text,)
    raise TypeError(f"a view is HTML text, a figure or a list of these, not {type(made).__name__}")


def _displayed(made: Any) -> Any:
    """What marimo displays for what a view made: text as HTML, a list as a stack."""
    import marimo as mo

    if isinstance(made, str):
        return mo.Html(made)
    if isinstance(made, (list, tuple)):
        return mo.vstack([_displayed(part) for part in made if part is not None])
    return made
