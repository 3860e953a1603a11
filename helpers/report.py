"""A run as one HTML file that opens anywhere: the notebook's own prose and views, laid out.

The notebook runs with the opened run in place of the cell that finds one; its prose cells are the
text, what its views make are the tables and figures, its controls are left out.
"""

from __future__ import annotations

import contextlib
import html
import importlib.util
import io
import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from helpers.errors import UserError
from helpers.files import write_bytes
from helpers.further_studies import notebook_of, open_any
from helpers.progress import Progress, silent_progress
from helpers.provenance import provenance_card
from helpers.report_page import Heading, Page, figure_html, html_page
from helpers.report_tables import headline
from helpers.run import Run
from helpers.run_folder import read_manifest
from helpers.showing import LIVE, Item, Shown, built, items_of, reporting
from helpers.stages import study_of

if TYPE_CHECKING:
    from helpers.studies.reasoning.run_files import StudyRun

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / notebook_of("")
AnyStudysRun = Union[Run, "StudyRun"]
PROSE = '<span class="markdown'
"""What the HTML of marimo's markdown begins with."""


@dataclass(frozen=True)
class CellResult:
    """One cell of a notebook that has run."""

    code: str
    hidden: bool
    """Whether the notebook hides its code, as it does for prose."""
    output: Any


@dataclass(frozen=True)
class Passage:
    """One cell as the page shows it."""

    prose: str
    """HTML of a prose cell; empty for every other one."""
    items: tuple[Item, ...]
    control: bool
    """Whether the cell shows what is to be worked with, which this page is not."""
    code: str
    """Source to fold under the cell; empty where it is left out."""


def write_report(
    run: AnyStudysRun,
    path: Path | None = None,
    *,
    code: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a finished run to a file (default: `report.html` in its folder).

    Returns the file; raises `UserError` where it cannot be written.
    """
    target = run.folder / "report.html" if path is None else Path(path).expanduser()
    if target.is_dir():
        raise UserError(f"{target} is a folder; name a file, such as {target / 'report.html'}")
    # The run by its last two folders: where they lie on this machine is nobody's business.
    asked = ["sep", "report", str(Path(*run.folder.resolve().parts[-2:]))]
    command = shlex.join([*asked, *(["--code"] if code else [])])
    app = notebook_app(notebook_path(run))
    cells = run_cells(app, {"run": run}, progress or silent_progress())
    page = report_html(run, cells, code=code, command=command, written=datetime.now().astimezone())
    write_bytes(target, page.encode())
    return target


def finished_run(folder: Path) -> Any:
    """The run of a folder, of any study; raises `UserError` where it is none, or has no scores."""
    folder = Path(folder)
    run = open_any(folder, study_of(read_manifest(folder) or {}))
    if "evaluation" not in run.manifest["stages_done"]:
        done = ", ".join(run.manifest["stages_done"])
        raise UserError(
            f"{folder} is not finished (done: {done}): repeat the command that began it, then "
            "report; what is stored is not computed twice"
        )
    return run


def notebook_path(run: AnyStudysRun) -> Path:
    """The notebook of the study that a run belongs to."""
    return REPOSITORY / notebook_of(run.config.study)


def notebook_app(path: Path = NOTEBOOK) -> Any:
    """The marimo app of a notebook file; its cells have not run."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing: reports and studies are made from the notebooks, which are part "
            "of the repository and not of the installed package; work in a copy of the repository"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the file's name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def run_cells(
    app: Any, definitions: Mapping[str, Any], progress: Progress | None = None
) -> list[CellResult]:
    """Run a notebook's cells with some names given; what each one shows, in the page's order.

    The cells that would define those names do not run. What cells print is for a terminal, and
    goes nowhere.
    """
    from marimo._ast.app import InternalApp
    from marimo._runtime.app.script_runner import AppScriptRunner

    # `app.run` does the same, and does not say which of its outputs came from which cell.
    inner = InternalApp(app)
    given = {**(app._setup._glbls if app._setup else {}), **definitions}
    runner = AppScriptRunner(inner, filename=inner.filename, glbls=given)
    cells = list(inner.cell_manager.cell_data())
    views = sum("show(" in cell.code for cell in cells)
    with (progress or silent_progress())("Report", views, "views") as stage:
        # A cell may show more than one view.
        viewed = lambda: stage.advance(1 if stage.done < views else 0)  # noqa: E731
        with reporting(viewed), contextlib.redirect_stdout(io.StringIO()):
            outputs, _ = runner.run()
        stage.advance(views - stage.done)
    return [
        CellResult(cell.code, bool(cell.config.hide_code), outputs.get(cell.cell_id))
        for cell in cells
    ]


def report_html(
    run: AnyStudysRun, cells: Sequence[CellResult], *, code: bool, command: str, written: datetime
) -> str:
    """The page of a run from the cells of the notebook that ran with it."""
    passages, headings = outline(without_bare_controls([passage(c, code=code) for c in cells]))
    # What stands at the head is not said twice: the first heading, the headline, the provenance.
    title = next((h.text for h in headings if h.level == 1), "Report")
    short, origin = _words(_headline(run), run), _words(provenance_card, run)
    body = _body_html(passages, leave_out=(short, origin))
    body = re.sub(r"<h1\b.*?</h1>", "", body, count=1, flags=re.DOTALL)
    name = html.escape(run.folder.name)
    head = (
        f'<p class="run">Report of the run <code>{name}</code></p><h1>{html.escape(title)}</h1>'
        f'<div class="headline">{short}</div>'
        f"<details><summary>Where these numbers come from</summary>{origin}</details>"
        f'<p class="written">Written {written.day} {written:%B %Y, %H:%M %Z}.</p>'
    )
    foot = (
        f"<p>Made by <code>{html.escape(command)}</code>. All of this page is in this file; it "
        "loads nothing. What can only be worked with in the notebook is left out.</p>"
    )
    contents = tuple(h for h in headings if h.level > 1)
    return html_page(Page(f"{run.folder.name}: {title}", head, body, foot, contents))


def _headline(run: AnyStudysRun) -> Callable[..., str]:
    """The view that says of a run in a sentence what came out."""
    if isinstance(run, Run):
        return headline
    from helpers.studies.reasoning import views

    return views.headline


def _words(build: Callable[..., Any], run: AnyStudysRun) -> str:
    """The HTML text that a view makes of a run, without figures."""
    return "".join(item for item in built(build, run).items if isinstance(item, str))


# --- from cells to HTML --------------------------------------------------------------------------


def passage(cell: CellResult, *, code: bool) -> Passage:
    """What a page shows of a cell: prose, a view or a figure, and of any other value nothing."""
    import marimo as mo
    import plotly.graph_objects as go

    text = cell.output.text if isinstance(cell.output, mo.Html) else ""
    prose = text.startswith(PROSE)
    view = not prose and isinstance(cell.output, (Shown, mo.Html, go.Figure))
    items = items_of(cell.output) if view else ()
    return Passage(
        prose=prose_html(text) if prose else "",
        items=items,
        control=view and not items and (bool(text) or cell.output is LIVE),
        code=cell.code if code and not cell.hidden else "",
    )


def prose_html(text: str) -> str:
    """Marimo's HTML of a prose cell, without what needs marimo's scripts or another host."""
    text = re.sub(r"^<span class=\"markdown[^>]*>(.*)</span>\s*$", r"\1", text, flags=re.DOTALL)
    text = re.sub(
        r"<marimo-tex[^>]*>\|\|[(\[](.*?)\|\|[)\]]</marimo-tex>", r"<code>\1</code>", text
    )
    # A link to another host becomes words, so that the page asks nobody for anything.
    text = re.sub(
        r'<a\s[^>]*?href="(?!#)([^"]*)"[^>]*>(.*?)</a>', _link_in_words, text, flags=re.DOTALL
    )
    return text


def _link_in_words(found: re.Match[str]) -> str:
    address, words = found.groups()
    return words if words == address else f"{words} ({address})"


def without_bare_controls(passages: Sequence[Passage]) -> list[Passage]:
    """The passages without prose that introduces nothing but controls, which are not there."""
    kept: list[Passage] = []
    starts = [i for i, part in enumerate(passages) if part.prose]
    for i, part in enumerate(passages):
        if part.prose:
            end = next((start for start in starts if start > i), len(passages))
            below = passages[i + 1 : end]
            if any(p.control for p in below) and not any(p.items for p in below):
                continue
        kept.append(part)
    return kept


def _body_html(passages: Sequence[Passage], leave_out: Sequence[str]) -> str:
    """The passages one below the other; code of cells with nothing between is folded together."""
    blocks: list[str] = []
    sources: list[str] = []

    def fold() -> None:
        if sources:
            source = html.escape("\n\n".join(sources))
            blocks.append(
                '<details class="code"><summary>code</summary>'
                f"<pre><code>{source}</code></pre></details>"
            )
            sources.clear()

    for part in passages:
        shown = [f'<div class="prose">{part.prose}</div>'] if part.prose else []
        for item in part.items:
            if not isinstance(item, str):
                shown.append(figure_html(item))
            elif item not in leave_out:
                shown.append(f'<div class="view">{item}</div>')
        if shown:
            fold()
        blocks += shown
        if part.code:
            sources.append(part.code.strip())
    fold()
    return "\n".join(blocks)


def outline(passages: Sequence[Passage]) -> tuple[list[Passage], list[Heading]]:
    """The passages with an anchor of its own on each heading of their prose, and the headings."""
    headings: list[Heading] = []

    def anchored(found: re.Match[str]) -> str:
        level, inner = int(found[1]), found[2]
        text = html.unescape(re.sub(r"<[^>]*>", "", inner)).strip()
        base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
        taken = {heading.anchor for heading in headings}
        names = (base if n == 1 else f"{base}-{n}" for n in itertools.count(1))
        anchor = next(name for name in names if name not in taken)
        headings.append(Heading(level, anchor, text))
        return f'<h{level} id="{anchor}">{inner}</h{level}>'

    pattern = re.compile(r"<h([1-3])\b[^>]*>(.*?)</h\1>", re.DOTALL)
    return [replace(part, prose=pattern.sub(anchored, part.prose)) for part in passages], headings
