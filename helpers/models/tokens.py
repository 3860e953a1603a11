"""A model's tokenizer, context and end tokens, and the text of each token; without its weights."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers.errors import UserError
from helpers.models.loading import KNOWN_AS, ModelIdentity, identify, load_tokenizer
from helpers.store.hub import first_line

END_THINK = "</think>"


@dataclass(frozen=True)
class ModelTokens:
    """How a model's texts and tokens belong together."""

    name: str
    tokenizer: Any
    context: float  # longest prompt and answer together, in tokens
    end_ids: frozenset[int]  # tokens that end an answer
    dtype: str  # the number type that the weights are stored in, such as "bfloat16"


def model_tokens(name: str) -> ModelTokens:
    """Read them from the folder of a model, which is fetched where it is not here.

    Raises `UserError` when there is no such model.
    """
    return _model_tokens(identify(name))


@lru_cache(maxsize=4)
def _model_tokens(identity: ModelIdentity) -> ModelTokens:
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(identity.folder, local_files_only=True)
        if (identity.folder / "generation_config.json").is_file():
            ending = GenerationConfig.from_pretrained(identity.folder, local_files_only=True)
        else:
            ending = GenerationConfig.from_model_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{identity.name!r} in {identity.folder}: its config cannot be read "
            f"({first_line(error)}); check that the folder is complete"
        ) from error
    text, ends = config.get_text_config(), ending.eos_token_id
    tokenizer = load_tokenizer(identity)
    every = {ends} if isinstance(ends, int) else set(ends or ())
    return ModelTokens(
        name=identity.name,
        tokenizer=tokenizer,
        context=getattr(text, "max_position_embeddings", None) or float("inf"),
        end_ids=frozenset(every | {tokenizer.eos_token_id} - {None}),
        dtype=str(config.dtype or "float32").removeprefix("torch."),
    )


def text_of(model: ModelTokens, ids: Sequence[int]) -> str:
    """The text of generated ids, special tokens included, without the end token."""
    shown = ids[:-1] if ids and ids[-1] in model.end_ids else ids
    return str(model.tokenizer.decode(list(shown), skip_special_tokens=False))


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop text."""
    ends = [at for at in (text.find(s) for s in stop) if at >= 0]
    return text[: min(ends)] if ends else text


def ids_of_text(model: ModelTokens, text: str) -> tuple[int, ...]:
    """Ids that give the text back.

    Raises `UserError` where the tokenizer has none, so that no text is traced that was not there.
    """
    ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    back = model.tokenizer.decode(list(ids), skip_special_tokens=False)
    if _plain(back) != _plain(text):
        raise UserError(
            f"the tokenizer of {model.name!r} does not give a generated text back "
            f"({text[:40]!r} … became {back[:40]!r} …), so its tokens cannot be known; use an "
            "endpoint that returns token ids (vLLM does), or --backend hf"
        )
    return ids


def ids_of_pieces(model: ModelTokens, pieces: Sequence[str], text: str) -> tuple[int, ...] | None:
    """The one id of each token's text; None where a piece has none, or they give another text."""
    ids: list[int] = []
    for piece in pieces:
        found = model.tokenizer(piece, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            return None
        ids.append(found[0])
    back = model.tokenizer.decode(ids, skip_special_tokens=False)
    ended = back if not ids or ids[-1] not in model.end_ids else text_of(model, ids)
    return tuple(ids) if text in (back, ended) else None


def same_text(model: ModelTokens, ids: Sequence[int], text: str, stop: Sequence[str]) -> bool:
    """Whether an endpoint's text is that of its ids, but for special tokens, spaces and halves.

    A text may be cut before a stop text, and the bytes of a last unfinished character may show
    as a replacement character, or not at all.
    """
    size = len(model.tokenizer)
    if any(not 0 <= i < size for i in ids):
        return False
    body = list(ids[:-1]) if ids and ids[-1] in model.end_ids else list(ids)
    given = _bare(cut(text, stop))
    kinds = (True, False)
    texts = [model.tokenizer.decode(body, skip_special_tokens=skip) for skip in kinds]
    return any(given == _bare(cut(own, stop)) for own in texts)


def loses_end_of_thinking(model: ModelTokens) -> bool:
    """Whether `</think>` is gone from texts without special tokens."""
    ids = model.tokenizer(END_THINK, add_special_tokens=False)["input_ids"]
    return END_THINK not in model.tokenizer.decode(ids, skip_special_tokens=True)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split()).rstrip("\ufffd")


@dataclass(frozen=True)
class TokenisedText:
    """A text, its tokens, and which characters each of them covers."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Characters [start, end) of each token, `[len(ids)]`; none, (0, 0), for one that the
    tokenizer adds, such as at the beginning. Tokens that share a character all cover it."""


def tokenise(tokenizer: Any, text: str, *, special_tokens: bool = True) -> TokenisedText:
    """Tokens with their offsets; `special_tokens`: with those that the tokenizer adds.

    Raises `UserError` for a tokenizer that knows no offsets.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} gives no offsets of its tokens, so no word "
            "is found in them; use a model whose folder has a tokenizer.json"
        )
    found = tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True)
    offsets = tuple((int(start), int(end)) for start, end in found["offset_mapping"])
    return TokenisedText(text, tuple(found["input_ids"]), offsets)


# --- the text of each token ----------------------------------------------------------------------


Decode = Callable[[Sequence[int]], list[str]]
"""Token ids to the text of each; the texts together are the text of all."""
BLOCK, CONTEXT = 32, 4
"""Tokens whose texts are found together, and those before them that are read too."""


def decoder(model: str, tokenizer_hash: str | None = None) -> Decode:
    """What gives the text of each token of an answer, from the tokenizer of a model.

    `tokenizer_hash` is that of the tokenizer which a run used, where it is known.

    No weights are loaded and nothing is fetched. Raises `UserError` when the tokenizer is not on
    this machine, or is not the one that the run used.
    """
    identity = _stored_identity(model)
    if tokenizer_hash not in (None, identity.tokenizer_hash):
        raise UserError(
            f"the tokenizer of {identity.name!r} in {identity.folder} is another than this run "
            "used, so the texts of its tokens are not shown"
        )
    return partial(token_texts, load_tokenizer(identity))


def _stored_identity(name: str) -> ModelIdentity:
    """Identify a model only where that fetches nothing: looking at a run is no reason to."""
    hub_name = KNOWN_AS.get(name, name)
    try:
        from helpers.store.hub import stored_model

        local = name == "lab" or Path(name).expanduser().exists()
        if not local and (hub_name.count("/") != 1 or stored_model(hub_name) is None):
            raise UserError(
                f"the texts of tokens need the tokenizer of {name!r}, which is not on this "
                f"machine; where it is a hub model, `hf download {hub_name}` brings it"
            )
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"the texts of tokens need {error.name}, which is not installed (this is the small "
            "install, for looking at results); `uv sync` installs everything"
        ) from error
    return identify(name)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, `[len(ids)]`; together they are the text of all.

    A character made of several tokens belongs to the last of them, and the others are "".
    """
    tokens = list(ids)
    if not tokens:
        return []
    whole = tokenizer.decode(tokens, skip_special_tokens=False)
    texts = {token: tokenizer.decode([token], skip_special_tokens=False) for token in set(tokens)}
    alone = [texts[token] for token in tokens]
    if "".join(alone) == whole and "\ufffd" not in whole:
        return alone  # as in most byte-level vocabularies, where no token has to do with another
    blocks = [text for block in _blocks(tokenizer, tokens) for text in block]
    return blocks if "".join(blocks) == whole else _by_prefixes(tokenizer, tokens)


def _blocks(tokenizer: Any, tokens: list[int]) -> Iterator[list[str]]:
    """The texts of some tokens at a time, each block read after the last tokens before it."""
    start = 0
    while start < len(tokens):
        first, end = max(0, start - CONTEXT), min(start + BLOCK, len(tokens))
        while end < len(tokens) and tokenizer.decode(tokens[first:end]).endswith("\ufffd"):
            end += 1  # a character is not cut in two
        yield _by_prefixes(tokenizer, tokens[first:end])[start - first :]
        start = end


def _by_prefixes(tokenizer: Any, tokens: list[int]) -> list[str]:
    """By how the text grows with each token; takes time that grows with their square."""
    whole = tokenizer.decode(tokens, skip_special_tokens=False)
    ends = [0]
    for count in range(1, len(tokens)):
        part = tokenizer.decode(tokens[:count], skip_special_tokens=False)
        end = ends[-1]
        while end < min(len(part), len(whole)) and part[end] == whole[end]:
            end += 1
        ends.append(end)
    return [whole[start:end] for start, end in pairwise([*ends, len(whole)])]
