"""The application in a real browser: what a person sees, presses, moves and clicks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.app.background import stop_worker, watch
from helpers.progress import silent_progress
from helpers.studies.registry import config_from_arguments, run_study
from support.browser import Window, assert_clean, chromium, served, window
from support.run_folders import TINY, as_flags

pytestmark = pytest.mark.browser

PROGRAM = "probe_training_auto.py"
LAST_WORDS = "This run is in"
"""What the last cell of the page says."""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the application: marimo keeps snapshots beside what it opens."""
    chromium()
    folder = tmp_path_factory.mktemp("page")
    root = Path(__file__).resolve().parent.parent.parent
    shutil.copy(root / "pyproject.toml", folder)  # it holds marimo's settings
    return Path(shutil.copy(root / PROGRAM, folder / PROGRAM))


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a run that is long enough to be stopped."""
    base = tmp_path_factory.mktemp("run")
    places = {"cache_dir": base / "cache", "out": base / "out"}
    return as_flags({**TINY, "limit": 60, "batch_size": 4, **places})


@pytest.fixture(scope="module")
def address(notebook: Path, flags: list[str]) -> Iterator[str]:
    """The application, which is asked for that run."""
    with served("run", notebook, *flags) as found:
        yield found


def test_a_run_is_started_stopped_found_again_and_finished(address: str, flags: list[str]) -> None:
    folder = config_from_arguments(flags).run_folder
    try:
        with window(700) as found:
            run, stop = (
                found.page.get_by_role("button", name=n, exact=True) for n in ("Run", "Stop")
            )
            found.page.goto(address)
            found.until("Nothing to show yet")
            found.until("60 of lab")
            assert not folder.exists()
            run.click()
            stop.click(timeout=60_000)
            found.until("Stopped: everything stored is kept", 90)
            assert watch(folder).state == "stopped"
            run.click()
            stop.wait_for(timeout=60_000)
            assert_clean(found)
        with window(700) as found:  # the first page is closed; the run goes on
            found.page.goto(address)
            found.until("for the best baseline", 240)
            found.until(LAST_WORDS, 120)
            assert watch(folder).state == "finished"
            assert_clean(found)
    finally:
        stop_worker(folder, grace=0.0)


@pytest.fixture(scope="module")
def opened(address: str, flags: list[str]) -> Iterator[Window]:
    """A page over the finished run, drawn to its end; one for all tests: it takes seconds."""
    run_study(config_from_arguments(flags), silent_progress())  # stored, if the test above ran
    with window(700) as found:
        found.page.goto(address)
        found.until(LAST_WORDS, 90)
        yield found
        assert_clean(found)


def test_a_stored_run_is_on_the_screen_within_its_width(opened: Window) -> None:
    drawn = opened.page.locator(".js-plotly-plot svg.main-svg").nth(2)
    drawn.wait_for(state="attached", timeout=90_000)
    assert opened.overflow() <= 0
    opened.page.set_viewport_size({"width": 900, "height": 1000})


def test_the_editor_shows_it_too(notebook: Path, flags: list[str]) -> None:
    with served("edit", notebook, *flags) as address, window() as found:
        found.page.goto(address)
        found.until("for the best baseline", 90)
        assert_clean(found)


def test_moving_sliders_redraws_and_takes_nothing_away(opened: Window) -> None:
    page = opened.page
    sliders = page.get_by_role("slider")
    assert sliders.count() >= 6
    for i in range(sliders.count()):
        slider = sliders.nth(i)
        before = slider.get_attribute("aria-valuenow")
        key = "ArrowLeft" if before == slider.get_attribute("aria-valuemax") else "ArrowRight"
        slider.press(key)
        assert slider.get_attribute("aria-valuenow") != before
    opened.until("now, from 3 samples")
    assert page.get_by_text(LAST_WORDS).is_visible()
    assert page.get_by_text("for the best baseline").first.is_visible()


def test_changing_a_setting_starts_nothing(opened: Window) -> None:
    page = opened.page
    settings = page.locator("summary", has_text=re.compile("^Settings$"))
    settings.filter(visible=True).first.click()
    limit = page.locator("input[inputmode=numeric]").filter(visible=True).first
    limit.fill("40")
    limit.press("Tab")
    opened.until("40 of lab")
    assert page.get_by_text("for the best baseline").first.is_visible()
    assert page.get_by_role("button", name="Run", exact=True).is_visible()


def test_a_click_on_a_point_shows_its_question(opened: Window) -> None:
    page = opened.page
    figure = page.locator(".js-plotly-plot", has_text="Wording against meaning").first
    figure.scroll_into_view_if_needed()
    shown = page.get_by_text(re.compile(r"^(train|validation|test) question \w+$")).first
    before = shown.inner_text()
    points = figure.locator(".scatterlayer .point")
    for i in range(points.count()):
        at = points.nth(i).bounding_box()
        page.mouse.click(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        page.wait_for_timeout(700)
        if shown.inner_text() != before:
            return
    raise AssertionError(f"still {before}")


def test_asking_a_question_and_checking_it(opened: Window) -> None:
    page = opened.page
    page.get_by_role("button", name="Ask").click()
    opened.until("nothing was generated", 60)
    page.get_by_role("button", name=re.compile("^Check by sampling")).click()
    opened.until("4 of 4 samples", 60)
    page.get_by_text(re.compile("Predicted .* nats, measured")).first.wait_for(timeout=60_000)
