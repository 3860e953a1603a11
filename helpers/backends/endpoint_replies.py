"""An endpoint's reply, checked: OpenAI's format, vLLM's additions to it, and llama.cpp's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOKEN_ID = "token_id:"
FINISH = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
}
"""What servers say of an end, and which of the two it was."""


class BadReply(Exception):
    """A reply that is not what a completions endpoint sends; another may be better."""


@dataclass(frozen=True)
class Logprobs:
    """What a reply says of each generated token."""

    pieces: tuple[str, ...]
    """The tokens' texts, or "token_id:17"."""
    ids: tuple[int, ...] | None
    """Where the server gives them here."""
    sampled: tuple[float, ...]
    """Nats."""
    listed: tuple[tuple[float, ...], ...] | None
    """Log-probabilities of the most likely tokens, nats; None where they are not given."""
    distinct: bool
    """No two tokens of a list can have shared an entry."""


@dataclass(frozen=True)
class Reply:
    """One completion."""

    text: str
    finish_reason: str
    """"stop" or "length"."""
    model: str
    token_ids: tuple[int, ...] | None
    logprobs: Logprobs | None
    prompt_tokens: int | None
    """As the server counts them."""


def read_reply(payload: Any, *, may_be_empty: bool = False) -> Reply:
    """Check a reply's JSON; an empty text needs a token that was generated, unless it may be.

    Raises `BadReply` with what is wrong with it.
    """
    choice = _first_choice(payload)
    text = choice.get("text")
    if not isinstance(text, str):
        raise BadReply(f"its choice has no text ({type(text).__name__})")
    reason = choice.get("finish_reason")
    finish = FINISH.get(reason) if isinstance(reason, str) else None
    if finish is None:
        raise BadReply(f"its finish_reason is {reason!r}, neither 'stop' nor 'length'")
    ids = choice.get("token_ids")
    if ids is not None and not _all_whole(ids):
        raise BadReply("its token_ids are not whole numbers")
    usage = payload.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    if not (text or ids or may_be_empty) and not _count(usage.get("completion_tokens")):
        raise BadReply("its text is empty, and no token was generated")
    model = payload.get("model")
    return Reply(
        text=text,
        finish_reason=finish,
        model=model if isinstance(model, str) else "",
        token_ids=tuple(ids) if ids else None,
        logprobs=_read_logprobs(choice.get("logprobs")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
    )


def error_message(payload: Any, body: str) -> str:
    """What an error reply says, in whichever of the usual fields."""
    if isinstance(payload, dict):
        inner = payload.get("error", payload)
        if isinstance(inner, str):
            return inner
        if isinstance(inner, dict):
            for name in ("message", "detail"):
                if inner.get(name):
                    return str(inner[name])
    return body


def _first_choice(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise BadReply("it is no JSON object")
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        said = error_message(payload, "") if "choices" not in payload else ""
        raise BadReply("it has no choices" + (f" ({said})" if said else ""))
    return choices[0]


def _read_logprobs(given: Any) -> Logprobs | None:
    if not isinstance(given, dict):
        return None
    if isinstance(given.get("content"), list):
        return _read_content(given["content"])
    pieces, sampled = given.get("tokens"), given.get("token_logprobs")
    if not pieces or not sampled or (isinstance(sampled, list) and None in sampled):
        return None
    if not _all_texts(pieces) or not _all_numbers(sampled) or len(pieces) != len(sampled):
        raise BadReply("its logprobs are not one number for each token")
    tops = given.get("top_logprobs")
    if not isinstance(tops, list) or len(tops) != len(pieces):
        tops = []
    rows = [tuple(top.values()) if isinstance(top, dict) else () for top in tops]
    keys = [key for top in tops if isinstance(top, dict) for key in top]
    by_id = all(piece.startswith(TOKEN_ID) for piece in (*pieces, *keys))
    return Logprobs(
        pieces=tuple(pieces),
        ids=_numbered(pieces) if by_id else None,
        sampled=tuple(float(x) for x in sampled),
        listed=_checked_rows(rows),
        distinct=by_id,
    )


def _read_content(content: list[Any]) -> Logprobs | None:
    """llama.cpp's form, which is that of chat completions: one object a token."""
    if not content:
        return None
    if not all(isinstance(c, dict) and isinstance(c.get("token"), str) for c in content):
        raise BadReply("its logprobs do not name their tokens")
    sampled = [c.get("logprob") for c in content]
    if not _all_numbers(sampled):
        raise BadReply("its logprobs are not one number for each token")
    ids = [c.get("id") for c in content]
    tops = [c.get("top_logprobs") for c in content]
    rows = [
        tuple(t.get("logprob") for t in top if isinstance(t, dict)) if isinstance(top, list) else ()
        for top in tops
    ]
    return Logprobs(
        pieces=tuple(c["token"] for c in content),
        ids=tuple(ids) if _all_whole(ids) else None,
        sampled=tuple(float(x) for x in sampled),
        listed=_checked_rows(rows),
        distinct=True,  # a list, not a dictionary by text
    )


def _checked_rows(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[float, ...], ...] | None:
    if not rows or not all(row and _all_numbers(row) for row in rows):
        return None
    return tuple(tuple(float(x) for x in row) for row in rows)


def _numbered(pieces: Sequence[str]) -> tuple[int, ...] | None:
    numbers = [piece.removeprefix(TOKEN_ID) for piece in pieces]
    return tuple(int(n) for n in numbers) if all(n.isdecimal() for n in numbers) else None


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value > 0 else None


def _all_whole(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values
    )


def _all_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)


def _all_numbers(values: Any) -> bool:
    """Finite, and no more than 0 but for rounding: these are log-probabilities."""
    return isinstance(values, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and v <= 1e-3
        for v in values
    )
