"""Named places in a sequence of tokens: functions that find them, and spans found from a text.

    tbg                 the last prompt token, before anything is generated
    answer_last         the last generated token that does not end the sequence
    answer_second_last  the one before it
    answer_mean         mean over all generated tokens that do not end the sequence
    think_end           the token that closes the thinking, the last one where there are several

Where an answer is too short to have a position, the nearest earlier token stands in. A sequence
may name spans of its own (`TokenSequence.spans`), such as a word's last token or a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.errors import UserError
from helpers.models.forwards import Span, TokenSequence
from helpers.models.loading import LanguageModel
from helpers.models.tokens import TokenisedText


@dataclass(frozen=True)
class Place:
    """Tokens [start, end) of prompt and answer together; states of several are averaged."""

    start: int
    end: int
    stands_in: bool = False
    """Whether the position does not exist, and an earlier token is given for it."""


Position = Callable[[LanguageModel, TokenSequence], Place]
"""Finds a place in a sequence."""


def tbg(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The last prompt token."""
    n_prompt = len(sequence.prompt_ids)
    return Place(n_prompt - 1, n_prompt)


def answer_last(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The last answer token that does not end the sequence; else the last prompt token."""
    end = _answer_end(lm, sequence)
    return Place(end - 1, end, stands_in=end == len(sequence.prompt_ids))


def answer_second_last(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The token before `answer_last`; the last prompt token where the answer is shorter."""
    n_prompt, end = len(sequence.prompt_ids), _answer_end(lm, sequence)
    at = max(n_prompt - 1, end - 2)
    return Place(at, at + 1, stands_in=end < n_prompt + 2)


def answer_mean(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """All answer tokens that do not end the sequence; else the last prompt token."""
    n_prompt, end = len(sequence.prompt_ids), _answer_end(lm, sequence)
    return Place(min(n_prompt, end - 1), end, stands_in=end == n_prompt)


def think_end(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The last generated `</think>`; `answer_last` where the thinking never closes.

    Raises `UserError` where the tokenizer has no such token.
    """
    token = think_end_id(lm.tokenizer)
    if token is None:
        raise UserError(
            f"position think_end: the tokenizer of {lm.identity.name!r} has no </think> "
            "token; use --positions tbg answer_last"
        )
    end = _answer_end(lm, sequence)
    answer = sequence.answer_ids[: end - len(sequence.prompt_ids)]
    if token not in answer:
        return Place(end - 1, end, stands_in=True)
    end -= answer[::-1].index(token)
    return Place(end - 1, end)


POSITIONS: Mapping[str, Position] = {
    "tbg": tbg,
    "answer_last": answer_last,
    "answer_second_last": answer_second_last,
    "answer_mean": answer_mean,
    "think_end": think_end,
}


def find_place(lm: LanguageModel, sequence: TokenSequence, position: str) -> Place:
    """Where a position of a sequence is: its own span of that name, or what the function finds.

    Raises ValueError for a name that neither knows and for a span outside of the sequence, and
    `UserError` when `think_end` is asked of a tokenizer without thinking tags.
    """
    if position not in sequence.spans:
        if position not in POSITIONS:
            raise ValueError(f"unknown position {position!r}")
        return POSITIONS[position](lm, sequence)
    start, end = sequence.spans[position]
    if not 0 <= start < end <= len(sequence):
        raise ValueError(
            f"position {position!r}: tokens [{start}, {end}) of a sequence of {len(sequence)}"
        )
    return Place(start, end)


def think_end_id(tokenizer: Any) -> int | None:
    """The id of `</think>`, or None when the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids("</think>")
    return None if token is None or token == tokenizer.unk_token_id else int(token)


def _answer_end(lm: LanguageModel, sequence: TokenSequence) -> int:
    """The end of prompt and answer without the tokens that end the sequence."""
    end = len(sequence)
    while end > len(sequence.prompt_ids) and (
        sequence.answer_ids[end - len(sequence.prompt_ids) - 1] in lm.end_ids
    ):
        end -= 1
    return end


# --- spans of a text -----------------------------------------------------------------------------


def text_span(text: TokenisedText, start: int, end: int) -> Span:
    """The tokens that cover any of the characters [start, end) of a text, such as a sentence's.

    Raises ValueError where no token does.
    """
    covering = [i for i, (a, b) in enumerate(text.offsets) if max(a, start) < min(b, end)]
    if not covering:
        raise ValueError(f"no token covers characters [{start}, {end}) of {text.text[:40]!r} …")
    return covering[0], covering[-1] + 1


def last_subtoken(text: TokenisedText, start: int, end: int) -> Span:
    """The one token that ends a word, the characters [start, end) of a text.

    A character of several bytes may be several tokens: it is the last of them. Raises ValueError
    where no token covers the word.
    """
    after = text_span(text, start, end)[1]
    return after - 1, after
