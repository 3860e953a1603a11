"""Generation by vLLM in this process: many sequences at once on a GPU.

Written against vLLM 0.30 (`LLM`, `SamplingParams`, prompts as `{"prompt_token_ids": [...]}`, which
is its `TokensPrompt`); its tests run against a stand-in of these few names.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from helpers.backends.entropy_bounds import bounds_of_listed
from helpers.backends.model_tokens import ModelTokens, cut, model_tokens, text_of
from helpers.backends.record import Asked, Backend, Generated, rounded, sample_seed, too_long
from helpers.errors import UserError
from helpers.hub_client import first_line
from helpers.models import identify
from helpers.sampling import GREEDY, Decoding, free_memory, is_out_of_memory

if TYPE_CHECKING:
    from helpers.studies.reasoning.config import ReasoningConfig

TOP_K = 20
"""Tokens whose log-probability is kept at each step: as many as vLLM gives by default."""
ROUNDS = 4
"""How often the places of the engine are filled before what is finished is handed on."""
INSTALL = "uv sync --no-default-groups --extra vllm"


def open_vllm(config: ReasoningConfig) -> Backend:
    """vLLM as a backend; the engine lives while `generate` runs, and then frees the GPU."""

    def run(asked: Sequence[Asked], decoding: Decoding) -> Iterator[list[Generated]]:
        model = model_tokens(config.model)
        full = [a for a in asked if len(a.prompt_ids) >= model.context]
        if full:
            yield [sample for a in full for sample in too_long(a)]
        fitting = [a for a in asked if len(a.prompt_ids) < model.context]
        jobs = [(a, sample_id) for a in fitting for sample_id in a.sample_ids]
        if not jobs:
            return
        engine = _start(config, model, fitting, decoding)
        try:
            size = ROUNDS * config.max_num_seqs
            for start in range(0, len(jobs), size):
                yield _generate(engine, model, jobs[start : start + size], decoding)
        finally:
            _stop(engine)
            del engine
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

    return Backend(name="vllm", generate=run, promise=_promise(), describe=describe)


def _promise() -> str:
    if os.environ.get("VLLM_BATCH_INVARIANT") == "1":
        return "vLLM ran in its batch-invariant mode, which its makers call unfinished"
    return "vLLM's samples may depend on what else is in its batch"


def _start(
    config: ReasoningConfig, model: ModelTokens, asked: Sequence[Asked], decoding: Decoding
) -> Any:
    """The engine, with room for the longest sequence that can be asked of it."""
    vllm = _import_vllm()
    longest = max(len(a.prompt_ids) for a in asked) + decoding.max_new_tokens
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
    engine: Any, model: ModelTokens, jobs: Sequence[tuple[Asked, int]], decoding: Decoding
) -> list[Generated]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": list(asked.prompt_ids)} for asked, _ in jobs]
    params = [
        SamplingParams(
            n=1,
            temperature=0.0 if sample_id == GREEDY else decoding.temperature,
            top_p=1.0 if sample_id == GREEDY else decoding.top_p,
            seed=sample_seed(decoding.seed, asked.question_id, sample_id),
            max_tokens=int(min(decoding.max_new_tokens, model.context - len(asked.prompt_ids))),
            stop=list(decoding.stop) or None,
            stop_token_ids=sorted(model.end_ids),
            logprobs=TOP_K,
            skip_special_tokens=False,
        )
        for asked, sample_id in jobs
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
    model: ModelTokens, asked: Asked, sample_id: int, output: Any, stop: Sequence[str]
) -> Generated:
    """One finished `CompletionOutput`: its logprobs are a dictionary by token id for each token."""
    if output.finish_reason not in ("stop", "length"):
        raise UserError(
            f"vLLM gave up on question {asked.question_id}, sample {sample_id} "
            f"({output.finish_reason}); its own messages say more; the same command asks again"
        )
    ids = tuple(int(i) for i in output.token_ids)
    listed = [[entry.logprob for entry in step.values()] for step in output.logprobs]
    sampled = [step[i].logprob for step, i in zip(output.logprobs, ids, strict=True)]
    return Generated(
        question_id=asked.question_id,
        sample_id=sample_id,
        text=cut(text_of(model, ids), stop).strip(),
        token_ids=ids,
        token_logprobs=rounded(sampled),
        token_entropies=rounded(bounds_of_listed(listed, sampled, TOP_K, distinct=True)),
        entropy_kind="top-k",
        finish_reason=output.finish_reason,
    )


def _stop(engine: Any) -> None:
    """End vLLM's processes: hidden states are read on the same GPU afterwards."""
    core: Any = getattr(getattr(engine, "llm_engine", None), "engine_core", None)
    if hasattr(core, "shutdown"):
        core.shutdown()
    gc.collect()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
