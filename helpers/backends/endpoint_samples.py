"""From an endpoint's reply to a sample: its token ids, log-probabilities and entropies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.backends.endpoint_replies import Reply
from helpers.backends.entropy_bounds import bounds_of_listed
from helpers.backends.model_tokens import (
    ModelTokens,
    cut,
    ids_of_pieces,
    ids_of_text,
    same_text,
    text_of,
)
from helpers.backends.record import Asked, Generated, rounded
from helpers.errors import UserError
from helpers.sampling import Decoding


@dataclass(frozen=True)
class _Tokens:
    ids: tuple[int, ...]
    retokenised: bool


def read_sample(
    reply: Reply,
    model: ModelTokens,
    asked: Asked,
    sample_id: int,
    decoding: Decoding,
    *,
    k: int,
    untempered: bool,
) -> Generated:
    """The sample of a reply; `k` log-probabilities were asked for at each token.

    Log-probabilities are kept where there is one for each token id and they are `untempered`.
    Raises `UserError` when the tokens or the prompt's length are those of another tokenizer.
    """
    _check_prompt(reply, model, asked)
    tokens = _tokens(reply, model, asked, decoding.stop)
    whole = reply.text if tokens.retokenised else text_of(model, tokens.ids)
    text = cut(whole, decoding.stop)
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    given = reply.logprobs
    if given and untempered and len(given.sampled) == len(tokens.ids) and not tokens.retokenised:
        logprobs = rounded(given.sampled)
        if given.listed:
            bounds = bounds_of_listed(given.listed, given.sampled, k, distinct=given.distinct)
            entropies = rounded(bounds)
    return Generated(
        question_id=asked.question_id,
        sample_id=sample_id,
        text=text.strip(),
        token_ids=tokens.ids,
        token_logprobs=logprobs,
        token_entropies=entropies,
        entropy_kind="top-k" if entropies else "none",
        finish_reason="stop" if text != whole else reply.finish_reason,
        retokenised=tokens.retokenised,
        served_model=reply.model,
    )


def _tokens(reply: Reply, model: ModelTokens, asked: Asked, stop: Sequence[str]) -> _Tokens:
    """The ids that the server gives, or those of its tokens' texts, or those of the text."""
    if reply.token_ids is not None:
        if not same_text(model, reply.token_ids, reply.text, stop):
            raise UserError(
                f"the endpoint's token ids for question {asked.question_id} are not those of its "
                f"text in the tokenizer of {model.name!r}: it serves another model; name the one "
                "that it serves as --model, so that hidden states are read from the same one"
            )
        return _Tokens(reply.token_ids, False)
    given = reply.logprobs
    if given and given.ids is not None and same_text(model, given.ids, reply.text, stop):
        return _Tokens(given.ids, False)
    if given and given.ids is None:
        ids = ids_of_pieces(model, given.pieces, reply.text)
        if ids is not None:
            return _Tokens(ids, False)
    return _Tokens(ids_of_text(model, reply.text), True)


def _check_prompt(reply: Reply, model: ModelTokens, asked: Asked) -> None:
    if reply.prompt_tokens in (None, len(asked.prompt_ids)):
        return
    raise UserError(
        f"the endpoint read the prompt of question {asked.question_id} as {reply.prompt_tokens} "
        f"tokens, and the tokenizer of {model.name!r} makes {len(asked.prompt_ids)} of it: it "
        "serves another model, or adds special tokens to a prompt that has them already; name "
        "the model that it serves as --model, or use a server that takes token ids (vLLM does)"
    )
