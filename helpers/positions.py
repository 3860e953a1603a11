"""Named positions of a prompt with its answer, by exact token ids.

    tbg                 the last prompt token, before anything is generated
    answer_last         the last generated token that does not end the sequence
    answer_second_last  the one before it
    answer_mean         all generated tokens that do not end the sequence, of which one takes a mean
    think_end           the token that closes the thinking, the last one where there are several

Where an answer is too short to have a position, the nearest earlier token stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from helpers.errors import UserError
from helpers.models import LanguageModel


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and the answer generated to it, as token ids."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Places:
    """For one sequence: each position's span of token indices, and whether it stands in."""

    spans: tuple[tuple[int, int], ...]
    stands_in: tuple[bool, ...]


def find_places(lm: LanguageModel, sequence: TokenSequence, positions: Sequence[str]) -> Places:
    """Where the positions of a sequence are, in prompt and answer together.

    Raises `UserError` when `think_end` is asked of a tokenizer without thinking tags.
    """
    n_prompt = len(sequence.prompt_ids)
    answer = list(sequence.answer_ids)
    while answer and answer[-1] in lm.end_ids:
        answer.pop()
    last = n_prompt + len(answer) - 1
    spans, stands_in = [], []
    for position in positions:
        if position == "tbg":
            at, missing = n_prompt - 1, False
        elif position == "answer_last":
            at, missing = last, not answer
        elif position == "answer_second_last":
            at, missing = max(n_prompt - 1, last - 1), len(answer) < 2
        elif position == "answer_mean":
            spans.append((n_prompt, last + 1) if answer else (n_prompt - 1, n_prompt))
            stands_in.append(not answer)
            continue
        elif position == "think_end":
            token = think_end_id(lm.tokenizer)
            if token is None:
                raise UserError(
                    f"position think_end: the tokenizer of {lm.identity.name!r} has no </think> "
                    "token; use --positions tbg answer_last"
                )
            missing = token not in answer
            at = last if missing else n_prompt + len(answer) - 1 - answer[::-1].index(token)
        else:
            raise ValueError(f"unknown position {position!r}")
        spans.append((at, at + 1))
        stands_in.append(missing)
    return Places(tuple(spans), tuple(stands_in))


def token_span(lm: LanguageModel, sequence: TokenSequence, position: str) -> range:
    """The token indices, in prompt and answer together, that a position of a sequence covers."""
    return range(*find_places(lm, sequence, (position,)).spans[0])


def think_end_id(tokenizer: Any) -> int | None:
    """The id of `</think>`, or None when the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids("</think>")
    return None if token is None or token == tokenizer.unk_token_id else int(token)
