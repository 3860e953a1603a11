"""The report: a notebook's prose and views in one file that loads nothing."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.app import report
from helpers.cli.main import main
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.studies import registry
from helpers.studies.semantic_entropy.records import Run
from support.browser import window

ATTACK = "</script><script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>"
FITS = """() => [...document.querySelectorAll("figure:has(svg)")].every((figure) =>
    Math.abs(figure.clientWidth - figure.querySelector("svg").getBoundingClientRect().width) < 2)"""
SETUP = """import marimo
app = marimo.App()
with app.setup:
    import asyncio
    import marimo as mo
    import plotly.graph_objects as go
    from helpers.errors import UserError
    from helpers.views.html import html_table
    from helpers.views.showing import show, show_live
"""


def cell(code: str, refs: str = "", start: str = "@app.cell\ndef") -> str:
    return f"{start} _({refs}):\n{textwrap.indent(code, '    ')}\n"


def prose(text: str) -> str:
    return cell(f"mo.md({text!r})", start="@app.cell(hide_code=True)\ndef")


CELLS = (
    prose("# What a *fine* page\n\nIt has $x^2$ & words."),
    prose("## Choose\n\nPress it."),
    cell('button = mo.ui.run_button(label="press me")\nbutton'),
    cell("mo.stop(not button.value)\npressed = 1", "button"),
    cell('show(html_table, ["never"], [[pressed]])', "pressed"),
    cell('assert False, "the run is given"\nrun = None'),
    prose("## Tables & figures\n\nBelow."),
    cell(f"# a remark\nshow(html_table, [run.config.k], [[{ATTACK!r}, late]])", "late, run"),
    cell('print("said")\nawait asyncio.sleep(0)\nlate = "made later"\nreturn (late,)',
         start="@app.cell\nasync def"),
    cell('def lacking():\n    raise UserError("no <judge> was asked")\nshow(lacking)'),
    cell(f'fig = go.Figure(go.Scatter(y=[1, 2], text=[{ATTACK!r}]))\n'
         'fig.update_layout(title="Title<br><span>A &amp; B</span>", height=320)\n'
         'show(lambda: [fig, "<p>between</p>", fig])'),
    prose("## Choose\n\nThe second of this name."),
    cell("slider = mo.ui.slider(2, 5)\nslider"),
    cell('show(html_table, ["chosen"], [[slider.value]])', "slider"),
    prose("## Choose"),
    cell('luck = {}["<luck>"]'),
    cell("show(html_table, [luck], [])", "luck"),
    prose("Only *live* words."),
    cell('show_live(lambda: "<p>typed</p>")'),
)  # fmt: skip
"""A notebook of every kind of cell."""


class Found(HTMLParser):
    """The tags of a page with their attributes, and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.words += f"{data} "

    def of(self, *names: str) -> list[str]:
        """What the page's attributes of these names say."""
        return [str(attrs[name]) for _, attrs in self.tags for name in names if name in attrs]


@pytest.fixture(scope="module")
def run(tiny_run: RunConfig) -> Run:
    """A finished run."""
    return report.finished_run(tiny_run.run_folder)


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small notebook, from which reports are made."""
    path = tmp_path / "small.py"
    path.write_text(SETUP + "".join(CELLS))
    monkeypatch.setattr(report, "notebook_path", lambda study: path)
    return path


def page_of(run: Run, path: Path, *, code: bool = False) -> str:
    passages = report.run_cells(report.notebook_cells(path), {"run": run})
    return report.report_html(run, passages, code=code)


def test_prose_and_views_stand_in_the_notebooks_order(run: Run, notebook: Path) -> None:
    found = Found(page_of(run, notebook))
    words = (
        "What a fine page Report of the run", "It has x^2 & words.", "Below.",
        f"{run.config.k} {ATTACK} made later", "no <judge> was asked", "between",
        "The second of this name.", "chosen 2", f"sep report out/{run.folder.name} .",
    )  # fmt: skip
    places = [found.words.index(part) for part in words]
    assert places == sorted(places)
    for left_out in ("Press it", "press me", "never", "live", "typed", "said", "asyncio"):
        assert left_out not in found.words
    # The heading over nothing but a button is gone with it.
    anchors = [attrs["id"] for tag, attrs in found.tags if tag == "h2"]
    assert anchors == ["tables-figures", "choose", "choose-again"]
    assert found.of("src", "href", "action") == [f"#{anchor}" for anchor in anchors]
    assert found.of("aria-label") == ["Contents", "Title. A & B", "Title. A & B"]


def test_texts_of_others_never_become_markup(run: Run, notebook: Path) -> None:
    page = page_of(replace(run, folder=run.folder.with_name("<b>run")), notebook, code=True)
    tags = [tag for tag, _ in Found(page).tags]
    assert not {"img", "luck", "judge", "b"} & set(tags)
    assert tags.count("script") == 4  # plotly.js, the data of two figures, and what draws them
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(figures[0])["data"][0]["text"] == [ATTACK]


def test_code_is_folded_in_where_it_is_asked_for(run: Run, notebook: Path) -> None:
    words = Found(page_of(run, notebook, code=True)).words
    assert "# a remark show(html_table, [run.config.k]" in words
    assert 'late = "made later" def lacking' in words
    assert "mo.md(" not in words
    assert f"{run.folder.name} --code" in words


def test_a_cell_that_fails_is_shown_and_is_the_commands_status(
    run: Run, notebook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = notebook.with_name("new") / "page.html"
    assert main(["report", str(run.folder), "--out", str(target)]) == 2
    assert f"{target} is written, and 1 cell failed (KeyError: '<luck>')" in capsys.readouterr().err
    words = Found(target.read_text()).words
    assert "This cell failed: KeyError: '<luck>'" in words
    assert "This cell did not run: luck is missing" in words


def test_what_stands_in_the_way_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        report.finished_run(tmp_path)
    with pytest.raises(UserError, match="is a folder; name a file"):
        report.write_report(run, tmp_path)
    manifest = {**run.manifest, "format_version": 1, "stages_done": ["samples", "meanings"]}
    half = shutil.copytree(run.folder, tmp_path / "half")
    (half / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"is not finished \(done: samples, meanings\)"):
        report.finished_run(half)
    with pytest.raises(UserError, match=r"none\.py is missing: reports .* made from the notebook"):
        registry.notebook_path(replace(registry.study_named(), notebook="studies/none.py"))


def test_report_of_a_run_opens_from_a_file_without_a_network(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    assert main(["report", str(run.folder), "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}  {path.stat().st_size / 1e6:.1f} MB\n"
    found = Found(path.read_text())
    score = f"{run.assessment.high_entropy['question_length']['auroc'].value:.3f}"
    for words in (score, "Uncertainty", "Do they work?", "Tripwires", "uv run sep run --preset"):
        assert words in found.words
    assert all(address.startswith("#") for address in found.of("src", "href", "action", "srcset"))
    with window(1440, 900, offline=True) as opened:
        opened.page.goto(path.as_uri())
        figures = opened.page.locator("figure")
        assert figures.count() >= 8
        opened.page.get_by_role("link", name="Tripwires").click()
        for width in (1440, 700):
            opened.page.set_viewport_size({"width": width, "height": 900})
            figures.last.locator("svg.main-svg").first.wait_for(timeout=30_000)
            opened.page.wait_for_function(FITS)
            assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        opened.page.emulate_media(media="print")
        assert (opened.errors, opened.refused) == ([], [])
