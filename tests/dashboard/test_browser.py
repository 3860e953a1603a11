"""The dashboard in a real browser: what a visitor sees, chooses and selects."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from support.browser import Window, chromium, served, window
from support.made_up_analysis import HOSTILE, make_analysis

pytestmark = pytest.mark.browser

MATHJAX = "mathjax"
"""marimo's figures to select in ask for it, and do without."""
LAST_WORDS = "In words: area under risk"
"""What the page says at its end."""
LEFT = re.compile(r"[\d,]+ runs of [\d,]+ questions are left of 600 runs")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard over one run."""
    chromium()
    folder = tmp_path_factory.mktemp("dashboard")
    root = Path(__file__).resolve().parent.parent.parent
    shutil.copy(root / "pyproject.toml", folder)  # it holds marimo's settings
    notebook = Path(shutil.copy(root / "probe_analysis.py", folder))
    make_analysis(folder / "outputs" / "one" / "analysis.parquet", questions=60, runs=10, tokens=25)
    with served("run", notebook, SEP_OUTPUTS=str(folder / "outputs")) as found:
        yield found


@pytest.fixture(scope="module")
def browser_page(address: str) -> Iterator[Window]:
    """One page for all tests: a browser takes seconds to start."""
    with window(1440) as found:
        yield found


@pytest.fixture
def opened(browser_page: Window, address: str) -> Iterator[Window]:
    """The dashboard, drawn to its end."""
    browser_page.errors.clear()
    browser_page.refused.clear()
    visit(browser_page, address)
    yield browser_page
    assert_clean(browser_page)


def visit(found: Window, address: str) -> None:
    found.page.goto("about:blank")
    found.page.goto(address)
    found.until(LAST_WORDS, 90)
    found.page.locator(".js-plotly-plot svg.main-svg").nth(14).wait_for(state="attached")


def assert_clean(found: Window) -> None:
    """No error in the console, and nothing asked of another host but what is said above."""
    assert all(MATHJAX in url for url in found.refused), found.refused
    failed = [error for error in found.errors if "ERR_NAME_NOT_RESOLVED" in error]
    assert len(failed) <= len(found.refused)
    assert found.errors == failed


def selected(found: Window) -> int:
    """How many runs the page says are selected."""
    words = re.search(r"([\d,]+) runs? selected", found.text())
    return int(words[1].replace(",", "")) if words else 0


CROWDED = """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => {
    const lines = [...plot.querySelectorAll(".gtitle .line")].map(x => x.getBoundingClientRect());
    const whole = plot.getBoundingClientRect();
    const bar = plot.querySelector(".modebar--hover") ? null : plot.querySelector(".modebar");
    const first = lines[0], left = bar && bar.getBoundingClientRect().left;
    const cut = lines.some(line => line.right > whole.right + 1);
    const under = bar && first && first.right > left && left > 0;
    return cut || under ? [plot.querySelector(".gtitle").textContent] : [];
})"""
"""The titles of figures that are cut off, or lie under the buttons."""


def test_the_page_is_drawn_within_its_width(opened: Window, tmp_path: Path) -> None:
    page = opened.page
    for width in (1440, 700):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(1000)  # figures follow the width
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        assert page.evaluate(CROWDED) == []
        height = int(page.evaluate("document.querySelector('#App').scrollHeight"))
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / f"page-{width}.png")
    assert LEFT.search(opened.text())
    page.set_viewport_size({"width": 1440, "height": 1000})


def test_a_filter_changes_the_counts_and_keeps_its_place(opened: Window) -> None:
    before = LEFT.search(opened.text())
    opened.page.locator("summary", has_text="Ranges of the probes").click()
    slider = opened.page.get_by_role("slider").nth(2)
    slider.focus()
    for _ in range(30):
        slider.press("ArrowRight")
    opened.until("are conditional on that range")
    after = LEFT.search(opened.text())
    assert before
    assert after
    assert before[0] != after[0]
    assert slider.is_visible()  # what was unfolded stays so
    opened.page.get_by_text("one a question: the first run").click()
    opened.until("One run a question is kept")
    left = LEFT.search(opened.text())
    assert left
    runs, questions = re.findall(r"[\d,]+", left[0])[:2]
    assert runs == questions


def test_selecting_points_opens_their_details(opened: Window, address: str) -> None:
    page = opened.page
    assert selected(opened) == 0
    figure = page.locator(".js-plotly-plot").first
    figure.scroll_into_view_if_needed()
    point = figure.locator(".scatterlayer .point").nth(3).bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()
    opened.until("1 run selected.")
    page.locator("section", has_text="final answer").wait_for()
    page.get_by_text("of thinking", exact=False).last.wait_for()

    map_figure = page.locator(".js-plotly-plot").nth(2)
    map_figure.scroll_into_view_if_needed()
    plot = map_figure.locator(".draglayer .nsewdrag").bounding_box()
    page.mouse.move(plot["x"] + 20, plot["y"] + 20)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] - 20, steps=5)
    page.mouse.up()
    opened.until("the first 10 in the order of the file are shown")
    assert selected(opened) > 10
    assert page.locator("section").count() == 10

    link = page.locator("a", has_text="Link to this view").get_attribute("href")
    page.get_by_role("button", name="Clear the selection").click()
    opened.until("Nothing is selected")
    assert selected(opened) == 0
    visit(opened, address + "/" + link)
    assert selected(opened) == 10
    assert "ignored" not in opened.text()


def test_a_hostile_address_changes_nothing(opened: Window, address: str) -> None:
    plain = opened.text()
    hostile = {
        "run": "../../etc/passwd",
        "dataset": HOSTILE[0],
        "split": "%252e%252e%252f",
        "length": "9" * 3000,
        "points": "1e999",
        "pick": HOSTILE[2],
        HOSTILE[1]: HOSTILE[3],
    }
    dialogs: list[str] = []
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    visit(opened, f"{address}/?{urlencode(hostile)}&representative=2")
    said = [line for line in opened.text().splitlines() if "was ignored" in line]
    keys = "run, dataset, split, representative, length, points, pick"
    assert [
        set(re.findall("[a-z]+", keys)) <= set(re.findall("[a-z]+", line)) for line in said
    ] == [True]
    assert "1 key is not of this page" in said[0]
    assert "passwd" not in opened.page.content()
    assert dialogs == []
    rest = [line for line in opened.text().splitlines() if line.strip() and line not in said]
    assert rest == [line for line in plain.splitlines() if line.strip()]


def test_texts_of_runs_are_only_shown(opened: Window, address: str) -> None:
    dialogs: list[str] = []
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    visit(opened, f"{address}/?split=train,validation,test,ood&pick=lab-7/0,lab-9/0,ood-47/0")
    opened.until("3 runs selected.")
    assert HOSTILE[0] in opened.text()
    assert dialogs == []
    assert opened.page.title() != "taken"
