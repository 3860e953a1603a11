"""The dashboard as visitors get it: in an iframe of another site, many at once, and attacked.

The server runs as in the small install: whatever only the pipeline needs cannot be imported.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import http.client
import http.server
import json
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.browser import window
from support.made_up_analysis import make_analysis
from support.servers import free_port, running
from tests.benchmarks.visitors import ROOT, Server, Visit, served, visitors

PROGRAM = "probe_analysis.py"
HEADING = "Does the model know when it is wrong?"
MATHJAX = "mathjax"
"""Plotly asks a CDN for it, which the policy refuses."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of 1,200 rows."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "made-up").mkdir()
    make_analysis(folder / "made-up" / "analysis.parquet", questions=120)
    return folder


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """A site of another origin that serves a folder; its origin."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sites that frame the dashboard."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def friend(pages: Path) -> Iterator[str]:
    """A site that may frame the dashboard."""
    with site(pages) as origin:
        yield origin


@pytest.fixture(scope="module")
def dashboard(outputs: Path, friend: str, pages: Path) -> Iterator[Server]:
    """The dashboard's server, and `embed.html` on the sites, as Railway.md writes it."""
    flags = ("--outputs", str(outputs))
    with served(*flags, SEP_FRAME_ANCESTORS=friend, SEP_VISITORS="60") as server:
        snippet = re.search(r"```html\n(.*?)```", (ROOT / "Railway.md").read_text(), re.S)
        assert snippet is not None
        frame = snippet[1].replace("https://YOUR-APP.up.railway.app", server.address)
        assert server.address in frame
        head = "<!doctype html><title>Embeds</title><link rel=icon href=data:,>"
        (pages / "embed.html").write_text(head + frame)
        yield server


@pytest.fixture(scope="module")
def code() -> list[str]:
    """Statements of the notebook that are no prose, long enough to be told from it."""
    found = []
    for node in ast.walk(ast.parse((ROOT / PROGRAM).read_text())):
        for statement in getattr(node, "body", None) or []:
            if isinstance(statement, ast.Assign | ast.Import | ast.ImportFrom | ast.Return):
                found.append(ast.unparse(statement))
    found = [line for line in found if len(line) > 25]
    assert len(found) > 10
    return found


def get(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers (in lower case) and text of an address."""
    request = urllib.request.Request(server.address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode(errors="replace")
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, text
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read().decode(errors="replace")


def test_it_answers_without_what_the_pipeline_needs(dashboard: Server, friend: str):
    status, headers, text = get(dashboard, "/health")
    assert (status, json.loads(text)) == (200, {"status": "healthy"})
    assert headers["content-security-policy"].endswith(f"frame-ancestors 'self' {friend}")
    maps = Path(f"/proc/{dashboard.pid}/maps")
    if maps.exists():
        loaded = maps.read_text()
        assert "pyarrow" in loaded
        assert not re.search(r"site-packages/(torch|sklearn|pandas)/", loaded)


# In a browser


def test_a_site_that_may_shows_it_in_an_iframe(dashboard: Server, friend: str):
    with window(700) as found:
        found.page.goto(f"{friend}/embed.html")
        frame = found.page.frame_locator("iframe")
        frame.get_by_text(HEADING).first.wait_for(timeout=60_000)
        frame.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached", timeout=60_000)
        inner = next(f for f in found.page.frames if f.url.startswith(dashboard.address))
        root = "document.documentElement"
        assert inner.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
        assert all(MATHJAX in url for url in found.refused), found.refused
        assert all(MATHJAX in error for error in found.errors), found.errors


def test_another_site_may_not(dashboard: Server, pages: Path):
    with site(pages) as stranger, window(700) as found:
        found.page.goto(f"{stranger}/embed.html")
        deadline = time.monotonic() + 30
        while not found.errors and time.monotonic() < deadline:
            found.page.wait_for_timeout(100)
        assert "frame-ancestors" in found.errors[0]
        assert HEADING not in "".join(frame.content() for frame in found.page.frames)


def test_a_visitor_moves_a_control_and_saves_the_page(dashboard: Server, code: list[str]):
    with window(1440) as found:
        found.page.goto(f"{dashboard.address}/?run=%3Cscript%3E&file=/etc/passwd&colour=' OR 1")
        found.until(HEADING)
        found.until("A part of the address was ignored")
        found.until("leaves")
        assert "Loading…" not in found.text()
        questions = re.findall(r"leaves [\d,]+ runs of (\d+) questions", found.text())[-1]
        alone = found.page.get_by_text(f"leaves {questions} runs of {questions} questions").first
        assert not alone.is_visible()
        found.page.get_by_role("checkbox").first.click()  # one run a question
        alone.wait_for()
        found.page.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
        assert not [line for line in code if line in found.page.content()]
        found.page.locator("button:has(svg.lucide-ellipsis)").click()
        with found.page.expect_download(timeout=60_000) as download:
            found.page.get_by_role("menuitem", name="Download as HTML").click()
        saved = download.value.path().read_text()
        assert HEADING in saved
        assert not [line for line in code if line in saved or json.dumps(line)[1:-1] in saved]
        assert all(MATHJAX in error for error in found.errors), found.errors


# Many at once


def test_twenty_visitors_at_once(dashboard: Server, code: list[str]):
    async def come() -> tuple[list[int], list[Visit]]:
        async with visitors(dashboard, 1, "first"):
            alone = dashboard.resident() if sys.platform == "linux" else 0
        async with visitors(dashboard, 20, "many") as visits:
            together = dashboard.resident() if sys.platform == "linux" else 0
            return [alone, together], visits

    resident, visits = asyncio.run(come())
    assert resident[0] < 300e6
    assert resident[1] < 600e6
    assert not any(visit.failed for visit in visits)
    sent = "".join(visits[0].messages)
    assert HEADING in sent
    assert not [line for line in code if line in sent or json.dumps(line)[1:-1] in sent]


# Attacked


def test_one_visitor_cannot_break_the_page_of_another(dashboard: Server):
    async def interfere() -> list[Visit]:
        async with visitors(dashboard, 1, "victim", "&run=%00&pick=%27%3B--&length=1e999..-1"):
            junk = {"objectIds": ["no-0", "../.."], "values": [{"a": [1e308]}, None]}
            request = urllib.request.Request(
                f"{dashboard.address}/api/kernel/set_ui_element_value",
                data=json.dumps(junk).encode(),
                headers={"Marimo-Session-Id": "victim_000000", "Content-Type": "application/json"},
            )
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=30).close()
            async with visitors(dashboard, 1, "other") as visits:
                return visits

    (visit,) = asyncio.run(interfere())
    assert not visit.failed
    assert HEADING in "".join(visit.messages)


def test_the_procfile_s_command_starts(outputs: Path):
    command = (ROOT / "Procfile").read_text().split(":", 1)[1]
    port, here = free_port(), f"exec {sys.executable} -m marimo run"
    words = command.replace("uv run --no-sync marimo run", here).replace("$PORT", str(port))
    assert here in words
    with running(["bash", "-c", words], port, ROOT, {"SEP_OUTPUTS": str(outputs)}):
        pass
