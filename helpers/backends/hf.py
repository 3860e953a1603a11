"""Generation by transformers in this process: exact, resumable, entropies over the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from helpers.backends.model_tokens import model_tokens
from helpers.backends.record import Asked, Backend, Generated, too_long
from helpers.models import load_language_model, pick_device
from helpers.sampling import Decoding, Request, Sample, generate

if TYPE_CHECKING:
    from helpers.studies.reasoning.config import ReasoningConfig


def open_hf(config: ReasoningConfig) -> Backend:
    """`helpers.sampling.generate` as a backend."""
    device = pick_device(config.device)
    dtype = _number_type(config, device)

    def run(asked: Sequence[Asked], decoding: Decoding) -> Iterator[list[Generated]]:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        full = [a for a in asked if len(a.prompt_ids) >= lm.context]
        if full:
            yield [sample for a in full for sample in too_long(a)]
        requests = [
            Request(a.question_id, a.prompt_ids, a.sample_ids)
            for a in asked
            if len(a.prompt_ids) < lm.context and a.sample_ids
        ]
        for batch in generate(lm, requests, decoding, batch_size=config.batch_size):
            yield [_generated(sample) for sample in batch]

    def describe() -> dict[str, Any]:
        versions = {name: version(name) for name in ("torch", "transformers")}
        return {"backend": "hf", "versions": versions, "device": device, "dtype": dtype}

    return Backend(name="hf", generate=run, promise=_promise(dtype), describe=describe)


def _number_type(config: ReasoningConfig, device: str) -> str:
    """What the model is loaded in: `helpers.models` decides the same."""
    if config.dtype != "auto":
        return config.dtype
    return model_tokens(config.model).dtype if device.startswith("cuda") else "float32"


def _promise(dtype: str) -> str:
    if dtype in ("float32", "float64"):
        return ""  # choices that rounding could change are settled by a forward of their row alone
    return (
        f"in {dtype}, batches of another size may, rarely, choose another token where two are "
        "about as likely"
    )


def _generated(sample: Sample) -> Generated:
    return Generated(
        question_id=sample.question_id,
        sample_id=sample.sample_id,
        text=sample.text,
        token_ids=sample.token_ids,
        token_logprobs=sample.token_logprobs,
        token_entropies=sample.token_entropies,
        entropy_kind="full",
        finish_reason=sample.finish_reason,
    )
