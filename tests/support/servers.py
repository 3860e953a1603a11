"""Servers in processes of their own, on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds in which a server must answer: it may import torch first."""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    folder: Path,
    environment: Mapping[str, str],
    log: Path | None = None,
) -> Iterator[subprocess.Popen]:
    """A command that serves on a port, from when its /health answers; ended with the block."""
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        stack.callback(_end, process)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, f"it left with status {process.returncode}: {command}"
            assert time.monotonic() < deadline, f"no answer in {PATIENCE} s: {command}"
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            time.sleep(0.05)
        yield process


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
