"""Samples from a completions endpoint: what is asked, what is made of the responses."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from typing import Any

import pytest

from helpers.errors import UserError
from helpers.generation.endpoint import EXTRAS, RequestFormat, simpler_format
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


def test_nobody_is_asked_for_nothing(model):
    opened = backend(StandInEndpoint())
    assert run(opened, []) == {}
    assert opened.describe()["fields"] == ""


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


def test_transformers_serve_gets_settings_to_sample_by(model):
    """Its checkpoint's own settings would decide otherwise, and mostly not sample at all."""
    plain = lambda request: Answer(body=completion(request, TEXT))  # noqa: E731
    known = (*OPENAI, "generation_config")
    with StandInEndpoint(strict(known, plain, ids=False)) as server:
        wanted = requests(model, (GREEDY, 0))
        run(backend(server), wanted)
        settings = {b["temperature"]: json.loads(b["generation_config"]) for b in server.asked}
        assert {b["prompt"] for b in server.asked} == {wanted[0].prompt}
    assert settings[0.0] == {
        "do_sample": False, "max_new_tokens": 40, "eos_token_id": [0], "pad_token_id": 0,
    }  # fmt: skip
    assert settings[0.7].items() >= {"do_sample": True, "top_k": 0, "top_p": 0.95}.items()


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


def test_ids_come_from_the_texts_of_tokens_where_these_have_one(model):
    with StandInEndpoint(like_vllm(model, as_ids=False), VLLM) as server:
        sample = run(backend(server), requests(model))["q0", 0]
    assert sample.token_ids == (*encode(model, TEXT), 0)
    assert (sample.retokenised, sample.text) == (False, TEXT.strip())
    # Tokens of the same text share an entry there, so the bound is lower, and still one.
    assert sample.entropy_kind == "top-k"


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


def test_logprobs_of_other_tokens_are_dropped(model):
    few = {"tokens": [" 3", "?"], "token_logprobs": [-1.0, -1.0], "top_logprobs": None}
    complete = lambda r: Answer(body=completion(r, TEXT, logprobs=few))  # noqa: E731
    with StandInEndpoint(complete, VLLM) as server:
        sample = run(backend(server), requests(model))["q0", 0]
    assert (sample.retokenised, sample.token_logprobs) == (True, ())


def test_texts_are_cut_before_a_stop_text_that_was_left_in(model):
    complete = lambda r: Answer(body=completion(r, TEXT + " Q: 8", finish_reason="length"))  # noqa: E731
    with StandInEndpoint(complete) as server:
        sample = run(backend(server), requests(model), replace(DECODING, stop=("Q:",)))["q0", 0]
    assert (sample.text, sample.finish_reason) == (TEXT.strip(), "stop")


def test_an_answer_that_ends_at_once_is_one(model):
    usage = {"completion_tokens": 1}
    complete = lambda r: Answer(body=completion(r, "", usage=usage))  # noqa: E731
    with StandInEndpoint(complete) as server:
        sample = run(backend(server), requests(model))["q0", 0]
    assert (sample.text, sample.token_ids, sample.finish_reason) == ("", (), "stop")


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
