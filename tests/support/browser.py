"""A real browser against a real server on loopback, with every other host blocked.

Tests that use it are skipped, with the reason, where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.servers import free_port, running

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
OTHER_HOSTS = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""Every name leads nowhere; a handler in Python would slow down each of hundreds of requests."""
LOCAL = ("http://127.0.0.1", "ws://127.0.0.1", "file:", "data:", "blob:", "about:")


@dataclass
class Window:
    """A page, and what its console said."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """Errors of the console and of scripts."""
    refused: list[str] = field(default_factory=list)
    """Addresses of other hosts that the page asked for in vain."""

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.page.inner_text("body"))

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        root = "document.documentElement"
        return int(self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))

    def until(self, words: str, seconds: float = 60) -> None:
        """Wait for words to stand on the page."""
        self.page.get_by_text(words).first.wait_for(timeout=1000 * seconds)


def chromium() -> str:
    """The browser's path; skips the test where there is none."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


_browsers: list[Any] = []
"""The browser that is open: Playwright allows one, whose pages know nothing of each other."""


@contextlib.contextmanager
def window(width: int = 1440, height: int = 1000, *, offline: bool = False) -> Iterator[Window]:
    """An empty page."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with contextlib.ExitStack() as stack:
        if not _browsers:
            play = stack.enter_context(sync_playwright())
            _browsers.append(play.chromium.launch(executable_path=path, args=[*FLAGS, OTHER_HOSTS]))
            stack.callback(lambda: _browsers.pop().close())
        page = _browsers[0].new_page(viewport={"width": width, "height": height})
        stack.callback(page.close)
        opened = Window(page)

        def refused(request: Any) -> None:
            if not request.url.startswith(LOCAL):
                opened.refused.append(request.url)

        def said(message: Any) -> None:
            if message.type == "error":
                opened.errors.append(message.text)

        page.on("requestfailed", refused)
        page.on("console", said)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.context.set_offline(offline)
        yield opened


@contextlib.contextmanager
def served(mode: str, notebook: Path, *flags: str, **environment: str) -> Iterator[str]:
    """`marimo edit` or `marimo run` of a notebook on loopback; its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "marimo", "-q", mode, str(notebook), "--headless", "--no-token",
        "--host", "127.0.0.1", "--port", str(port), "--", *flags,
    ]  # fmt: skip
    with running(command, port, notebook.parent, {"HF_HUB_OFFLINE": "1", **environment}):
        yield f"http://127.0.0.1:{port}"


MATHJAX = "mathjax"
"""marimo's clickable figures ask for it, and do without."""


def assert_clean(found: Window) -> None:
    """No error in the console, and nothing asked of another host but what is said above."""
    assert all(MATHJAX in url for url in found.refused), found.refused
    failed = [error for error in found.errors if "ERR_NAME_NOT_RESOLVED" in error]
    assert len(failed) <= len(found.refused)
    assert found.errors == failed
