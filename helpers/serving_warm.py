"""The server visits its own page once before it listens.

Imports and data are then in memory when the first visitor comes. The visit is a session like any
other: marimo prepares itself for a library where a session imports it first, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from helpers.serving_layers import App, Message, Receive, Scope, Send

SECONDS = 120.0
"""How long the visit may take."""
ITSELF = "s_itself"
"""The session's name."""
STOPPED = "ancestor-stopped"
"""The error of a cell behind `mo.stop`: the page says something there, and means it."""


def visited_first(app: App, page: App, sessions: Any) -> App:
    """Answer like `app`, and start only once the cells of `page` have run without an error.

    `sessions` is marimo's session manager of `page`; a server that stops closes them all.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        await receive()
        problem = await visit(page)
        sessions.close_session(ITSELF)
        if problem:
            await sessions.shutdown()
            return await send({"type": "lifespan.startup.failed", "message": problem})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await sessions.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    return answer


async def visit(page: App, seconds: float = SECONDS) -> str:
    """Open a session of marimo's application, wait for all cells, leave; what failed, or ""."""
    ran = asyncio.Event()
    errors: list[dict[str, Any]] = []
    entered = False

    async def receive() -> Message:
        nonlocal entered
        if not entered:
            entered = True
            return {"type": "websocket.connect"}
        await ran.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Message) -> None:
        if message["type"] != "websocket.send":
            return
        found = json.loads(message["text"])
        output = found["data"].get("output") or {}
        if output.get("channel") == "marimo-error":
            errors.extend(error for error in output["data"] if error["type"] != STOPPED)
        if found["op"] == "completed-run":
            ran.set()

    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws",
        "path": "/ws", "raw_path": b"/ws", "root_path": "", "subprotocols": [],
        "query_string": f"session_id={ITSELF}".encode(), "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    session = asyncio.ensure_future(page(scope, receive, send))
    done, _ = await asyncio.wait([session], timeout=seconds)
    if not done:
        session.cancel()
        return f"the cells of the page did not end in {seconds:.0f} s"
    session.result()
    if errors:
        return f"a cell of the page fails: {json.dumps(errors)[:1000]}"
    return "" if ran.is_set() else "the session was closed before the cells of the page had run"
