"""Tracing of reasoning runs: where their states are read, and which entropies they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.data.questions import lab_questions
from helpers.generation.records import Decoding, Request
from helpers.generation.samples import encode_prompts, prompt_texts
from helpers.generation.sampling import generate
from helpers.hidden_states.capture import think_end_id
from helpers.hidden_states.stored import open_hidden_states
from helpers.models.loading import identify, load_language_model, load_tokenizer
from helpers.progress import silent_progress
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun
from helpers.studies.reasoning.states import forced_entropies, row_names, trace, trace_position
from helpers.studies.registry import make_config
from support.tiny_models import byte_tokenizer, save_language_model

pytestmark = pytest.mark.usefixtures("one_thread")
CLOSE = 2  # </think> of the tiny tokenizer and of the lab's


def reasoning_config(folder: Path, **changes: Any) -> ReasoningConfig:
    usual: dict[str, Any] = {"cache_dir": folder / "cache", "out": folder / "out", "device": "cpu"}
    config = make_config("lab-think", **(usual | changes))
    assert isinstance(config, ReasoningConfig)
    return config


def make_run(
    question: str, run_id: int, token_ids: tuple[int, ...], **changes: Any
) -> ReasoningRun:
    span = (0, token_ids.index(CLOSE)) if CLOSE in token_ids else None
    return ReasoningRun(
        question_id=question, run_id=run_id, text="", thinking="", answer="", final_answer=None,
        status=None, token_ids=token_ids, token_logprobs=(), token_entropies=(),
        entropy_kind="none", thinking_span=span, finish_reason="stop",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, str]:
    """Folders of tiny models: one of them knows no thinking tags."""
    base = tmp_path_factory.mktemp("models")
    paths = {
        "qwen3": save_language_model("qwen3", base / "qwen3"),
        "plain": save_language_model("gpt2", base / "plain"),
    }
    byte_tokenizer(("<|end|>", "<a>", "<b>"), eos_token="<|end|>").save_pretrained(paths["plain"])
    return {name: str(path) for name, path in paths.items()}


def test_states_are_read_at_the_generated_end_of_thinking_of_the_lab(tmp_path, store):
    config = reasoning_config(tmp_path)
    lm = load_language_model("lab", device="cpu")
    questions = lab_questions(8, 0)
    ids = encode_prompts(config, lm, prompt_texts(config, [q.question for q in questions]))
    requests = [Request(q.id, tuple(p), (0, 1, 2)) for q, p in zip(questions, ids, strict=True)]
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=60, seed=0)
    samples = [s for b in generate(lm, requests, decoding, batch_size=24) for s in b]
    samples = [s for s in samples if think_end_id(lm.tokenizer) in s.token_ids]
    assert len(samples) > 5
    of = {q.id: tuple(p) for q, p in zip(questions, ids, strict=True)}
    samples.sort(key=lambda s: (s.question_id, s.sample_id))
    runs = [make_run(s.question_id, s.sample_id, s.token_ids) for s in samples]
    prompts = [of[run.question_id] for run in runs]
    found = trace(config, prompts, runs, store, silent_progress())
    assert (found.position, found.reason) == ("think_end", "")
    assert set(found.token_ids) == {think_end_id(lm.tokenizer)}
    assert found.hidden.shape == (len(runs), lm.n_layers + 1, lm.width)
    assert isinstance(found.hidden, np.memmap)
    assert found.hidden.dtype == np.float32
    for i, run in enumerate(runs):
        until = [*prompts[i], *run.token_ids[: run.token_ids.index(CLOSE) + 1]]
        with torch.no_grad():
            plain = lm.model(input_ids=torch.tensor([until]), output_hidden_states=True)
        expected = torch.cat([h[:, -1] for h in plain.hidden_states[:-1]]).numpy()
        # What follows `</think>` is not seen there; the last entry is before the final norm.
        np.testing.assert_allclose(found.hidden[i, :-1], expected, rtol=0, atol=1e-4)


def test_where_nobody_closes_the_thinking_the_last_token_is_read_and_it_is_said_why(
    tmp_path, store, tiny
):
    plain = reasoning_config(tmp_path, model=tiny["plain"])
    where = trace_position(plain, load_tokenizer(identify(plain.model)))
    assert where.position == "answer_last"
    assert where.reason == (
        f"the tokenizer of {tiny['plain']!r} has no </think> token: hidden states are read at "
        "answer_last, the last token of the answer"
    )
    off = reasoning_config(tmp_path, model=tiny["qwen3"], thinking=False)
    found = trace(off, [(50, CLOSE)], [make_run("q", 0, (60, 61, 0))], store, silent_progress())
    assert found.position == "answer_last"
    assert "thinking is off" in found.reason
    assert found.token_ids.tolist() == [61]
    assert open_hidden_states(off.run_folder, ("answer_last",)).rows == ("q#0",)


def test_a_run_that_never_closes_its_thinking_is_no_valid_run(tmp_path, store, tiny):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    runs = [make_run("q", 0, (5, CLOSE, 6, 0)), make_run("q", 1, (5, 6, 0))]
    with pytest.raises(ValueError, match="q#1 never closes its thinking"):
        trace(config, [(7, 8)] * 2, runs, store, silent_progress())


def test_entropies_are_read_of_the_runs_that_have_no_full_ones(tmp_path, store, tiny):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    kinds = ("full", "top-k", "none", "full")
    runs = [
        replace(make_run("q", i, (5,) * (i + 1) + (CLOSE, 0)), entropy_kind=kind)
        for i, kind in enumerate(kinds)
    ]
    found = forced_entropies(config, [(7, 8)] * 4, runs, store, silent_progress())
    assert {row: len(each.entropies) for row, each in found.items()} == {1: 4, 2: 5}
    assert row_names(runs) == ["q#0", "q#1", "q#2", "q#3"]
    assert forced_entropies(config, [(7, 8)], runs[:1], store, silent_progress()) == {}
