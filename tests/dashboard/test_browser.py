"""The dashboard in a real browser: what a visitor sees, chooses and selects."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import Window, assert_clean, chromium, served, window
from support.made_up_analysis import HOSTILE, make_analysis

pytestmark = pytest.mark.browser

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


def test_the_page_is_drawn_within_its_width(opened: Window) -> None:
    page = opened.page
    for width in (1440, 700):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(1000)  # figures follow the width
        assert opened.overflow() <= 0
        assert page.evaluate(CROWDED) == []
    assert LEFT.search(opened.text())
    page.set_viewport_size({"width": 1440, "height": 1000})


def test_a_filter_changes_the_counts_and_keeps_its_place(opened: Window) -> None:
    before = LEFT.search(opened.text())
    opened.page.locator("summary", has_text="Ranges of the probes").click()
    slider = opened.page.get_by_role("slider").nth(2)
    slider.focus()
    for _ in range(3):
        slider.press("PageUp")
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


def test_texts_of_runs_are_only_shown(opened: Window, address: str) -> None:
    dialogs: list[str] = []
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    visit(opened, f"{address}/?split=train,validation,test,ood&pick=lab-7/0,lab-9/0,ood-47/0")
    opened.until("3 runs selected.")
    assert HOSTILE[0] in opened.text()
    assert dialogs == []
    assert opened.page.title() != "taken"
