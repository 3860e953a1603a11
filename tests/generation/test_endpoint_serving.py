"""Samples from a real server on loopback: `transformers serve` with the lab's model.

It takes prompts as text only, refuses fields it does not know, and gives neither token ids nor
log-probabilities. It drops special tokens from its texts: the lab's `</think>` is an ordinary one,
as in the tokenizers of reasoning models.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.generation.records import GREEDY, TOO_LONG, Decoding, Request, Sample
from helpers.generation.samples import open_backend
from helpers.generation.sampling import generate
from helpers.models.loading import LAB_FOLDER, identify, load_language_model, load_tokenizer
from support.servers import free_port, running

DECODING = Decoding(temperature=0.8, top_p=1.0, max_new_tokens=64, seed=1)
QUESTIONS = ("Ana has 5 pears and eats 2. How many are left?", "What is 3 + 4?")


@pytest.fixture(scope="module")
def folder() -> Path:
    """The lab's language model."""
    return LAB_FOLDER / "language_model"


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    pytest.importorskip("fastapi", reason="`transformers serve` needs transformers[serving]")
    pytest.importorskip("uvicorn", reason="`transformers serve` needs transformers[serving]")
    base, port = tmp_path_factory.mktemp("serve"), free_port()
    command = [
        sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve",
        str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
    ]  # fmt: skip
    with running(command, port, base, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(base)}):
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1")


def config(server: SimpleNamespace, folder: Path, **changes: Any) -> RunConfig:
    fields = {"model": str(folder), "endpoint": server.url, "requests_at_once": 1, **changes}
    return RunConfig(backend="openai", device="cpu", **fields)


def asked(folder: Path, samples: tuple[int, ...]) -> list[Request]:
    tokenizer = load_tokenizer(identify(str(folder)))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        for question in QUESTIONS
    ]
    ids = [tuple(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in prompts]
    return [Request(f"q{i}", ids[i], samples, p) for i, p in enumerate(prompts)]


def run(opened: Any, wanted: list[Request]) -> dict[tuple[str, int], Sample]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        groups = list(opened.generate(wanted, DECODING))
    return {(s.question_id, s.sample_id): s for group in groups for s in group}


@pytest.mark.slow
def test_a_real_server_s_samples_close_their_thinking_and_decode_back(server, folder):
    opened = open_backend(config(server, folder))
    wanted = asked(folder, (0, 1, 2))
    assert all(a.prompt.endswith("<think>") for a in wanted)
    found = run(opened, wanted)
    assert len(found) == 6
    tokenizer = load_tokenizer(identify(str(folder)))
    for sample in found.values():
        assert sample.finish_reason == "stop"
        assert sample.retokenised  # it gives no ids
        assert tokenizer.decode(sample.token_ids).strip() == sample.text
        assert (sample.entropy_kind, sample.token_logprobs) == ("none", ())
        assert sample.served_model.startswith(str(folder))
    texts = {key: sample.text for key, sample in found.items()}
    assert sum("</think>" in text for text in texts.values()) >= 4  # the lab's model forgets some
    assert len({texts["q0", i] for i in range(3)}) > 1  # it samples
    # One at a time, its seeds decide: resumed in another order, the same samples.
    again = run(open_backend(config(server, folder)), [*asked(folder, (2, 1))][::-1])
    assert all(texts[key] == sample.text for key, sample in again.items())
    described = opened.describe()
    assert (described["prompt_as"], described["fields"]) == ("text", "transformers")


def test_requests_at_once_and_prompts_that_fill_the_context(server, folder):
    """The most likely answers are those of this process: the same model, prompt and tokens."""
    full = Request("full", (5,) * 512, (0,), "x" * 4000)
    wanted = asked(folder, (GREEDY, 0, 1))
    found = run(open_backend(config(server, folder, requests_at_once=4)), [full, *wanted])
    assert len(found) == 7
    assert found["full", 0].finish_reason == TOO_LONG
    lm = load_language_model(str(folder), device="cpu")
    greedy = [replace(request, sample_ids=(GREEDY,)) for request in wanted]
    for sample in (s for b in generate(lm, greedy, DECODING, batch_size=8) for s in b):
        assert found[sample.question_id, GREEDY].text == sample.text


def test_another_name_is_refused_with_the_server_s_words(server, folder):
    with pytest.raises(UserError, match=r"refuses .*Server is pinned to"):
        run(open_backend(config(server, folder, served_model="gpt2")), asked(folder, (0,)))
