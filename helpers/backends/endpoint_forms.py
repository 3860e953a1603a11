"""What a request holds, from all that helps to what every server understands.

The prompt goes as token ids: so no server can add special tokens that the chat template has put
in already, and what it reads is what hidden states are read of later. A server that takes only
text gets the rendered prompt and, where it knows the field, `add_special_tokens=False`.

Fields beyond OpenAI's are asked for because their absence changes results: without `top_k=-1` and
`min_p=0`, vLLM applies the checkpoint's own top-k, and llama.cpp its own min-p.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from helpers.backends.model_tokens import ModelTokens
from helpers.backends.record import Asked, sample_seed
from helpers.sampling import GREEDY, Decoding

TOP_K = 20
"""Log-probabilities asked for at each token: as many as vLLM's server gives by default."""
OPENAI_TOP_K = 5
"""As many as OpenAI's reference allows."""
EXTRAS: dict[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "skip_special_tokens": False,
    "add_special_tokens": False,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
"""Known to vLLM (all), SGLang (but for the last three) and llama.cpp (the first two)."""
_LIMIT = re.compile(r"logprobs?\b.*(max|most|exceed|great|less|support|between|must)")
_CONTEXT = re.compile(
    r"context[ _](length|size|window)|maximum model length|model'?s (maximum )?context"
    r"|too long to fit|prompt is too long|maximum sequence length",
    re.IGNORECASE,
)
_LENGTH = re.compile(r"(?:context|model)[ _](?:length|size|window)\D{0,12}(\d[\d,]*)", re.I)


@dataclass(frozen=True)
class Form:
    """Which fields a server has turned out to understand."""

    ids: bool = True
    """The prompt as token ids; otherwise as text."""
    extras: bool = True
    """`EXTRAS`."""
    settings: bool = False
    """`generation_config`, which `transformers serve` needs to sample at all."""
    logprobs: int = TOP_K


def plainer(form: Form, message: str) -> Form | None:
    """The form to try after a refusal (HTTP 400 or 422); None when there is no plainer one."""
    said = message.lower()
    if form.logprobs and _LIMIT.search(said):
        return replace(form, logprobs=OPENAI_TOP_K if form.logprobs > OPENAI_TOP_K else 0)
    if form.ids and "prompt" in said and "str" in said:
        return replace(form, ids=False, settings=not form.extras)
    if form.extras:
        return replace(form, extras=False, settings=not form.ids)
    if form.ids:
        return replace(form, ids=False, settings=True)
    if form.settings:
        return replace(form, settings=False)
    if form.logprobs:
        return replace(form, logprobs=0)
    return None


def body(
    form: Form,
    model: ModelTokens,
    served_name: str,
    asked: Asked,
    sample_id: int,
    decoding: Decoding,
    max_tokens: int,
) -> dict[str, Any]:
    """The request for one sample; its seed depends on nothing but (seed, question, sample)."""
    greedy = sample_id == GREEDY
    fields: dict[str, Any] = {
        "model": served_name,
        "prompt": list(asked.prompt_ids) if form.ids else prompt_text(form, model, asked),
        "max_tokens": max_tokens,
        "temperature": 0.0 if greedy else decoding.temperature,
        "top_p": 1.0 if greedy else decoding.top_p,
        "seed": sample_seed(decoding.seed, asked.question_id, sample_id),
    }
    if decoding.stop:
        fields["stop"] = list(decoding.stop)
    if form.logprobs:
        fields["logprobs"] = form.logprobs
    if form.extras:
        fields |= EXTRAS
    if form.settings:
        fields["generation_config"] = _settings(model, greedy, decoding, max_tokens)
    return fields


def prompt_text(form: Form, model: ModelTokens, asked: Asked) -> str:
    """The prompt for a server that tokenizes it: without what that server adds itself."""
    begin = model.tokenizer.bos_token
    if form.extras or not begin or not asked.prompt.startswith(begin):
        return asked.prompt
    bare = asked.prompt.removeprefix(begin)
    read = tuple(model.tokenizer(bare)["input_ids"])
    return bare if read == asked.prompt_ids else asked.prompt


def _settings(model: ModelTokens, greedy: bool, decoding: Decoding, max_tokens: int) -> str:
    """transformers' `GenerationConfig`: without it, a checkpoint's own decides how to sample."""
    ends = sorted(model.end_ids)
    drawn: dict[str, Any] = {"do_sample": False}
    if not greedy:
        drawn = {
            "do_sample": True,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": 0,
        }
    ending = {"eos_token_id": ends, "pad_token_id": ends[0]} if ends else {}
    return json.dumps({"max_new_tokens": max_tokens, **ending, **drawn})


def is_about_context(message: str) -> bool:
    """Whether a refusal says that prompt and answer do not fit into the model's context."""
    return bool(_CONTEXT.search(message))


def named_context(message: str) -> int | None:
    """The context, in tokens, that such a refusal names."""
    found = _LENGTH.search(message)
    return int(found.group(1).replace(",", "")) if found else None
