"""Generation by vLLM in this process: many sequences at once on a GPU.

Written against vLLM 0.30 (`LLM`, `SamplingParams`, prompts as `{"prompt_token_ids": [...]}`, which
is its `TokensPrompt`); its tests run against a stand-in of these few names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.errors import UserError
from helpers.generation.records import (
    GREEDY,
    Backend,
    Decoding,
    Request,
    Sample,
    rounded,
    sample_seed,
    too_long,
)
from helpers.models.loading import free_memory, identify, is_out_of_memory
from helpers.models.tokens import ModelTokens, cut, model_tokens, text_of
from helpers.store.hub import first_line

if TYPE_CHECKING:
    from helpers.config import RunConfig

# --- bounds on the entropy -----------------------------------------------------------------------
#
# Let the known probabilities sum to S, so that r = 1 − S is left for the tokens that nobody listed,
# and let none of these be more likely than c, the smallest of the top k. What they add to the
# entropy is the sum of −q·log q over their probabilities q. That sum is concave, and over all q
# with 0 ≤ q ≤ c and sum r it is least at a corner: as many as possible at c, and what is left at
# one more. With n = ⌊r / c⌋ and s = r − n·c,
#
#     H  ≥  −Σ p·log p  −  n·c·log c  −  s·log s
#
# (sum over the known p). With k the whole vocabulary r is 0 and the bound is the entropy. The known
# probabilities are never scaled up to sum to 1: that would be the entropy of another distribution,
# and may be more than the true one.


ROUNDING = 1e-6  # a smaller rest is what rounding leaves of log-probabilities in float32


def entropy_lower_bounds(logprobs: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Lower bounds of n entropies, `[n]` in nats, from listed log-probabilities `[n, m]`.

    Missing entries are −inf. `caps` `[n]` is the log-probability that no unlisted token exceeds.
    """
    known = np.minimum(np.exp(logprobs), 1.0)
    rest = np.maximum(1.0 - known.sum(axis=1), 0.0)
    rest[rest < ROUNDING] = 0.0
    cap = np.minimum(np.exp(caps), 1.0)
    whole = np.floor(np.divide(rest, cap, out=np.zeros_like(rest), where=cap > 0))
    left = np.maximum(rest - whole * cap, 0.0)
    return _parts(known).sum(axis=1) + whole * _parts(cap) + _parts(left)


def _parts(p: np.ndarray) -> np.ndarray:
    """−p·log p, and 0 at p = 0."""
    return -p * np.log(p, out=np.zeros_like(p), where=p > 0)


def bounds_of_listed(
    listed: Sequence[Sequence[float]], sampled: Sequence[float], k: int, *, distinct: bool
) -> np.ndarray:
    """Lower bounds `[n]`, nats, from what a server lists for each of n tokens.

    `listed[i]` are the log-probabilities of the top tokens, of which k were asked for, and of the
    sampled token where it is not among them; `sampled[i]` is the sampled token's. A server may
    list fewer than k. `distinct` says that no two tokens can have shared an entry, as two with the
    same text do in a dictionary by text; the one that was lost so may be the most likely of all.
    """
    width = max((len(row) for row in listed), default=0)
    table = np.full((len(listed), width), -np.inf)
    caps = np.empty(len(listed))
    for i, row in enumerate(listed):
        ordered = sorted(row, reverse=True)
        table[i, : len(ordered)] = ordered
        caps[i] = _cap(ordered, sampled[i], k, distinct)
    return entropy_lower_bounds(table, caps)


def _cap(ordered: list[float], sampled: float, k: int, distinct: bool) -> float:
    """What no unlisted token exceeds, given the listed log-probabilities in falling order."""
    if len(ordered) > k:  # the k most likely, and the sampled one below them
        return ordered[k - 1]
    if not distinct:
        return 0.0
    if ordered[-1] > sampled:
        return ordered[-1]
    # A server that lists fewer than k may list the last one only because it was sampled.
    return ordered[-2] if len(ordered) > 1 else 0.0


TOP_K = 20  # tokens whose log-probability is kept at each step: as many as vLLM gives by default
ROUNDS = 4  # how often the places of the engine are filled before what is finished is handed on
INSTALL = "uv sync --no-default-groups --extra vllm"


def open_vllm(config: RunConfig) -> Backend:
    """vLLM as a backend; the engine lives while `generate` runs, and then frees the GPU."""

    def run(requests: Sequence[Request], decoding: Decoding) -> Iterator[list[Sample]]:
        model = model_tokens(config.model)
        full = [r for r in requests if len(r.prompt_ids) >= model.context]
        if full:
            yield [sample for r in full for sample in too_long(r)]
        fitting = [r for r in requests if len(r.prompt_ids) < model.context]
        jobs = [(r, sample_id) for r in fitting for sample_id in r.sample_ids]
        if not jobs:
            return
        engine = _start(config, model, fitting, decoding)
        try:
            size = ROUNDS * config.max_num_seqs
            for start in range(0, len(jobs), size):
                yield _generate(engine, model, jobs[start : start + size], decoding)
        finally:
            # Its processes end: hidden states are read on the same GPU afterwards.
            core: Any = getattr(getattr(engine, "llm_engine", None), "engine_core", None)
            if hasattr(core, "shutdown"):
                core.shutdown()
            del core, engine
            free_memory("cuda")

    def describe() -> dict[str, Any]:
        return {
            "backend": "vllm",
            "versions": {name: _version(name) for name in ("vllm", "torch")},
            "dtype": config.dtype,
            "tensor_parallel": config.tensor_parallel,
            "max_num_seqs": config.max_num_seqs,
            "enforce_eager": config.enforce_eager,
        }

    promise = "vLLM's samples may depend on what else is in its batch"
    if os.environ.get("VLLM_BATCH_INVARIANT") == "1":
        promise = "vLLM ran in its batch-invariant mode, which its makers call unfinished"
    return Backend(name="vllm", generate=run, promise=promise, describe=describe)


def _start(
    config: RunConfig, model: ModelTokens, requests: Sequence[Request], decoding: Decoding
) -> Any:
    """The engine, with room for the longest sequence that can be asked of it."""
    vllm = _import_vllm()
    longest = max(len(r.prompt_ids) for r in requests) + decoding.max_new_tokens
    try:
        return vllm.LLM(
            model=str(identify(config.model).folder),
            dtype=config.dtype,
            seed=config.seed % 2**31,
            gpu_memory_utilization=config.gpu_mem_utilization,
            max_num_seqs=config.max_num_seqs,
            enforce_eager=config.enforce_eager,
            tensor_parallel_size=config.tensor_parallel,
            # A full context would need memory that no sequence here can use.
            max_model_len=int(min(longest, model.context)),
            max_logprobs=TOP_K,
            logprobs_mode="raw_logprobs",  # before temperature and top-p
            generation_config="vllm",  # not the checkpoint's own top-k and penalties
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"vLLM could not start with {config.model!r} ({first_line(error)}; its own messages "
            "say more): free the GPU's memory or change --gpu-mem-utilization "
            f"(now {config.gpu_mem_utilization:g}), lower --max-num-seqs or --max-new-tokens, set "
            "--enforce-eager, or use --backend hf"
        ) from error


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            f"--backend vllm: vLLM cannot be imported here ({first_line(error)}); install it with "
            f"`{INSTALL}` (Linux with an NVIDIA GPU), or use --backend hf or openai"
        ) from error
    import torch

    # Counted through the driver's library: CUDA itself must not start before vLLM's processes do.
    if torch.cuda.device_count() == 0:
        raise UserError(
            "--backend vllm: there is no CUDA GPU on this machine; run it where there is one, use "
            "--backend hf, or serve the model elsewhere and use --backend openai"
        )
    return vllm


def _generate(
    engine: Any, model: ModelTokens, jobs: Sequence[tuple[Request, int]], decoding: Decoding
) -> list[Sample]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request, _ in jobs]
    params = [
        SamplingParams(
            n=1,
            temperature=0.0 if sample_id == GREEDY else decoding.temperature,
            top_p=1.0 if sample_id == GREEDY else decoding.top_p,
            seed=sample_seed(decoding.seed, request.question_id, sample_id),
            max_tokens=int(min(decoding.max_new_tokens, model.context - len(request.prompt_ids))),
            stop=list(decoding.stop) or None,
            stop_token_ids=sorted(model.end_ids),
            logprobs=TOP_K,
            skip_special_tokens=False,
        )
        for request, sample_id in jobs
    ]
    try:
        outputs = engine.generate(prompts, params, use_tqdm=False)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "out of memory on the GPU while vLLM generated; lower --max-num-seqs, "
            "--gpu-mem-utilization or --max-new-tokens; what is finished is stored"
        ) from error
    pairs = zip(jobs, outputs, strict=True)
    return [_read(model, job[0], job[1], out.outputs[0], decoding.stop) for job, out in pairs]


def _read(
    model: ModelTokens, request: Request, sample_id: int, output: Any, stop: Sequence[str]
) -> Sample:
    """One finished `CompletionOutput`: its logprobs are a dictionary by token id for each token."""
    if output.finish_reason not in ("stop", "length"):
        raise UserError(
            f"vLLM gave up on question {request.question_id}, sample {sample_id} "
            f"({output.finish_reason}); its own messages say more; the same command asks again"
        )
    ids = tuple(int(i) for i in output.token_ids)
    listed = [[entry.logprob for entry in step.values()] for step in output.logprobs]
    sampled = [step[i].logprob for step, i in zip(output.logprobs, ids, strict=True)]
    return Sample(
        question_id=request.question_id, sample_id=sample_id,
        text=cut(text_of(model, ids), stop).strip(), token_ids=ids, token_logprobs=rounded(sampled),
        token_entropies=rounded(bounds_of_listed(listed, sampled, TOP_K, distinct=True)),
        entropy_kind="top-k", finish_reason=output.finish_reason,
    )  # fmt: skip


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
