"""A real browser against a real server on loopback, with every other host blocked.

Tests that use it are skipped, with the reason, where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

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


@contextlib.contextmanager
def window(width: int = 1440, height: int = 1000, *, offline: bool = False) -> Iterator[Window]:
    """An empty page of a browser of its own."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=[*FLAGS, OTHER_HOSTS])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            opened = Window(page)

            page.on("requestfailed", lambda request: _refused(opened, request.url))
            page.on("console", lambda said: _note(opened.errors, said))
            page.on("pageerror", lambda error: opened.errors.append(str(error)))
            page.context.set_offline(offline)
            yield opened
        finally:
            browser.close()


def _refused(opened: Window, url: str) -> None:
    if not url.startswith(LOCAL):
        opened.refused.append(url)


def _note(errors: list[str], said: Any) -> None:
    if said.type == "error":
        errors.append(said.text)


@contextlib.contextmanager
def served(mode: str, notebook: Path, *flags: str, **environment: str) -> Iterator[str]:
    """`marimo edit` or `marimo run` of a notebook on loopback; its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "marimo", "-q", mode, str(notebook), "--headless", "--no-token",
        "--host", "127.0.0.1", "--port", str(port), "--", *flags,
    ]  # fmt: skip
    inherited = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [part for part in command if part],
        cwd=notebook.parent,
        env={**inherited, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(address: str, server: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server left with status {server.returncode}"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"{address}: no answer in {seconds} s")


MATHJAX = "mathjax"
"""marimo's clickable figures ask for it, and do without."""


def assert_clean(found: Window) -> None:
    """No error in the console, and nothing asked of another host but what is said above."""
    assert all(MATHJAX in url for url in found.refused), found.refused
    failed = [error for error in found.errors if "ERR_NAME_NOT_RESOLVED" in error]
    assert len(failed) <= len(found.refused)
    assert found.errors == failed
