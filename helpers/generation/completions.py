"""What is asked of a completions endpoint, and what its responses say.

Servers differ: vLLM adds token ids to OpenAI's format, llama.cpp gives log-probabilities as chat
completions do, and some refuse fields that they do not know.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from helpers.errors import UserError
from helpers.generation.records import GREEDY, Decoding, Request, Sample, rounded, sample_seed
from helpers.generation.vllm import bounds_of_listed
from helpers.models.tokens import ModelTokens, cut, ids_of_pieces, ids_of_text, same_text, text_of

# --- requests ------------------------------------------------------------------------------------


TOP_K = 20  # log-probabilities asked for at each token: as many as vLLM's server gives by default
OPENAI_TOP_K = 5  # as many as OpenAI's reference allows
EXTRAS: dict[str, Any] = {
    # Without these two, vLLM applies the checkpoint's own top-k, and llama.cpp its own min-p.
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "skip_special_tokens": False,
    "add_special_tokens": False,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
"""Known to vLLM (all), SGLang (but for the last three) and llama.cpp (the first two)."""
ID_PREFIX = "token_id:"  # of a token that vLLM names by its id instead of its text
FINISH_REASONS = {
    "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "max_tokens": "length",
}  # fmt: skip
"""Other servers' names for OpenAI's two."""
ROUNDING = 1e-3  # how far above 0 rounding may put a log-probability
_TOO_MANY_LOGPROBS = re.compile(r"logprobs?\b.*(max|most|exceed|great|less|support|between|must)")


@dataclass(frozen=True)
class RequestFormat:
    """Which fields of a request a server takes."""

    token_ids: bool = True
    """The prompt as token ids: so no server can add special tokens that the chat template has put
    in already, and what it reads is what hidden states are read of later. Otherwise as text."""
    extras: bool = True
    """`EXTRAS`."""
    generation_config: bool = False
    """The field that `transformers serve` needs to sample at all."""
    logprobs: int = TOP_K


def simpler_format(form: RequestFormat, message: str) -> RequestFormat | None:
    """The format to try after a refusal (HTTP 400 or 422); None when there is no simpler one."""
    said = message.lower()
    if form.logprobs and _TOO_MANY_LOGPROBS.search(said):
        return replace(form, logprobs=OPENAI_TOP_K if form.logprobs > OPENAI_TOP_K else 0)
    if form.token_ids and "prompt" in said and "str" in said:
        return replace(form, token_ids=False, generation_config=not form.extras)
    if form.extras:
        return replace(form, extras=False, generation_config=not form.token_ids)
    if form.token_ids:
        return replace(form, token_ids=False, generation_config=True)
    if form.generation_config:
        return replace(form, generation_config=False)
    return replace(form, logprobs=0) if form.logprobs else None


def request_fields(
    form: RequestFormat,
    model: ModelTokens,
    request: Request,
    sample_id: int,
    decoding: Decoding,
    max_tokens: int,
) -> dict[str, Any]:
    """The fields for one sample; its seed depends on nothing but (seed, question, sample)."""
    greedy = sample_id == GREEDY
    prompt = list(request.prompt_ids) if form.token_ids else _prompt_text(form, model, request)
    fields: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.0 if greedy else decoding.temperature,
        "top_p": 1.0 if greedy else decoding.top_p,
        "seed": sample_seed(decoding.seed, request.question_id, sample_id),
    }
    if decoding.stop:
        fields["stop"] = list(decoding.stop)
    if form.logprobs:
        fields["logprobs"] = form.logprobs
    extras = dict(EXTRAS) if form.extras else {}
    if form.generation_config:
        # Without transformers' `GenerationConfig`, the checkpoint's own decides how to sample.
        settings: dict[str, Any] = {"max_new_tokens": max_tokens, "do_sample": not greedy}
        if ends := sorted(model.end_ids):
            settings |= {"eos_token_id": ends, "pad_token_id": ends[0]}
        if not greedy:
            drawn = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
            settings |= drawn
        extras["generation_config"] = json.dumps(settings)
    return fields | {"extra_body": extras}


def _prompt_text(form: RequestFormat, model: ModelTokens, request: Request) -> str:
    """The prompt for a server that tokenizes it: what that server adds itself is left out.

    Told so (`EXTRAS`), it adds nothing, and the begin token has to stand in the text.
    """
    begin = model.tokenizer.bos_token or ""
    text = request.prompt or str(model.tokenizer.decode(list(request.prompt_ids)))
    for same in (text, text.removeprefix(begin), begin + text):
        read = model.tokenizer(same, add_special_tokens=not form.extras)["input_ids"]
        if tuple(read) == request.prompt_ids:
            return same
    return text


# --- responses -----------------------------------------------------------------------------------

TokenId = Annotated[int, Field(ge=0)]
Logprob = Annotated[float, Field(le=ROUNDING, allow_inf_nan=False)]
FinishReason = Annotated[
    Literal["stop", "length"],
    BeforeValidator(lambda name: FINISH_REASONS.get(name, name) if isinstance(name, str) else name),
]


class MalformedResponse(Exception):
    """A response that is not what a completions endpoint sends; another may be better."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class ListedToken(_Strict):
    """One of the most likely tokens, as llama.cpp gives it."""

    logprob: float | None = None


class ContentToken(_Strict):
    """A generated token, as llama.cpp gives it."""

    token: str
    id: TokenId | None = None
    logprob: Logprob
    top_logprobs: list[ListedToken] | None = None


class Logprobs(_Strict):
    """Log-probabilities in OpenAI's form, or in llama.cpp's (`content`)."""

    tokens: list[str] | None = None
    token_logprobs: list[Logprob | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None
    content: list[ContentToken] | None = None

    @model_validator(mode="after")
    def _one_for_each_token(self) -> Logprobs:
        if self.tokens and self.token_logprobs and len(self.tokens) != len(self.token_logprobs):
            raise ValueError("not one number for each token")
        return self


class Choice(_Strict):
    """One completion."""

    text: str
    finish_reason: FinishReason
    token_ids: list[TokenId] | None = None
    logprobs: Logprobs | None = None


class Usage(_Strict):
    """Tokens as the server counts them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class CompletionResponse(_Strict):
    """What is read of a response."""

    model: str | None = None
    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Usage | None = None


class ServedModel(_Strict):
    """An entry of an endpoint's list of models."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None


class ServedModels(_Strict):
    """An endpoint's list of models."""

    data: list[ServedModel]


@dataclass(frozen=True)
class TokenLogprobs:
    """What a response says of each of n generated tokens; log-probabilities in nats."""

    pieces: tuple[str, ...]
    """`[n]`, the tokens' texts."""
    ids: tuple[int, ...] | None
    """`[n]`, where the server gives them here."""
    sampled: tuple[float, ...]
    """`[n]`"""
    listed: tuple[tuple[float, ...], ...] | None
    """`[n][…]`, of the most likely tokens; None where they are not given."""
    distinct: bool
    """No two tokens of a list can have shared an entry."""


def parse_response(text: str, *, may_be_empty: bool = False) -> CompletionResponse:
    """Check a response's JSON; an empty text needs a token that was generated, unless it may be.

    Raises `MalformedResponse` with what is wrong with it.
    """
    try:
        response = CompletionResponse.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "JSON"
        raise MalformedResponse(f"{place}: {first['msg']}: {str(first['input'])[:200]}") from None
    choice, usage = response.choices[0], response.usage or Usage()
    if not (choice.text or choice.token_ids or usage.completion_tokens or may_be_empty):
        raise MalformedResponse("its text is empty, and no token was generated")
    return response


def token_logprobs(given: Logprobs | None) -> TokenLogprobs | None:
    """The log-probabilities of the generated tokens; None where they are not all given."""
    if given is None:
        return None
    if given.content:
        ids = [token.id for token in given.content if token.id is not None]
        return TokenLogprobs(
            pieces=tuple(token.token for token in given.content),
            ids=tuple(ids) if len(ids) == len(given.content) else None,
            sampled=tuple(token.logprob for token in given.content),
            listed=_known([t.logprob for t in token.top_logprobs or ()] for token in given.content),
            distinct=True,  # a list, not a dictionary by text
        )
    if not given.tokens or not given.token_logprobs or None in given.token_logprobs:
        return None
    tables = given.top_logprobs or []
    names = [*given.tokens, *(name for table in tables for name in table or ())]
    by_id = all(n.startswith(ID_PREFIX) and n[len(ID_PREFIX) :].isdecimal() for n in names)
    whole = len(tables) == len(given.tokens)
    return TokenLogprobs(
        pieces=tuple(given.tokens),
        ids=tuple(int(t.removeprefix(ID_PREFIX)) for t in given.tokens) if by_id else None,
        sampled=tuple(x for x in given.token_logprobs if x is not None),
        listed=_known((table or {}).values() for table in tables) if whole else None,
        distinct=by_id,
    )


def _known(rows: Iterable[Iterable[float | None]]) -> tuple[tuple[float, ...], ...] | None:
    """The rows, if each holds log-probabilities and nothing else."""
    known = []
    for row in map(tuple, rows):
        numbers = tuple(x for x in row if x is not None and math.isfinite(x) and x <= ROUNDING)
        if not row or len(numbers) < len(row):
            return None
        known.append(numbers)
    return tuple(known)


def make_sample(
    response: CompletionResponse,
    model: ModelTokens,
    request: Request,
    sample_id: int,
    decoding: Decoding,
    *,
    k: int,
    untempered: bool,
) -> Sample:
    """The sample of a response; `k` log-probabilities were asked for at each token.

    Log-probabilities are kept where there is one for each token id and they are `untempered`.
    Raises `UserError` when the tokens or the prompt's length are those of another tokenizer.
    """
    counted, length = response.usage and response.usage.prompt_tokens, len(request.prompt_ids)
    if counted and counted != length:
        raise UserError(
            f"the endpoint read the prompt of question {request.question_id} as {counted} tokens, "
            f"and the tokenizer of {model.name!r} makes {length} of it: it serves another model, "
            "or adds special tokens to a prompt that has them already; name the model that it "
            "serves as --model, or use a server that takes token ids (vLLM does)"
        )
    choice = response.choices[0]
    given = token_logprobs(choice.logprobs)
    exact = _generated_ids(choice, given, model, request, decoding.stop)
    ids = ids_of_text(model, choice.text) if exact is None else exact
    whole = choice.text if exact is None else text_of(model, ids)
    text = cut(whole, decoding.stop)
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    if given and untempered and exact is not None and len(given.sampled) == len(ids):
        logprobs = rounded(given.sampled)
        if given.listed:
            bounds = bounds_of_listed(given.listed, given.sampled, k, distinct=given.distinct)
            entropies = rounded(bounds)
    return Sample(
        question_id=request.question_id,
        sample_id=sample_id,
        text=text.strip(),
        token_ids=ids,
        token_logprobs=logprobs,
        token_entropies=entropies,
        finish_reason="stop" if text != whole else choice.finish_reason,
        entropy_kind="top-k" if entropies else "none",
        retokenised=exact is None,
        served_model=response.model or "",
    )


def _generated_ids(
    choice: Choice,
    given: TokenLogprobs | None,
    model: ModelTokens,
    request: Request,
    stop: Sequence[str],
) -> tuple[int, ...] | None:
    """The ids that the server gives, or those of its tokens' texts; None where neither is known."""
    if choice.token_ids:
        if same_text(model, choice.token_ids, choice.text, stop):
            return tuple(choice.token_ids)
        raise UserError(
            f"the endpoint's token ids for question {request.question_id} are not those of its "
            f"text in the tokenizer of {model.name!r}: it serves another model; name the one "
            "that it serves as --model, so that hidden states are read from the same one"
        )
    if given is None:
        return None
    if given.ids is None:
        return ids_of_pieces(model, given.pieces, choice.text)
    return given.ids if same_text(model, given.ids, choice.text, stop) else None
