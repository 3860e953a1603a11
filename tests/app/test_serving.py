"""The dashboard's server: what may be asked, by how many, headers, and what a person may set."""

from __future__ import annotations

import asyncio
import base64
import builtins
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from helpers.app import serving
from helpers.errors import UserError

SCRIPT = b"\n  a < b && c\r\n"
PAGE = (
    b'<title>A &lt; B</title><script>%s</script><script src="x.js"></script>'
    b'<body><div id="root"></div>\xc3\xa4</body>' % SCRIPT
)


CELL = "@app.cell\ndef _({}):\n    {}\n    return {}\n"


def write_notebook(folder: Path, *cells: tuple[str, str, str]) -> Path:
    """A notebook of cells: what each takes, its body, what it gives."""
    path = folder / "page.py"
    path.write_text("import marimo\napp = marimo.App()\n" + "".join(CELL.format(*c) for c in cells))
    return path


@pytest.fixture(autouse=True)
def plain_compile() -> Iterator[None]:
    """Python's own `compile` again after a test."""
    plain = builtins.compile
    yield
    builtins.compile = plain


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The whole application of a notebook that notes every run of it in `ran`."""
    folder = tmp_path_factory.mktemp("notebook")
    ran = folder / "ran"
    cell = f"import marimo; f = open({str(ran)!r}, 'a'); f.write('1'); f.close()"
    notebook = write_notebook(folder, ("", cell, ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEP_FRAME_ANCESTORS", "https://example.org")
        app = serving.create_app(notebook)
    assert not ran.exists()
    with TestClient(app, raise_server_exceptions=False) as client:
        assert ran.read_text() == "1", "it was run once, before any visitor"
        yield client


def stand_in(page: bytes = b"ok", seen: list | None = None, **headers: str) -> Starlette:
    """An application that answers anything with a page, and notes the queries of websockets."""

    async def answer(request: Request) -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    async def connect(socket: WebSocket) -> None:
        if seen is not None:
            seen.append(socket.url.query)
        await socket.accept()
        await socket.receive()

    return Starlette(routes=[WebSocketRoute("/ws", connect), Route("/{path:path}", answer)])


def script_sources(answer: Any) -> str:
    """The directive of an answer's policy that says which scripts run."""
    policy = answer.headers["content-security-policy"].split("; ")
    return next(rule for rule in policy if rule.startswith("script-src"))


# What may be asked


def test_a_visitor_gets_the_page_without_its_code(client):
    health = client.get("/health")
    assert (health.status_code, health.json()) == (200, {"status": "healthy"})
    page = client.get("/?file=/etc/passwd&access_token=x")
    assert (page.status_code, len(page.history)) == (200, 0)
    assert page.headers["content-encoding"] == "gzip"
    assert "<marimo-" in page.text
    assert "f.write(" not in page.text
    inline = re.findall(r"<script(?![^>]* src=)", page.text)
    assert script_sources(page).count("sha256-") == len(inline) > 1
    for answer in (health, page):
        assert answer.headers["content-security-policy"].endswith("'self' https://example.org")
    again = client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 200, "not modified would bring no hashes"


@pytest.mark.parametrize("path", ["/healthz", "/favicon.ico", "/@file/0-x", *serving.ACTIONS])
def test_what_a_page_needs_reaches_marimo(client, path):
    method = "POST" if path in serving.ACTIONS else "GET"
    assert client.request(method, path).text not in ("Not Found", "Method Not Allowed")


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /", "DELETE /", "OPTIONS /", "GET /api/status", "GET /sse", "GET /index.html",
        "GET /api/kernel/function_call", "POST /api/kernel", "POST /assets/x.js", "GET /docs",
        "GET /auth/login", "GET /terminal/ws", "POST /api/kernel/set_ui_element_value/",
        "GET /assets/none.js", "GET /assets/%2e%2e/index.html", "GET /assets/%2fetc/passwd",
        "GET /public/x", "POST /api/kernel/save", "TRACE /", "PUT /", "GET /../../../../etc/passwd",
        "GET /assets/..%2f..%2f..%2f..%2fetc%2fpasswd", "GET /public/..%2fprobe_analysis.py",
        "GET /api/files/download?path=/etc/passwd", "GET /sse?session_id=s_hostil",
        "POST /api/kernel/run", "POST /api/kernel/instantiate", "POST /api/kernel/read_code",
        "POST /api/files/open", "POST /api/packages/add", "POST /api/export/script",
    ],
)  # fmt: skip
def test_everything_else_is_refused_before_marimo(client, request_line):
    method, path = request_line.split()
    answer = client.request(method, path, follow_redirects=False)
    assert (answer.status_code, answer.text) in [(404, "Not Found"), (405, "Method Not Allowed")]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "1000-../../../../etc/passwd", "1000-%2e%2e%2f%2e%2e%2fetc%2fpasswd"]
)
def test_files_of_a_page_are_no_way_to_others(client, path):
    answer = client.get(f"/@file/{path}")
    assert answer.status_code >= 400
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["/ws_sync", "/terminal/ws", "/lsp/pylsp", "/ws/"])
def test_there_is_one_websocket(client, path):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
        pass


def test_large_requests_are_refused(client):
    big = b"x" * (serving.MAX_BODY + 1)
    for body in (big, iter([big[:100], big[100:]])):
        assert client.post("/api/kernel/function_call", content=body).status_code == 413
    assert client.get("/?" + "x" * 2001).status_code == 414
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws?" + "x" * 2001):
        pass


def test_visitors_choose_no_other_notebook_and_keep_their_own_query():
    seen: list[str] = []
    query = "run=a%20b&file=/etc/passwd&run=c&kiosk=true&access_token=t&x=&file="
    with TestClient(serving.limit_query(stand_in(seen=seen))).websocket_connect(f"/ws?{query}"):
        pass
    assert seen == ["run=a+b&run=c&x="]


def test_more_visitors_than_fit_are_told_so():
    sessions = SimpleNamespace(sessions={})
    client = TestClient(serving.limit_visitors(stand_in(), 2, sessions))
    with client.websocket_connect("/ws?session_id=a"):
        assert client.get("/").status_code == 200
        with client.websocket_connect("/ws?session_id=b"):
            with pytest.raises(WebSocketDisconnect) as refused:
                client.websocket_connect("/ws?session_id=c").__enter__()
            assert refused.value.code == 1013
            with client.websocket_connect("/ws?session_id=a"):  # a laptop that wakes
                full = client.get("/")
            assert (full.status_code, full.headers["retry-after"]) == (503, "120")
            assert "as many visitors as it can serve" in full.text
            assert client.get("/health").status_code == 200
    sessions.sessions = {"a": None, "b": None}  # marimo keeps them after they left
    assert client.get("/").status_code == 503
    del sessions.sessions["b"]
    with client.websocket_connect("/ws?session_id=c"):
        assert client.get("/").status_code == 503


# Headers and the page


def test_headers_of_every_answer():
    app = serving.set_headers(stand_in(**{"referrer-policy": "unsafe-url"}), "'self'")
    found = TestClient(app).get("/any").headers
    policy = found["content-security-policy"].split("; ")
    assert policy[-1] == "frame-ancestors 'self'"
    assert {"object-src 'none'", "base-uri 'self'", "form-action 'self'"} <= set(policy)
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "camera=()" in found["permissions-policy"]
    assert "strict-transport-security" not in found
    over_https = TestClient(app).get("/any", headers={"X-Forwarded-Proto": "https, http"}).headers
    assert over_https["strict-transport-security"].startswith("max-age=")


def test_only_the_inline_scripts_of_the_page_itself_may_run():
    client = TestClient(serving.set_headers(stand_in(page=PAGE), "'self'"))
    hashed = base64.b64encode(hashlib.sha256(SCRIPT.replace(b"\r", b"")).digest()).decode()
    assert script_sources(client.get("/")) == f"script-src 'self' 'unsafe-eval' 'sha256-{hashed}'"
    assert "sha256" not in script_sources(client.get("/@file/made-by-a-model.html"))


def test_words_stand_on_the_page_until_it_is_drawn():
    client = TestClient(serving.set_headers(stand_in(page=PAGE), "'self'"))
    found = client.get("/")
    assert ">A &lt; B</h1><p>Loading…</p>" in found.text
    assert found.content.startswith(PAGE.split(b"></div>")[0] + b"><div")
    assert found.text.endswith("</div>ä</body>")
    assert found.headers["content-length"] == str(len(found.content))
    assert client.get("/health").content == PAGE
    for other in ("", "no title", "<title>and no root</title>"):
        assert serving.with_loading_words(other) == other


def test_assets_come_compressed_and_stay_with_the_browser(client):
    import marimo

    folder = Path(marimo.__file__).parent / "_static" / "assets"
    plain = [
        f.name for f in folder.iterdir() if not serving.HASHED_ASSET.match(f"/assets/{f.name}")
    ]
    assert not plain, "every asset has its hash in its name"
    name = next(folder.glob("index-*.js")).name
    found = client.get(f"/assets/{name}")
    assert found.content == (folder / name).read_bytes()
    assert found.headers["content-encoding"] == "gzip"
    assert client.get(f"/assets/{name}", headers={"accept-encoding": ""}).content == found.content
    font = client.get(f"/assets/{next(folder.glob('*.woff2')).name}")
    assert "content-encoding" not in font.headers
    again = client.get(f"/assets/{name}", headers={"if-none-match": found.headers["etag"]})
    assert again.status_code == 304
    for answer in (found, again):
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["access-control-allow-origin"] == "*"
    assert "immutable" not in str(client.get("/assets/none-12345678.js").headers)


@pytest.mark.parametrize(
    ("value", "sources"),
    [
        ("  ", "'self'"), ("self", "'self'"), ("none", "'none'"), ("*", "*"),
        ("https://a.example https://*.b.example:8443", "'self' https://a.example https://*.b.example:8443"),
        ("http://127.0.0.1:8000 self http://127.0.0.1:8000", "'self' http://127.0.0.1:8000"),
    ],
)  # fmt: skip
def test_origins_that_may_frame_the_page(value, sources):
    assert serving.frame_ancestors(value) == sources


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
        serving.frame_ancestors(value)


# The start


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([("", "1 / 0", ""), ("", "1 + 1", "")], "A cell of the page fails"),
        ([("", "x = 1", "x,"), ("", "x = 2", "x,")], "A cell of the page fails"),
        ([("", "import marimo; marimo.stop(True); y = 1", "y,"), ("y", "y + 1", "")], ""),
    ],
)
def test_a_page_that_fails_is_not_served_and_one_that_stops_is(tmp_path, cells, problem):
    client = TestClient(serving.create_app(write_notebook(tmp_path, *cells)))
    if problem:
        with pytest.raises(UserError, match=problem), client:
            pass
    else:
        with client:
            assert client.get("/health").status_code == 200


def test_a_page_that_never_ends_is_given_up():
    async def page(scope, receive, send):
        await receive()
        await asyncio.Event().wait()

    with pytest.raises(UserError, match=r"did not end in 0\.05 s"):
        asyncio.run(serving.warm_up(page, "s", 0.05))


@pytest.mark.parametrize(
    "setting",
    [
        "SEP_FRAME_ANCESTORS=ftp://a",
        "SEP_VISITORS=0",
        "SEP_VISITORS=many",
        "PORT=http",
        "PORT=70000",
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start(monkeypatch, capsys, setting):
    variable, value = setting.split("=")
    monkeypatch.setattr(serving, "serve", lambda *_: pytest.fail("it started"))
    monkeypatch.setenv(variable, value)
    assert serving.main([]) == 2
    assert f"error: {variable}={value!r}" in capsys.readouterr().err


def test_the_command_line(monkeypatch, capsys, tmp_path):
    started = []
    monkeypatch.setattr(serving, "serve", lambda app, host, port: started.append((host, port)))
    monkeypatch.setattr(serving, "create_app", lambda path: path)
    monkeypatch.setenv("PORT", "5001")
    monkeypatch.setenv("SEP_OUTPUTS", "elsewhere")
    assert serving.main(["--host", "0.0.0.0", "--outputs", str(tmp_path)]) == 0
    assert serving.main(["--port", "5002"]) == 0
    assert started == [("0.0.0.0", 5001), ("127.0.0.1", 5002)]
    assert os.environ["SEP_OUTPUTS"] == str(tmp_path)
    assert serving.main(["--outputs", str(tmp_path / "none")]) == 2
    assert "no such folder of runs" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        serving.main(["--help"])
    assert "SEP_FRAME_ANCESTORS" in capsys.readouterr().out


def test_a_python_that_parses_wrongly_in_threads_is_kept_from_it(monkeypatch):
    plain, running, most = builtins.compile, [0], [0]

    def slow(*_: Any) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1

    for version, in_turn in (((3, 11, 8), False), ((3, 11, 7), True)):
        monkeypatch.setattr(builtins, "compile", slow)
        serving.compile_one_at_a_time(version)
        most[0] = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: builtins.compile("1", "", "eval"), range(4)))
        assert (most[0] == 1) == in_turn
    monkeypatch.setattr(builtins, "compile", plain)
    serving.compile_one_at_a_time((3, 11, 7))
    names: dict[str, Any] = {}
    exec(builtins.compile("x: int = 1", "", "exec"), names)
    assert names["__annotations__"] == {"x": int}, "no future import is handed on"


# The files of the deployment


def test_the_image_has_what_it_needs_and_no_more(root):
    lines = (root / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    ignored = (root / ".dockerignore").read_text().split("\n")
    for name, rest in steps:
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (root / source).exists(), source
                assert source not in ignored, source
    last = {name: rest for name, rest in steps}
    assert last["USER"] == "visitor"
    assert json.loads(last["CMD"]) == ["python", "-m", "helpers.app.serving", "--host", "0.0.0.0"]
    check = json.loads(last["HEALTHCHECK"].split("CMD", 1)[1])
    compile(check[2], "healthcheck", "exec")
    assert "/health" in check[2]
    (sync,) = [rest for name, rest in steps if name == "RUN" and "uv sync" in rest]
    assert "--locked --no-default-groups" in sync
    assert "--extra" not in sync
