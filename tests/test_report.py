"""The report: the notebook's prose and views in one file that loads nothing, and the web page."""

from __future__ import annotations

import functools
import http.server
import json
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import Window, window
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import marimo_assets, report, showing
from helpers.cli import main
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.report_page import described, figure_html
from helpers.run import Run
from helpers.showing import LIVE, Shown, items_of, reporting, show, show_live

ATTACK = "</script><script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>"
ODD = (math.nan, math.inf, -math.inf, -0.0, 1e9, 123456.5)
NOTEBOOK = f"""
import marimo

app = marimo.App()

with app.setup:
    import marimo as mo
    import plotly.graph_objects as go

    from helpers.errors import UserError
    from helpers.report_tables import headline, html_table
    from helpers.showing import show, show_live

    ATTACK = {ATTACK!r}


@app.cell(hide_code=True)
def _():
    mo.md("# What a *fine* page\\n\\nWords, with [a link](https://paper.example/x) and $x^2$.")
    return


@app.cell(hide_code=True)
def _():
    mo.md("## Choose\\n\\nPress it.")
    return


@app.cell
def _():
    button = mo.ui.run_button(label="press me")
    button
    return (button,)


@app.cell
def _(button):
    mo.stop(not button.value)
    pressed = 1
    return (pressed,)


@app.cell
def _(pressed):
    show(html_table, ["never"], [[pressed]])
    return


@app.cell
def _():
    run = None
    assert run, "the run is given, so that this cell does not run"
    return (run,)


@app.cell(hide_code=True)
def _():
    mo.md("## Tables & figures\\n\\nBelow.")
    return


@app.cell
def _(run):
    print("for a terminal")
    show(lambda: html_table(["name"], [[ATTACK], [run.config.k]]))
    return


@app.cell
def _():
    def missing():
        raise UserError("no <judge> was asked")

    show(missing)
    return


@app.cell
def _(run):
    show(headline, run)
    return


@app.cell
def _():
    first = go.Figure(go.Scatter(x=[1, 2, 3], y=[1 / 3, 2 / 3, None], text=[ATTACK] * 3))
    first.update_layout(title="Title<br><span>a note</span>", height=320)
    second = go.Figure(go.Bar(x=["a", "b"], y=[1, 2]), layout=dict(title="Bars", height=300))
    show(lambda: [first, "<p>between</p>", second])
    return (first,)


@app.cell
def _(first):
    chart = mo.ui.plotly(first)
    chart
    return (chart,)


@app.cell(hide_code=True)
def _():
    mo.md("## Choose\\n\\nThe second of this name.")
    return


@app.cell
def _(button):
    slider = mo.ui.slider(1, 5)
    slider
    return (slider,)


@app.cell
def _(slider):
    show(html_table, ["chosen"], [[slider.value]])
    return


@app.cell(hide_code=True)
def _():
    mo.md("Only *live* words.")
    return


@app.cell
def _():
    show_live(lambda: "<p>typed</p>")
    return


if __name__ == "__main__":
    app.run()
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small notebook of every kind of cell."""
    path = tmp_path_factory.mktemp("small") / "small.py"
    path.write_text(NOTEBOOK)
    return path


@pytest.fixture(scope="module")
def run(tiny_run: RunConfig) -> Run:
    """A finished run."""
    return report.finished_run(tiny_run.run_folder)


def page_of(run: Run, notebook: Path, *, code: bool = False) -> str:
    """The report that this notebook gives of a run."""
    cells = report.run_cells(report.notebook_app(notebook), {"run": run})
    when = datetime(2026, 11, 21, 13, 5, tzinfo=UTC)
    return report.report_html(run, cells, code=code, command="sep report <it>", written=when)


def page_with(run: Run, shown: Shown) -> str:
    """The report of a notebook of one cell that shows this."""
    cell, when = report.CellResult("", False, shown), datetime(2026, 11, 21, tzinfo=UTC)
    return report.report_html(run, [cell], code=False, command="", written=when)


@pytest.fixture(scope="module")
def page(run: Run, notebook: Path) -> str:
    """The report without code."""
    return page_of(run, notebook)


@dataclass
class Read(HTMLParser):
    """What a browser would find in a page."""

    addresses: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        found = dict(attrs)
        self.tags.append((tag, found))
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            if found.get(name) is not None:
                self.addresses.append(str(found[name]))
        self.styles.append(found.get("style") or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        kind = {"script": self.scripts, "style": self.styles}.get(self._inside, self.words)
        kind.append(data)

    @classmethod
    def page(cls, text: str) -> Read:
        """Read a whole page."""
        read = cls()
        read.feed(text)
        read.close()
        return read

    def text(self) -> str:
        """The words of the page."""
        return " ".join(" ".join(self.words).split())

    def figures(self) -> list[dict[str, Any]]:
        """What the figures draw."""
        return [json.loads(s) for s in self.scripts if s.startswith('{"data"')]


def test_prose_and_views_stand_in_the_notebooks_order(page: str, run: Run) -> None:
    words = Read.page(page).text()
    places = [
        words.index(part)
        for part in (
            run.folder.name, "In short", "Written 21 November 2026, 13:05 UTC", "Words, with",
            "Below.", f"onerror=alert(1)> {run.config.k}", "no <judge> was asked", "between",
            "The second of this name.", "chosen 1", "Made by sep report <it>",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_what_can_only_be_worked_with_is_left_out_with_its_prose(page: str) -> None:
    words = Read.page(page).text()
    for part in ("Press it.", "press me", "never", "live", "typed", "for a terminal"):
        assert part not in words
    assert "<marimo-" not in page
    assert "x^2" in words


def test_contents_are_the_headings_each_with_an_anchor_of_its_own(page: str) -> None:
    read = Read.page(page)
    anchors = [found["id"] for tag, found in read.tags if tag in ("h1", "h2") and "id" in found]
    assert anchors == ["tables-figures", "choose"]
    assert [a for a in read.addresses if a.startswith("#")] == [f"#{a}" for a in anchors]
    titles = re.findall(r"<h1[^>]*>(.*?)</h1>", page)
    assert titles == ["What a fine page"]
    many = [report.Passage(f"<h2>{t}</h2>", (), False, "") for t in ("A", "A", "A-2", "é", "ü")]
    _, headings = report.outline(many)
    assert len({h.anchor for h in headings}) == len(many)


def test_page_names_its_language_and_its_parts(page: str, run: Run) -> None:
    read = Read.page(page)
    tags = dict(reversed(read.tags))
    assert tags["html"]["lang"] == "en"
    assert {"main", "header", "footer", "nav", "title", "noscript"} <= set(tags)
    assert f"<title>{run.folder.name}: What a fine page</title>" in page
    labels = [found["aria-label"] for tag, found in read.tags if tag == "figure"]
    assert labels == ["Title. a note", "Bars", "Title. a note"]
    assert all(found["role"] == "img" for tag, found in read.tags if tag == "figure")


def test_headline_stands_at_the_head_only(page: str) -> None:
    assert Read.page(page).text().count("In short") == 1


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    read = Read.page(page)
    assert all(address.startswith("#") for address in read.addresses)
    assert not re.search(r"url\(|@import", " ".join(read.styles))
    policies = [m.get("content") for tag, m in read.tags if tag == "meta" and "http-equiv" in m]
    policy = str(policies[0])
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    assert "a link (https://paper.example/x)" in read.text()


def test_texts_of_others_never_become_markup(page: str, run: Run, notebook: Path) -> None:
    read = Read.page(page_of(run, notebook, code=True))
    assert [tag for tag, _ in read.tags].count("img") == 0
    # Three figures' data, plotly.js, and the script that draws.
    assert [tag for tag, _ in read.tags].count("script") == 5
    assert read.figures()[0]["data"][0]["text"] == [ATTACK] * 3
    hostile = replace(run, folder=run.folder.with_name("<b>run"))
    assert "<b>run" not in page_of(hostile, notebook)


def test_code_is_folded_in_only_when_asked_for(page: str, run: Run, notebook: Path) -> None:
    assert '<details class="code"' not in page
    read = Read.page(page_of(run, notebook, code=True))
    words = read.text()
    assert "first = go.Figure(go.Scatter" in words
    assert "mo.md(" not in words
    # The cells that show nothing lie folded with the next ones.
    folds = [found for tag, found in read.tags if (tag, found.get("class")) == ("details", "code")]
    assert 0 < len(folds) < 12


def test_figures_are_drawn_with_five_digits(page: str) -> None:
    first = Read.page(page).figures()[0]
    assert first["data"][0]["y"] == [0.33333, 0.66667, None]
    assert first["layout"]["height"] == 320


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300) | st.sampled_from(ODD), min_size=1, max_size=20))
def test_rounding_keeps_five_digits_of_any_number(values: list[float]) -> None:
    for given_as in (values, np.array(values)):
        made = figure_html(go.Figure(go.Scatter(y=given_as)))
        drawn = json.loads(re.findall(r">(\{.*\})<", made)[0])["data"][0]["y"]
        for value, shown in zip(values, drawn, strict=True):
            if math.isfinite(value):
                assert math.isclose(value, shown, rel_tol=5.1e-5)
            else:
                assert shown is None


def test_arrays_of_any_shape_and_type_are_written_as_lists() -> None:
    grid = np.array([[1 / 3, np.nan], [2.0, 5e-7]])
    counts = np.arange(4, dtype=np.int16)
    made = figure_html(go.Figure([go.Heatmap(z=grid), go.Bar(y=counts, customdata=[["a", 1 / 7]])]))
    heatmap, bars = json.loads(re.findall(r">(\{.*\})<", made)[0])["data"]
    assert heatmap["z"] == [[0.33333, None], [2, 5e-7]]
    assert (bars["y"], bars["customdata"]) == ([0, 1, 2, 3], [["a", 0.14286]])


def test_only_a_page_with_webgl_may_compile_programs(run: Run) -> None:
    for kind, compiles in ((go.Scattergl, True), (go.Scatter, False)):
        page = page_with(run, Shown((go.Figure(kind(y=[1, 2])),)))
        assert ("'unsafe-eval'" in page[:600]) is compiles


def test_description_is_the_title_and_its_notes_as_plain_text() -> None:
    text = "A &amp; B<br><span style='font-size:12px'>one &lt; two,</span><br><span>three</span>"
    assert described(go.Figure(layout={"title": {"text": text}})) == "A & B. one < two, three"
    assert described(go.Figure()) == "Figure"


def test_show_builds_nothing_where_nobody_looks() -> None:
    def never() -> str:
        raise AssertionError

    assert show(never) is None
    assert show_live(never) is None


def test_show_displays_texts_figures_lists_and_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    import marimo as mo

    monkeypatch.setattr(showing, "in_notebook", lambda: True)

    def missing() -> str:
        raise UserError("no <judge>")

    figure = go.Figure()
    assert show(lambda: figure) is figure
    assert show(lambda: None) is None
    assert show(lambda: "<b>x</b>").text == "<b>x</b>"
    assert "no &lt;judge&gt;" in show(missing).text
    assert isinstance(show(lambda: ["<b>x</b>", figure, None]), mo.Html)
    seen = []
    with reporting(lambda: seen.append(1)):
        assert show(lambda: ["<b>x</b>", figure, None]) == Shown(("<b>x</b>", figure))
        assert show_live(lambda: "<b>x</b>") is LIVE
    assert seen == [1]
    assert not showing.in_report()


def test_a_view_of_another_kind_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="dict"):
        items_of({"a": 1})


def test_command_writes_the_notebooks_report(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "page.html"
    assert main(["report", str(run.folder), "--out", str(target)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{target}  {target.stat().st_size / 1e6:.1f} MB\n"
    assert target.stat().st_size < 8e6
    text = target.read_text()
    read = Read.page(text)
    assert all(address.startswith("#") for address in read.addresses)
    assert not re.search(r"url\(|@import", " ".join(read.styles))
    assert "<marimo-" not in text
    command = f"Made by sep report {run.folder.parent.name}/{run.folder.name} ."
    assert command in read.text()
    assert f"{run.assessment.high_entropy['question_length']['auroc'].value:.3f}" in read.text()
    for words in ("What is this model unsure of?", "Uncertainty", "Do they work?", "Tripwires"):
        assert words in read.text()
    assert len(read.figures()) >= 8


@pytest.mark.parametrize(
    ("folder", "out", "words"),
    [
        ("nowhere", None, "is no run folder"),
        ("unfinished", None, "is not finished (done: samples, meanings)"),
        ("finished", ".", "is a folder; name a file"),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(
    folder: str, out: str | None, words: str, run: Run, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "finished").symlink_to(run.folder)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for path in run.folder.iterdir():
        if path.name != "manifest.json":
            (unfinished / path.name).symlink_to(path)
    manifest = {**run.manifest, "format_version": 1, "stages_done": ["samples", "meanings"]}
    (unfinished / "manifest.json").write_text(json.dumps(manifest))
    asked = ["report", str(tmp_path / folder), *(["--out", str(tmp_path / out)] if out else [])]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (run.folder / "report.html").exists()


def test_a_missing_notebook_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made from the notebook"):
        report.notebook_app(tmp_path / "none.py")


# --- the page that marimo exports ----------------------------------------------------------------

WEB = """
import marimo

app = marimo.App()

with app.setup:
    import sys

    import marimo as mo
    import plotly.graph_objects as go


@app.cell
def _():
    mo.md("# Started with " + " ".join(sys.argv[1:]))
    return


@app.cell
def _():
    go.Figure(go.Scatter(y=[3, 1, 2]), layout=dict(title="drawn by marimo"))
    return


if __name__ == "__main__":
    app.run()
"""


@pytest.fixture(scope="module")
def web_page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`index.html` of a small notebook, exported for the run."""
    path = tmp_path_factory.mktemp("web") / "web.py"
    path.write_text(WEB)
    elsewhere = tmp_path_factory.mktemp("runs") / run.folder.name
    elsewhere.mkdir()
    return marimo_assets.write_notebook_page(replace(run, folder=elsewhere), path)


def test_exported_notebook_names_only_files_beside_it(web_page: Path, run: Run) -> None:
    text = web_page.read_text()
    read = Read.page(text)
    files = [address for address in read.addresses if not address.startswith(("#", "data:"))]
    assert len(files) > 20
    assert "cdn.jsdelivr.net" not in text
    for address in files:
        assert address.startswith("./marimo-assets/")
        assert (web_page.parent / address).is_file()
    assert [path.name for path in web_page.parent.parent.iterdir()] == ["notebook"]
    assert "--limit=30 --k=4" in text
    assert "drawn by marimo" in text


def test_a_cell_that_fails_gives_the_reason_and_code_comes_along_when_asked_for(
    web_page: Path, run: Run, tmp_path: Path
) -> None:
    broken = tmp_path / "from" / "broken.py"
    broken.parent.mkdir()
    broken.write_text(WEB.replace("go.Figure(go", 'raise ValueError("no <luck>")\n    str(go'))
    with pytest.raises(UserError, match=r"broken\.py for .*: no <luck>; open it"):
        marimo_assets.export(broken, run, tmp_path, code=True)
    assert "go.Scatter(" in (tmp_path / "exported.html").read_text()
    assert "go.Scatter(" not in web_page.read_text()


def test_a_file_that_marimo_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / marimo_assets.ASSETS).mkdir()
    page = '<script src="https://cdn.jsdelivr.net/npm/@marimo-team/frontend@9.9/dist/x.js">'
    with pytest.raises(UserError, match=r"lacks 1 of the files .* such as x\.js"):
        marimo_assets.with_local_assets(page, tmp_path)


def test_a_renamed_folder_cannot_be_found_by_its_settings(run: Run) -> None:
    renamed = replace(run, folder=run.folder.with_name("mine"))
    with pytest.raises(UserError, match=run.folder.name):
        marimo_assets.flags_of(renamed)


# --- in a browser --------------------------------------------------------------------------------


def drawn(opened: Window) -> int:
    """How many figures there are; waits until all that can be seen are drawn."""
    figures = opened.page.locator("figure.plot")
    for number in range(figures.count()):
        if figures.nth(number).is_visible():
            figures.nth(number).locator("svg.main-svg").first.wait_for(timeout=30_000)
    return int(figures.count())


def test_report_opens_from_a_file_without_a_network(
    run: Run, notebook: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_of(run, notebook, code=True))
    with window(1440, 900, offline=True) as opened:
        opened.page.goto(path.as_uri())
        assert drawn(opened) == 3
        plot = opened.page.locator("figure.plot").first
        for width in (1440, 700):
            opened.page.set_viewport_size({"width": width, "height": 900})
            opened.page.wait_for_timeout(500)  # figures follow a little later
            assert opened.page.evaluate("document.documentElement.scrollWidth") == width
            place, drawing = plot.bounding_box(), plot.locator("svg").first.bounding_box()
            assert place["width"] == pytest.approx(drawing["width"], abs=1)
            assert place["width"] >= 650
        plot.scroll_into_view_if_needed()
        point = plot.locator(".point").first.bounding_box()
        opened.page.mouse.move(point["x"] - 40, point["y"])
        opened.page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
        plot.locator(".hovertext").first.wait_for(timeout=10_000)
        assert opened.page.locator("[data-title='Share chart...']").count() == 0
        opened.page.get_by_role("link", name="Tables & figures").click()
        assert opened.page.url.endswith("#tables-figures")
        assert (opened.errors, opened.refused) == ([], [])


def test_folded_figures_wait_and_webgl_draws_under_the_pages_policy(
    run: Run, tmp_path: Path
) -> None:
    line = figure_html(go.Figure(go.Scatter(y=[1, 2])))
    points = go.Figure(go.Scattergl(y=np.arange(6000.0), mode="markers"))
    shown = Shown((f"<details><summary>open me</summary>{line}</details>", points))
    path = tmp_path / "report.html"
    path.write_text(page_with(run, shown))
    with window(offline=True) as opened:
        opened.page.goto(path.as_uri())
        assert drawn(opened) == 2
        opened.page.locator("canvas").first.wait_for(state="attached", timeout=10_000)
        assert "WebGL is not supported" not in opened.text()
        folded = opened.page.locator("details figure.plot")
        assert folded.locator("svg").count() == 0
        opened.page.get_by_text("open me").click()
        folded.locator("svg.main-svg").first.wait_for(timeout=10_000)
        assert folded.locator("svg.main-svg").first.bounding_box()["width"] > 800
        assert opened.errors == []


@pytest.fixture
def server(web_page: Path) -> Iterator[str]:
    """A web server of the folder of the exported notebook; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(web_page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join()


def test_exported_notebook_asks_no_other_host_for_anything(server: str) -> None:
    with window() as opened:
        opened.page.goto(server)
        opened.until("Started with")
        opened.page.locator(".js-plotly-plot svg.main-svg").first.wait_for(timeout=30_000)
        opened.page.wait_for_load_state("networkidle")
        assert (opened.errors, opened.refused) == ([], [])
