"""What stands between the network and marimo: ASGI layers, each a function around an application.

marimo serves a notebook; these decide what may be asked of it, by how many, and how its assets
travel. Websockets and streams pass through them untouched.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

PAGES = frozenset(
    {
        "/", "/health", "/healthz", "/og/thumbnail", "/public-files-sw.js", "/favicon.ico",
        "/manifest.json", "/logo.png", "/apple-touch-icon.png", "/android-chrome-192x192.png",
        "/android-chrome-512x512.png",
    }
)  # fmt: skip
"""What a page of marimo reads in run mode, besides its assets and `/@file/…` (downloads)."""
ACTIONS = frozenset(
    {
        "/api/kernel/set_ui_element_value",
        "/api/kernel/set_model_value",
        "/api/kernel/function_call",
        "/api/export/html",
    }
)
"""What it sends: a control was moved, a table sorted, the page is to be saved (without code)."""
MAX_BODY = 8 * 1024 * 1024
"""Bytes of a request; a lasso around 50,000 points sends about 5 MB."""
MAX_QUERY = 2_000
CHOOSES = frozenset({"file", "kiosk", "access_token"})
"""Query parameters by which marimo chooses another notebook or role; a visitor chooses neither."""
YEAR = 365 * 24 * 3600
FOREVER = b"public, max-age=%d, immutable" % YEAR

_HASHED = re.compile(r".+-[\w-]{8}\.\w+")


def reading_only(app: App) -> App:
    """Let through what a visitor of a page needs, by a list of paths; the rest is 404.

    marimo refuses to edit in run mode by itself; this does not rely on it. A request whose body
    is larger than `MAX_BODY` is 413, a query longer than `MAX_QUERY` 414.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            return await app(scope, receive, send)
        if kind == "websocket":
            if scope["path"] != "/ws" or len(scope["query_string"]) > MAX_QUERY:
                return await send({"type": "websocket.close", "code": 1008})
            return await app(_without_choices(scope), receive, send)
        if not _allowed(scope["method"], scope["path"]):
            return await say(send, 404, "Not found")
        if len(scope["query_string"]) > MAX_QUERY:
            return await say(send, 414, "The query is too long")
        body = await _body(scope, receive)
        if body is None:
            return await say(send, 413, "The request is too large")
        await app(_without_choices(scope), _replay(body, receive), send)

    return answer


def at_most(app: App, visitors: int, ttl: float) -> App:
    """Refuse new sessions beyond `visitors`; each holds memory until `ttl` s after it left.

    Who is known, such as a laptop that wakes, is let in again. To others the page is 503 and says
    so.
    """
    until: dict[str, float] = {}
    sockets: Counter[str] = Counter()

    def full(visitor: str | None = None) -> bool:
        now = time.monotonic()
        for gone in [known for known, end in until.items() if end < now]:
            del until[gone]
        return visitor not in until and len(until) >= visitors

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/" and full():
            return await say(
                send,
                503,
                "This page has as many visitors as it can serve. Please try again in two minutes.",
                [(b"retry-after", b"%d" % ttl)],
            )
        if scope["type"] != "websocket":
            return await app(scope, receive, send)
        visitor = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("session_id", "")
        if full(visitor):
            return await send({"type": "websocket.close", "code": 1013})
        until[visitor] = float("inf")
        sockets[visitor] += 1
        try:
            await app(scope, receive, send)
        finally:
            sockets[visitor] -= 1
            if not sockets[visitor]:
                del sockets[visitor]
                until[visitor] = time.monotonic() + ttl

    return answer


def with_assets(app: App, folder: Path) -> App:
    """Answer `/assets/…` from memory, compressed once, to be kept by browsers for a year.

    marimo's own answers are neither compressed nor marked, and a first visit asks for 300 files.
    Only names that were in `folder` at the start are looked up, so no path leads out of it.
    """
    names = {f"/assets/{file.name}": file for file in folder.iterdir() if file.is_file()}
    kept: dict[str, _Asset] = {}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in names:
            return await app(scope, receive, send)
        path = scope["path"]
        if path not in kept:
            kept[path] = _Asset(names[path])
        asset = kept[path]
        asked = dict(scope["headers"])
        headers: Headers = [
            (b"cache-control", FOREVER if _HASHED.fullmatch(names[path].name) else b"no-cache"),
            (b"etag", asset.tag),
            (b"vary", b"accept-encoding"),
            # Inside a frame with `sandbox` and no `allow-same-origin` the page's origin is null.
            (b"access-control-allow-origin", b"*"),
        ]
        if asset.tag in asked.get(b"if-none-match", b""):
            return await _send(send, 304, headers, b"")
        headers.append((b"content-type", asset.kind))
        body = asset.plain
        if asset.packed is not None and b"gzip" in asked.get(b"accept-encoding", b""):
            body = asset.packed
            headers.append((b"content-encoding", b"gzip"))
        await _send(send, 200, headers, body, scope["method"])

    return answer


class _Asset:
    """A file, and its compressed bytes where these are fewer."""

    def __init__(self, file: Path) -> None:
        self.plain = file.read_bytes()
        self.tag = b'"%s"' % hashlib.sha256(self.plain).hexdigest()[:32].encode()
        self.kind = (mimetypes.guess_type(file.name)[0] or "application/octet-stream").encode()
        packed = gzip.compress(self.plain, 6, mtime=0)
        self.packed = packed if len(packed) < 0.9 * len(self.plain) else None


async def say(send: Send, status: int, words: str, headers: Headers | None = None) -> None:
    """Answer with a line of plain text."""
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await _send(send, status, [kind, *(headers or [])], words.encode())


async def _send(
    send: Send, status: int, headers: Headers, body: bytes, method: str = "GET"
) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _allowed(method: str, path: str) -> bool:
    if method in ("GET", "HEAD"):
        return path in PAGES or path.startswith(("/assets/", "/@file/"))
    return method == "POST" and path in ACTIONS


def _without_choices(scope: Scope) -> Scope:
    given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if not any(name in CHOOSES for name, _ in given):
        return scope
    kept = urlencode([(name, value) for name, value in given if name not in CHOOSES])
    return {**scope, "query_string": kept.encode()}


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, or None where it is larger than allowed."""
    if scope["method"] != "POST":
        return b""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
