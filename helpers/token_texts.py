"""The text of each token of an answer, by the tokenizer of the run's model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers.errors import UserError
from helpers.models import KNOWN_AS, ModelIdentity, identify, load_tokenizer
from helpers.open_run import AnyRun

Decode = Callable[[Sequence[int]], list[str]]
"""Token ids to the text of each; the texts together are the text of all."""
BLOCK, CONTEXT = 32, 4
"""Tokens whose texts are found together, and those before them that are read too."""


def decoder(run: AnyRun) -> Decode:
    """What gives the text of each token of an answer, from the tokenizer of the run's model.

    No weights are loaded and nothing is fetched. Raises `UserError` when the tokenizer is not on
    this machine, or is not the one that the run used.
    """
    identity = _stored_identity(run.config.model)
    used = run.manifest.get("hashes", {}).get("tokenizer_hash")
    if used not in (None, identity.tokenizer_hash):
        raise UserError(
            f"the tokenizer of {identity.name!r} in {identity.folder} is another than this run "
            "used, so the texts of its tokens are not shown"
        )
    return partial(token_texts, load_tokenizer(identity))


def _stored_identity(name: str) -> ModelIdentity:
    """Identify a model only where that fetches nothing: looking at a run is no reason to."""
    hub_name = KNOWN_AS.get(name, name)
    try:
        from helpers.hub import stored_model

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
    alone = _each_alone(tokenizer, tokens)
    if "".join(alone) == whole and "\ufffd" not in whole:
        return alone  # as in most byte-level vocabularies, where no token has to do with another
    blocks = [text for block in _blocks(tokenizer, tokens) for text in block]
    return blocks if "".join(blocks) == whole else _by_prefixes(tokenizer, tokens)


def _each_alone(tokenizer: Any, tokens: list[int]) -> list[str]:
    unique = sorted(set(tokens))
    decode = partial(tokenizer.decode, skip_special_tokens=False)
    texts = {token: decode([token]) for token in unique}
    return [texts[token] for token in tokens]


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
