"""The projection of memory and disk: each formula against what the code allocates."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import END, byte_tokenizer

from benchmarks.live_tensors import watch
from helpers import projection, token_choice
from helpers.hidden_states import TokenSequence, capture
from helpers.models import LanguageModel, ModelIdentity
from helpers.probe_solvers import decompose, ridge_path
from helpers.projection import (
    ALLOCATOR,
    LAB,
    LAB_JUDGE,
    LOGITS_COPIES,
    MODELS,
    NLI_SMALL,
    JudgeShape,
    ModelShape,
    Workload,
    judge_workspace,
    logits_block,
    model_phases,
    project,
    smallest,
    sweep_workspace,
)
from helpers.sampling import Decoding, Request, generate
from helpers.shared_prefix import PromptCounts, next_log_probs
from helpers.token_choice import choose_tokens

pytestmark = pytest.mark.usefixtures("one_thread")

QWEN = ModelShape("qwen3", 0, 4, 64, 192, 4, 2, 16, 2000, 512)
WIDE_HEADS = replace(QWEN, name="wide heads", heads=8, head_dim=32)
GPT2 = ModelShape("gpt2", 0, 4, 64, 256, 4, 4, 16, 2000, 512, gated=False)
GEMMA = replace(QWEN, name="gemma2", eager=True)
SHAPES = (QWEN, WIDE_HEADS, GPT2, GEMMA)
MANY_TOKENS = replace(QWEN, name="many tokens", vocabulary=300_000)


def config_of(shape: ModelShape) -> Any:
    from transformers import Gemma2Config, GPT2Config, Qwen3Config

    if not shape.gated:
        return GPT2Config(
            vocab_size=shape.vocabulary,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_positions=shape.context,
            initializer_range=0.3,
        )
    return (Gemma2Config if shape.eager else Qwen3Config)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        initializer_range=0.3,  # decided about its tokens: ties are settled one by one
    )


def random_model(shape: ModelShape) -> LanguageModel:
    """A random model of the shape that never ends an answer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config_of(shape)).eval()
    identity = ModelIdentity(shape.name, Path(), "", "")
    tokenizer = byte_tokenizer(eos_token=END)
    return LanguageModel(
        identity, model, tokenizer, "cpu", shape.layers, shape.width, shape.context, frozenset(), 0
    )


def prompts(n: int, length: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(3, 250, length).tolist()) for _ in range(n)]


def work(**changes: Any) -> Workload:
    usual = Workload(n_questions=60, prompt_tokens=100, answer_tokens=20, max_new_tokens=20,
                     batch_size=22, dtype="float32", device="cpu", positions=2)  # fmt: skip
    return replace(usual, **changes)


def phase(shape: ModelShape, work: Workload, name: str) -> float:
    """What a phase takes, without the allocator's share, which live tensors do not show."""
    return sum(model_phases(shape, work)[name].values()) / ALLOCATOR


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize(("prompt", "new"), [(100, 10), (30, 30)])
def test_sampling_takes_what_is_projected(shape, prompt, new):
    lm = random_model(shape)
    requests = [Request(str(i), p, tuple(range(-1, 10))) for i, p in enumerate(prompts(2, prompt))]
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=new, seed=0)
    found = watch(lambda: [s for b in generate(lm, requests, decoding, batch_size=22) for s in b])
    expected = phase(shape, work(prompt_tokens=prompt, max_new_tokens=new), "sampling")
    assert found.peak == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("n", [16, 60])
def test_hidden_states_take_what_is_projected(shape, n):
    lm = random_model(shape)
    sequences = [TokenSequence(p, (5,) * 20) for p in prompts(n, 100)]
    capture(lm, sequences[:1], ("tbg",))
    found = watch(lambda: capture(lm, sequences, ("tbg", "answer_last")))
    expected = phase(shape, work(batch_tokens=n * 120), "hidden states")
    assert found.peak == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("shape", [*SHAPES, MANY_TOKENS], ids=lambda shape: shape.name)
def test_p_true_takes_what_is_projected(shape):
    shape = replace(shape, context=4096)
    lm = random_model(shape)
    asked = work(k=4, prompt_tokens=60, answer_tokens=10, p_true_shots=4, n_questions=30)
    block = 60 + 40 + 10 + 45
    head = prompts(1, 4 * block)[0]
    rests = [head + p[: block - i % 20] for i, p in enumerate(prompts(30, block))]
    found = watch(lambda: next_log_probs(lm, rests, (5, 6), PromptCounts()))
    expected = phase(shape, asked, "p(True), few-shot")
    assert found.peak == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("at_once", "copied"), [(2**22, 32), (10 * 5000, 8)])
def test_choosing_tokens_copies_the_logits_as_often_as_is_said(
    top_p, dtype, at_once, copied, monkeypatch
):
    monkeypatch.setattr(token_choice, "CELLS_AT_ONCE", at_once)
    monkeypatch.setattr(projection, "LOGITS_BLOCK", at_once)
    rows, vocabulary = 32, 5000
    logits = torch.randn(rows, vocabulary).to(dtype) * 3
    draws, greedy = np.random.default_rng(0).random(rows), np.zeros(rows, dtype=bool)
    how: Any = {"temperature": 1.0, "top_p": top_p, "tolerance": 2e-5}
    found = watch(lambda: choose_tokens(logits, draws, greedy, **how))
    cells = logits_block(replace(QWEN, vocabulary=vocabulary), rows)
    assert cells == copied * vocabulary
    assert found.peak / cells == pytest.approx(LOGITS_COPIES[top_p == 1], rel=0.02)


@pytest.mark.parametrize("tokens", [24, 64, 160])
@pytest.mark.parametrize(("width", "heads", "buckets"), [(64, 4, 32), (64, 8, 128), (128, 4, 64)])
def test_judging_takes_what_is_projected(tokens, width, heads, buckets):
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        vocab_size=100, hidden_size=width, num_hidden_layers=2, num_attention_heads=heads,
        intermediate_size=3 * width, position_buckets=buckets, relative_attention=True,
        share_att_key=True, norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"],
        position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    model = DebertaV2ForSequenceClassification(config).eval()
    ids = torch.randint(0, 100, (8, tokens))
    with torch.inference_mode():
        found = watch(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    expected = judge_workspace(JudgeShape("", 0, width, heads, buckets), 8, tokens)
    assert found.peak == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(("rows", "width"), [(400, 100), (120, 300), (300, 300)])
def test_a_fit_takes_what_is_projected(rows, width):
    rng = np.random.default_rng(0)
    layer, target = rng.normal(size=(rows, width)).astype(np.float32), rng.normal(size=rows)
    ridge_path(decompose(layer), target, [1.0])  # what a first call imports is not the fit's
    tracemalloc.start()
    ridge_path(decompose(layer), target, [1.0, 10.0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    lapack = 3 * 8 * min(rows, width) ** 2  # its own copies are not traced
    assert peak <= sweep_workspace(rows, width) <= 1.35 * (peak + lapack)


def test_the_models_are_those_that_their_configs_describe():
    from transformers import AutoConfig, AutoModelForCausalLM

    from helpers.models import LAB_FOLDER

    for shape in MODELS.values():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config_of(shape))
        assert sum(p.numel() for p in model.parameters()) == shape.parameters, shape.name
    config = AutoConfig.from_pretrained(LAB_FOLDER / "language_model")
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (
        LAB.layers, LAB.width, LAB.vocabulary,
    )  # fmt: skip
    judge = AutoConfig.from_pretrained(LAB_FOLDER / "judge")
    assert (judge.hidden_size, judge.num_attention_heads, judge.position_buckets) == (
        LAB_JUDGE.width, LAB_JUDGE.heads, LAB_JUDGE.buckets,
    )  # fmt: skip


def test_the_pieces_are_those_that_the_code_takes():
    import inspect

    from helpers import p_true, stored_states

    assert projection.PIECE == stored_states.PIECE
    assert projection.P_TRUE_CHUNK == p_true.CHUNK
    assert projection.LOGITS_BLOCK == token_choice.CELLS_AT_ONCE
    usual = Workload(n_questions=1).batch_tokens
    for function in (capture, next_log_probs):
        assert inspect.signature(function).parameters["batch_tokens"].default == usual


def test_a_finished_run_has_the_projected_size_on_disk(tiny_run):
    from helpers.run_folder import read_manifest

    counts = (read_manifest(tiny_run.run_folder) or {})["counts"]
    n, k = counts["questions"], tiny_run.k
    asked = Workload(
        n_questions=n, k=k, positions=len(tiny_run.positions), prompt_tokens=90,
        answer_tokens=counts["tokens"] / (n * (k + 1)), judge=LAB_JUDGE, device="cpu",
    )  # fmt: skip
    parts = project(LAB, asked).disk_bytes.parts
    hidden = sum(p.stat().st_size for p in (tiny_run.run_folder / "hidden").iterdir())
    assert hidden == pytest.approx(parts["hidden states, run folder"], rel=0.1)
    stored = sum(
        path.stat().st_size
        for folder in (tiny_run.run_folder, Path(tiny_run.cache_dir))
        for path in folder.rglob("*")
        if path.is_file()
    )
    assert stored == pytest.approx(sum(parts.values()), rel=0.5)


def test_more_work_takes_more_and_the_gpu_only_what_runs_on_it():
    shape, usual = MODELS["Qwen3-0.6B"], Workload(n_questions=1000)
    base = project(shape, usual)
    for name, more in (("n_questions", 2000), ("k", 20), ("answer_tokens", 128)):
        found = project(shape, replace(usual, **{name: more}))
        assert found.disk_bytes.total > base.disk_bytes.total, name
        assert found.ram_bytes.total > base.ram_bytes.total, name
    assert project(shape, replace(usual, n_questions=2000)).gpu_bytes == base.gpu_bytes
    on_cpu = project(shape, replace(usual, device="cpu", dtype="float32"))
    assert on_cpu.gpu_bytes.total == 0
    assert on_cpu.ram_bytes.parts["weights"] == 4 * shape.parameters
    assert base.gpu_bytes.parts["weights"] == 2 * shape.parameters
    assert base.mapped_bytes == 1000 * 4 * 29 * 1024 * 4
    assert "weights" not in base.ram_bytes.always
    assert base.ram_bytes.parts["judge"] == 4 * NLI_SMALL.parameters
    no_shots = replace(usual, p_true_shots=0)
    least = project(shape, smallest(no_shots)).gpu_bytes
    assert least.total < project(shape, no_shots).gpu_bytes.total < base.gpu_bytes.total
    with pytest.raises(KeyError):
        project(shape, replace(usual, dtype="int8"))
