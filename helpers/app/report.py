"""A finished run as one HTML file that opens anywhere: its notebook's prose and views, laid out.

The notebook's cells run with the opened run in place of the cell that finds one. Prose becomes
text, views become tables and figures, and what can only be worked with is left out. The frame of
the page stands in `report.html`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import graphlib
import html
import io
import re
import shlex
import textwrap
import types
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from helpers.errors import UserError
from helpers.formatting import size_text, when
from helpers.progress import Progress, silent_progress
from helpers.store.files import write_bytes
from helpers.studies.recorder import CUDA, MPS, RSS, RSS_SO_FAR
from helpers.studies.registry import (
    make_config,
    notebook_path,
    open_run,
    repeat_command,
    study_named,
    study_of,
)
from helpers.studies.study import EVALUATION
from helpers.views.html import counted, folded, heading, html_table, paragraph, safe
from helpers.views.showing import LIVE, Item, Shown, reporting

if TYPE_CHECKING:
    import marimo
    import plotly.graph_objects as go

MEMORY = {RSS: "{}", RSS_SO_FAR: "at most {}", CUDA: "{} on the GPU", MPS: "{} on the GPU"}
"""How a peak of memory is put in words."""
_MATHS = re.compile(r"<marimo-tex[^>]*>\|\|.(.*?)\|\|.</marimo-tex>", re.DOTALL)
_FAILED = '<p class="failed">{}</p>'


@dataclass(frozen=True)
class Passage:
    """What the page shows of one cell."""

    html: str = ""
    code: str = ""
    prose: bool = False
    control: bool = False
    """Whether it is something to be worked with, which the page has no place for."""
    failure: str = ""
    """What went wrong, in the error's words; it stands in the HTML too."""


def finished_run(folder: Path) -> Any:
    """The run of a folder, of any study; raises `UserError` where it is none, or has no scores."""
    run = open_run(folder)
    if EVALUATION not in run.manifest["stages_done"]:
        done = ", ".join(run.manifest["stages_done"])
        raise UserError(
            f"{folder} is not finished (done: {done}): repeat the command that began it, then "
            "report; what is stored is not computed twice"
        )
    return run


def write_report(
    run: Any, path: Path | None = None, *, code: bool = False, progress: Progress | None = None
) -> Path:
    """Write the report of a finished run to a file (default: `report.html` in its folder).

    Raises `UserError` where the file cannot be written or the notebook is missing, and, once the
    report is written, where cells failed; the page says so in their place.
    """
    target = run.folder / "report.html" if path is None else Path(path).expanduser()
    if target.is_dir():
        raise UserError(f"{target} is a folder; name a file, such as {target / 'report.html'}")
    notebook = notebook_path(study_of(run.config))
    passages = run_cells(notebook_cells(notebook), {"run": run}, progress)
    write_bytes(target, report_html(run, passages, code=code).encode())
    failures = [passage.failure for passage in passages if passage.failure]
    if failures:
        raise UserError(
            f"{target} is written, and {counted(len(failures), 'cell')} failed ({failures[0]}); "
            f"the report shows where, and `marimo edit {notebook.name}` lets you look into it"
        )
    return target


# --- from a notebook to what its cells show ------------------------------------------------------


def notebook_cells(path: Path) -> list[tuple[marimo.Cell, str]]:
    """The cells of a notebook file in its order, each with its code, "" where that is hidden."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    found: list[tuple[str, str]] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.decorator_list:
            decorator = ast.unparse(node.decorator_list[0])
            if decorator.startswith("app.cell"):
                # Most cells are named `_`; a name of its own keeps each one in the module.
                node.name = f"cell_{len(found)}"
                hidden = "hide_code=True" in decorator
                found.append((node.name, "" if hidden else _source(source, node)))
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(tree, path, "exec"), module.__dict__)
    return [(getattr(module, name), code) for name, code in found]


def _source(source: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A cell's code as the notebook's editor shows it: the function's body without its return."""
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    start = next(i for i, line in enumerate(lines, 1) if line.endswith(":"))
    last = node.body[-1]
    end = last.lineno - node.lineno if isinstance(last, ast.Return) else len(lines)
    return textwrap.dedent("\n".join(lines[start:end])).strip()


def run_cells(
    cells: Sequence[tuple[marimo.Cell, str]],
    given: Mapping[str, Any],
    progress: Progress | None = None,
) -> list[Passage]:
    """Run a notebook's cells with some names given; what each one shows, in the order of `cells`.

    Cells that define a given name do not run, nor do those that need what was not computed: after
    a `mo.stop`, or an error. What cells print is for a terminal, and goes nowhere.
    """
    # `app.run` does not say which output is which cell's, and has none once a cell has failed.
    makers = {name: i for i, (cell, _) in enumerate(cells) for name in cell.defs}
    needs = [{name for name in cell.refs if name in makers} for cell, _ in cells]
    before = {i: {makers[name] for name in names} for i, names in enumerate(needs)}
    passages = [Passage(code=code) for _, code in cells]
    values, lost = dict(given), set[str]()
    with (
        (progress or silent_progress())("Report", len(cells), "cells") as stage,
        reporting(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        for i in graphlib.TopologicalSorter(before).static_order():
            cell, code = cells[i]
            if needs[i] & lost:
                words = f"This cell did not run: {min(needs[i] & lost)} is missing, see above."
                passages[i] = Passage(_FAILED.format(safe(words)), code)
                lost |= cell.defs
            elif needs[i] <= values.keys() and not cell.defs & given.keys():
                try:
                    output, made = _ran(cell, {name: values[name] for name in needs[i]})
                    passages[i] = passage(output, code)
                    values.update(made)
                except Exception as error:  # noqa: BLE001 (any cell may fail; the page says how)
                    words = f"{type(error).__name__}: {error}".removeprefix("UserError: ")
                    said = _FAILED.format(safe(f"This cell failed: {words}"))
                    passages[i] = Passage(said, code, failure=words)
                    lost |= cell.defs
            stage.advance(1)
    return passages


def _ran(cell: marimo.Cell, values: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """A cell's output and what it defines."""

    async def awaited(found: Awaitable[Any]) -> Any:
        return await found

    found = cell.run(**values)
    return asyncio.run(awaited(found)) if isinstance(found, Awaitable) else found


# --- from passages to a page ---------------------------------------------------------------------


def report_html(run: Any, passages: Sequence[Passage], *, code: bool = False) -> str:
    """The page of a run from what its notebook's cells show."""
    from plotly.offline import get_plotlyjs

    sections: list[list[Passage]] = [[]]
    for part in passages:
        if part.prose:
            sections.append([])
        sections[-1].append(part)
    title, contents, anchors = "", [], set[str]()

    def anchored(found: re.Match[str]) -> str:
        nonlocal title
        level, anchor, inner = found.groups()
        words = re.sub(r"<[^>]*>", "", inner)
        if level == "1" and not title:
            title = words
            return ""
        while anchor in anchors:
            anchor += "-again"
        anchors.add(anchor)
        contents.append(f'<li class="level-{level}"><a href="#{anchor}">{words}</a></li>')
        return f'<h{level} id="{anchor}">{inner}</h{level}>'

    body = "\n".join(_section(parts, code) for parts in sections)
    body = re.sub(r'<h([1-3]) id="([^"]*)">(.*?)</h\1>', anchored, body, flags=re.DOTALL)
    # The run by its last two folders: where they lie on this machine is nobody's business.
    asked = ["sep", "report", str(Path(*run.folder.resolve().parts[-2:])), *["--code"][: int(code)]]
    now = datetime.now().astimezone()
    page = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return page.substitute(
        title=title or "Report",
        name=safe(run.folder.name),
        model=safe(Path(run.config.model).name),
        written=f"{now.day} {now:%B %Y, %H:%M %Z}",
        contents="".join(contents),
        body=body,
        command=safe(shlex.join(asked)),
        plotly=f"<script>{get_plotlyjs()}</script>" if "<figure" in body else "",
    )


def passage(output: Any, code: str = "") -> Passage:
    """What the page shows of a cell's output: prose, a view, and of any other value nothing."""
    import marimo as mo
    import plotly.graph_objects as go

    if isinstance(output, (Shown, go.Figure)):
        items = output.items if isinstance(output, Shown) else (output,)
        return Passage("".join(map(_item_html, items)), code, control=output is LIVE)
    if isinstance(output, mo.Html):
        text = _MATHS.sub(r"<code>\1</code>", output.text)
        if "<marimo-" not in text:  # the tags of what needs marimo's own scripts
            return Passage(f'<div class="prose">{text}</div>', code, prose=True)
        return Passage(code=code, control=True)
    return Passage(code=code)


def _item_html(item: Item) -> str:
    if isinstance(item, str):
        return f'<div class="view">{item}</div>'
    height, data = int(item.layout.height or 450), str(item.to_json()).replace("<", "\\u003c")
    return (
        f'<figure role="img" aria-label="{safe(described(item))}"><div style="height:{height}px">'
        f'</div><script type="application/json">{data}</script></figure>'
    )


def described(fig: go.Figure) -> str:
    """A figure's title and notes as plain text."""
    lines = [
        html.unescape(re.sub(r"<[^>]*>", "", line)).strip()
        for line in re.split(r"<br\s*/?>", fig.layout.title.text or "")
    ]
    title, *notes = [line for line in lines if line] or ["Figure"]
    return f"{title}. {' '.join(notes)}" if notes else title


def _section(section: Sequence[Passage], code: bool) -> str:
    """Prose and the views below it, with the code of their cells folded at the end.

    Prose that introduces nothing but controls is left out with them.
    """
    views = any(part.html and ("<h1" in part.html or not part.prose) for part in section)
    if any(part.control for part in section) and not views:
        return ""
    shown = "\n".join(part.html for part in section if part.html)
    source = "\n\n".join(part.code for part in section if code and part.code)
    fold = f"<summary>code</summary><pre><code>{safe(source)}</code></pre>"
    return shown + (f'\n<details class="code">{fold}</details>' if source else "")


# --- where a run's numbers come from -------------------------------------------------------------


def provenance_card(run: Any) -> str:
    """What was run, with what, how long it took, and the command that repeats it, as HTML."""
    manifest, pair = run.manifest, ("", "")
    settings = manifest.get("config", {})
    preset = settings.get("preset", study_named().default_preset)
    known = preset in study_of(manifest).config.presets
    base = make_config(preset).results_fields() if known else {}

    def rows(usual: bool) -> list[tuple[str, str]]:
        return [
            (name.replace("_", " "),
             (", ".join(map(repr, value)) if isinstance(value, list) else str(value)) or "none")
            for name, value in settings.items()
            if name != "preset" and (name in base and base[name] == value) is usual
        ]  # fmt: skip

    path = run.folder / "manifest.json"
    written = when(path.stat().st_mtime) if path.is_file() else "not written"
    facts = [("run folder", run.folder.name), ("written", written), ("preset", preset)]
    hashes = ", ".join(
        f'{safe(name.replace("_", " "))} <code title="{safe(value)}">{safe(str(value)[:8])}…</code>'
        for name, value in manifest.get("hashes", {}).items()
    )
    return "".join(
        (
            html_table(pair, facts + rows(usual=False)),
            folded("Settings as in the preset", html_table(pair, rows(usual=True))),
            f'<p style="margin:0.6rem 0">Content: {hashes or "no hashes recorded"}.</p>',
            heading("Counts") + html_table(pair, _counts(manifest.get("counts", {}))),
            heading("Work") + _work(manifest.get("work", {}), study_of(manifest).titles),
            folded("Versions", html_table(pair, list(manifest.get("versions", {}).items()))),
            heading("The same again") + _command(manifest),
        )
    )


def _counts(counts: Mapping[str, Any], of: str = "") -> list[tuple[str, str]]:
    """What a manifest counts, of the run and of its parts, each in a row; zeros are left out."""
    rows: list[tuple[str, str]] = []
    for name, value in counts.items():
        words = of + name.replace("_", " ")
        if isinstance(value, Mapping):
            rows += _counts(value, f"{words}, ")
        elif isinstance(value, int) and value:
            rows.append((words, f"{value:,}"))
    return rows


def _work(work: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> str:
    """What each stage did, and how long it took."""
    rows, seconds = [], [done.get("seconds", 0.0) for done in work.values()]
    for (stage, done), spent in zip(work.items(), seconds, strict=True):
        counted = {n: v for n, v in done.items() if v and n != "seconds" and n not in MEMORY}
        words = ", ".join(
            f"{value:,.0f} {name.replace('_', ' ')}" for name, value in counted.items()
        )
        peaks = (kind.format(size_text(int(done[n]))) for n, kind in MEMORY.items() if done.get(n))
        rows.append((titles.get(stage, stage), f"{spent:,.1f} s", words, ", ".join(peaks)))
    total = ("in total", f"{sum(seconds):,.1f} s", "", "")
    note = "Added up over interruptions; what was stored before the run began took it no time."
    return html_table(("stage", "time", "done", "memory, at its peak"), [*rows, total], note)


def _command(manifest: Mapping[str, Any]) -> str:
    settings = manifest.get("config", {})
    try:
        command = repeat_command(settings)
        same = study_of(manifest).config(**settings).run_name() == manifest.get("run")
    except UserError as reason:
        return paragraph(f"No command repeats this run here: {reason}.")
    except ValidationError:
        same = False
    note = "How it was executed (device, batch sizes, folders) changes no result and is left out."
    if not same:
        note += " An earlier version wrote this run: the command writes a folder of another name."
    wrap = "white-space:pre-wrap;overflow-wrap:anywhere"
    return f'<pre style="{wrap}">{safe(command)}</pre>{paragraph(note)}'
