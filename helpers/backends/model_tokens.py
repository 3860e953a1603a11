"""A model's tokenizer, context and end tokens, read from its folder without its weights."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from helpers.errors import UserError
from helpers.hub_client import first_line
from helpers.models import ModelIdentity, identify, load_tokenizer

END_THINK = "</think>"


@dataclass(frozen=True)
class ModelTokens:
    """How a model's texts and tokens belong together."""

    name: str
    tokenizer: Any
    context: float
    """Longest prompt and answer together, in tokens."""
    end_ids: frozenset[int]
    """Tokens that end an answer."""
    dtype: str
    """The number type that the weights are stored in, such as "bfloat16"."""


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
