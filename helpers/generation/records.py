"""What is asked of a backend, what it gives, and what it promises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

GREEDY = -1  # the `sample_id` of the most likely answer


@dataclass(frozen=True)
class Prompt:
    """What a model is to continue: rendered and tokenised once, and then handed on."""

    id: str
    """The question's id, or another name that no other prompt of the run has."""
    text: str
    """Special tokens of a chat template and all; "" where only the token ids are known."""
    token_ids: tuple[int, ...]
    """As the model reads it, with the begin token where its tokenizer puts one."""


@dataclass(frozen=True)
class Sample:
    """One generated answer, whichever backend generated it."""

    question_id: str
    sample_id: int
    """0 … K − 1, or -1 for the most likely (greedy) answer."""
    text: str
    """Without the end token, cut before a stop text."""
    token_ids: tuple[int, ...]
    """As generated, the end token included, except where `retokenised`."""
    token_logprobs: tuple[float, ...]
    """Log-probability of each token under the untempered distribution, in nats; () if unknown."""
    token_entropies: tuple[float, ...]
    """Entropy of the untempered distribution at each token, in nats; () if unknown."""
    finish_reason: str
    """"stop" (end token or stop text), "length" (cut off), or
    `helpers.generation.records.TOO_LONG`.
    """
    entropy_kind: Literal["full", "top-k", "none"] = "full"
    """Over the full vocabulary; a lower bound from the k most likely tokens; unknown."""
    retokenised: bool = False
    """The ids were made from the text: others may have been generated, and the end token is not
    among them."""
    served_model: str = ""
    """The model's name in an endpoint's responses; "" for a model in this process."""

    @property
    def name(self) -> str:
        """The name of its row in files: "question_id#sample_id"."""
        return f"{self.question_id}#{self.sample_id}"


@dataclass(frozen=True)
class Request:
    """The answers wanted for one prompt."""

    question_id: str
    prompt_ids: tuple[int, ...]
    """What the model is to read."""
    sample_ids: tuple[int, ...]
    """0 … K − 1; -1 asks for the most likely answer."""
    prompt: str = ""
    """The same as text, for an endpoint that takes no token ids; "" where it is not known."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


TOO_LONG = "too-long"
"""The `finish_reason` of a sample that was never begun: its prompt fills the context."""


@dataclass(frozen=True)
class Backend:
    """One way to generate, opened for one config."""

    name: str
    generate: Callable[[Sequence[Request], Decoding], Iterator[list[Sample]]]
    """Yields groups of samples as they are finished, in any order, each sample once."""
    promise: str
    """"" where a sample is the same whichever batch it is generated in; else how it may differ."""
    describe: Callable[[], dict[str, Any]]
    """For the manifest: versions, address, served model; the more after `generate`."""


def too_long(request: Request) -> list[Sample]:
    """The samples of a prompt that fills the context: there are none."""
    return [
        Sample(request.question_id, sample_id, "", (), (), (), TOO_LONG, "none")
        for sample_id in request.sample_ids
    ]


def sample_seed(seed: int, question_id: str, sample_id: int) -> int:
    """One sample's own seed in [0, 2³¹): more samples or a resumed run change no other's."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample_id}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % 2**31


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """Nats to five digits, as they are stored."""
    return tuple(round(float(value), 5) for value in values)
