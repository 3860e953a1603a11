"""Backends in this process: transformers, vLLM (against a stand-in), and bounds of entropies."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.generation.records import (
    GREEDY,
    TOO_LONG,
    Backend,
    Decoding,
    Request,
    Sample,
)
from helpers.generation.samples import open_backend
from helpers.generation.sampling import generate
from helpers.generation.vllm import bounds_of_listed
from helpers.models.loading import identify, load_language_model, load_tokenizer
from helpers.models.tokens import model_tokens
from support.tiny_models import save_language_model

DECODING = Decoding(temperature=0.8, top_p=0.95, max_new_tokens=20, seed=3)
SAMPLES = (GREEDY, 0, 1, 2)
QUESTIONS = ("Ana has 5 pears and eats 2. How many are left?", "What is 3 + 4?", "Why?")

pytestmark = pytest.mark.usefixtures("one_thread")


def asked(
    samples: tuple[int, ...] = SAMPLES, questions: tuple[str, ...] = QUESTIONS
) -> list[Request]:
    """Prompts that end in <think>, as the lab's chat template ends them."""
    tokenizer = load_tokenizer(identify("lab"))
    prompts = [f"Question: {q}\nAnswer:<think>" for q in questions]
    ids = [tuple(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    return [Request(f"q{i}", ids[i], samples, p) for i, p in enumerate(prompts)]


def run(backend: Backend, wanted: list[Request]) -> dict[tuple[str, int], Sample]:
    """Everything that a backend gives, by question and sample, each once."""
    groups = list(backend.generate(wanted, DECODING))
    found = {(s.question_id, s.sample_id): s for group in groups for s in group}
    assert len(found) == sum(map(len, groups)) == sum(len(a.sample_ids) for a in wanted)
    return found


# --- bounds of entropies


def entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@st.composite
def distributions(draw: st.DrawFn) -> np.ndarray:
    weights = draw(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60))
    powers = np.array(weights) ** draw(st.sampled_from((0.2, 1.0, 6.0)))
    return powers / powers.sum()


@settings(max_examples=200)
@given(distributions(), st.integers(1, 70), st.integers(0, 59), st.booleans(), st.data())
def test_no_bound_is_above_the_entropy(p, k, at, distinct, data):
    sampled = at % len(p)
    order = np.argsort(-p, kind="stable")
    shown = list(order[: data.draw(st.integers(1, k))])  # a server may list fewer than it is asked
    if sampled not in shown:
        shown.append(sampled)
    if not distinct and len(shown) > 1:  # one entry was written over another one's
        del shown[data.draw(st.integers(0, len(shown) - 1))]
    listed = np.log(p[shown])
    bound = bounds_of_listed([listed], [np.log(p[sampled])], k, distinct=distinct)[0]
    assert bound <= entropy(p) + 1e-9
    assert bound >= entropy(p[shown]) - 1e-9  # the rest adds to it


@given(distributions())
def test_the_bound_of_the_whole_vocabulary_is_the_entropy(p):
    bound = bounds_of_listed([np.log(p)], [np.log(p[0])], len(p), distinct=True)[0]
    assert bound == pytest.approx(entropy(p), abs=2e-5)


def test_the_bound_is_the_entropy_of_the_most_uneven_completion():
    """0.5 and 0.2 are known: what is left, 0.3, is least uncertain as 0.2 and 0.1."""
    listed = np.log([0.5, 0.2, 1e-9])
    bound = bounds_of_listed([listed], [listed[2]], 2, distinct=True)[0]
    assert bound == pytest.approx(entropy(np.array([0.5, 0.2, 0.2, 0.1])), abs=1e-6)


# --- what a model's folder says


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_tokens_are_those_of_the_loaded_model(architecture, tmp_path):
    name = str(save_language_model(architecture, tmp_path / architecture))
    for model in ("lab", name):
        read, loaded = model_tokens(model), load_language_model(model, device="cpu")
        assert (read.context, read.end_ids) == (loaded.context, loaded.end_ids)
        assert read.dtype == "float32"


# --- transformers


def hf(**changes: Any) -> Backend:
    return open_backend(RunConfig(device="cpu", **changes))


def test_hf_gives_what_sampling_gives_whatever_the_batch():
    wanted = asked()
    backend = hf()
    whole = run(backend, wanted)
    lm = load_language_model("lab", device="cpu")
    plain = [s for batch in generate(lm, wanted, DECODING, batch_size=3) for s in batch]
    for sample in plain:
        ours = whole[sample.question_id, sample.sample_id]
        for name in ("text", "token_ids", "finish_reason"):
            assert getattr(ours, name) == getattr(sample, name)
        assert ours.token_entropies == pytest.approx(sample.token_entropies, abs=1e-4)
        assert ours.token_logprobs == pytest.approx(sample.token_logprobs, abs=1e-4)
        assert (ours.entropy_kind, ours.retokenised) == ("full", False)
    one_by_one = run(hf(batch_size=1), wanted[::-1])
    assert all(one_by_one[key].token_ids == s.token_ids for key, s in whole.items())
    assert backend.promise == ""
    assert backend.describe()["dtype"] == "float32"
    assert "bfloat16" in hf(dtype="bfloat16").promise


def test_hf_says_which_prompts_are_too_long():
    long = Request("long", (5,) * 600, (GREEDY, 0))
    found = run(hf(), [long, *asked((0,))])
    too_long = {key for key, s in found.items() if s.finish_reason == TOO_LONG}
    assert too_long == {("long", GREEDY), ("long", 0)}


# --- vLLM, by a stand-in of the names that are used

WEIGHTS = np.random.default_rng(0).gamma(0.02, size=1024) + 1e-9
PROBABILITIES = WEIGHTS / WEIGHTS.sum()
CUMULATIVE = PROBABILITIES.cumsum()


class StandInLLM:
    """`vllm.LLM`: every token is drawn from one distribution, with the sample's own seed."""

    made: list[StandInLLM] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        self.options, self.calls, self.stopped = options, [], False
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.shutdown))
        self.made.append(self)

    def shutdown(self) -> None:
        self.stopped = True

    def generate(self, prompts: list[dict], params: list, *, use_tqdm: bool) -> list:
        assert not use_tqdm
        assert len(prompts) == len(params)
        self.calls.append(params)
        return [SimpleNamespace(outputs=[self.complete(p)]) for p in params]

    def complete(self, params: SimpleNamespace) -> SimpleNamespace:
        rng = np.random.default_rng(params.seed)
        top = np.argsort(-PROBABILITIES)[: params.logprobs]
        ids, steps = [], []
        while len(ids) < params.max_tokens and not set(ids) & set(params.stop_token_ids):
            greedy = params.temperature == 0
            ids.append(int(top[0] if greedy else CUMULATIVE.searchsorted(rng.random())))
            shown = dict.fromkeys([ids[-1], *top.tolist()])  # the sampled token comes first
            steps.append({i: SimpleNamespace(logprob=np.log(PROBABILITIES[i])) for i in shown})
        stopped = ids[-1] in params.stop_token_ids
        reason = "stop" if stopped else "length"
        return SimpleNamespace(token_ids=ids, logprobs=steps, finish_reason=reason, text="")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `vllm` on a machine with a GPU."""
    module = ModuleType("vllm")
    monkeypatch.setattr(StandInLLM, "made", [])
    module.LLM, module.SamplingParams = StandInLLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    return module


def vllm_config(**changes: Any) -> RunConfig:
    return RunConfig(backend="vllm", **changes)


def test_vllm_samples_have_their_own_seeds_and_bounded_entropies(vllm):
    backend = open_backend(vllm_config(max_num_seqs=64, enforce_eager=True, tensor_parallel=2))
    whole = run(backend, asked())
    # One sequence at a time, other samples beside it: the same samples.
    few = run(open_backend(vllm_config(max_num_seqs=1)), asked((1, 0, 7))[::-1])
    shared = whole.keys() & few.keys()
    assert len(shared) == 6
    assert all(whole[key] == few[key] for key in shared)
    true = entropy(PROBABILITIES)
    for sample in whole.values():
        assert sample.entropy_kind == "top-k"
        assert len(sample.token_ids) == len(sample.token_logprobs) == len(sample.token_entropies)
        assert all(0.5 * true < h <= true + 1e-5 for h in sample.token_entropies)
        assert sample.token_logprobs[0] == pytest.approx(
            np.log(PROBABILITIES[sample.token_ids[0]]), abs=1e-5
        )
    assert len(set(whole["q0", GREEDY].token_ids)) == 1
    assert "batch" in backend.promise


def test_vllm_is_started_for_what_is_asked_and_stopped(vllm):
    wanted = asked()
    longest = max(len(a.prompt_ids) for a in wanted)
    groups = open_backend(vllm_config(max_num_seqs=2, seed=4)).generate(wanted, DECODING)
    assert len(next(groups)) == 8  # the places filled four times: the rest waits
    engine = StandInLLM.made[0]
    assert engine.options["max_model_len"] == longest + DECODING.max_new_tokens
    assert engine.options["logprobs_mode"] == "raw_logprobs"
    assert engine.options["generation_config"] == "vllm"
    assert (engine.options["seed"], engine.options["max_num_seqs"]) == (4, 2)
    first = engine.calls[0][0]
    assert (first.temperature, first.top_p, first.n) == (0.0, 1.0, 1)
    assert engine.calls[0][1].temperature == DECODING.temperature
    assert not first.skip_special_tokens
    groups.close()  # the caller leaves, or is interrupted
    assert engine.stopped
    near_full = Request("full", (5,) * 510, (0,))
    found = run(open_backend(vllm_config()), [near_full, Request("over", (5,) * 512, (0,))])
    assert len(found["full", 0].token_ids) <= 2
    assert found["over", 0].finish_reason == TOO_LONG


def test_vllm_text_ends_before_a_stop_text_and_the_end_token(vllm, monkeypatch):
    model = model_tokens("lab")
    body = tuple(model.tokenizer(" 3 + 4</think> 7. Question: 8")["input_ids"])
    steps = [{i: SimpleNamespace(logprob=-0.1)} for i in (*body, 0)]
    output = SimpleNamespace(token_ids=(*body, 0), logprobs=steps, finish_reason="stop")
    monkeypatch.setattr(StandInLLM, "complete", lambda self, params: output)
    decoding = Decoding(1.0, 1.0, 30, 0, stop=("Question:",))
    groups = list(open_backend(vllm_config()).generate(asked((0,), QUESTIONS[:1]), decoding))
    assert groups[0][0].text == "3 + 4</think> 7."
    assert groups[0][0].token_ids == (*body, 0)


def test_vllm_troubles_name_a_way_out(vllm, monkeypatch):
    wanted = asked((0,))
    backend = open_backend(vllm_config())

    def trouble(words: str, target: Any, name: str, what: Any) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            if isinstance(what, Exception):
                raise what
            return what

        with monkeypatch.context() as patch:
            patch.setattr(target, name, broken)
            with pytest.raises(UserError, match=words):
                run(backend, wanted)

    full, none = ValueError("Free memory on device (3 GiB)"), RuntimeError("CUDA out of memory")
    trouble(r"Free memory.*--gpu-mem-utilization", StandInLLM, "__init__", full)
    trouble("--max-num-seqs", StandInLLM, "generate", none)
    assert StandInLLM.made[-1].stopped
    gone = SimpleNamespace(token_ids=(), logprobs=[], finish_reason="abort")
    trouble("abort", StandInLLM, "complete", gone)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="no CUDA GPU"):
        run(backend, wanted)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="uv sync --no-default-groups --extra vllm"):
        run(backend, wanted)
