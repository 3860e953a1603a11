"""The dashboard `probe_analysis.py` for visitors: read-only, and embeddable where that is allowed.

python -m helpers.app.serving --port 8080                     this machine only
python -m helpers.app.serving --host 0.0.0.0 --port $PORT     as a web service
uvicorn --factory helpers.app.serving:create_app              by another server

SEP_FRAME_ANCESTORS   origins that may show the page in an iframe, separated by spaces;
                      * for every site; where it is not set, no other site may
SEP_OUTPUTS           folder of the runs that are shown
SEP_VISITORS          visitors at a time (default 40); each takes memory
"""

# No `from __future__` here: `compile_one_at_a_time` would hand it on to every cell of marimo.
import argparse
import asyncio
import base64
import builtins
import contextlib
import ctypes
import functools
import gzip
import hashlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from helpers.errors import UserError

DASHBOARD = Path(__file__).resolve().parent.parent.parent / "probe_analysis.py"
FRAME_VARIABLE = "SEP_FRAME_ANCESTORS"
OUTPUTS_VARIABLE = "SEP_OUTPUTS"
SESSION_TTL = 120  # seconds for which the session of a visitor who left can be taken up again
READABLE = (
    "/", "/health", "/healthz", "/og/thumbnail", "/public-files-sw.js", "/favicon.ico",
    "/manifest.json", "/logo.png", "/apple-touch-icon.png", "/android-chrome-192x192.png",
    "/android-chrome-512x512.png", "/@file/{path:path}",
)  # fmt: skip
"""What a page of marimo reads in run mode, besides its assets; `/@file/…` are downloads."""
ACTIONS = (
    "/api/kernel/set_ui_element_value", "/api/kernel/set_model_value",
    "/api/kernel/function_call", "/api/export/html",
)  # fmt: skip
"""What it sends: a control was moved, a table sorted, the page is to be saved (without code)."""
MAX_BODY = 8 * 1024 * 1024  # bytes of a request; a lasso around 50,000 points sends about 5 MB
MAX_QUERY = 2_000
NOTEBOOK_PARAMETERS = frozenset({"file", "kiosk", "access_token"})
"""Query parameters by which marimo chooses another notebook or role; a visitor chooses neither."""
YEAR = 365 * 24 * 3600
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HASHED_ASSET = re.compile(r"/assets/[^/]+-[\w-]{8}\.\w+")
"""A file whose name changes with its content."""
STOPPED = "ancestor-stopped"
"""The error of a cell behind `mo.stop`: the page says something there, and means it."""
_TITLE = re.compile(r"<title>([^<]*)</title>")
_INLINE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::\d{{1,5}})?")


def create_app(notebook: Path = DASHBOARD) -> Starlette:
    """The ASGI application of a notebook, with its settings from the environment.

    Only what a visitor's page needs has a route: marimo refuses to edit in run mode by itself, and
    this does not rely on it. Raises UserError for a setting that cannot be used.
    """
    ancestors = frame_ancestors(os.environ.get(FRAME_VARIABLE, ""))
    visitors = _number("SEP_VISITORS", 40, 1, 10_000)
    if not notebook.is_file():
        raise UserError(f"{notebook}: there is no such notebook to serve.")
    import marimo

    limit_malloc_arenas()
    compile_one_at_a_time()
    builder = marimo.create_asgi_app(quiet=True, include_code=False, session_ttl=SESSION_TTL)
    dashboard: Any = builder.with_app(path="", root=str(notebook)).build()
    sessions = dashboard.routes[0].app.state.session_manager
    assets = Path(marimo.__file__).parent / "_static" / "assets"

    @contextlib.asynccontextmanager
    async def warmed_up(_: Starlette) -> AsyncIterator[None]:
        try:
            await warm_up(dashboard, "s_warmup")
            sessions.close_session("s_warmup")
            yield
        finally:
            await sessions.shutdown()

    app = Starlette(
        routes=[
            *(Route(path, dashboard, methods=["GET"]) for path in READABLE),
            *(Route(path, dashboard, methods=["POST"]) for path in ACTIONS),
            WebSocketRoute("/ws", dashboard),
            Mount("/assets", CompressedOnce(directory=assets, follow_symlink=True)),
        ],
        middleware=[  # from the outside to the inside
            Middleware(GZipMiddleware, minimum_size=1024, compresslevel=5),
            Middleware(set_headers, ancestors=ancestors),
            Middleware(limit_query),
            Middleware(limit_visitors, visitors=visitors, sessions=sessions),
            Middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY),
        ],
        lifespan=warmed_up,
    )
    app.router.redirect_slashes = False
    return app


class CompressedOnce(StaticFiles):
    """Static files whose compressed bytes stay in memory: a first visit asks for 300 files."""

    def file_response(
        self, full_path: Any, stat_result: Any, scope: Scope, status: int = 200
    ) -> Any:
        response = super().file_response(full_path, stat_result, scope, status)
        accepted = Headers(scope=scope).get("accept-encoding", "")
        packed = response.media_type in DEFAULT_EXCLUDED_CONTENT_TYPES
        if packed or "gzip" not in accepted or response.status_code != 200:
            return response
        body = _compressed(full_path)
        length = {"content-length": str(len(body)), "content-encoding": "gzip"}
        return Response(body, headers={**response.headers, "vary": "accept-encoding", **length})


@functools.cache
def _compressed(path: str) -> bytes:
    return gzip.compress(Path(path).read_bytes(), 6)


def limit_query(app: ASGIApp) -> ASGIApp:
    """Refuse a query longer than `MAX_QUERY`, and leave `NOTEBOOK_PARAMETERS` out of others."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        if len(scope["query_string"]) > MAX_QUERY:
            refusal: ASGIApp = PlainTextResponse("The query is too long", 414)
            if scope["type"] == "websocket":
                refusal = WebSocketClose(1008)
            return await refusal(scope, receive, send)
        query = QueryParams(scope["query_string"]).multi_items()
        kept = [(name, value) for name, value in query if name not in NOTEBOOK_PARAMETERS]
        await app({**scope, "query_string": urlencode(kept).encode()}, receive, send)

    return middleware


def limit_visitors(app: ASGIApp, visitors: int, sessions: Any) -> ASGIApp:
    """Refuse new sessions beyond `visitors`; marimo keeps each for `SESSION_TTL` after it left.

    Who has a session, such as a laptop that wakes, is let in again. To others the page is 503.
    """
    connected: Counter[str] = Counter()

    def full(visitor: str | None = None) -> bool:
        known = {*connected, *sessions.sessions}
        return visitor not in known and len(known) >= visitors

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/" and full():
            words = "This page has as many visitors as it can serve. Try again in two minutes."
            refusal = PlainTextResponse(words, 503, {"retry-after": str(SESSION_TTL)})
            return await refusal(scope, receive, send)
        if scope["type"] != "websocket":
            return await app(scope, receive, send)
        visitor = QueryParams(scope["query_string"]).get("session_id", "")
        if full(visitor):
            return await WebSocketClose(1013)(scope, receive, send)
        connected[visitor] += 1
        try:
            await app(scope, receive, send)
        finally:
            connected[visitor] -= 1
            if not connected[visitor]:
                del connected[visitor]

    return middleware


def set_headers(app: ASGIApp, ancestors: str) -> ASGIApp:
    """Set the security headers of every answer; browsers keep assets for a year.

    The page `/` is never "not modified": that answer would bring no hashes of its scripts.
    """

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        request = MutableHeaders(scope=scope)
        forwarded = request.get("x-forwarded-proto", "").split(",")[0].strip()
        if scope["path"] == "/":
            del request["if-none-match"]
        start: Message = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)  # waits for the page, whose scripts its policy names
                return
            if start:
                headers, page = MutableHeaders(scope=start), ""
                if scope["path"] == "/":
                    page = with_loading_words(message["body"].decode())
                    message = {**message, "body": page.encode()}
                    headers["content-length"] = str(len(message["body"]))
                headers.update(SECURITY_HEADERS)
                headers["content-security-policy"] = content_security_policy(ancestors, page)
                if "https" in (scope["scheme"], forwarded):
                    headers["strict-transport-security"] = f"max-age={YEAR}"
                if HASHED_ASSET.fullmatch(scope["path"]) and start["status"] in (200, 304):
                    headers["cache-control"] = f"public, max-age={YEAR}, immutable"
                    # In a frame with `sandbox` and no `allow-same-origin` the origin is null.
                    headers["access-control-allow-origin"] = "*"
                await send({**start})
                start.clear()
            await send(message)

        await app(scope, receive, send_with_headers)

    return middleware


def with_loading_words(page: str) -> str:
    """marimo's page with its title and "Loading…" where its scripts will draw it."""
    title = _TITLE.search(page)
    if title is None:
        return page
    # The title is HTML already: it is taken from the page as it stands there.
    words = (
        '<div style="font-family:sans-serif;box-sizing:border-box;width:100%;max-width:45rem;'
        f'margin:4rem auto;padding:0 1rem"><h1 style="font-size:1.8rem">{title[1]}</h1>'
        "<p>Loading…</p><noscript>This page needs JavaScript.</noscript></div>"
    )
    return page.replace('<div id="root"></div>', f'<div id="root">{words}</div>', 1)


def content_security_policy(ancestors: str, page: str = "") -> str:
    """The policy of an answer; `ancestors` comes from `frame_ancestors`.

    A page runs its own scripts and the inline ones that marimo wrote into it, known by their
    hashes: one that came in with a model's text is not run. Evaluating is allowed because
    Plotly's WebGL compiles what it draws. Every connection stays on this origin.
    """
    hashes = ""
    # A browser hashes a script as it parsed it, with every line end as \n.
    for script in _INLINE.findall(page.replace("\r\n", "\n").replace("\r", "\n")):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        hashes += f" 'sha256-{digest}'"
    return (
        f"default-src 'self'; script-src 'self' 'unsafe-eval'{hashes}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: "
        "blob:; font-src 'self' data:; worker-src 'self' blob:; frame-src 'self'; object-src "
        f"'none'; base-uri 'self'; form-action 'self'; frame-ancestors {ancestors}"
    )


def frame_ancestors(value: str) -> str:
    """The sources of a `frame-ancestors` directive from the origins a person wrote.

    Empty: `'self'`, so that no other site frames the page. `*` allows every site and `none` not
    even this one; otherwise origins such as `https://example.org` or `https://*.example.org`,
    separated by spaces. Raises UserError for anything else: the value becomes part of a header.
    """
    words = [word for word in value.split(" ") if word]
    if words in (["*"], ["none"]):
        return "*" if words == ["*"] else "'none'"
    for word in words:
        if word != "self" and not _ORIGIN.fullmatch(word):
            raise UserError(
                f"{FRAME_VARIABLE}={value!r}: {word!r} is no origin. Give origins separated by "
                "spaces, such as 'https://example.org https://*.example.com' (no path, no quotes, "
                "no comma), or * alone for every site, or none alone for no site."
            )
    return " ".join(["'self'", *dict.fromkeys(word for word in words if word != "self")])


async def warm_up(dashboard: ASGIApp, session: str, seconds: float = 120) -> None:
    """Visit marimo's application until all cells ran; raises UserError where that fails.

    What the notebook imports and reads is then in memory when the first visitor comes. It is a
    session like any other: marimo prepares itself for a library where a session imports it first.
    """
    ran = asyncio.Event()
    errors: list[dict[str, Any]] = []
    waiting: list[Message] = [{"type": "websocket.connect"}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
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
        "type": "websocket", "scheme": "ws", "path": "/ws", "subprotocols": [],
        "query_string": f"session_id={session}".encode(), "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    try:
        await asyncio.wait_for(dashboard(scope, receive, send), seconds)
    except TimeoutError:
        raise UserError(f"The cells of the page did not end in {seconds:g} s.") from None
    if errors:
        raise UserError(f"A cell of the page fails: {json.dumps(errors)[:1000]}")
    if not ran.is_set():
        raise UserError("The session was closed before the cells of the page had run.")


def compile_one_at_a_time(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> None:
    """Let one thread at a time make syntax trees, where `version` of Python needs it.

    marimo parses cells in a thread for each visitor. When several come at once, a cell in some
    hundreds would fail with "AST constructor recursion depth mismatch" (python/cpython#106905).
    """
    if version >= (3, 11, 8):
        return
    plain, lock = builtins.compile, threading.RLock()

    def locked(*arguments: Any, **named: Any) -> Any:
        with lock:
            return plain(*arguments, **named)

    builtins.compile = locked


def limit_malloc_arenas() -> bool:
    """Let all threads allocate from two arenas; whether the C library can (glibc).

    By itself it gives one to each of many threads, and a visitor is a thread: twenty visitors then
    took three times the memory that they use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    m_arena_max = -8  # in glibc's malloc.h
    return mallopt is not None and mallopt(m_arena_max, 2) == 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status (2: a problem that the message explains)."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.app.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (0.0.0.0: every network)")
    parser.add_argument("--port", type=int, help="port (default: $PORT, else 8080)")
    parser.add_argument("--outputs", type=Path, help=f"folder of runs (sets {OUTPUTS_VARIABLE})")
    parser.add_argument("--notebook", type=Path, default=DASHBOARD, help="another notebook")
    options = parser.parse_args(arguments)
    try:
        port = options.port if options.port is not None else _number("PORT", 8080, 1, 65535)
        if options.outputs is not None:
            if not options.outputs.is_dir():
                raise UserError(f"--outputs {options.outputs}: there is no such folder of runs.")
            os.environ[OUTPUTS_VARIABLE] = str(options.outputs.resolve())
        app = create_app(options.notebook)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    serve(app, options.host, port)
    return 0


def serve(app: ASGIApp, host: str, port: int) -> None:
    """Serve one process, which holds the sessions of all visitors; ends the process."""
    import uvicorn

    status: object = 0
    try:
        uvicorn.run(
            app,
            host=host,
            port=port,
            access_log=False,  # 300 lines a visitor, with their addresses
            server_header=False,
            lifespan="on",
            timeout_keep_alive=75,  # longer than a proxy keeps a connection, or it answers 502
            timeout_graceful_shutdown=3,
            ws_max_size=64 * 1024,  # visitors only listen
        )
    except SystemExit as failed:
        status = failed.code
    sys.stdout.flush()
    sys.stderr.flush()
    # Python would wait for the threads of open sessions, which wait for their visitors.
    os._exit(status if isinstance(status, int) else 1)


def _number(variable: str, default: int, lowest: int, highest: int) -> int:
    given = os.environ.get(variable, "").strip() or str(default)
    if not given.isdecimal() or not lowest <= int(given) <= highest:
        raise UserError(
            f"{variable}={given!r}: give a whole number from {lowest} to {highest}, or unset it."
        )
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
