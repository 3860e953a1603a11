"""A scripted completions endpoint on loopback, and its failures.

    with StandInEndpoint() as server:
        server.script(Answer(429, headers={"Retry-After": "1"}), times=2)
        ...
        assert len(server.asked) == 3

Whatever is not scripted is answered as vLLM would: `complete` makes the reply from the request.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from helpers.config import RunConfig
from helpers.generation.endpoint import open_endpoint
from helpers.generation.records import Backend, Decoding, Request, Sample
from helpers.models.tokens import ModelTokens

DECODING = Decoding(temperature=0.7, top_p=0.95, max_new_tokens=40, seed=3)
TEXT = " 3 + 4 = 7</think> 7 pears."
VLLM = {"data": [{"id": "lab", "owned_by": "vllm", "max_model_len": 400}]}

Complete = Callable[[dict[str, Any]], "Answer"]


@dataclass(frozen=True)
class Answer:
    """What is sent for one request."""

    status: int = 200
    body: Any = None
    """Sent as JSON, or as it is if it is bytes."""
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    """The connection is cut in the middle of the body."""
    hang: bool = False
    """Nothing is sent until the server stops."""


class StandInEndpoint:
    """Listens until its `with` block ends; `.url` ends in /v1."""

    def __init__(self, complete: Complete | None = None, models: Any = None) -> None:
        self.complete = complete or (lambda request: Answer(body=completion(request, " 7.")))
        self.models = models
        """The list's JSON; None: there is none (404)."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of requests for completions of more than the first token."""
        self.probes: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.at_once = self.most_at_once = 0
        self._script: list[Answer] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def script(self, *answers: Answer, times: int = 1) -> None:
        """Answer the next requests that are no probes so, in this order."""
        self._script += list(answers) * times

    def __enter__(self) -> StandInEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict[str, Any]) -> Answer:
        """What this request gets; a probe is for one token, and is never scripted."""
        with self.lock:
            probe = request["max_tokens"] == 1
            (self.probes if probe else self.asked).append(request)
            scripted = self._script.pop(0) if self._script and not probe else None
        return scripted or self.complete(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet: the client does not wait for two

            def do_GET(self) -> None:
                known = endpoint.models is not None and self.path.split("?")[0] == "/v1/models"
                self.send(Answer(body=endpoint.models) if known else Answer(404, {"detail": "no"}))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sent = {name.title(): value for name, value in self.headers.items()}
                endpoint.headers.append(sent | {"path": self.path})
                with endpoint.lock:
                    endpoint.at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
                try:
                    self.send(endpoint.answer(json.loads(body)))
                finally:
                    with endpoint.lock:
                        endpoint.at_once -= 1

            def send(self, answer: Answer) -> None:
                if answer.hang:
                    endpoint.stopped.wait()
                    self.close_connection = True
                    return
                body = answer.body
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if answer.drop:
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def completion(request: dict[str, Any], text: str, **changes: Any) -> dict[str, Any]:
    """A reply of a server that knows OpenAI's fields only and gives no log-probabilities.

    `changes` are of the choice, but for `model` and `usage`.
    """
    prompt = request["prompt"]
    usage = {"completion_tokens": max(1, len(text) // 4)}
    if isinstance(prompt, list):
        usage["prompt_tokens"] = len(prompt)
    top = {"model": request["model"], "usage": usage}
    top |= {name: changes.pop(name) for name in ("model", "usage") if name in changes}
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
    return {"object": "text_completion", **top, "choices": [choice | changes]}


def encode(model: ModelTokens, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer(text)["input_ids"])


def requests(model: ModelTokens, samples: tuple[int, ...] = (0,), n: int = 1) -> list[Request]:
    prompts = [f"Question: {q}?\nAnswer:<think>" for q in range(n)]
    return [Request(f"q{i}", encode(model, p), samples, p) for i, p in enumerate(prompts)]


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two retries, and hardly a wait before them."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    for name, value in {"MAX_RETRIES": 2, "READ_TIMEOUT": 5.0, "MALFORMED_WAIT": 0.001}.items():
        monkeypatch.setattr(f"helpers.generation.endpoint.{name}", value)


def backend(server: StandInEndpoint, **changes: Any) -> Backend:
    fields = {"endpoint": server.url, "requests_at_once": 2, "thinking": True, **changes}
    return open_endpoint(RunConfig(backend="openai", **fields))


def run(
    opened: Backend, wanted: list[Request], decoding: Decoding = DECODING
) -> dict[tuple[str, int], Sample]:
    groups = list(opened.generate(wanted, decoding))
    found = {(s.question_id, s.sample_id): s for group in groups for s in group}
    assert len(found) == sum(map(len, groups)) == sum(len(a.sample_ids) for a in wanted)
    return found


def like_vllm(model: ModelTokens, text: str = TEXT, *, as_ids: bool = True) -> Any:
    """A server that gives ids and log-probabilities of one made-up distribution at each token."""
    p = np.random.default_rng(1).dirichlet(np.full(1024, 0.02))
    ids = (*encode(model, text), 0)

    def complete(request: dict[str, Any]) -> Answer:
        k = request["logprobs"]
        top = np.argsort(-p)[:k].tolist()
        name = (lambda i: f"token_id:{i}") if as_ids else model.tokenizer.decode
        tops = [{name(i): float(np.log(p[i] + 1e-30)) for i in (t, *top)} for t in ids]
        logprobs = {
            "tokens": [name(i) for i in ids],
            "token_logprobs": [top[name(i)] for top, i in zip(tops, ids, strict=True)],
            "top_logprobs": tops,
        }
        exact = {"token_ids": list(ids)} if as_ids else {}
        return Answer(body=completion(request, text, logprobs=logprobs, **exact))

    complete.entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())  # type: ignore[attr-defined]
    return complete
