"""The layers before marimo, one at a time, and what a person may set."""

from __future__ import annotations

import asyncio
import base64
import builtins
import gzip
import hashlib
import json
import platform
import re
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.light_install import Absent, needed
from helpers import serving, serving_layers
from helpers.errors import UserError
from helpers.serving_headers import frame_ancestors, with_headers
from helpers.serving_layers import at_most, reading_only, with_assets
from helpers.serving_page import with_waiting_words
from helpers.serving_parsing import parse_one_at_a_time
from helpers.serving_warm import visit


@dataclass
class Answer:
    """What an application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    closed: int | None = None
    """Why a websocket was closed."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def ask(
    app: Any,
    path: str = "/",
    method: str = "GET",
    *,
    query: str = "",
    headers: dict[str, str] | None = None,
    body: list[bytes] | None = None,
    kind: str = "http",
) -> Answer:
    """One request to an ASGI application; `body` comes in pieces."""
    scope = {
        "type": kind, "method": method, "path": path, "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
    }  # fmt: skip
    waiting = list(body or [b""])
    answer = Answer()

    async def receive() -> dict[str, Any]:
        piece = waiting.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        elif message["type"] == "http.response.body":
            answer.pieces.append(message.get("body", b""))
        elif message["type"] == "websocket.close":
            answer.closed = message["code"]

    asyncio.run(app(scope, receive, send))
    return answer


def saying(
    *pieces: bytes, kind: str = "text/html", seen: list | None = None, **headers: str
) -> Any:
    """An application that answers with pieces; it notes what it was asked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if seen is not None:
            body = (await receive()).get("body") if scope["type"] == "http" else None
            seen.append((scope["path"], scope["query_string"].decode(), body))
        if scope["type"] != "http":
            return await send({"type": "websocket.accept"})
        given = {"content-type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
        pairs = [(k.encode(), v.encode()) for k, v in given.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        for i, piece in enumerate(pieces or (b"ok",)):
            more = i + 1 < len(pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    return app


# Who may frame the page


@pytest.mark.parametrize(
    ("value", "sources"),
    [
        ("", "'self'"),
        ("  ", "'self'"),
        ("self", "'self'"),
        ("none", "'none'"),
        ("*", "*"),
        ("https://example.org", "'self' https://example.org"),
        ("https://a.example https://*.b.example:8443", "'self' https://a.example https://*.b.example:8443"),
        ("http://127.0.0.1:8000 self http://127.0.0.1:8000", "'self' http://127.0.0.1:8000"),
    ],
)  # fmt: skip
def test_origins_that_may_frame_the_page(value, sources):
    assert frame_ancestors(value) == sources


@pytest.mark.parametrize(
    "value",
    [
        "'self'", "https://a.example; script-src *", "https://a.example\nx-evil: 1",
        "https://a.example\r", "https://a.example\t*", "example.org", "https://", "https://a_b.c",
        "https://a.example/path", "https://a.example/", "https://user@a.example", "https://*",
        "* https://a.example", "none self", "https://a.example,https://b.example", "javascript:1",
        "data:", "https:", '"*"', "https://a.example:port", "https://ä.example", "https://-a.b",
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name_and_with_the_remedy(value):
    with pytest.raises(UserError, match=r"SEP_FRAME_ANCESTORS=.*Give origins separated by spaces"):
        frame_ancestors(value)


# Headers


def test_headers_of_every_answer():
    app = with_headers(saying(x_frame_options="DENY", referrer_policy="unsafe-url"), "'self'")
    found = ask(app, "/any").headers
    policy = found["content-security-policy"].split("; ")
    assert policy[-1] == "frame-ancestors 'self'"
    assert {"object-src 'none'", "base-uri 'self'", "form-action 'self'"} <= set(policy)
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "camera=()" in found["permissions-policy"]
    assert "x-frame-options" not in found
    assert "strict-transport-security" not in found
    over_https = ask(app, "/any", headers={"X-Forwarded-Proto": "https"}).headers
    assert over_https["strict-transport-security"].startswith("max-age=")


def test_only_the_inline_scripts_of_the_page_itself_may_run():
    script = "\n  a < b && c\r\n"
    page = f'<script>{script}</script><script type="module" src="x.js"></script>'.encode()
    hashed = base64.b64encode(hashlib.sha256(b"\n  a < b && c\n").digest()).decode()
    app = with_headers(saying(page), "'self'")
    rule = next(p for p in _policy(ask(app)) if p.startswith("script-src"))
    assert rule == f"script-src 'self' 'unsafe-eval' 'sha256-{hashed}'"
    for other in (saying(page, b"more"), saying(page, kind="application/json")):
        assert "sha256" not in str(_policy(ask(with_headers(other, "'self'"))))


def _policy(answer: Answer) -> list[str]:
    return answer.headers["content-security-policy"].split("; ")


def test_the_page_is_never_not_modified():
    seen = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])
        await saying()(scope, receive, send)

    ask(with_headers(app, "*"), "/", headers={"If-None-Match": '"x"', "Accept": "y"})
    assert seen == [(b"accept", b"y")]


def test_a_stream_passes_piece_by_piece_and_a_websocket_untouched():
    app = with_headers(saying(b"1", b"2", b"3", kind="text/event-stream"), "*")
    assert ask(app, "/stream").pieces == [b"1", b"2", b"3"]
    seen = []
    ask(reading_only(with_headers(saying(seen=seen), "*")), "/ws", kind="websocket", query="a=b")
    assert seen == [("/ws", "a=b", None)]


def test_words_stand_on_the_page_until_it_is_drawn():
    page = b'<title>A &lt; B</title><body><div id="root"></div>\xc3\xa4</body>'
    found = ask(with_waiting_words(saying(page, content_length=str(len(page)))))
    assert ">A &lt; B</h1><p>Loading…</p>" in found.body.decode()
    assert found.body.startswith(page.split(b"></div>")[0] + b"><div")
    assert found.body.endswith("</div>ä</body>".encode())
    assert found.headers["content-length"] == str(len(found.body))
    for other in (b"", b"no title", b"<title>and no root</title>"):
        assert ask(with_waiting_words(saying(other))).body == other
    assert ask(with_waiting_words(saying(page, b"more"))).body == page + b"more"
    assert ask(with_waiting_words(saying(page)), "/health").body == page


# What may be asked


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("HEAD", "/"), ("GET", "/health"), ("GET", "/assets/index-12345678.js"),
        ("GET", "/@file/12-34-x.png"), ("GET", "/favicon.ico"),
        ("POST", "/api/kernel/set_ui_element_value"), ("POST", "/api/kernel/function_call"),
    ],
)  # fmt: skip
def test_what_a_page_needs_passes(method, path):
    assert ask(reading_only(saying()), path, method).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"), ("DELETE", "/"), ("OPTIONS", "/"), ("GET", "/api/status"), ("GET", "/sse"),
        ("GET", "/api/kernel/function_call"), ("POST", "/api/kernel/save"),
        ("POST", "/api/kernel/instantiate"), ("POST", "/api/kernel/run"),
        ("POST", "/api/kernel/read_code"), ("POST", "/api/files/open"), ("POST", "/api/kernel"),
        ("POST", "/assets/x.js"), ("GET", "/public/../../etc/passwd"), ("GET", "//"),
        ("GET", "/../../etc/passwd"), ("GET", "/index.html"), ("GET", "/auth/login"),
        ("POST", "/api/kernel/set_ui_element_value/"), ("GET", "/terminal/ws"), ("GET", "/docs"),
    ],
)  # fmt: skip
def test_everything_else_is_not_found(method, path):
    assert ask(reading_only(saying()), path, method).status == 404


@pytest.mark.parametrize("path", ["/ws_sync", "/terminal/ws", "/lsp/pylsp", "/ws/"])
def test_there_is_one_websocket(path):
    seen = []
    assert ask(reading_only(saying(seen=seen)), path, kind="websocket").closed == 1008
    assert not seen


def test_visitors_choose_no_other_notebook_and_keep_their_own_query():
    seen = []
    query = "run=a%20b&file=/etc/passwd&run=c&kiosk=true&access_token=t&x=&file="
    ask(reading_only(saying(seen=seen)), "/ws", kind="websocket", query=query)
    assert seen == [("/ws", "run=a+b&run=c&x=", None)]


def test_large_requests_are_refused_before_marimo_sees_them(monkeypatch):
    monkeypatch.setattr(serving_layers, "MAX_BODY", 10)
    seen = []
    app = reading_only(saying(seen=seen))
    post = ("/api/kernel/function_call", "POST")
    assert ask(app, *post, headers={"Content-Length": "11"}).status == 413
    assert ask(app, *post, headers={"Content-Length": "1e1"}).status == 413
    assert ask(app, *post, body=[b"12345", b"67890", b"1"]).status == 413
    assert ask(app, "/", query="x" * 2001).status == 414
    assert not seen
    assert ask(app, *post, body=[b"12345", b"67890"]).status == 200
    assert seen == [(post[0], "", b"1234567890")]


def test_more_visitors_than_fit_are_told_so(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = []
    app = at_most(saying(seen=seen), 2, ttl=120)

    def come(name: str) -> int | None:
        return ask(app, "/ws", kind="websocket", query=f"session_id={name}").closed

    assert come("a") is None
    assert ask(app).status == 200
    assert come("b") is None
    assert come("c") == 1013
    assert come("a") is None, "a laptop that wakes"
    full = ask(app)
    assert (full.status, full.headers["retry-after"]) == (503, "120")
    assert b"as many visitors as it can serve" in full.body
    assert ask(app, "/health").status == 200
    now[0] = 121.0
    assert come("c") is None
    assert ask(app).status == 200
    assert ("/ws", "session_id=c", None) in seen


# Assets


def test_assets_come_compressed_from_memory_and_stay_with_the_browser(tmp_path):
    text, image = b"let x = 1;" * 500, bytes(range(256)) * 8
    (tmp_path / "index-1a2B_-4d.js").write_bytes(text)
    (tmp_path / "plain.js").write_bytes(b"1")
    (tmp_path / "i-12345678.png").write_bytes(hashlib.shake_256(image).digest(3000))
    app = with_assets(saying(b"marimo"), tmp_path)
    found = ask(app, "/assets/index-1a2B_-4d.js", headers={"Accept-Encoding": "gzip, br"})
    assert gzip.decompress(found.body) == text
    assert found.headers["content-encoding"] == "gzip"
    assert found.headers["content-length"] == str(len(found.body))
    assert found.headers["content-type"] in ("text/javascript", "application/javascript")
    assert "immutable" in found.headers["cache-control"]
    tag = found.headers["etag"]
    assert ask(app, "/assets/index-1a2B_-4d.js", headers={"If-None-Match": tag}).status == 304
    assert ask(app, "/assets/index-1a2B_-4d.js").body == text
    assert ask(app, "/assets/index-1a2B_-4d.js", "HEAD").body == b""
    assert "immutable" not in ask(app, "/assets/plain.js").headers["cache-control"]
    picture = ask(app, "/assets/i-12345678.png", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in picture.headers
    for other in ("/assets/../plain.js", "/assets/", "/assets/none.js", "/plain.js"):
        assert ask(app, other).body == b"marimo"


def test_every_asset_of_marimo_has_its_hash_in_its_name():
    import marimo

    folder = Path(marimo.__file__).parent / "_static" / "assets"
    plain = [
        file.name for file in folder.iterdir() if not serving_layers._HASHED.fullmatch(file.name)
    ]
    assert not plain


# The whole


def write_notebook(folder: Path, *cells: str) -> Path:
    """A notebook of cells, each "what it takes: body"."""
    written = ["import marimo\napp = marimo.App()\n"]
    for cell in ("import marimo as mo -> mo,", *cells):
        taken, _, body = cell.rpartition(": ")
        body, _, given = body.partition(" -> ")
        lines = "\n    ".join([*body.split("; "), f"return {given}"])
        written.append(f"@app.cell\ndef _({taken}):\n    {lines}\n")
    path = folder / "page.py"
    path.write_text("".join(written))
    return path


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that notes every run of it."""
    return write_notebook(
        tmp_path, f"f = open({str(tmp_path / 'ran')!r}, 'a'); f.write('1'); f.close()"
    )


@pytest.fixture
def plain_compile() -> Iterator[None]:
    """Python's own `compile` again after the test."""
    plain = builtins.compile
    yield
    builtins.compile = plain


def start(app: Any) -> list[dict[str, Any]]:
    """What an application says when a server starts and stops it."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"lifespan.{'shutdown' if said else 'startup'}"}

    async def send(message: Any) -> None:
        said.append(dict(message))

    asyncio.run(app({"type": "lifespan"}, receive, send))
    return said


@pytest.mark.usefixtures("plain_compile")
def test_the_whole_application(notebook, monkeypatch):
    monkeypatch.setenv("SEP_FRAME_ANCESTORS", "https://example.org")
    app = serving.create_app(notebook)
    assert not (notebook.parent / "ran").exists()
    assert [m["type"] for m in start(app)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert (notebook.parent / "ran").read_text() == "1", "it was run once, before any visitor"
    health = ask(app, "/health")
    assert (health.status, json.loads(health.body)) == (200, {"status": "healthy"})
    page = ask(app, "/", query="file=/etc/passwd", headers={"Accept-Encoding": "gzip"})
    text = gzip.decompress(page.body).decode()
    assert page.headers["content-security-policy"].endswith("'self' https://example.org")
    assert "<marimo-" in text
    assert str(notebook.parent / "ran") not in text, "a part of its code"
    inline = re.findall(r"<script(?![^>]* src=)", text)
    assert page.headers["content-security-policy"].count("sha256-") == len(inline) > 1


@pytest.mark.usefixtures("plain_compile")
@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["1 / 0", "1 + 1"], "a cell of the page fails"),
        (["x = 1", "x = 2"], "a cell of the page fails"),
        (["mo: mo.stop(True, 'no runs yet'); y = 1 -> y,", "y: y + 1"], ""),
    ],
)
def test_a_page_that_fails_is_not_served_and_one_that_stops_is(tmp_path, cells, problem):
    said = start(serving.create_app(write_notebook(tmp_path, *cells)))[0]
    assert said["type"] == f"lifespan.startup.{'failed' if problem else 'complete'}"
    assert said.get("message", "").startswith(problem)


def test_a_page_that_never_ends_is_given_up():
    async def page(scope, receive, send):
        await receive()
        await asyncio.sleep(60)

    assert asyncio.run(visit(page, 0.05)) == "the cells of the page did not end in 0 s"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEP_FRAME_ANCESTORS", "https://a.example; x", "Give origins"),
        ("SEP_VISITORS", "0", "a whole number from 1"),
        ("SEP_VISITORS", "many", "a whole number from 1"),
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "70000", "a whole number from 1 to 65535"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start(
    notebook, monkeypatch, capsys, variable, value, said
):
    monkeypatch.setattr(serving, "serve", lambda *_: pytest.fail("it started"))
    monkeypatch.setenv(variable, value)
    assert serving.main(["--notebook", str(notebook)]) == 2
    error = capsys.readouterr().err
    assert f"error: {variable}={value!r}" in error
    assert said in error


def test_the_command_line(notebook, monkeypatch, capsys, tmp_path):
    started = []
    monkeypatch.setattr(serving, "serve", lambda app, host, port: started.append((host, port)))
    monkeypatch.setattr(serving, "create_app", lambda path: path)
    monkeypatch.setenv("PORT", "5001")
    monkeypatch.delenv("SEP_OUTPUTS", raising=False)
    assert serving.main(["--host", "0.0.0.0", "--outputs", str(tmp_path)]) == 0
    assert serving.main(["--port", "5002"]) == 0
    assert started == [("0.0.0.0", 5001), ("127.0.0.1", 5002)]
    assert serving.os.environ["SEP_OUTPUTS"] == str(tmp_path)
    assert serving.main(["--outputs", str(tmp_path / "none")]) == 2
    assert "no such folder of runs" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        serving.main(["--help"])
    assert "SEP_FRAME_ANCESTORS" in capsys.readouterr().out


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives threads pools")
def test_threads_share_two_pools_of_memory():
    assert serving.share_memory()


def test_a_python_that_parses_wrongly_in_threads_is_kept_from_it(monkeypatch):
    at_once, most = [0], [0]

    def slow(*arguments: Any, **named: Any) -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        at_once[0] -= 1

    def several() -> int:
        most[0] = 0
        threads = [
            threading.Thread(target=lambda: builtins.compile("1", "", "eval")) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return most[0]

    monkeypatch.setattr(builtins, "compile", slow)
    assert not parse_one_at_a_time((3, 11, 8))
    assert several() > 1
    assert parse_one_at_a_time((3, 11, 7))
    assert several() == 1


# The files of the deployment


def test_the_small_install_is_told_from_this_one():
    small = needed()
    assert {"marimo", "plotly", "pyarrow", "pydantic-core"} <= small
    absent = Absent(small)
    for module in ("torch", "torch.nn", "transformers", "sklearn.metrics"):
        with pytest.raises(ModuleNotFoundError):
            absent.find_spec(module, None)
    for module in ("marimo", "numpy", "yaml", "helpers", "json"):
        assert absent.find_spec(module, None) is None


def test_the_image_has_what_it_needs_and_no_more(root):
    lines = (root / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    ignored = (root / ".dockerignore").read_text().split("\n")
    for name, rest in steps:
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (root / source).exists(), source
                assert not _ignored(source, ignored), source
    last = {name: rest for name, rest in steps}
    assert last["USER"] == "visitor"
    assert json.loads(last["CMD"]) == ["python", "-m", "helpers.serving", "--host", "0.0.0.0"]
    check = json.loads(last["HEALTHCHECK"].split("CMD", 1)[1])
    compile(check[2], "healthcheck", "exec")
    assert "/health" in check[2]
    (sync,) = [rest for name, rest in steps if name == "RUN" and "uv sync" in rest]
    assert "--locked --no-default-groups" in sync
    assert "--extra" not in sync
    for absent in ("tests/x.py", ".git/config", ".venv/bin/python", "helpers/lab/weights/a.json",
                   "outputs/run/hidden/tbg.safetensors", "helpers/__pycache__/a.pyc"):  # fmt: skip
        assert _ignored(absent, ignored), absent
    for present in (
        "helpers/dashboard/page.py",
        "outputs/run/analysis.parquet",
        "outputs/run/metrics.json",
    ):
        assert not _ignored(present, ignored), present


def _ignored(path: str, rules: list[str]) -> bool:
    """Whether Docker leaves a path out: the last rule that fits it, or a folder of it, counts."""
    parts = path.split("/")
    ways = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    found = False
    for rule in (rule for rule in rules if rule and not rule.startswith("#")):
        pieces = re.split(r"(\*\*/|\*)", rule.lstrip("!"))
        wild = {"**/": "(?:.*/)?", "*": "[^/]*"}
        pattern = "".join(wild.get(piece, re.escape(piece)) for piece in pieces)
        if any(re.fullmatch(pattern, way) for way in ways):
            found = not rule.startswith("!")
    return found


def test_the_procfile_s_flags_exist(root):
    from click.testing import CliRunner
    from marimo._cli.cli import main as marimo

    (line,) = (root / "Procfile").read_text().splitlines()
    kind, command = line.split(":", 1)
    words = shlex.split(command)
    assert kind == "web"
    assert words[:5] == ["uv", "run", "--no-sync", "marimo", "run"]
    assert (root / words[5]).is_file()
    known = CliRunner().invoke(marimo, ["run", "--help"]).output
    assert all(re.search(rf"{word}\b", known) for word in words[5:] if word.startswith("--"))
