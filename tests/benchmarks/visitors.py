"""Memory and time of the dashboard's server: started, with one visitor, with many at once.

    python -m tests.benchmarks.visitors --outputs outputs     # the dashboard over these runs
    python -m tests.benchmarks.visitors --notebook empty      # what marimo takes by itself

A visitor is a websocket that listens until every cell has run, and stays. The server runs as in the
small install (`tests/benchmarks/light_install.py`). Resident memory is read on Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.app.serving import STOPPED
from tests.benchmarks.harness import busy_warning
from tests.support.servers import free_port, running

ROOT = Path(__file__).resolve().parent.parent.parent
EMPTY = """
import marimo
app = marimo.App()
@app.cell
def _():
    import marimo as mo
    mo.md("nothing")
    return
"""


@dataclass(frozen=True)
class Server:
    """A server under way."""

    address: str
    """http://127.0.0.1:port"""
    pid: int
    seconds: float
    """From its start until it answered."""

    def resident(self) -> int:
        """Its resident memory now, in bytes (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@dataclass
class Visit:
    """What one visitor was sent."""

    first: float = 0.0
    """Seconds until the first cell's output came."""
    seconds: float = 0.0
    """Seconds until every cell had run."""
    failed: bool = False
    """Whether a cell raised."""
    messages: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Characters of all messages, before a websocket compresses them."""
        return sum(map(len, self.messages))


@contextlib.contextmanager
def served(*flags: str, light: bool = True, **environment: str) -> Iterator[Server]:
    """`python -m helpers.app.serving` on a free port of loopback, stopped at the end."""
    port, since = free_port(), time.monotonic()
    through = ["tests.benchmarks.light_install"] if light else []
    command = [sys.executable, "-m", *through, "helpers.app.serving", "--port", str(port), *flags]
    with running(command, port, ROOT, environment) as process:
        yield Server(f"http://127.0.0.1:{port}", process.pid, time.monotonic() - since)


@contextlib.asynccontextmanager
async def visitors(server: Server, count: int, name: str = "s", query: str = "") -> Any:
    """`count` visitors at once, all of whose cells have run; they leave at the end."""
    from websockets.asyncio.client import connect

    address = server.address.replace("http", "ws", 1)
    async with contextlib.AsyncExitStack() as stack:
        visits = [Visit() for _ in range(count)]

        async def come(number: int) -> None:
            url = f"{address}/ws?session_id={name}_{number:06}{query}"
            since = time.monotonic()
            socket = await stack.enter_async_context(
                connect(url, max_size=None, ping_timeout=None, open_timeout=60)
            )
            async with asyncio.timeout(300):
                await _listen(socket, visits[number], since)

        await asyncio.gather(*map(come, range(count)))
        yield visits


async def _listen(socket: Any, visit: Visit, since: float) -> None:
    async for text in socket:
        visit.messages.append(text)
        message = json.loads(text)
        output = message["data"].get("output") if message["op"] == "cell-op" else None
        if output and not visit.first:
            visit.first = time.monotonic() - since
        if output and output.get("channel") == "marimo-error":
            visit.failed |= any(error["type"] != STOPPED for error in output["data"])
        if message["op"] == "completed-run":
            visit.seconds = time.monotonic() - since
            return
    raise RuntimeError("the server closed the connection before all cells had run")


async def measure(server: Server, many: int) -> list[tuple[str, int, list[Visit]]]:
    """What was going on, resident bytes, and the visits, at every step."""
    steps: list[tuple[str, int, list[Visit]]] = [("started", server.resident(), [])]
    async with visitors(server, 1, "one") as visits:
        steps.append(("1 visitor", server.resident(), visits))
    for name in ("many", "others"):
        async with visitors(server, many, name) as visits:
            title = f"{many} at once" if name == "many" else f"{many} others, after these left"
            steps.append((title, server.resident(), visits))
    return steps


def table(server: Server, steps: Sequence[tuple[str, int, list[Visit]]]) -> str:
    """The steps as text."""
    lines = [f"ready after {server.seconds:.1f} s", f"{'':<30}{'RSS MB':>8}  first output, all (s)"]
    for title, resident, visits in steps:
        times = ""
        if visits:
            first, last = max(v.first for v in visits), max(v.seconds for v in visits)
            size = max(v.size for v in visits) / 1e6
            times = f"{first:6.2f} {last:6.2f}   {size:.2f} MB sent to each"
            times += "   A CELL FAILED" if any(v.failed for v in visits) else ""
        lines.append(f"{title:<30}{resident / 1e6:8.0f}  {times}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.visitors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--outputs", type=Path, help="folder of run folders")
    parser.add_argument("--notebook", default="", help="another notebook; 'empty' for one cell")
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--full", action="store_true", help="with every installed package")
    asked = parser.parse_args(arguments)
    print(busy_warning(1), file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--outputs", str(asked.outputs)] if asked.outputs else []
        if asked.notebook == "empty":
            asked.notebook = str(Path(folder) / "empty.py")
            Path(asked.notebook).write_text(EMPTY)
        flags += ["--notebook", asked.notebook] if asked.notebook else []
        with served(*flags, light=not asked.full, SEP_VISITORS="1000") as server:
            print(table(server, asyncio.run(measure(server, asked.visitors))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
