"""What is asked of a backend, what it gives, and what it promises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from helpers.sampling import Decoding

TOO_LONG = "too-long"
"""The `finish_reason` of a sample that was never begun: its prompt fills the context."""


@dataclass(frozen=True)
class Asked:
    """The samples wanted for one prompt."""

    question_id: str
    prompt: str
    """As the chat template rendered it, special tokens and all."""
    prompt_ids: tuple[int, ...]
    """The same as token ids, which is what the model is to read."""
    sample_ids: tuple[int, ...]
    """0 … K − 1; -1 asks for the most likely answer."""


@dataclass(frozen=True)
class Generated:
    """One sample, whoever generated it."""

    question_id: str
    sample_id: int
    text: str
    """With `<think>` and `</think>`, without the end token, cut before a stop text."""
    token_ids: tuple[int, ...]
    """As generated, the end token included, except where `retokenised`."""
    token_logprobs: tuple[float, ...]
    """Nats, of the untempered distribution, one a token; () where they are not known."""
    token_entropies: tuple[float, ...]
    """Nats, of the untempered distribution, one a token; () where they are not known."""
    entropy_kind: Literal["full", "top-k", "none"]
    """Over the full vocabulary; a lower bound from the k most likely tokens; not known."""
    finish_reason: str
    """"stop", "length", or `TOO_LONG`."""
    retokenised: bool = False
    """The ids were made from the text: others may have been generated, and the end token is not
    among them."""
    served_model: str = ""
    """The model's name in an endpoint's reply; "" for a model in this process."""


@dataclass(frozen=True)
class Backend:
    """One way to generate, opened for one config."""

    name: str
    generate: Callable[[Sequence[Asked], Decoding], Iterator[list[Generated]]]
    """Yields groups of samples as they are finished, in any order, each sample once."""
    promise: str
    """"" where a sample is the same whichever batch it is generated in; else how it may differ."""
    describe: Callable[[], dict[str, Any]]
    """For the manifest: versions, address, served model; the more after `generate`."""


def too_long(asked: Asked) -> list[Generated]:
    """The samples of a prompt that fills the context: there are none."""
    return [
        Generated(asked.question_id, sample_id, "", (), (), (), "none", TOO_LONG)
        for sample_id in asked.sample_ids
    ]


def sample_seed(seed: int, question_id: str, sample_id: int) -> int:
    """One sample's own seed in [0, 2³¹): more samples or a resumed run change no other's."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample_id}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % 2**31


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """Nats to five digits, as they are stored."""
    return tuple(round(float(value), 5) for value in values)
