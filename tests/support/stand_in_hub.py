"""A stand-in for the model hub on loopback: tiny repositories in its layout, and its failures.

It answers what `huggingface_hub` and `datasets` ask: the listings under /api, and files under
/{repository}/resolve/{revision}/, large ones (kept outside git, as on the hub) by a redirect to
another host. Failures can be switched on for every path that matches a pattern:

    with StandInHub({"openai-community/gpt2": folder}) as hub:
        hub.fail("*.safetensors", drop_after=5000, times=1)
        ...
        assert hub.bytes_sent("*.safetensors") == size
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".onnx", "spm.model", "tokenizer.json")
"""Endings of files that are kept outside git, under the SHA-256 of their content."""


@dataclass
class Fault:
    """What goes wrong with a request for a path that matches, and how often."""

    pattern: str
    times: int | None = None
    """None: until it is mended."""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0
    """Seconds before anything is answered."""
    pause: float = 0
    """Seconds between the quarters of a body."""
    drop_after: int | None = None
    """Bytes of the body after which the connection is cut."""
    stall_after: int | None = None
    """Bytes of the body after which nothing more comes."""
    body: bytes | None = None
    """Other bytes in place of the answer's, with their own length."""


@dataclass
class Asked:
    """A request that was made, and how many bytes of a file's body went out so far."""

    method: str
    path: str
    sent: int = 0


@dataclass(frozen=True)
class _File:
    path: str
    data: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def large(self) -> bool:
        return self.path.endswith(LARGE)

    def listed(self, *, page: bool = False) -> dict[str, Any]:
        """As the tree lists it, or a repository's page, which says the same in other words."""
        size = {"size": len(self.data)}
        lfs = {"sha256" if page else "oid": self.sha256, **size, "pointerSize": 130}
        named = {"rfilename": self.path, "blobId": self.git_id}
        if not page:
            named = {"type": "file", "path": self.path, "oid": self.git_id}
        return {**named, **size, **({"lfs": lfs} if self.large else {})}


@dataclass(frozen=True)
class _Repository:
    name: str
    kind: str
    """models or datasets"""
    files: dict[str, _File]
    gated: bool

    @property
    def commit(self) -> str:
        parts = [f"{file.path} {file.sha256}" for file in self.files.values()]
        return hashlib.sha1("\n".join(parts).encode()).hexdigest()


class StandInHub:
    """Serves folders as repositories until its `with` block ends; `.url` is for HF_ENDPOINT."""

    def __init__(
        self, models: Mapping[str, Path], datasets: Mapping[str, Path] | None = None
    ) -> None:
        self.repositories: dict[str, _Repository] = {}
        for kind, folders in (("models", models), ("datasets", datasets or {})):
            for name, folder in folders.items():
                self.add(name, folder, kind)
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.released = threading.Event()
        """Set when answers that wait or stall are to end."""
        self._servers = [_Server(("127.0.0.1", 0), _Handler) for _ in range(2)]

    def __enter__(self) -> StandInHub:
        for server in self._servers:
            server.hub = self
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to say."""
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def storage_url(self) -> str:
        """Where large files are fetched: another host than the hub, for those who go by names."""
        return f"http://localhost:{self._servers[1].server_address[1]}"

    def add(self, name: str, folder: Path, kind: str = "models", *, gated: bool = False) -> str:
        """Serve one more repository from now on; its name."""
        self.repositories[f"{kind}/{name}"] = _Repository(name, kind, _read(folder), gated)
        return name

    def fail(self, pattern: str, **fault: Any) -> None:
        """From now on requests whose path matches the pattern fail in this way."""
        self.faults.append(Fault(pattern, **fault))

    def mend(self) -> None:
        """Nothing fails any more, and what was asked is forgotten."""
        self.faults.clear()
        self.asked.clear()
        self.released.set()
        self.released = threading.Event()

    def bytes_sent(self, pattern: str = "*") -> int:
        """Bytes of files that went out for paths that match."""
        return sum(asked.sent for asked in self.asked if fnmatch.fnmatch(asked.path, pattern))

    def stored(self, sha256: str) -> _File | None:
        """The large file of that content, of whatever repository."""
        files = (file for r in self.repositories.values() for file in r.files.values())
        return next((file for file in files if file.large and file.sha256 == sha256), None)

    def fault_for(self, path: str) -> Fault | None:
        """The first fault that applies to a path, counted as having happened."""
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and fnmatch.fnmatch(path, fault.pattern):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None


def _read(folder: Path) -> dict[str, _File]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in paths]
    return {name: _File(name, p.read_bytes()) for name, p in zip(names, paths, strict=True)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    hub: StandInHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # What is asked of the API, by what follows the repository's name.
    _API: ClassVar[dict[str, str]] = {"revision": "_page", "tree": "_tree", "paths-info": "_infos"}

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def _answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        # A large file is asked for by its hash, and spoken of by its name.
        stored = hub.stored(path.removeprefix("/storage/"))
        named = f"/storage/{stored.path}" if stored else path
        self._fault = hub.fault_for(named) or Fault("")
        self._asked = Asked(self.command, named)
        hub.asked.append(self._asked)
        try:
            if self._fault.wait and hub.released.wait(self._fault.wait):
                self.close_connection = True
            elif self._fault.status:
                self._error(self._fault.status, **self._fault.headers)
            elif not stored:
                self._route(path)
            elif self.headers.get("Authorization"):
                self._error(400, **{"X-Error-Message": "a token was sent to the storage"})
            else:
                self._send_file(stored)
        except OSError:  # the client went away
            self.close_connection = True

    def _route(self, path: str) -> None:
        parts = path.strip("/").split("/")
        if parts[0] == "api" and parts[1] in ("models", "datasets") and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = "datasets" if parts[0] == "datasets" else "models"
            name = "/".join(parts[at - 2 : at])
            self._resolve(kind, name, parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self._error(404)

    def _find(self, kind: str, name: str, revision: str) -> _Repository | None:
        """The repository, or None after the hub's words for why it is not given."""
        repository = self.server.hub.repositories.get(f"{kind}/{name}")
        if repository is None:
            # To those who are not logged in, the hub does not tell private from missing.
            words = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._error(404 if self.headers.get("Authorization") else 401, **words)
        elif revision not in ("main", repository.commit):
            self._error(404, **{"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        method = self._API.get(rest[0]) if rest else "_page"
        repository = self._find(kind, name, rest[1] if len(rest) > 1 else "main")
        if repository is None:
            return
        if method is None:
            self._error(404)
        else:
            self._json(getattr(self, method)(repository, "/".join(rest[2:])))

    def _page(self, repository: _Repository, _: str) -> dict[str, Any]:
        return {
            "_id": "0" * 24,
            "id": repository.name,
            "sha": repository.commit,
            "private": False,
            "gated": "auto" if repository.gated else False,
            "siblings": [file.listed(page=True) for file in repository.files.values()],
        }

    def _tree(self, repository: _Repository, inside: str) -> list[dict[str, Any]]:
        deep = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
        prefix = f"{inside}/" if inside else ""
        found: dict[str, dict[str, Any]] = {}
        for path, file in repository.files.items():
            if not path.startswith(prefix):
                continue
            names = path.removeprefix(prefix).split("/")
            for depth in range(1, len(names) if deep else min(2, len(names))):
                folder = prefix + "/".join(names[:depth])
                oid = hashlib.sha1(folder.encode()).hexdigest()
                found[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
            if deep or len(names) == 1:
                found[path] = file.listed()
        return list(found.values())

    def _infos(self, repository: _Repository, _: str) -> list[dict[str, Any]]:
        wanted = parse_qs(self._form).get("paths", [])
        return [repository.files[path].listed() for path in wanted if path in repository.files]

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._find(kind, name, revision)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit}
        file = repository.files.get(path)
        if repository.gated and self.headers.get("Authorization") != "Bearer granted":
            words = "Access to this repository is restricted."
            code = 403 if self.headers.get("Authorization") else 401
            self._error(code, **{"X-Error-Code": "GatedRepo", "X-Error-Message": words})
        elif file is None:
            self._error(404, **{"X-Error-Code": "EntryNotFound"}, **commit)
        elif file.large:
            self._head(
                302,
                0,
                **commit,
                Location=f"{self.server.hub.storage_url}/storage/{file.sha256}",
                **{"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))},
            )
        else:
            self._send_file(file, **commit)

    def _send_file(self, file: _File, **headers: str) -> None:
        fault = self._fault
        data = file.data if fault.body is None else fault.body
        start, whole = 0, len(data)
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= whole:
                self._error(416, **{"Content-Range": f"bytes */{whole}"})
                return
        spans = {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"} if asked else {}
        etag = f'"{file.sha256 if file.large else file.git_id}"'
        also = {"ETag": etag, "Accept-Ranges": "bytes", **spans, **headers}
        self._head(206 if asked else 200, whole - start, **also)
        if self.command == "HEAD":
            return
        limits = (n for n in (fault.drop_after, fault.stall_after) if n is not None)
        body = data[start : start + min(limits, default=whole)]
        step = max(1, len(body) // 4 if fault.pause else len(body))
        for at in range(0, len(body), step):
            self._asked.sent += len(body[at : at + step])
            self.wfile.write(body[at : at + step])
            self.server.hub.released.wait(fault.pause)
        if fault.stall_after is not None:
            self.server.hub.released.wait(600)
        if start + len(body) < whole:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        if status == 200 and self._fault.body is not None:
            body = self._fault.body
        self._head(status, len(body), **{"Content-Type": "application/json"}, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, **headers: str) -> None:
        said = headers.get("X-Error-Message", f"status {status}")
        self._json({"error": said}, status, **headers)

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
