"""An endpoint's troubles: waited out where that helps, explained where it does not."""

from __future__ import annotations

import email.utils
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.errors import UserError
from helpers.generation.endpoint import read_address
from helpers.models.tokens import ModelTokens, model_tokens
from support.stand_in_endpoint import (
    DECODING,
    TEXT,
    VLLM,
    Answer,
    StandInEndpoint,
    backend,
    completion,
    hurry,
    like_vllm,
    requests,
    run,
)

KEY = "sk-very-secret-1234"
OK = {"id": "x", "model": "lab"}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def model() -> ModelTokens:
    return model_tokens("lab")


def choice(**fields: Any) -> dict[str, Any]:
    return {**OK, "choices": [{"text": TEXT, "finish_reason": "stop", **fields}]}


PASSING = {
    "rate limit": (
        Answer(429, {"error": {"message": "slow down"}}),
        r"HTTP 429: slow down.*limits",
    ),
    "overload": (Answer(503, b"<h1>busy</h1>"), "HTTP 503: <h1>busy"),
    "gateway": (Answer(502, b""), "HTTP 502,"),
    "crash": (Answer(500, {"detail": "CUDA error"}), "HTTP 500: CUDA error"),
    "cut off": (Answer(body=choice(), drop=True), r"broke off \(peer closed connection"),
    "no JSON": (Answer(body=b'{"choices": ['), "Invalid JSON"),
    "a page": (Answer(body=b"<html>"), "Invalid JSON"),
    "a list": (Answer(body=[1]), "JSON: .*an object"),
    "an error with 200": (Answer(body={"object": "error", "message": "dead"}), "choices.*dead"),
    "no choices": (Answer(body={**OK, "choices": []}), "choices: .*at least 1"),
    "odd choices": (Answer(body={**OK, "choices": ["x"]}), "choices.0: "),
    "no text": (Answer(body=choice(text=None)), "text: .*valid string"),
    "empty text": (Answer(body=choice(text="")), "text is empty"),
    "aborted": (Answer(body=choice(finish_reason="abort")), "finish_reason: .*'stop'.*: abort"),
    "never ended": (Answer(body=choice(finish_reason=None)), "finish_reason: .*None"),
    "odd ids": (Answer(body=choice(token_ids=[1, "2"])), "token_ids.1: .*valid integer"),
    "odd logprobs": (
        Answer(body=choice(logprobs={"tokens": ["a"], "token_logprobs": ["b"]})),
        "token_logprobs.0: .*valid number",
    ),
    "too few logprobs": (
        Answer(body=choice(logprobs={"tokens": ["a", "b"], "token_logprobs": [-1.0]})),
        "logprobs: .*one number for each token",
    ),
    "probabilities": (
        Answer(body=choice(logprobs={"tokens": ["a"], "token_logprobs": [0.7]})),
        "token_logprobs.0: .*less than",
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_passing_trouble_is_waited_out_and_lasting_trouble_explained(model, name):
    answer, words = PASSING[name]
    with StandInEndpoint(like_vllm(model), VLLM) as server:
        server.script(answer, times=2)
        assert run(backend(server), requests(model))["q0", 0].text == TEXT.strip()
        assert len(server.asked) == 3
        server.script(answer, times=3)
        with pytest.raises(UserError, match=words) as caught:
            run(backend(server), requests(model))
    said = str(caught.value)
    assert said.startswith(server.url)
    assert "after 3 tries" in said
    assert "the same command asks only for what is missing" in said


def test_a_server_says_when_to_come_back(model, monkeypatch):
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, time=lambda: 1_000_000.0)
    monkeypatch.setattr("openai._base_client.time", clock)
    with StandInEndpoint(like_vllm(model), VLLM) as server:
        date = email.utils.formatdate(1_000_003.0, usegmt=True)
        for said, wait in (("0.4", 0.4), (date, 3.0)):
            server.script(Answer(429, {}, {"Retry-After": said}))
            run(backend(server), requests(model))
            assert waits.pop() == wait
        server.script(Answer(503, {}, {"Retry-After": "soon"}))
        with pytest.warns(UserWarning, match="sent again"):
            run(backend(server), requests(model))
        server.script(Answer(429, {}, {"Retry-After": "7200"}))
        with pytest.raises(UserError, match=r"come back after 7200; lower"):
            run(backend(server), requests(model))


def test_what_came_before_trouble_is_handed_on(model):
    """One of six samples has lasting trouble; the others that were answered are not lost."""

    def complete(request: dict[str, Any]) -> Answer:
        if len(server.asked) > 4 and request["max_tokens"] > 1:
            return Answer(500, {"detail": "gone"})
        return like_vllm(model)(request)

    with StandInEndpoint(complete, VLLM) as server:
        groups = backend(server).generate(requests(model, tuple(range(6))), DECODING)
        came: list[Any] = []
        with pytest.raises(UserError, match="gone"):
            came.extend(sample for group in groups for sample in group)
    assert len(came) == 4


def test_a_silent_server_is_left_in_the_end(model, monkeypatch):
    monkeypatch.setattr("helpers.generation.endpoint.READ_TIMEOUT", 0.3)
    with StandInEndpoint(like_vllm(model), VLLM) as server:
        server.script(Answer(hang=True), times=3)
        with pytest.raises(UserError, match=r"no answer within 0.3 s, after 3 tries; lower"):
            run(backend(server), requests(model))


def test_nobody_listening_is_said_soon(model):
    with StandInEndpoint() as server:
        opened = backend(server)
    with pytest.raises(UserError, match=r"no connection.*refused.*after 2 tries; start the server"):
        run(opened, requests(model))


def test_the_key_is_sent_and_never_shown(model, monkeypatch):
    def guarded(request: dict[str, Any]) -> Answer:
        if server.headers[-1].get("Authorization") != f"Bearer {KEY}":
            said = f"Incorrect API key provided: {server.headers[-1].get('Authorization')}"
            return Answer(401, {"error": {"message": said}})
        return like_vllm(model)(request)

    with StandInEndpoint(guarded, VLLM) as server:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UserError, match=r"wants a key \(.*: None\); set .* OPENAI_API_KEY"):
            run(backend(server), requests(model))
        monkeypatch.setenv("MY_KEY", "another-secret")
        with pytest.raises(UserError, match="does not take the key in MY_KEY") as caught:
            run(backend(server, api_key_variable="MY_KEY"), requests(model))
        assert "another-secret" not in str(caught.value)
        assert "***" in str(caught.value)
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")  # which the client would send to any server
        monkeypatch.setenv("MY_KEY", KEY + "\n")
        opened = backend(server, api_key_variable="MY_KEY")
        run(opened, requests(model))
        assert KEY not in str(opened.describe())
        assert "Openai-Organization" not in server.headers[-1]
    monkeypatch.setenv("MY_KEY", "schlüssel")
    with pytest.raises(UserError, match="MY_KEY"):
        backend(server, api_key_variable="MY_KEY")


def test_a_key_does_not_follow_to_another_host(model, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StandInEndpoint(like_vllm(model)) as other, StandInEndpoint(models=VLLM) as server:
        server.complete = lambda request: Answer(307, {}, {"Location": f"{other.url}/completions"})
        with pytest.raises(UserError, match="another address"):
            run(backend(server), requests(model))
        assert not other.headers


def test_a_model_that_is_not_served_is_told_with_those_that_are(model):
    missing = {"error": {"message": "The model `lab` does not exist."}}
    models = {"data": [{"id": "Qwen/Qwen3-4B"}, {"id": "gpt2\x1b[31m"}]}
    with StandInEndpoint(lambda request: Answer(404, missing), models) as server:
        with pytest.raises(UserError, match=r"does not serve 'lab'.*Qwen/Qwen3-4B, gpt2 ") as told:
            run(backend(server), requests(model))
        assert "\x1b" not in str(told.value)
        server.models = None
        server.complete = lambda request: Answer(404, {"detail": "Not Found"})
        with pytest.raises(UserError, match="has no /completions"):
            run(backend(server), requests(model))


def test_a_reply_from_another_model_ends_the_run(model):
    def turn(request: dict[str, Any]) -> Answer:
        name = "lab" if len(server.asked) < 3 else "lab-distilled"
        return Answer(body=completion(request, TEXT, model=name))

    words = "mixed models: first 'lab', now 'lab-distilled'"
    with StandInEndpoint(turn) as server, pytest.raises(UserError, match=words):
        run(backend(server, requests_at_once=1), requests(model, tuple(range(5))))


def test_another_tokenizer_is_noticed(model):
    other = lambda r: Answer(body=completion(r, TEXT, token_ids=[5, 6, 7]))  # noqa: E731
    with StandInEndpoint(other) as server, pytest.raises(UserError, match="serves another model"):
        run(backend(server), requests(model))
    doubled = lambda r: Answer(  # noqa: E731
        body=completion(r, TEXT, usage={"prompt_tokens": len(r["prompt"]) + 1})
    )
    with StandInEndpoint(doubled) as server, pytest.raises(UserError, match="special tokens"):
        run(backend(server), requests(model))


# --- addresses


@pytest.mark.parametrize(
    "endpoint", ["localhost:8000/v1", "ftp://host/v1", "http://", "file:///v1", "http://h:x/v1", ""]
)
def test_what_is_no_address_is_told_with_one(endpoint):
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:8000/v1"):
        read_address(endpoint, "NO_KEY")


def test_secrets_of_an_address_are_used_and_not_shown(model):
    with StandInEndpoint(like_vllm(model), VLLM) as server:
        secret = server.url.replace("//", "//ana:pass%40word@") + "/completions?api-version=hidden"
        opened = backend(server, endpoint=secret)
        run(opened, requests(model))
        sent = server.headers[-1]
        assert sent["path"] == "/v1/completions?api-version=hidden"
        assert sent["Authorization"].startswith("Basic ")
        server.complete = lambda r: Answer(400, {"detail": "user ana, pass@word, hidden"})
        with pytest.raises(UserError) as caught:
            run(backend(server, endpoint=secret), requests(model))
    for text in (str(caught.value), str(opened.describe()), repr(read_address(secret, ""))):
        assert "pass" not in text
        assert "hidden" not in text
    with pytest.raises(UserError) as caught:
        read_address("htp://ana:password@host/v1", "")
    assert "password" not in str(caught.value)


def test_only_this_machine_is_reached_past_proxies():
    hosts = {"127.0.0.1": True, "localhost": True, "[::1]": True, "10.0.0.2": False, "a.org": False}
    for host, local in hosts.items():
        assert read_address(f"http://{host}:8000/v1", "").is_local == local
