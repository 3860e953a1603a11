"""Samples from a completions endpoint: what is asked, what is made of the responses."""

from __future__ import annotations

import email.utils
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.errors import UserError
from helpers.generation.completions import EXTRAS, RequestFormat, simpler_format
from helpers.generation.endpoint import read_address
from helpers.generation.records import GREEDY, TOO_LONG, Request
from helpers.models.tokens import ModelTokens, model_tokens
from support.stand_in_endpoint import (
    DECODING,
    TEXT,
    VLLM,
    Answer,
    StandInEndpoint,
    backend,
    completion,
    encode,
    hurry,
    like_vllm,
    requests,
    run,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def model() -> ModelTokens:
    return model_tokens("lab")


# --- what is asked


def test_prompts_go_as_ids_with_all_that_changes_samples(model):
    wanted = requests(model, (GREEDY, 0, 1), n=2)
    with StandInEndpoint(like_vllm(model), VLLM) as server:
        opened = backend(server, served_model="")
        assert "batch" in opened.promise
        run(opened, wanted, replace(DECODING, stop=("\nQ",)))
        bodies = {(tuple(b["prompt"]), b["seed"]): b for b in server.asked}
        assert len(bodies) == 6
        for body in bodies.values():
            assert body["model"] == "lab"
            assert body.items() >= EXTRAS.items()
            assert (body["logprobs"], body["stop"], body["max_tokens"]) == (20, ["\nQ"], 40)
        temperatures = [b["temperature"] for b in bodies.values()]
        assert sorted(temperatures) == [0.0, 0.0, 0.7, 0.7, 0.7, 0.7]
        assert len(server.probes) == 1
        before, server.asked = server.asked, []
        run(opened, [replace(a, sample_ids=(1, 5)) for a in wanted[::-1]])  # resumed, and more
        seeds = {b["seed"] for b in before}
        assert sum(b["seed"] in seeds for b in server.asked) == 2
        described = opened.describe()
    assert (described["prompt_as"], described["fields"]) == ("token ids", "all")
    assert (described["server"], described["served_model"]) == ("vllm", "lab")


def strict(known: tuple[str, ...], then: Any, *, ids: bool = True, most: int = 20) -> Any:
    """A server that refuses fields it does not know, as FastAPI's and others do."""

    def complete(request: dict[str, Any]) -> Answer:
        unknown = sorted(set(request) - set(known))
        if unknown:
            return Answer(422, {"detail": f"Unexpected fields in the request: {unknown}"})
        if isinstance(request["prompt"], list) and not ids:
            return Answer(400, {"detail": "prompt must be a string."})
        if request.get("logprobs", 0) > most:
            said = f"logprobs must be at most {most}" if most else "logprobs are not supported"
            return Answer(400, {"error": {"message": said}})
        return then(request)

    return complete


OPENAI = ("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs", "stop")


def test_a_strict_server_gets_plainer_requests_found_out_once(model):
    plain = lambda request: Answer(body=completion(request, TEXT))  # noqa: E731
    with StandInEndpoint(strict(OPENAI, plain, most=5)) as server:
        opened = backend(server)
        with pytest.warns(UserWarning, match="OpenAI's fields only"):
            run(opened, requests(model, (0, 1, 2)))
        assert len(server.asked) == 3
        assert all(isinstance(b["prompt"], list) for b in server.asked)
        assert all(b["logprobs"] == 5 for b in server.asked)
        found_out = len(server.probes)
        run(opened, requests(model, (3,)))
        assert len(server.probes) == found_out == 3  # fields, number of log-probabilities, taken
    assert opened.describe()["fields"] == "OpenAI's"


def test_every_format_is_tried_once_and_then_no_more(model):
    form, tried = RequestFormat(), []
    while form is not None:
        assert form not in tried
        tried.append(form)
        form = simpler_format(form, "bad request")
    assert tried[-1] == RequestFormat(token_ids=False, extras=False, logprobs=0)
    refuse = lambda request: Answer(400, {"error": {"message": "bad request"}})  # noqa: E731
    with StandInEndpoint(refuse, VLLM) as server, pytest.raises(UserError, match="bad request"):
        run(backend(server), requests(model))


def test_no_more_requests_at_once_than_wished_and_none_waits_for_all(model):
    def slow(request: dict[str, Any]) -> Answer:
        time.sleep(0.05)
        return like_vllm(model)(request)

    with StandInEndpoint(slow, VLLM) as server:
        run(backend(server, requests_at_once=3), requests(model, tuple(range(9))))
        assert 1 < server.most_at_once <= 3
        server.script(Answer(hang=True))
        groups = backend(server).generate(requests(model, tuple(range(4))), DECODING)
        assert next(groups)  # though one hangs
        groups.close()
        assert len(server.asked) - 9 <= 4  # it was not waited for until it was asked again


# --- what is made of the responses


def test_ids_and_untempered_logprobs_are_kept(model):
    complete = like_vllm(model)
    with StandInEndpoint(complete, VLLM) as server:
        sample = run(backend(server), requests(model))["q0", 0]
    assert sample.text == TEXT.strip()
    assert sample.token_ids == (*encode(model, TEXT), 0)
    assert model.tokenizer.decode(sample.token_ids[:-1]) == TEXT
    assert not sample.retokenised
    assert sample.entropy_kind == "top-k"
    assert len(sample.token_logprobs) == len(sample.token_entropies) == len(sample.token_ids)
    assert all(0 < h <= complete.entropy + 1e-5 for h in sample.token_entropies)
    assert sample.served_model == "lab"


def test_llama_cpp_lists_its_logprobs_as_chats_have_them(model):
    ids = encode(model, TEXT)
    content = [
        {
            "id": i,
            "token": model.tokenizer.decode([i]),
            "logprob": -0.5,
            "top_logprobs": [{"id": i, "logprob": -0.5}, {"id": 9, "logprob": -1.5}],
        }
        for i in ids
    ]
    complete = lambda r: Answer(body=completion(r, TEXT, logprobs={"content": content}))  # noqa: E731
    with StandInEndpoint(complete, {"data": [{"id": "x", "owned_by": "llamacpp"}]}) as server:
        sample = run(backend(server), requests(model))["q0", 0]
    assert (sample.token_ids, sample.retokenised) == (ids, False)
    assert sample.token_logprobs == (-0.5,) * len(ids)
    assert sample.entropy_kind == "top-k"


def test_what_a_plain_server_leaves_undone_is_done(model):
    """Texts are cut before a stop text, and log-probabilities of other tokens are dropped."""
    few = {"tokens": [" 3", "?"], "token_logprobs": [-1.0, -1.0], "top_logprobs": None}
    replies = [
        {"text": TEXT + " Q: 8", "finish_reason": "length", "logprobs": few},
        {"text": "", "usage": {"completion_tokens": 1}},
    ]
    complete = lambda r: Answer(body=completion(r, **replies.pop(0)))  # noqa: E731
    with StandInEndpoint(complete, VLLM) as server:
        opened = backend(server, requests_at_once=1)
        wanted = [requests(model)[0], replace(requests(model)[0], question_id="empty")]
        replies.insert(0, replies[0])  # for the probe
        found = run(opened, wanted, replace(DECODING, stop=("Q:",)))
    cut, empty = found["q0", 0], found["empty", 0]
    assert (cut.text, cut.finish_reason) == (TEXT.strip(), "stop")
    assert (cut.retokenised, cut.token_logprobs) == (True, ())
    assert (empty.text, empty.token_ids, empty.finish_reason) == ("", (), "stop")


@pytest.mark.parametrize("text", [TEXT, "é ü 東京 🙂 x\u0301 \ufffd</think>", "  two  spaces\n\n"])
def test_ids_are_made_of_the_text_where_nothing_else_is_given(model, text):
    complete = lambda request: Answer(body=completion(request, text))  # noqa: E731
    with StandInEndpoint(complete) as server, pytest.warns(UserWarning, match=":") as seen:
        found = run(backend(server), requests(model, (0, 1, 2)))
    for sample in found.values():
        assert sample.retokenised
        assert model.tokenizer.decode(sample.token_ids) == text
        assert (sample.entropy_kind, sample.token_logprobs, sample.token_entropies) == (
            "none", (), (),
        )  # fmt: skip
    said = [str(w.message) for w in seen]
    assert sum("gives no log-probabilities" in s for s in said) == 1
    assert sum("made from the texts" in s for s in said) == 1


@pytest.mark.parametrize(
    ("owner", "temperature", "kept"),
    [("vllm", 0.7, True), ("sglang", 0.7, False), ("sglang", 1.0, True), ("", 0.7, False)],
)
def test_logprobs_after_temperature_are_not_taken_for_others(model, owner, temperature, kept):
    with StandInEndpoint(like_vllm(model), {"data": [{"id": "lab", "owned_by": owner}]}) as server:
        decoding = replace(DECODING, temperature=temperature)
        sample = run(backend(server), requests(model), decoding)["q0", 0]
    assert (sample.entropy_kind == "top-k") == bool(sample.token_logprobs) == kept


def test_a_server_that_drops_the_end_of_thinking_is_warned_of(model, monkeypatch):
    """Where the tag is a special token, which it is neither for Qwen3 nor for the lab."""
    monkeypatch.setattr("helpers.generation.endpoint.loses_end_of_thinking", lambda _: True)
    complete = lambda r: Answer(body=completion(r, TEXT.replace("</think>", "")))  # noqa: E731
    with StandInEndpoint(complete) as server:
        with pytest.warns(UserWarning, match="drop special tokens"):
            run(backend(server), requests(model))
        with warnings.catch_warnings(record=True) as seen:
            run(backend(server, thinking=False), requests(model))
    assert not any("special" in str(w.message) for w in seen)


# --- prompts that do not fit


def test_prompts_beyond_the_context_count_as_too_long(model):
    long = Request("long", (5,) * 390, (GREEDY, 0))  # of 400 that the server takes
    over = Request("over", (5,) * 400, (0,))
    with StandInEndpoint(like_vllm(model), VLLM) as server:
        found = run(backend(server), [over, long, *requests(model)])
        assert max(b["max_tokens"] for b in server.asked if len(b["prompt"]) == 390) == 10
        assert all(len(b["prompt"]) < 400 for b in server.asked + server.probes)
    assert [key for key, s in found.items() if s.finish_reason == TOO_LONG] == [("over", 0)]


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 60 tokens. However, you requested 70 tokens",
        "The decoder prompt (length 80) is longer than the maximum model length of 60. Make sure",
        "request (80 tokens) exceeds the available context size (60 tokens), try increasing it",
    ],
)
def test_a_refusal_for_its_length_shortens_the_answer_or_drops_the_question(model, said):
    def complete(request: dict[str, Any]) -> Answer:
        if len(request["prompt"]) + request["max_tokens"] > 60:
            return Answer(400, {"error": {"message": said}})
        return like_vllm(model)(request)

    with StandInEndpoint(complete, {"data": []}) as server:
        wanted = [Request("over", (5,) * 60, (0, 1)), Request("near", (5,) * 50, (0,))]
        found = run(backend(server), [*wanted, *requests(model)])
        assert {b["max_tokens"] for b in server.asked if len(b["prompt"]) == 50} <= {40, 10}
    reasons = {key: s.finish_reason for key, s in found.items()}
    assert reasons == {
        ("over", 0): TOO_LONG, ("over", 1): TOO_LONG, ("near", 0): "stop", ("q0", 0): "stop",
    }  # fmt: skip


# --- an endpoint's troubles ----------------------------------------------------------------------


KEY = "sk-very-secret-1234"
OK = {"id": "x", "model": "lab"}


def choice(**fields: Any) -> dict[str, Any]:
    return {**OK, "choices": [{"text": TEXT, "finish_reason": "stop", **fields}]}


SHORT = {"tokens": ["a", "b"], "token_logprobs": [-1]}
REJECTED = {"tokens": ["a"], "token_logprobs": [0.7]}
PASSING = [
    (Answer(429, {"error": {"message": "slow down"}}), r"HTTP 429: slow down.*limits"),
    (Answer(503, b"<h1>busy</h1>"), "HTTP 503: <h1>busy"),
    (Answer(502, b""), "HTTP 502,"),
    (Answer(500, {"detail": "CUDA error"}), "HTTP 500: CUDA error"),
    (Answer(body=choice(), drop=True), r"broke off \(peer closed connection"),
    (Answer(body=b'{"choices": ['), "Invalid JSON"),
    (Answer(body=[1]), "JSON: .*an object"),
    (Answer(body={"object": "error", "message": "dead"}), "choices.*dead"),
    (Answer(body={**OK, "choices": []}), "choices: .*at least 1"),
    (Answer(body={**OK, "choices": ["x"]}), "choices.0: "),
    (Answer(body=choice(text=None)), "text: .*valid string"),
    (Answer(body=choice(text="")), "text is empty"),
    (Answer(body=choice(finish_reason="abort")), "finish_reason: .*'stop'.*: abort"),
    (Answer(body=choice(finish_reason=None)), "finish_reason: .*None"),
    (Answer(body=choice(token_ids=[1, "2"])), "token_ids.1: .*valid integer"),
    (Answer(body=choice(logprobs=REJECTED | {"token_logprobs": ["b"]})), "logprobs.0: .*number"),
    (
        Answer(body=choice(logprobs=SHORT)),
        "one number for each token",
    ),
    (Answer(body=choice(logprobs=REJECTED)), "token_logprobs.0: .*less than"),
]


@pytest.mark.parametrize(("answer", "words"), PASSING, ids=[words for _, words in PASSING])
def test_passing_trouble_is_waited_out_and_lasting_trouble_explained(model, answer, words):
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
