"""What a view makes, where it is looked at: in a notebook's cell, in a report, or nowhere.

A view is a function that returns HTML text (in which it has escaped what others wrote), a Plotly
figure, or a list of these. The notebook's cells call `show(view, ...)`; a report runs the same
cells inside `with reporting():` and lays out what they hand over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from helpers.errors import UserError
from helpers.progress import explain
from helpers.views.html import paragraph, safe

if TYPE_CHECKING:
    import plotly.graph_objects as go

Item = Union[str, "go.Figure"]  # HTML text, or a figure

_REPORTING: ContextVar[bool] = ContextVar("reporting", default=False)


@dataclass(frozen=True)
class Shown:
    """What one view has made, for a report to lay out."""

    items: tuple[Item, ...]


LIVE = Shown(())  # stands in a report for a view that is only of use on a live page


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Inside, `show` hands over what a view makes instead of displaying it."""
    token = _REPORTING.set(True)
    try:
        yield
    finally:
        _REPORTING.reset(token)


def in_report() -> bool:
    """Whether a report is being made from the notebook's cells."""
    return _REPORTING.get()


def in_notebook() -> bool:
    """Whether someone looks at cells: an editor, an app or an export, but not a script."""
    import marimo as mo

    return mo.running_in_notebook()


def show(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `build` makes, to look at; nothing is built where nobody looks, as in a script.

    A `UserError` (something that this run lacks) becomes its sentence, in the view's place.
    """
    if in_report():
        return built(build, *arguments, **options)
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
        return paragraph(str(problem))


def items_of(made: Any) -> tuple[Item, ...]:
    """The HTML texts and figures of what a view made, None left out.

    Raises `TypeError` for anything that is neither text nor figure nor a list of them.
    """
    import plotly.graph_objects as go

    if made is None:
        return ()
    if isinstance(made, (str, go.Figure)):
        return (made,)
    if isinstance(made, (list, tuple)):
        return tuple(item for part in made for item in items_of(part))
    raise TypeError(f"a view is HTML text, a figure or a list of these, not {type(made).__name__}")


def _displayed(made: Any) -> Any:
    """What marimo displays for what a view made: text as HTML, a list as a stack."""
    import marimo as mo

    if isinstance(made, str):
        return mo.Html(made)
    if isinstance(made, (list, tuple)):
        return mo.vstack([_displayed(part) for part in made if part is not None])
    return made


@contextlib.contextmanager
def problems_explained() -> Iterator[None]:
    """Show a problem that the user can solve, and stop there; what was finished stays.

    A notebook shows it where the cell's output would be, and so does a report. A script prints one
    line and exits.
    """
    try:
        yield
    except UserError as problem:
        if in_report():
            raise
        if not in_notebook():
            raise SystemExit(explain(problem)) from problem
        import marimo as mo

        mo.stop(True, stumbled(problem))
    except KeyboardInterrupt as stopped:
        if in_notebook():
            raise
        raise SystemExit(explain(stopped)) from stopped


def read_only() -> bool:
    """Whether visitors may only look: `SEP_READ_ONLY=1` for an app that others open."""
    return os.environ.get("SEP_READ_ONLY", "") not in ("", "0")


def stumbled(problem: UserError) -> Any:
    """A problem and its remedy, in place."""
    import marimo as mo

    text = f"<strong>This step cannot go on.</strong> {safe(str(problem))}"
    return mo.callout(mo.Html(f'<div role="alert">{text}</div>'), kind="danger")
